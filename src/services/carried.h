/* SPDX-License-Identifier: MIT */
#pragma once

/* What another host says of the containers in a sandbox (proto/tasks.proto). */

#include "base/error.h"
#include "tasks.pb-c.h"
#include "vm/vm-config.h"

#define CARRIED_CONTAINERS_MAX 32U
#define CARRIED_EXECS_MAX      64U
#define CARRIED_GUEST_ID_SIZE  32

/* Everything that can be known from the bytes and the VM's configuration: ids and names of the
 * forms that we give and each once, disks that are there. -EINVAL; caller frees the message. */
int carried_decode(const uint8_t *data, size_t n, const vm_config *config,
                   Ferry__Tasks__V1__Containers **ret, ferry_error *reterr);
