/* SPDX-License-Identifier: MIT */
#pragma once

/* The demo's guest: image, configuration, start; and how one sees that it is well. With the network
 * it is asked over HTTP, without it its console is read. */

#include <stdint.h>

#include "base/error.h"
#include "client.h"
#include "lab.h"

#define GUEST_PORT      8080
#define GUEST_MEMORY_MB 256
#define GUEST_TEST_MB   64

/* Builds the image and runs the guest on host 0. */
int guest_start(const lab *l, unsigned memory_rate_mb, ferry_error *reterr);

/* Waits until it serves (or ticks). `netns_fd`: the client's namespace. */
int guest_wait(const lab *l, int netns_fd, ferry_error *reterr);

/* The memory test's figures now. Without the network: from the console of host `at`. */
int guest_memory_now(const lab *l, int netns_fd, unsigned at, guest_memory *ret,
                     ferry_error *reterr);
