/* SPDX-License-Identifier: MIT */
#include "vm/facts.h"

#include <inttypes.h>
#include <string.h>

#define FACT_MAX        256U
#define LIST_MAX        2048U
#define GUEST_PAGE_SIZE 4096U /* x86 */

typedef struct list {
        char **items;
        size_t n, room;
} list;

struct vm_facts_store {
        vm_facts facts;
        char version[FACT_MAX], machine[FACT_MAX], cpu[FACT_MAX], accelerator[8];
        list devices, features, words, ram, capabilities;
};

static void list_done(list *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->items[i]);
        free(l->items);
        *l = (list){ 0 };
}

static int list_take(list *l, char *item_consume) {
        _cleanup_(freep) char *item = item_consume;
        char **items;

        if (!item)
                return -ENOMEM;
        if (l->n == LIST_MAX || strlen(item) >= FACT_MAX)
                return -E2BIG;
        if (l->n == l->room) {
                items = reallocarray(l->items, l->room * 2 + 16, sizeof(*items));
                if (!items)
                        return -ENOMEM;
                l->items = items;
                l->room = l->room * 2 + 16;
        }
        l->items[l->n++] = TAKE_PTR(item);
        return 0;
}

static int list_add(list *l, const char *format, ...) _printf_(2, 3);

static int list_add(list *l, const char *format, ...) {
        va_list ap;
        char *item;

        va_start(ap, format);
        if (vasprintf(&item, format, ap) < 0)
                item = NULL;
        va_end(ap);
        return list_take(l, item);
}

static int compare_strings(const void *a, const void *b) {
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static vm_fact_list list_view(list *l) {
        if (l->n > 1)
                qsort(l->items, l->n, sizeof(l->items[0]), compare_strings);
        return (vm_fact_list){ (const char *const *)l->items, l->n };
}

static void list_drop(list *l, const char *item) {
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->items[i], item) == 0) {
                        free(l->items[i]);
                        l->items[i] = l->items[--l->n];
                        return;
                }
}

vm_facts_store *vm_facts_store_free(vm_facts_store *store) {
        if (!store)
                return NULL;
        list_done(&store->devices);
        list_done(&store->features);
        list_done(&store->words);
        list_done(&store->ram);
        list_done(&store->capabilities);
        free(store);
        return NULL;
}

vm_facts *vm_facts_store_get(vm_facts_store *store) {
        store->facts.qemu_version = store->version;
        store->facts.machine = store->machine;
        store->facts.cpu_model = store->cpu;
        store->facts.accelerator = store->accelerator;
        store->facts.page_size = GUEST_PAGE_SIZE;
        store->facts.devices = list_view(&store->devices);
        store->facts.cpu_features = list_view(&store->features);
        store->facts.cpu_words = list_view(&store->words);
        store->facts.ram = list_view(&store->ram);
        store->facts.capabilities = list_view(&store->capabilities);
        return &store->facts;
}

/* --- one answer after the other --- */

typedef struct collection {
        qmp_client *client;
        uint64_t timeout_usec;
        size_t step;
        char *cpu_path;
        vm_facts_store *store;
        vm_facts_collected done;
        void *userdata;
} collection;

static collection *collection_free(collection *c) {
        if (!c)
                return NULL;
        free(c->cpu_path);
        vm_facts_store_free(c->store);
        free(c);
        return NULL;
}

DEFINE_CLEANUP(collection *, collection_free)

static const char *text_of(const json_t *object, const char *key) {
        return json_string_value(json_object_get(object, key));
}

static int take_kvm(collection *c, const json_t *value) {
        strcpy(c->store->accelerator,
               json_is_true(json_object_get(value, "enabled")) ? "kvm" : "tcg");
        return 0;
}

