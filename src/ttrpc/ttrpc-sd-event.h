/* SPDX-License-Identifier: MIT */
#pragma once

/* Drives a ttrpc server or client from an sd_event loop. */

#include <systemd/sd-event.h>

#include "ttrpc/ttrpc.h"

typedef struct ttrpc_attachment ttrpc_attachment;

/* The server or client must outlive the attachment. */
int ttrpc_server_attach_event(ttrpc_server *server, sd_event *event, ttrpc_attachment **ret);
int ttrpc_client_attach_event(ttrpc_client *client, sd_event *event, ttrpc_attachment **ret);
/* Stops driving it; what there is to wait for is looked at anew before each sleep of the loop.
 * NULL is fine. */
ttrpc_attachment *ttrpc_attachment_free(ttrpc_attachment *attachment);
