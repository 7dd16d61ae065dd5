/* SPDX-License-Identifier: MIT */
#pragma once

/* What a container's config.json may tell the shim. */

/* CRI's: the container is of that pod. */
#define ANNOTATION_POD "io.kubernetes.cri.sandbox-id"
/* CRI's: "sandbox", of a pod's own container. */
#define ANNOTATION_KIND "io.kubernetes.cri.container-type"
/* The container has come with the sandbox of this name, whose shim is here: `start` finds it. */
#define ANNOTATION_SANDBOX "io.ferry.sandbox-id"
/* A pod's: it has no VM of its own, but gets the one that comes with this migration session. */
#define ANNOTATION_SESSION "io.ferry.migration.session-id"
/* Which of the containers that came along it is: its id at the source. A pod's own container of
 * CRI's, with ANNOTATION_SANDBOX, needs none: CRI would hand it on to all of the pod. */
#define ANNOTATION_SOURCE "io.microsoft.migration.source-container-id"
/* "true": it keeps the addresses that it had at the source, whatever the namespace here has. */
#define ANNOTATION_KEEP_ADDRESS "io.ferry.keep-address"
