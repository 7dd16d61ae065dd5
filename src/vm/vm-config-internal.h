/* SPDX-License-Identifier: MIT */
#pragma once

/* Shared by vm-config.c and vm-config-disks.c. A `field` is named in the error; a `key` that is
 * absent or null leaves *ret alone. */

#include <jansson.h>

#include "vm/vm-config.h"

int config_refuse(ferry_error *reterr, const char *field, const char *what);
int config_no_memory(ferry_error *reterr);
/* Every field that is not in `names` is a mistake, or of a later version: better told than lost. */
int config_check_fields(const json_t *object, const char *where, const char *const *names,
                        size_t n_names, ferry_error *reterr);
int config_read_uint(const json_t *object, const char *key, const char *field, uint32_t min,
                     uint32_t max, uint32_t *ret, ferry_error *reterr);
/* A copy; jansson refuses NULs inside. */
int config_read_string(const json_t *object, const char *key, const char *field, size_t max,
                       char **ret, ferry_error *reterr);
int config_check_path(const char *path, const char *field, ferry_error *reterr);

int config_read_disks(const json_t *root, vm_config *config, ferry_error *reterr);
json_t *config_format_disks(const vm_config *config);
