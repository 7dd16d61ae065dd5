/* SPDX-License-Identifier: MIT */
/* Create: the bundle's configuration is translated, its root packed and given to the VM as a disk,
 * and the guest makes the container. One step after the other; what fails undoes those before. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/log.h"
#include "migration/sandbox-images.h"
#include "rootfs/layer.h"
#include "services/host-files.h"
#include "services/task-internal.h"

#define IDENTITY_SIZE 4000
#define VM_WAIT_USEC  (60 * USEC_PER_SEC)
#define VM_LOOK_USEC  (10 * USEC_PER_MSEC)
#define SERIAL_FORMAT "%s-%.14s" /* "root-c1", "layer-c1" */

typedef struct creation {
        struct creation *next;
        task_service *service; /* NULL: it has ended */
        task *task;
        ttrpc_call *call;
        oci_config config;
        host_files files;
        rootfs_job *pack;
        layer_job *layer;
        char *root;         /* the disk's file: packed, or what containerd has */
        const char *fstype; /* what is on it */
        sd_event_source *vm_wait;
        uint64_t vm_deadline;
        bool unique;  /* the packed root is for this container only */
        bool is_lost; /* who asked for it has gone */
} creation;

static bool is_wanted(const creation *c) {
        return c->service && !c->is_lost;
}

static void leave_list(creation *c) {
        for (creation **at = &c->service->creations; *at; at = &(*at)->next)
                if (*at == c) {
                        *at = c->next;
                        return;
                }
}

static void creation_free(creation *c) {
        if (c->service)
                leave_list(c);
        oci_config_done(&c->config);
        host_files_done(&c->files);
        rootfs_job_free(c->pack);
        layer_job_free(c->layer);
        sd_event_source_disable_unref(c->vm_wait);
        free(c->root);
        ttrpc_call_set_callbacks(c->call, NULL, NULL, NULL);
        ttrpc_call_unref(c->call);
        free(c);
}

/* ---- undoing, and the end of a container ---- */

static void on_disk_gone(int r, const ferry_error *error, void *userdata) {
        if (r < 0 && r != -ECANCELED)
                log_warning("a container's disk stays: %s", ferry_error_message(error));
}

static void release_disk(const task *t, const task_disk *disk) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (disk->serial[0] && sandbox_vm(t->service->sb) &&
            sandbox_disk_remove(t->service->sb, disk->serial, on_disk_gone, NULL, &error) < 0)
                log_warning("a container's disk stays: %s", ferry_error_message(&error));
        if (disk->file)
                sandbox_remove_disk_file(disk->file);
}

void task_release(task *t) {
        release_disk(t, &t->root);
        release_disk(t, &t->layer);
        task_remove(t);
}

static void give_up(creation *c, int r, const ferry_error *error) {
        call_fail(c->call, r, error);
        if (c->service) {
                task_release(c->task);
                task_service_look(c->service);
        }
        creation_free(c);
}

/* The name is free for another, which may well come before this one is undone. */
static void free_name(task *t) {
        char *other;

        if (asprintf(&other, "%s (given up)", t->guest_id) < 0)
                return;
        free(t->id);
        t->id = other;
}

/* Killed, or it has waited long enough. It would never hear of the container, so that nobody would
 * remove it: it is not made. What QEMU or the guest is asked for just now ends first, where their
 * VM stays. */
static void on_caller_gone(ttrpc_call *call, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        creation *c = userdata;

        c->is_lost = true;
        if (!c->service)
                return;
        task_service_leave(c->service);
        free_name(c->task);
        if (!c->pack && !c->layer && !c->vm_wait)
                return;
        ferry_error_set(&error, FERRY_CANCELLED, -ECANCELED, "who asked for it has gone");
        give_up(c, -ECANCELED, &error);
}

bool task_none_is_wanted(const task_service *s) {
        size_t n = 0;

        for (const creation *c = s->creations; c; c = c->next)
                n += c->is_lost;
        return n == s->n_tasks;
}

/* What QEMU or the guest is asked for still answers, and finds that nobody waits. */
void task_abandon_creations(task_service *s) {
        while (s->creations) {
                creation *c = s->creations;

                s->creations = c->next;
                c->service = NULL;
                c->task = NULL;
                if (c->pack || c->layer || c->vm_wait) /* nobody else has it */
                        creation_free(c);
        }
}

/* ---- the last step: the guest ---- */

