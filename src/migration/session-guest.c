/* SPDX-License-Identifier: MIT */
/* What the source's host knows of the guest's programs goes before OFFER, in pieces; the
 * destination has it on disk before it says READY. Opaque here. */
#include <string.h>

#include "migration/session-internal.h"

#define PIECE     (MIG_LINK_MESSAGE_MAX / 2)
#define GUEST_MAX (16U << 20)

void session_drop_guest(session *s) {
        free(s->guest);
        s->guest = NULL;
        s->n_guest = 0;
        s->guest_carried = false;
}

/* ---- source ---- */

int session_send_guest(session *s) {
        Ferry__Handover__V1__Guest piece = FERRY__HANDOVER__V1__GUEST__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        int r = 0;

        if (!s->guest_carried)
                r = sandbox_carry_guest(s->sb, &s->guest, &s->n_guest);
        if (r == 0 && s->n_guest > GUEST_MAX)
                r = -EFBIG;
        if (r < 0)
                return r;
        s->guest_carried = true; /* the VM may be gone when it is asked for again */
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_GUEST;
        m.guest = &piece;
        for (size_t at = 0; r == 0 && at < s->n_guest; at += piece.data.len) {
                size_t left = s->n_guest - at;

                piece.data = (ProtobufCBinaryData){ left < PIECE ? left : PIECE, s->guest + at };
                r = s->link && s->link_is_ours ? mig_link_send(s->link, &m) : -ENOTCONN;
        }
        return r == -ENOTCONN ? 0 : r; /* a lost link is told elsewhere */
}

/* ---- destination ---- */

void session_receive_guest(session *s, const ProtobufCBinaryData *data) {
        uint8_t *longer;

        if (!session_awaits_offer(s))
                return;
        longer = s->n_guest + data->len <= GUEST_MAX ? realloc(s->guest, s->n_guest + data->len + 1)
                                                     : NULL;
        if (!longer) {
                session_drop_guest(s);
                mig_link_shutdown(s->link); /* it can be said again on another one */
                return;
        }
        memcpy(longer + s->n_guest, data->data, data->len);
        s->guest = longer;
        s->n_guest += data->len;
}

bool session_take_guest(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r = 0;

        if (s->n_guest == 0 || !session_awaits_offer(s))
                return true;
        r = sandbox_guest_arrives(s->sb, s->guest, s->n_guest, &error);
        session_drop_guest(s);
        if (r == 0)
                return true;
        session_set_reason(s, (ferry_code)error.code, "%s", ferry_error_message(&error));
        if (sandbox_vm(s->sb))
                (void)vm_kill(sandbox_vm(s->sb)); /* its end is what gives this copy up */
        return false;
}
