/* SPDX-License-Identifier: MIT */
#pragma once

/* Slows threads down by the kernel's cpu controller, cgroup v1 or v2, a cgroup a thread.
 *
 * The cgroups lie below the process's own, as "ferry-PID-N". A file in the state directory says
 * where, from before the first is made until after the last has gone: a shim that was killed leaves
 * a slow guest, and the next one finds it. Periods are short, because whoever stops a VM waits for
 * a vCPU that has used its time up: 5 ms, or as long as a share needs for the kernel's shortest
 * quota, 1 ms. */

#include <stddef.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

#define THROTTLE_MAX        98U /* percent */
#define THROTTLE_PERIOD_MIN 5000U
#define THROTTLE_QUOTA_MIN  1000U
#define THROTTLE_THREADS    256U

typedef enum throttle_kind {
        THROTTLE_V1,
        THROTTLE_V2,
} throttle_kind;

typedef struct throttle throttle;

/* Finds the cgroup of `pid` and tries one out. -EOPNOTSUPP: threads cannot be slowed down here, and
 * why. */
int throttle_new(pid_t pid, int state_dir_fd, throttle **ret, ferry_error *reterr);

/* Takes `percentage` (1 to THROTTLE_MAX) of their time from the threads; the same ones each time.
 * Some may be slowed down when it fails: lift. */
int throttle_set(throttle *t, const pid_t *threads, size_t n, unsigned percentage,
                 ferry_error *reterr);

/* Full speed, at once; the cgroups stay. Nothing to do when nothing was set. */
void throttle_lift(throttle *t);

/* Full speed, and the cgroups are removed. NULL is fine. */
throttle *throttle_free(throttle *t);

/* Removes what a shim that was killed has left. */
void throttle_recover(int state_dir_fd);

/* Where `pid` is: the lines of its /proc/PID/cgroup, and the mounts that we see
 * (/proc/self/mountinfo). -EOPNOTSUPP when no hierarchy that is mounted has a cpu controller or is
 * of v2. *ret: the folder of its cgroup; allocated. */
int throttle_locate(const char *cgroups, const char *mounts, throttle_kind *ret_kind, char **ret);

void throttle_period(unsigned percentage, unsigned *ret_period_usec, unsigned *ret_quota_usec);

DEFINE_CLEANUP(throttle *, throttle_free)
