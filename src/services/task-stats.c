/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "metrics.pb-c.h"
#include "services/task-internal.h"

#define METRICS_TYPE "io.containerd.cgroups.v2.Metrics"

static uint64_t line(const Ferry__Agent__V1__ContainerStatsResponse *s, const char *name) {
        for (size_t i = 0; i < s->n_memory; i++)
                if (strcmp(s->memory[i]->name, name) == 0)
                        return s->memory[i]->value;
        return 0;
}

void metrics_pack(const Ferry__Agent__V1__ContainerStatsResponse *s,
                  uint8_t packed[static METRICS_SIZE], Google__Protobuf__Any *ret) {
        Io__Containerd__Cgroups__V2__MemoryEvents events =
                IO__CONTAINERD__CGROUPS__V2__MEMORY_EVENTS__INIT;
        Io__Containerd__Cgroups__V2__MemoryStat memory =
                IO__CONTAINERD__CGROUPS__V2__MEMORY_STAT__INIT;
        Io__Containerd__Cgroups__V2__PidsStat pids = IO__CONTAINERD__CGROUPS__V2__PIDS_STAT__INIT;
        Io__Containerd__Cgroups__V2__CPUStat cpu = IO__CONTAINERD__CGROUPS__V2__CPUSTAT__INIT;
        Io__Containerd__Cgroups__V2__Metrics all = IO__CONTAINERD__CGROUPS__V2__METRICS__INIT;

        pids.current = s->pids;
        pids.limit = s->pids_limit;
        cpu.usage_usec = s->cpu_usec;
        cpu.user_usec = s->cpu_user_usec;
        cpu.system_usec = s->cpu_system_usec;
        cpu.nr_periods = s->cpu_periods;
        cpu.nr_throttled = s->cpu_throttled_periods;
        cpu.throttled_usec = s->cpu_throttled_usec;
        memory.anon = line(s, "anon");
        memory.file = line(s, "file");
        memory.kernel_stack = line(s, "kernel_stack");
        memory.slab = line(s, "slab");
        memory.sock = line(s, "sock");
        memory.shmem = line(s, "shmem");
        memory.file_mapped = line(s, "file_mapped");
        memory.file_dirty = line(s, "file_dirty");
        memory.file_writeback = line(s, "file_writeback");
        memory.anon_thp = line(s, "anon_thp");
        memory.inactive_anon = line(s, "inactive_anon");
        memory.active_anon = line(s, "active_anon");
        memory.inactive_file = line(s, "inactive_file");
        memory.active_file = line(s, "active_file");
        memory.unevictable = line(s, "unevictable");
        memory.slab_reclaimable = line(s, "slab_reclaimable");
        memory.slab_unreclaimable = line(s, "slab_unreclaimable");
        memory.pgfault = line(s, "pgfault");
        memory.pgmajfault = line(s, "pgmajfault");
        memory.usage = s->memory_bytes;
        memory.usage_limit = s->memory_limit_bytes;
        memory.swap_usage = s->swap_bytes;
        memory.swap_limit = s->swap_limit_bytes;
        events.oom_kill = s->oom_kills;
        all.pids = &pids;
        all.cpu = &cpu;
        all.memory = &memory;
        all.memory_events = &events;
        google__protobuf__any__init(ret);
        ret->type_url = (char *)METRICS_TYPE;
        ret->value.len = io__containerd__cgroups__v2__metrics__get_packed_size(&all);
        ret->value.data = packed;
        (void)io__containerd__cgroups__v2__metrics__pack(&all, packed);
}

static void on_figures(int r, const ferry_error *error,
                       const Ferry__Agent__V1__ContainerStatsResponse *s, void *userdata) {
        Containerd__Task__V2__StatsResponse m = CONTAINERD__TASK__V2__STATS_RESPONSE__INIT;
        Google__Protobuf__Any any;
        uint8_t packed[METRICS_SIZE];
        task_call *c = userdata;

        if (r < 0)
                call_fail(c->call, r, error);
        else {
                metrics_pack(s, packed, &any);
                m.stats = &any;
                (void)containerd_task_v2_task_stats_reply(c->call, &m);
        }
        task_call_release(c);
}

void task_on_stats(ttrpc_call *call, const Containerd__Task__V2__StatsRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p)
                return;
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        r = guest_container_stats(guest, p->guest_id, on_figures, c, &error);
        task_call_asked(c, r, &error);
}
