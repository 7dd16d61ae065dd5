/* SPDX-License-Identifier: MIT */
/* verify_memory: both sides read all of the guest's memory while it stands, and the destination
 * says READY only if what it has is what the source has. */
#include <string.h>

#include "migration/session-internal.h"

/* The destination reads as long as the source, or on a slower host longer; both begin at once. */
#define READ_FACTOR     4U
#define READY_WAIT_USEC (10 * USEC_PER_SEC)

void session_drop_memory_check(session *s) {
        s->memory_job = vm_memory_digest_free(s->memory_job);
        s->memory_known = s->offer_waits = false;
}

static int start(session *s, vm_memory_digest_done done) {
        ferry_vm *v = sandbox_vm(s->sb);
        int fd = v ? vm_get_memory_fd(v) : -ESRCH;

        s->memory_job = vm_memory_digest_free(s->memory_job);
        s->memory_began_usec = now_usec();
        if (fd < 0)
                return fd;
        return vm_memory_digest_start(sandbox_event(s->sb), fd,
                                      vm_config_memory_bytes(vm_get_config(v)), done, s,
                                      &s->memory_job);
}

static void keep(session *s, int r, const uint8_t *digest) {
        s->report.verify_usec = now_usec() - s->memory_began_usec;
        s->memory_known = r == 0;
        if (r == 0)
                memcpy(s->memory, digest, sizeof(s->memory));
        s->memory_job = vm_memory_digest_free(s->memory_job);
}

/* ---- source ---- */

static void offer_now(session *s) {
        s->offered_usec = now_usec();
        session_start_timer(
                s, session_limit_usec(s, READY_WAIT_USEC + READ_FACTOR * s->report.verify_usec),
                MIG_EV_WAIT_TIMEOUT);
        session_say_offer(s);
}

static void source_failed(session *s, int r) {
        session_set_reason(s, FERRY_INTERNAL, "read the guest's memory: %s", strerror(-r));
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static void on_source_digest(int r, const uint8_t *digest, void *userdata) {
        session *s = userdata;

        keep(s, r, digest);
        if (s->state == MIG_S_SPENT) { /* the VM has ended meanwhile: the other copy is the last */
                s->offered_usec = now_usec();
                session_say_offer(s);
        } else if (s->state == MIG_S_OFFERED && r < 0)
                source_failed(s, r);
        else if (s->state == MIG_S_OFFERED)
                offer_now(s);
}

void session_offer(session *s) {
        int r;

        if (!s->options.verify_memory) {
                offer_now(s);
                return;
        }
        r = start(s, on_source_digest);
        if (r < 0)
                source_failed(s, r);
}

/* Without a VM of its own the source has nothing to go back to: the copy is the last, as it is. */
ProtobufCBinaryData session_offered_memory(session *s) {
        if (s->memory_known && sandbox_vm(s->sb))
                return (ProtobufCBinaryData){ sizeof(s->memory), s->memory };
        return (ProtobufCBinaryData){ .len = 0 };
}

/* ---- destination ---- */

static void give_up(session *s, const char *why) {
        session_set_reason(s, FERRY_ABORTED, "the guest's memory: %s", why);
        if (sandbox_vm(s->sb))
                (void)vm_kill(sandbox_vm(s->sb)); /* its end is what gives this copy up */
}

static bool is_the_same(session *s) {
        if (memcmp(s->memory, s->offered_memory, sizeof(s->memory)) == 0)
                return true;
        give_up(s, "it is not the same here as at the source");
        return false;
}

static void on_destination_digest(int r, const uint8_t *digest, void *userdata) {
        session *s = userdata;

        keep(s, r, digest);
        if (mig_lookup(s->state, MIG_EV_OFFER)->verdict == MIG_ILLEGAL || !s->offer_waits)
                return;
        s->offer_waits = false;
        if (r < 0)
                give_up(s, strerror(-r));
        else if (is_the_same(s) && session_take_guest(s))
                session_post(s, MIG_EV_OFFER);
}

void session_read_memory(session *s) {
        if (s->options.verify_memory && !s->memory_job && !s->memory_known)
                (void)start(s, on_destination_digest); /* again with the OFFER, which tells */
}

bool session_take_memory(session *s, const ProtobufCBinaryData *digest) {
        int r = 0;

        if (mig_lookup(s->state, MIG_EV_OFFER)->verdict == MIG_ILLEGAL)
                return true;
        if (digest->len == 0) {
                if (s->options.verify_memory && !s->memory_known)
                        log_warning("session %s: the source's VM has ended: what is here is the "
                                    "last copy, and was not compared",
                                    s->id);
                return true;
        }
        if (digest->len != sizeof(s->offered_memory)) {
                give_up(s, "the source sent no digest that this version knows");
                return false;
        }
        memcpy(s->offered_memory, digest->data, sizeof(s->offered_memory));
        if (s->memory_known)
                return is_the_same(s);
        if (!s->memory_job) /* a shim that was started again forgets what was asked for */
                r = start(s, on_destination_digest);
        if (r < 0)
                give_up(s, strerror(-r));
        s->offer_waits = r == 0;
        return false;
}
