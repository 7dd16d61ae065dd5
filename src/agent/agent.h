/* SPDX-License-Identifier: MIT */
#pragma once

/* The agent: serves the host over the two ports, for as long as the guest lives (docs/agent.md). */

#include <stdbool.h>
#include <sys/types.h>

typedef struct agent agent;

/* -ENODEV: this machine has no ports for an agent. */
int agent_new(agent **ret);

/* Waits until something is to be done and does it; true when `fd` is readable. */
bool agent_run(agent *a, int fd);

/* What waitpid() said, of any child. */
void agent_reaped(agent *a, pid_t pid, int status);
