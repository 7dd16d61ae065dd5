/* SPDX-License-Identifier: MIT */
/* Writable disks that the two hosts do not share: each goes to a file of the destination's over a
 * socket of its own (NBD), first as a whole, then with each write, until the guest stands. The
 * destination takes no OFFER that does not name them all. */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"
#include "migration/session-internal.h"

#define LISTENER_FORMAT "%s/nbd.sock"

static session_disk *find(session *s, const char *serial) {
        for (size_t i = 0; i < s->n_disks; i++)
                if (strcmp(s->disks[i].serial, serial) == 0)
                        return &s->disks[i];
        return NULL;
}

static session_disk *add(session *s, const char *serial) {
        session_disk *d;

        if (s->n_disks == ELEMENTS(s->disks))
                return NULL;
        d = &s->disks[s->n_disks++];
        *d = (session_disk){ .fd = -EBADF };
        (void)snprintf(d->serial, sizeof(d->serial), "%s", serial);
        return d;
}

static void remove_listener(const session *s) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, LISTENER_FORMAT, sandbox_state_dir(s->sb)) < 0)
                path = NULL;
        if (path)
                (void)unlink(path);
}

static void answer(session_disk *d, int r, const ferry_error *error) {
        session_reply reply = TAKE_PTR(d->reply);

        if (reply)
                reply(r, error, d->userdata);
}

static void close_socket(session_disk *d) {
        d->fd = fd_close(d->fd);
        if (d->tunnel)
                tls_tunnel_shutdown(d->tunnel);
        d->tunnel = tls_tunnel_free(d->tunnel);
}

void session_drop_disks(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r = ferry_error_set(&error, FERRY_CANCELLED, -ECANCELED, "the session is over");

        while (s->n_disks > 0) {
                session_disk *d = &s->disks[--s->n_disks];

                answer(d, r, &error);
                pump_free(d->pump);
                close_socket(d);
        }
        if (s->nbd_asked)
                remove_listener(s);
        s->nbd_asked = s->nbd_runs = s->disks_are_whole = false;
        s->n_mirrors_starting = 0;
}

void session_forget_disk(session *s, const void *userdata) {
        for (size_t i = 0; i < s->n_disks; i++)
                if (s->disks[i].userdata == userdata)
                        s->disks[i].reply = NULL;
}

void session_expect_disks(session *s) {
        const vm_config *config = s->imported->config;

        for (size_t i = 0; i < config->n_disks; i++)
                if (s->imported->to_mirror & UINT64_C(1) << i)
                        (void)add(s, config->disks[i].serial);
}

size_t session_expected_disks(const session *s, const char *ret[SESSION_DISKS_MAX]) {
        for (size_t i = 0; !session_is_source(s) && i < s->n_disks; i++)
                ret[i] = s->disks[i].serial;
        return session_is_source(s) ? 0 : s->n_disks;
}

/* ---- a socket for one ---- */

/* The disk may have gone when QEMU answers. */
typedef struct serving {
        session *session;
        char serial[VM_CONFIG_SERIAL_MAX + 1];
} serving;

static bool may_be_given(const session *s, session_disk *d, const char *serial) {
        const vm_config *config;
        ssize_t at;

        if (!session_is_source(s))
                return d;
        config = sandbox_vm(s->sb) ? vm_get_config(sandbox_vm(s->sb)) : NULL;
        at = config ? vm_config_find_disk(config, serial) : -1;
        return at >= 0 && !config->disks[at].readonly;
}

int session_check_disk_socket(session *s, const char *id, const char *serial, ferry_error *reterr) {
        session_disk *d = find(s, serial);
        int r = session_check_id(s, id, reterr);

        if (r < 0)
                return r;
        if (s->state != MIG_S_EXPORTED && s->state != MIG_S_SOCKET_READY &&
            s->state != MIG_D_PREPARED && s->state != MIG_D_SOCKET_READY)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "a disk's socket comes before TransferSandbox, and after "
                                       "PrepareSandbox (the session is %s)",
                                       mig_state_get(s->state)->wire);
        if (!may_be_given(s, d, serial))
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "disk %.40s is none that goes over a socket", serial);
        if (session_is_source(s) ? d != NULL : d->asked)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "disk %.40s has its socket", serial);
        return 0;
}

