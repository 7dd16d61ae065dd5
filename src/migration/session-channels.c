/* SPDX-License-Identifier: MIT */
/* `channels` over 1: connections beside the link, which the relay takes turns on. Each proves
 * whose it is with a hello of its own; after the relay's end they carry nothing. */
#include "base/fd.h"
#include "migration/session-internal.h"

void session_drop_channels(session *s) {
        for (size_t i = 0; i < s->n_channels; i++)
                s->channels[i] = mig_link_free(s->channels[i]);
        s->n_channels = 0;
}

static size_t n_missing(const session *s) {
        return s->options.channels - (s->link ? 1 : 0) - s->n_channels;
}

bool session_wants_channel(const session *s) {
        return (s->state == MIG_S_SOCKET_READY || s->state == MIG_D_SOCKET_READY) && s->link &&
               n_missing(s) > 0;
}

int session_add_channel(session *s, int fd_consume, ferry_error *reterr) {
        int r = mig_link_new(sandbox_event(s->sb), fd_consume, &session_link_handlers, s,
                             &s->channels[s->n_channels]);

        if (r < 0)
                return ferry_error_set_errno(reterr, r, "migration socket");
        s->n_channels++;
        return 0;
}

int session_check_channels(const session *s, ferry_error *reterr) {
        bool begins = s->state == MIG_S_EXPORTED || s->state == MIG_D_PREPARED ||
                      s->state == MIG_S_SOCKET_READY || s->state == MIG_D_SOCKET_READY;

        if (!begins || s->options.channels == 1 || n_missing(s) == 0)
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                               "session %s wants %u connections (channels), %zu of them are "
                               "missing: CreateDuplicateSocket before TransferSandbox",
                               s->id, s->options.channels, n_missing(s));
}

int session_greet_all(session *s, mig_link_identity *identity, ferry_error *reterr) {
        int r = mig_link_greet(s->link, identity, reterr);

        for (size_t i = 0; r == 0 && i < s->n_channels; i++) {
                identity->channel = (uint32_t)i + 1;
                r = mig_link_greet(s->channels[i], identity, reterr);
        }
        return r;
}

bool session_all_greeted(session *s) {
        return ++s->n_greeted == 1 + s->n_channels;
}

int session_dup_all(const session *s, int ret[RELAY_CHANNELS_MAX], size_t *ret_n) {
        size_t n = 1;
        int r = mig_link_dup(s->link, &ret[0]);

        if (r < 0)
                return r;
        for (; n <= s->n_channels; n++) {
                r = mig_link_dup(s->channels[n - 1], &ret[n]);
                if (r < 0)
                        break;
        }
        while (r < 0 && n > 0)
                fd_close(ret[--n]);
        *ret_n = n;
        return r;
}

char *session_connection_problem(session *s) {
        char *problem = s->link ? mig_link_get_problem(s->link) : NULL;

        for (size_t i = 0; !problem && i < s->n_channels; i++)
                problem = mig_link_get_problem(s->channels[i]);
        return problem;
}

bool session_waits_for_peer(const session *s) {
        bool waits = mig_link_waits(s->link);

        for (size_t i = 0; i < s->n_channels; i++)
                waits |= mig_link_waits(s->channels[i]);
        return waits;
}
