/* SPDX-License-Identifier: MIT */
#include "shim/shim.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <systemd/sd-event.h>

#include "base/clock.h"
#include "base/fd.h"
#include "migration/sandbox.h"
#include "migration/session.h"
#include "migration/socket.h"
#include "services/exec-service.h"
#include "services/migration-service.h"
#include "services/sandbox-service.h"
#include "services/shim-service.h"
#include "services/task-service.h"
#include "shim/template-maker.h"
#include "ttrpc/ttrpc-sd-event.h"

#define RETIRE_USEC (20 * USEC_PER_SEC)
#define FLUSH_USEC  (1 * USEC_PER_SEC)
#define FLUSH_STEP  (2 * USEC_PER_MSEC)

typedef struct shim {
        const shim_options *options;
        sd_event *event;
        int lock_fd;
        char *socket_path, *fd_socket_path;
        ttrpc_server *server;
        ttrpc_attachment *attachment;
        fd_store *store;
        sandbox *sandbox;
        migration_service *migration;
        shim_service *service;
        guest_access *guest;
        exec_service *exec;
        task_service *tasks;   /* NULL: not under containerd */
        sandbox_service *pods; /* with them */
        sd_event_source *flush_timer;
        uint64_t flush_deadline;
        bool ending;
        ferry_error failure; /* why it ends by itself */
} shim;

/* ---- the end ---- */

static int on_flush(sd_event_source *source, uint64_t usec, void *userdata) {
        shim *s = userdata;

        bool untold = s->tasks && task_service_has_events(s->tasks);

        if ((ttrpc_server_get_pending(s->server) == 0 && !untold) ||
            now_usec() >= s->flush_deadline)
                return sd_event_exit(s->event, s->failure.code == FERRY_OK ? 0 : 1);
        (void)sd_event_source_set_time(source, now_usec() + FLUSH_STEP);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* Answers that are on their way still go out. */
static void end(shim *s) {
        if (s->flush_timer)
                return;
        /* streams and waits would otherwise be open for as long as their callers like */
        shim_service_end_watches(s->service);
        session_end_notifications(sandbox_session(s->sandbox));
        guest_access_end(s->guest);
        ttrpc_server_shutdown(s->server);
        s->flush_deadline = now_usec() + FLUSH_USEC;
        if (sd_event_add_time(s->event, &s->flush_timer, CLOCK_MONOTONIC, 0, TIMER_ACCURACY_USEC,
                              on_flush, s) < 0)
                (void)sd_event_exit(s->event, 1);
}

static void on_stopped(void *userdata) {
        log_info("stopped");
        end(userdata);
}

static void on_retired(int r, const ferry_error *error, void *userdata) {
        end(userdata);
}

static int on_retire_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        log_warning("the session did not settle in time; the journal has it");
        end(userdata);
        return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        shim *s = userdata;

        if (s->ending)
                return 0;
        s->ending = true;
        log_info("signal %u: ending, QEMU stays", si->ssi_signo);
        (void)sd_event_add_time_relative(s->event, NULL, CLOCK_MONOTONIC, RETIRE_USEC, 0,
                                         on_retire_timeout, s);
        sandbox_retire(s->sandbox, on_retired, s);
        return 0;
}

/* ---- the beginning ---- */

static int take_lock(shim *s, int dir_fd, ferry_error *reterr) {
        char text[32];
        int n;

        s->lock_fd = openat(dir_fd, "shim.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (s->lock_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "%s/shim.lock", s->options->state_dir);
        if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "another shim serves %s", s->options->state_dir);
        n = snprintf(text, sizeof(text), "%d\n", (int)getpid());
        if (ftruncate(s->lock_fd, 0) < 0 || pwrite(s->lock_fd, text, (size_t)n, 0) != n)
                return ferry_error_set_errno(reterr, -errno, "write %s/shim.lock",
                                             s->options->state_dir);
        return 0;
}

static int listen_on(const char *state_dir, const char *name, char **ret_path, int *ret_fd,
                     ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/%s", state_dir, name) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "listen");
        }
        r = unix_listen(path, 0600, 64, ret_fd);
        if (r == -ENAMETOOLONG)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, r,
                                       "%s is longer than a unix socket's path may be (107 bytes): "
                                       "choose a shorter state root",
                                       path);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "listen on %s", path);
        *ret_path = TAKE_PTR(path);
        return 0;
}

