/* SPDX-License-Identifier: MIT */
#include "services/task-network.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "guestlink/network.h"
#include "oci/oci.h"
#include "services/annotations.h"
#include "services/bundle.h"

#define PATH_MAX_  4095U
#define OWN_FORMAT "/proc/%d/ns/net"
#define OWN_SIZE   64
#define RETRY_USEC (20 * USEC_PER_MSEC)
#define TRIES_MAX  1500U

struct task_network {
        unsigned n_ref; /* the owner's, and one for each call that is under way */
        bool ended;
        sandbox *sb;
        guest_access *guest;
        int namespace_fd; /* -EBADF: none was joined */
        sd_event *event;
        int expected_fd; /* -EBADF: none */
        char *expected_path;
        sd_event_source *retry;
        unsigned n_tries;
        char interface[IF_NAMESIZE];
        bool keeps; /* the guest's addresses are what they were */
};

int task_network_new(sd_event *event, sandbox *sb, guest_access *guest, task_network **ret) {
        task_network *n = malloc(sizeof(*n));

        if (!n)
                return -ENOMEM;
        *n = (task_network){ .n_ref = 1,
                             .sb = sb,
                             .guest = guest,
                             .namespace_fd = -EBADF,
                             .expected_fd = -EBADF,
                             .event = sd_event_ref(event) };
        *ret = n;
        return 0;
}

static void unref(task_network *n) {
        if (--n->n_ref > 0)
                return;
        fd_close(n->namespace_fd);
        sd_event_unref(n->event);
        free(n);
}

static void expect_nothing(task_network *n) {
        n->retry = sd_event_source_disable_unref(n->retry);
        n->expected_fd = fd_close(n->expected_fd);
        free(TAKE_PTR(n->expected_path));
        n->n_tries = 0;
}

task_network *task_network_free(task_network *n) {
        if (!n)
                return NULL;
        n->ended = true;
        expect_nothing(n);
        unref(n);
        return NULL;
}

/* ---- the record ---- */

static int write_record(const task_network *n, const char *path, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL, *file = NULL;
        struct stat st;
        json_t *json;
        int r;

        if (fstat(n->namespace_fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "network namespace");
        json = json_pack("{s:s, s:I, s:I, s:s}", "path", path, "device", (json_int_t)st.st_dev,
                         "inode", (json_int_t)st.st_ino, "interface", n->interface);
        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        json_decref(json);
        if (asprintf(&file, "%s/" NIC_RECORD, sandbox_state_dir(n->sb)) < 0)
                file = NULL;
        r = text && file ? file_replace(AT_FDCWD, file, text, strlen(text), 0600, false) : -ENOMEM;
        return r < 0 ? ferry_error_set_errno(reterr, r, NIC_RECORD) : 0;
}

/* From here on somebody else may have the place. */
static void remove_record(const task_network *n) {
        _cleanup_(freep) char *file = NULL;

        if (asprintf(&file, "%s/" NIC_RECORD, sandbox_state_dir(n->sb)) < 0)
                file = NULL;
        if (!file || unlink(file) < 0)
                log_warning(NIC_RECORD " stays");
}

/* ---- the host's side ---- */

static int open_own(const task_network *n, int *ret_fd) {
        char path[OWN_SIZE];
        ferry_vm *vm = sandbox_vm(n->sb);

        if (!vm || vm_get_pid(vm) <= 0)
                return -ESRCH;
        (void)snprintf(path, sizeof(path), OWN_FORMAT, (int)vm_get_pid(vm));
        return nic_open_namespace(path, ret_fd, NULL);
}

/* 1: nothing is to be joined. */
static int judge(const task_network *n, int fd, const char *path, bool late, ferry_error *reterr) {
        _cleanup_(closep) int own = -EBADF;

        if (nic_same_namespace(fd, -EBADF)) {
                log_info("network namespace %s is the host's: the guest has none", path);
                return 1;
        }
        /* of the members of a pod: that of the pid which containerd knows */
        if (!late && open_own(n, &own) == 0 && nic_same_namespace(fd, own))
                return 1;
        if (n->namespace_fd >= 0)
                return nic_same_namespace(fd, n->namespace_fd)
                               ? 1
                               : ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                                 "network namespace %s: this VM is in another, and "
                                                 "the containers of a VM share its network",
                                                 path);
        return 0;
}

static int enter(task_network *n, int fd_consume, const char *path, const nic_network *network,
                 ferry_error *reterr) {
        ferry_vm *vm = sandbox_vm(n->sb);
        const char *tap = vm ? vm_get_tap(vm) : NULL;
        int r;

        n->namespace_fd = fd_consume;
        (void)snprintf(n->interface, sizeof(n->interface), "%s", network->name);
        r = tap ? nic_join(n->namespace_fd, tap, network, reterr)
                : ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                  "network namespace %s: this VM has no network interface", path);
        if (r == 0) {
                /* not before: what is not ours must never be taken for ours */
                r = write_record(n, path, reterr);
                if (r < 0)
                        (void)nic_leave(n->namespace_fd, n->interface);
        }
        if (r == 0)
                log_info("the guest has the place of %s in network namespace %s", n->interface,
                         path);
        else
                n->namespace_fd = fd_close(n->namespace_fd);
        return r;
}

