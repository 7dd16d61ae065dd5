/* SPDX-License-Identifier: MIT */
#include "migration/sandbox-restore.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "vm/files.h"
#include "vm/probe.h"
#include "vm/record.h"
#include "vm/template-pipe.h"
#include "vm/template.h"

/* There while the guest is not fit to be used. */
#define LIMIT_USEC (20 * USEC_PER_SEC) /* then a boot is faster */

typedef enum phase {
        PHASE_PROBING, /* which accelerator */
        PHASE_LOADING, /* QEMU starts, the memory comes */
        PHASE_DEVICES,
        PHASE_RENEWING, /* the guest runs */
        PHASE_ENDING,   /* it failed, and QEMU is on its way out */
        PHASE_DONE,
} phase;

struct sandbox_restore {
        sandbox_restore_options o;
        vm_config *config; /* accelerator and CPU resolved once it is not PROBING */
        char *folder;
        phase phase;
        uint64_t began_usec;
        bool wanted;
        vm_probe *probe;
        int folder_fd, template_fd; /* template_fd: while it may turn out to be bad */
        template_load *load;
        bool is_ready, is_loaded; /* QEMU, and the memory */
        template_pipe *pipe;
        sd_event_source *limit, *later;
};

sandbox_restore *sandbox_restore_free(sandbox_restore *r) {
        if (!r)
                return NULL;
        vm_probe_free(r->probe);
        template_load_free(r->load);
        template_pipe_free(r->pipe);
        sd_event_source_disable_unref(r->limit);
        sd_event_source_disable_unref(r->later);
        fd_close(r->folder_fd);
        fd_close(r->template_fd);
        vm_config_free(r->config);
        free(r->folder);
        free(r);
        return NULL;
}

vm_config *sandbox_restore_take_config(sandbox_restore *r) {
        return TAKE_PTR(r->config);
}

static void tell_step(const sandbox_restore *r, const char *what) {
        log_debug("sandbox %s: %s after %llu ms", sandbox_id(r->o.sb), what,
                  (unsigned long long)((now_usec() - r->began_usec) / USEC_PER_MSEC));
}

static bool is_same_file(int a, int folder) {
        struct stat one, two;

        return fstat(a, &one) == 0 &&
               fstatat(folder, TEMPLATE_FILE, &two, AT_SYMLINK_NOFOLLOW) == 0 &&
               one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

void sandbox_restore_unmark(int dir_fd) {
        (void)unlinkat(dir_fd, SANDBOX_RESTORE_MARK, 0);
}

/* The last thing that happens to `r`. */
static void end(sandbox_restore *r, bool restored) {
        r->phase = PHASE_DONE;
        sandbox_restore_unmark(sandbox_dir_fd(r->o.sb));
        r->o.done(r->o.sb, restored, r->wanted);
}

/* `blamed`: the template is no good. */
static void fail_by(sandbox_restore *r, bool blamed, const char *why) {
        ferry_vm *v = sandbox_vm(r->o.sb);

        if (r->phase == PHASE_ENDING || r->phase == PHASE_DONE)
                return;
        log_warning("sandbox %s: no start from the template in %s, it boots instead: %s",
                    sandbox_id(r->o.sb), r->folder, why);
        /* It was for this VM, and is of no use to it: nobody shall try it again. */
        if (blamed && is_same_file(r->template_fd, r->folder_fd)) {
                (void)unlinkat(r->folder_fd, TEMPLATE_FILE, 0);
                r->wanted = true;
        }
        r->phase = PHASE_ENDING;
        r->load = template_load_free(r->load);
        if (v && r->is_ready && vm_kill(v) == 0)
                return; /* sandbox_restore_on_exit() is next */
        if (v)
                r->o.drop(r->o.sb);
        end(r, false);
}

/* From the devices on it is the template that decides. */
static void fail(sandbox_restore *r, const char *why) {
        fail_by(r, r->phase >= PHASE_DEVICES, why);
}

static void fail_with(sandbox_restore *r, const ferry_error *error) {
        fail(r, ferry_error_message(error));
}

static void fail_errno(sandbox_restore *r, int k, const char *what) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set_errno(&error, k, "%s", what);
        fail_with(r, &error);
}

void sandbox_restore_on_exit(sandbox_restore *r, const char *reason) {
        if (r->phase != PHASE_ENDING)
                fail(r, reason); /* and there is nothing left to kill */
        if (r->phase == PHASE_ENDING) {
                r->o.drop(r->o.sb);
                end(r, false);
        }
}

static int on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        fail_by(userdata, true, "it took too long");
        return 0;
}

/* ---- the guest runs ---- */