/* A QOM type without its suffix: "pc-q35-7.2-machine" -> "pc-q35-7.2". */
static int take_type(const json_t *value, const char *suffix, char ret[FACT_MAX]) {
        const char *type = json_string_value(value);
        size_t n = type ? strlen(type) : 0, n_suffix = strlen(suffix);

        if (n <= n_suffix || n >= FACT_MAX || strcmp(type + n - n_suffix, suffix) != 0)
                return -EBADMSG;
        memcpy(ret, type, n - n_suffix);
        ret[n - n_suffix] = '\0';
        return 0;
}

static int take_machine(collection *c, const json_t *value) {
        return take_type(value, "-machine", c->store->machine);
}

/* [{"name": "disk0", "type": "child<virtio-blk-pci>"}, ...] */
static int take_devices(collection *c, const json_t *value) {
        int r = 0;

        for (size_t i = 0; i < json_array_size(value) && r == 0; i++) {
                const char *name = text_of(json_array_get(value, i), "name");
                const char *type = text_of(json_array_get(value, i), "type");

                if (name && type && strncmp(type, "child<", 6) == 0)
                        r = list_add(&c->store->devices, "%s %.*s", name,
                                     (int)strcspn(type + 6, ">"), type + 6);
        }
        return r;
}

/* "disk0 virtio-blk-pci" becomes "disk0 virtio-blk-pci 00:10.0". */
static int add_address(list *devices, const json_t *device) {
        const char *id = text_of(device, "qdev_id");
        size_t n = id ? strlen(id) : 0;

        for (size_t i = 0; n > 0 && i < devices->n; i++) {
                char *line;

                if (strncmp(devices->items[i], id, n) != 0 || devices->items[i][n] != ' ')
                        continue;
                if (asprintf(&line, "%s %02x:%02x.%x", devices->items[i],
                             (unsigned)json_integer_value(json_object_get(device, "bus")) & 0xff,
                             (unsigned)json_integer_value(json_object_get(device, "slot")) & 0xff,
                             (unsigned)json_integer_value(json_object_get(device, "function")) &
                                     0xf) < 0)
                        return -ENOMEM;
                free(devices->items[i]);
                devices->items[i] = line;
                break;
        }
        return 0;
}

/* No bus but the root one has devices of ours. */
static int take_pci(collection *c, const json_t *value) {
        int r = 0;

        for (size_t i = 0; i < json_array_size(value); i++) {
                const json_t *on_bus = json_object_get(json_array_get(value, i), "devices");

                for (size_t k = 0; k < json_array_size(on_bus) && r == 0; k++)
                        r = add_address(&c->store->devices, json_array_get(on_bus, k));
        }
        return r;
}

static int take_memory(collection *c, const json_t *value) {
        int r = 0;

        for (size_t i = 0; i < json_array_size(value) && r == 0; i++) {
                const char *id = text_of(json_array_get(value, i), "id");
                const json_t *size = json_object_get(json_array_get(value, i), "size");

                r = list_add(&c->store->ram, "%s %" JSON_INTEGER_FORMAT, id ? id : "?",
                             json_integer_value(size));
        }
        return r;
}

static int take_capabilities(collection *c, const json_t *value) {
        int r = 0;

        for (size_t i = 0; i < json_array_size(value) && r == 0; i++) {
                const char *name = text_of(json_array_get(value, i), "capability");

                if (name)
                        r = list_add(&c->store->capabilities, "%s", name);
        }
        return r;
}

static int take_cpus(collection *c, const json_t *value) {
        const char *path = text_of(json_array_get(value, 0), "qom-path");

        if (!path)
                return -EBADMSG;
        c->cpu_path = strdup(path);
        return c->cpu_path ? 0 : -ENOMEM;
}

static int take_cpu(collection *c, const json_t *value) {
        return take_type(value, "-x86_64-cpu", c->store->cpu);
}

/* What the guest's CPUID says; all-zero words are those that an older QEMU does not list. */
static int take_words(collection *c, const json_t *value) {
        int r = 0;

        for (size_t i = 0; i < json_array_size(value) && r == 0; i++) {
                const json_t *word = json_array_get(value, i);
                json_int_t bits = json_integer_value(json_object_get(word, "features"));
                const char *reg = text_of(word, "cpuid-register");

                if (bits != 0 && reg)
                        r = list_add(&c->store->words, "%08x/%x:%s %08x",
                                     (unsigned)json_integer_value(
                                             json_object_get(word, "cpuid-input-eax")),
                                     (unsigned)json_integer_value(
                                             json_object_get(word, "cpuid-input-ecx")),
                                     reg, (unsigned)bits);
        }
        return r;
}

