/* SPDX-License-Identifier: MIT */
#pragma once

/* The session's inside, for session*.c alone: one object, a file a concern. */

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/pump.h"
#include "migration/audit.h"
#include "migration/encrypt.h"
#include "migration/incoming.h"
#include "migration/link.h"
#include "migration/options.h"
#include "migration/policy.h"
#include "migration/session.h"
#include "migration/state.h"
#include "migration/trace.h"
#include "relay/relay.h"
#include "vm/memory-digest.h"

#define CONT_RETRY_USEC (20 * USEC_PER_MSEC)
#define ANNOUNCE_ROUNDS 5
#define QUEUE_MAX       32
#define WAITERS_MAX     64

typedef struct waiter {
        mig_event rpc;
        session_reply reply;
        void *userdata;
        uint64_t deadline_usec; /* USEC_INFINITY: none */
} waiter;

/* A writable disk that goes over a socket of its own. */
typedef struct session_disk {
        char serial[VM_CONFIG_SERIAL_MAX + 1];
        tls_tunnel *tunnel;  /* NULL: not encrypted */
        int fd;              /* its socket, until QEMU or the pump has it */
        bool asked;          /* at the destination: it was given one */
        session_reply reply; /* to who gave it, when QEMU serves the disk; NULL: nobody waits */
        void *userdata;
        pump *pump; /* between the socket and QEMU, at the destination */
} session_disk;

/* An import whose check is under way. */
typedef struct importing {
        migration_state *state;
        migration_options options;
        incoming_check *check;
        session_reply reply;
        void *userdata;
} importing;

struct session {
        sandbox *sb;
        journal *journal;

        mig_state state;
        mig_event queue[QUEUE_MAX];
        size_t n_queue;
        bool stepping;

        char id[JOURNAL_SESSION_ID_MAX + 1];
        uint8_t secret[DIGEST_SIZE], state_digest[DIGEST_SIZE];
        migration_options options;
        InitializeOptions *options_message; /* the source's, that both sides go by */
        importing *importing;
        migration_state *imported;
        identify *identifying; /* the files of the VM that is exported */
        const vm_files *files; /* its result */
        uint8_t *exported;
        size_t n_exported;

        mig_link *link;
        mig_link *channels[RELAY_CHANNELS_MAX - 1]; /* beside the link, for the relay */
        size_t n_channels, n_greeted;
        bool is_reserved;      /* it was subscribed to before it began */
        bool had_socket;       /* the session was given one */
        bool link_is_ours;     /* QEMU is done with it: messages may go over it */
        struct relay *relay;   /* while QEMU's stream goes through one */
        struct relay *parting; /* still sends what was said, or keeps QEMU from noticing */
        sd_event_source *parting_io, *parting_timer;
        sd_event_source *relay_io; /* until it has said how it ended */
        bool rejoining;            /* its hello is that of a socket after a break */
        bool peer_lost; /* the destination says that its copy may have run, and is gone */
        sd_event_source *rejoin_timer;
        mig_link *answer; /* of a session that has ended here: its verdict goes over it */
        char answer_id[JOURNAL_SESSION_ID_MAX + 1];
        sd_event_source *answer_timer;

        notifications *notifications;
        policy policy;
        uint64_t look_usec; /* of QEMU's last look for dirty pages */
        bool auto_converge; /* QEMU's throttle, for want of ours */
        char *notice;       /* what is not as it was asked for */
        sd_event_source *blackout_timer;
        waiter waiters[WAITERS_MAX];
        size_t n_waiters;

        sd_event_source *timer; /* the one that the state has: socket, greeting, READY... */
        mig_event timer_event;  /* what it is for, even where it could not be had; MAX: nothing */
        sd_event_source *progress_timer;
        sd_event_source *waiter_timer;
        sd_event_source *retry_timer;
        sd_event_source *again_timer; /* of a line or an end that did not work */
        unsigned n_cont_tries;
        unsigned n_tap_tries;
        bool cancel_is_over; /* QEMU said so before it was asked */
        bool cont_unknown;   /* one timed out: it may have run */
        bool cont_accepted;  /* the guest runs as soon as QEMU has what it needs */

        uint8_t *guest; /* of the guest's programs: what goes before OFFER, or came */
        size_t n_guest;
        bool guest_carried; /* it is what goes */

