/* SPDX-License-Identifier: MIT */
/* clang-format off */
/*
 * source       IDLE > EXPORTING > EXPORTED > SOCKET_WAITING|SOCKET_READY > GREETING > COPYING
 *              > OFFERED > READY > HANDED > DONE > RELEASED|GIVEN_UP > ENDED
 *   post-copy  COPYING > PAUSED > POISED > COMMITTED > SERVING > FEEDING > DONE
 *              every state before HANDED, COMMITTED > CANCELLING|RESUMING|RECOVERING
 *              > CANCELLED|RESUMED|FAILED
 * destination  IDLE > IMPORTED > PREPARING > PREPARED > SOCKET_WAITING|SOCKET_READY > GREETING
 *              > LOADING > LOADED > READY > (WANTED) > OWNER > RUNNING > FINALIZED
 *   post-copy  LOADING > POISED > (CLAIMED) > TAKEN > STARTING > FETCHING > RUNNING
 *              every state before OWNER, TAKEN > CANCELLING|STOPPING|FAILING
 *              > CANCELLED|STOPPED|FAILED
 *              LOADED|READY|WANTED and the link breaks > UNDECIDED
 *
 * The handover's rows were checked as a model: at most one side runs the guest, and from every
 * state one side can be made to. The order inside an action is as its comment in machine.h says.
 */
/* clang-format on */
#include "migration/machine.h"

#include "base/cleanup.h"

#define GO_(v, s, a)                                                                               \
        { .verdict = MIG_##v, .next = MIG_##s, .action = MIG_ACT_##a }
#define TO(s, a)      GO_(OK, s, a)
#define START(s, a)   GO_(START, s, a)
#define STAY(self, a) GO_(OK, self, a)
#define IS(v)                                                                                      \
        { .verdict = MIG_##v, .next = _MIG_STATE_MAX }
#define RPC(x) [MIG_RPC_##x]
#define EV(x)  [MIG_EV_##x]

/* Cells that whole groups of states share. */
#define IN_SESSION     RPC(NOTIFICATIONS) = IS(NOP)
#define SOURCE_OPEN    IN_SESSION, EV(QEMU_GONE) = TO(S_FAILED, FAIL)
#define SETTLED_SOURCE IN_SESSION, RPC(CLEANUP) = TO(IDLE, FORGET)
#define DISCARDED_COPY IN_SESSION, RPC(CLEANUP) = TO(IDLE, FORGET)
#define DISCARD_ON_CALL                                                                            \
        RPC(CANCEL) = START(D_CANCELLING, DISCARD), RPC(CLEANUP) = START(D_CANCELLING, DISCARD)
/* After a break the caller may bring a new socket. Where the other side may have decided, it also
 * counts as a break while the old one is open. */
#define REJOIN(self) RPC(SOCKET) = STAY(self, REJOIN)
#define ANSWERS(self, word)                                                                        \
        REJOIN(self), EV(REJOINED) = STAY(self, word), EV(WANT) = STAY(self, word)
#define DECLINED_COPY(self)                                                                        \
        REJOIN(self), EV(REJOINED) = STAY(self, SAY_DECLINED), EV(GO) = STAY(self, SAY_DECLINED)
/* QEMU waits before a post-copy's switchover: only here is all of the guest. */
#define PAUSED_SOURCE                                                                              \
        IN_SESSION, RPC(SOCKET) = IS(ALREADY), RPC(TRANSFER) = IS(NOP),                            \
                    RPC(RESUME) = START(S_RESUMING, ROLL_BACK),                                    \
                    RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),                                  \
                    RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),                                 \
                    EV(DECLINED) = TO(S_RECOVERING, ROLL_BACK),                                    \
                    EV(TRANSFER_FAILED) = TO(S_RECOVERING, ROLL_BACK),                             \
                    EV(LINK_LOST) = TO(S_RECOVERING, ROLL_BACK),                                   \
                    EV(WAIT_TIMEOUT) = TO(S_RECOVERING, ROLL_BACK),                                \
                    EV(QEMU_GONE) = TO(S_FAILED, FAIL)
/* A copy that lacks the guest's state: without its connection it is worth nothing. */
#define POISED_COPY                                                                                \
        IN_SESSION, DISCARD_ON_CALL,                                                               \
                RPC(SOCKET) = IS(ALREADY), RPC(TRANSFER) = IS(NOP),                                \
                RPC(STOP) = START(D_STOPPING, DISCARD),                                            \
                RPC(STOP_FORCE) = START(D_STOPPING, DISCARD), EV(GO) = TO(D_TAKEN, TAKE),          \
                EV(REFUSED) = TO(D_FAILING, DISCARD), EV(RECORD_HANDED) = TO(D_TAKEN, TAKE),       \
                EV(TRANSFER_FAILED) = TO(D_FAILING, DISCARD),                                      \
                EV(LINK_LOST) = TO(D_FAILING, DISCARD), EV(QEMU_GONE) = TO(D_FAILING, DISCARD)
