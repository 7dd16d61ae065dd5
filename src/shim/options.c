/* SPDX-License-Identifier: MIT */
#include "shim/options.h"

#include <fcntl.h>
#include <getopt.h>
#include <string.h>

#include "rootfs/layer.h"
#include "rootfs/rootfs.h"

const char shim_help[] =
        "usage: containerd-shim-ferry-v2 serve --state-dir DIR --id NAME [options]\n"
        "       containerd-shim-ferry-v2 check --state-dir DIR [options]\n"
        "       containerd-shim-ferry-v2 template --config FILE --template-dir DIR | --namespace "
        "NAME\n"
        "\n"
        "Serves one sandbox in the foreground: its QEMU, and on DIR/shim.sock the ttrpc services\n"
        "Migration and ferry.shim.v1.Shim. `ferry run` and `ferry migrate` start it for you.\n"
        "\n"
        "  --state-dir DIR     the sandbox's directory; one that holds a live sandbox is taken "
        "over\n"
        "  --id NAME           the sandbox's name\n"
        "  --config FILE       boot this VM (docs/vm-config.md); without it the shim waits for a\n"
        "                      sandbox to be imported\n"
        "  --pod               boot it when CreateSandbox asks for it (with --namespace)\n"
        "  --bridge IFNAME     this host's bridge for the sandbox's network\n"
        "  --qemu PATH         this host's QEMU for sandboxes that arrive\n"
        "  --disk-root DIR     writable disks of sandboxes that arrive lie below it\n"
        "  --probe-cache FILE  remember whether KVM works here\n"
        "  --namespace NAME    serve containerd's tasks too; with it\n"
        "  --events SOCKET     containerd's ttrpc socket, to be told of them, and\n"
        "  --cache-dir DIR     where their packed roots are kept\n"
        "  --cache-max-mb N    in N MiB (default 20480, 0: no limit); the longest unused go first\n"
        "  --layer-mb N        they write to sparse disks of N MiB (default 10240) below\n"
        "                      --disk-root; without that to memory\n"
        "  --template-dir DIR  start it from the template in this folder of root's alone; the "
        "first "
        "time\n"
        "                      it boots, and one is made for the next\n"
        "  --containerd SOCKET containerd's own socket, for who asks whose they are\n"
        "  --ready-fd N        write \"ready\\n\" to this descriptor once the sockets listen\n"
        "  --log-level LEVEL   error, warning, info (default) or debug\n"
        "\n"
        "`check` says, as JSON, what speaks against taking the sandbox whose exported state is on\n"
        "standard input; DIR is the folder that its directory would be made in.\n"
        "\n"
        "`template` makes a template now, of that VM, or of the one that containers of "
        "containerd's\n"
        "namespace NAME get (/etc/ferry/containerd.json).\n"
        "\n"
        "Called by containerd (-namespace NAME -address SOCKET -id ID start|delete) it puts a shim "
        "for a\n"
        "container into the background, or clears away what one has left: docs/containers.md.\n"
        "\n"
        "SIGTERM ends the shim and leaves QEMU running; a shim started again takes it over.\n"
        "Exit status: 0 ended in order, 1 failed, 2 bad usage.\n";

enum {
        OPT_STATE_DIR = 256,
        OPT_ID,
        OPT_CONFIG,
        OPT_POD,
        OPT_BRIDGE,
        OPT_QEMU,
        OPT_DISK_ROOT,
        OPT_PROBE_CACHE,
        OPT_NAMESPACE,
        OPT_EVENTS,
        OPT_CACHE_DIR,
        OPT_CACHE_MAX_MB,
        OPT_CONTAINERD,
        OPT_LAYER_MB,
        OPT_TEMPLATE_DIR,
        OPT_READY_FD,
        OPT_LOG_LEVEL,
};

static const struct option long_options[] = {
        { "state-dir", required_argument, NULL, OPT_STATE_DIR },
        { "id", required_argument, NULL, OPT_ID },
        { "config", required_argument, NULL, OPT_CONFIG },
        { "pod", no_argument, NULL, OPT_POD },
        { "bridge", required_argument, NULL, OPT_BRIDGE },
        { "qemu", required_argument, NULL, OPT_QEMU },
        { "disk-root", required_argument, NULL, OPT_DISK_ROOT },
        { "probe-cache", required_argument, NULL, OPT_PROBE_CACHE },
        { "namespace", required_argument, NULL, OPT_NAMESPACE },
        { "events", required_argument, NULL, OPT_EVENTS },
        { "cache-dir", required_argument, NULL, OPT_CACHE_DIR },
        { "containerd", required_argument, NULL, OPT_CONTAINERD },
        { "cache-max-mb", required_argument, NULL, OPT_CACHE_MAX_MB },
        { "layer-mb", required_argument, NULL, OPT_LAYER_MB },
        { "template-dir", required_argument, NULL, OPT_TEMPLATE_DIR },
        { "ready-fd", required_argument, NULL, OPT_READY_FD },
        { "log-level", required_argument, NULL, OPT_LOG_LEVEL },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { 0 },
};

