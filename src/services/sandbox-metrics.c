/* SPDX-License-Identifier: MIT */
#include "services/sandbox-metrics.h"

#include "google/protobuf/timestamp.pb-c.h"
#include "services/task-internal.h"

static void on_figures(int r, const ferry_error *error,
                       const Ferry__Agent__V1__ContainerStatsResponse *s, void *userdata) {
        Containerd__Runtime__Sandbox__V1__SandboxMetricsResponse m =
                CONTAINERD__RUNTIME__SANDBOX__V1__SANDBOX_METRICS_RESPONSE__INIT;
        Containerd__Runtime__Sandbox__V1__Metric metric =
                CONTAINERD__RUNTIME__SANDBOX__V1__METRIC__INIT;
        Google__Protobuf__Timestamp at;
        Google__Protobuf__Any any;
        uint8_t packed[METRICS_SIZE];
        task_call *c = userdata;

        if (r < 0)
                call_fail(c->call, r, error);
        else {
                metrics_pack(s, packed, &any);
                timestamp_fill(&at, wall_usec());
                metric.timestamp = &at;
                metric.id = c->id;
                metric.data = &any;
                m.metrics = &metric;
                (void)containerd_runtime_sandbox_v1_sandbox_sandbox_metrics_reply(c->call, &m);
        }
        task_call_release(c);
}

void sandbox_metrics_answer(ttrpc_call *call, task_service *tasks, const char *id) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_call *c = task_call_hold(tasks, call, id, "");
        guest_processes *guest;
        int r;

        if (!c)
                return;
        /* before its first container nobody may have spoken with the guest */
        if (guest_access_programs(tasks->guest))
                r = guest_access_find(tasks->guest, id, &guest, &error);
        else
                r = guest_access_open(tasks->guest, &guest, &error);
        if (r == 0)
                r = guest_container_stats(guest, "", on_figures, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                task_call_release(c);
        }
}
