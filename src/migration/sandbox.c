/* SPDX-License-Identifier: MIT */
#include "migration/sandbox-internal.h"

#include <assert.h>
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "migration/sandbox-restore.h"
#include "migration/session.h"
#include "vm/record.h"

#define QUIT_GRACE_USEC (5 * USEC_PER_SEC)
#define CONFIG_FILE     "config.json"

#define NETWORK_USEC            (2 * USEC_PER_SEC)
#define NETWORK_ANNOUNCE_ROUNDS 5

bool sandbox_id_is_valid(const char *id) {
        size_t n = strlen(id);

        if (n == 0 || n > SANDBOX_ID_MAX || id[0] == '-' || id[0] == '.')
                return false;
        for (const char *c = id; *c; c++)
                if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '-' &&
                    *c != '.')
                        return false;
        return true;
}

static int dup_text(const char *text, char **ret) {
        if (!text)
                return 0;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

int sandbox_new(sd_event *event, const sandbox_options *options, sandbox **ret,
                ferry_error *reterr) {
        _cleanup_(sandbox_freep) sandbox *sb = NULL;
        int r;

        if (!sandbox_id_is_valid(options->id))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "sandbox id \"%.60s\": 1 to %u of a-z, 0-9, '-' and '.', "
                                       "beginning with a letter or digit",
                                       options->id, SANDBOX_ID_MAX);
        sb = malloc(sizeof(*sb));
        if (!sb)
                return ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
        *sb = (sandbox){ .event = sd_event_ref(event),
                         .dir_fd = -EBADF,
                         .own_network = options->own_network };
        strcpy(sb->id, options->id);
        if (dup_text(options->state_dir, &sb->state_dir) < 0 ||
            dup_text(options->bridge, &sb->bridge) < 0 || dup_text(options->qemu, &sb->qemu) < 0 ||
            dup_text(options->disk_root, &sb->disk_root) < 0 ||
            dup_text(options->probe_cache, &sb->probe_cache) < 0 ||
            dup_text(options->image_folder, &sb->image_folder) < 0 ||
            dup_text(options->templates, &sb->templates) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
        sb->dir_fd = open(options->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (sb->dir_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "state directory %s",
                                             options->state_dir);
        r = session_new(sb, &sb->session, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(sb);
        return 0;
}

sandbox *sandbox_free(sandbox *sb) {
        if (!sb)
                return NULL;
        memset(sb->listeners, 0, sizeof(sb->listeners));
        sb->vm = vm_close(sb->vm); /* its last answers still find the session */
        sb->restore = sandbox_restore_free(sb->restore);
        sb->session = session_free(sb->session);
        sd_event_source_disable_unref(sb->network);
        sd_event_source_disable_unref(sb->discarded);
        fd_close(sb->dir_fd);
        free(sb->awaited_session);
        free(sb->state_dir);
        free(sb->bridge);
        free(sb->qemu);
        free(sb->disk_root);
        free(sb->probe_cache);
        free(sb->image_folder);
        free(sb->templates);
        vm_config_free(sb->wanted_template);
        free(sb->exit_reason);
        sd_event_unref(sb->event);
        free(sb);
        return NULL;
}

void sandbox_add_on_change(sandbox *sb, void (*on_change)(void *userdata), void *userdata) {
        size_t i;

        for (i = 0; sb->listeners[i].on_change; i++)
                assert(i + 1 < LISTENERS_MAX);
        sb->listeners[i].on_change = on_change;
        sb->listeners[i].userdata = userdata;
}

void sandbox_remove_on_change(sandbox *sb, const void *userdata) {
        for (size_t i = 0; i < LISTENERS_MAX; i++)
                if (sb->listeners[i].userdata == userdata)
                        sb->listeners[i].on_change = NULL;
}

const char *sandbox_image_folder(const sandbox *sb) {
        return sb->image_folder;
}

const char *sandbox_disk_root(const sandbox *sb) {
        return sb->disk_root;
}

const char *sandbox_state_dir(const sandbox *sb) {
        return sb->state_dir;
}

void sandbox_changed(sandbox *sb) {
        for (size_t i = 0; i < LISTENERS_MAX; i++)
                if (sb->listeners[i].on_change)
                        sb->listeners[i].on_change(sb->listeners[i].userdata);
}

static void set_vm_state(sandbox *sb, sandbox_vm_state state) {
        if (state == sb->vm_state)
                return;
        if (state == SANDBOX_VM_RUNNING && sb->running_since == 0)
                sb->running_since = wall_usec();
        else if (state == SANDBOX_VM_NONE || state == SANDBOX_VM_STOPPED ||
                 state == SANDBOX_VM_INCOMING)
                sb->running_since = 0;
        sb->vm_state = state;
        sandbox_changed(sb);
}

static void finish(pending *p, int r, const ferry_error *error) {
        pending done = *p;

        *p = (pending){ .done = NULL };
        if (done.done)
                done.done(r, error, done.userdata);
}

/* ---- what the VM says ---- */

static void on_stop(ferry_vm *v, uint64_t usec, void *userdata) {
        sandbox *sb = userdata;

        if (sb->restore)
                return;
        session_vm_stopped(sb->session, usec);
        if (sb->vm_state == SANDBOX_VM_RUNNING)
                set_vm_state(sb, SANDBOX_VM_PAUSED);
}

static void on_resume(ferry_vm *v, uint64_t usec, void *userdata) {
        sandbox *sb = userdata;

        if (sb->restore) /* it is nobody's guest yet */
                return;
        session_vm_resumed(sb->session, usec);
        set_vm_state(sb, SANDBOX_VM_RUNNING);
}

static void on_shutdown(ferry_vm *v, bool guest, const char *reason, void *userdata) {
        sandbox *sb = userdata;

        if (guest) {
                sb->guest_ended = true;
                session_vm_shutdown(sb->session);
        }
}

static void on_reset(ferry_vm *v, bool guest, void *userdata) {
        sandbox *sb = userdata;

        if (guest)
                session_vm_reset(sb->session);
}

static void on_migration(ferry_vm *v, vm_migration_status status, uint64_t usec, void *userdata) {
        sandbox *sb = userdata;

        if (sb->restore)
                sandbox_restore_on_migration(sb->restore, status);
        else
                session_vm_migration(sb->session, status, usec);
}

static void on_pass(ferry_vm *v, uint64_t pass, uint64_t usec, void *userdata) {
        sandbox *sb = userdata;

        session_vm_pass(sb->session, pass, usec);
}

static void on_mirror_failed(ferry_vm *v, const char *reason, void *userdata) {
        sandbox *sb = userdata;

        session_vm_mirror_failed(sb->session, reason);
}

static void on_lost(ferry_vm *v, const char *reason, void *userdata) {
        log_error("the connection to QEMU is lost: %s", reason);
}

static void drop_vm(sandbox *sb) {
        sb->vm = vm_close(sb->vm);
        set_vm_state(sb, SANDBOX_VM_NONE);
}

static void start_cancelled(sandbox *sb) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set(&error, FERRY_CANCELLED, -ECANCELED, "cancelled");
        finish(&sb->starting, -ECANCELED, &error);
}

static void on_exit_(ferry_vm *v, const char *reason, void *userdata) {
        sandbox *sb = userdata;
        bool expected = sb->discarding.done != NULL;

        if (sb->restore) {
                sandbox_restore_on_exit(sb->restore, reason);
                return;
        }
        if (expected)
                log_info("QEMU has ended: %s", reason);
        else if (sb->guest_ended)
                log_info("the guest has powered off");
        else
                log_error("QEMU has ended: %s", reason);
        free(sb->exit_reason);
        sb->exit_reason = strdup(sb->guest_ended ? "the guest powered off" : reason);
        if (expected) {
                drop_vm(sb);
                start_cancelled(sb);
                finish(&sb->discarding, 0, NULL);
                return;
        }
        sb->vm = vm_close(sb->vm);
        set_vm_state(sb, SANDBOX_VM_STOPPED);
        session_vm_gone(sb->session, sb->guest_ended, sb->exit_reason);
}

static const vm_handlers handlers = {
        .on_stop = on_stop,
        .on_resume = on_resume,
        .on_shutdown = on_shutdown,
        .on_reset = on_reset,
        .on_migration = on_migration,
        .on_migration_pass = on_pass,
        .on_mirror_failed = on_mirror_failed,
        .on_lost = on_lost,
        .on_exit = on_exit_,
};

/* ---- starting ---- */

static void vm_options_fill(sandbox *sb, const vm_config *config, vm_mode mode, vm_options *ret) {
        *ret = (vm_options){
                .config = config,
                .state_dir = sb->state_dir,
                .mode = mode,
                .bridge = sb->bridge,
                .own_network = sb->own_network,
                .receives_postcopy = mode == VM_MODE_INCOMING && sb->may_postcopy,
                .probe_cache = sb->probe_cache,
        };
}

/* A start that failed leaves nothing behind. */
static void start_failed(sandbox *sb, int r, const ferry_error *error) {
        sb->vm = vm_close(sb->vm);
        set_vm_state(sb, SANDBOX_VM_NONE);
        finish(&sb->starting, r, error);
        /* on_exit does not come before on_ready: who waited for it has it now */
        finish(&sb->discarding, 0, NULL);
}

int sandbox_save_config(sandbox *sb) {
        _cleanup_(freep) char *json = NULL;
        int r;

        r = vm_config_format(vm_get_config(sb->vm), &json);
        if (r < 0)
                return r;
        return file_replace(sb->dir_fd, CONFIG_FILE, json, strlen(json), 0600, false);
}

static void on_booted(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        sandbox *sb = userdata;

        if (r == -ECANCELED) /* the shim lets go; QEMU stays */
                return;
        if (r < 0) {
                vm_kill(v);
                start_failed(sb, r, error);
                return;
        }
        set_vm_state(sb, SANDBOX_VM_RUNNING);
        finish(&sb->starting, 0, NULL);
}

static void on_boot_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        sandbox *sb = userdata;

        if (r < 0) {
                start_failed(sb, r, error);
                return;
        }
        r = sandbox_save_config(sb);
        if (r >= 0)
                r = vm_cont(v, on_booted, sb);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "start the VM");
                vm_kill(v);
                start_failed(sb, r, &own);
        }
}

