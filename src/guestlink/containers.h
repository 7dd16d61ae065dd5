/* SPDX-License-Identifier: MIT */
#pragma once

/* Containers in the guest. One is made by guest_exec() with a guest_container_spec; its first
 * process is a program of that id, for everything in processes.h. Of these calls, as there:
 * negative means refused, and `done` is not called; else it is called once, later. */

#include "agent.pb-c.h"
#include "guestlink/processes.h"

#define GUEST_CONTAINER_ID_MAX    64U
#define GUEST_CONTAINER_FILES_MAX 1024U
#define GUEST_FILE_PATH_MAX       512U

/* One that the container is given, below the folder of its files. */
typedef struct guest_file {
        const char *path; /* "0", "1/name"; parents come first */
        uint32_t mode;    /* with its type: a file, a folder or a symbolic link */
        uint32_t uid, gid;
        const void *data; /* of a link: where it points */
        size_t n;
        bool shared; /* an empty folder GUEST_SHARED_FOLDER/PATH instead, for all containers */
} guest_file;

typedef struct guest_container_spec {
        const void *config; /* config.json for the guest (proto/agent.proto says what is where) */
        size_t n_config;
        const char *disk; /* the serial of its root's */
        const char *fstype;
        uint64_t upper_bytes;   /* 0: half of the guest's memory */
        const char *upper_disk; /* the serial of the one to write to, with ext4; NULL: memory */
        const guest_file *files;
        size_t n_files;
} guest_container_spec;

/* What a guest has of one; linux.cgroupsPath, root.path, the folder of its files. */
#define GUEST_CONTAINER_CGROUP_FORMAT "/ferry/%s"
#define GUEST_CONTAINER_ROOT_FORMAT   "/run/ferry/containers/%s/rootfs"
#define GUEST_CONTAINER_FILES_FORMAT  "/run/ferry/containers/%s/files"
#define GUEST_SHARED_FOLDER           "/run/ferry/shared"

typedef void (*guest_container_done)(int r, const ferry_error *error, void *userdata);
/* The guest's pids; borrowed. */
typedef void (*guest_pids_done)(int r, const ferry_error *error, const uint32_t *pids, size_t n,
                                void *userdata);
/* NULL when r is negative; borrowed. */
typedef void (*guest_stats_done)(int r, const ferry_error *error,
                                 const Ferry__Agent__V1__ContainerStatsResponse *stats,
                                 void *userdata);

int guest_container_start(guest_processes *g, const char *id, guest_container_done done,
                          void *userdata, ferry_error *reterr);
int guest_container_pause(guest_processes *g, const char *id, guest_container_done done,
                          void *userdata, ferry_error *reterr);
int guest_container_resume(guest_processes *g, const char *id, guest_container_done done,
                           void *userdata, ferry_error *reterr);
/* Kills what is left in it. Its first process is still to be deleted by guest_delete(). That there
 * is none is a success. */
int guest_container_delete(guest_processes *g, const char *id, guest_container_done done,
                           void *userdata, ferry_error *reterr);
/* OCI's linux.resources, JSON. */
int guest_container_update(guest_processes *g, const char *id, const void *resources, size_t n,
                           guest_container_done done, void *userdata, ferry_error *reterr);
int guest_container_pids(guest_processes *g, const char *id, guest_pids_done done, void *userdata,
                         ferry_error *reterr);
/* `id` "": of all of them together. */
int guest_container_stats(guest_processes *g, const char *id, guest_stats_done done, void *userdata,
                          ferry_error *reterr);
