/* SPDX-License-Identifier: MIT */
#include "migration/compatibility.h"

#include <stdarg.h>
#include <string.h>

#define TEXT_MAX     255U
#define LINES_MAX    2048U
#define REPORT_MAX   4096U
#define QEMU_MINIMUM "7.2"

/* ---- differences ---- */

void differ(differences *d, const char *format, ...) {
        char *text;
        va_list ap;

        va_start(ap, format);
        if (d->n == DIFFERENCES_MAX || vasprintf(&text, format, ap) < 0)
                d->n_more++;
        else
                d->items[d->n++] = text;
        va_end(ap);
}

int differences_report(const differences *d, const char *what, ferry_error *reterr) {
        char text[REPORT_MAX];
        size_t n = 0, i;

        if (d->n == 0 && d->n_more == 0)
                return 0;
        for (i = 0; i < d->n && n + strlen(d->items[i]) + 32 < sizeof(text); i++)
                n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", i > 0 ? "; " : "",
                                      d->items[i]);
        if (i < d->n || d->n_more > 0)
                snprintf(text + n, sizeof(text) - n, "; and %zu more", d->n - i + d->n_more);
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EREMOTEIO, "%s: %s", what, text);
}

void differences_done(differences *d) {
        for (size_t i = 0; i < d->n; i++)
                free(d->items[i]);
        *d = (differences){ .n = 0 };
}

/* ---- the message ---- */

static const char *const needed_capabilities[] = { "events", "late-block-activate", "return-path" };

void compatibility_fill(Ferry__State__V1__Compatibility *c, const vm_facts *facts) {
        ferry__state__v1__compatibility__init(c);
        c->qemu_version = (char *)facts->qemu_version;
        c->machine = (char *)facts->machine;
        c->cpu_model = (char *)facts->cpu_model;
        c->accelerator = (char *)facts->accelerator;
        c->memory_bytes = facts->memory_bytes;
        c->vcpus = facts->vcpus;
        c->page_size = facts->page_size;
        c->devices = (char **)facts->devices.items;
        c->n_devices = facts->devices.n;
        c->cpu_features = (char **)facts->cpu_features.items;
        c->n_cpu_features = facts->cpu_features.n;
        c->cpu_words = (char **)facts->cpu_words.items;
        c->n_cpu_words = facts->cpu_words.n;
        c->ram = (char **)facts->ram.items;
        c->n_ram = facts->ram.n;
        c->capabilities = (char **)needed_capabilities;
        c->n_capabilities = ELEMENTS(needed_capabilities);
}

void compatibility_view(const Ferry__State__V1__Compatibility *c, vm_facts *ret) {
        *ret = (vm_facts){
                .qemu_version = c->qemu_version,
                .machine = c->machine,
                .cpu_model = c->cpu_model,
                .accelerator = c->accelerator,
                .memory_bytes = c->memory_bytes,
                .vcpus = c->vcpus,
                .page_size = c->page_size,
                .devices = { (const char *const *)c->devices, c->n_devices },
                .cpu_features = { (const char *const *)c->cpu_features, c->n_cpu_features },
                .cpu_words = { (const char *const *)c->cpu_words, c->n_cpu_words },
                .ram = { (const char *const *)c->ram, c->n_ram },
                .capabilities = { (const char *const *)c->capabilities, c->n_capabilities },
        };
}

bool text_is_plain(const char *text, size_t max) {
        size_t n = strnlen(text, max + 1);

        if (n > max)
                return false;
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)text[i] < ' ' || (unsigned char)text[i] > '~')
                        return false;
        return true;
}

static bool is_plain(const char *text) {
        return text_is_plain(text, TEXT_MAX);
}

static bool are_plain(char *const *lines, size_t n) {
        if (n > LINES_MAX)
                return false;
        for (size_t i = 0; i < n; i++)
                if (!is_plain(lines[i]) || (i > 0 && strcmp(lines[i - 1], lines[i]) > 0))
                        return false;
        return true;
}

int compatibility_check_form(const Ferry__State__V1__Compatibility *c) {
        bool good = is_plain(c->qemu_version) && is_plain(c->machine) && is_plain(c->cpu_model) &&
                    is_plain(c->accelerator) && are_plain(c->devices, c->n_devices) &&
                    are_plain(c->cpu_features, c->n_cpu_features) &&
                    are_plain(c->cpu_words, c->n_cpu_words) && are_plain(c->ram, c->n_ram) &&
                    are_plain(c->capabilities, c->n_capabilities);

        return good ? 0 : -EINVAL;
}

int compatibility_unpack(const uint8_t *data, size_t n, Ferry__State__V1__Compatibility **ret) {
        Ferry__State__V1__Compatibility *c = ferry__state__v1__compatibility__unpack(NULL, n, data);

        if (!c)
                return -EINVAL;
        if (compatibility_check_form(c) < 0) {
                ferry__state__v1__compatibility__free_unpacked(c, NULL);
                return -EINVAL;
        }
        *ret = c;
        return 0;
}

/* ---- compare ---- */

typedef struct comparison {
        const char *where;
        differences *d;
} comparison;

