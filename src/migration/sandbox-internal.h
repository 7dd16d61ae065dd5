/* SPDX-License-Identifier: MIT */
#pragma once

/* Shared by sandbox.c and sandbox-guest.c. */

#include "migration/recovery.h"
#include "migration/sandbox.h"

#define LISTENERS_MAX 4

typedef struct pending {
        sandbox_done done;
        void *userdata;
} pending;

struct sandbox {
        sd_event *event;
        char id[SANDBOX_ID_MAX + 1];
        bool own_network, may_postcopy;
        char *awaited_session; /* NULL: any */
        char *state_dir, *bridge, *qemu, *disk_root, *probe_cache, *image_folder, *templates;
        int dir_fd;

        ferry_vm *vm;
        sandbox_vm_state vm_state;
        bool releasing;   /* its exit is what we asked for: the state becomes NONE */
        bool guest_ended; /* the guest itself powered off */
        char *exit_reason;
        uint64_t running_since;
        mig_found found; /* of the QEMU that is attached */
        sandbox_vm_state found_state;
        pending starting;         /* of boot, incoming or recover */
        pending discarding;       /* waits for the exit */
        sd_event_source *network; /* looks for the bridge that the guest runs without */
        sandbox_restore *restore; /* of `starting` */
        vm_config *wanted_template;
        sd_event_source *discarded; /* calls `discarding` when there was nothing to wait for */

        session *session;
        prediction prediction;
        struct {
                void (*on_change)(void *userdata);
                void *userdata;
        } listeners[LISTENERS_MAX];
        sandbox_guest guest;
        void *guest_userdata;
};
