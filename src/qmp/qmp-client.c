/* SPDX-License-Identifier: MIT */
#include "qmp/qmp-client.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"
#include "qmp/qmp-line.h"

/* Model: one list of calls in the order they were invoked. A call leaves it when it is answered,
 * or when its time is over. `next_send` splits the list: what is before it was handed to the
 * kernel whole. Answers are matched by id; ids only rise, so an answer to an id that was given out
 * and is not in the list is a late one, and one to an id not yet sent is a lie. */

#define COMMAND_MAX 128U

typedef struct qmp_call {
        struct qmp_call *next;
        json_int_t id;
        char *text;
        size_t n_text, n_sent;
        int fd; /* rides on the first byte */
        bool has_fd;
        uint64_t deadline;
        qmp_reply_handler reply;
        void *userdata;
} qmp_call;

typedef enum client_state {
        CLIENT_GREETING, /* waits for QEMU's first line */
        CLIENT_CAPABILITIES,
        CLIENT_READY,
        CLIENT_DEAD,
        CLIENT_CLOSED,
} client_state;

struct qmp_client {
        unsigned n_ref; /* the owner's, and one for each of our frames that runs handlers */
        client_state state;
        int fd;
        bool write_dead; /* the peer reads no more; what it wrote before is still worth reading */
        int failure;     /* to be reported by the defer source: never from inside an invoke */
        sd_event *event;
        sd_event_source *io, *timer, *defer;
        uint64_t handshake_deadline;
        bool has_oob;

        qmp_line_reader reader;
        qmp_call *calls, *calls_tail, *next_send;
        json_int_t next_id;
        json_int_t fd_barrier; /* id of the fd-carrying command under way, or 0 */

        qmp_client_handlers handlers;
        void *userdata;
        qmp_version version;
        char *package;
};

static qmp_call *call_free(qmp_call *call) {
        if (!call)
                return NULL;
        fd_close(call->fd);
        free(call->text);
        free(call);
        return NULL;
}

DEFINE_CLEANUP(qmp_call *, call_free)

static void client_pin(qmp_client *client) {
        client->n_ref++;
}

static void client_unpin(qmp_client *client) {
        if (--client->n_ref > 0)
                return;
        qmp_line_reader_done(&client->reader);
        free(client->package);
        sd_event_unref(client->event);
        free(client);
}

static void client_unpinp(qmp_client **client) {
        if (*client)
                client_unpin(*client);
}

static bool is_live(const qmp_client *client) {
        return client->state < CLIENT_DEAD;
}

/* --- the list --- */

static void call_append(qmp_client *client, qmp_call *call) {
        if (client->calls_tail)
                client->calls_tail->next = call;
        else
                client->calls = call;
        client->calls_tail = call;
        if (!client->next_send)
                client->next_send = call;
}

static qmp_call *call_steal(qmp_client *client, qmp_call *call) {
        qmp_call **at = &client->calls, *before = NULL;

        while (*at != call) {
                before = *at;
                at = &before->next;
        }
        *at = call->next;
        if (client->calls_tail == call)
                client->calls_tail = before;
        if (client->next_send == call)
                client->next_send = call->next;
        call->next = NULL;
        return call;
}

static qmp_call *call_find(qmp_client *client, json_int_t id) {
        for (qmp_call *call = client->calls; call; call = call->next)
                if (call->id == id)
                        return call;
        return NULL;
}

static bool call_was_sent(const qmp_call *call) {
        return call->n_sent == call->n_text;
}

/* The only place that completes a call: it is off the list before its handler runs. */
static void call_complete(qmp_client *client, qmp_call *call, int r, const json_t *value,
                          const qmp_error *error) {
        _cleanup_(call_freep) qmp_call *owned = call_steal(client, call);

        if (owned->reply)
                owned->reply(client, r, value, error, owned->userdata);
}

static void calls_drain(qmp_client *client, int r) {
        while (client->calls)
                call_complete(client, client->calls, r, NULL, NULL);
}

/* --- the end --- */