        session_disk disks[SESSION_DISKS_MAX];
        size_t n_disks, n_mirrors_starting;
        bool nbd_asked, nbd_runs; /* the destination's QEMU serves them */
        bool postcopy;            /* it has come to that */
        bool no_way_back;         /* QEMU's copy can never run again */
        bool switching;    /* QEMU sends the guest's state, and must not see its stream break */
        bool stream_broke; /* and waits for another */
        bool is_whole;     /* and all of it has gone over */
        int stream_fd;     /* QEMU's end of a new one, until it can take it */
        bool stream_flows;
        /* At a destination: the two ends of what its QEMU was given for the next one. */
        int spare_ours, spare_theirs;
        bool spare_given;
        sd_event_source *stream_io; /* waits for that */
        sd_event_source *switch_timer;
        uint8_t *early_offer; /* came before QEMU said that it had loaded */
        size_t n_early_offer;
        bool offer_came;

        bool disks_are_whole; /* all are the same on both sides, and stay so */

        vm_memory_digest *memory_job; /* verify_memory: it is being read */
        uint64_t memory_began_usec;
        uint8_t memory[VM_MEMORY_DIGEST_SIZE], offered_memory[VM_MEMORY_DIGEST_SIZE];
        bool memory_known; /* ours is */
        bool offer_waits;  /* for ours, to be compared with */

        char *reason; /* why it failed or was given up */
        int code;
        bool guest_initiated;
        bool was_cancelled; /* in the time of the shim before this one */
        bool refused;       /* the source told us that it runs the sandbox again */
        bool setup_told;    /* SETUP_DONE was published, by the source */
        bool failed_told;   /* FAILED was published, or that it was cancelled */
        bool done_told;     /* DONE/SUCCESS was */
        bool blackout_told; /* BLACKOUT_EXITED was */
        bool recovery_told; /* RECOVERY_DONE/SUCCESS was */
        bool no_recovery_told;

        /* times: CLOCK_MONOTONIC */
        uint64_t began_usec, stopped_usec, completed_usec, offered_usec, round_trip_usec;
        uint64_t go_usec, stopped_for_usec, resumed_usec;
        uint64_t stopped_wall_usec;
        bool query_under_way;
        sd_event_source *stall_timer;        /* while QEMU sends */
        uint64_t moved, moved_usec;          /* mig_link_moved(), and when it changed last */
        uint64_t dirty_rate;                 /* of the last pass, bytes per second */
        uint64_t rate, rate_sent, rate_usec; /* bytes per second, and the last sample's ends */
        session_report report;

        trace trace;                 /* of this session, or of the last one */
        session_report trace_report; /* its figures, once it is closed */

        session_reply retire_reply;
        void *retire_userdata;
};

static inline bool session_is_source(const session *s) {
        return mig_state_get(s->state)->side == MIG_SIDE_SOURCE;
}

/* At a destination. */
static inline bool session_awaits_offer(const session *s) {
        return mig_lookup(s->state, MIG_EV_OFFER)->verdict != MIG_ILLEGAL ||
               mig_lookup(s->state, MIG_EV_OFFER_POSTCOPY)->verdict != MIG_ILLEGAL;
}

/* prepare_memory_transfer_mode stretches every limit. */
static inline uint64_t session_limit_usec(const session *s, uint64_t usec) {
        return s->options.slow_move ? usec * MIGRATION_SLOW_FACTOR : usec;
}

/* session.c */
void session_stop_timer(session *s);
void session_start_timer(session *s, uint64_t usec, mig_event event);
void session_post(session *s, mig_event event);

/* session-trace.c */
void session_trace_begin(session *s, bool is_source);
void session_trace_vm(session *s, const vm_facts *facts);
void session_trace_step(session *s, mig_state was, mig_event event);
void session_trace_handed(session *s);
void session_trace_confirmed(session *s);
void session_trace_stopped(session *s, uint64_t usec);
void session_trace_resumed(session *s, uint64_t usec);
void session_trace_qemu(session *s, vm_migration_status status, uint64_t usec);
void session_trace_pass(session *s, const policy_pass *pass);
/* What slows the guest down, should it come to that. */
void session_trace_throttle(session *s, const char *by);
/* `what`: a static string. */
void session_trace_order(session *s, const char *what);
void session_trace_settled(session *s);
void session_trace_end(session *s);

