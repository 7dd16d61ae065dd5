/* SPDX-License-Identifier: MIT */
#pragma once

/* The Migration service on a ttrpc server: decode, one call down to the session, encode. */

#include "migration/sandbox.h"
#include "migration/socket.h"
#include "ttrpc/ttrpc.h"

typedef struct migration_service migration_service;

/* All are borrowed and must outlive the server's calls. */
int migration_service_new(ttrpc_server *server, sandbox *sb, fd_store *store,
                          migration_service **ret);
migration_service *migration_service_free(migration_service *service);

DEFINE_CLEANUP(migration_service *, migration_service_free)
