/* SPDX-License-Identifier: MIT */

/* The guest's process 1: mounts, modules, network, then one program, whose children it adopts.
 * docs/guest-image.md lists the parameters. It says on the console what failed and goes on: a
 * guest with a console is worth more than a panic. */

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/agent.h"
#include "agent/container.h"
#include "agent/modules.h"
#include "agent/network.h"
#include "agent/parameters.h"
#include "base/cleanup.h"

static void complain(const char *what, int r) {
        (void)fprintf(stderr, "ferry-guest: %s: %s\n", what, strerror(-r));
}

static void mount_all(void) {
        static const struct {
                const char *type;
                const char *path;
                unsigned long flags;
                const char *options;
        } mounts[] = {
                { "devtmpfs", "/dev", MS_NOSUID, "mode=0755" },
                { "proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
                { "sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
                { "cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
                { "tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755" },
                { "tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777" },
                { "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666" },
        };

        for (size_t i = 0; i < ELEMENTS(mounts); i++) {
                (void)mkdir(mounts[i].path, 0755); /* /dev/pts is not in the image */
                if (mount(mounts[i].type, mounts[i].path, mounts[i].type, mounts[i].flags,
                          mounts[i].options) < 0)
                        complain(mounts[i].path, -errno);
        }
}

/* The initramfs is nobody's child, and pivot_root() refuses to leave such a root: a mount of it on
 * top of itself is as good as a copy. */
static void leave_the_first_root(void) {
        if (mount("/", "/run", NULL, MS_BIND, NULL) < 0 || chdir("/run") < 0 ||
            mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
                complain("/", -errno);
}

static void set_up_network(const char *parameters) {
        struct in_addr address, mask, gateway;
        char value[64];
        int r;

        r = network_loopback_up();
        if (r < 0)
                complain("lo", r);
        if (!parameter_get(parameters, "ip", value, sizeof(value)))
                return;
        if (!parameter_address(value, &address, &mask)) {
                (void)fprintf(stderr, "ferry-guest: ferry.ip=%s: want A.B.C.D/PREFIX\n", value);
                return;
        }
        r = network_interface_up("eth0", address, mask);
        if (r < 0)
                complain("eth0", r);
        if (!parameter_get(parameters, "gw", value, sizeof(value)))
                return;
        r = inet_aton(value, &gateway) ? network_add_gateway(gateway) : -EINVAL;
        if (r < 0)
                complain("ferry.gw", r);
}

/* A guest for containers is told its network, if it is to have one: no container waits for a driver
 * that it does not need. */
static bool waits_for_network(const char *parameters) {
        char value[64];

        return access(CRUN, X_OK) == 0 && !parameter_get(parameters, "ip", value, sizeof(value));
}

/* The terminal behind /dev/console, which itself cannot be a controlling terminal. */
static int open_terminal(void) {
        _cleanup_(fclosep) FILE *active = fopen("/sys/class/tty/console/active", "re");
        char names[128] = "", path[160];
        const char *last;
        int fd = -EBADF;

        if (active && fgets(names, sizeof(names), active)) {
                names[strcspn(names, "\n")] = '\0';
                last = strrchr(names, ' ');
                (void)snprintf(path, sizeof(path), "/dev/%s", last ? last + 1 : names);
                fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        }
        return fd >= 0 ? fd : open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

/* In the child: its own session on the terminal, no signal blocked, a small environment. */
static _Noreturn void become(const char *const argv[]) {
        static const char *const environment[] = { "PATH=/bin", "HOME=/root", "TERM=linux", NULL };
        int terminal = open_terminal();
        sigset_t none;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)setsid();
        if (terminal >= 0) {
                (void)ioctl(terminal, TIOCSCTTY, 1);
                for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                        (void)dup2(terminal, fd);
        }
        (void)chdir("/root");
        (void)execve(argv[0], (char *const *)argv, (char *const *)environment);
        complain(argv[0], -errno);
        _exit(127);
}

static pid_t start(const char *const argv[]) {
        pid_t pid = fork();

        if (pid == 0)
                become(argv);
        if (pid < 0)
                complain("fork", -errno);
        return pid;
}

static pid_t start_shell(void) {
        static const char *const install[] = { "/bin/busybox", "--install", "-s", "/bin", NULL };
        static const char *const shell[] = { "/bin/busybox", "sh", "-l", NULL };
        static bool installed;
        pid_t pid;

        /* Only a person needs the applets' names. */
        if (!installed) {
                pid = start(install);
                if (pid > 0)
                        (void)waitpid(pid, NULL, 0);
                installed = true;
        }
        return start(shell);
}

static pid_t start_program(const char *run) {
        const char *const workload[] = { "/bin/ferry-workload", run, NULL };

        if (strcmp(run, "demo") == 0 || strcmp(run, "tick") == 0)
                return start(workload);
        if (strcmp(run, "shell") != 0)
                (void)fprintf(stderr, "ferry-guest: ferry.run=%s: want demo, tick or shell\n", run);
        return start_shell();
}

static _Noreturn void end(int how) {
        (void)kill(-1, SIGTERM);
        sync();
        (void)reboot(how);
        complain("reboot", -errno);
        for (;;)
                (void)pause();
}

/* Reaps everything; when the one program has ended, says so and puts a shell in its place. */
static void reap(agent *a, pid_t *program, const char *run) {
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
                if (pid != *program) {
                        if (a)
                                agent_reaped(a, pid, status);
                        continue;
                }
                if (strcmp(run, "shell") != 0)
                        (void)fprintf(stderr, "ferry-guest: %s ended (%s %d)\n", run,
                                      WIFSIGNALED(status) ? "signal" : "exit status",
                                      WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
                *program = start_shell();
        }
}

static agent *start_agent(void) {
        agent *a = NULL;
        int r = agent_new(&a);

        if (r < 0 && r != -ENODEV)
                complain("agent", r);
        return r < 0 ? NULL : a;
}

int main(void) {
        char parameters[PARAMETERS_TEXT_MAX], hostname[64] = "ferry-guest", run[32] = "shell";
        sigset_t signals;
        pid_t program;
        agent *a;
        int fd;

        (void)sigfillset(&signals);
        (void)sigprocmask(SIG_SETMASK, &signals, NULL); /* read below */
        leave_the_first_root();
        mount_all();
        parameters_read(parameters);
        modules_load(waits_for_network(parameters) ? MODULES_BUT_NETWORK : MODULES_ALL);
        (void)parameter_get(parameters, "hostname", hostname, sizeof(hostname));
        if (sethostname(hostname, strlen(hostname)) < 0)
                complain("hostname", -errno);
        set_up_network(parameters);
        a = start_agent();
        (void)parameter_get(parameters, "run", run, sizeof(run));

        /* The demo says it itself, once it listens. */
        if (strcmp(run, "demo") != 0)
                (void)printf("ferry-guest: ready\n");
        (void)fflush(stdout);
        program = start_program(run);

        /* What busybox's poweroff, halt and reboot send to process 1. */
        fd = signalfd(-1, &signals, SFD_CLOEXEC);
        for (;;) {
                struct signalfd_siginfo got;

                if (a && !agent_run(a, fd))
                        continue;
                if (read(fd, &got, sizeof(got)) != (ssize_t)sizeof(got))
                        continue;
                if (got.ssi_signo == SIGCHLD)
                        reap(a, &program, run);
                else if (got.ssi_signo == SIGUSR2 || got.ssi_signo == SIGUSR1)
                        end(RB_POWER_OFF);
                else if (got.ssi_signo == SIGTERM)
                        end(RB_AUTOBOOT);
        }
}
