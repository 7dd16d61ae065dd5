/* SPDX-License-Identifier: MIT */

/* A link with delay, where the kernel has no netem: a tun device of the same name in each of two
 * network namespaces, and this process between them, which lets each packet wait. Both devices end
 * with it; it ends when its standard input does, or by a signal.
 *
 * usage: ferry-bench-delay NAMESPACE-PATH NAMESPACE-PATH DEVICE MSEC
 * Says "ready" when both devices are there. What a side sends beyond what fits waits in its
 * device's queue, whose rate is the caller's to limit (tbf). */

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define PACKET_MAX 2048U /* a tun device's MTU is 1500 */
#define QUEUE_MAX  4096U /* packets: 60 MB/s with 100 ms of delay */
#define MSEC_MAX   1000

typedef struct packet {
        uint64_t due_usec;
        size_t n;
        uint8_t bytes[PACKET_MAX];
} packet;

/* One direction. */
typedef struct way {
        int from, to;
        size_t first, n;
        packet packets[QUEUE_MAX];
} way;

static int fail(const char *what) {
        (void)fprintf(stderr, "ferry-bench-delay: %s: %s\n", what, strerror(errno));
        return -1;
}

static int open_device(const char *namespace, const char *name) {
        struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
        _cleanup_(closep) int there = open(namespace, O_RDONLY | O_CLOEXEC), fd = -EBADF;

        if (there < 0 || setns(there, CLONE_NEWNET) < 0)
                return fail(namespace);
        if (strlen(name) >= sizeof(request.ifr_name)) {
                errno = ENAMETOOLONG;
                return fail(name);
        }
        strcpy(request.ifr_name, name);
        fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
                return fail("/dev/net/tun");
        return TAKE_FD(fd);
}

/* False: the device is gone. */
static bool take_in(way *w, uint64_t delay_usec) {
        while (w->n < QUEUE_MAX) {
                packet *p = &w->packets[(w->first + w->n) % QUEUE_MAX];
                ssize_t k = read(w->from, p->bytes, sizeof(p->bytes));

                if (k <= 0)
                        return k < 0 && (errno == EAGAIN || errno == EINTR);
                p->n = (size_t)k;
                p->due_usec = now_usec() + delay_usec;
                w->n++;
        }
        return true;
}

/* What the device does not take is lost, as on a link. */
static void let_out(way *w) {
        uint64_t now = now_usec();

        for (; w->n > 0 && w->packets[w->first].due_usec <= now; w->n--) {
                packet *p = &w->packets[w->first];
                ssize_t ignored = write(w->to, p->bytes, p->n);

                (void)ignored;
                w->first = (w->first + 1) % QUEUE_MAX;
        }
}

static struct timespec time_to(const way *ways, size_t n) {
        uint64_t now = now_usec(), least = USEC_PER_SEC;

        for (size_t i = 0; i < n; i++) {
                uint64_t due = ways[i].packets[ways[i].first].due_usec, left;

                if (ways[i].n == 0)
                        continue;
                left = due > now ? due - now : 0;
                least = left < least ? left : least;
        }
        return (struct timespec){ .tv_sec = (time_t)(least / USEC_PER_SEC),
                                  .tv_nsec = (long)(least % USEC_PER_SEC * NSEC_PER_USEC) };
}

static int carry(way ways[2], uint64_t delay_usec) {
        for (;;) {
                struct timespec timeout = time_to(ways, 2);
                struct pollfd p[] = {
                        { .fd = STDIN_FILENO, .events = POLLIN },
                        { .fd = ways[0].n < QUEUE_MAX ? ways[0].from : -1, .events = POLLIN },
                        { .fd = ways[1].n < QUEUE_MAX ? ways[1].from : -1, .events = POLLIN },
                };

                if (ppoll(p, ELEMENTS(p), &timeout, NULL) < 0 && errno != EINTR)
                        return fail("poll");
                if (p[0].revents)
                        return 0;
                for (size_t i = 0; i < 2; i++) {
                        if (p[i + 1].revents && !take_in(&ways[i], delay_usec))
                                return fail("read");
                        let_out(&ways[i]);
                }
        }
}

int main(int argc, char **argv) {
        static way ways[2];
        char *end;
        long msec;
        int a, b;

        msec = argc == 5 ? strtol(argv[4], &end, 10) : -1;
        if (msec < 0 || msec > MSEC_MAX || *end) {
                (void)fprintf(stderr, "usage: ferry-bench-delay NAMESPACE-PATH NAMESPACE-PATH "
                                      "DEVICE MSEC\n");
                return 2;
        }
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        a = open_device(argv[1], argv[3]);
        b = a < 0 ? a : open_device(argv[2], argv[3]);
        if (b < 0)
                return 1;
        ways[0].from = ways[1].to = a;
        ways[1].from = ways[0].to = b;
        if (puts("ready") == EOF || fflush(stdout) == EOF)
                return 1;
        return carry(ways, (uint64_t)msec * USEC_PER_MSEC) < 0 ? 1 : 0;
}
