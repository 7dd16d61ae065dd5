/* SPDX-License-Identifier: MIT */
#pragma once

/* One shim process: sockets, services, signals and the sandbox they are about. */

#include "shim/options.h"

/* Serves until it is told to end. 0, or a negative errno with the error, which is logged by
 * then. */
int shim_serve(const shim_options *options, ferry_error *reterr);
