/* SPDX-License-Identifier: MIT */
#pragma once

/* What must be true after a crash: who may run the guest, session by session. One file in the
 * state directory, made full size at once so that a line in the blackout costs one write and,
 * where asked for, one fdatasync. A line carries a checksum; a torn last line never was. */

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"
#include "tls/kind.h"

#define JOURNAL_SESSION_ID_MAX 128U
#define JOURNAL_TOMBSTONES_MAX 64U
#define JOURNAL_RECORD_MAX     512U

/* In the order in which a source or a destination may pass them. */
typedef enum journal_mark {
        JOURNAL_OPEN,      /* a source owns; a destination does not */
        JOURNAL_COMPLETED, /* source: all is sent, the guest stands; still ours */
        JOURNAL_RAN_AGAIN, /* source: rolled back, the guest ran on after the copy */
        JOURNAL_HANDED,    /* source: the destination's to run */
        JOURNAL_DONE,      /* source: the destination runs it */
        JOURNAL_TAKEN,     /* destination, post-copy: ours; `cont` was not sent */
        JOURNAL_OWNER,     /* destination: ours, `cont` may have been sent; source: ours again */
        JOURNAL_RUNNING,   /* destination: it ran */
        JOURNAL_DECLINED,  /* destination: this copy never runs */
        _JOURNAL_MARK_MAX,
} journal_mark;

/* Why a session came to its end, for who asks after the shim was started again. */
typedef enum journal_cause_kind {
        JOURNAL_CAUSE_NONE,
        JOURNAL_CAUSE_FAILURE,
        JOURNAL_CAUSE_GUEST, /* powered off or reset itself */
        JOURNAL_CAUSE_CANCELLED,
        _JOURNAL_CAUSE_MAX,
} journal_cause_kind;

#define JOURNAL_CAUSE_TEXT_MAX 384U
#define JOURNAL_CODE_MAX       16 /* gRPC's last */

typedef struct journal_cause {
        journal_cause_kind kind;
        int32_t code; /* gRPC's */
        char reason[JOURNAL_CAUSE_TEXT_MAX + 1];
} journal_cause;

typedef struct journal_session {
        char session_id[JOURNAL_SESSION_ID_MAX + 1];
        bool source;
        bool direct;
        bool postcopy;       /* it may come to that */
        tls_kind encryption; /* of its connections */
        uint8_t secret[DIGEST_SIZE];
        journal_mark mark;
        bool this_boot;      /* opened since this host booted */
        bool closed;         /* a tombstone */
        journal_cause cause; /* of the open session; a tombstone may have lost it */
} journal_session;

typedef struct journal journal;

/* Reads what is there. -EBADMSG when it is not a journal of ours. */
int journal_open(int dir_fd, journal **ret, ferry_error *reterr);
journal *journal_free(journal *j);

/* 1..128 of [A-Za-z0-9._:@+=-] (it goes into a line). */
bool journal_session_id_is_valid(const char *id);

/* Opens a session: synced. Its mark is OPEN. */
typedef struct journal_opening {
        const char *session_id;
        bool source, direct, postcopy;
        tls_kind encryption;
        const uint8_t *secret; /* DIGEST_SIZE bytes */
} journal_opening;
int journal_begin(journal *j, const journal_opening *opening);
/* The open session's. On a failure nothing is known to be on disk, and the mark in memory is the
 * old one. */
int journal_set(journal *j, journal_mark mark, bool sync);
/* The open session's; the reason is cut to what fits, and what is not printable becomes '?'. Not
 * synced: it need not outlive the host. The first of a kind stays. -EINVAL: code not 0..16. */
int journal_set_cause(journal *j, journal_cause_kind kind, int32_t code, const char *reason);
/* Has ended also when the line could not be written: that is tried again before the next begins. */
int journal_end(journal *j);

/* The open session, or NULL. */
const journal_session *journal_current(const journal *j);
/* The newest of that id, open or not, or NULL. */
const journal_session *journal_find(const journal *j, const char *session_id);
/* All, oldest first. */
const journal_session *journal_sessions(const journal *j, size_t *ret_n);

const char *journal_mark_name(journal_mark mark); /* "ran-again" */

/* A record: the mark with a MAC by the session's secret, for the other side, by way of a caller.
 * Only handed (and done, which says handed), taken, running and declined have one: else -ENODATA.
 */
int journal_record(const journal_session *session, char ret[JOURNAL_RECORD_MAX]);
/* Checks the other side's record: *ret_mark HANDED, TAKEN, RUNNING or DECLINED. -EKEYREJECTED when
 * it is not authentic, -EBADMSG when it is no record, -EINVAL when it is of another session. */
int journal_record_check(const journal_session *session, const void *record, size_t n,
                         journal_mark *ret_mark);

DEFINE_CLEANUP(journal *, journal_free)
