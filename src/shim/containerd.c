/* SPDX-License-Identifier: MIT */
#include "shim/containerd.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "migration/place.h"
#include "oci/oci.h"
#include "services/annotations.h"
#include "services/bundle.h"
#include "shim/containerd-request.h"

#define READY_FD   3
#define READY_MSEC 20000
#define ARGV_MAX   48U

static void request_done(containerd_request *q) {
        free(q->state_dir);
        free(q->pod);
        free(q->came_with);
        free(q->templates);
        containerd_config_free(q->config);
}

/* ---- the command line ---- */

bool containerd_calls(int argc, char **argv) {
        bool verb = false, namespace = false;

        for (int i = 1; i < argc; i++) {
                verb |= strcmp(argv[i], "start") == 0 || strcmp(argv[i], "delete") == 0;
                namespace |= strncmp(argv[i], "-namespace", 10) == 0 ||
                             strncmp(argv[i], "--namespace", 11) == 0;
        }
        return verb && namespace;
}

static int take_flag(containerd_request *q, const char *name, const char *value) {
        if (strcmp(name, "namespace") == 0)
                q->namespace = value;
        else if (strcmp(name, "address") == 0)
                q->address = value;
        else if (strcmp(name, "id") == 0)
                q->id = value;
        else if (strcmp(name, "bundle") == 0)
                q->bundle = value;
        else if (strcmp(name, "publish-binary") != 0 && strcmp(name, "socket") != 0)
                return -EINVAL;
        return 0;
}

/* Go's flags: one dash or two, the value behind or after "=". */
static int parse(int argc, char **argv, containerd_request *q, ferry_error *reterr) {
        for (int i = 1; i < argc; i++) {
                const char *name = argv[i] + strspn(argv[i], "-");
                const char *equals = strchr(name, '=');
                _cleanup_(freep) char *copy = NULL;

                if (argv[i][0] != '-') {
                        q->is_delete = strcmp(argv[i], "delete") == 0;
                        if (!q->is_delete && strcmp(argv[i], "start") != 0)
                                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                                       "%s: neither start nor delete", argv[i]);
                        continue;
                }
                if (strcmp(name, "debug") == 0) {
                        q->debug = true;
                        continue;
                }
                copy = equals ? strndup(name, (size_t)(equals - name)) : strdup(name);
                if (!copy)
                        return ferry_error_set_errno(reterr, -ENOMEM, "arguments");
                if (!equals && i + 1 == argc)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "-%s: without its value", name);
                if (take_flag(q, copy, equals ? equals + 1 : argv[++i]) < 0)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "-%s: unknown", copy);
        }
        if (!q->namespace || !q->id || !q->address)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "-namespace, -id and -address are needed");
        return 0;
}

/* A container of a pod says so in its bundle, where containerd calls us. */
static void read_annotations(containerd_request *q) {
        _cleanup_(freep) char *text = NULL;
        size_t n;

        if (bundle_read(".", &text, &n, NULL) < 0)
                return; /* a pod's own, which may have none */
        q->came_with = oci_annotation(text, n, ANNOTATION_SANDBOX);
        q->pod = oci_annotation(text, n, ANNOTATION_POD);
        if (q->pod && strcmp(q->pod, q->id) == 0) {
                free(q->pod);
                q->pod = NULL;
        }
}

static int name_by_hash(containerd_request *q, ferry_error *reterr) {
        char name[PLACE_NAME_SIZE];

        if (place_name(q->address, q->namespace, q->pod ? q->pod : q->id, name) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "place");
        if (!q->pod || !place_follow(q->config->root, name, q->sandbox))
                snprintf(q->sandbox, sizeof(q->sandbox), "%s", name);
        return 0;
}

