/* SPDX-License-Identifier: MIT */
#include "cli/find.h"

#include <string.h>

#include "cli/calls.h"
#include "cli/sandbox.h"

#define NO_VM FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE

typedef enum presence {
        ABSENT,
        MOVED, /* what is here is the record of one that runs elsewhere */
        HERE,
} presence;

static presence find_container(const shim_status *status, const char *id) {
        const Ferry__Shim__V1__Containerd *c = status->containerd;

        if (c && strcmp(c->pod_id, id) == 0 && status->vm_state != NO_VM)
                return HERE;
        for (size_t i = 0; c && i < c->n_containers; i++)
                if (strcmp(c->containers[i]->id, id) == 0)
                        return c->containers[i]->migrated ? MOVED : HERE;
        return ABSENT;
}

/* NULL: it does not answer. */
static shim_status *ask(const char *root, rpc_group *group, const char *name) {
        _cleanup_(rpc_closep) rpc *shim = NULL;
        _cleanup_(freep) char *path = NULL;
        shim_status *status = NULL;
        bool has_shim = false;

        if (sandbox_has_shim(root, name, &has_shim, NULL) < 0 || !has_shim ||
            sandbox_path(root, name, "shim.sock", &path, NULL) < 0 ||
            rpc_open(group, path, "the shim", &shim, NULL) < 0 ||
            call_status(shim, &status, NULL) < 0)
                return NULL;
        return status;
}

/* One that does not answer has none that could be found. */
static presence look_at(const char *root, rpc_group *group, const char *name, const char *id) {
        shim_status *status = ask(root, group, name);
        presence found = status ? find_container(status, id) : ABSENT;

        if (status)
                protobuf_c_message_free_unpacked(&status->base, NULL);
        return found;
}

bool find_is_awaiting(const char *root, rpc_group *group, const char *name,
                      const char *session_id) {
        shim_status *status = ask(root, group, name);
        bool found = status && strcmp(status->awaited_session, session_id) == 0;

        if (status)
                protobuf_c_message_free_unpacked(&status->base, NULL);
        return found;
}

int find_sandbox(const char *root, rpc_group *group, const char *word, char **ret,
                 ferry_error *reterr) {
        const char *found = NULL, *left = NULL;
        sandbox_names names;
        int r = 0;

        if (sandbox_check_exists(root, word, NULL) < 0 && sandbox_list(root, &names, NULL) == 0) {
                for (size_t i = 0; i < names.n && r == 0; i++) {
                        presence seen = look_at(root, group, names.names[i], word);

                        if (seen == MOVED)
                                left = names.names[i];
                        if (seen != HERE)
                                continue;
                        if (found)
                                r = ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EEXIST,
                                                    "container %s is in sandbox %s and in %s (of "
                                                    "two namespaces of containerd?): name the "
                                                    "sandbox",
                                                    word, found, names.names[i]);
                        found = names.names[i];
                }
                if (r == 0 && left && !found)
                        r = ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                            "container %s has moved away; `ferry --root %s recover "
                                            "%s` removes what is left of it",
                                            word, root, left);
                *ret = r == 0 ? strdup(found ? found : word) : NULL;
                sandbox_names_done(&names);
        } else
                *ret = strdup(word);
        if (r == 0 && !*ret)
                r = ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
        return r;
}
