/* SPDX-License-Identifier: MIT */
#include "agent/tick.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <termios.h>

#include "base/clock.h"

#define TICK_USEC       (50 * USEC_PER_MSEC)
#define CHECK_POLL_USEC (5 * USEC_PER_MSEC)

typedef struct ticker {
        memory_state *memory;
        unsigned long long n;
        uint64_t due;
        bool checking;
        size_t n_line;
        char line[64];
} ticker;

static void say_figures(const ticker *t) {
        (void)printf("memory passes=%llu errors=%llu\n",
                     t->memory ? atomic_load(&t->memory->passes) : 0,
                     t->memory ? atomic_load(&t->memory->errors) : 0);
}

static void set_rate(ticker *t, const char *value) {
        char *end;
        long rate;

        errno = 0;
        rate = strtol(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || rate < MEMORY_RATE_PAUSE ||
            rate > MEMORY_RATE_MAX) {
                (void)printf("error: rate -1 (pause), 0 (no limit) or MB/s\n");
                return;
        }
        if (t->memory)
                atomic_store(&t->memory->rate_mb, rate);
        (void)printf("rate %ld\n", rate);
}

static void obey(ticker *t) {
        if (strncmp(t->line, "rate ", 5) == 0) {
                set_rate(t, t->line + 5);
        } else if (strcmp(t->line, "check") == 0) {
                if (t->memory)
                        atomic_fetch_add(&t->memory->checks_wanted, 1);
                t->checking = true;
        } else if (t->line[0] != '\0') {
                (void)printf("error: there are 'rate N' and 'check'\n");
        }
}

static void take_bytes(ticker *t, const char *data, size_t n) {
        for (size_t i = 0; i < n; i++) {
                if (data[i] == '\n' || data[i] == '\r') {
                        t->line[t->n_line] = '\0';
                        t->n_line = 0;
                        obey(t);
                } else if (t->n_line < sizeof(t->line) - 1) {
                        t->line[t->n_line++] = data[i];
                }
        }
}

/* No echo, no line editing: commands come from a program. Output keeps its CR LF. */
static void make_raw(void) {
        struct termios settings;

        if (tcgetattr(STDIN_FILENO, &settings) < 0)
                return;
        settings.c_lflag &= (tcflag_t) ~(ICANON | ECHO | ISIG);
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &settings);
}

static void tick_if_due(ticker *t, uint64_t now) {
        if (now < t->due)
                return;
        (void)printf("tick %llu\n", ++t->n);
        /* After a stop the missed ticks are not made up for. */
        t->due = t->due + TICK_USEC > now ? t->due + TICK_USEC : now + TICK_USEC;
}

static void end_check(ticker *t) {
        if (!t->checking || (t->memory && atomic_load(&t->memory->checks_done) !=
                                                  atomic_load(&t->memory->checks_wanted)))
                return;
        t->checking = false;
        say_figures(t);
}

int tick_run(memory_state *memory) {
        struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
        ticker t = { .memory = memory, .due = now_usec() };

        make_raw();
        (void)printf("READY\n");
        for (;;) {
                uint64_t now = now_usec(), wait;
                char data[64];
                ssize_t n;

                tick_if_due(&t, now);
                end_check(&t);
                (void)fflush(stdout);
                wait = t.due > now ? t.due - now : 0;
                if (t.checking && wait > CHECK_POLL_USEC)
                        wait = CHECK_POLL_USEC;
                if (poll(&input, 1, (int)((wait + USEC_PER_MSEC - 1) / USEC_PER_MSEC)) <= 0)
                        continue;
                n = read(STDIN_FILENO, data, sizeof(data));
                if (n > 0)
                        take_bytes(&t, data, (size_t)n);
                else if (n == 0 || errno != EINTR)
                        return n == 0 ? -EIO : -errno; /* the line is gone */
        }
}
