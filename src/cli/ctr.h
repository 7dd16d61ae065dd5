/* SPDX-License-Identifier: MIT */
#pragma once

/* A containerd, by its own client, `ctr` ($FERRY_CTR, or in PATH). The calls block, for a minute at
 * most. */

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"

typedef struct ctr {
        const char *address;   /* its gRPC socket */
        const char *namespace; /* of its containers */
} ctr;

/* What containerd keeps of a container: "Spec", "Labels"... Caller decrefs. */
int ctr_get_container(const ctr *c, const char *id, json_t **ret, ferry_error *reterr);
/* Of this specification, without a root of containerd's. `labels` may be NULL. */
int ctr_create_container(const ctr *c, const char *id, json_t *spec, const json_t *labels,
                         ferry_error *reterr);
/* Its task, detached. */
int ctr_start_task(const ctr *c, const char *id, bool terminal, ferry_error *reterr);
/* Its task, ended or not, and itself; that either is not there is as good. */
int ctr_remove_container(const ctr *c, const char *id, ferry_error *reterr);
