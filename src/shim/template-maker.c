/* SPDX-License-Identifier: MIT */
#include "shim/template-maker.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "agent.ttrpc.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "guestlink/link.h"
#include "shim/containerd-config.h"
#include "vm/probe.h"
#include "vm/template-pipe.h"
#include "vm/template.h"
#include "vm/vm.h"

/* The VM's folder, in the template's: there is one maker at a time. */
#define PLACE     ".making"
#define BOOT_USEC (300 * USEC_PER_SEC)
#define END_USEC  (10 * USEC_PER_SEC)
/* For what the guest does in the background once its agent is there: nobody would want to inherit
 * it half done. */
#define SETTLE_USEC (300 * USEC_PER_MSEC)
#define ROOM        (64ULL << 20) /* beside the memory's size */
/* What is cleared takes room in this host's memory meanwhile: a large guest's boot did not leave
 * something everywhere. */
#define CLEAR_MAX (512ULL << 20)

typedef struct maker {
        sd_event *event;
        vm_config *config;
        char *folder, *place;
        const char *probe_cache;
        char *files; /* which they were before */
        int folder_fd;
        ferry_vm *vm;
        guest_link *link;
        template_pipe *pipe;
        sd_event_source *timer;
        bool is_taken, is_complete; /* the devices: all is here, and QEMU says so too */
        const void *devices;        /* the pipe's */
        size_t n_devices;
        bool done, exited;
        ferry_error error;
        int r;
} maker;

static void finish(maker *m, int r) {
        if (m->done)
                return;
        m->done = true;
        m->r = r;
}

static void fail(maker *m, int r, const ferry_error *error) {
        if (!m->done)
                ferry_error_set(&m->error, error->code, r, "%s", ferry_error_message(error));
        finish(m, r);
}

static void fail_errno(maker *m, int r, const char *what) {
        if (!m->done)
                ferry_error_set_errno(&m->error, r, "%s", what);
        finish(m, r);
}

/* The key, whatever accelerator it will be: to see that no file is another one afterwards. */
static int look_at_files(const vm_config *config, char **ret, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *any = NULL;
        int r;

        r = vm_config_dup(config, &any);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "template");
        any->accelerator = VM_ACCELERATOR_TCG;
        r = vm_probe_apply(NULL, any, reterr);
        return r < 0 ? r : template_key(any, ret, reterr);
}

/* ---- writing it down ---- */

static void write_down(maker *m) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *key = NULL, *files = NULL;
        int r;

        r = template_key(vm_get_config(m->vm), &key, &error);
        if (r == 0)
                r = look_at_files(m->config, &files, &error);
        if (r == 0 && strcmp(files, m->files) != 0)
                r = ferry_error_set(&error, FERRY_ABORTED, -ESTALE,
                                    "kernel, image, QEMU or ferry were replaced meanwhile");
        if (r == 0)
                r = template_save(m->folder_fd, key, vm_get_memory_fd(m->vm),
                                  vm_config_memory_bytes(vm_get_config(m->vm)), m->devices,
                                  m->n_devices, &error);
        if (r < 0)
                fail(m, r, &error);
        else
                finish(m, 0);
}

static void on_taken(int r, const void *data, size_t n, void *userdata) {
        maker *m = userdata;

        if (r < 0) {
                fail_errno(m, r, "the devices' state");
                return;
        }
        m->is_taken = true;
        m->devices = data;
        m->n_devices = n;
        if (m->is_complete)
                write_down(m);
}

static void on_migration(ferry_vm *v, vm_migration_status status, uint64_t usec, void *userdata) {
        maker *m = userdata;

        if (status == VM_MIGRATION_FAILED)
                fail_errno(m, -EREMOTEIO, "QEMU does not give the devices' state");
        if (status != VM_MIGRATION_COMPLETED)
                return;
        m->is_complete = true;
        if (m->is_taken)
                write_down(m);
}

/* False: that was the end. */
static bool went_well(maker *m, int r, const ferry_error *error) {
        if (r < 0)
                fail(m, r, error);
        return r == 0 && !m->done;
}

static void on_going(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        (void)went_well(userdata, r, error);
}

static void on_apart(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        const vm_migrate_options options = { .downtime_limit_msec = 300 };
        maker *m = userdata;
        int fd;

        if (!went_well(m, r, error))
                return;
        r = template_pipe_take(m->event, on_taken, m, &fd, &m->pipe);
        if (r == 0)
                r = vm_migrate_out(v, fd, &options, on_going, m);
        if (r < 0)
                fail_errno(m, r, "ask for the devices' state");
}