static int take_expansion(collection *c, const json_t *value) {
        static const char *const numbers[] = { "family", "min-level", "min-xlevel", "model",
                                               "stepping" };
        json_t *props = json_object_get(json_object_get(value, "model"), "props"), *on;
        list *features = &c->store->features;
        const char *name;
        int r = 0;

        if (!json_is_object(props))
                return -EBADMSG;
        json_object_foreach(props, name, on) if (r == 0 && json_is_true(on)) r =
                list_add(features, "%s", name);
        for (size_t i = 0; i < ELEMENTS(numbers) && r == 0; i++)
                r = list_add(features, "%s=%" JSON_INTEGER_FORMAT, numbers[i],
                             json_integer_value(json_object_get(props, numbers[i])));
        return r;
}

/* An expansion tells what the model has; this, what the accelerator cannot give of it. */
static int take_unavailable(collection *c, const json_t *value) {
        for (size_t i = 0; i < json_array_size(value); i++) {
                const char *name = json_string_value(json_array_get(value, i));

                if (name)
                        list_drop(&c->store->features, name);
        }
        return 0;
}

static json_t *cpu_property(const collection *c, const char *property) {
        return json_pack("{s:s, s:s}", "path", c->cpu_path, "property", property);
}

static json_t *ask_machine(const collection *c) {
        return json_pack("{s:s, s:s}", "path", "/machine", "property", "type");
}

static json_t *ask_devices(const collection *c) {
        return json_pack("{s:s}", "path", "/machine/peripheral");
}

static json_t *ask_cpu(const collection *c) {
        return cpu_property(c, "type");
}

static json_t *ask_words(const collection *c) {
        return cpu_property(c, "feature-words");
}

static json_t *ask_unavailable(const collection *c) {
        return cpu_property(c, "unavailable-features");
}

/* "full" has an alias or two of each feature besides, and QEMU's own switches, which come and go
 * with its versions. */
static json_t *ask_expansion(const collection *c) {
        return json_pack("{s:s, s:{s:s}}", "type", "static", "model", "name", c->store->cpu);
}

static const struct {
        const char *command;
        json_t *(*ask)(const collection *c); /* NULL: no arguments */
        int (*take)(collection *c, const json_t *value);
} steps[] = {
        { "query-kvm", NULL, take_kvm },
        { "qom-get", ask_machine, take_machine },
        { "qom-list", ask_devices, take_devices },
        { "query-pci", NULL, take_pci },
        { "query-memdev", NULL, take_memory },
        { "query-migrate-capabilities", NULL, take_capabilities },
        { "query-cpus-fast", NULL, take_cpus },
        { "qom-get", ask_cpu, take_cpu },
        { "qom-get", ask_words, take_words },
        { "query-cpu-model-expansion", ask_expansion, take_expansion },
        { "qom-get", ask_unavailable, take_unavailable },
};

static void end(collection *c_consume, int r, const ferry_error *error) {
        _cleanup_(collection_freep) collection *c = c_consume;

        if (r == 0)
                c->done(0, NULL, TAKE_PTR(c->store), c->userdata);
        else
                c->done(r, error, NULL, c->userdata);
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata);

