/* SPDX-License-Identifier: MIT */
#include "cli/reach.h"

#include "cli/end.h"
#include "cli/sandbox.h"
#include "cli/wire-json.h"

void reach_done(reach *r) {
        if (r->status)
                protobuf_c_message_free_unpacked(&r->status->base, NULL);
        rpc_group_free(r->group); /* the connection too */
        host_free(r->host);
        *r = (reach){ 0 };
}

int reach_open(const cli_context *cli, const char *name, reach *ret, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        bool has_shim = false;
        reach r = { 0 };
        int e;

        e = sandbox_check_exists(cli->root, name, reterr);
        if (e == 0)
                e = host_read(cli->root, &r.host, reterr);
        if (e == 0) {
                e = sandbox_has_shim(cli->root, name, &has_shim, NULL);
                if (e < 0)
                        ferry_error_set_errno(reterr, e, "%s", name);
                else if (!has_shim)
                        e = end_explain_no_shim(cli->root, name, reterr);
        }
        if (e == 0)
                e = sandbox_path(cli->root, name, "shim.sock", &path, reterr);
        if (e == 0)
                e = rpc_group_new(&r.group, reterr);
        if (e == 0)
                e = rpc_open(r.group, path, "the shim", &r.shim, reterr);
        if (e == 0)
                e = reach_update(&r, reterr);
        if (e < 0) {
                reach_done(&r);
                return e;
        }
        *ret = r;
        return 0;
}

int reach_update(reach *r, ferry_error *reterr) {
        shim_status *status;
        int e = call_status(r->shim, &status, reterr);

        if (e < 0)
                return e;
        if (r->status)
                protobuf_c_message_free_unpacked(&r->status->base, NULL);
        r->status = status;
        return 0;
}

const char *reach_vm_state(const shim_status *status, char buffer[static 64]) {
        return wire_enum_name(&ferry__shim__v1__vm_state__descriptor, (int)status->vm_state,
                              buffer);
}

const char *reach_owner(const shim_status *status, char buffer[static 64]) {
        return wire_enum_name(&ferry__shim__v1__owner__descriptor, (int)status->owner, buffer);
}
