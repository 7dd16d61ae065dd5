/* SPDX-License-Identifier: MIT */
#include "rootfs/layer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "rootfs/mkfs.h"

#define PROGRAM "mkfs.ext4"
/* Beside the little that an empty one takes: who cannot write a few MiB has no use for it. */
#define SPARE_BYTES (UINT64_C(8) << 20)

struct layer_job {
        char *path, *folder;
        int image, log; /* image: without a name until it is whole */
        pid_t pid;      /* 0: it has ended */
        int pidfd;
        sd_event_source *end;
        layer_done done;
        void *userdata;
};

layer_job *layer_job_free(layer_job *job) {
        if (!job)
                return NULL;
        sd_event_source_disable_unref(job->end);
        if (job->pid > 0) {
                (void)kill(job->pid, SIGKILL);
                while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        fd_close(job->image);
        fd_close(job->log);
        fd_close(job->pidfd);
        free(job->path);
        free(job->folder);
        free(job);
        return NULL;
}

static int check_room(const layer_job *job, ferry_error *reterr) {
        struct statvfs fs;
        uint64_t room;

        if (fstatvfs(job->image, &fs) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", job->folder);
        room = (uint64_t)fs.f_bavail * fs.f_frsize;
        return room < SPARE_BYTES
                       ? ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                         "%s has room for %" PRIu64
                                         " bytes: a container needs %" PRIu64 " to begin with",
                                         job->folder, room, SPARE_BYTES)
                       : 0;
}

static int open_image(layer_job *job, uint32_t mb, ferry_error *reterr) {
        if (mkdir(job->folder, 0700) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "%s", job->folder);
        job->image = open(job->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (job->image < 0 || ftruncate(job->image, (off_t)mb << 20) < 0)
                return ferry_error_set_errno(reterr, -errno, "a file of %u MiB in %s", mb,
                                             job->folder);
        return check_room(job, reterr);
}

static int publish(const layer_job *job, ferry_error *reterr) {
        char path[MKFS_PATH_SIZE];

        mkfs_path(job->image, path);
        return linkat(AT_FDCWD, path, AT_FDCWD, job->path, AT_SYMLINK_FOLLOW) < 0
                       ? ferry_error_set_errno(reterr, -errno, "%s", job->path)
                       : 0;
}

static int on_end(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        layer_job *job = userdata;
        int status = 0, r;

        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        while (waitpid(job->pid, &status, 0) < 0 && errno == EINTR)
                ;
        job->pid = 0;
        r = mkfs_result(status, job->log, PROGRAM, "e2fsprogs", job->folder, &error);
        if (r == 0)
                r = publish(job, &error);
        job->done(r, &error, job->userdata);
        return 0;
}

_Noreturn static void become_mkfs(const layer_job *job) {
        char path[MKFS_PATH_SIZE];
        const char *const argv[] = { PROGRAM,
                                     "-q",
                                     "-F",
                                     "-m0",
                                     "-O^has_journal,^resize_inode",
                                     "-Elazy_itable_init=1,nodiscard",
                                     path,
                                     NULL };
        sigset_t none;

        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        mkfs_path(job->image, path);
        mkfs_run(argv, job->image, job->log);
}

static int job_new(const char *path, layer_done done, void *userdata, layer_job **ret) {
        _cleanup_(layer_job_freep) layer_job *job = malloc(sizeof(*job));
        const char *name = strrchr(path, '/');

        if (!job)
                return -ENOMEM;
        *job = (layer_job){
                .image = -EBADF, .log = -EBADF, .pidfd = -EBADF, .done = done, .userdata = userdata
        };
        if (path[0] != '/' || name == path || name[1] == '\0')
                return -EINVAL;
        job->path = strdup(path);
        job->folder = strndup(path, (size_t)(name - path));
        if (!job->path || !job->folder)
                return -ENOMEM;
        *ret = TAKE_PTR(job);
        return 0;
}

int layer_make(sd_event *event, const char *path, uint32_t mb, layer_done done, void *userdata,
               layer_job **ret, ferry_error *reterr) {
        _cleanup_(layer_job_freep) layer_job *job = NULL;
        int r;

        if (mb < LAYER_MB_MIN || mb > LAYER_MB_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "a writable layer has %u to %u MiB", LAYER_MB_MIN,
                                       LAYER_MB_MAX);
        r = job_new(path, done, userdata, &job);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", path);
        r = open_image(job, mb, reterr);
        if (r < 0)
                return r;
        job->log = memfd_create(PROGRAM, MFD_CLOEXEC);
        job->pid = job->log < 0 ? -1 : fork();
        if (job->pid < 0)
                return ferry_error_set_errno(reterr, -errno, PROGRAM);
        if (job->pid == 0)
                become_mkfs(job);
        job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0U);
        r = job->pidfd < 0 ? -errno
                           : sd_event_add_io(event, &job->end, job->pidfd, EPOLLIN, on_end, job);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, PROGRAM);
        *ret = TAKE_PTR(job);
        return 0;
}
