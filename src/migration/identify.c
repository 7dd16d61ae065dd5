/* SPDX-License-Identifier: MIT */
#include "migration/identify.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/thread.h"

/* The thread's and ours; who lets go last frees it. */
typedef struct work {
        atomic_int n_ref;
        atomic_bool stop;
        int done_fd; /* eventfd, written to when all is read */
        vm_files files;
} work;

struct identify {
        work *work;
        sd_event_source *source;
        identify_done done;
        void *userdata;
};

static void work_unref(work *w) {
        if (atomic_fetch_sub(&w->n_ref, 1) > 1)
                return;
        for (size_t i = 0; i < w->files.n; i++)
                free(w->files.items[i].path);
        fd_close(w->done_fd);
        free(w);
}

static int add(vm_files *files, const char *role, const char *path, bool writable) {
        vm_file *file = &files->items[files->n];

        *file = (vm_file){ .path = strdup(path), .writable = writable };
        if (!file->path)
                return -ENOMEM;
        snprintf(file->role, sizeof(file->role), "%s", role);
        files->n++;
        return 0;
}

static int list(const vm_config *config, vm_files *files) {
        char role[VM_CONFIG_DISK_NAME_SIZE];
        int r = 0;

        if (config->kernel)
                r = add(files, "kernel", config->kernel, false);
        if (r == 0 && config->initrd)
                r = add(files, "initrd", config->initrd, false);
        for (size_t i = 0; r == 0 && i < config->n_disks; i++) {
                vm_config_disk_name(config, i, role);
                r = add(files, role, config->disks[i].path, !config->disks[i].readonly);
        }
        return r;
}

/* The path may come from another host: nothing but a file or a block device is read. */
static int look_at(vm_file *file, const atomic_bool *stop) {
        _cleanup_(closep) int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        struct stat st;
        off_t end;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return -EINVAL;
        if (!file->writable)
                return digest_file(fd, stop, file->digest, &file->size);
        end = lseek(fd, 0, SEEK_END);
        if (end < 0)
                return -errno;
        file->size = (uint64_t)end;
        return 0;
}

static void *read_all(void *userdata) {
        work *w = userdata;

        for (size_t i = 0; i < w->files.n && !atomic_load(&w->stop); i++)
                w->files.items[i].r = look_at(&w->files.items[i], &w->stop);
        (void)eventfd_write(w->done_fd, 1);
        work_unref(w);
        return NULL;
}

static int on_read(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        identify *job = userdata;

        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        job->done(&job->work->files, job->userdata);
        return 0;
}

static int start_thread(work *w) {
        int r;

        atomic_fetch_add(&w->n_ref, 1);
        r = thread_start(NULL, read_all, w);
        if (r < 0)
                atomic_fetch_sub(&w->n_ref, 1);
        return r;
}

int identify_start(sd_event *event, const vm_config *config, identify_done done, void *userdata,
                   identify **ret) {
        _cleanup_(identify_freep) identify *job = calloc(1, sizeof(*job));
        int r;

        if (!job)
                return -ENOMEM;
        *job = (identify){ .work = calloc(1, sizeof(work)), .done = done, .userdata = userdata };
        if (!job->work)
                return -ENOMEM;
        atomic_init(&job->work->n_ref, 1);
        job->work->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (job->work->done_fd < 0)
                return -errno;
        r = list(config, &job->work->files);
        if (r == 0)
                r = sd_event_add_io(event, &job->source, job->work->done_fd, EPOLLIN, on_read, job);
        if (r >= 0)
                r = start_thread(job->work);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(job);
        return 0;
}

identify *identify_free(identify *job) {
        if (!job)
                return NULL;
        sd_event_source_disable_unref(job->source);
        if (job->work) {
                atomic_store(&job->work->stop, true);
                work_unref(job->work);
        }
        free(job);
        return NULL;
}
