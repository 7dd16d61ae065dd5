/* SPDX-License-Identifier: MIT */
#pragma once

/* Text with names in it. */

#include <stddef.h>
#include <stdio.h>

typedef struct template_value {
        const char *name;
        const char *value;
} template_value;

/* Writes `text`, each $name$ replaced by its value. -EINVAL: no such name. */
int template_print(FILE *f, const char *text, const template_value *values, size_t n_values);