static int listener_address(const session *s, struct sockaddr_un *ret) {
        int n;

        *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
        n = snprintf(ret->sun_path, sizeof(ret->sun_path), LISTENER_FORMAT,
                     sandbox_state_dir(s->sb));
        return n < 0 || (size_t)n >= sizeof(ret->sun_path) ? -ENAMETOOLONG : 0;
}

/* In our own folder: nobody but us reaches it. QEMU listens on it. */
static int make_listener(const session *s, int *ret_fd) {
        _cleanup_(closep) int fd = -EBADF;
        struct sockaddr_un address;
        int r = listener_address(s, &address);

        if (r < 0)
                return r;
        remove_listener(s);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int start_pump(const session *s, session_disk *d) {
        _cleanup_(closep) int qemu = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address;
        int r = listener_address(s, &address);

        if (r < 0)
                return r;
        if (qemu < 0 || connect(qemu, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return pump_start(TAKE_FD(d->fd), TAKE_FD(qemu), &d->pump);
}

static void on_served(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        _cleanup_(freep) serving *q = userdata;
        session_disk *d = find(q->session, q->serial);

        if (!d || !d->asked) /* of a session that is over */
                return;
        if (r == 0) {
                q->session->nbd_runs = true;
                r = start_pump(q->session, d);
                if (r < 0)
                        ferry_error_set_errno(&own, r, "serve disk %s", q->serial);
                error = &own;
        }
        answer(d, r, error);
}

static int serve(session *s, session_disk *d, ferry_error *reterr) {
        _cleanup_(closep) int listener = -EBADF;
        serving *q = malloc(sizeof(*q));
        int r = q ? 0 : -ENOMEM;

        if (r == 0 && !s->nbd_asked)
                r = make_listener(s, &listener);
        if (r == 0) {
                *q = (serving){ .session = s };
                (void)snprintf(q->serial, sizeof(q->serial), "%s", d->serial);
                r = vm_nbd_serve(sandbox_vm(s->sb), d->serial, TAKE_FD(listener), on_served, q);
        }
        if (r < 0) {
                free(q);
                return ferry_error_set_errno(reterr, r, "serve disk %s", d->serial);
        }
        s->nbd_asked = d->asked = true;
        return 0;
}

static int take_socket(session *s, session_disk *d, int fd_consume, ferry_error *reterr) {
        encrypt_options options = {
                .kind = s->options.encryption,
                .source = session_is_source(s),
                .session_id = s->id,
                .purpose = d->serial,
        };
        int r;

        close_socket(d); /* of a try that did not work */
        d->fd = fd_consume;
        if (options.kind == TLS_NONE)
                return 0;
        memcpy(options.secret, s->secret, sizeof(options.secret));
        r = encrypt_start(&d->fd, &options, &d->tunnel, reterr);
        explicit_bzero(&options, sizeof(options));
        return r;
}

void session_disk_socket(session *s, const char *id, const char *serial, int fd_consume,
                         session_reply reply, void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        ferry_error error = FERRY_ERROR_INIT;
        session_disk *d;
        int r = session_check_disk_socket(s, id, serial, &error);

        if (r == 0 && session_is_source(s)) {
                d = add(s, serial);
                if (!d)
                        r = ferry_error_set(&error, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                            "too many disks");
                else {
                        r = take_socket(s, d, TAKE_FD(fd), &error);
                        if (r < 0)
                                s->n_disks--;
                }
        } else if (r == 0) {
                d = find(s, serial);
                r = take_socket(s, d, TAKE_FD(fd), &error);
                if (r == 0)
                        r = serve(s, d, &error);
                if (r == 0) {
                        d->reply = reply;
                        d->userdata = userdata;
                        return;
                }
        }
        session_reply_error(reply, userdata, r, &error);
}

/* ---- source ---- */

static void mirror_failed(session *s, const char *what, const ferry_error *error) {
        if (s->state != MIG_S_COPYING)
                return;
        session_set_reason_from(s, what, error);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static void on_in_step(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_S_COPYING || s->n_mirrors_starting == 0)
                return;
        if (r < 0) {
                s->n_mirrors_starting = 0;
                mirror_failed(s, "a disk could not be copied", error);
                return;
        }
        if (--s->n_mirrors_starting == 0) {
                log_info("session %s: %zu disk(s) in step after %llu ms", s->id, s->n_disks,
                         (unsigned long long)(now_usec() - s->began_usec) / USEC_PER_MSEC);
                session_start_memory(s);
        }
}

void session_start_disks(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        ferry_vm *v = sandbox_vm(s->sb);
        int r = 0;

        s->n_mirrors_starting = s->n_disks;
        for (size_t i = 0; r == 0 && i < s->n_disks; i++)
                r = vm_mirror_start(v, s->disks[i].serial, TAKE_FD(s->disks[i].fd),
                                    s->options.max_bandwidth, on_in_step, s);
        if (r < 0) {
                s->n_mirrors_starting = 0;
                ferry_error_set_errno(&own, r, "mirror");
                mirror_failed(s, "a disk could not be copied", &own);
        }
}

void session_vm_mirror_failed(session *s, const char *reason) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;

        ferry_error_set(&own, FERRY_ABORTED, -ECONNABORTED, "%s", reason);
        mirror_failed(s, "a disk is not copied any more", &own);
}

static void on_finished(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_S_COPYING)
                return;
        if (r < 0) {
                mirror_failed(s, "a disk could not be copied to its end", error);
                return;
        }
        s->disks_are_whole = true;
        session_go_on_switching(s);
}

void session_finish_disks(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = vm_mirrors_finish(sandbox_vm(s->sb), on_finished, s);

        if (r < 0) {
                ferry_error_set_errno(&own, r, "mirror");
                mirror_failed(s, "a disk could not be copied to its end", &own);
        }
}

size_t session_offered_disks(session *s, char *ret[SESSION_DISKS_MAX]) {
        size_t n = s->disks_are_whole ? s->n_disks : 0;

        for (size_t i = 0; i < n; i++)
                ret[i] = s->disks[i].serial;
        return n;
}

/* ---- destination ---- */

bool session_disks_have_sockets(session *s) {
        for (size_t i = 0; i < s->n_disks; i++)
                if (!s->disks[i].pump) {
                        session_set_reason(s, FERRY_FAILED_PRECONDITION,
                                           "the hosts do not share disk %s, and it has no socket "
                                           "of its own to go over",
                                           s->disks[i].serial);
                        return false;
                }
        return true;
}

static void on_nbd_stopped(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_D_LOADING)
                return;
        if (r < 0) {
                session_set_reason_from(s, "QEMU does not let go of a disk", error);
                session_post(s, MIG_EV_TRANSFER_FAILED);
        } else
                session_post(s, MIG_EV_LOADED);
}

