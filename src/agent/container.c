/* SPDX-License-Identifier: MIT */
#include "agent/container.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "agent/cgroup.h"
#include "agent/disk.h"
#include "agent/root.h"

#define JOB_FOLDER "/run/ferry/jobs"
#define WORDS      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
#define PATH_SIZE  160

/* A crun under way, and what it leaves for us in its folder: pid, console.sock, what it reads. */
typedef struct operation {
        container_table *table;
        char id[CONTAINER_ID_MAX + 1]; /* the container's */
        char process_id[PROCESS_ID_MAX + 1];
        char folder[PATH_SIZE];
        int console; /* listens for the terminal, or -EBADF */
        bool creates, deletes;
        container_done done;
        void *userdata;

        /* for the child */
        const char *verb;
        const container_spec *spec;
        process_ends ends;
        const char *file_option, *file_name;
} operation;

/* ---- the table ---- */

container *container_find(const container_table *t, const char *id) {
        for (container *c = t->first; c; c = c->next)
                if (strcmp(c->id, id) == 0)
                        return c;
        return NULL;
}

static void forget(container_table *t, const char *id) {
        for (container **at = &t->first; *at; at = &(*at)->next)
                if (strcmp((*at)->id, id) == 0) {
                        container *c = *at;

                        *at = c->next;
                        t->n--;
                        free(c);
                        return;
                }
}

static bool is_word(const char *text, size_t max) {
        size_t n = strlen(text);

        return n > 0 && n <= max && strspn(text, WORDS) == n && text[0] != '.';
}

static void container_folder(const char *id, char ret[PATH_SIZE]) {
        (void)snprintf(ret, PATH_SIZE, CONTAINER_FOLDER "/%s", id);
}

/* ---- files ---- */

