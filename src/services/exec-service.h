/* SPDX-License-Identifier: MIT */
#pragma once

/* ferry.exec.v1.Exec: programs in the guest. */

#include "services/guest.h"
#include "ttrpc/ttrpc.h"

typedef struct exec_service exec_service;

/* All are borrowed. */
int exec_service_new(ttrpc_server *server, sandbox *sb, guest_access *guest, exec_service **ret);
exec_service *exec_service_free(exec_service *service);

DEFINE_CLEANUP(exec_service *, exec_service_free)