static int check_free(const sandbox *sb, ferry_error *reterr) {
        if (sb->vm || sb->starting.done)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "this sandbox has a VM already");
        return 0;
}

static int launch_vm(sandbox *sb, const vm_config *config, vm_mode mode, vm_done ready,
                     ferry_error *reterr) {
        vm_options options;

        sb->guest_ended = false;
        sandbox_restore_unmark(sb->dir_fd);
        vm_options_fill(sb, config, mode, &options);
        return vm_start(sb->event, &options, &handlers, ready, sb, &sb->vm, reterr);
}

static int start_vm(sandbox *sb, const vm_config *config, vm_mode mode, vm_done ready,
                    sandbox_done done, void *userdata, ferry_error *reterr) {
        int r;

        r = check_free(sb, reterr);
        if (r == 0)
                r = launch_vm(sb, config, mode, ready, reterr);
        if (r < 0)
                return r;
        sb->starting = (pending){ done, userdata };
        set_vm_state(sb, SANDBOX_VM_STARTING);
        return 0;
}

/* ---- from a template ---- */

sandbox_restore *sandbox_get_restore(const sandbox *sb) {
        return sb->restore;
}

const vm_config *sandbox_wanted_template(const sandbox *sb) {
        return sb->wanted_template;
}

static void on_restore_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        sandbox *sb = userdata;

        if (sb->restore)
                sandbox_restore_on_ready(sb->restore, r, error);
        else if (r < 0 && r != -ECANCELED)
                start_failed(sb, r, error);
}

