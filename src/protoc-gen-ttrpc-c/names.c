/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "protoc-gen-ttrpc-c/names.h"

/* No letter becomes more than two. */
static char *new_name(const char *source) {
        size_t n = strlen(source);

        return n > 65536 ? NULL : malloc(2 * n + 1);
}

static const char *without_dot(const char *full_name) {
        return full_name + (*full_name == '.');
}

char *name_type(const char *full_name) {
        char *name = new_name(full_name), *to = name;
        bool starts_word = true;

        if (!name)
                return NULL;
        for (const char *at = without_dot(full_name); *at; at++) {
                if (*at == '.')
                        to = stpcpy(to, "__");
                else if (*at != '_')
                        *to++ = starts_word ? (char)toupper((unsigned char)*at) : *at;
                starts_word = *at == '.' || *at == '_';
        }
        *to = '\0';
        return name;
}

/* A capital starts a word unless another capital comes before it: "OCISpec" is "ocispec". */
static char *lower(const char *dotted, const char *separator) {
        char *name = new_name(dotted), *to = name;
        bool was_upper = true;

        if (!name)
                return NULL;
        for (const char *at = dotted; *at; at++) {
                bool is_upper = isupper((unsigned char)*at);

                if (*at == '.') {
                        to = stpcpy(to, separator);
                        was_upper = true;
                        continue;
                }
                if (is_upper && !was_upper)
                        *to++ = '_';
                *to++ = (char)tolower((unsigned char)*at);
                was_upper = is_upper;
        }
        *to = '\0';
        return name;
}

char *name_type_lower(const char *full_name) {
        return lower(without_dot(full_name), "__");
}

char *name_lower(const char *dotted) {
        return lower(dotted, "_");
}

char *name_stem(const char *path) {
        size_t n = strlen(path), n_suffix = strlen(".proto");

        if (n > n_suffix && strcmp(path + n - n_suffix, ".proto") == 0)
                n -= n_suffix;
        return strndup(path, n);
}