static void on_created(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        Containerd__Task__V2__CreateTaskResponse m =
                CONTAINERD__TASK__V2__CREATE_TASK_RESPONSE__INIT;
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        creation *c = userdata;
        task_process *p;

        if (r < 0 || !c->service) {
                give_up(c, r < 0 ? r : -ECANCELED, error);
                return;
        }
        p = task_first(c->task);
        c->task->creating = false;
        if (c->is_lost) {
                task_discard(c->task);
                creation_free(c);
                return;
        }
        p->pid = task_host_pid(c->service);
        r = task_watch(p, &own);
        if (r < 0)
                log_warning("%s", ferry_error_message(&own));
        task_tell_create(c->task);
        m.pid = p->pid;
        (void)containerd_task_v2_task_create_reply(c->call, &m);
        creation_free(c);
}

static int ask_guest(creation *c, ferry_error *reterr) {
        const task_process *p = task_first(c->task);
        const guest_container_spec container = { .config = c->config.text,
                                                 .n_config = strlen(c->config.text),
                                                 .disk = c->task->root.serial,
                                                 .fstype = c->fstype,
                                                 .upper_disk = c->task->layer.serial,
                                                 .files = c->files.items,
                                                 .n_files = c->files.n };
        guest_process_spec spec = { .id = c->task->guest_id,
                                    .terminal = p->terminal,
                                    .create = &container };
        guest_processes *guest;
        int r;

        for (size_t i = 0; i < ELEMENTS(spec.stdio); i++)
                spec.stdio[i] = p->stdio[i];
        r = guest_access_open(c->service->guest, &guest, reterr);
        return r < 0 ? r : guest_exec(guest, &spec, on_created, c, reterr);
}

/* ---- the network of its VM ---- */

static void on_network(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        creation *c = userdata;

        if (r < 0 || !is_wanted(c)) {
                give_up(c, r < 0 ? r : -ECANCELED, error);
                return;
        }
        r = ask_guest(c, &own);
        if (r < 0)
                give_up(c, r, &own);
}

/* ---- its disk ---- */

static void join_network(creation *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        c->task->wants_network = c->config.network;
        r = task_network_join(c->service->network, c->config.network, on_network, c, &error);
        if (r == 1)
                r = ask_guest(c, &error);
        if (r < 0)
                give_up(c, r, &error);
}

static void add_disk(creation *c, task_disk *disk, const char *kind, const char *path,
                     sandbox_done done) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk wanted = { .path = path,
                           .serial = disk->serial,
                           .readonly = disk == &c->task->root,
                           .scsi_id = VM_SCSI_ID_ANY };
        int r;

        snprintf(disk->serial, sizeof(disk->serial), SERIAL_FORMAT, kind, c->task->guest_id);
        r = sandbox_disk_add(c->service->sb, &wanted, done, c, &error);
        if (r < 0) {
                disk->serial[0] = '\0';
                give_up(c, r, &error);
        }
}

/* False: it was not added, and that was the end. */
static bool disk_is_there(creation *c, task_disk *disk, int r, const ferry_error *error) {
        if (r == 0 && is_wanted(c))
                return true;
        if (c->service && r < 0)
                disk->serial[0] = '\0';
        give_up(c, r < 0 ? r : -ECANCELED, error);
        return false;
}

static void on_layer_disk(int r, const ferry_error *error, void *userdata) {
        creation *c = userdata;

        if (disk_is_there(c, c->service ? &c->task->layer : NULL, r, error))
                join_network(c);
}

static void on_root_disk(int r, const ferry_error *error, void *userdata) {
        creation *c = userdata;

        if (!disk_is_there(c, c->service ? &c->task->root : NULL, r, error))
                return;
        if (c->task->layer.file)
                add_disk(c, &c->task->layer, "layer", c->task->layer.file, on_layer_disk);
        else
                join_network(c);
}