/* The same container, or pod, of the same containerd has the same place. */
static int find_place(containerd_request *q, ferry_error *reterr) {
        int r;

        r = containerd_config_read(&q->config, reterr);
        if (r < 0)
                return r;
        read_annotations(q);
        if (q->came_with && !sandbox_id_is_valid(q->came_with))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "annotation " ANNOTATION_SANDBOX ": \"%.60s\" is no "
                                       "sandbox's id",
                                       q->came_with);
        if (q->came_with)
                snprintf(q->sandbox, sizeof(q->sandbox), "%s", q->came_with);
        else
                r = name_by_hash(q, reterr);
        if (r < 0)
                return r;
        if (asprintf(&q->state_dir, "%s/%s", q->config->root, q->sandbox) < 0) {
                q->state_dir = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "place");
        }
        return 0;
}

/* ---- start ---- */

static int make_place(const containerd_request *q, char **ret_config, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL, *lock = NULL, *config = NULL;
        int r, fd;

        r = containerd_config_vm(q->config, &text, reterr);
        if (r < 0)
                return r;
        r = folders_make(q->config->root, 0700);
        if (r == 0)
                r = mkdir(q->state_dir, 0700) < 0 && errno != EEXIST ? -errno : 0;
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", q->state_dir);
        if (asprintf(&lock, "%s/shim.lock", q->state_dir) < 0)
                lock = NULL;
        if (asprintf(&config, "%s/config.json", q->state_dir) < 0)
                config = NULL;
        if (!lock || !config)
                return ferry_error_set_errno(reterr, -ENOMEM, "place");
        fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", lock);
        fd_close(fd);
        r = file_replace(AT_FDCWD, config, text, strlen(text), 0600, false);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", config);
        *ret_config = TAKE_PTR(config);
        return 0;
}

/* Asked by containerd 2's controller of sandboxes, which talks to version 3 only. Others take a
 * plain address for version 2, and the oldest take nothing else. */
static bool is_of_a_pod(void) {
        char folder[PATH_MAX];

        return getcwd(folder, sizeof(folder)) &&
               strstr(folder, "/io.containerd.sandbox.controller.v1.shim/");
}

static size_t fill_argv(containerd_request *q, const char *config, const char *cache,
                        const char *argv[ARGV_MAX]) {
        const char *events = getenv("TTRPC_ADDRESS");
        size_t n = 0;

        argv[n++] = "containerd-shim-ferry-v2";
        argv[n++] = "serve";
        argv[n++] = "--state-dir";
        argv[n++] = q->state_dir;
        argv[n++] = "--id";
        argv[n++] = q->sandbox;
        argv[n++] = "--ready-fd";
        argv[n++] = "3";
        argv[n++] = "--config";
        argv[n++] = config;
        argv[n++] = "--probe-cache";
        argv[n++] = cache;
        argv[n++] = "--namespace";
        argv[n++] = q->namespace;
        argv[n++] = "--cache-dir";
        argv[n++] = q->config->cache_dir;
        argv[n++] = "--containerd";
        argv[n++] = q->address;
        if (q->config->disk_root) {
                argv[n++] = "--disk-root";
                argv[n++] = q->config->disk_root;
        }
        snprintf(q->cache_max_mb, sizeof(q->cache_max_mb), "%u", q->config->cache_max_mb);
        argv[n++] = "--cache-max-mb";
        argv[n++] = q->cache_max_mb;
        if (q->config->layer_mb > 0) {
                snprintf(q->layer_mb, sizeof(q->layer_mb), "%u", q->config->layer_mb);
                argv[n++] = "--layer-mb";
                argv[n++] = q->layer_mb;
        }
        if (q->templates) {
                argv[n++] = "--template-dir";
                argv[n++] = q->templates;
        }
        if (events && events[0]) {
                argv[n++] = "--events";
                argv[n++] = events;
        }
        if (is_of_a_pod())
                argv[n++] = "--pod";
        if (q->debug) {
                argv[n++] = "--log-level";
                argv[n++] = "debug";
        }
        argv[n] = NULL;
        return n;
}

/* In the grandchild. containerd reads what `start` prints to its end: nothing of ours stays open.
 */