static int attach(task_network *n, int fd_consume, const char *path, bool late, nic_network *ret,
                  ferry_error *reterr) {
        _cleanup_(closep) int fd = fd_consume;
        int r;

        r = judge(n, fd, path, late, reterr);
        if (r != 0)
                return r;
        r = nic_look(fd, ret, reterr);
        if (r == -ENODEV) {
                if (!late)
                        log_info("network namespace %s has no interface: the guest has none", path);
                return 1;
        }
        if (r < 0)
                return ferry_error_prefix(reterr, r, "%s", path);
        return enter(n, TAKE_FD(fd), path, ret, reterr);
}

/* 1: no namespace by a path. */
static int open_named(const char *path, int *ret_fd, ferry_error *reterr) {
        if (!path || !path[0])
                return 1;
        if (path[0] != '/' || strlen(path) > PATH_MAX_)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "network namespace %.80s: no absolute path", path);
        return nic_open_namespace(path, ret_fd, reterr);
}

void task_network_leave(task_network *n) {
        int r;

        expect_nothing(n);
        if (n->namespace_fd < 0)
                return;
        r = nic_leave(n->namespace_fd, n->interface);
        if (r < 0)
                log_warning("%s stays without its frames: %s", n->interface, strerror(-r));
        else
                remove_record(n);
        n->namespace_fd = fd_close(n->namespace_fd);
}

/* ---- the guest's side ---- */

typedef struct request {
        Ferry__Agent__V1__ConfigureNetworkRequest message;
        Ferry__Agent__V1__NetworkAddress addresses[NIC_ADDRESSES_MAX];
        Ferry__Agent__V1__NetworkAddress *address_list[NIC_ADDRESSES_MAX];
        Ferry__Agent__V1__NetworkRoute routes[NIC_ROUTES_MAX];
        Ferry__Agent__V1__NetworkRoute *route_list[NIC_ROUTES_MAX];
} request;

static ProtobufCBinaryData bytes_of(const uint8_t *bytes, bool ipv6) {
        return (ProtobufCBinaryData){ ipv6 ? 16 : 4, (uint8_t *)bytes };
}

static void fill_route(Ferry__Agent__V1__NetworkRoute *to, const nic_route *from) {
        ferry__agent__v1__network_route__init(to);
        to->to = bytes_of(from->to, from->ipv6);
        to->prefix = from->prefix;
        if (from->has_gateway)
                to->gateway = bytes_of(from->gateway, from->ipv6);
        if (from->has_source)
                to->source = bytes_of(from->source, from->ipv6);
        to->metric = from->metric;
        to->onlink = from->onlink;
}

static void fill(request *q, const nic_network *network) {
        ferry__agent__v1__configure_network_request__init(&q->message);
        q->message.name = (char *)network->name;
        q->message.mac = (ProtobufCBinaryData){ sizeof(network->mac), (uint8_t *)network->mac };
        q->message.mtu = network->mtu;
        for (size_t i = 0; i < network->n_addresses; i++) {
                ferry__agent__v1__network_address__init(&q->addresses[i]);
                q->addresses[i].address =
                        bytes_of(network->addresses[i].bytes, network->addresses[i].ipv6);
                q->addresses[i].prefix = network->addresses[i].prefix;
                q->address_list[i] = &q->addresses[i];
        }
        for (size_t i = 0; i < network->n_routes; i++) {
                fill_route(&q->routes[i], &network->routes[i]);
                q->route_list[i] = &q->routes[i];
        }
        q->message.addresses = q->address_list;
        q->message.n_addresses = network->n_addresses;
        q->message.routes = q->route_list;
        q->message.n_routes = network->n_routes;
}

static int tell_guest(task_network *n, const nic_network *network, sandbox_done done,
                      void *userdata, ferry_error *reterr) {
        guest_processes *guest;
        request q;
        int r;

        fill(&q, network);
        r = guest_access_open(n->guest, &guest, reterr);
        return r < 0 ? r : guest_network_configure(guest, &q.message, done, userdata, reterr);
}

/* ---- both ---- */

typedef struct joining {
        task_network *network;
        sandbox_done done;
        void *userdata;
} joining;

static void on_told(int r, const ferry_error *error, void *userdata) {
        _cleanup_(freep) joining *j = userdata;

        if (r < 0 && !j->network->ended)
                task_network_leave(j->network);
        unref(j->network);
        j->done(r, error, j->userdata);
}

static int tell(task_network *n, const nic_network *network, sandbox_done done, void *userdata,
                ferry_error *reterr) {
        joining *j = malloc(sizeof(*j));
        int r = -ENOMEM;

        if (j) {
                *j = (joining){ .network = n, .done = done, .userdata = userdata };
                r = tell_guest(n, network, on_told, j, reterr);
                n->n_ref += r == 0;
        } else
                ferry_error_set_errno(reterr, r, "network");
        if (r < 0) {
                task_network_leave(n);
                free(j);
        }
        return r;
}