static void on_vm_stopped(int r, const ferry_error *error, void *userdata) {
        if (r < 0)
                log_error("stop the VM: %s", ferry_error_message(error));
        end(userdata);
}

/* containerd needs this shim no more. */
static void on_shutdown(void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim *s = userdata;

        if (s->ending)
                return;
        s->ending = true;
        if (sandbox_stop(s->sandbox, true, on_vm_stopped, s, &error) < 0) {
                log_error("stop the VM: %s", ferry_error_message(&error));
                end(s);
        }
}

static void fail(shim *s, const char *what, const ferry_error *error) {
        ferry_error_set(&s->failure, error && error->code ? error->code : FERRY_INTERNAL, -EIO,
                        "%s: %s", what, ferry_error_message(error));
        end(s);
}

/* For those to come: this one has booted because there was none. */
static void make_template(shim *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const vm_config *config = sandbox_wanted_template(s->sandbox);

        if (config && template_maker_start(s->event, config, s->options->template_dir,
                                           s->options->probe_cache, &error) < 0)
                log_warning("%s", ferry_error_message(&error));
}

static void on_booted(int r, const ferry_error *error, void *userdata) {
        shim *s = userdata;

        if (r == 0) {
                log_info("the VM runs");
                make_template(s);
        } else if (s->options->pod) /* StartSandbox is told, and ShutdownSandbox is the end */
                log_error("the VM did not start: %s", ferry_error_message(error));
        else
                fail(s, "the VM did not start", error);
}

static void boot(void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        shim *s = userdata;

        if (vm_config_read(s->options->config, &config, &error) < 0)
                fail(s, s->options->config, &error);
        else if (sandbox_boot(s->sandbox, config, on_booted, s, &error) < 0)
                fail(s, "the VM did not start", &error);
}

static void on_sandbox_change(void *userdata) {
        const shim *s = userdata;

        task_service_look(s->tasks);
        sandbox_service_look(s->pods);
}

static int serve_tasks(shim *s) {
        int r;

        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        r = task_service_new(
                s->server, s->event, s->sandbox, s->guest,
                &(task_options){ .namespace = s->options->namespace,
                                 .events = s->options->events,
                                 .address = s->options->containerd,
                                 .cache_dir = s->options->cache_dir,
                                 .cache_max_mb = s->options->cache_max_mb,
                                 .layer_mb = s->options->disk_root ? s->options->layer_mb : 0 },
                on_shutdown, s, &s->tasks);
        if (r < 0)
                return r;
        r = sandbox_service_new(s->server, s->event, s->sandbox, s->tasks,
                                s->options->config ? boot : NULL, on_shutdown, s, &s->pods);
        if (r < 0)
                return r;
        shim_service_set_tasks(s->service, s->tasks);
        sandbox_add_on_change(s->sandbox, on_sandbox_change, s);
        return 0;
}

static int make_sockets(shim *s, ferry_error *reterr) {
        const char *dir = s->options->state_dir;
        int fd, r;

        r = listen_on(dir, "fd.sock", &s->fd_socket_path, &fd, reterr);
        if (r < 0)
                return r;
        r = fd_store_new(s->event, fd, &s->store);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "fd socket");
        r = ttrpc_server_new(&s->server);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "ttrpc server");
        ttrpc_server_set_uid(s->server, geteuid());
        r = listen_on(dir, "shim.sock", &s->socket_path, &fd, reterr);
        if (r < 0)
                return r;
        r = ttrpc_server_listen(s->server, fd);
        if (r >= 0)
                r = migration_service_new(s->server, s->sandbox, s->store, &s->migration);
        if (r >= 0)
                r = shim_service_new(s->server, s->event, s->sandbox, on_stopped, s, &s->service);
        if (r >= 0)
                r = guest_access_new(s->event, s->sandbox, &s->guest);
        if (r >= 0) {
                shim_service_set_guest(s->service, s->guest);
                r = exec_service_new(s->server, s->sandbox, s->guest, &s->exec);
        }
        if (r >= 0 && s->options->namespace)
                r = serve_tasks(s);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "ttrpc server");
        return 0;
}

static int watch_signals(shim *s, ferry_error *reterr) {
        static const int signals[] = { SIGTERM, SIGINT };
        sigset_t set;
        int r;

        sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTS(signals); i++)
                sigaddset(&set, signals[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return ferry_error_set_errno(reterr, -errno, "signals");
        for (size_t i = 0; i < ELEMENTS(signals); i++) {
                r = sd_event_add_signal(s->event, NULL, signals[i], on_signal, s);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "signals");
        }
        (void)signal(SIGPIPE, SIG_IGN);
        return 0;
}

