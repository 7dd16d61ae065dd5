/* SPDX-License-Identifier: MIT */
#pragma once

/* Columns for people: as wide as their widest cell, no colours, no frames. */

#include <stddef.h>
#include <stdio.h>

#include "base/cleanup.h"

#define TABLE_COLUMNS_MAX 12U

typedef struct table table;

int table_new(size_t n_columns, table **ret);
table *table_free(table *table);

/* `cells` has the table's number of columns; copied, control characters replaced by '?'. */
int table_add(table *table, const char *const *cells);
void table_print(const table *table, FILE *file);

DEFINE_CLEANUP(table *, table_free)