/* session-notify.c */
void session_set_reason(session *s, ferry_code code, const char *format, ...) _printf_(3, 4);
void session_set_reason_from(session *s, const char *what, const ferry_error *error);
/* Into the journal, with the reason and its code. */
void session_note_cause(session *s, journal_cause_kind kind);
/* What a shim before this one noted. */
void session_take_cause(session *s, const journal_cause *cause);
/* False: it could not be kept. */
bool session_publish(session *s, notification_entry *entry);
void session_publish_phase(session *s, Phase phase, PhaseState state);
void session_publish_blackout(session *s);
void session_publish_failure(session *s);
void session_publish_cancelled(session *s);
void session_publish_done(session *s);
void session_publish_recovery(session *s);
void session_publish_no_recovery(session *s);

/* session-calls.c */
int session_check_id(const session *s, const char *id, ferry_error *reterr);
void session_complete(session *s, size_t i, int r, const ferry_error *error);
void session_complete_all_of(session *s, mig_event rpc, int r, const ferry_error *error);
void session_complete_all_with_reason(session *s);
void session_retry_waiters(session *s);
void session_call(session *s, mig_event rpc, session_reply reply, void *userdata);
int session_begin_journal(session *s, const char *id, bool is_source,
                          const migration_options *options, const uint8_t *secret);
void session_begin(session *s, const char *id, bool is_source, const migration_options *options);

void session_reply_error(session_reply reply, void *userdata, int r, ferry_error *error);
int session_check_new(const session *s, const char *id, mig_event rpc, ferry_error *reterr);

/* session-import.c */
void session_drop_import(session *s);
/* What the export was looking at; it is over. */
void session_drop_export(session *s);

/* session-guest.c */
void session_drop_guest(session *s);
/* Of the guest that stands, before OFFER. */
int session_send_guest(session *s);
void session_receive_guest(session *s, const ProtobufCBinaryData *data);
/* What was received, before READY. False: this copy cannot be run, and ends. */
bool session_take_guest(session *s);

/* session-memory.c */
void session_drop_memory_check(session *s);
/* At the source: says OFFER, now or when the memory has been read. */
void session_offer(session *s);
ProtobufCBinaryData session_offered_memory(session *s); /* for OFFER; borrowed */
/* At the destination, as soon as all of it is there. */
void session_read_memory(session *s);
/* Of an OFFER. False: not yet, or this copy ends; what follows is this file's. */
bool session_take_memory(session *s, const ProtobufCBinaryData *digest);

/* session-channels.c */
void session_drop_channels(session *s);
/* Whether a connection that comes now is one more. */
bool session_wants_channel(const session *s);
int session_add_channel(session *s, int fd_consume, ferry_error *reterr);
/* Before the transfer begins: -EPROTO while some are missing. */
int session_check_channels(const session *s, ferry_error *reterr);
int session_greet_all(session *s, mig_link_identity *identity, ferry_error *reterr);
/* One more has proved whose it is: whether that was the last. */
bool session_all_greeted(session *s);
/* The caller's descriptors, the link's first. */
int session_dup_all(const session *s, int ret[RELAY_CHANNELS_MAX], size_t *ret_n);
/* Why what is under one of them broke; NULL: not known. The caller frees. */
char *session_connection_problem(session *s);
/* Whether anything that was sent over any of them has not been taken yet. */
bool session_waits_for_peer(const session *s);

/* session-disks.c */
void session_drop_disks(session *s);
/* The caller that `userdata` names has gone. */
void session_forget_disk(session *s, const void *userdata);
/* At the destination: those that the import found are not shared. */
void session_expect_disks(session *s);
/* At the source, in the copy: leads to session_start_memory() or to the transfer's failure. */
void session_start_disks(session *s);
/* The guest stands: leads to session_go_on_switching(), or to the same. */
void session_finish_disks(session *s);
/* For OFFER; borrowed. */
size_t session_offered_disks(session *s, char *ret[SESSION_DISKS_MAX]);
/* False, at the destination: the transfer cannot begin, and the reason is set. */
bool session_disks_have_sockets(session *s);
/* 1: `done` follows; 0: there is nothing to let go of; negative: it failed, which was posted. */
int session_let_go_of_disks(session *s, vm_done done);
/* QEMU has loaded all: leads to MIG_EV_LOADED. */
void session_loaded(session *s);
/* Of an OFFER. False: this copy cannot be run, and ends. */
bool session_take_disks(session *s, char *const *serials, size_t n);