static void client_silence(qmp_client *client) {
        client->io = sd_event_source_disable_unref(client->io);
        client->timer = sd_event_source_disable_unref(client->timer);
        client->defer = sd_event_source_disable_unref(client->defer);
        client->fd = fd_close(client->fd);
}

/* Runs handlers: the caller holds a pin. */
static void client_die(qmp_client *client, int r, const char *reason) {
        if (!is_live(client))
                return;
        client->state = CLIENT_DEAD;
        client_silence(client);
        calls_drain(client, -ENOTCONN);
        if (client->state == CLIENT_DEAD && client->handlers.on_disconnect)
                client->handlers.on_disconnect(client, r, reason, client->userdata);
}

qmp_client *qmp_client_close(qmp_client *client) {
        if (!client || client->state == CLIENT_CLOSED)
                return NULL;
        client->state = CLIENT_CLOSED;
        client_silence(client);
        calls_drain(client, -ECANCELED);
        client_unpin(client);
        return NULL;
}

static void client_fail_later(qmp_client *client, int r) {
        if (client->failure == 0)
                client->failure = r;
        if (sd_event_source_set_enabled(client->defer, SD_EVENT_ONESHOT) < 0)
                client->failure = r;
}

static int on_defer(sd_event_source *source, void *userdata) {
        _cleanup_(client_unpinp) qmp_client *client = userdata;

        client_pin(client);
        client_die(client, client->failure, strerror(-client->failure));
        return 0;
}

/* --- time --- */

static int timer_update(qmp_client *client) {
        uint64_t next = client->handshake_deadline;
        int r;

        for (const qmp_call *call = client->calls; call; call = call->next)
                if (call->deadline < next)
                        next = call->deadline;
        if (next == USEC_INFINITY)
                return sd_event_source_set_enabled(client->timer, SD_EVENT_OFF);
        r = sd_event_source_set_time(client->timer, next);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(client->timer, SD_EVENT_ONESHOT);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(client_unpinp) qmp_client *client = userdata;
        uint64_t now = now_usec();
        bool more = true;
        int r;

        client_pin(client);
        if (client->handshake_deadline <= now) {
                client_die(client, -ETIMEDOUT, "no QMP greeting in time");
                return 0;
        }
        while (more && is_live(client)) {
                more = false;
                for (qmp_call *call = client->calls; call; call = call->next)
                        if (call->deadline <= now) {
                                /* Half a command on the wire has to be completed, or the rest of
                                 * the stream is garbage: its shell stays, without its handler. */
                                if (call->n_sent > 0 && !call_was_sent(call)) {
                                        qmp_reply_handler reply = call->reply;

                                        call->reply = NULL;
                                        call->deadline = USEC_INFINITY;
                                        if (reply)
                                                reply(client, -ETIMEDOUT, NULL, NULL,
                                                      call->userdata);
                                } else
                                        call_complete(client, call, -ETIMEDOUT, NULL, NULL);
                                more = true; /* the handler may have changed the list */
                                break;
                        }
        }
        if (is_live(client)) {
                r = timer_update(client);
                if (r < 0)
                        client_die(client, r, "cannot set a timer");
        }
        return 0;
}

/* --- out --- */

/* Runs no handlers. */
static void client_write(qmp_client *client) {
        bool want_write = false;
        int r;

        while (client->next_send && !client->write_dead && client->failure == 0) {
                qmp_call *call = client->next_send;
                ssize_t k;

                if (call->has_fd && call->n_sent == 0 && client->fd_barrier != 0)
                        break;
                k = fd_send(client->fd, call->text + call->n_sent, call->n_text - call->n_sent,
                            &call->fd, call->fd >= 0 ? 1 : 0);
                if (k == -EAGAIN) {
                        want_write = true;
                        break;
                }
                if (k == -EPIPE || k == -ECONNRESET) {
                        client->write_dead = true; /* EOF is on its way to the reader */
                        break;
                }
                if (k < 0) {
                        client_fail_later(client, (int)k);
                        break;
                }
                if (call->has_fd && call->n_sent == 0) {
                        client->fd_barrier = call->id;
                        call->fd = fd_close(call->fd);
                }
                call->n_sent += (size_t)k;
                if (call_was_sent(call))
                        client->next_send = call->next;
        }
        r = sd_event_source_set_io_events(client->io, EPOLLIN | (want_write ? EPOLLOUT : 0U));
        if (r < 0)
                client_fail_later(client, r);
}