/* The VM began to boot when the shim was started, a moment ago. */
static int on_vm_wait(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        creation *c = userdata;

        if (sandbox_get_vm_state(c->service->sb) != SANDBOX_VM_STARTING) {
                c->vm_wait = sd_event_source_disable_unref(c->vm_wait);
                add_disk(c, &c->task->root, "root", c->root, on_root_disk);
        } else if (now_usec() > c->vm_deadline) {
                ferry_error_set(&error, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                "the VM does not start");
                give_up(c, -ETIMEDOUT, &error);
        } else {
                (void)sd_event_source_set_time_relative(source, VM_LOOK_USEC);
                (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        return 0;
}

static void await_vm(creation *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        c->vm_deadline = now_usec() + VM_WAIT_USEC;
        r = sd_event_add_time_relative(c->service->event, &c->vm_wait, CLOCK_MONOTONIC, 0,
                                       TIMER_ACCURACY_USEC, on_vm_wait, c);
        if (r < 0) {
                ferry_error_set_errno(&error, r, "wait for the VM");
                give_up(c, r, &error);
        }
}

static void on_layer(int r, const ferry_error *error, void *userdata) {
        creation *c = userdata;

        if (r < 0) {
                give_up(c, r, error);
                return;
        }
        c->layer = layer_job_free(c->layer);
        await_vm(c);
}

static int make_layer(creation *c, ferry_error *reterr) {
        char serial[VM_CONFIG_SERIAL_MAX + 1];

        snprintf(serial, sizeof(serial), SERIAL_FORMAT, "layer", c->task->guest_id);
        c->task->layer.file = sandbox_disk_path(c->service->sb, serial, false);
        if (!c->task->layer.file)
                return ferry_error_set_errno(reterr, -ENOMEM, "writable layer");
        (void)unlink(c->task->layer.file); /* of a sandbox of this place that has gone */
        return layer_make(c->service->event, c->task->layer.file, c->service->layer_mb, on_layer, c,
                          &c->layer, reterr);
}

/* Then what is written over it. */
static int go_on_with_root(creation *c, ferry_error *reterr) {
        if (!c->root)
                return ferry_error_set_errno(reterr, -ENOMEM, "the container's root");
        if (c->service->layer_mb > 0)
                return make_layer(c, reterr);
        await_vm(c);
        return 0;
}

static void on_packed(int r, const ferry_error *error, const rootfs_image *image, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        creation *c = userdata;

        if (r < 0) {
                give_up(c, r, error);
                return;
        }
        c->root = strdup(image->path);
        c->task->root.use_fd = fcntl(image->use_fd, F_DUPFD_CLOEXEC, 3);
        if (c->unique)
                c->task->root.file = strdup(image->path);
        c->pack = rootfs_job_free(c->pack);
        r = go_on_with_root(c, &own);
        if (r < 0)
                give_up(c, r, &own);
}

/* A folder that is not the same as before has another number or another time of change. */
static void add_folder(char *identity, const char *path) {
        size_t n = strlen(identity);
        struct stat st;

        if (stat(path, &st) == 0)
                (void)snprintf(identity + n, IDENTITY_SIZE - n,
                               "%s %" PRIu64 ":%" PRIu64 " %lld.%ld\n", path, (uint64_t)st.st_dev,
                               (uint64_t)st.st_ino, (long long)st.st_ctim.tv_sec,
                               st.st_ctim.tv_nsec);
}

static void add_folders(char *identity, const char *list) {
        _cleanup_(freep) char *copy = strdup(list);
        char *rest = copy, *path;

        while (rest && (path = strsep(&rest, ":")))
                add_folder(identity, path);
}

static bool folder_is_empty(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && st.st_nlink == 2 && st.st_size <= 4096;
}

/* An overlay of committed layers below an untouched one is known by its layers. Anything else may
 * change from one container to the next, and is packed for each. */
static bool is_shared(const Containerd__Task__V2__CreateTaskRequest *q, char *identity) {
        bool empty = true;

        if (q->n_rootfs != 1 || strcmp(q->rootfs[0]->type, "overlay") != 0)
                return false;
        for (size_t i = 0; i < q->rootfs[0]->n_options; i++) {
                const char *option = q->rootfs[0]->options[i];

                if (strncmp(option, "lowerdir=", 9) == 0)
                        add_folders(identity, option + 9);
                else if (strncmp(option, "upperdir=", 9) == 0)
                        empty = folder_is_empty(option + 9);
        }
        return empty && identity[0] && strlen(identity) < IDENTITY_SIZE - 1;
}

static int make_identity(creation *c, const Containerd__Task__V2__CreateTaskRequest *q,
                         char identity[IDENTITY_SIZE]) {
        uint64_t number[2];

        identity[0] = '\0';
        c->unique = !is_shared(q, identity);
        if (!c->unique)
                return 0;
        if (getrandom(number, sizeof(number), 0) != (ssize_t)sizeof(number))
                return -EIO;
        (void)snprintf(identity, IDENTITY_SIZE, "one container's %016" PRIx64 "%016" PRIx64,
                       number[0], number[1]);
        return 0;
}

static int provide_root(creation *c, const Containerd__Task__V2__CreateTaskRequest *q,
                        ferry_error *reterr) {
        char identity[IDENTITY_SIZE];
        rootfs_mount mounts[ROOTFS_MOUNTS_MAX];
        int r;

        if (q->n_rootfs == 0 || q->n_rootfs > ROOTFS_MOUNTS_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "a root of 1 to %u mounts is needed (the container has no "
                                       "snapshot?)",
                                       ROOTFS_MOUNTS_MAX);
        for (size_t i = 0; i < q->n_rootfs; i++)
                mounts[i] = (rootfs_mount){ .type = q->rootfs[i]->type,
                                            .source = q->rootfs[i]->source,
                                            .target = q->rootfs[i]->target,
                                            .options = (const char *const *)q->rootfs[i]->options,
                                            .n_options = q->rootfs[i]->n_options };
        c->fstype = rootfs_find_disk(mounts, q->n_rootfs);
        if (c->fstype) {
                c->root = strdup(mounts[0].source);
                return go_on_with_root(c, reterr);
        }
        c->fstype = "erofs";
        r = make_identity(c, q, identity);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "random numbers");
        return rootfs_pack(c->service->event, mounts, q->n_rootfs, c->service->cache_dir,
                           c->service->cache_max_mb, identity, on_packed, c, &c->pack, reterr);
}

/* ---- the bundle ---- */

static int read_bundle(creation *c, const char *bundle, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL;
        char root[128], cgroup[64], files[128];
        size_t n;
        int r;

        r = bundle_read(bundle, &text, &n, reterr);
        if (r < 0)
                return r;
        snprintf(root, sizeof(root), GUEST_CONTAINER_ROOT_FORMAT, c->task->guest_id);
        snprintf(cgroup, sizeof(cgroup), GUEST_CONTAINER_CGROUP_FORMAT, c->task->guest_id);
        snprintf(files, sizeof(files), GUEST_CONTAINER_FILES_FORMAT, c->task->guest_id);
        r = oci_translate(text, n,
                          &(oci_options){ .root = root,
                                          .cgroup = cgroup,
                                          .files_folder = files,
                                          .shared_folder = GUEST_SHARED_FOLDER },
                          &c->config, reterr);
        if (r == 0)
                r = host_files_read(c->config.files, c->config.n_files, &c->files, reterr);
        for (size_t i = 0; r == 0 && i < c->files.n_notes; i++)
                log_info("%s: %s", c->task->id, c->files.notes[i]);
        for (size_t i = 0; r == 0 && i < c->config.n_notes; i++)
                log_info("%s: left out: %s", c->task->id, c->config.notes[i]);
        return r;
}

static int check_stdio(const Containerd__Task__V2__CreateTaskRequest *q, ferry_error *reterr) {
        const char *const paths[] = { q->stdin, q->stdout, q->stderr };

        for (size_t i = 0; i < ELEMENTS(paths); i++)
                if (paths[i][0] && paths[i][0] != '/')
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "%s: only FIFOs can be standard streams", paths[i]);
        return 0;
}

