/* SPDX-License-Identifier: MIT */
#include "cli/table.h"

#include <string.h>

#define GAP 2

struct table {
        size_t n_columns, n_rows, allocated;
        char **cells; /* rows one behind the other */
        size_t widths[TABLE_COLUMNS_MAX];
};

int table_new(size_t n_columns, table **ret) {
        table *t;

        if (n_columns == 0 || n_columns > TABLE_COLUMNS_MAX)
                return -EINVAL;
        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        t->n_columns = n_columns;
        *ret = t;
        return 0;
}

table *table_free(table *t) {
        if (!t)
                return NULL;
        for (size_t i = 0; i < t->n_rows * t->n_columns; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t);
        return NULL;
}

static int reserve_row(table *t) {
        size_t wanted = t->allocated > 0 ? t->allocated * 2 : 8;
        char **cells;

        if (t->n_rows < t->allocated)
                return 0;
        cells = reallocarray(t->cells, wanted * t->n_columns, sizeof(*cells));
        if (!cells)
                return -ENOMEM;
        t->cells = cells;
        t->allocated = wanted;
        return 0;
}

int table_add(table *t, const char *const *cells) {
        char **row;
        int r;

        r = reserve_row(t);
        if (r < 0)
                return r;
        row = t->cells + t->n_rows * t->n_columns;
        memset(row, 0, t->n_columns * sizeof(*row));
        t->n_rows++; /* from here on table_free() knows the row */
        for (size_t i = 0; i < t->n_columns; i++) {
                size_t width;

                row[i] = strdup(cells[i]);
                if (!row[i])
                        return -ENOMEM;
                for (char *c = row[i]; *c; c++)
                        if ((unsigned char)*c < ' ' || *c == 0x7f)
                                *c = '?';
                width = strlen(row[i]);
                if (width > t->widths[i])
                        t->widths[i] = width;
        }
        return 0;
}

void table_print(const table *t, FILE *file) {
        for (size_t row = 0; row < t->n_rows; row++)
                for (size_t i = 0; i < t->n_columns; i++) {
                        const char *cell = t->cells[row * t->n_columns + i];

                        if (!cell)
                                cell = "";
                        if (i + 1 < t->n_columns)
                                fprintf(file, "%-*s", (int)t->widths[i] + GAP, cell);
                        else
                                fprintf(file, "%s\n", cell);
                }
}