static int call_new(qmp_client *client, const char *execute, const char *command, json_t *arguments,
                    int fd_consume, uint64_t timeout_usec, qmp_reply_handler reply, void *userdata,
                    qmp_call **ret) {
        _cleanup_(closep) int fd = fd_consume;
        _cleanup_(call_freep) qmp_call *call = NULL;
        uint64_t now = now_usec();
        bool has_fd = fd >= 0;
        json_t *message;
        size_t n;

        call = malloc(sizeof(*call));
        if (!call)
                return -ENOMEM;
        *call = (qmp_call){
                .id = client->next_id,
                .has_fd = has_fd,
                .fd = TAKE_FD(fd),
                .deadline = timeout_usec < USEC_INFINITY - now ? now + timeout_usec : USEC_INFINITY,
                .reply = reply,
                .userdata = userdata,
        };
        message = json_pack("{s:s, s:O*, s:I}", execute, command, "arguments", arguments, "id",
                            call->id);
        if (!message)
                return -ENOMEM;
        call->text = json_dumps(message, JSON_COMPACT);
        json_decref(message);
        if (!call->text)
                return -ENOMEM;
        /* The NUL gives way to the newline. QEMU's parser needs no NUL, nor do we. */
        n = strlen(call->text);
        call->text[n] = '\n';
        call->n_text = n + 1;
        *ret = TAKE_PTR(call);
        return 0;
}

static int client_send(qmp_client *client, const char *execute, const char *command,
                       json_t *arguments_consume, int fd_consume, uint64_t timeout_usec,
                       qmp_reply_handler reply, void *userdata) {
        qmp_call *call = NULL;
        int r;

        r = call_new(client, execute, command, arguments_consume, fd_consume, timeout_usec, reply,
                     userdata, &call);
        json_decref(arguments_consume);
        if (r < 0)
                return r;
        call_append(client, call);
        r = timer_update(client);
        if (r < 0) {
                call_free(call_steal(client, call));
                return r;
        }
        client->next_id++;
        client_write(client);
        return 0;
}

static int invoke(qmp_client *client, const char *execute, const char *command,
                  json_t *arguments_consume, int fd_consume, uint64_t timeout_usec,
                  qmp_reply_handler reply, void *userdata) {
        int r = 0;

        if (!is_live(client) || client->failure < 0)
                r = -ENOTCONN;
        else if (client->state != CLIENT_READY)
                r = -EBUSY;
        else if (!command || strlen(command) > COMMAND_MAX ||
                 (arguments_consume && !json_is_object(arguments_consume)))
                r = -EINVAL;
        if (r < 0) {
                json_decref(arguments_consume);
                fd_close(fd_consume);
                return r;
        }
        return client_send(client, execute, command, arguments_consume, fd_consume, timeout_usec,
                           reply, userdata);
}

int qmp_client_invoke_fd(qmp_client *client, const char *command, json_t *arguments_consume,
                         int fd_consume, uint64_t timeout_usec, qmp_reply_handler reply,
                         void *userdata) {
        return invoke(client, "execute", command, arguments_consume, fd_consume, timeout_usec,
                      reply, userdata);
}

int qmp_client_invoke_oob(qmp_client *client, const char *command, json_t *arguments_consume,
                          uint64_t timeout_usec, qmp_reply_handler reply, void *userdata) {
        return invoke(client, client->has_oob ? "exec-oob" : "execute", command, arguments_consume,
                      -EBADF, timeout_usec, reply, userdata);
}

int qmp_client_invoke(qmp_client *client, const char *command, json_t *arguments_consume,
                      uint64_t timeout_usec, qmp_reply_handler reply, void *userdata) {
        return qmp_client_invoke_fd(client, command, arguments_consume, -EBADF, timeout_usec, reply,
                                    userdata);
}

/* --- in --- */

