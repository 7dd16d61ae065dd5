/* SPDX-License-Identifier: MIT */
#pragma once

/* Containers, by crun. What takes time is a child's (job.h); `done` comes later, never from inside
 * the call. A container's first process is a process of the same id (process.h). */

#include "agent/container-files.h"
#include "agent/job.h"
#include "agent/process.h"

#define CRUN             "/usr/bin/crun"
#define CONTAINERS_MAX   64U
#define CONTAINER_ID_MAX 64U
#define CONTAINER_FOLDER "/run/ferry/containers"
#define CONTAINER_CGROUP "/sys/fs/cgroup/ferry"

typedef struct container {
        struct container *next;
        char id[CONTAINER_ID_MAX + 1];
        bool busy; /* being created or deleted */
} container;

typedef struct container_table {
        container *first;
        size_t n;
        job_table jobs;
        process_table *processes;
        uint32_t next_job;
        /* what was reaped and is not known while a crun is at work: a container's process may end
         * before its pid is told */
        struct {
                pid_t pid;
                int status;
        } strangers[PROCESSES_MAX];
        size_t n_strangers;
} container_table;

typedef struct container_spec {
        const char *id;
        const void *config; /* config.json */
        size_t n_config;
        const char *disk; /* its serial */
        const char *fstype;
        uint64_t upper_bytes;
        const char *upper_disk; /* its serial; "": memory */
        const container_file *files;
        size_t n_files;
        process_spec process; /* id, args (for List), terminal, size, stream */
} container_spec;

/* r: 0, or negative with crun's own words or ours. */
typedef void (*container_done)(int r, const char *text, pid_t pid, void *userdata);

container *container_find(const container_table *t, const char *id);

/* Negative, and `done` is not called: -EINVAL, -EEXIST, -ENFILE, -ENOENT (no such container),
 * -EBUSY, or what files and forks say. */
int container_create(container_table *t, const container_spec *spec, container_done done,
                     void *userdata);
/* Another process in it: OCI's process, JSON. */
int container_exec(container_table *t, const char *id, const process_spec *spec,
                   const void *oci_process, size_t n, container_done done, void *userdata);
/* crun's `verb` with the container's id: start, pause, resume. */
int container_do(container_table *t, const char *id, const char *verb, container_done done,
                 void *userdata);
int container_update(container_table *t, const char *id, const void *resources, size_t n,
                     container_done done, void *userdata);
int container_delete(container_table *t, const char *id, container_done done, void *userdata);

/* What waitpid() said, of any child. */
void container_reaped(container_table *t, pid_t pid, int status);