#define ROLLING_BACK                                                                               \
        IN_SESSION, EV(ROLLBACK_FAILED) = TO(S_FAILED, FAIL), EV(QEMU_GONE) = TO(S_FAILED, FAIL)

static const mig_cell table[_MIG_STATE_MAX][_MIG_EVENT_MAX] = {
        [MIG_IDLE] = {
                RPC(EXPORT) = START(S_EXPORTING, EXPORT),
                RPC(IMPORT) = TO(D_IMPORTED, NONE),
                RPC(PREPARE) = IS(NO_SESSION),
                RPC(SOCKET) = IS(NO_SESSION),
                RPC(TRANSFER) = IS(NO_SESSION),
                RPC(STOP) = IS(NO_SESSION),
                RPC(STOP_FORCE) = IS(NO_SESSION),
                RPC(RESUME) = IS(NO_SESSION),
                RPC(CANCEL) = IS(NO_SESSION),
                RPC(CLEANUP) = IS(NOP),
                RPC(NOTIFICATIONS) = TO(RESERVED, RESERVE),
        },
        [MIG_RESERVED] = {
                IN_SESSION,
                RPC(EXPORT) = START(S_EXPORTING, EXPORT),
                RPC(IMPORT) = TO(D_IMPORTED, NONE),
                /* an abort that comes before the beginning: nothing was begun */
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                RPC(RESUME) = IS(NOP),
                RPC(CANCEL) = IS(NOP),
                RPC(CLEANUP) = TO(IDLE, FORGET),
                EV(DESERTED) = TO(IDLE, FORGET),
        },

        /* ---- source ---- */
        [MIG_S_EXPORTING] = {
                IN_SESSION,
                RPC(CANCEL) = IS(WAIT),
                EV(EXPORTED) = TO(S_EXPORTED, NONE),
                EV(EXPORT_FAILED) = TO(IDLE, FORGET),
                EV(EXPORT_UNDONE) = TO(RESERVED, UNDO_EXPORT),
                EV(QEMU_GONE) = TO(IDLE, FORGET),
        },
        [MIG_S_EXPORTED] = {
                SOURCE_OPEN,
                RPC(SOCKET) = TO(S_SOCKET_READY, ADOPT),
                RPC(TRANSFER) = TO(S_SOCKET_WAITING, WAIT_SOCKET),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
        },
        [MIG_S_SOCKET_WAITING] = {
                SOURCE_OPEN,
                RPC(SOCKET) = TO(S_GREETING, GREET),
                RPC(TRANSFER) = IS(NOP),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
                EV(SOCKET_TIMEOUT) = TO(S_RECOVERING, ROLL_BACK),
        },
        [MIG_S_SOCKET_READY] = {
                SOURCE_OPEN,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = TO(S_GREETING, GREET),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
        },
        [MIG_S_GREETING] = {
                SOURCE_OPEN,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                EV(GREETED) = TO(S_COPYING, START_COPY),
                EV(TRANSFER_FAILED) = TO(S_RECOVERING, ROLL_BACK),
                EV(LINK_LOST) = TO(S_RECOVERING, ROLL_BACK),
        },
        [MIG_S_COPYING] = {
                SOURCE_OPEN,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                EV(COMPLETED) = TO(S_OFFERED, OFFER),
                EV(PAUSED) = TO(S_PAUSED, PROPOSE),
                EV(TRANSFER_FAILED) = TO(S_RECOVERING, ROLL_BACK),
        },
        [MIG_S_OFFERED] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(WAIT), /* handover is due; READY may be under way */
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(RESUME) = START(S_RESUMING, ROLL_BACK),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
                EV(READY) = TO(S_READY, MARK_READY),
                EV(WANT) = STAY(S_OFFERED, SAY_REFUSED),
                EV(DECLINED) = TO(S_RECOVERING, ROLL_BACK),
                EV(RUNNING) = TO(S_DONE, RELEASE), /* it has the source's own word for it */
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(TRANSFER_FAILED) = TO(S_RECOVERING, ROLL_BACK),
                EV(LINK_LOST) = TO(S_RECOVERING, ROLL_BACK),
                EV(WAIT_TIMEOUT) = TO(S_RECOVERING, ROLL_BACK),
                EV(QEMU_GONE) = TO(S_SPENT, NONE),
        },
        [MIG_S_READY] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = START(S_HANDED, HAND_OVER),
                RPC(STOP_FORCE) = START(S_HANDED, HAND_OVER),
                RPC(RESUME) = START(S_RESUMING, ROLL_BACK),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
                EV(DUE) = TO(S_HANDED, HAND_OVER),
                EV(WANT) = TO(S_HANDED, HAND_OVER),
                EV(DECLINED) = TO(S_RECOVERING, ROLL_BACK),
                EV(RUNNING) = TO(S_DONE, RELEASE), /* it has the source's own word for it */
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(TRANSFER_FAILED) = TO(S_RECOVERING, ROLL_BACK),
                EV(LINK_LOST) = TO(S_RECOVERING, ROLL_BACK),
                EV(WAIT_TIMEOUT) = TO(S_RECOVERING, ROLL_BACK),
                EV(QEMU_GONE) = TO(S_SPENT, NONE),
        },
        [MIG_S_PAUSED] = {
                PAUSED_SOURCE,
                RPC(STOP) = IS(WAIT), /* handover is due; READY may be under way */
                RPC(STOP_FORCE) = IS(WAIT),
                EV(READY) = TO(S_POISED, MARK_READY),
                EV(WANT) = STAY(S_PAUSED, SAY_REFUSED),
        },
        [MIG_S_POISED] = {
                PAUSED_SOURCE,
                RPC(STOP) = START(S_COMMITTED, HAND_OVER),
                RPC(STOP_FORCE) = START(S_COMMITTED, HAND_OVER),
                EV(DUE) = TO(S_COMMITTED, HAND_OVER),
                EV(WANT) = TO(S_COMMITTED, HAND_OVER),
        },
        /* What QEMU has not sent yet cannot run there: until the destination's TAKEN makes it safe
         * to go on, whatever happens gives the guest back. */
        [MIG_S_COMMITTED] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                EV(WANT) = STAY(S_COMMITTED, SAY_GO),
                EV(TAKEN) = TO(S_SERVING, SWITCH),
                EV(DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(RECORD_DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(LOST) = TO(S_RECOVERING, TAKE_BACK),
                EV(LINK_LOST) = TO(S_RECOVERING, TAKE_BACK),
                EV(WAIT_TIMEOUT) = TO(S_RECOVERING, TAKE_BACK),
                EV(FENCED) = TO(S_RECOVERING, TAKE_BACK),
                EV(JOURNAL_FAILED) = TO(S_RECOVERING, TAKE_BACK),
                EV(QEMU_GONE) = TO(S_HANDED, NONE), /* and waits for the other side's word */
        },
        /* A QEMU that fails before it has sent the state can take it back all the same. */
        [MIG_S_SERVING] = {
                IN_SESSION,
                ANSWERS(S_SERVING, SAY_GO),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(RUNS) = TO(S_FEEDING, HEAR_RUNS),
                EV(RUNNING) = TO(S_DONE, RELEASE),
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(RECORD_DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(LOST) = STAY(S_SERVING, NONE),
                EV(FENCED) = TO(S_RECOVERING, TAKE_BACK),
                EV(QEMU_GONE) = TO(S_HANDED, SAY_LOST),
        },
        [MIG_S_FEEDING] = {
                IN_SESSION,
                ANSWERS(S_FEEDING, SAY_GO),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                RPC(CLEANUP) = IS(WAIT),
                EV(RUNNING) = TO(S_DONE, RELEASE),
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(LOST) = TO(S_DONE, RELEASE), /* it ran there, and what is here is old */
                EV(QEMU_GONE) = TO(S_RELEASED, SAY_LOST),
        },
        [MIG_S_SPENT] = {
                IN_SESSION,
                EV(READY) = STAY(S_SPENT, MARK_READY),
                REJOIN(S_SPENT),
                EV(REJOINED) = STAY(S_SPENT, SAY_OFFER),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = START(S_HANDED, HAND_OVER),
                RPC(STOP_FORCE) = START(S_HANDED, HAND_OVER),
                EV(DUE) = TO(S_HANDED, HAND_OVER),
                EV(WANT) = TO(S_HANDED, HAND_OVER),
                EV(RUNNING) = TO(S_DONE, RELEASE),
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(DECLINED) = TO(S_FAILED, FAIL), /* both copies are gone */
                EV(RECORD_DECLINED) = TO(S_FAILED, FAIL),
        },
        [MIG_S_HANDED] = {
                IN_SESSION,
                REJOIN(S_HANDED),
                EV(REJOINED) = STAY(S_HANDED, SAY_GO),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                EV(WANT) = STAY(S_HANDED, SAY_GO),
                EV(RUNNING) = TO(S_DONE, RELEASE),
                EV(RECORD_RUNNING) = TO(S_DONE, RELEASE),
                EV(DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(RECORD_DECLINED) = TO(S_RECOVERING, TAKE_BACK),
                EV(RUNS) = TO(S_RELEASED, SAY_LOST), /* post-copy, and our QEMU is gone */
                EV(LOST) = STAY(S_HANDED, NONE), /* it may have run there: only `force` goes on */
                EV(FENCED) = TO(S_RECOVERING, TAKE_BACK),
                /* GO was not sent: it waits for the line */
                EV(JOURNAL_FAILED) = TO(S_RECOVERING, TAKE_BACK),
        },
        [MIG_S_DONE] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = TO(S_GIVEN_UP, SETTLE),
                RPC(STOP_FORCE) = TO(S_GIVEN_UP, SETTLE),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(S_RELEASED, NONE),
        },
        [MIG_S_RELEASED] = {
                SETTLED_SOURCE,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = TO(S_ENDED, SETTLE),
                RPC(STOP_FORCE) = TO(S_ENDED, SETTLE),
        },
        [MIG_S_GIVEN_UP] = {
                IN_SESSION,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(S_ENDED, NONE),
        },
        [MIG_S_ENDED] = {
                SETTLED_SOURCE,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
        },
        [MIG_S_CANCELLING] = {
                ROLLING_BACK,
                RPC(CANCEL) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(RAN_AGAIN) = TO(S_CANCELLED, NONE),
        },
        [MIG_S_RESUMING] = {
                ROLLING_BACK,
                RPC(RESUME) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(RAN_AGAIN) = TO(S_RESUMED, NONE),
        },
        [MIG_S_RECOVERING] = {
                ROLLING_BACK,
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(RESUME) = IS(WAIT),
                RPC(CANCEL) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(RAN_AGAIN) = TO(S_FAILED, NONE),
        },
        [MIG_S_CANCELLED] = {
                SETTLED_SOURCE,
                ANSWERS(S_CANCELLED, SAY_REFUSED),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(S_KILLING, KILL),
                RPC(RESUME) = START(S_RESUMING, ROLL_BACK),
                RPC(CANCEL) = IS(NOP),
        },
        [MIG_S_FAILED] = {
                /* the rollback itself may be what failed: every way out tries it again */
                IN_SESSION,
                ANSWERS(S_FAILED, SAY_REFUSED),
                EV(RETRY) = TO(S_RECOVERING, ROLL_BACK),
                RPC(CLEANUP) = START(S_CANCELLING, ROLL_BACK),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(S_KILLING, KILL),
                RPC(RESUME) = START(S_RESUMING, ROLL_BACK),
                RPC(CANCEL) = START(S_CANCELLING, ROLL_BACK),
        },
        [MIG_S_RESUMED] = {
                SETTLED_SOURCE,
                ANSWERS(S_RESUMED, SAY_REFUSED),
                RPC(RESUME) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(S_KILLING, KILL),
        },
        [MIG_S_KILLING] = {
                IN_SESSION,
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(S_KILLED, NONE),
        },
        [MIG_S_KILLED] = {
                SETTLED_SOURCE,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
        },

        /* ---- destination ---- */
        [MIG_D_IMPORTED] = {
                IN_SESSION,
                RPC(PREPARE) = START(D_PREPARING, START_QEMU),
                RPC(CANCEL) = START(D_CANCELLING, DISCARD),
                RPC(CLEANUP) = TO(IDLE, FORGET),
        },
        [MIG_D_PREPARING] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                EV(PREPARED) = TO(D_PREPARED, NONE),
                EV(PREPARE_FAILED) = TO(D_IMPORTED, NONE),
        },
        [MIG_D_PREPARED] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                RPC(SOCKET) = TO(D_SOCKET_READY, ADOPT),
                RPC(TRANSFER) = TO(D_SOCKET_WAITING, WAIT_SOCKET),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_SOCKET_WAITING] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                RPC(SOCKET) = TO(D_GREETING, GREET),
                RPC(TRANSFER) = IS(NOP),
                EV(SOCKET_TIMEOUT) = TO(D_FAILING, DISCARD),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_SOCKET_READY] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = TO(D_GREETING, GREET),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_GREETING] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(CANCEL) = START(D_CANCELLING, DISCARD),
                EV(GREETED) = TO(D_LOADING, START_LOAD),
                EV(TRANSFER_FAILED) = TO(D_FAILING, DISCARD),
                EV(LINK_LOST) = TO(D_FAILING, DISCARD),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_LOADING] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(CANCEL) = START(D_CANCELLING, DISCARD),
                EV(LOADED) = TO(D_LOADED, LISTEN),
                EV(OFFER_POSTCOPY) = TO(D_POISED, SAY_READY),
                EV(TRANSFER_FAILED) = TO(D_FAILING, DISCARD),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_LOADED] = {
                IN_SESSION,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                DISCARD_ON_CALL,
                RPC(STOP) = START(D_STOPPING, DISCARD),
                RPC(STOP_FORCE) = START(D_STOPPING, DISCARD),
                EV(OFFER) = TO(D_READY, SAY_READY),
                EV(REFUSED) = TO(D_FAILING, DISCARD),
                EV(RECORD_HANDED) = TO(D_OWNER, TAKE_OVER),
                EV(LINK_LOST) = TO(D_UNDECIDED, NONE),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_READY] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = START(D_STOPPING, DISCARD),
                RPC(STOP_FORCE) = START(D_STOPPING, DISCARD),
                RPC(RESUME) = START(D_WANTED, SAY_WANT),
                EV(GO) = TO(D_OWNER, TAKE_OVER),
                EV(REFUSED) = TO(D_FAILING, DISCARD),
                EV(RECORD_HANDED) = TO(D_OWNER, TAKE_OVER),
                EV(LINK_LOST) = TO(D_UNDECIDED, NONE),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_WANTED] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                RPC(SOCKET) = IS(ALREADY),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = START(D_STOPPING, DISCARD),
                RPC(STOP_FORCE) = START(D_STOPPING, DISCARD),
                RPC(RESUME) = IS(WAIT),
                EV(GO) = TO(D_OWNER, TAKE_OVER),
                EV(REFUSED) = TO(D_FAILING, DISCARD),
                EV(RECORD_HANDED) = TO(D_OWNER, TAKE_OVER),
                EV(LINK_LOST) = TO(D_UNDECIDED, NONE),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_POISED] = {
                POISED_COPY,
                RPC(RESUME) = START(D_CLAIMED, SAY_WANT),
        },
        [MIG_D_CLAIMED] = {
                POISED_COPY,
                RPC(RESUME) = IS(WAIT),
        },
        /* The source may have gone on, and has no way back then. But what has not run here can be
         * given up when there is nothing to run it with. */
        [MIG_D_TAKEN] = {
                IN_SESSION,
                REJOIN(D_TAKEN),
                EV(REJOINED) = STAY(D_TAKEN, SAY_TAKEN),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(RESUME) = IS(WAIT),
                EV(GO) = STAY(D_TAKEN, SAY_TAKEN),
                EV(STATE_CAME) = TO(D_STARTING, TAKE_OVER),
                EV(REFUSED) = TO(D_FAILING, DISCARD),
                EV(TRANSFER_FAILED) = TO(D_FAILING, DISCARD),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
                /* TAKEN was not sent: it waits for the line */
                EV(JOURNAL_FAILED) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_STARTING] = {
                IN_SESSION,
                REJOIN(D_STARTING),
                EV(REJOINED) = STAY(D_STARTING, SAY_TAKEN),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(RESUME) = IS(WAIT),
                EV(GO) = STAY(D_STARTING, SAY_TAKEN),
                EV(CONTINUED) = TO(D_FETCHING, TELL_RUNS),
                EV(QEMU_GONE) = TO(D_LOST, SAY_LOST),
                EV(JOURNAL_FAILED) = TO(D_TAKEN, NONE), /* `cont` was not sent: it is tried again */
        },
        /* A guest that ends here has run here: the source's copy is of no use any more. */
        [MIG_D_FETCHING] = {
                IN_SESSION,
                REJOIN(D_FETCHING),
                EV(REJOINED) = STAY(D_FETCHING, SAY_RUNS),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(D_KILLING, KILL),
                RPC(RESUME) = IS(NOP),
                RPC(CLEANUP) = IS(WAIT),
                EV(GO) = STAY(D_FETCHING, SAY_RUNS),
                EV(LOADED) = TO(D_RUNNING, CONFIRM),
                EV(LOST) = STAY(D_FETCHING, NONE), /* it stands where it misses its memory */
                EV(QEMU_GONE) = TO(D_RUNNING, CONFIRM),
        },
        [MIG_D_OWNER] = {
                IN_SESSION,
                REJOIN(D_OWNER),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(RESUME) = IS(WAIT),
                EV(CONTINUED) = TO(D_RUNNING, CONFIRM),
                EV(CONT_REFUSED) = TO(D_FAILING, DISCARD),
                EV(QEMU_GONE) = TO(D_LOST, SAY_LOST),
                /* `cont` was not sent: it waits for the line */
                EV(JOURNAL_FAILED) = TO(D_UNDECIDED, NONE),
        },
        [MIG_D_RUNNING] = {
                IN_SESSION,
                REJOIN(D_RUNNING),
                EV(REJOINED) = STAY(D_RUNNING, SAY_RUNNING),
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(D_KILLING, KILL),
                RPC(RESUME) = TO(D_FINALIZED, SETTLE),
                RPC(CLEANUP) = TO(IDLE, FORGET),
                EV(GO) = STAY(D_RUNNING, SAY_RUNNING),
        },
        [MIG_D_FINALIZED] = {
                IN_SESSION,
                REJOIN(D_FINALIZED),
                EV(REJOINED) = STAY(D_FINALIZED, SAY_RUNNING),
                RPC(STOP) = IS(STILL_OWNER),
                RPC(STOP_FORCE) = START(D_KILLING, KILL),
                RPC(RESUME) = IS(NOP),
                RPC(CLEANUP) = TO(IDLE, FORGET),
                EV(GO) = STAY(D_FINALIZED, SAY_RUNNING),
        },
        [MIG_D_UNDECIDED] = {
                IN_SESSION,
                DISCARD_ON_CALL,
                REJOIN(D_UNDECIDED), /* and the source speaks first */
                RPC(TRANSFER) = IS(NOP),
                RPC(STOP) = START(D_STOPPING, DISCARD),
                RPC(STOP_FORCE) = START(D_STOPPING, DISCARD),
                EV(RECORD_HANDED) = TO(D_OWNER, TAKE_OVER),
                EV(OFFER) = TO(D_READY, SAY_READY),
                EV(GO) = TO(D_OWNER, TAKE_OVER),
                EV(REFUSED) = TO(D_FAILING, DISCARD),
                EV(LOST) = STAY(D_UNDECIDED, NONE), /* this may be the last copy: `force` */
                EV(FENCED) = TO(D_OWNER, TAKE_OVER),
                EV(QEMU_GONE) = TO(D_FAILING, DISCARD),
        },
        [MIG_D_CANCELLING] = {
                IN_SESSION,
                RPC(CANCEL) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(D_CANCELLED, SAY_DECLINED),
        },
        [MIG_D_STOPPING] = {
                IN_SESSION,
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(D_STOPPED, SAY_DECLINED),
        },
        [MIG_D_FAILING] = {
                IN_SESSION,
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(CANCEL) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(D_FAILED, SAY_DECLINED),
        },
        [MIG_D_CANCELLED] = {
                DISCARDED_COPY,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                RPC(CANCEL) = IS(NOP),
                DECLINED_COPY(D_CANCELLED),
        },
        [MIG_D_STOPPED] = {
                DISCARDED_COPY,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                DECLINED_COPY(D_STOPPED),
        },
        [MIG_D_FAILED] = {
                DISCARDED_COPY,
                RPC(STOP) = TO(D_STOPPED, NONE),
                RPC(STOP_FORCE) = TO(D_STOPPED, NONE),
                RPC(CANCEL) = TO(D_CANCELLED, NONE),
                DECLINED_COPY(D_FAILED),
        },
        [MIG_D_LOST] = {
                IN_SESSION,
                REJOIN(D_LOST),
                EV(REJOINED) = STAY(D_LOST, SAY_LOST),
                RPC(STOP_FORCE) = START(D_KILLING, KILL),
                EV(GO) = STAY(D_LOST, SAY_LOST),
        },
        [MIG_D_KILLING] = {
                IN_SESSION,
                RPC(STOP) = IS(WAIT),
                RPC(STOP_FORCE) = IS(WAIT),
                RPC(CLEANUP) = IS(WAIT),
                EV(DISCARDED) = TO(D_KILLED, SAY_LOST), /* of a post-copy the source still feeds it */
        },
        [MIG_D_KILLED] = {
                IN_SESSION,
                RPC(STOP) = IS(NOP),
                RPC(STOP_FORCE) = IS(NOP),
                RPC(CLEANUP) = TO(IDLE, FORGET),
        },
};