static void on_recovered(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        shim *s = userdata;

        if (r < 0) {
                fail(s, "take the sandbox over", error);
                return;
        }
        /* Until now callers waited in the backlog: an answer would have been about a sandbox that
         * has no VM and no session yet. */
        r = ttrpc_server_attach_event(s->server, s->event, &s->attachment);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "ttrpc server");
                fail(s, "serve", &own);
                return;
        }
        guest_access_begin(s->guest);
        if (sandbox_vm(s->sandbox) || session_is_open(sandbox_session(s->sandbox)))
                log_info("took the sandbox over");
        else if (s->options->config && !s->options->pod)
                boot(s);
}

static int on_start(sd_event_source *source, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim *s = userdata;

        if (sandbox_recover(s->sandbox, on_recovered, s, &error) < 0)
                fail(s, "take the sandbox over", &error);
        return 0;
}

static int say_ready(const shim *s, ferry_error *reterr) {
        _cleanup_(closep) int fd = s->options->ready_fd;
        int r;

        if (fd < 0)
                return 0;
        r = fd_write_all(fd, "ready\n", 6);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "write to --ready-fd");
        return 0;
}

static int start(shim *s, ferry_error *reterr) {
        _cleanup_(closep) int dir_fd =
                open(s->options->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        sandbox_options options = {
                .id = s->options->id,
                .state_dir = s->options->state_dir,
                .bridge = s->options->bridge,
                .qemu = s->options->qemu,
                .disk_root = s->options->disk_root,
                .probe_cache = s->options->probe_cache,
                .image_folder = s->options->cache_dir,
                /* where containerd's client puts a network (`ctr run --cni`) it is the guest's */
                .own_network = s->options->namespace != NULL,
                .templates = s->options->template_dir,
        };
        int r;

        if (dir_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "state directory %s",
                                             s->options->state_dir);
        if (s->options->ready_fd >= 0)
                (void)fd_set_cloexec(s->options->ready_fd, true);
        r = take_lock(s, dir_fd, reterr);
        if (r < 0)
                return r;
        r = sd_event_default(&s->event);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "event loop");
        r = watch_signals(s, reterr);
        if (r < 0)
                return r;
        r = sandbox_new(s->event, &options, &s->sandbox, reterr);
        if (r < 0)
                return r;
        r = make_sockets(s, reterr);
        if (r < 0)
                return r;
        r = sd_event_add_defer(s->event, NULL, on_start, s);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "event loop");
        return say_ready(s, reterr);
}

static void done(shim *s) {
        /* the sockets first: who connects from now on finds nobody */
        if (s->socket_path)
                (void)unlink(s->socket_path);
        if (s->fd_socket_path)
                (void)unlink(s->fd_socket_path);
        s->attachment = ttrpc_attachment_free(s->attachment);
        s->server = ttrpc_server_free(s->server);
        s->service = shim_service_free(s->service);
        s->tasks = task_service_free(s->tasks);
        s->exec = exec_service_free(s->exec);
        s->guest = guest_access_free(s->guest);
        s->pods = sandbox_service_free(s->pods);
        s->migration = migration_service_free(s->migration);
        s->sandbox = sandbox_free(s->sandbox);
        s->store = fd_store_free(s->store);
        sd_event_source_disable_unref(s->flush_timer);
        sd_event_unref(s->event);
        free(s->socket_path);
        free(s->fd_socket_path);
        fd_close(s->lock_fd);
}

int shim_serve(const shim_options *options, ferry_error *reterr) {
        shim s = { .options = options, .lock_fd = -EBADF };
        int r;

        r = start(&s, reterr);
        if (r == 0) {
                log_info("shim of sandbox %s, pid %d", options->id, (int)getpid());
                r = sd_event_loop(s.event);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "event loop");
                else if (s.failure.code != FERRY_OK) {
                        ferry_error_move(reterr, &s.failure);
                        r = -EIO;
                }
        }
        ferry_error_done(&s.failure);
        /* Before the lock is let go: who waits for that reads the log next. */
        if (r < 0)
                log_error("%s", ferry_error_message(reterr));
        done(&s);
        return r < 0 ? r : 0;
}
