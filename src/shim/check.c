/* SPDX-License-Identifier: MIT */
#include "shim/check.h"

#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <jansson.h>

#include "base/fd.h"
#include "migration/incoming.h"
#include "migration/outgoing.h"

#define ROOM_BYTES    (32ULL << 20) /* for the logs and the journal of a sandbox */
#define MEMINFO_MAX   65536U
#define MEMORY_MARGIN 8 /* QEMU itself, and page tables: an eighth more */

typedef struct host_check {
        sd_event *event;
        const shim_options *options;
        migration_state *state;
        json_t *reasons;
} host_check;

static void against(host_check *c, const char *format, ...) _printf_(2, 3);

static void against(host_check *c, const char *format, ...) {
        char text[1024];
        va_list ap;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        (void)json_array_append_new(c->reasons, json_string(text));
}

static int read_state(migration_state **ret, ferry_error *reterr) {
        _cleanup_(freep) uint8_t *data = malloc(MIGRATION_STATE_MAX + 1);
        size_t n = 0;

        if (!data)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        while (n <= MIGRATION_STATE_MAX) {
                ssize_t k = read(STDIN_FILENO, data + n, MIGRATION_STATE_MAX + 1 - n);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        return ferry_error_set_errno(reterr, -errno, "standard input");
                if (k == 0)
                        break;
                n += (size_t)k;
        }
        return migration_state_decode(data, n, OUTGOING_SESSION, ret, reterr);
}

static void check_memory(host_check *c) {
        uint64_t needed = vm_config_memory_bytes(c->state->config);
        _cleanup_(freep) char *text = NULL;
        unsigned long long kib;
        const char *line;
        size_t n;

        if (file_read(AT_FDCWD, "/proc/meminfo", MEMINFO_MAX, &text, &n) < 0)
                return;
        line = strstr(text, "MemAvailable:");
        if (!line || sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
                return;
        if (kib * 1024 < needed + needed / MEMORY_MARGIN)
                against(c, "%" PRIu64 " MiB of memory are needed and %llu MiB are available",
                        (needed + needed / MEMORY_MARGIN) >> 20, kib >> 10);
}

/* The state directory is not there yet: its parent is. */
static void check_room(host_check *c) {
        struct statvfs s;
        uint64_t room;

        if (statvfs(c->options->state_dir, &s) < 0) {
                against(c, "%s: %s", c->options->state_dir, strerror(errno));
                return;
        }
        room = (uint64_t)s.f_bavail * s.f_frsize;
        if (room < ROOM_BYTES)
                against(c, "%s has %" PRIu64 " MiB of space left, and %llu are needed",
                        c->options->state_dir, room >> 20, ROOM_BYTES >> 20);
        if (access(c->options->state_dir, W_OK) < 0)
                against(c, "%s: %s", c->options->state_dir, strerror(errno));
}

/* In the network namespace that we were started in. */
static void check_network(host_check *c) {
        const char *bridge = c->options->bridge;

        if (!c->state->config->has_network)
                return;
        if (bridge && if_nametoindex(bridge) == 0)
                against(c, "there is no bridge %s for the guest's network", bridge);
        if (access("/dev/net/tun", R_OK | W_OK) < 0)
                against(c, "no tap device can be made for the guest: /dev/net/tun: %s",
                        strerror(errno));
}

/* What is not there for post-copy would only show when QEMU is started for it. */
static void check_postcopy(host_check *c) {
        const InitializeOptions *options = c->state->message->options;

        if (options && options->postcopy != POSTCOPY__POSTCOPY_NEVER &&
            access("/dev/userfaultfd", R_OK | W_OK) < 0)
                against(c, "post-copy needs /dev/userfaultfd (Linux 6.1 or newer, root): %s",
                        strerror(errno));
}

static void on_checked(const differences *reasons, void *userdata) {
        host_check *c = userdata;

        for (size_t i = 0; i < reasons->n; i++)
                against(c, "%s", reasons->items[i]);
        if (reasons->n_more > 0)
                against(c, "and %zu more", reasons->n_more);
        (void)sd_event_exit(c->event, 0);
}

static int run(host_check *c, ferry_error *reterr) {
        _cleanup_(incoming_check_freep) incoming_check *check = NULL;
        incoming_host host = {
                .qemu = c->options->qemu,
                .disk_root = c->options->disk_root,
                .probe_cache = c->options->probe_cache,
                .user = vm_user_choose(0, 0, c->options->state_dir),
        };
        int r;

        check_memory(c);
        check_room(c);
        check_network(c);
        check_postcopy(c);
        r = incoming_check_start(c->event, c->state, &host, on_checked, c, &check, reterr);
        if (r < 0)
                return r;
        r = sd_event_loop(c->event);
        return r < 0 ? ferry_error_set_errno(reterr, r, "check") : 0;
}

int shim_check(const shim_options *options, ferry_error *reterr) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        _cleanup_(json_decrefp) json_t *root = NULL;
        host_check c = { .options = options };
        int r;

        r = read_state(&state, reterr);
        if (r < 0)
                return r;
        c.state = state;
        c.reasons = json_array();
        root = json_pack("{s:o}", "reasons", c.reasons);
        if (!root || sd_event_new(&c.event) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        r = run(&c, reterr);
        sd_event_unref(c.event);
        if (r < 0)
                return r;
        return json_dumpf(root, stdout, JSON_COMPACT) < 0 || fflush(stdout) != 0
                       ? ferry_error_set_errno(reterr, -EIO, "standard output")
                       : 0;
}
