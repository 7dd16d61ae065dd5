/* SPDX-License-Identifier: MIT */
#pragma once

/* The session's states and the one table that says what may happen in each: pure, no clock, no
 * I/O. docs/session.md explains it, docs/session-table.txt is its print-out (a test compares).
 *
 * An event that has no cell changes nothing. The driver (session.c) runs the cell's action and
 * reports back with another event. */

#include <stdbool.h>
#include <stddef.h>

typedef enum mig_state {
        MIG_IDLE,
        MIG_RESERVED, /* subscribed to before it begins: the session id is taken, no more */

        MIG_S_EXPORTING, /* collecting what is exported */
        MIG_S_EXPORTED,
        MIG_S_SOCKET_WAITING, /* TransferSandbox came before the socket */
        MIG_S_SOCKET_READY,
        MIG_S_GREETING, /* hello with the other shim */
        MIG_S_COPYING,  /* QEMU sends */
        MIG_S_OFFERED,  /* QEMU has sent everything, the guest stands; OFFER is out */
        MIG_S_READY,    /* the destination has loaded; nobody was told to run it yet */
        /* post-copy: ownership passes before the memory has */
        MIG_S_PAUSED,    /* QEMU waits before the switchover, the guest stands; OFFER is out */
        MIG_S_POISED,    /* the destination is prepared; nobody was told to run it yet */
        MIG_S_COMMITTED, /* journaled; QEMU still waits, until the destination has committed too */
        MIG_S_SERVING,   /* both have: QEMU sends the guest's state, there is no way back */
        MIG_S_FEEDING,   /* it runs there, and what it has not got yet is sent */
        MIG_S_SPENT,     /* completed, never ran again, QEMU died: the other copy is the only one */
        MIG_S_HANDED,    /* journaled: the guest is the destination's to run */
        MIG_S_DONE,      /* the destination runs it; our QEMU is quitting */
        MIG_S_RELEASED,  /* and is gone */
        MIG_S_GIVEN_UP,  /* done and finalized; our QEMU is quitting */
        MIG_S_ENDED,     /* and is gone */
        MIG_S_CANCELLING, /* rolling back because the caller wants it */
        MIG_S_RESUMING,   /* the same, by FinalizeSandbox(RESUME) */
        MIG_S_RECOVERING, /* the same, because the transfer failed */
        MIG_S_CANCELLED,
        MIG_S_FAILED,
        MIG_S_RESUMED,
        MIG_S_KILLING, /* STOP with force at a side that owned it */
        MIG_S_KILLED,

        MIG_D_IMPORTED,
        MIG_D_PREPARING, /* QEMU starts */
        MIG_D_PREPARED,
        MIG_D_SOCKET_WAITING,
        MIG_D_SOCKET_READY,
        MIG_D_GREETING,
        MIG_D_LOADING, /* QEMU receives */
        MIG_D_LOADED,  /* all there, paused; not offered yet */
        MIG_D_READY,   /* offered, READY sent */
        MIG_D_WANTED,  /* the caller wants it here: WANT sent */
        /* post-copy */
        MIG_D_POISED,   /* offered, READY sent: prepared to take it */
        MIG_D_CLAIMED,  /* the caller wants it here: WANT sent */
        MIG_D_TAKEN,    /* journaled: ours, and TAKEN sent; its state comes now, it has not run */
        MIG_D_STARTING, /* journaled: it may have run; `cont` is under way */
        MIG_D_FETCHING, /* it runs; some of its memory is still at the source */
        MIG_D_OWNER,    /* journaled: ours; `cont` is under way */
        MIG_D_RUNNING,
        MIG_D_FINALIZED,
        MIG_D_UNDECIDED,  /* the connection broke after the load: only the source knows */
        MIG_D_CANCELLING, /* discarding the copy because the caller wants it */
        MIG_D_STOPPING,   /* the same, by FinalizeSandbox(STOP) */
        MIG_D_FAILING,    /* the same, because the transfer failed */
        MIG_D_CANCELLED,
        MIG_D_STOPPED,
        MIG_D_FAILED,
        MIG_D_LOST, /* ours, and QEMU is gone: it may have run */
        MIG_D_KILLING,
        MIG_D_KILLED,
        _MIG_STATE_MAX,
} mig_state;

