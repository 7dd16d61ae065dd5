/* SPDX-License-Identifier: MIT */

/* What a source says of a sandbox's containers, as a hostile one may write it. */

#include <string.h>

#include "fuzz.h"
#include "services/carried.h"

static vm_config *config(void) {
        static const char text[] =
                "{\"memory_mb\": 64, \"kernel\": \"/k\", \"scsi\": true, \"disks\": [{\"path\": "
                "\"/d\", \"readonly\": true, \"serial\": \"root-c1\", \"scsi_id\": 0}]}";
        static vm_config *c;

        if (!c)
                FUZZ_REQUIRE(vm_config_parse(text, sizeof(text) - 1, &c, NULL) == 0);
        return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        Ferry__Tasks__V1__Containers *m = NULL;

        if (carried_decode(data, n, config(), &m, NULL) < 0)
                return 0;
        for (size_t i = 0; i < m->n_containers; i++) {
                FUZZ_REQUIRE(strlen(m->containers[i]->guest_id) < CARRIED_GUEST_ID_SIZE);
                for (size_t k = 0; k < m->containers[i]->n_processes; k++)
                        FUZZ_REQUIRE(strlen(m->containers[i]->processes[k]->guest_id) <
                                     CARRIED_GUEST_ID_SIZE);
        }
        ferry__tasks__v1__containers__free_unpacked(m, NULL);
        return 0;
}