static int launch_restored(sandbox *sb, const vm_config *config, int memory_fd,
                           ferry_error *reterr) {
        vm_options options;

        vm_options_fill(sb, config, VM_MODE_INCOMING, &options);
        options.memory_fd = memory_fd;
        return vm_start(sb->event, &options, &handlers, on_restore_ready, sb, &sb->vm, reterr);
}

static void drop_restored(sandbox *sb) {
        sb->vm = vm_close(sb->vm);
        sandbox_changed(sb);
}

static void on_restored(sandbox *sb, bool restored, bool wanted) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(vm_config_freep) vm_config *config = sandbox_restore_take_config(sb->restore);
        int r;

        sb->restore = sandbox_restore_free(sb->restore);
        if (restored) {
                r = sandbox_save_config(sb);
                if (r < 0)
                        log_warning("write %s/" CONFIG_FILE ": %s", sb->state_dir, strerror(-r));
                set_vm_state(sb, SANDBOX_VM_RUNNING);
                finish(&sb->starting, 0, NULL);
                return;
        }
        r = launch_vm(sb, config, VM_MODE_NORMAL, on_boot_ready, &error);
        if (wanted)
                sb->wanted_template = TAKE_PTR(config);
        if (r < 0)
                start_failed(sb, r, &error);
}