typedef enum mig_event {
        /* what a caller asks for */
        MIG_RPC_EXPORT,
        MIG_RPC_IMPORT,
        MIG_RPC_PREPARE,
        MIG_RPC_SOCKET,
        MIG_RPC_TRANSFER,
        MIG_RPC_STOP,
        MIG_RPC_STOP_FORCE,
        MIG_RPC_RESUME,
        MIG_RPC_CANCEL,
        MIG_RPC_CLEANUP,
        MIG_RPC_NOTIFICATIONS,
        _MIG_RPC_MAX,

        /* what happens */
        MIG_EV_EXPORTED = _MIG_RPC_MAX,
        MIG_EV_EXPORT_FAILED,
        MIG_EV_EXPORT_UNDONE, /* failed too; the id was reserved, and stays so */
        MIG_EV_DESERTED,      /* nobody subscribes to a reserved session any more */
        MIG_EV_PREPARED,
        MIG_EV_PREPARE_FAILED,
        MIG_EV_SOCKET_TIMEOUT,
        MIG_EV_GREETED,
        MIG_EV_REJOINED,        /* hello on a new socket, after the transfer */
        MIG_EV_COMPLETED,       /* source QEMU: all is sent and loaded */
        MIG_EV_LOADED,          /* destination QEMU */
        MIG_EV_PAUSED,          /* source QEMU: before the switchover of a post-copy */
        MIG_EV_STATE_CAME,      /* destination QEMU: the guest can run, its memory follows */
        MIG_EV_TRANSFER_FAILED, /* QEMU, the hello, the policy or the guest says so */
        MIG_EV_LINK_LOST,
        MIG_EV_WAIT_TIMEOUT, /* no READY, or no verdict of the caller's, in time */
        MIG_EV_DUE,          /* HANDOVER_DIRECT: hand over as soon as it can be */
        MIG_EV_OFFER,        /* messages of the other shim */
        MIG_EV_OFFER_POSTCOPY,
        MIG_EV_READY,
        MIG_EV_WANT,
        MIG_EV_GO,
        MIG_EV_TAKEN,
        MIG_EV_RUNS, /* with its memory still to come */
        MIG_EV_RUNNING,
        MIG_EV_DECLINED,
        MIG_EV_REFUSED,
        MIG_EV_LOST,
        MIG_EV_RECORD_HANDED, /* the other side's journal, by way of the caller */
        MIG_EV_RECORD_RUNNING,
        MIG_EV_RECORD_DECLINED,
        MIG_EV_FENCED,         /* the caller vouches that the other side is no more; audited */
        MIG_EV_JOURNAL_FAILED, /* the line that had to come first could not be written */
        MIG_EV_RAN_AGAIN,      /* rollback done: the guest runs at the source */
        MIG_EV_RETRY,          /* a rollback that failed, again */
        MIG_EV_ROLLBACK_FAILED,
        MIG_EV_CONTINUED,    /* `cont` succeeded at the destination */
        MIG_EV_CONT_REFUSED, /* QEMU refused it for good */
        MIG_EV_DISCARDED,    /* our QEMU is gone, as we wanted */
        MIG_EV_QEMU_GONE,    /* QEMU died by itself */
        _MIG_EVENT_MAX,
} mig_event;

