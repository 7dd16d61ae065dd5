/* SPDX-License-Identifier: MIT */
#include "rootfs/rootfs.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "rootfs/cache.h"
#include "rootfs/mounts.h"
#include "rootfs/pack.h"

struct rootfs_job {
        sd_event *event;
        sd_event_source *source; /* the process's report, or the next turn when there is none */
        pid_t pid;               /* 0: none */
        int pidfd, report_fd, cache_fd;
        char *path;
        const char *name; /* in `path` */
        rootfs_image image;
        rootfs_done done;
        void *userdata;
};

/* Its mkfs.erofs too. */
static void kill_all(rootfs_job *job) {
        (void)kill(-job->pid, SIGKILL);
        (void)syscall(SYS_pidfd_send_signal, job->pidfd, SIGKILL, NULL, 0);
}

static void reap(rootfs_job *job) {
        siginfo_t info;

        while (waitid(P_PIDFD, (id_t)job->pidfd, &info, WEXITED) < 0 && errno == EINTR)
                ;
        job->pid = 0;
}

rootfs_job *rootfs_job_free(rootfs_job *job) {
        if (!job)
                return NULL;
        if (job->pid > 0) {
                kill_all(job);
                reap(job);
        }
        sd_event_source_disable_unref(job->source);
        sd_event_unref(job->event);
        fd_close(job->pidfd);
        fd_close(job->report_fd);
        fd_close(job->cache_fd);
        fd_close(job->image.use_fd);
        free(job->path);
        free(job);
        return NULL;
}

int rootfs_release(int use_fd_consume) {
        if (use_fd_consume >= 0)
                cache_mark(use_fd_consume);
        return fd_close(use_fd_consume);
}

static int find_image(rootfs_job *job) {
        int r = cache_use(job->cache_fd, job->name, &job->image.use_fd, &job->image.bytes);

        if (r == 0)
                job->image.path = job->path;
        return r;
}

/* ---- the end ---- */

static int on_found(sd_event_source *source, void *userdata) {
        rootfs_job *job = userdata;

        job->done(0, NULL, &job->image, job->userdata);
        return 0;
}

static int read_report(rootfs_job *job, ferry_error *reterr) {
        pack_report report;
        ssize_t n = read(job->report_fd, &report, sizeof(report));

        if (n != (ssize_t)sizeof(report))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO,
                                       "the process that packs a root file system was killed");
        report.text[sizeof(report.text) - 1] = '\0';
        if (report.r < 0)
                return ferry_error_set(reterr, report.code, report.r, "%s", report.text);
        report.r = find_image(job);
        if (report.r < 0)
                return ferry_error_set_errno(reterr, report.r, "%s", job->path);
        return 0;
}

static int on_end(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        rootfs_job *job = userdata;
        int r;

        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        r = read_report(job, &error);
        kill_all(job); /* of what it started nothing is left */
        reap(job);
        job->done(r, r < 0 ? &error : NULL, r == 0 ? &job->image : NULL, job->userdata);
        return 0;
}

/* ---- the start ---- */

static void close_all_but(int a, int b) {
        int low = a < b ? a : b, high = a < b ? b : a;

        if (low > 3)
                (void)syscall(SYS_close_range, 3U, (unsigned)low - 1, 0U);
        if (high > low + 1)
                (void)syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0U);
        (void)syscall(SYS_close_range, (unsigned)high + 1, ~0U, 0U);
}

/* It has signals, descriptors and a process group of its own, and does not outlive us. */
_Noreturn static void run(const pack_order *order, int report_fd, pid_t parent) {
        sigset_t none;

        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)setpgid(0, 0);
        (void)umask(077);
        if (getppid() != parent || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                _exit(1);
        close_all_but(order->cache_fd, report_fd);
        pack_run(order, report_fd);
}

static int start(rootfs_job *job, const pack_order *order, ferry_error *reterr) {
        _cleanup_(closep) int writer = -EBADF;
        int ends[2], r;
        pid_t parent = getpid();

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
                return ferry_error_set_errno(reterr, -errno, "rootfs");
        job->report_fd = ends[0];
        writer = ends[1];
        job->pid = fork();
        if (job->pid < 0) {
                r = -errno;
                job->pid = 0;
                return ferry_error_set_errno(reterr, r, "fork");
        }
        if (job->pid == 0)
                run(order, writer, parent);
        (void)setpgid(job->pid, job->pid); /* whoever comes first */
        job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
        if (job->pidfd < 0) {
                r = -errno;
                (void)kill(job->pid, SIGKILL);
                (void)waitpid(job->pid, NULL, 0);
                job->pid = 0;
                return ferry_error_set_errno(reterr, r, "pidfd");
        }
        r = sd_event_add_io(job->event, &job->source, job->report_fd, EPOLLIN, on_end, job);
        return r < 0 ? ferry_error_set_errno(reterr, r, "rootfs") : 0;
}

static int open_cache(rootfs_job *job, const char *path, ferry_error *reterr) {
        struct stat st;

        if (path[0] != '/' || strlen(path) > 3800)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "the cache of root file systems must be an absolute path");
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "%s", path);
        job->cache_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (job->cache_fd < 0 || fstat(job->cache_fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", path);
        /* What lies in there becomes a container's programs. */
        if (st.st_uid != geteuid() || (st.st_mode & 0022))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPERM,
                                       "%s: others may write to it", path);
        if (asprintf(&job->path, "%s/%s.erofs", path, job->image.key) < 0) {
                job->path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "rootfs");
        }
        job->name = job->path + strlen(path) + 1;
        return 0;
}

int rootfs_pack(sd_event *event, const rootfs_mount *mounts, size_t n_mounts, const char *cache_dir,
                uint32_t cache_max_mb, const char *identity, rootfs_done done, void *userdata,
                rootfs_job **ret, ferry_error *reterr) {
        _cleanup_(rootfs_job_freep) rootfs_job *job = NULL;
        uint8_t key[DIGEST_SIZE];
        int r;

        r = mounts_check(mounts, n_mounts, reterr);
        if (r < 0)
                return r;
        if (!identity[0] || strlen(identity) > ROOTFS_IDENTITY_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "the identity of a root file system: 1 to %u bytes",
                                       ROOTFS_IDENTITY_MAX);
        job = malloc(sizeof(*job));
        if (!job)
                return ferry_error_set_errno(reterr, -ENOMEM, "rootfs");
        *job = (rootfs_job){ .event = sd_event_ref(event),
                             .pidfd = -EBADF,
                             .report_fd = -EBADF,
                             .cache_fd = -EBADF,
                             .image = { .use_fd = -EBADF },
                             .done = done,
                             .userdata = userdata };
        digest_sha256(identity, strlen(identity), key);
        hex_encode(key, sizeof(key), job->image.key);
        r = open_cache(job, cache_dir, reterr);
        if (r < 0)
                return r;
        if (find_image(job) == 0) {
                r = sd_event_add_defer(event, &job->source, on_found, job);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "rootfs");
        } else {
                pack_order order = { .mounts = mounts,
                                     .n_mounts = n_mounts,
                                     .cache_fd = job->cache_fd,
                                     .cache = cache_dir,
                                     .name = job->name,
                                     .key = key,
                                     .cache_max = (uint64_t)cache_max_mb << 20 };

                r = start(job, &order, reterr);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(job);
        return 0;
}
