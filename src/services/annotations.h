/* SPDX-License-Identifier: MIT */
#pragma once

/* What a container's config.json may tell the shim. */

/* CRI's: the container is of that pod. */
#define ANNOTATION_POD "io.kubernetes.cri.sandbox-id"
/* The container has come with the sandbox of this name, whose shim is here: `start` finds it. */
#define ANNOTATION_SANDBOX "io.ferry.sandbox-id"
/* A pod's: it has no VM of its own, but gets the one that comes with this migration session. */
#define ANNOTATION_SESSION "io.ferry.migration.session-id"
/* Which of the containers that came along it is: its id at the source. */
#define ANNOTATION_SOURCE "io.microsoft.migration.source-container-id"