static void compare_text(comparison *c, const char *what, const char *there, const char *here) {
        if (there[0] != '\0' && strcmp(there, here) != 0)
                differ(c->d, "%s is %s %s and %s here", what, there, c->where, here);
}

static void compare_number(comparison *c, const char *what, uint64_t there, uint64_t here) {
        if (there != 0 && there != here)
                differ(c->d, "%s is %llu %s and %llu here", what, (unsigned long long)there,
                       c->where, (unsigned long long)here);
}

static bool is_too_old(const char *version) {
        unsigned major, minor;

        return sscanf(version, "%u.%u", &major, &minor) == 2 &&
               (major < 7 || (major == 7 && minor < 2));
}

/* The first word is the key. */
static int compare_keys(const char *a, const char *b) {
        size_t n_a = strcspn(a, " "), n_b = strcspn(b, " ");
        int r = strncmp(a, b, n_a < n_b ? n_a : n_b);

        return r != 0 ? r : n_a < n_b ? -1 : n_a > n_b;
}

/* Of two sorted lists. */
static void compare_lines(comparison *c, const char *what, char *const *there, size_t n_there,
                          const vm_fact_list *here) {
        size_t i = 0, k = 0;

        while (n_there > 0 && (i < n_there || k < here->n)) {
                const char *a = i < n_there ? there[i] : NULL;
                const char *b = k < here->n ? here->items[k] : NULL;
                int order = !a ? 1 : !b ? -1 : compare_keys(a, b);

                if (order < 0)
                        differ(c->d, "%s \"%s\" is %s and not here", what, a, c->where);
                else if (order > 0)
                        differ(c->d, "%s \"%s\" is here and not %s", what, b, c->where);
                else if (strcmp(a, b) != 0)
                        differ(c->d, "%s \"%s\" is %s, and \"%s\" here", what, a, c->where, b);
                i += order <= 0;
                k += order >= 0;
        }
}

static bool contains(const vm_fact_list *list, const char *line) {
        for (size_t i = 0; i < list->n; i++)
                if (strcmp(list->items[i], line) == 0)
                        return true;
        return false;
}

static bool words_are_the_same(const Ferry__State__V1__Compatibility *there, const vm_facts *here) {
        if (there->n_cpu_words != here->cpu_words.n)
                return false;
        for (size_t i = 0; i < there->n_cpu_words; i++)
                if (strcmp(there->cpu_words[i], here->cpu_words.items[i]) != 0)
                        return false;
        return true;
}

/* CPUID is what counts, the names are for the reader; but not all that a name stands for is in
 * CPUID's feature words. What only one QEMU has a name for is nothing that the guest can see while
 * they are the same. */
static void compare_cpu(comparison *c, const Ferry__State__V1__Compatibility *there,
                        const vm_facts *here) {
        bool same_words = there->n_cpu_words == 0 || words_are_the_same(there, here);
        vm_fact_list names = { (const char *const *)there->cpu_features, there->n_cpu_features };
        size_t before = c->d->n + c->d->n_more;

        for (size_t i = 0; i < names.n; i++)
                if (!contains(&here->cpu_features, names.items[i]))
                        differ(c->d, "CPU feature %s is %s and not here", names.items[i], c->where);
        for (size_t i = 0; !same_words && names.n > 0 && i < here->cpu_features.n; i++)
                if (!contains(&names, here->cpu_features.items[i]))
                        differ(c->d, "CPU feature %s is here and not %s",
                               here->cpu_features.items[i], c->where);
        if (!same_words && c->d->n + c->d->n_more == before)
                compare_lines(c, "CPUID word", there->cpu_words, there->n_cpu_words,
                              &here->cpu_words);
}

void compatibility_compare(const Ferry__State__V1__Compatibility *there, const char *where,
                           const vm_facts *here, differences *d) {
        comparison c = { .where = where, .d = d };

        if (is_too_old(there->qemu_version))
                differ(d, "QEMU is %s %s; it must be " QEMU_MINIMUM " or newer",
                       there->qemu_version, where);
        if (is_too_old(here->qemu_version))
                differ(d, "QEMU is %s here; it must be " QEMU_MINIMUM " or newer",
                       here->qemu_version);
        compare_text(&c, "the machine type", there->machine, here->machine);
        compare_text(&c, "the accelerator", there->accelerator, here->accelerator);
        compare_text(&c, "the CPU model", there->cpu_model, here->cpu_model);
        if (strcmp(there->cpu_model, here->cpu_model) == 0)
                compare_cpu(&c, there, here);
        compare_number(&c, "memory", there->memory_bytes, here->memory_bytes);
        compare_number(&c, "the number of vCPUs", there->vcpus, here->vcpus);
        compare_number(&c, "the page size", there->page_size, here->page_size);
        compare_lines(&c, "RAM block", there->ram, there->n_ram, &here->ram);
        compare_lines(&c, "device", there->devices, there->n_devices, &here->devices);
        for (size_t i = 0; i < there->n_capabilities; i++)
                if (!contains(&here->capabilities, there->capabilities[i]))
                        differ(d, "QEMU's migration capability %s is needed and not here",
                               there->capabilities[i]);
}
