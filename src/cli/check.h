/* SPDX-License-Identifier: MIT */
#pragma once

/* What speaks against a migration, at both hosts and between them, and what it would be like. */

#include <stdio.h>

#include <jansson.h>

#include "cli/peer.h"
#include "cli/rpc.h"
#include "migration.pb-c.h"
#include "shim.pb-c.h"

typedef struct check {
        const char *name;
        const peer *from, *to;
        json_t *reasons; /* [{"where": "source", "reason": ...}, ...] */
        Ferry__Shim__V1__CheckResponse *source;
        const Ferry__Shim__V1__Prediction *prediction; /* NULL: nothing could be predicted */
} check;

/* Negative: it could not be looked into at all. Either way check_done() is due. */
int check_run(check *c, rpc_group *group, peer *from, peer *to, const char *name,
              const InitializeOptions *options, ferry_error *reterr);
void check_done(check *c);

bool check_is_good(const check *c);
json_t *check_to_json(const check *c);
void check_print_reasons(const check *c, FILE *file);
void check_print_prediction(const Ferry__Shim__V1__Prediction *p, FILE *file);
