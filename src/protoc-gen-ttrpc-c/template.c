/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "protoc-gen-ttrpc-c/template.h"

static const char *find(const char *name, size_t n, const template_value *values, size_t n_values) {
        for (size_t i = 0; i < n_values; i++)
                if (strlen(values[i].name) == n && memcmp(values[i].name, name, n) == 0)
                        return values[i].value;
        return NULL;
}

int template_print(FILE *f, const char *text, const template_value *values, size_t n_values) {
        for (;;) {
                size_t n = strcspn(text, "$");
                const char *value;

                fwrite(text, 1, n, f);
                text += n;
                if (!*text)
                        return 0;
                text++;
                n = strcspn(text, "$");
                value = text[n] ? find(text, n, values, n_values) : NULL;
                if (!value)
                        return -EINVAL;
                fputs(value, f);
                text += n + 1;
        }
}
