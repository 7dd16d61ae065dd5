/* SPDX-License-Identifier: MIT */
#pragma once

/* Would the guest find the same machine? Compares what two QEMUs give it and names each
 * difference, in words for a person. Pure. */

#include "base/cleanup.h"
#include "base/error.h"
#include "state.pb-c.h"
#include "vm/vm.h"

#define DIFFERENCES_MAX 64U

/* Reasons, in order; those over the maximum are only counted. Zeroed is empty. */
typedef struct differences {
        char *items[DIFFERENCES_MAX];
        size_t n, n_more;
} differences;

void differ(differences *d, const char *format, ...) _printf_(2, 3);
/* 0 without differences, else -EREMOTEIO (FailedPrecondition) with "what: a; b; c" of at most 4
 * KiB. */
int differences_report(const differences *d, const char *what, ferry_error *reterr);
void differences_done(differences *d);

/* Borrows from `facts`; their migration capabilities are not in it but those that we need. */
void compatibility_fill(Ferry__State__V1__Compatibility *ret, const vm_facts *facts);

/* Printable ASCII, at most `max` of it. */
bool text_is_plain(const char *text, size_t max);

/* The other way round; borrows. */
void compatibility_view(const Ferry__State__V1__Compatibility *c, vm_facts *ret);

/* -EINVAL: too long, too many, or not plain text. */
int compatibility_check_form(const Ferry__State__V1__Compatibility *c);

/* `data` as compatibility_data has it: serialized. -EINVAL when it is none. */
int compatibility_unpack(const uint8_t *data, size_t n, Ferry__State__V1__Compatibility **ret);

/* What `there` leaves out is not compared. `where` stands for it in the text: "at the source". */
void compatibility_compare(const Ferry__State__V1__Compatibility *there, const char *where,
                           const vm_facts *here, differences *d);