static void on_capabilities(qmp_client *client, int r, const json_t *value, const qmp_error *error,
                            void *userdata) {
        if (r < 0)
                return; /* on_disconnect follows */
        if (error) {
                client_die(client, -EPROTO, error->description);
                return;
        }
        client->state = CLIENT_READY;
        client->handshake_deadline = USEC_INFINITY;
        if (client->handlers.on_ready)
                client->handlers.on_ready(client, &client->version, client->userdata);
}

static bool json_get_uint(const json_t *object, const char *key, json_int_t max, json_int_t *ret) {
        const json_t *value = json_object_get(object, key);

        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) > max)
                return false;
        *ret = json_integer_value(value);
        return true;
}

static bool offers_oob(const json_t *greeting) {
        const json_t *list = json_object_get(json_object_get(greeting, "QMP"), "capabilities");

        for (size_t i = 0; i < json_array_size(list); i++) {
                const char *name = json_string_value(json_array_get(list, i));

                if (name && strcmp(name, "oob") == 0)
                        return true;
        }
        return false;
}

/* Returns a reason when the line is not a greeting. */
static const char *take_greeting(qmp_client *client, const json_t *line) {
        const json_t *version = json_object_get(json_object_get(line, "QMP"), "version");
        const json_t *qemu = json_object_get(version, "qemu");
        const char *package = json_string_value(json_object_get(version, "package"));
        json_int_t major, minor, micro;

        if (!json_get_uint(qemu, "major", 1000000, &major) ||
            !json_get_uint(qemu, "minor", 1000000, &minor) ||
            !json_get_uint(qemu, "micro", 1000000, &micro))
                return "not a QMP greeting";
        client->package = strndup(package ? package : "", 256);
        if (!client->package)
                return "out of memory";
        /* Debian's package reads " (Debian 1:7.2+...)": without its wrapping it reads better. */
        package = client->package;
        if (package[0] == ' ')
                package++;
        client->version = (qmp_version){
                .major = (unsigned)major,
                .minor = (unsigned)minor,
                .micro = (unsigned)micro,
                .package = package,
        };
        client->state = CLIENT_CAPABILITIES;
        client->has_oob = offers_oob(line);
        if (client_send(client, "execute", "qmp_capabilities",
                        client->has_oob ? json_pack("{s:[s]}", "enable", "oob") : NULL, -EBADF,
                        USEC_INFINITY, on_capabilities, NULL) < 0)
                return "out of memory";
        return NULL;
}

static void take_event(qmp_client *client, const json_t *line, const char *name,
                       uint64_t arrival_usec) {
        const json_t *data = json_object_get(line, "data");
        const json_t *stamp = json_object_get(line, "timestamp");
        json_t *empty = NULL;
        json_int_t seconds, micros;
        qmp_event event = { .name = name, .arrival_usec = arrival_usec };

        if (!client->handlers.on_event)
                return;
        if (!json_is_object(data))
                data = empty = json_object();
        if (!data)
                return;
        if (json_get_uint(stamp, "seconds", INT64_MAX / 2000000, &seconds) &&
            json_get_uint(stamp, "microseconds", 999999, &micros))
                event.qemu_usec = (uint64_t)seconds * USEC_PER_SEC + (uint64_t)micros;
        event.data = data;
        client->handlers.on_event(client, &event, client->userdata);
        json_decref(empty);
}

/* Returns a reason when the peer broke the protocol. */
static const char *take_answer(qmp_client *client, const json_t *line) {
        const json_t *value = json_object_get(line, "return");
        const json_t *error = json_object_get(line, "error");
        const json_t *id = json_object_get(line, "id");
        qmp_call *call;

        if (!value == !error)
                return "a line that is no greeting, event or answer";
        if (!json_is_integer(id) || json_integer_value(id) < 1 ||
            json_integer_value(id) >= client->next_id)
                return "an answer to a question never asked";
        if (client->fd_barrier == json_integer_value(id)) {
                client->fd_barrier = 0;
                client_write(client);
        }
        call = call_find(client, json_integer_value(id));
        if (!call)
                return NULL; /* late: its time was over */
        if (!call_was_sent(call))
                return "an answer to a question not sent yet";
        if (error) {
                const char *class_name = json_string_value(json_object_get(error, "class"));
                const char *description = json_string_value(json_object_get(error, "desc"));

                call_complete(client, call, 0, NULL,
                              &(qmp_error){
                                      .class_name = class_name ? class_name : "GenericError",
                                      .description = description ? description : "no description",
                              });
        } else
                call_complete(client, call, 0, value, NULL);
        return NULL;
}

