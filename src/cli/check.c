/* SPDX-License-Identifier: MIT */
#include "cli/check.h"

#include <unistd.h>

#include "cli/calls.h"
#include "cli/format.h"
#include "cli/outcome.h"
#include "cli/sandbox.h"
#include "cli/wire-json.h"

static void against(check *c, const char *where, const char *reason) {
        (void)json_array_append_new(c->reasons,
                                    json_pack("{s:s, s:s}", "where", where, "reason", reason));
}

static void ask_source(check *c, rpc_group *group, peer *from, const InitializeOptions *options,
                       const link_figures *link) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        rpc *shim = NULL;
        int r;

        r = from->operations->open(from, group, c->name, false, "the source's shim", &shim, &error);
        if (r == 0)
                r = call_check(shim, options, link->bytes_per_second, link->round_trip_usec,
                               &c->source, &error);
        if (r < 0) {
                against(c, "source", ferry_error_message(&error));
                return;
        }
        for (size_t i = 0; i < c->source->n_reasons; i++)
                against(c, "source", c->source->reasons[i]);
        c->prediction = c->source->prediction;
}

static void ask_target(check *c, peer *to) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *folder = NULL;
        json_t *reasons = NULL, *reason;
        size_t i;

        if (sandbox_path(to->root, c->name, NULL, &folder, NULL) == 0 && access(folder, F_OK) == 0)
                against(c, "target", "there is a sandbox of that name already");
        if (!c->source || c->source->state.len == 0)
                return;
        if (to->operations->check_incoming(to, c->source->state.data, c->source->state.len,
                                           &reasons, &error) < 0) {
                against(c, "target", ferry_error_message(&error));
                return;
        }
        json_array_foreach(reasons, i, reason) if (json_is_string(reason))
                against(c, "target", json_string_value(reason));
        json_decref(reasons);
}

int check_run(check *c, rpc_group *group, peer *from, peer *to, const char *name,
              const InitializeOptions *options, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        link_figures link = { 0 };

        *c = (check){ .name = name, .from = from, .to = to, .reasons = json_array() };
        if (!c->reasons)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        if (outcome_is_same_place(from->root, to->root))
                against(c, "target", "it is the root that the sandbox is in");
        if (to->operations->probe_link(to, from, &link, &error) < 0)
                against(c, "link", ferry_error_message(&error));
        ask_source(c, group, from, options, &link);
        ask_target(c, to);
        return 0;
}

void check_done(check *c) {
        json_decref(c->reasons);
        if (c->source)
                protobuf_c_message_free_unpacked(&c->source->base, NULL);
        *c = (check){ 0 };
}

bool check_is_good(const check *c) {
        return json_array_size(c->reasons) == 0;
}

json_t *check_to_json(const check *c) {
        json_t *prediction = NULL;

        if (!c->prediction || wire_to_json(&c->prediction->base, &prediction) < 0)
                prediction = json_null();
        return json_pack("{s:s, s:s, s:s, s:b, s:O, s:o}", "name", c->name, "from", c->from->name,
                         "to", c->to->name, "can_go", (int)check_is_good(c), "reasons", c->reasons,
                         "prediction", prediction);
}

void check_print_reasons(const check *c, FILE *file) {
        const char *where, *reason;
        json_t *entry;
        size_t i;

        json_array_foreach(c->reasons, i, entry) if (json_unpack(entry, "{s:s, s:s}", "where",
                                                                 &where, "reason", &reason) == 0)
                fprintf(file, "  %-7s %s\n", where, reason);
}

void check_print_prediction(const Ferry__Shim__V1__Prediction *p, FILE *file) {
        char a[FORMAT_MAX], b[FORMAT_MAX];

        if (p->cancelled)
                fprintf(file,
                        "predicted: it is cancelled after %u passes: the blackout would be too "
                        "long\n",
                        p->passes);
        else {
                fprintf(file, "predicted\n  copy      %s, %s in %u passes%s\n",
                        format_duration(p->copy_usec, a), format_bytes(p->bytes, b), p->passes,
                        p->postcopy ? ", then post-copy"
                        : p->forced ? ", then forced"
                                    : "");
                fprintf(file, "  blackout  %s\n", format_duration(p->blackout_usec, a));
                if (p->throttle_percentage > 0)
                        fprintf(file, "  throttle  up to %u %%\n", p->throttle_percentage);
        }
        fprintf(file, "measured\n  guest     writes %s/s",
                format_bytes(p->dirty_bytes_per_second, a));
        fprintf(file, " over %s; %s are not zero\n", format_bytes(p->hot_bytes, a),
                format_bytes(p->filled_bytes, b));
        fprintf(file, "  link      %s/s, round trip %s\n", format_bytes(p->bytes_per_second, a),
                format_duration(p->round_trip_usec, b));
}
