/* SPDX-License-Identifier: MIT */
#pragma once

/* A guest that is the copy of another, made before either had anything of its own: its random
 * numbers get a seed that no other has, and its clock is set. Unlike guest_moved(), which tells the
 * log, this is told to the caller: nothing may run in a guest for which it failed. */

#include "guestlink/processes.h"

typedef void (*guest_renew_done)(int r, const ferry_error *error, void *userdata);

/* Negative: `done` is not called. */
int guest_renew(guest_processes *g, guest_renew_done done, void *userdata, ferry_error *reterr);