static const char *take_line(qmp_client *client, const json_t *line, uint64_t arrival_usec) {
        const char *name = json_string_value(json_object_get(line, "event"));

        if (client->state == CLIENT_GREETING)
                return take_greeting(client, line);
        if (name) {
                take_event(client, line, name, arrival_usec);
                return NULL;
        }
        return take_answer(client, line);
}

/* Runs handlers: the caller holds a pin. */
static void client_read(qmp_client *client) {
        uint64_t arrival_usec;
        const char *line;
        char *space;
        size_t n;
        ssize_t k;
        int r;

        r = qmp_line_reader_space(&client->reader, &space, &n);
        if (r < 0) {
                client_die(client, r == -EMSGSIZE ? -EPROTO : r,
                           r == -EMSGSIZE ? "a line too long" : "out of memory");
                return;
        }
        do
                k = read(client->fd, space, n);
        while (k < 0 && errno == EINTR);
        arrival_usec = now_usec();
        if (k < 0) {
                if (errno != EAGAIN)
                        client_die(client, -ENOTCONN, strerror(errno));
                return;
        }
        if (k == 0) {
                client_die(client, -ENOTCONN, "QEMU closed the connection");
                return;
        }
        qmp_line_reader_added(&client->reader, (size_t)k);
        while (is_live(client) && qmp_line_reader_next(&client->reader, &line, &n) > 0) {
                const char *reason = "a line that is not a JSON object";
                json_t *object;

                r = qmp_line_parse(line, n, &object);
                if (r == 0) {
                        reason = take_line(client, object, arrival_usec);
                        json_decref(object);
                }
                if (r == -ENOMEM)
                        client_die(client, r, "out of memory");
                else if (reason)
                        client_die(client, -EPROTO, reason);
        }
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(client_unpinp) qmp_client *client = userdata;

        client_pin(client);
        if (revents & EPOLLOUT)
                client_write(client);
        if (is_live(client) && (revents & ~(uint32_t)EPOLLOUT))
                client_read(client);
        return 0;
}

/* --- the beginning --- */

int qmp_client_new(sd_event *event, int fd_consume, uint64_t handshake_timeout_usec,
                   const qmp_client_handlers *handlers, void *userdata, qmp_client **ret) {
        _cleanup_(closep) int fd = fd_consume;
        _cleanup_(qmp_client_closep) qmp_client *client = NULL;
        uint64_t now = now_usec();
        int r;

        r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        client = malloc(sizeof(*client));
        if (!client)
                return -ENOMEM;
        *client = (qmp_client){
                .n_ref = 1,
                .fd = TAKE_FD(fd),
                .event = sd_event_ref(event),
                .next_id = 1,
                .userdata = userdata,
                .handshake_deadline = handshake_timeout_usec < USEC_INFINITY - now
                                              ? now + handshake_timeout_usec
                                              : USEC_INFINITY,
        };
        if (handlers)
                client->handlers = *handlers;
        r = sd_event_add_io(event, &client->io, client->fd, EPOLLIN, on_io, client);
        if (r < 0)
                return r;
        /* Before other sources of the same loop: the guest may stand still for what comes here. */
        r = sd_event_source_set_priority(client->io, SD_EVENT_PRIORITY_IMPORTANT);
        if (r < 0)
                return r;
        r = sd_event_add_time(event, &client->timer, CLOCK_MONOTONIC, USEC_INFINITY, USEC_PER_MSEC,
                              on_timer, client);
        if (r < 0)
                return r;
        r = sd_event_add_defer(event, &client->defer, on_defer, client);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(client->defer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        r = timer_update(client);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(client);
        return 0;
}

const qmp_version *qmp_client_get_version(const qmp_client *client) {
        return client->version.package ? &client->version : NULL;
}
