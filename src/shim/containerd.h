/* SPDX-License-Identifier: MIT */
#pragma once

/* How containerd calls the shim's program: `start` puts a shim for a container into the background
 * and prints its address, `delete` clears away what one has left. docs/containers.md. */

#include <stdbool.h>

#include "base/error.h"

/* Whether these are containerd's arguments: "-namespace default ... -id c1 start". */
bool containerd_calls(int argc, char **argv);

/* The exit status. */
int containerd_main(int argc, char **argv);