static int restore(sandbox *sb, const vm_config *config, sandbox_done done, void *userdata,
                   ferry_error *reterr) {
        const sandbox_restore_options options = { .sb = sb,
                                                  .config = config,
                                                  .folder = sb->templates,
                                                  .probe_cache = sb->probe_cache,
                                                  .own_network = sb->own_network,
                                                  .launch = launch_restored,
                                                  .drop = drop_restored,
                                                  .done = on_restored };
        int r;

        r = check_free(sb, reterr);
        if (r == 0)
                r = sandbox_restore_start(&options, &sb->restore, reterr);
        if (r < 0)
                return r;
        sb->guest_ended = false;
        sb->wanted_template = vm_config_free(sb->wanted_template);
        sb->starting = (pending){ done, userdata };
        set_vm_state(sb, SANDBOX_VM_STARTING);
        return 0;
}

/* ---- */

/* A guest that was handed over, or a copy that was given up, must not come to life again here. */
static int check_boot(const sandbox *sb, ferry_error *reterr) {
        size_t n;
        const journal_session *all = session_tombstones(sb->session, &n);
        const journal_session *newest = n > 0 ? &all[n - 1] : NULL;

        if (session_is_open(sb->session))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "a migration session is open");
        if (newest && (newest->mark == JOURNAL_HANDED || newest->mark == JOURNAL_DONE ||
                       newest->mark == JOURNAL_DECLINED ||
                       (!newest->source && newest->mark != JOURNAL_RUNNING)))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "sandbox %s has moved to another host (session %s: %s): "
                                       "it is not started here again",
                                       sb->id, newest->session_id, journal_mark_name(newest->mark));
        return 0;
}

int sandbox_boot(sandbox *sb, const vm_config *config, sandbox_done done, void *userdata,
                 ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *here = NULL;
        int r = check_boot(sb, reterr);

        if (r < 0)
                return r;
        /* a configuration that names no binary of its own gets this host's */
        if (sb->qemu && strcmp(config->qemu, VM_CONFIG_QEMU_DEFAULT) == 0) {
                r = vm_config_dup(config, &here);
                if (r == 0) {
                        free(here->qemu);
                        here->qemu = strdup(sb->qemu);
                }
                if (r < 0 || !here->qemu)
                        return ferry_error_set_errno(reterr, -ENOMEM, "start");
        }
        if (sb->templates)
                return restore(sb, here ? here : config, done, userdata, reterr);
        return start_vm(sb, here ? here : config, VM_MODE_NORMAL, on_boot_ready, done, userdata,
                        reterr);
}

static void on_incoming_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        sandbox *sb = userdata;

        if (r < 0) {
                start_failed(sb, r, error);
                return;
        }
        r = sandbox_save_config(sb);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "write %s/" CONFIG_FILE, sb->state_dir);
                vm_kill(v);
                start_failed(sb, r, &own);
                return;
        }
        set_vm_state(sb, SANDBOX_VM_INCOMING);
        finish(&sb->starting, 0, NULL);
}

int sandbox_check_incoming(sandbox *sb, const migration_state *state, incoming_done done,
                           void *userdata, incoming_check **ret, ferry_error *reterr) {
        incoming_host host = {
                .qemu = sb->qemu,
                .disk_root = sb->disk_root,
                .probe_cache = sb->probe_cache,
                .user = vm_user_choose(0, 0, sb->state_dir),
        };

        return incoming_check_start(sb->event, state, &host, done, userdata, ret, reterr);
}

int sandbox_start_incoming(sandbox *sb, const vm_config *config, bool may_postcopy,
                           sandbox_done done, void *userdata, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *here = NULL;
        int r;

        r = vm_config_dup(config, &here);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "prepare");
        /* a binary is this host's affair, whatever the state says */
        free(here->qemu);
        here->qemu = strdup(sb->qemu ? sb->qemu : VM_CONFIG_QEMU_DEFAULT);
        if (!here->qemu)
                return ferry_error_set_errno(reterr, -ENOMEM, "prepare");
        sb->may_postcopy = may_postcopy;
        return start_vm(sb, here, VM_MODE_INCOMING, on_incoming_ready, done, userdata, reterr);
}