typedef enum mig_action {
        MIG_ACT_NONE,
        MIG_ACT_RESERVE,
        MIG_ACT_EXPORT,
        MIG_ACT_UNDO_EXPORT,
        MIG_ACT_START_QEMU,
        MIG_ACT_WAIT_SOCKET, /* start the clock of the socket wait */
        MIG_ACT_ADOPT,       /* keep the socket */
        MIG_ACT_GREET,       /* hello on the socket */
        MIG_ACT_REJOIN,      /* hello on a new one, with nothing left to transfer */
        MIG_ACT_START_COPY,
        MIG_ACT_START_LOAD,
        MIG_ACT_OFFER,
        MIG_ACT_SAY_OFFER, /* again */
        MIG_ACT_PROPOSE,   /* OFFER of a post-copy */
        MIG_ACT_LISTEN,    /* loaded: from here on the socket is ours to read */
        MIG_ACT_SAY_READY,
        MIG_ACT_MARK_READY, /* enter TransferCompleted at the source */
        MIG_ACT_SAY_WANT,
        MIG_ACT_HAND_OVER,   /* journal *handed* (sync), then GO */
        MIG_ACT_SAY_GO,      /* again */
        MIG_ACT_TAKE,        /* journal *taken*, TAKEN */
        MIG_ACT_SAY_TAKEN,   /* again */
        MIG_ACT_SWITCH,      /* QEMU goes on with the switchover */
        MIG_ACT_TAKE_OVER,   /* journal *owner*, tap, `cont` */
        MIG_ACT_TELL_RUNS,   /* RUNS, announce */
        MIG_ACT_SAY_RUNS,    /* again */
        MIG_ACT_HEAR_RUNS,   /* tell the subscribers */
        MIG_ACT_CONFIRM,     /* journal *running*, RUNNING, announce */
        MIG_ACT_SAY_RUNNING, /* again */
        MIG_ACT_RELEASE,     /* journal *done*, quit QEMU */
        MIG_ACT_SAY_REFUSED,
        MIG_ACT_ROLL_BACK, /* REFUSED if it can, journal *ran again*, tap, `cont` */
        MIG_ACT_TAKE_BACK, /* journal *owner*, then as ROLL_BACK */
        MIG_ACT_DISCARD,   /* journal *declined*, kill QEMU */
        MIG_ACT_SAY_DECLINED,
        MIG_ACT_SAY_LOST,
        MIG_ACT_FAIL,   /* close the link; there is nothing to roll back or discard */
        MIG_ACT_SETTLE, /* close the link; the verdict is final */
        MIG_ACT_KILL,   /* forced: end the VM */
        MIG_ACT_FORGET, /* journal *close*, drop the session; ends the subscribers' streams */
        _MIG_ACTION_MAX,
} mig_action;

/* What a caller is told; internal events use OK only. */
typedef enum mig_verdict {
        MIG_ILLEGAL,     /* no cell: an event is ignored, a call is FailedPrecondition */
        MIG_OK,          /* step, answer OK */
        MIG_NOP,         /* answer OK, nothing changes */
        MIG_START,       /* step, then as WAIT */
        MIG_WAIT,        /* try this call again at the next change of state */
        MIG_NO_SESSION,  /* InvalidArgument */
        MIG_ALREADY,     /* AlreadyExists */
        MIG_STILL_OWNER, /* FailedPrecondition: it would kill the only copy */
        _MIG_VERDICT_MAX,
} mig_verdict;

/* Which guest may run, as this side knows. */
typedef enum mig_owner {
        MIG_OWNER_NOBODY, /* no session, or a copy that may not run */
        MIG_OWNER_HERE,
        MIG_OWNER_THERE,
        MIG_OWNER_UNKNOWN,
        _MIG_OWNER_MAX,
} mig_owner;

typedef enum mig_side {
        MIG_SIDE_NONE,
        MIG_SIDE_SOURCE,
        MIG_SIDE_DESTINATION,
} mig_side;

typedef struct mig_cell {
        mig_verdict verdict;
        mig_state next;
        mig_action action;
} mig_cell;

typedef struct mig_state_info {
        const char *name; /* "S_COPYING" */
        const char *wire; /* the service's coarse state: "Transferring" */
        mig_side side;
        mig_owner owner;
} mig_state_info;

/* Never NULL. A cell that is absent has the verdict ILLEGAL and leads back to `state`. */
const mig_cell *mig_lookup(mig_state state, mig_event event);

/* Takes the step: returns its cell, with *state moved where the verdict says so. */
const mig_cell *mig_step(mig_state *state, mig_event event);

const mig_state_info *mig_state_get(mig_state state);
const char *mig_event_name(mig_event event);
const char *mig_action_name(mig_action action);
const char *mig_verdict_name(mig_verdict verdict);
const char *mig_owner_name(mig_owner owner);
