/* SPDX-License-Identifier: MIT */
#include "services/carried.h"

#include <stdio.h>
#include <string.h>

#define ID_MAX       76U /* containerd's own limit */
#define MESSAGE_SIZE (1U << 20)

typedef Ferry__Tasks__V1__Containers containers_message;
typedef Ferry__Tasks__V1__Container container_message;
typedef Ferry__Tasks__V1__Process process_message;

static bool id_is_valid(const char *id) {
        size_t n = strlen(id);

        return n > 0 && n <= ID_MAX &&
               strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

/* `prefix` and a number up to `last`, written as we write it. */
static bool is_numbered(const char *text, const char *prefix, uint32_t last) {
        char expected[CARRIED_GUEST_ID_SIZE];
        size_t n = strlen(prefix);
        uint32_t number = 0;

        if (strncmp(text, prefix, n) != 0 || sscanf(text + n, "%9u", &number) != 1)
                return false;
        snprintf(expected, sizeof(expected), "%.16s%u", prefix, number);
        return number > 0 && number <= last && strcmp(text, expected) == 0;
}

static bool processes_are_valid(const container_message *m) {
        char prefix[CARRIED_GUEST_ID_SIZE];
        size_t n_first = 0;

        if (m->n_processes > CARRIED_EXECS_MAX + 1)
                return false;
        snprintf(prefix, sizeof(prefix), "%.14s.e", m->guest_id);
        for (size_t i = 0; i < m->n_processes; i++) {
                const process_message *p = m->processes[i];
                bool first = p->exec_id[0] == '\0';

                n_first += first;
                if ((!first && !id_is_valid(p->exec_id)) ||
                    (first ? strcmp(p->guest_id, m->guest_id) != 0
                           : !is_numbered(p->guest_id, prefix, m->last_exec)) ||
                    (unsigned)p->status > FERRY__TASKS__V1__PROCESS__STATUS__STATUS_STOPPED)
                        return false;
                for (size_t k = 0; k < i; k++)
                        if (strcmp(m->processes[k]->exec_id, p->exec_id) == 0 ||
                            strcmp(m->processes[k]->guest_id, p->guest_id) == 0)
                                return false;
        }
        return n_first == 1;
}

static bool disk_is_valid(const char *serial, bool readonly, const vm_config *config) {
        ssize_t at = serial[0] ? vm_config_find_disk(config, serial) : -1;

        return !serial[0] || (at >= 0 && config->disks[at].readonly == readonly);
}

static bool is_valid(const containers_message *m, const vm_config *config) {
        if (m->n_containers > CARRIED_CONTAINERS_MAX)
                return false;
        for (size_t i = 0; i < m->n_containers; i++) {
                const container_message *c = m->containers[i];

                if (!id_is_valid(c->id) || !is_numbered(c->guest_id, "c", m->last_number) ||
                    !disk_is_valid(c->disk, true, config) ||
                    !disk_is_valid(c->layer, false, config) || !processes_are_valid(c))
                        return false;
                for (size_t k = 0; k < i; k++)
                        if (strcmp(m->containers[k]->id, c->id) == 0 ||
                            strcmp(m->containers[k]->guest_id, c->guest_id) == 0 ||
                            (c->disk[0] && strcmp(m->containers[k]->disk, c->disk) == 0) ||
                            (c->layer[0] && strcmp(m->containers[k]->layer, c->layer) == 0))
                                return false;
        }
        return true;
}

int carried_decode(const uint8_t *data, size_t n, const vm_config *config,
                   Ferry__Tasks__V1__Containers **ret, ferry_error *reterr) {
        containers_message *m =
                n <= MESSAGE_SIZE ? ferry__tasks__v1__containers__unpack(NULL, n, data) : NULL;

        if (m && is_valid(m, config)) {
                *ret = m;
                return 0;
        }
        if (m)
                ferry__tasks__v1__containers__free_unpacked(m, NULL);
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "they make no sense");
}
