/* SPDX-License-Identifier: MIT */
#pragma once

/* A migration whose destination is made by somebody else: a pod of CRI's, which only CRI can make.
 * He is told, on standard error, what it must carry. A minute without him, the time limit, or a
 * signal, and it is an error; nothing has been frozen by then. */

#include "cli/mover.h"

/* Before the source is asked for anything: a pod, if it has one, waits for this session; it is
 * where `m->to` leads from here on. */
int mover_await_pod(mover *m, ferry_error *reterr);
/* Between ImportSandbox and PrepareSandbox: each container was asked for. */
int mover_await_containers(mover *m, ferry_error *reterr);
/* Whether containers were made there. */
bool mover_await_is_used(const mover *m);