static int make_folder(const char *path) {
        return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int write_bundle(const char *folder, const container_spec *spec) {
        int r;

        r = make_folder("/run/ferry");
        if (r == 0)
                r = make_folder(CONTAINER_FOLDER);
        if (r == 0)
                r = mkdir(folder, 0700) < 0 ? -errno : 0;
        if (r == 0)
                r = container_write(folder, "config.json", spec->config, spec->n_config, 0600);
        return r < 0 ? r : container_write_files(folder, spec->files, spec->n_files);
}

/* ---- an operation ---- */

static operation *operation_free(operation *o) {
        if (!o)
                return NULL;
        fd_close(o->console);
        process_ends_done(&o->ends);
        if (o->folder[0])
                (void)root_remove(o->folder);
        free(o);
        return NULL;
}

DEFINE_CLEANUP(operation *, operation_free)

static int listen_for_terminal(operation *o) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/console.sock", o->folder);
        o->console = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (o->console < 0 || bind(o->console, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(o->console, 1) < 0)
                return -errno;
        return 0;
}

static int operation_new(container_table *t, const char *id, const char *verb, container_done done,
                         void *userdata, operation **ret) {
        _cleanup_(operation_freep) operation *o = calloc(1, sizeof(*o));
        int r;

        if (!o)
                return -ENOMEM;
        *o = (operation){ .table = t,
                          .verb = verb,
                          .console = -EBADF,
                          .ends = PROCESS_ENDS_INIT,
                          .done = done,
                          .userdata = userdata };
        (void)snprintf(o->id, sizeof(o->id), "%s", id);
        r = make_folder("/run/ferry");
        if (r == 0)
                r = make_folder(JOB_FOLDER);
        if (r < 0)
                return r;
        (void)snprintf(o->folder, sizeof(o->folder), JOB_FOLDER "/%u", t->next_job++);
        if (mkdir(o->folder, 0700) < 0) {
                o->folder[0] = '\0';
                return -errno;
        }
        *ret = TAKE_PTR(o);
        return 0;
}

/* In the child. */
static int run_crun(int log, const operation *o) {
        char log_path[32], pid_path[2 * PATH_SIZE], console_path[2 * PATH_SIZE],
                file_path[2 * PATH_SIZE], bundle[PATH_SIZE];
        const char *argv[24] = { CRUN, "--cgroup-manager=cgroupfs", "--log" };
        size_t n = 3;

        (void)snprintf(log_path, sizeof(log_path), "/proc/self/fd/%d", log);
        (void)snprintf(pid_path, sizeof(pid_path), "%s/pid", o->folder);
        (void)snprintf(console_path, sizeof(console_path), "%s/console.sock", o->folder);
        (void)snprintf(file_path, sizeof(file_path), "%s/%s", o->folder, o->file_name);
        container_folder(o->id, bundle);
        argv[n++] = log_path;
        argv[n++] = o->verb;
        if (o->creates) {
                argv[n++] = "--bundle";
                argv[n++] = bundle;
        }
        if (o->process_id[0]) {
                argv[n++] = "--pid-file";
                argv[n++] = pid_path;
        }
        if (o->process_id[0] && !o->creates)
                argv[n++] = "--detach";
        if (o->console >= 0) {
                argv[n++] = "--console-socket";
                argv[n++] = console_path;
        }
        if (o->file_option) {
                argv[n++] = o->file_option;
                argv[n++] = file_path;
        }
        if (o->deletes)
                argv[n++] = "--force";
        argv[n++] = o->id;
        argv[n] = NULL;
        (void)execv(CRUN, (char **)argv);
        (void)dprintf(log, "%s: %s: the guest's image is without containers\n", CRUN,
                      strerror(errno));
        return 127;
}

static int create_in_child(int log, const void *argument) {
        const operation *o = argument;
        char folder[PATH_SIZE];

        container_folder(o->id, folder);
        (void)dup2(log, STDERR_FILENO);
        if (root_mount(&(root_spec){ .folder = folder,
                                     .disk = o->spec->disk,
                                     .fstype = o->spec->fstype,
                                     .upper_bytes = o->spec->upper_bytes,
                                     .upper_disk = o->spec->upper_disk }) < 0)
                return 126;
        (void)dup2(o->ends.fds[2], STDERR_FILENO);
        return run_crun(log, o);
}

static int run_in_child(int log, const void *argument) {
        return run_crun(log, argument);
}

/* crun first, then what it stood on; that there is no such container for crun is as good. */
static int delete_in_child(int log, const void *argument) {
        const operation *o = argument;
        char folder[PATH_SIZE];
        pid_t pid = fork();

        if (pid == 0)
                _exit(run_crun(log, o));
        if (pid > 0)
                while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        container_folder(o->id, folder);
        return root_remove(folder) < 0;
}

/* ---- a process that crun has made ---- */

static int read_pid(const operation *o, pid_t *ret) {
        _cleanup_(fclosep) FILE *file = NULL;
        char path[2 * PATH_SIZE];
        int pid;

        (void)snprintf(path, sizeof(path), "%s/pid", o->folder);
        file = fopen(path, "re");
        if (!file || fscanf(file, "%d", &pid) != 1 || pid <= 1)
                return -EIO;
        *ret = pid;
        return 0;
}

static int receive_terminal(const operation *o, process *p) {
        _cleanup_(closep) int connection = accept4(o->console, NULL, NULL, SOCK_CLOEXEC);
        char data[256], control[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
        struct msghdr message = { .msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = control,
                                  .msg_controllen = sizeof(control) };
        struct cmsghdr *header;
        int fd;

        if (connection < 0 || recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
                return -errno;
        header = CMSG_FIRSTHDR(&message);
        if (!header || header->cmsg_type != SCM_RIGHTS)
                return -EIO;
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        return process_take_terminal(p, fd);
}

/* Its end may have been seen before its pid was known. */
static void check_strangers(container_table *t, pid_t pid) {
        for (size_t i = 0; i < t->n_strangers; i++)
                if (t->strangers[i].pid == pid) {
                        t->strangers[i].pid = 0;
                        (void)process_reaped(t->processes, pid, t->strangers[i].status);
                }
}

static int adopt(const operation *o, pid_t *ret_pid) {
        process *p = process_find(o->table->processes, o->process_id);
        int r;

        if (!p)
                return -ESRCH;
        r = read_pid(o, ret_pid);
        if (r == 0 && o->console >= 0)
                r = receive_terminal(o, p);
        if (r == 0)
                process_begun(p, *ret_pid);
        return r;
}

/* Nothing of it stays. */
static void undo(operation *o) {
        process *p = o->process_id[0] ? process_find(o->table->processes, o->process_id) : NULL;
        char folder[PATH_SIZE];

        if (p)
                process_forget(o->table->processes, p);
        if (!o->creates)
                return;
        container_folder(o->id, folder);
        (void)root_remove(folder);
        forget(o->table, o->id);
}

static void on_done(bool ok, const char *text, void *userdata) {
        _cleanup_(operation_freep) operation *o = userdata;
        container *c = container_find(o->table, o->id);
        pid_t pid = 0;
        int r = ok ? 0 : -EREMOTEIO;

        if (c)
                c->busy = false;
        if (r == 0 && o->process_id[0]) {
                r = adopt(o, &pid);
                if (r < 0)
                        text = "crun did not say which process it has made, or give its terminal";
        }
        if (r < 0)
                undo(o);
        else if (o->deletes)
                forget(o->table, o->id);
        o->done(r, text[0] ? text : "crun failed without a word", pid, o->userdata);
        if (pid > 0)
                check_strangers(o->table, pid);
}

static int start(operation *o, int (*run)(int log, const void *argument),
                 const process_ends *ends) {
        return job_start(&o->table->jobs, run, o, ends, on_done, o);
}

/* ---- calls ---- */

static int check_spec(const container_table *t, const container_spec *spec) {
        static const char *const fstypes[] = { "erofs", "ext4", "squashfs" };
        bool known = false;

        for (size_t i = 0; i < ELEMENTS(fstypes); i++)
                known |= strcmp(spec->fstype, fstypes[i]) == 0;
        if (!is_word(spec->id, CONTAINER_ID_MAX) || !is_word(spec->disk, DISK_SERIAL_MAX) ||
            (spec->upper_disk[0] && !is_word(spec->upper_disk, DISK_SERIAL_MAX)) || !known ||
            spec->n_config == 0 || spec->n_files > CONTAINER_FILES_MAX)
                return -EINVAL;
        if (container_find(t, spec->id))
                return -EEXIST;
        return t->n == CONTAINERS_MAX ? -ENFILE : 0;
}

int container_create(container_table *t, const container_spec *spec, container_done done,
                     void *userdata) {
        _cleanup_(operation_freep) operation *o = NULL;
        char folder[PATH_SIZE];
        process *p = NULL;
        container *c;
        int r;

        r = check_spec(t, spec);
        if (r == 0)
                r = operation_new(t, spec->id, "create", done, userdata, &o);
        if (r == 0 && spec->process.terminal)
                r = listen_for_terminal(o);
        if (r == 0)
                r = process_begin(t->processes, &spec->process, &o->ends, &p);
        if (r < 0)
                return r;
        c = calloc(1, sizeof(*c));
        container_folder(spec->id, folder);
        r = c ? write_bundle(folder, spec) : -ENOMEM;
        if (r == 0) {
                o->creates = true;
                o->spec = spec; /* the child's copy of the memory is what counts */
                strcpy(o->process_id, p->id);
                r = start(o, create_in_child, &o->ends);
        }
        if (r < 0) {
                process_forget(t->processes, p);
                if (r != -EEXIST)
                        (void)root_remove(folder);
                free(c);
                return r;
        }
        strcpy(c->id, spec->id);
        c->busy = true;
        c->next = t->first;
        t->first = c;
        t->n++;
        o->spec = NULL;
        process_ends_done(&o->ends);
        (void)TAKE_PTR(o);
        return 0;
}

static int need(const container_table *t, const char *id, container **ret) {
        container *c = container_find(t, id);

        if (ret)
                *ret = c;
        return !c ? -ENOENT : c->busy ? -EBUSY : 0;
}

int container_exec(container_table *t, const char *id, const process_spec *spec,
                   const void *oci_process, size_t n, container_done done, void *userdata) {
        _cleanup_(operation_freep) operation *o = NULL;
        process *p = NULL;
        int r;

        r = need(t, id, NULL);
        if (r == 0)
                r = operation_new(t, id, "exec", done, userdata, &o);
        if (r == 0)
                r = container_write(o->folder, "process.json", oci_process, n, 0600);
        if (r == 0 && spec->terminal)
                r = listen_for_terminal(o);
        if (r == 0)
                r = process_begin(t->processes, spec, &o->ends, &p);
        if (r < 0)
                return r;
        strcpy(o->process_id, p->id);
        o->file_option = "--process";
        o->file_name = "process.json";
        r = start(o, run_in_child, &o->ends);
        if (r < 0) {
                process_forget(t->processes, p);
                return r;
        }
        process_ends_done(&o->ends);
        (void)TAKE_PTR(o);
        return 0;
}

int container_do(container_table *t, const char *id, const char *verb, container_done done,
                 void *userdata) {
        _cleanup_(operation_freep) operation *o = NULL;
        int r;

        r = need(t, id, NULL);
        if (r == 0)
                r = operation_new(t, id, verb, done, userdata, &o);
        if (r == 0)
                r = start(o, run_in_child, NULL);
        if (r == 0)
                (void)TAKE_PTR(o);
        return r;
}

int container_update(container_table *t, const char *id, const void *resources, size_t n,
                     container_done done, void *userdata) {
        _cleanup_(operation_freep) operation *o = NULL;
        int r;

        r = need(t, id, NULL);
        if (r == 0)
                r = operation_new(t, id, "update", done, userdata, &o);
        if (r == 0)
                r = container_write(o->folder, "resources.json", resources, n, 0600);
        if (r < 0)
                return r;
        o->file_option = "--resources";
        o->file_name = "resources.json";
        r = start(o, run_in_child, NULL);
        if (r == 0)
                (void)TAKE_PTR(o);
        return r;
}

int container_delete(container_table *t, const char *id, container_done done, void *userdata) {
        _cleanup_(operation_freep) operation *o = NULL;
        container *c;
        int r;

        r = need(t, id, &c);
        if (r == 0)
                r = operation_new(t, id, "delete", done, userdata, &o);
        if (r < 0)
                return r;
        o->deletes = true;
        r = start(o, delete_in_child, NULL);
        if (r < 0)
                return r;
        c->busy = true;
        (void)TAKE_PTR(o);
        return 0;
}

/* ---- ends ---- */

void container_reaped(container_table *t, pid_t pid, int status) {
        if (job_reaped(&t->jobs, pid, status)) {
                if (!t->jobs.first) /* nobody claims them any more, and pids come again */
                        t->n_strangers = 0;
                return;
        }
        if (process_reaped(t->processes, pid, status) || !t->jobs.first ||
            t->n_strangers == ELEMENTS(t->strangers))
                return;
        t->strangers[t->n_strangers].pid = pid;
        t->strangers[t->n_strangers++].status = status;
}
