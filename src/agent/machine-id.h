/* SPDX-License-Identifier: MIT */
#pragma once

/* /etc/machine-id of the guest itself, for programs that look for one. Made when the first program
 * or container is about to start, not before: a template of this guest has none, so that no two
 * guests share one. Containers have what their image has. */
void machine_id_make(void);