/* Which of the source's containers it is; "": the pod's own. NULL: none; a bundle that cannot be
 * read is complained of later. */
static char *read_source(const char *bundle) {
        _cleanup_(freep) char *text = NULL, *kind = NULL, *came_with = NULL;
        char *source;
        size_t n;

        if (bundle_read(bundle, &text, &n, NULL) < 0)
                return NULL;
        source = oci_annotation(text, n, ANNOTATION_SOURCE);
        if (source)
                return source;
        kind = oci_annotation(text, n, ANNOTATION_KIND);
        came_with = oci_annotation(text, n, ANNOTATION_SANDBOX);
        return came_with && kind && strcmp(kind, "sandbox") == 0 ? strdup("") : NULL;
}

void task_on_create(ttrpc_call *call, const Containerd__Task__V2__CreateTaskRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->stdin, q->stdout, q->stderr };
        _cleanup_(freep) char *source = NULL;
        task_service *s = userdata;
        creation *c;
        int r;

        if (q->id[0] == '\0' || q->bundle[0] != '/' || q->checkpoint[0]) {
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
                                      q->checkpoint[0] ? "checkpoints are not restored: migrate"
                                                       : "an id and an absolute bundle are needed");
                return;
        }
        source = read_source(q->bundle);
        if (!source && !task_may_change(s, call))
                return;
        if (task_find(s, q->id)) {
                (void)ttrpc_call_fail(call, TTRPC_ALREADY_EXISTS, "there is a container %.80s here",
                                      q->id);
                return;
        }
        if (s->n_tasks == TASKS_MAX) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "%u containers are here",
                                      TASKS_MAX);
                return;
        }
        r = check_stdio(q, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                return;
        }
        if (source) {
                task_claim(s, call, q, source);
                return;
        }
        c = calloc(1, sizeof(*c));
        if (c) {
                *c = (creation){ .service = s, .call = ttrpc_call_ref(call) };
                ttrpc_call_set_callbacks(call, on_caller_gone, NULL, c);
                c->next = s->creations;
                s->creations = c;
                c->task = task_new(s, q->id, q->bundle);
        }
        if (!c || !c->task || !task_add_process(c->task, "", stdio, q->terminal)) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                if (c && c->task)
                        task_remove(c->task);
                if (c)
                        creation_free(c);
                return;
        }
        r = read_bundle(c, q->bundle, &error);
        if (r == 0)
                r = provide_root(c, q, &error);
        if (r < 0)
                give_up(c, r, &error);
}