void sandbox_restore_on_renewed(sandbox_restore *r, int result, const ferry_error *error) {
        if (r->phase != PHASE_RENEWING)
                return;
        if (result < 0) {
                fail_with(r, error);
                return;
        }
        log_info("sandbox %s: started from a template in %llu ms", sandbox_id(r->o.sb),
                 (unsigned long long)((now_usec() - r->began_usec) / USEC_PER_MSEC));
        end(r, true);
}

/* The restore whose operation this was; NULL: it has come to an end. */
static sandbox_restore *of(void *userdata, int k, const ferry_error *error) {
        sandbox_restore *r = sandbox_get_restore(userdata);

        if (!r || r->phase == PHASE_ENDING || k == -ECANCELED)
                return NULL;
        if (k == 0)
                return r;
        fail_with(r, error);
        return NULL;
}

static void on_running(ferry_vm *v, int k, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        sandbox_restore *r = of(userdata, k, error);

        if (!r)
                return;
        tell_step(r, "the guest runs");
        r->phase = PHASE_RENEWING;
        if (sandbox_renew_guest(r->o.sb, &own) < 0)
                fail_with(r, &own);
}

static void on_whole_again(ferry_vm *v, int k, const ferry_error *error, void *userdata) {
        sandbox_restore *r = of(userdata, k, error);

        if (!r)
                return;
        k = vm_cont_as_it_is(v, on_running, r->o.sb);
        if (k < 0)
                fail_errno(r, k, "run it");
}

/* ---- the devices ---- */

static void ask_status(sandbox_restore *r);

static int on_later(sd_event_source *source, uint64_t usec, void *userdata) {
        ask_status(userdata);
        return 0;
}

static void on_status(ferry_vm *v, int k, const ferry_error *error, const vm_status *status,
                      void *userdata) {
        sandbox_restore *r = of(userdata, k, error);

        if (!r)
                return;
        r->later = sd_event_source_disable_unref(r->later);
        if (strcmp(status->state, "inmigrate") == 0)
                k = sd_event_add_time_relative(sandbox_event(r->o.sb), &r->later, CLOCK_MONOTONIC,
                                               USEC_PER_MSEC, TIMER_ACCURACY_USEC, on_later, r);
        else
                k = vm_set_memory_apart(v, false, on_whole_again, r->o.sb);
        if (k < 0)
                fail_errno(r, k, "load the devices");
}

static void ask_status(sandbox_restore *r) {
        int k = vm_query_status(sandbox_vm(r->o.sb), on_status, r->o.sb);

        if (k < 0)
                fail_errno(r, k, "load the devices");
}

void sandbox_restore_on_migration(sandbox_restore *r, vm_migration_status status) {
        if (r->phase != PHASE_DEVICES)
                return;
        if (status == VM_MIGRATION_FAILED)
                fail(r, "QEMU does not take the devices' state");
        else if (status == VM_MIGRATION_COMPLETED)
                ask_status(r);
}

static void on_accepted(ferry_vm *v, int k, const ferry_error *error, void *userdata) {
        (void)of(userdata, k, error); /* how it goes comes by on_migration */
}

static void on_apart(ferry_vm *v, int k, const ferry_error *error, void *userdata) {
        _cleanup_(closep) int fd = -EBADF;
        sandbox_restore *r = of(userdata, k, error);
        const void *devices;
        size_t n;

        if (!r)
                return;
        devices = template_load_devices(r->load, &n);
        k = template_pipe_give(sandbox_event(r->o.sb), devices, n, &fd, &r->pipe);
        r->load = template_load_free(r->load);
        if (k == 0)
                k = vm_migrate_in(v, TAKE_FD(fd), on_accepted, r->o.sb);
        if (k < 0)
                fail_errno(r, k, "load the devices");
}

/* ---- QEMU and the memory ---- */

static void go_on(sandbox_restore *r) {
        int k;

        if (!r->is_ready || !r->is_loaded)
                return;
        r->phase = PHASE_DEVICES;
        k = vm_set_memory_apart(sandbox_vm(r->o.sb), true, on_apart, r->o.sb);
        if (k < 0)
                fail_errno(r, k, "load the devices");
}

static void on_loaded(int k, const ferry_error *error, void *userdata) {
        sandbox_restore *r = userdata;

        if (k < 0) {
                fail_by(r, k == -EBADMSG, ferry_error_message(error));
                return;
        }
        tell_step(r, "the memory is loaded");
        r->is_loaded = true;
        go_on(r);
}

void sandbox_restore_on_ready(sandbox_restore *r, int k, const ferry_error *error) {
        if (k < 0) {
                fail_with(r, error);
                return;
        }
        tell_step(r, "QEMU is ready");
        r->is_ready = true;
        go_on(r);
}

