/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "child.h"
#include "cli/sandbox.h"

#define BOOT_TIMEOUT   (180 * USEC_PER_SEC)
#define BOOT_RETRY     (200 * USEC_PER_MSEC)
#define ANSWER_TIMEOUT (10 * USEC_PER_SEC)

/* ---- start ---- */

static int build_image(const lab *l, json_t **ret, ferry_error *reterr) {
        _cleanup_(freep) char *folder = NULL, *output = NULL;
        int status, r;

        if (asprintf(&folder, "%s/image", l->folder) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "image");
        r = child_run((const char *const[]){ l->ferry, "image", "build", "--output", folder,
                                             "--json", NULL },
                      false, &output, &status, reterr);
        if (r < 0)
                return r;
        if (status != 0)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO,
                                       "`ferry image build` failed (exit status %d)", status);
        *ret = output ? json_loads(output, 0, NULL) : NULL;
        return *ret ? 0
                    : ferry_error_set(reterr, FERRY_INTERNAL, -EBADMSG,
                                      "`ferry image build` printed no JSON");
}

static int format_cmdline(const lab *l, const json_t *image, unsigned memory_rate_mb, char **ret) {
        const char *base = json_string_value(json_object_get(image, "cmdline"));

        return asprintf(ret, "%s %sferry.run=%s ferry.memory_mb=%d ferry.memory_rate_mb=%u",
                        base ? base : "console=ttyS0 quiet",
                        l->has_network ? "ferry.ip=" LAB_GUEST_ADDRESS "/24 " : "",
                        l->has_network ? "demo" : "tick", GUEST_TEST_MB, memory_rate_mb) < 0
                       ? -ENOMEM
                       : 0;
}

static int write_config(const lab *l, const json_t *image, unsigned memory_rate_mb,
                        const char *path, ferry_error *reterr) {
        _cleanup_(freep) char *cmdline = NULL, *text = NULL;
        json_t *config;
        int r;

        if (format_cmdline(l, image, memory_rate_mb, &cmdline) < 0) {
                cmdline = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        }
        config = json_pack("{s:i, s:i, s:O?, s:O?, s:s}", "memory_mb", GUEST_MEMORY_MB, "vcpus", 1,
                           "kernel", json_object_get(image, "kernel"), "initrd",
                           json_object_get(image, "initrd"), "cmdline", cmdline);
        if (config && l->has_network)
                (void)json_object_set_new(config, "network", json_object());
        text = config ? json_dumps(config, JSON_INDENT(2)) : NULL;
        json_decref(config);
        if (!text)
                return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        r = file_replace(AT_FDCWD, path, text, strlen(text), 0600, false);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", path) : 0;
}

static int run_sandbox(const lab *l, const char *config_path, ferry_error *reterr) {
        int status, r;

        /* `ferry run` says on standard error what went wrong, with the ends of the logs. */
        r = child_run((const char *const[]){ l->ferry, "--root", l->hosts[0].root, "run",
                                             LAB_SANDBOX, "--config", config_path, NULL },
                      false, NULL, &status, reterr);
        if (r == 0 && status != 0)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO,
                                       "`ferry run` failed (exit status %d)", status);
        return r;
}

int guest_start(const lab *l, unsigned memory_rate_mb, ferry_error *reterr) {
        _cleanup_(freep) char *config_path = NULL;
        json_t *image = NULL;
        int r;

        if (asprintf(&config_path, "%s/guest.json", l->folder) < 0) {
                config_path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        }
        r = build_image(l, &image, reterr);
        if (r == 0)
                r = write_config(l, image, memory_rate_mb, config_path, reterr);
        if (r == 0)
                r = run_sandbox(l, config_path, reterr);
        json_decref(image);
        return r;
}

/* ---- the console, where there is no network ---- */

/* "memory passes=N errors=N", which the guest's tick program says after a check of all of it. */
static bool parse_figures(const char *text, guest_memory *ret) {
        const char *line = strstr(text, "memory passes=");
        unsigned long long passes, errors;

        if (!line || !strchr(line, '\n') ||
            sscanf(line, "memory passes=%llu errors=%llu", &passes, &errors) != 2)
                return false;
        *ret = (guest_memory){ .passes = passes,
                               .errors = errors,
                               .bytes = (uint64_t)GUEST_TEST_MB << 20 };
        return true;
}

/* Reads on until the answer is there; the guest ticks meanwhile, so the start is forgotten. */
static int read_answer(int console, guest_memory *ret, ferry_error *reterr) {
        uint64_t deadline = now_usec() + ANSWER_TIMEOUT;
        char text[4096] = "";
        size_t n = 0;

        while (now_usec() < deadline && child_signal() == 0) {
                struct pollfd p = { .fd = console, .events = POLLIN };
                ssize_t got;

                if (poll(&p, 1, 100) <= 0)
                        continue;
                if (n > sizeof(text) / 2) {
                        memmove(text, text + n - 128, 128);
                        n = 128;
                }
                got = read(console, text + n, sizeof(text) - 1 - n);
                if (got <= 0)
                        break;
                n += (size_t)got;
                text[n] = '\0';
                if (parse_figures(text, ret))
                        return 0;
        }
        return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENODATA,
                               "the guest does not answer on its console");
}

static int ask_console(const lab *l, unsigned at, guest_memory *ret, ferry_error *reterr) {
        _cleanup_(closep) int console = -EBADF;
        _cleanup_(freep) char *path = NULL;
        int r;

        r = sandbox_path(l->hosts[at].root, LAB_SANDBOX, "console.sock", &path, reterr);
        if (r < 0)
                return r;
        r = unix_connect(path, &console);
        if (r == 0)
                r = fd_write_all(console, "check\n", 6);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "the guest's console");
        return read_answer(console, ret, reterr);
}

/* ---- how it is ---- */

int guest_memory_now(const lab *l, int netns_fd, unsigned at, guest_memory *ret,
                     ferry_error *reterr) {
        if (!l->has_network)
                return ask_console(l, at, ret, reterr);
        return client_get_memory(netns_fd, LAB_GUEST_ADDRESS, GUEST_PORT, ret, reterr);
}

int guest_wait(const lab *l, int netns_fd, ferry_error *reterr) {
        uint64_t deadline = now_usec() + BOOT_TIMEOUT;

        for (;;) {
                const struct timespec pause = { .tv_nsec = (long)(BOOT_RETRY * NSEC_PER_USEC) };
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                guest_memory memory;

                if (child_signal() != 0)
                        return ferry_error_set(reterr, FERRY_CANCELLED, -EINTR, "interrupted");
                if (guest_memory_now(l, netns_fd, 0, &memory, &error) == 0 && memory.passes > 0)
                        return 0;
                if (now_usec() >= deadline)
                        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                               "the guest was not up within 180 s: %s",
                                               ferry_error_message(&error));
                nanosleep(&pause, NULL);
        }
}