/* ---- ending ---- */

/* Only while the guest runs here: one that was handed over has its network elsewhere. */
static int on_network_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        sandbox *sb = userdata;

        if (!sb->vm) {
                sb->network = sd_event_source_disable_unref(sb->network);
                return 0;
        }
        if (sandbox_get_vm_state(sb) == SANDBOX_VM_RUNNING && vm_tap_attach(sb->vm, NULL) == 0) {
                log_info("sandbox %s: its network is back", sb->id);
                (void)vm_announce_self(sb->vm, NETWORK_ANNOUNCE_ROUNDS, NULL, NULL);
                sb->network = sd_event_source_disable_unref(sb->network);
                return 0;
        }
        (void)sd_event_source_set_time(source, now_usec() + NETWORK_USEC);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

void sandbox_await_network(sandbox *sb) {
        if (!sb->network && sd_event_add_time_relative(sb->event, &sb->network, CLOCK_MONOTONIC,
                                                       NETWORK_USEC, 0, on_network_timer, sb) < 0)
                log_error("sandbox %s: no timer to look for its network", sb->id);
}

static int on_discarded(sd_event_source *source, void *userdata) {
        sandbox *sb = userdata;

        sb->discarded = sd_event_source_disable_unref(sb->discarded);
        finish(&sb->discarding, 0, NULL);
        return 0;
}

int sandbox_discard_vm(sandbox *sb, sandbox_done done, void *userdata) {
        bool restoring = sb->restore != NULL;
        int r;

        if (sb->discarding.done)
                return -EBUSY;
        if (sb->restore) {
                sb->restore = sandbox_restore_free(sb->restore);
                sandbox_restore_unmark(sb->dir_fd);
        }
        sb->discarding = (pending){ done, userdata };
        if (sb->vm && vm_is_alive(sb->vm) && vm_get_pid(sb->vm) > 0) {
                r = vm_kill(sb->vm);
                if (r < 0) {
                        sb->discarding = (pending){ .done = NULL };
                        return r;
                }
                return 0;
        }
        if (sb->vm) {
                drop_vm(sb);
                start_cancelled(sb);
        } else {
                set_vm_state(sb, SANDBOX_VM_NONE);
                if (restoring) /* else what starts is a shim that finds no VM */
                        start_cancelled(sb);
        }
        r = sd_event_add_defer(sb->event, &sb->discarded, on_discarded, sb);
        if (r < 0)
                sb->discarding = (pending){ .done = NULL };
        return r;
}

static void on_quit(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        /* on_exit follows, and is what counts */
}

int sandbox_release_vm(sandbox *sb, sandbox_done done, void *userdata) {
        if (sb->discarding.done)
                return -EBUSY;
        if (!sb->vm)
                return sandbox_discard_vm(sb, done, userdata);
        sb->discarding = (pending){ done, userdata };
        set_vm_state(sb, SANDBOX_VM_NONE); /* its process may take a moment to end */
        if (vm_quit(sb->vm, QUIT_GRACE_USEC, on_quit, sb) < 0)
                (void)vm_kill(sb->vm);
        return 0;
}

int sandbox_stop(sandbox *sb, bool force, sandbox_done done, void *userdata, ferry_error *reterr) {
        int r;

        if (session_is_open(sb->session) && !force)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "a migration session is open: cancel it and clean up, or "
                                       "force");
        if (sb->vm_state == SANDBOX_VM_STARTING && !force)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "the VM is starting: wait, or force");
        r = sandbox_discard_vm(sb, done, userdata);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "stop the VM");
        return 0;
}

void sandbox_retire(sandbox *sb, sandbox_done done, void *userdata) {
        session_retire(sb->session, done, userdata);
}

/* ---- recovery ---- */

static void recovered(sandbox *sb, const mig_found *found, sandbox_vm_state state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        set_vm_state(sb, state);
        r = session_recover(sb->session, found, &error);
        finish(&sb->starting, r, r < 0 ? &error : NULL);
}

/* A guest that panicked or was shut down has run too. */
static bool has_run(const vm_status *status) {
        static const char *const standing[] = { "paused", "inmigrate", "prelaunch", "postmigrate",
                                                "finish-migrate" };

        for (size_t i = 0; i < ELEMENTS(standing); i++)
                if (strcmp(status->state, standing[i]) == 0)
                        return false;
        return true;
}