static void on_stopped(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        maker *m = userdata;

        if (!went_well(m, r, error))
                return;
        r = vm_set_memory_apart(v, true, on_apart, m);
        if (r < 0)
                fail_errno(m, r, "ask for the devices' state");
}

/* ---- until its agent is there ---- */

static int on_settled(sd_event_source *source, uint64_t usec, void *userdata) {
        maker *m = userdata;
        int r;

        r = vm_stop(m->vm, on_stopped, m);
        if (r < 0)
                fail_errno(m, r, "stop the guest");
        return 0;
}

/* Nobody is to be at the other end of the guest's ports. */
static int on_answered(sd_event_source *source, uint64_t usec, void *userdata) {
        maker *m = userdata;
        int r;

        m->link = guest_link_free(m->link);
        m->timer = sd_event_source_disable_unref(m->timer);
        r = sd_event_add_time_relative(m->event, &m->timer, CLOCK_MONOTONIC, SETTLE_USEC,
                                       TIMER_ACCURACY_USEC, on_settled, m);
        if (r < 0)
                fail_errno(m, r, "timer");
        return 0;
}

static void on_cleared(int r, const ttrpc_status *status,
                       const Ferry__Agent__V1__ClearFreeResponse *response, void *userdata) {
        maker *m = userdata;

        if (m->done)
                return;
        if (r == 0 && status && status->code != TTRPC_OK)
                r = -EREMOTEIO;
        if (r == 0)
                r = sd_event_add_time_relative(m->event, &m->timer, CLOCK_MONOTONIC, 0,
                                               TIMER_ACCURACY_USEC, on_answered, m);
        if (r < 0)
                fail_errno(m, r, "the guest's agent does not answer");
}

/* The first call, and the only one: Info, for one, would have the kernel choose its boot id, which
 * each copy is to choose for itself. */
static void on_running(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        Ferry__Agent__V1__ClearFreeRequest q = FERRY__AGENT__V1__CLEAR_FREE_REQUEST__INIT;
        const ttrpc_call_options options = { .timeout_usec = BOOT_USEC };
        maker *m = userdata;

        if (!went_well(m, r, error))
                return;
        q.at_most = CLEAR_MAX;
        r = guest_link_new(m->event, m->place, &m->link);
        if (r == 0)
                r = ferry_agent_v1_agent_clear_free_start(guest_link_client(m->link), &q, &options,
                                                          on_cleared, m, NULL);
        if (r < 0)
                fail_errno(m, r, "ask the guest's agent");
}

static void on_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        maker *m = userdata;

        if (!went_well(m, r, error))
                return;
        r = vm_cont_as_it_is(v, on_running, m);
        if (r < 0)
                fail_errno(m, r, "boot it");
}

static void on_exit_seen(ferry_vm *v, const char *reason, void *userdata) {
        maker *m = userdata;

        m->exited = true;
        if (!m->done)
                ferry_error_set(&m->error, FERRY_FAILED_PRECONDITION, -ECHILD, "%s", reason);
        finish(m, -ECHILD);
}

static const vm_handlers handlers = { .on_migration = on_migration, .on_exit = on_exit_seen };

/* ---- before and after ---- */

