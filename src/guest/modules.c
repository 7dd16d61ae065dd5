/* SPDX-License-Identifier: MIT */
#include "guest/modules.h"

#include <elf.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

typedef enum module_visit {
        VISIT_NEW,
        VISIT_OPEN, /* its dependencies are being placed */
        VISIT_DONE,
} module_visit;

typedef struct module_order {
        module_list *list;
        module_visit visits[MODULE_COUNT_MAX];
        const module **ret;
        size_t n;
} module_order;

static bool name_char_equal(char a, char b) {
        return (a == '-' ? '_' : a) == (b == '-' ? '_' : b);
}

module *module_list_find(module_list *list, const char *name, size_t n) {
        for (size_t i = 0; i < list->n; i++) {
                module *m = &list->items[i];
                size_t k = 0;

                while (k < n && m->name[k] != '\0' && name_char_equal(m->name[k], name[k]))
                        k++;
                if (k == n && m->name[k] == '\0')
                        return m;
        }
        return NULL;
}

static bool name_is_valid(const char *name, size_t n) {
        if (n == 0 || n > MODULE_NAME_MAX)
                return false;
        for (size_t i = 0; i < n; i++) {
                char c = name[i];

                if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '_' || c == '-'))
                        return false;
        }
        return true;
}

int module_list_add(module_list *list, const char *name, size_t n) {
        module *m;

        if (!name_is_valid(name, n))
                return -EINVAL;
        if (module_list_find(list, name, n))
                return 0;
        if (list->n == MODULE_COUNT_MAX)
                return -E2BIG;
        m = &list->items[list->n++];
        *m = (module){ 0 };
        for (size_t i = 0; i < n; i++)
                m->name[i] = name[i] == '-' ? '_' : name[i];
        return 1;
}

static bool range_fits(uint64_t offset, uint64_t size, size_t n) {
        return offset <= n && size <= n - offset;
}

/* The section of that name. The file may be anything: nothing in it is trusted. */
static int elf_section(const char *data, size_t n, const char *name, Elf64_Shdr *ret) {
        size_t n_name = strlen(name) + 1;
        Elf64_Shdr names;
        Elf64_Ehdr header;

        if (n < sizeof(header))
                return -EBADMSG;
        memcpy(&header, data, sizeof(header));
        if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
            header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
            header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shstrndx >= header.e_shnum ||
            !range_fits(header.e_shoff, (uint64_t)header.e_shnum * sizeof(Elf64_Shdr), n))
                return -EBADMSG;
        memcpy(&names, data + header.e_shoff + header.e_shstrndx * sizeof(names), sizeof(names));
        if (!range_fits(names.sh_offset, names.sh_size, n))
                return -EBADMSG;
        for (size_t i = 0; i < header.e_shnum; i++) {
                Elf64_Shdr s;

                memcpy(&s, data + header.e_shoff + i * sizeof(s), sizeof(s));
                if (!range_fits(s.sh_name, n_name, names.sh_size) ||
                    memcmp(data + names.sh_offset + s.sh_name, name, n_name) != 0)
                        continue;
                if (s.sh_type == SHT_NOBITS || !range_fits(s.sh_offset, s.sh_size, n))
                        return -EBADMSG;
                *ret = s;
                return 0;
        }
        return -EBADMSG;
}

int module_info(const char *data, size_t n_data, const char *key, const char **ret) {
        size_t n_key = strlen(key);
        Elf64_Shdr section;
        const char *text, *end;
        int r;

        r = elf_section(data, n_data, ".modinfo", &section);
        if (r < 0)
                return r;
        text = data + section.sh_offset;
        end = text + section.sh_size;
        while (text < end) {
                const char *stop = memchr(text, '\0', (size_t)(end - text));

                if (!stop)
                        return -EBADMSG;
                if ((size_t)(stop - text) > n_key && memcmp(text, key, n_key) == 0 &&
                    text[n_key] == '=') {
                        *ret = text + n_key + 1;
                        return 1;
                }
                text = stop + 1;
        }
        return 0;
}

/* "a,b": the next name of it, over *text. False at the end. */
static bool next_name(const char **text, const char **ret, size_t *ret_n) {
        while (**text == ',')
                (*text)++;
        *ret = *text;
        *ret_n = strcspn(*text, ",");
        *text += *ret_n;
        return *ret_n > 0;
}

int module_list_close(module_list *list) {
        bool added = false;

        for (size_t i = 0; i < list->n; i++) {
                const char *needs = "", *name;
                size_t n;
                int r;

                if (!list->items[i].data)
                        continue;
                r = module_info(list->items[i].data, list->items[i].n_data, "depends", &needs);
                if (r < 0)
                        return r;
                while (next_name(&needs, &name, &n)) {
                        r = module_list_add(list, name, n);
                        if (r < 0)
                                return r;
                        added = added || r > 0;
                }
        }
        return added;
}

/* Recursion is bounded: each module is entered once. */
static int place(module_order *o, module *m) {
        module_visit *visit = &o->visits[m - o->list->items];
        const char *needs = "", *name;
        size_t n;
        int r;

        if (*visit == VISIT_DONE || !m->data)
                return 0;
        if (*visit == VISIT_OPEN)
                return -ELOOP;
        *visit = VISIT_OPEN;
        r = module_info(m->data, m->n_data, "depends", &needs);
        if (r < 0)
                return r;
        while (next_name(&needs, &name, &n)) {
                module *needed = module_list_find(o->list, name, n);

                r = needed ? place(o, needed) : 0;
                if (r < 0)
                        return r;
        }
        *visit = VISIT_DONE;
        o->ret[o->n++] = m;
        return 0;
}

int module_list_order(module_list *list, const module *ret[], size_t *ret_n) {
        module_order o = { .list = list, .ret = ret };

        for (size_t i = 0; i < list->n; i++) {
                int r = place(&o, &list->items[i]);

                if (r < 0)
                        return r;
        }
        *ret_n = o.n;
        return 0;
}

size_t module_name_of_path(const char *path, size_t n_path, const char **ret) {
        static const char suffix[] = ".ko";
        const char *slash = memrchr(path, '/', n_path);
        const char *name = slash ? slash + 1 : path;
        size_t n = n_path - (size_t)(name - path);

        if (n < sizeof(suffix) || memcmp(name + n - 3, suffix, 3) != 0)
                return 0;
        *ret = name;
        return n - 3;
}

void module_list_mark_built_in(module_list *list, const char *text) {
        while (*text != '\0') {
                size_t n_line = strcspn(text, "\n");
                const char *name = NULL;
                size_t n = module_name_of_path(text, n_line, &name);
                module *m = n > 0 ? module_list_find(list, name, n) : NULL;

                if (m)
                        m->built_in = true;
                text += n_line;
                text += *text == '\n';
        }
}

void module_list_done(module_list *list) {
        for (size_t i = 0; i < list->n; i++)
                free(list->items[i].data);
        *list = (module_list){ 0 };
}
