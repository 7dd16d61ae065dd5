/* SPDX-License-Identifier: MIT */
/* The switchover, at the source: takes what QEMU says to the policy, and its orders to QEMU. */
#include "migration/session-internal.h"

/* Of a blackout, beside the memory: device state, the handover, `cont`. */
#define OVERHEAD_MS 10U

void session_policy_init(session *s) {
        const migration_options *o = &s->options;

        policy_init(&s->policy, &(policy_options){
                                        .target_ms = o->blackout_target_ms,
                                        .target_passes = o->target_passes,
                                        .maximum_passes = o->maximum_passes,
                                        .overhead_ms = OVERHEAD_MS,
                                        .skip_throttling = true,
                                });
}

static uint64_t known(uint64_t value) {
        return value == VM_ABSENT ? 0 : value;
}

static unsigned long long kib(uint64_t bytes) {
        return bytes / 1024;
}

static void note_pass(session *s, const policy_pass *pass) {
        s->report.passes = pass->pass;
        log_info(
                "session %s: pass %u: %llu ms, sent %llu KiB, left %llu KiB, dirtied %llu KiB/s at "
                "%llu KiB/s, throttle %u %%, limit %u ms, expected blackout %u ms",
                s->id, pass->pass, (pass->end_usec - pass->begin_usec) / USEC_PER_MSEC,
                kib(pass->sent), kib(pass->remaining), kib(pass->dirty_rate), kib(pass->bandwidth),
                pass->throttle, pass->limit_ms, pass->expected_blackout_ms);
        session_trace_pass(s, pass);
}

static void carry_out(session *s, const policy_orders *orders) {
        if (orders->set_limit)
                (void)vm_set_downtime_limit(sandbox_vm(s->sb), orders->limit_ms,
                                            session_ignore_done, s);
        if (orders->set_limit && orders->forced) {
                log_info("session %s: no pass is left: the switchover is forced", s->id);
                session_trace_order(s, "forced");
        }
}

static void on_look(ferry_vm *v, int r, const ferry_error *error, const vm_migration_info *info,
                    void *userdata) {
        session *s = userdata;
        policy_sample sample;
        policy_orders orders;

        if (r < 0 || !session_is_source(s) || info->ram_total == VM_ABSENT)
                return;
        sample = (policy_sample){
                .usec = s->look_usec,
                .total = info->ram_total,
                .processed = known(info->ram_processed),
                .remaining = known(info->ram_remaining),
                .sent = known(info->ram_transferred),
        };
        /* the guest may stand, and be gone, before the answer comes: it was the last pass */
        if (s->stopped_usec || s->state != MIG_S_COPYING)
                policy_stopped(&s->policy, &sample, &orders);
        else
                policy_step(&s->policy, &sample, &orders);
        if (orders.pass_ended)
                note_pass(s, &orders.pass);
        if (s->stopped_usec || s->state != MIG_S_COPYING)
                return;
        carry_out(s, &orders);
        session_publish_progress(s, info);
}

void session_ask_policy(session *s, uint64_t pass, uint64_t usec) {
        s->look_usec = usec;
        if (pass == 1)
                policy_start(&s->policy, usec);
        else
                (void)vm_query_migrate(sandbox_vm(s->sb), on_look, s);
}