#define S_(x, wire_, owner_)                                                                       \
        [MIG_S_##x] = { .name = "S_" #x,                                                           \
                        .wire = wire_,                                                             \
                        .side = MIG_SIDE_SOURCE,                                                   \
                        .owner = MIG_OWNER_##owner_ }
#define D_(x, wire_, owner_)                                                                       \
        [MIG_D_##x] = { .name = "D_" #x,                                                           \
                        .wire = wire_,                                                             \
                        .side = MIG_SIDE_DESTINATION,                                              \
                        .owner = MIG_OWNER_##owner_ }

static const mig_state_info infos[_MIG_STATE_MAX] = {
        [MIG_IDLE] = { .name = "IDLE",
                       .wire = "Idle",
                       .side = MIG_SIDE_NONE,
                       .owner = MIG_OWNER_NOBODY },
        [MIG_RESERVED] = { .name = "RESERVED",
                           .wire = "Idle",
                           .side = MIG_SIDE_NONE,
                           .owner = MIG_OWNER_NOBODY },
        S_(EXPORTING, "SourcePrepared", HERE),
        S_(EXPORTED, "SourceExported", HERE),
        S_(SOCKET_WAITING, "SocketWaiting", HERE),
        S_(SOCKET_READY, "SocketReady", HERE),
        S_(GREETING, "Transferring", HERE),
        S_(COPYING, "Transferring", HERE),
        S_(OFFERED, "Transferring", HERE),
        S_(READY, "TransferCompleted", HERE),
        S_(PAUSED, "Transferring", HERE),
        S_(POISED, "TransferCompleted", HERE),
        S_(COMMITTED, "TransferCompleted", THERE),
        S_(SERVING, "TransferCompleted", THERE),
        S_(FEEDING, "TransferCompleted", THERE),
        S_(SPENT, "TransferCompleted", UNKNOWN),
        S_(HANDED, "TransferCompleted", THERE),
        S_(DONE, "TransferCompleted", THERE),
        S_(RELEASED, "TransferCompleted", THERE),
        S_(GIVEN_UP, "Finalized", THERE),
        S_(ENDED, "Finalized", THERE),
        S_(CANCELLING, "Cancelling", HERE),
        S_(RESUMING, "Cancelling", HERE),
        S_(RECOVERING, "Failed", HERE),
        S_(CANCELLED, "Cancelled", HERE),
        S_(FAILED, "Failed", HERE),
        S_(RESUMED, "Finalized", HERE),
        S_(KILLING, "Finalized", HERE),
        S_(KILLED, "Finalized", HERE),
        D_(IMPORTED, "DestinationImported", THERE),
        D_(PREPARING, "DestinationImported", THERE),
        D_(PREPARED, "DestinationPrepared", THERE),
        D_(SOCKET_WAITING, "SocketWaiting", THERE),
        D_(SOCKET_READY, "SocketReady", THERE),
        D_(GREETING, "Transferring", THERE),
        D_(LOADING, "Transferring", THERE),
        D_(LOADED, "Transferring", THERE),
        D_(READY, "TransferCompleted", THERE),
        D_(WANTED, "TransferCompleted", THERE),
        D_(POISED, "TransferCompleted", THERE),
        D_(CLAIMED, "TransferCompleted", THERE),
        D_(TAKEN, "TransferCompleted", HERE),
        D_(STARTING, "TransferCompleted", HERE),
        D_(FETCHING, "TransferCompleted", HERE),
        D_(OWNER, "TransferCompleted", HERE),
        D_(RUNNING, "TransferCompleted", HERE),
        D_(FINALIZED, "Finalized", HERE),
        D_(UNDECIDED, "TransferCompleted", UNKNOWN),
        D_(CANCELLING, "Cancelling", THERE),
        D_(STOPPING, "Cancelling", THERE),
        D_(FAILING, "Failed", THERE),
        D_(CANCELLED, "Cancelled", THERE),
        D_(STOPPED, "Finalized", THERE),
        D_(FAILED, "Failed", THERE),
        D_(LOST, "Failed", UNKNOWN),
        D_(KILLING, "Finalized", HERE),
        D_(KILLED, "Finalized", HERE),
};

const mig_cell *mig_lookup(mig_state state, mig_event event) {
        static const mig_cell illegal = { .verdict = MIG_ILLEGAL, .next = _MIG_STATE_MAX };

        if ((size_t)state >= _MIG_STATE_MAX || (size_t)event >= _MIG_EVENT_MAX)
                return &illegal;
        return &table[state][event];
}

const mig_cell *mig_step(mig_state *state, mig_event event) {
        const mig_cell *cell = mig_lookup(*state, event);

        if (cell->verdict == MIG_OK || cell->verdict == MIG_START)
                *state = cell->next;
        return cell;
}

const mig_state_info *mig_state_get(mig_state state) {
        return &infos[(size_t)state < _MIG_STATE_MAX ? state : MIG_IDLE];
}

const char *mig_event_name(mig_event event) {
        static const char *const names[_MIG_EVENT_MAX] = {
                RPC(EXPORT) = "PrepareAndExportSandbox",
                RPC(IMPORT) = "ImportSandbox",
                RPC(PREPARE) = "PrepareSandbox",
                RPC(SOCKET) = "CreateDuplicateSocket",
                RPC(TRANSFER) = "TransferSandbox",
                RPC(STOP) = "FinalizeSandbox(STOP)",
                RPC(STOP_FORCE) = "FinalizeSandbox(STOP, force)",
                RPC(RESUME) = "FinalizeSandbox(RESUME)",
                RPC(CANCEL) = "Cancel",
                RPC(CLEANUP) = "Cleanup",
                RPC(NOTIFICATIONS) = "Notifications",
                EV(EXPORTED) = "exported",
                EV(EXPORT_FAILED) = "export-failed",
                EV(EXPORT_UNDONE) = "export-undone",
                EV(DESERTED) = "deserted",
                EV(PREPARED) = "prepared",
                EV(PREPARE_FAILED) = "prepare-failed",
                EV(SOCKET_TIMEOUT) = "socket-timeout",
                EV(GREETED) = "greeted",
                EV(REJOINED) = "rejoined",
                EV(COMPLETED) = "completed",
                EV(LOADED) = "loaded",
                EV(PAUSED) = "paused",
                EV(STATE_CAME) = "state-came",
                EV(TRANSFER_FAILED) = "transfer-failed",
                EV(LINK_LOST) = "link-lost",
                EV(WAIT_TIMEOUT) = "wait-timeout",
                EV(DUE) = "due",
                EV(OFFER) = "OFFER",
                EV(OFFER_POSTCOPY) = "OFFER (post-copy)",
                EV(READY) = "READY",
                EV(WANT) = "WANT",
                EV(GO) = "GO",
                EV(TAKEN) = "TAKEN",
                EV(RUNS) = "RUNS",
                EV(RUNNING) = "RUNNING",
                EV(DECLINED) = "DECLINED",
                EV(REFUSED) = "REFUSED",
                EV(LOST) = "LOST",
                EV(RECORD_HANDED) = "record-handed",
                EV(RECORD_RUNNING) = "record-running",
                EV(RECORD_DECLINED) = "record-declined",
                EV(FENCED) = "fenced",
                EV(JOURNAL_FAILED) = "journal-failed",
                EV(RAN_AGAIN) = "ran-again",
                EV(RETRY) = "retry",
                EV(ROLLBACK_FAILED) = "rollback-failed",
                EV(CONTINUED) = "continued",
                EV(CONT_REFUSED) = "cont-refused",
                EV(DISCARDED) = "discarded",
                EV(QEMU_GONE) = "qemu-gone",
        };

        return (size_t)event < ELEMENTS(names) ? names[event] : "?";
}

const char *mig_action_name(mig_action action) {
        static const char *const names[_MIG_ACTION_MAX] = {
                [MIG_ACT_NONE] = "-",
                [MIG_ACT_RESERVE] = "reserve",
                [MIG_ACT_EXPORT] = "export",
                [MIG_ACT_UNDO_EXPORT] = "undo-export",
                [MIG_ACT_START_QEMU] = "start-qemu",
                [MIG_ACT_WAIT_SOCKET] = "wait-socket",
                [MIG_ACT_ADOPT] = "adopt",
                [MIG_ACT_GREET] = "greet",
                [MIG_ACT_REJOIN] = "rejoin",
                [MIG_ACT_START_COPY] = "start-copy",
                [MIG_ACT_START_LOAD] = "start-load",
                [MIG_ACT_OFFER] = "offer",
                [MIG_ACT_SAY_OFFER] = "say-offer",
                [MIG_ACT_PROPOSE] = "propose",
                [MIG_ACT_LISTEN] = "listen",
                [MIG_ACT_SAY_READY] = "say-ready",
                [MIG_ACT_MARK_READY] = "mark-ready",
                [MIG_ACT_SAY_WANT] = "say-want",
                [MIG_ACT_HAND_OVER] = "hand-over",
                [MIG_ACT_SAY_GO] = "say-go",
                [MIG_ACT_TAKE] = "take",
                [MIG_ACT_SAY_TAKEN] = "say-taken",
                [MIG_ACT_SWITCH] = "switch",
                [MIG_ACT_TAKE_OVER] = "take-over",
                [MIG_ACT_TELL_RUNS] = "tell-runs",
                [MIG_ACT_SAY_RUNS] = "say-runs",
                [MIG_ACT_HEAR_RUNS] = "hear-runs",
                [MIG_ACT_CONFIRM] = "confirm",
                [MIG_ACT_SAY_RUNNING] = "say-running",
                [MIG_ACT_RELEASE] = "release",
                [MIG_ACT_SAY_REFUSED] = "say-refused",
                [MIG_ACT_ROLL_BACK] = "roll-back",
                [MIG_ACT_TAKE_BACK] = "take-back",
                [MIG_ACT_DISCARD] = "discard",
                [MIG_ACT_SAY_DECLINED] = "say-declined",
                [MIG_ACT_SAY_LOST] = "say-lost",
                [MIG_ACT_FAIL] = "fail",
                [MIG_ACT_SETTLE] = "settle",
                [MIG_ACT_KILL] = "kill",
                [MIG_ACT_FORGET] = "forget",
        };

        return (size_t)action < ELEMENTS(names) ? names[action] : "?";
}

const char *mig_verdict_name(mig_verdict verdict) {
        static const char *const names[_MIG_VERDICT_MAX] = {
                [MIG_ILLEGAL] = "illegal", [MIG_OK] = "ok",
                [MIG_NOP] = "nop",         [MIG_START] = "start",
                [MIG_WAIT] = "wait",       [MIG_NO_SESSION] = "no-session",
                [MIG_ALREADY] = "already", [MIG_STILL_OWNER] = "still-owner",
        };

        return (size_t)verdict < ELEMENTS(names) ? names[verdict] : "?";
}

const char *mig_owner_name(mig_owner owner) {
        static const char *const names[_MIG_OWNER_MAX] = {
                [MIG_OWNER_NOBODY] = "nobody",
                [MIG_OWNER_HERE] = "here",
                [MIG_OWNER_THERE] = "there",
                [MIG_OWNER_UNKNOWN] = "unknown",
        };

        return (size_t)owner < ELEMENTS(names) ? names[owner] : "?";
}