int task_network_join(task_network *n, const char *path, sandbox_done done, void *userdata,
                      ferry_error *reterr) {
        nic_network network;
        int fd, r;

        r = open_named(path, &fd, reterr);
        if (r == 0)
                r = attach(n, fd, path, false, &network, reterr);
        return r != 0 ? r : tell(n, &network, done, userdata, reterr);
}

int task_network_join_late(task_network *n, sandbox_done done, void *userdata,
                           ferry_error *reterr) {
        nic_network network;
        int fd, r;

        if (n->namespace_fd >= 0 || open_own(n, &fd) < 0)
                return 1;
        r = attach(n, fd, "of QEMU", true, &network, reterr);
        return r != 0 ? r : tell(n, &network, done, userdata, reterr);
}

/* ---- of a guest that comes from elsewhere ---- */

static int read_network(const char *bundle, char **ret, bool *ret_keeps, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL, *keeps = NULL;
        size_t size;
        int r;

        r = bundle_read(bundle, &text, &size, reterr);
        if (r < 0)
                return r;
        keeps = oci_annotation(text, size, ANNOTATION_KEEP_ADDRESS);
        if (keeps && strcmp(keeps, "true") != 0 && strcmp(keeps, "false") != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "annotation " ANNOTATION_KEEP_ADDRESS
                                       ": \"%.60s\" is neither true nor false",
                                       keeps);
        *ret_keeps = keeps && strcmp(keeps, "true") == 0;
        *ret = oci_network(text, size);
        return 0;
}

int task_network_expect(task_network *n, const char *path, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        nic_network network;
        int r;

        r = open_named(path, &fd, reterr);
        if (r == 0)
                r = judge(n, fd, path, false, reterr);
        if (r != 0)
                return r < 0 ? r : 0;
        if (n->expected_fd >= 0)
                return nic_same_namespace(fd, n->expected_fd)
                               ? 0
                               : ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                                 "network namespace %s: another container of this "
                                                 "VM is in another",
                                                 path);
        r = nic_look(fd, &network, reterr);
        if (r < 0)
                return r == -ENODEV ? 0 : r;
        n->expected_path = strdup(path);
        if (!n->expected_path)
                return ferry_error_set_errno(reterr, -ENOMEM, "network");
        n->expected_fd = TAKE_FD(fd);
        return 0;
}

int task_network_expect_of(task_network *n, const char *bundle, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        bool keeps = false;
        int r;

        r = read_network(bundle, &path, &keeps, reterr);
        if (r == 0)
                r = task_network_expect(n, path, reterr);
        if (r < 0 || !keeps)
                return r;
        if (n->expected_fd < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "its address is to be kept, and it has no network namespace "
                                       "with an interface here (%s) where that would be heard",
                                       path && path[0] ? path : "it names none");
        n->keeps = true;
        return 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        task_network_look(userdata, true);
        return 0;
}

/* The place may still be the source's, where both are on one host. */
static void try_again(task_network *n, const ferry_error *error) {
        int r;

        if (n->n_tries++ == TRIES_MAX) {
                log_error("the guest stays without its network: %s", ferry_error_message(error));
                expect_nothing(n);
                return;
        }
        n->retry = sd_event_source_disable_unref(n->retry);
        r = sd_event_add_time_relative(n->event, &n->retry, CLOCK_MONOTONIC, RETRY_USEC,
                                       TIMER_ACCURACY_USEC, on_retry, n);
        if (r < 0)
                log_error("the guest stays without its network: %s", strerror(-r));
}

/* What it has stays, and its neighbours learn anew where that is. */
static int announce(task_network *n, ferry_error *reterr) {
        guest_processes *guest;
        int r = guest_access_open(n->guest, &guest, reterr);

        if (r == 0)
                guest_moved(guest, true);
        return r;
}

static void on_arrived(int r, const ferry_error *error, void *userdata) {
        if (r < 0)
                log_error("the guest does not know its network: %s", ferry_error_message(error));
}

void task_network_look(task_network *n, bool runs_here) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        ferry_vm *vm = sandbox_vm(n->sb);
        nic_network network;
        int r;

        if (n->expected_fd < 0 || !vm || !vm_get_tap(vm))
                return;
        /* one look is enough before, and none is for the blackout */
        if (!runs_here && (n->namespace_fd >= 0 || n->n_tries > 0))
                return;
        r = nic_look(n->expected_fd, &network, &error);
        if (r == 0 && n->namespace_fd < 0) {
                int fd = fcntl(n->expected_fd, F_DUPFD_CLOEXEC, 3);

                r = fd < 0 ? ferry_error_set_errno(&error, -errno, "network namespace")
                           : enter(n, fd, n->expected_path, &network, &error);
        }
        if (!runs_here) {
                n->n_tries++;
                return;
        }
        if (r < 0) {
                try_again(n, &error);
                return;
        }
        expect_nothing(n);
        r = n->keeps ? announce(n, &error) : tell(n, &network, on_arrived, NULL, &error);
        if (r < 0)
                log_error("the guest does not know its network: %s", ferry_error_message(&error));
}
