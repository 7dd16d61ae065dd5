/* SPDX-License-Identifier: MIT */
#pragma once

/* What was forced, by whose word: one line each in `audit.log` of the state directory, on disk
 * before the deed. */

#include <stdbool.h>

#define AUDIT_FILE     "audit.log"
#define AUDIT_TEXT_MAX 512U

typedef struct audit_grounds {
        const char *fenced; /* the proof; "" */
        const char *reason; /* "" */
        bool may_be_stale;
} audit_grounds;

/* Printable, at most AUDIT_TEXT_MAX bytes, without a quotation mark. */
bool audit_text_is_valid(const char *text);

/* `deed`: "FinalizeSandbox(RESUME)"; `state`: the table's. */
int audit_append(int dir_fd, const char *session_id, const char *deed, const char *state,
                 const audit_grounds *grounds);