static int load(sandbox_restore *r, ferry_error *reterr) {
        _cleanup_(closep) int memory = -EBADF, copy = -EBADF;
        uint64_t bytes = vm_config_memory_bytes(r->config);
        int k;

        k = memory_create(bytes, &memory, reterr);
        if (k < 0)
                return k;
        copy = fcntl(r->template_fd, F_DUPFD_CLOEXEC, 3);
        k = copy < 0 ? -errno
                     : template_load_start(sandbox_event(r->o.sb), TAKE_FD(copy), memory, bytes,
                                           on_loaded, r, &r->load);
        if (k == 0)
                k = sd_event_add_time_relative(sandbox_event(r->o.sb), &r->limit, CLOCK_MONOTONIC,
                                               LIMIT_USEC, 0, on_limit, r);
        if (k < 0)
                return ferry_error_set_errno(reterr, k, "load it");
        return r->o.launch(r->o.sb, r->config, memory, reterr);
}

/* ---- which one ---- */

static int find(sandbox_restore *r, ferry_error *reterr) {
        _cleanup_(freep) char *key = NULL;
        int k;

        if (r->config->has_network && !r->o.own_network)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EINVAL,
                                       "its network would have the template's address");
        k = template_key(r->config, &key, reterr);
        if (k < 0)
                return k;
        k = template_folder_open(r->folder, false, &r->folder_fd, reterr);
        if (k == 0)
                k = template_open(r->folder_fd, key, &r->template_fd, reterr);
        r->wanted = k == -ENOENT || k == -EBADMSG;
        return k;
}

static int mark(const sandbox_restore *r, ferry_error *reterr) {
        int fd = openat(sandbox_dir_fd(r->o.sb), SANDBOX_RESTORE_MARK,
                        O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, SANDBOX_RESTORE_MARK);
        fd_close(fd);
        return 0;
}

bool sandbox_restore_clear(int dir_fd) {
        if (faccessat(dir_fd, SANDBOX_RESTORE_MARK, F_OK, 0) < 0)
                return false;
        (void)vm_record_kill_incoming(dir_fd);
        sandbox_restore_unmark(dir_fd);
        return true;
}

static void begin(sandbox_restore *r) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int k;

        k = find(r, &error);
        if (k == -ENOENT) { /* as it is the first time */
                log_info("sandbox %s: no template in %s fits: %s", sandbox_id(r->o.sb), r->folder,
                         ferry_error_message(&error));
                end(r, false);
                return;
        }
        r->phase = PHASE_LOADING;
        if (k == 0)
                k = mark(r, &error);
        if (k == 0)
                k = load(r, &error);
        if (k < 0)
                fail_with(r, &error);
}

static void on_probed(const vm_probe_result *result, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        sandbox_restore *r = userdata;

        if (vm_probe_apply(result, r->config, &error) < 0) /* the boot will say the same */
                end(r, false);
        else
                begin(r);
}

static int on_begin(sd_event_source *source, uint64_t usec, void *userdata) {
        sandbox_restore *r = userdata;

        r->later = sd_event_source_disable_unref(r->later);
        begin(r);
        return 0;
}

static int choose(sandbox_restore *r, ferry_error *reterr) {
        int k;

        if (r->config->accelerator != VM_ACCELERATOR_TCG)
                return vm_probe_start(
                        sandbox_event(r->o.sb),
                        &(vm_probe_options){
                                .qemu = r->config->qemu,
                                .machine = r->config->machine,
                                .cpu = r->config->cpu,
                                .cache_path = r->o.probe_cache,
                                .user = vm_user_choose(0, 0, sandbox_state_dir(r->o.sb)) },
                        on_probed, r, &r->probe, reterr);
        k = vm_probe_apply(NULL, r->config, reterr);
        if (k < 0)
                return k;
        k = sd_event_add_time_relative(sandbox_event(r->o.sb), &r->later, CLOCK_MONOTONIC, 0,
                                       TIMER_ACCURACY_USEC, on_begin, r);
        return k < 0 ? ferry_error_set_errno(reterr, k, "start") : 0;
}

int sandbox_restore_start(const sandbox_restore_options *options, sandbox_restore **ret,
                          ferry_error *reterr) {
        _cleanup_(sandbox_restore_freep) sandbox_restore *r = malloc(sizeof(*r));
        int k;

        if (!r)
                return ferry_error_set_errno(reterr, -ENOMEM, "start");
        *r = (sandbox_restore){ .o = *options,
                                .folder = strdup(options->folder),
                                .began_usec = now_usec(),
                                .folder_fd = -EBADF,
                                .template_fd = -EBADF };
        k = r->folder ? vm_config_dup(options->config, &r->config) : -ENOMEM;
        if (k < 0)
                return ferry_error_set_errno(reterr, k, "start");
        k = choose(r, reterr);
        if (k < 0)
                return k;
        *ret = TAKE_PTR(r);
        return 0;
}