/* session-prepare.c */
void session_start_export(session *s);
void session_start_qemu(session *s);

/* session-switchover.c */
/* What Status says of a session that is not as it was asked for. */
void session_note(session *s, const char *format, ...) _printf_(2, 3);
void session_begin_policy(session *s, vm_migrate_options *ret);
void session_ask_policy(session *s, uint64_t pass, uint64_t usec);
void session_at_switchover(session *s);
/* The disks are whole. */
void session_go_on_switching(session *s);
void session_end_switchover(session *s);

/* session-copy.c */
void session_ignore_done(ferry_vm *v, int r, const ferry_error *error, void *userdata);
void session_publish_progress(session *s, const vm_migration_info *info);
/* From here on, while there is any. */
void session_watch_progress(session *s);
void session_on_final_info(ferry_vm *v, int r, const ferry_error *error,
                           const vm_migration_info *info, void *userdata);
void session_start_copy(session *s);
/* After the disks. */
void session_start_memory(session *s);
void session_start_load(session *s);

/* session-handover.c */
void session_say_offer(session *s);
void session_say_ready(session *s);
void session_say_want(session *s);
void session_say_go(session *s);
void session_say_running(session *s);
void session_say_declined(session *s);
void session_say_refused(session *s);
void session_say_lost(session *s);
extern const mig_link_handlers session_link_handlers;
void session_close_link(session *s);
/* What waits for the other side hears of it. */
void session_lose_link(session *s);
void session_link_broke(session *s, const char *reason);
void session_hand_over(session *s);
void session_take_over(session *s);
void session_confirm(session *s);
void session_on_discarded(int r, const ferry_error *error, void *userdata);
void session_release(session *s);
void session_discard(session *s);

int session_say_verdict(mig_link *link, const journal_session *js);

/* When it runs here, and how long it stood. */
void session_note_running(session *s);
void session_say_taken(session *s);
void session_say_runs(session *s);
/* What came before it could be looked at. */
void session_take_early_offer(session *s);

/* session-postcopy.c */
bool session_may_postcopy(const session *s);
void session_find_postcopy(session *s, const mig_found *found);
void session_order_postcopy(session *s);
void session_propose(session *s);
void session_await_taken(session *s);
void session_switch(session *s);
void session_hold_guest(session *s);
void session_hear_runs(session *s);
void session_receive_proposal(session *s, const Ferry__Handover__V1__Offer *offer);
void session_take(session *s);
void session_tell_runs(session *s);
bool session_postcopy_status(session *s, vm_migration_status status);
bool session_wants_stream(const session *s);
/* It has none, and cannot go on without. */
bool session_wants_connection(const session *s);
/* Over the connection that the link has now. */
int session_take_up_stream(session *s);
void session_go_on_with_stream(session *s);
void session_drop_stream(session *s);
/* At a destination: what its QEMU would take a new stream from, beforehand. */
void session_make_spare(session *s);
void session_drop_spare(session *s);

/* session-rejoin.c */
void session_rejoin(session *s);
void session_rejoined(session *s);
/* A session of that id which has ended here, or NULL. */
const journal_session *session_find_tombstone(const session *s, const char *id);
int session_answer_for(session *s, const journal_session *js, int fd_consume);
void session_end_answer(session *s);

/* session-rollback.c */
bool session_is_rolling_back(const session *s);
void session_cancel_is_over(session *s);
void session_roll_back(session *s);

/* session-relay.c */
/* What QEMU sends or reads on: the connection itself, or a relay's end. */
int session_give_stream(session *s, int *ret_fd);
/* By a relay, to and from the other end of `local_consume`. */
int session_carry_stream(session *s, int local_consume);
/* What was said over it goes out, and a QEMU in its switchover notices nothing yet. */
void session_end_relay(session *s);
/* `switched`: only if it waited for that. */
void session_end_parting(session *s, bool switched);
/* True: it has failed, and that was posted with its reason. Before QEMU is asked why it fails. */
bool session_look_at_relay(session *s);

/* session-stall.c */
void session_watch_stall(session *s);
void session_end_stall_watch(session *s);

/* session-recover.c */
void session_retire_if_settled(session *s);
