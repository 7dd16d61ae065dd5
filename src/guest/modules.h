/* SPDX-License-Identifier: MIT */
#pragma once

/* Kernel modules: what each needs, and an order in which all can be loaded. A package has no
 * modules.dep (depmod makes it at installation), so this reads what depmod reads: each module's
 * own .modinfo. In names '-' and '_' are the same. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

#define MODULE_NAME_MAX  63U /* the kernel's MODULE_NAME_LEN is 56 */
#define MODULE_COUNT_MAX 128U

typedef struct module {
        char name[MODULE_NAME_MAX + 1]; /* with '_' */
        char *data;                     /* the ELF file, owned; NULL while not read, or built in */
        size_t n_data;
        bool built_in;
} module;

typedef struct module_list {
        module items[MODULE_COUNT_MAX];
        size_t n;
} module_list;

/* NULL when there is none of that name. `n` = strlen(name) when it is a whole string. */
module *module_list_find(module_list *list, const char *name, size_t n);

/* Adds it if it is not there. -EINVAL for a bad name, -E2BIG. */
int module_list_add(module_list *list, const char *name, size_t n);

/* The value of `key` in the module's .modinfo. 1, 0 = no such key, -EBADMSG = not a 64-bit ELF
 * module. *ret borrows `data` and is NUL-terminated. */
int module_info(const char *data, size_t n_data, const char *key, const char **ret);

/* Adds what the modules read so far need. 1 = something was added, 0 = nothing, or an error as
 * above. */
int module_list_close(module_list *list);

/* Sorts what has data: dependencies first, else in list order. `ret` has room for list->n.
 * -ELOOP for modules that need each other. */
int module_list_order(module_list *list, const module *ret[], size_t *ret_n);

/* Sets built_in by the text of modules.builtin: one "kernel/.../name.ko" a line. */
void module_list_mark_built_in(module_list *list, const char *text);

/* "kernel/drivers/virtio/virtio-rng.ko" -> "virtio-rng", its length. 0 when it is no module. */
size_t module_name_of_path(const char *path, size_t n_path, const char **ret);

void module_list_done(module_list *list);