static void on_attached_migration(ferry_vm *v, int r, const ferry_error *error,
                                  const vm_migration_info *info, void *userdata) {
        sandbox *sb = userdata;

        if (r == -ECANCELED)
                return;
        if (r < 0) {
                start_failed(sb, r, error);
                return;
        }
        sb->found.stream = session_stream_of(info->status);
        sb->found.stream_paused = info->status == VM_MIGRATION_POSTCOPY_PAUSED;
        recovered(sb, &sb->found, sb->found_state);
}

static void on_attached_status(ferry_vm *v, int r, const ferry_error *error,
                               const vm_status *status, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        sandbox *sb = userdata;

        if (r == -ECANCELED)
                return;
        if (r < 0) {
                start_failed(sb, r, error);
                return;
        }
        sb->found = (mig_found){ .has_vm = true,
                                 .running = has_run(status),
                                 .loaded = strcmp(status->state, "inmigrate") != 0 };
        sb->found_state = status->running ? SANDBOX_VM_RUNNING
                          : vm_get_mode(v) == VM_MODE_INCOMING && !sb->found.loaded
                                  ? SANDBOX_VM_INCOMING
                                  : SANDBOX_VM_PAUSED;
        r = vm_query_migrate(v, on_attached_migration, sb);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "ask QEMU for its migration");
                start_failed(sb, r, &own);
        }
}

static void on_attached(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        sandbox *sb = userdata;

        if (r < 0) {
                start_failed(sb, r, error);
                return;
        }
        r = vm_query_status(v, on_attached_status, sb);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "ask QEMU for its status");
                start_failed(sb, r, &own);
        }
}

int sandbox_recover(sandbox *sb, sandbox_done done, void *userdata, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        _cleanup_(freep) char *path = NULL;
        vm_options options;
        int r;

        if (asprintf(&path, "%s/" CONFIG_FILE, sb->state_dir) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "recover");
        }
        if (sandbox_restore_clear(sb->dir_fd)) {
                log_warning("ended a guest that was not renewed yet when the last shim died");
                r = -ESRCH;
        } else if (access(path, F_OK) < 0 && errno == ENOENT) {
                if (vm_record_kill_incoming(sb->dir_fd) == 0)
                        log_warning("ended a QEMU that was not ready when the last shim died");
                r = -ESRCH;
        } else {
                r = vm_config_read(path, &config, reterr);
                if (r < 0)
                        return ferry_error_prefix(reterr, r, "%s", path);
                vm_options_fill(sb, config, VM_MODE_NORMAL, &options);
                r = vm_attach(sb->event, &options, &handlers, on_attached, sb, &sb->vm, reterr);
        }
        sb->starting = (pending){ done, userdata };
        if (r == -ESRCH) {
                ferry_error_done(reterr);
                recovered(sb, &(mig_found){ .has_vm = false }, SANDBOX_VM_NONE);
                return 0;
        }
        if (r < 0) {
                sb->starting = (pending){ .done = NULL };
                return r;
        }
        set_vm_state(sb, SANDBOX_VM_STARTING);
        return 0;
}

/* ---- looking ---- */

session *sandbox_session(sandbox *sb) {
        return sb->session;
}

int sandbox_await_session(sandbox *sb, const char *session_id) {
        char *copy = strdup(session_id);

        if (!copy)
                return -ENOMEM;
        free(sb->awaited_session);
        sb->awaited_session = copy;
        return 0;
}

const char *sandbox_awaited_session(const sandbox *sb) {
        return sb->awaited_session;
}

const char *sandbox_id(const sandbox *sb) {
        return sb->id;
}

sandbox_vm_state sandbox_get_vm_state(const sandbox *sb) {
        return sb->vm_state;
}

const char *sandbox_exit_reason(const sandbox *sb) {
        return sb->exit_reason;
}

const prediction *sandbox_get_prediction(const sandbox *sb) {
        return &sb->prediction;
}

void sandbox_set_prediction(sandbox *sb, const prediction *p) {
        sb->prediction = *p;
}

uint64_t sandbox_running_since(const sandbox *sb) {
        return sb->running_since;
}

ferry_vm *sandbox_vm(sandbox *sb) {
        return sb->vm;
}

sd_event *sandbox_event(sandbox *sb) {
        return sb->event;
}

int sandbox_dir_fd(const sandbox *sb) {
        return sb->dir_fd;
}