static int usage(ferry_error *reterr, const char *what) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s (see --help)", what);
}

static int parse_fd(const char *text, int *ret) {
        char *end;
        long value;

        errno = 0;
        value = strtol(text, &end, 10);
        if (errno || end == text || *end || value < 0 || value > 65535 ||
            fcntl((int)value, F_GETFD) < 0)
                return -EINVAL;
        *ret = (int)value;
        return 0;
}

static int parse_mb(const char *text, unsigned long min, unsigned long max, uint32_t *ret) {
        char *end;
        unsigned long value;

        errno = 0;
        value = strtoul(text, &end, 10);
        if (errno || end == text || *end || value < min || value > max)
                return -EINVAL;
        *ret = (uint32_t)value;
        return 0;
}

static int take_option(int option, const char *value, shim_options *o, ferry_error *reterr) {
        switch (option) {
        case OPT_STATE_DIR:
                o->state_dir = value;
                break;
        case OPT_ID:
                o->id = value;
                break;
        case OPT_CONFIG:
                o->config = value;
                break;
        case OPT_POD:
                o->pod = true;
                break;
        case OPT_BRIDGE:
                o->bridge = value;
                break;
        case OPT_QEMU:
                o->qemu = value;
                break;
        case OPT_DISK_ROOT:
                o->disk_root = value;
                break;
        case OPT_PROBE_CACHE:
                o->probe_cache = value;
                break;
        case OPT_NAMESPACE:
                o->namespace = value;
                break;
        case OPT_EVENTS:
                o->events = value;
                break;
        case OPT_CACHE_DIR:
                o->cache_dir = value;
                break;
        case OPT_CONTAINERD:
                o->containerd = value;
                break;
        case OPT_CACHE_MAX_MB:
                if (parse_mb(value, 0, ROOTFS_CACHE_MB_MAX, &o->cache_max_mb) < 0)
                        return usage(reterr, "--cache-max-mb is no number of MiB for a cache");
                break;
        case OPT_LAYER_MB:
                if (parse_mb(value, LAYER_MB_MIN, LAYER_MB_MAX, &o->layer_mb) < 0)
                        return usage(reterr, "--layer-mb is no number of MiB for a disk");
                break;
        case OPT_TEMPLATE_DIR:
                o->template_dir = value;
                break;
        case OPT_READY_FD:
                if (parse_fd(value, &o->ready_fd) < 0)
                        return usage(reterr, "--ready-fd is not an open descriptor");
                break;
        case OPT_LOG_LEVEL:
                if (ferry_log_level_from_string(value, &o->log_level) < 0)
                        return usage(reterr, "--log-level is none of error, warning, info, debug");
                break;
        case 'h':
                o->verb = SHIM_HELP;
                break;
        case 'V':
                o->verb = SHIM_VERSION;
                break;
        default:
                return usage(reterr, "unknown option, or one without its value");
        }
        return 0;
}

static int check_template(const shim_options *o, ferry_error *reterr) {
        if (o->config ? !o->template_dir : !o->namespace)
                return usage(reterr, "--config and --template-dir are needed, or --namespace");
        return 0;
}

static int check_place(const shim_options *o, ferry_error *reterr) {
        if (!o->state_dir || (o->verb == SHIM_SERVE && !o->id))
                return usage(reterr, "--state-dir and --id are needed");
        if (o->namespace && (!o->cache_dir || o->cache_dir[0] != '/'))
                return usage(reterr, "--namespace needs --cache-dir, an absolute path");
        if (o->state_dir[0] != '/')
                return usage(reterr, "--state-dir is not an absolute path");
        return 0;
}

static int choose_verb(const char *word, shim_options *o, ferry_error *reterr) {
        if (strcmp(word, "check") == 0)
                o->verb = SHIM_CHECK;
        else if (strcmp(word, "template") == 0)
                o->verb = SHIM_TEMPLATE;
        else if (strcmp(word, "serve") != 0)
                return usage(reterr, "say `serve`, `check` or `template`");
        return o->verb == SHIM_TEMPLATE ? check_template(o, reterr) : check_place(o, reterr);
}

int shim_options_parse(int argc, char **argv, shim_options *ret, ferry_error *reterr) {
        shim_options o = { .ready_fd = -EBADF,
                           .cache_max_mb = ROOTFS_CACHE_MB,
                           .layer_mb = LAYER_MB_DEFAULT,
                           .log_level = FERRY_LOG_INFO };
        int option, r;

        opterr = 0;
        while ((option = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
                r = take_option(option, optarg, &o, reterr);
                if (r < 0)
                        return r;
        }
        if (o.verb == SHIM_SERVE) {
                r = choose_verb(optind + 1 == argc ? argv[optind] : "", &o, reterr);
                if (r < 0)
                        return r;
        }
        *ret = o;
        return 0;
}