static _Noreturn void become_shim(const containerd_request *q, const char *const argv[],
                                  int ready) {
        _cleanup_(freep) char *log = NULL;
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), log_fd = -EBADF;
        int ready_fd = fcntl(ready, F_DUPFD_CLOEXEC, READY_FD + 1);
        sigset_t none;

        if (asprintf(&log, "%s/shim.log", q->state_dir) > 0)
                log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (null_fd < 0 || log_fd < 0 || ready_fd < 0 || dup2(null_fd, 0) < 0 ||
            dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0 || dup2(ready_fd, READY_FD) < 0 ||
            close_range(READY_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0 || chdir("/") < 0)
                _exit(126);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)execv("/proc/self/exe", (char **)argv);
        _exit(127);
}

static int launch(const containerd_request *q, const char *const argv[], int *ret_ready,
                  ferry_error *reterr) {
        int fds[2];
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return ferry_error_set_errno(reterr, -errno, "pipe");
        pid = fork();
        if (pid == 0) {
                (void)setsid();
                pid = fork();
                if (pid == 0)
                        become_shim(q, argv, fds[1]);
                _exit(pid < 0);
        }
        fd_close(fds[1]);
        if (pid < 0) {
                fd_close(fds[0]);
                return ferry_error_set_errno(reterr, -EAGAIN, "fork");
        }
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        *ret_ready = fds[0];
        return 0;
}

static int wait_ready(const containerd_request *q, int fd, ferry_error *reterr) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        char text[8];

        if (poll(&p, 1, READY_MSEC) == 1 && read(fd, text, sizeof(text)) == 6)
                return 0;
        return ferry_error_set(reterr, FERRY_INTERNAL, -EIO,
                               "the shim did not start: %s/shim.log says why", q->state_dir);
}

/* containerd 1.6 finds the shim again by this file. */
static int tell_address(const containerd_request *q, ferry_error *reterr) {
        _cleanup_(freep) char *address = NULL;
        int r, n;

        if (asprintf(&address, "unix://%s/shim.sock", q->state_dir) < 0) {
                address = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "address");
        }
        r = file_replace(AT_FDCWD, "address", address, strlen(address), 0600, false);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "address");
        n = is_of_a_pod()
                    ? printf("{\"version\":3,\"address\":\"%s\",\"protocol\":\"ttrpc\"}", address)
                    : printf("%s", address);
        if (n < 0 || fflush(stdout) != 0)
                return ferry_error_set_errno(reterr, -EIO, "standard output");
        return 0;
}

static int start(containerd_request *q, ferry_error *reterr) {
        _cleanup_(freep) char *config = NULL, *cache = NULL;
        _cleanup_(closep) int ready = -EBADF, lock = -EBADF;
        const char *argv[ARGV_MAX];
        int r;

        if (containerd_has_shim(q, &lock))
                return tell_address(q, reterr);
        lock = fd_close(lock);
        if (q->came_with)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "the sandbox %s that %s is said to come with has no shim in "
                                       "%s: it is imported first (`ferry migrate`)",
                                       q->came_with, q->id, q->config->root);
        if (q->pod)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "%s belongs to the sandbox %s, which has no shim", q->id,
                                       q->pod);
        r = make_place(q, &config, reterr);
        if (r < 0)
                return r;
        if (asprintf(&cache, "%s/.probe", q->config->root) < 0) {
                cache = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "start");
        }
        if (q->config->template) {
                q->templates = containerd_config_templates(q->config, q->namespace);
                if (!q->templates)
                        return ferry_error_set_errno(reterr, -ENOMEM, "start");
        }
        (void)fill_argv(q, config, cache, argv);
        r = launch(q, argv, &ready, reterr);
        if (r == 0)
                r = wait_ready(q, ready, reterr);
        return r < 0 ? r : tell_address(q, reterr);
}

int containerd_main(int argc, char **argv) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(request_done) containerd_request q = { .namespace = NULL };
        int r;

        r = parse(argc, argv, &q, &error);
        if (r == 0)
                r = find_place(&q, &error);
        if (r == 0 && q.is_delete) {
                r = containerd_delete(&q, &error);
        } else if (r == 0)
                r = start(&q, &error);
        if (r < 0)
                fprintf(stderr, "containerd-shim-ferry-v2: %s\n", ferry_error_message(&error));
        return r < 0;
}