/* Nobody writes to its disks from here on but the guest. */
int session_let_go_of_disks(session *s, vm_done done) {
        int r = 0;

        if (s->nbd_runs) {
                r = vm_nbd_stop(sandbox_vm(s->sb), done, s);
                if (r < 0) {
                        session_set_reason(s, FERRY_INTERNAL, "QEMU does not let go of a disk");
                        session_post(s, MIG_EV_TRANSFER_FAILED);
                } else
                        r = 1;
        }
        remove_listener(s);
        s->nbd_runs = false;
        return r;
}

void session_loaded(session *s) {
        if (session_let_go_of_disks(s, on_nbd_stopped) == 0)
                session_post(s, MIG_EV_LOADED);
}

static bool is_named(const session_disk *d, char *const *serials, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(d->serial, serials[i]) == 0)
                        return true;
        return false;
}

/* The file was made empty, and no file system is. */
static bool has_data(const session *s, const session_disk *d) {
        const vm_config *config = s->imported->config;
        ssize_t at = vm_config_find_disk(config, d->serial);
        struct stat st;

        return at >= 0 && stat(config->disks[at].path, &st) == 0 && st.st_blocks > 0;
}

/* A source's shim that was started again after the copy does not know of disks any more, and its
 * copy of the guest may be gone. That QEMU has loaded all means that the disks were whole before,
 * if they were copied at all. */
bool session_take_disks(session *s, char *const *serials, size_t n) {
        bool whole = true;

        if (s->disks_are_whole || !session_awaits_offer(s))
                return true;
        for (size_t i = 0; i < s->n_disks; i++)
                whole &= n > 0 ? is_named(&s->disks[i], serials, n) : has_data(s, &s->disks[i]);
        s->disks_are_whole = whole;
        if (whole)
                return true;
        session_set_reason(s, FERRY_ABORTED, "the source did not copy all of %zu disk(s)",
                           s->n_disks);
        if (sandbox_vm(s->sb))
                (void)vm_kill(sandbox_vm(s->sb)); /* its end is what gives this copy up */
        return false;
}