static void clear_place(const maker *m) {
        _cleanup_(closep) int fd =
                openat(m->folder_fd, PLACE, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return;
        folder_empty(fd);
        (void)unlinkat(m->folder_fd, PLACE, AT_REMOVEDIR);
}

static int check_room(const maker *m, ferry_error *reterr) {
        uint64_t wanted = ((uint64_t)m->config->memory_mb << 20) + ROOM;
        struct statvfs fs;

        if (fstatvfs(m->folder_fd, &fs) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", m->folder);
        if ((uint64_t)fs.f_bavail * fs.f_frsize < wanted)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                       "%s: there is no room for %u MiB of memory", m->folder,
                                       m->config->memory_mb);
        return 0;
}

/* A guest like the ones to come, and nobody's. */
static int strip(vm_config *config, ferry_error *reterr) {
        if (config->n_disks > 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EINVAL,
                                       "there is no template of a VM that boots with disks");
        config->tap[0] = config->bridge[0] = '\0';
        return config->accelerator == VM_ACCELERATOR_TCG ? vm_probe_apply(NULL, config, reterr) : 0;
}

static int boot(maker *m, ferry_error *reterr) {
        const vm_options options = { .config = m->config,
                                     .state_dir = m->place,
                                     .bridge = "",
                                     .own_network = m->config->has_network,
                                     .probe_cache = m->probe_cache,
                                     .ends_with_us = true };

        if (mkdirat(m->folder_fd, PLACE, 0700) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", m->place);
        return vm_start(m->event, &options, &handlers, on_ready, m, &m->vm, reterr);
}

static void end_vm(maker *m) {
        uint64_t until = now_usec() + END_USEC;

        m->link = guest_link_free(m->link);
        m->pipe = template_pipe_free(m->pipe);
        m->timer = sd_event_source_disable_unref(m->timer);
        /* one that is not ready yet ends with vm_close() */
        if (m->vm && vm_takes_orders(m->vm) && vm_kill(m->vm) == 0)
                while (!m->exited && now_usec() < until &&
                       sd_event_run(m->event, until - now_usec()) >= 0)
                        ;
        m->vm = vm_close(m->vm);
}

/* One that was made while this process began, say. */
static bool is_made(const maker *m) {
        _cleanup_(freep) char *key = NULL;
        _cleanup_(closep) int fd = -EBADF;

        return m->config->cpu && template_key(m->config, &key, NULL) == 0 &&
               template_open(m->folder_fd, key, &fd, NULL) == 0 && template_check(fd, NULL) == 0;
}

/* 1: there is nothing to do. */
static int prepare(maker *m, ferry_error *reterr) {
        int r;

        r = strip(m->config, reterr);
        if (r == 0)
                r = template_folder_open(m->folder, true, &m->folder_fd, reterr);
        if (r < 0)
                return r;
        if (flock(m->folder_fd, LOCK_EX | LOCK_NB) < 0) {
                log_info("another process makes the template of %s", m->folder);
                return 1;
        }
        clear_place(m); /* of one that was killed */
        if (is_made(m)) {
                log_info("%s has a template that fits", m->folder);
                return 1;
        }
        r = look_at_files(m->config, &m->files, reterr);
        if (r == 0)
                r = check_room(m, reterr);
        return r;
}

static int make(maker *m, ferry_error *reterr) {
        int r;

        r = sd_event_new(&m->event);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "event loop");
        r = boot(m, reterr);
        while (r >= 0 && !m->done)
                r = sd_event_run(m->event, UINT64_MAX);
        if (m->done) {
                r = m->r;
                ferry_error_move(reterr, &m->error);
        } else if (r < 0 && (!reterr || reterr->code == FERRY_OK))
                ferry_error_set_errno(reterr, r, "event loop");
        end_vm(m);
        clear_place(m);
        return r;
}

static void done(maker *m) {
        vm_config_free(m->config);
        sd_event_unref(m->event);
        ferry_error_done(&m->error);
        fd_close(m->folder_fd); /* and with it the lock */
        free(m->files);
        free(m->folder);
        free(m->place);
}

/* From --config and --template-dir, or those that containerd's containers of a namespace have. */
static int configure(maker *m, const shim_options *options, ferry_error *reterr) {
        _cleanup_(containerd_config_freep) containerd_config *host = NULL;
        _cleanup_(freep) char *text = NULL;
        int r;

        if (options->config) {
                r = vm_config_read(options->config, &m->config, reterr);
                m->folder = r < 0 ? NULL : strdup(options->template_dir);
        } else {
                r = containerd_config_read(&host, reterr);
                if (r == 0)
                        r = containerd_config_vm(host, &text, reterr);
                if (r == 0)
                        r = vm_config_parse(text, strlen(text), &m->config, reterr);
                m->folder = r < 0 ? NULL : containerd_config_templates(host, options->namespace);
        }
        if (r < 0)
                return r;
        if (!m->folder || asprintf(&m->place, "%s/" PLACE, m->folder) < 0) {
                m->place = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "template");
        }
        return 0;
}

int template_maker_run(const shim_options *options, ferry_error *reterr) {
        maker m = { .probe_cache = options->probe_cache, .folder_fd = -EBADF };
        uint64_t began = now_usec();
        int r;

        r = configure(&m, options, reterr);
        if (r == 0)
                r = prepare(&m, reterr);
        if (r == 0)
                r = make(&m, reterr);
        if (r == 0)
                log_info("made a template in %s in %llu ms", m.folder,
                         (unsigned long long)((now_usec() - began) / USEC_PER_MSEC));
        else if (r < 0)
                log_error("no template was made: %s", ferry_error_message(reterr));
        done(&m);
        return r < 0 ? r : 0;
}