static int ask_next(collection *c) {
        json_t *arguments = NULL;

        if (steps[c->step].ask) {
                arguments = steps[c->step].ask(c);
                if (!arguments)
                        return -ENOMEM;
        }
        return qmp_client_invoke(c->client, steps[c->step].command, arguments, c->timeout_usec,
                                 on_answer, c);
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        collection *c = userdata;
        const char *command = steps[c->step].command;

        if (r == 0 && refused)
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                    "QEMU refused %s: %s", command, refused->description);
        else if (r == 0) {
                r = steps[c->step].take(c, value);
                if (r == -EBADMSG)
                        ferry_error_set(&error, FERRY_INTERNAL, r,
                                        "QEMU's answer to %s is not understood", command);
                else if (r == 0 && ++c->step < ELEMENTS(steps)) {
                        r = ask_next(c);
                        if (r == 0)
                                return;
                }
        }
        if (r < 0 && !error.code)
                ferry_error_set_errno(&error, r, "QEMU's answer to %s", command);
        end(c, r, r < 0 ? &error : NULL);
}

static void set_version(vm_facts_store *store, const qmp_version *v) {
        snprintf(store->version, sizeof(store->version), "%u.%u.%u%s%s", v->major, v->minor,
                 v->micro, v->package[0] ? " " : "", v->package);
}

int vm_facts_collect(qmp_client *client, uint64_t timeout_usec, vm_facts_collected done,
                     void *userdata) {
        const qmp_version *version = qmp_client_get_version(client);
        _cleanup_(collection_freep) collection *c = calloc(1, sizeof(*c));
        int r;

        if (!version)
                return -EBUSY;
        if (!c)
                return -ENOMEM;
        *c = (collection){
                .client = client, .timeout_usec = timeout_usec, .done = done, .userdata = userdata
        };
        c->store = calloc(1, sizeof(*c->store));
        if (!c->store)
                return -ENOMEM;
        set_version(c->store, version);
        r = ask_next(c);
        if (r == 0)
                c = NULL; /* the answer's now */
        return r;
}

/* --- cache --- */

static json_t *list_to_json(const vm_fact_list *l) {
        json_t *array = json_array();

        for (size_t i = 0; array && i < l->n; i++)
                (void)json_array_append_new(array, json_string(l->items[i]));
        return array;
}

json_t *vm_facts_to_json(const vm_facts *f) {
        return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "qemu", f->qemu_version,
                         "machine", f->machine, "cpu", f->cpu_model, "accelerator", f->accelerator,
                         "devices", list_to_json(&f->devices), "features",
                         list_to_json(&f->cpu_features), "words", list_to_json(&f->cpu_words),
                         "ram", list_to_json(&f->ram), "capabilities",
                         list_to_json(&f->capabilities));
}

static int list_from_json(const json_t *root, const char *key, list *ret) {
        const json_t *array = json_object_get(root, key);
        int r = json_is_array(array) ? 0 : -EBADMSG;

        for (size_t i = 0; i < json_array_size(array) && r == 0; i++) {
                const char *item = json_string_value(json_array_get(array, i));

                r = item ? list_add(ret, "%s", item) : -EBADMSG;
        }
        return r;
}

static int text_from_json(const json_t *root, const char *key, char *ret, size_t size) {
        const char *text = text_of(root, key);

        if (!text || strlen(text) >= size)
                return -EBADMSG;
        strcpy(ret, text);
        return 0;
}

int vm_facts_from_json(const json_t *json, vm_facts_store **ret) {
        _cleanup_(vm_facts_store_freep) vm_facts_store *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        r = text_from_json(json, "qemu", s->version, sizeof(s->version));
        if (r == 0)
                r = text_from_json(json, "machine", s->machine, sizeof(s->machine));
        if (r == 0)
                r = text_from_json(json, "cpu", s->cpu, sizeof(s->cpu));
        if (r == 0)
                r = text_from_json(json, "accelerator", s->accelerator, sizeof(s->accelerator));
        if (r == 0)
                r = list_from_json(json, "devices", &s->devices);
        if (r == 0)
                r = list_from_json(json, "features", &s->features);
        if (r == 0)
                r = list_from_json(json, "words", &s->words);
        if (r == 0)
                r = list_from_json(json, "ram", &s->ram);
        if (r == 0)
                r = list_from_json(json, "capabilities", &s->capabilities);
        if (r == 0)
                *ret = TAKE_PTR(s);
        return r;
}
