/* SPDX-License-Identifier: MIT */
#include "vm/vm-config.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

#include <jansson.h>

#include "base/fd.h"
#include "vm/vm-config-internal.h"

#define MEMORY_DEFAULT 256U
#define IFNAME_MAX     15U
#define DEPTH_MAX      8U

static const char *const accelerator_names[_VM_ACCELERATOR_MAX] = {
        [VM_ACCELERATOR_AUTO] = "auto",
        [VM_ACCELERATOR_KVM] = "kvm",
        [VM_ACCELERATOR_TCG] = "tcg",
};

uint64_t vm_config_memory_bytes(const vm_config *config) {
        uint64_t bytes = (uint64_t)config->memory_mb << 20;

        return config->accelerator == VM_ACCELERATOR_TCG ? bytes - 8192 : bytes;
}

const char *vm_accelerator_to_string(vm_accelerator accelerator) {
        return accelerator_names[accelerator];
}

vm_config *vm_config_free(vm_config *config) {
        if (!config)
                return NULL;
        for (size_t i = 0; i < config->n_disks; i++)
                vm_config_disk_done(&config->disks[i]);
        free(config->disks);
        free(config->kernel);
        free(config->initrd);
        free(config->cmdline);
        free(config->cpu);
        free(config->machine);
        free(config->qemu);
        free(config);
        return NULL;
}

int config_refuse(ferry_error *reterr, const char *field, const char *what) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "VM configuration: %s: %s",
                               field, what);
}

int config_no_memory(ferry_error *reterr) {
        return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOMEM, "out of memory");
}

int config_check_fields(const json_t *object, const char *where, const char *const *names,
                        size_t n_names, ferry_error *reterr) {
        const char *key;
        json_t *value;

        json_object_foreach((json_t *)object, key, value) {
                bool known = false;

                for (size_t i = 0; i < n_names && !known; i++)
                        known = strcmp(key, names[i]) == 0;
                if (!known)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "VM configuration: %s%.64s: no such field", where,
                                               key);
        }
        return 0;
}

int config_read_uint(const json_t *object, const char *key, const char *field, uint32_t min,
                     uint32_t max, uint32_t *ret, ferry_error *reterr) {
        const json_t *value = json_object_get(object, key);

        if (!value)
                return 0;
        if (!json_is_integer(value) || json_integer_value(value) < min ||
            json_integer_value(value) > max)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "VM configuration: %s: must be a number from %u to %u",
                                       field, min, max);
        *ret = (uint32_t)json_integer_value(value);
        return 0;
}

int config_check_path(const char *path, const char *field, ferry_error *reterr) {
        if (path[0] != '/')
                return config_refuse(reterr, field, "must be an absolute path");
        if (strlen(path) > VM_CONFIG_PATH_MAX)
                return config_refuse(reterr, field, "the path is too long");
        for (const char *c = path; *c; c++)
                if ((unsigned char)*c < ' ')
                        return config_refuse(reterr, field, "control characters in the path");
        return 0;
}

int config_read_string(const json_t *object, const char *key, const char *field, size_t max,
                       char **ret, ferry_error *reterr) {
        const json_t *value = json_object_get(object, key);
        char *copy;

        if (!value || json_is_null(value))
                return 0;
        if (!json_is_string(value))
                return config_refuse(reterr, field, "must be a string");
        if (json_string_length(value) > max)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "VM configuration: %s: longer than %zu bytes", field, max);
        copy = strdup(json_string_value(value));
        if (!copy)
                return config_no_memory(reterr);
        free(*ret);
        *ret = copy;
        return 0;
}

static int read_path(const json_t *object, const char *key, const char *field, char **ret,
                     ferry_error *reterr) {
        int r;

        r = config_read_string(object, key, field, VM_CONFIG_PATH_MAX, ret, reterr);
        if (r < 0 || !*ret)
                return r;
        return config_check_path(*ret, field, reterr);
}

/* A name that becomes a part of a QEMU option: no comma, no '=' and the like. */
static bool is_option_word(const char *text) {
        if (!isalnum((unsigned char)text[0]))
                return false;
        for (const char *c = text; *c; c++)
                if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
                        return false;
        return true;
}

static bool is_ifname(const char *name) {
        if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
                return false;
        for (const char *c = name; *c; c++)
                if (*c <= ' ' || *c >= 0x7f || *c == '/' || *c == ':' || *c == '%')
                        return false;
        return true;
}

static int read_ifname(const json_t *object, const char *key, const char *field, char ret[16],
                       ferry_error *reterr) {
        _cleanup_(freep) char *name = NULL;
        int r;

        r = config_read_string(object, key, field, IFNAME_MAX, &name, reterr);
        if (r < 0 || !name)
                return r;
        if (!is_ifname(name))
                return config_refuse(reterr, field, "not a network interface name");
        strcpy(ret, name);
        return 0;
}

static int make_mac(char ret[18], ferry_error *reterr) {
        uint8_t random[3];

        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "no random numbers");
        /* QEMU's own prefix, locally administered */
        snprintf(ret, 18, "52:54:00:%02x:%02x:%02x", random[0], random[1], random[2]);
        return 0;
}

static int read_mac(const json_t *network, char ret[18], ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = config_read_string(network, "mac", "network.mac", 17, &text, reterr);
        if (r < 0)
                return r;
        if (!text)
                return make_mac(ret, reterr);
        for (size_t i = 0; i < 17; i++)
                if (i % 3 == 2 ? text[i] != ':' : !isxdigit((unsigned char)text[i]))
                        return config_refuse(reterr, "network.mac",
                                             "must look like 52:54:00:12:34:56");
        for (size_t i = 0; i < 18; i++)
                ret[i] = (char)tolower((unsigned char)text[i]);
        if (strtoul((char[]){ ret[0], ret[1], '\0' }, NULL, 16) & 1)
                return config_refuse(reterr, "network.mac", "is a multicast address");
        if (strcmp(ret, "00:00:00:00:00:00") == 0)
                return config_refuse(reterr, "network.mac", "is zero");
        return 0;
}

static int read_network(const json_t *root, vm_config *config, ferry_error *reterr) {
        static const char *const fields[] = { "bridge", "mac", "tap" };
        const json_t *network = json_object_get(root, "network");
        int r;

        if (!network || json_is_null(network))
                return 0;
        if (!json_is_object(network))
                return config_refuse(reterr, "network", "must be an object or null");
        r = config_check_fields(network, "network.", fields, ELEMENTS(fields), reterr);
        if (r < 0)
                return r;
        config->has_network = true;
        r = read_ifname(network, "bridge", "network.bridge", config->bridge, reterr);
        if (r < 0)
                return r;
        r = read_ifname(network, "tap", "network.tap", config->tap, reterr);
        if (r < 0)
                return r;
        return read_mac(network, config->mac, reterr);
}

static int read_boot(const json_t *root, vm_config *config, ferry_error *reterr) {
        int r;

        r = read_path(root, "kernel", "kernel", &config->kernel, reterr);
        if (r < 0)
                return r;
        r = read_path(root, "initrd", "initrd", &config->initrd, reterr);
        if (r < 0)
                return r;
        r = config_read_string(root, "cmdline", "cmdline", VM_CONFIG_CMDLINE_MAX, &config->cmdline,
                               reterr);
        if (r < 0)
                return r;
        if (config->kernel)
                return 0;
        if (config->initrd)
                return config_refuse(reterr, "initrd", "needs a kernel");
        if (config->cmdline[0] != '\0')
                return config_refuse(reterr, "cmdline", "needs a kernel");
        return 0;
}

/* "q35" and "pc" mean another machine in each QEMU: only a name that ends in a version will do. */
static bool is_versioned_machine(const char *name) {
        const char *version = strrchr(name, '-');
        bool dot = false;

        if (!is_option_word(name) || !version || !isdigit((unsigned char)version[1]))
                return false;
        for (const char *c = version + 1; *c; c++) {
                if (!isdigit((unsigned char)*c) && *c != '.')
                        return false;
                dot = dot || *c == '.';
        }
        return dot;
}

static int read_machine(const json_t *root, vm_config *config, ferry_error *reterr) {
        const json_t *accelerator = json_object_get(root, "accelerator");
        int r;

        if (accelerator) {
                const char *name = json_string_value(accelerator);
                size_t i = 0;

                while (i < _VM_ACCELERATOR_MAX &&
                       (!name || strcmp(name, accelerator_names[i]) != 0))
                        i++;
                if (i == _VM_ACCELERATOR_MAX)
                        return config_refuse(reterr, "accelerator",
                                             "must be \"auto\", \"kvm\" or \"tcg\"");
                config->accelerator = (vm_accelerator)i;
        }
        r = config_read_string(root, "cpu", "cpu", VM_CONFIG_NAME_MAX, &config->cpu, reterr);
        if (r < 0)
                return r;
        if (config->cpu && !is_option_word(config->cpu))
                return config_refuse(reterr, "cpu", "must be the name of a CPU model");
        if (config->cpu && (strcmp(config->cpu, "host") == 0 || strcmp(config->cpu, "max") == 0))
                return config_refuse(reterr, "cpu",
                                     "\"host\" and \"max\" differ between hosts: name a model");
        r = config_read_string(root, "machine", "machine", VM_CONFIG_NAME_MAX, &config->machine,
                               reterr);
        if (r < 0)
                return r;
        if (!is_versioned_machine(config->machine) ||
            strncmp(config->machine, "pc-q35-", strlen("pc-q35-")) != 0)
                return config_refuse(reterr, "machine",
                                     "must be a versioned q35 machine such as \"pc-q35-7.2\"");
        r = config_read_string(root, "qemu", "qemu", VM_CONFIG_PATH_MAX, &config->qemu, reterr);
        if (r < 0)
                return r;
        if (strchr(config->qemu, '/'))
                return config_check_path(config->qemu, "qemu", reterr);
        if (!is_option_word(config->qemu))
                return config_refuse(reterr, "qemu",
                                     "must be an absolute path or a program's name");
        return 0;
}

static int read_flag(const json_t *root, const char *field, bool *ret, ferry_error *reterr) {
        const json_t *value = json_object_get(root, field);

        if (value && !json_is_boolean(value))
                return config_refuse(reterr, field, "must be true or false");
        *ret = json_is_true(value);
        return 0;
}

static int read_config(const json_t *root, vm_config *config, ferry_error *reterr) {
        static const char *const fields[] = {
                "accelerator", "agent",     "cmdline", "cpu",  "disks", "initrd", "kernel",
                "machine",     "memory_mb", "network", "qemu", "scsi",  "vcpus",
        };
        int r;

        r = config_check_fields(root, "", fields, ELEMENTS(fields), reterr);
        if (r < 0)
                return r;
        r = config_read_uint(root, "memory_mb", "memory_mb", VM_CONFIG_MEMORY_MIN,
                             VM_CONFIG_MEMORY_MAX, &config->memory_mb, reterr);
        if (r < 0)
                return r;
        r = config_read_uint(root, "vcpus", "vcpus", 1, VM_CONFIG_VCPUS_MAX, &config->vcpus,
                             reterr);
        if (r < 0)
                return r;
        r = read_boot(root, config, reterr);
        if (r < 0)
                return r;
        r = read_flag(root, "scsi", &config->scsi, reterr);
        if (r < 0)
                return r;
        r = config_read_disks(root, config, reterr);
        if (r < 0)
                return r;
        r = read_network(root, config, reterr);
        if (r < 0)
                return r;
        r = read_flag(root, "agent", &config->agent, reterr);
        if (r < 0)
                return r;
        return read_machine(root, config, reterr);
}

/* jansson's parser recurses: a flood of brackets must not eat the stack. */
static bool is_shallow(const char *text, size_t n) {
        unsigned depth = 0;
        bool in_string = false;

        for (size_t i = 0; i < n; i++)
                if (in_string) {
                        if (text[i] == '\\')
                                i++;
                        else if (text[i] == '"')
                                in_string = false;
                } else if (text[i] == '"')
                        in_string = true;
                else if (text[i] == '{' || text[i] == '[') {
                        if (++depth > DEPTH_MAX)
                                return false;
                } else if ((text[i] == '}' || text[i] == ']') && depth > 0)
                        depth--;
        return true;
}

int vm_config_parse(const char *text, size_t n, vm_config **ret, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        _cleanup_(json_decrefp) json_t *root = NULL;
        json_error_t where;
        int r;

        if (n > VM_CONFIG_TEXT_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EFBIG,
                                       "VM configuration: larger than %u bytes",
                                       VM_CONFIG_TEXT_MAX);
        if (!is_shallow(text, n))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "VM configuration: nested too deeply");
        root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
        if (!root)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "VM configuration: line %d: %s", where.line, where.text);
        if (!json_is_object(root))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "VM configuration: must be a JSON object");
        config = malloc(sizeof(*config));
        if (!config)
                return config_no_memory(reterr);
        *config = (vm_config){
                .memory_mb = MEMORY_DEFAULT,
                .vcpus = 1,
                .cmdline = strdup(""),
                .machine = strdup(VM_CONFIG_MACHINE_DEFAULT),
                .qemu = strdup(VM_CONFIG_QEMU_DEFAULT),
        };
        if (!config->cmdline || !config->machine || !config->qemu)
                return config_no_memory(reterr);
        r = read_config(root, config, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(config);
        return 0;
}

int vm_config_read(const char *path, vm_config **ret, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r;

        r = file_read(AT_FDCWD, path, VM_CONFIG_TEXT_MAX, &text, &n);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "VM configuration %s", path);
        r = vm_config_parse(text, n, ret, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "%s", path);
        return 0;
}

static json_t *string_or_null(const char *text) {
        return text ? json_string(text) : json_null();
}

static json_t *name_or_null(const char *text) {
        return string_or_null(text[0] != '\0' ? text : NULL);
}

static json_t *format_network(const vm_config *config) {
        if (!config->has_network)
                return json_null();
        return json_pack("{s:o, s:o, s:s}", "bridge", name_or_null(config->bridge), "tap",
                         name_or_null(config->tap), "mac", config->mac);
}

int vm_config_format(const vm_config *config, char **ret) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        char *text;

        root = json_pack("{s:I, s:I, s:o, s:o, s:s, s:o, s:o, s:s, s:o, s:s, s:s}", "memory_mb",
                         (json_int_t)config->memory_mb, "vcpus", (json_int_t)config->vcpus,
                         "kernel", string_or_null(config->kernel), "initrd",
                         string_or_null(config->initrd), "cmdline", config->cmdline, "disks",
                         config_format_disks(config), "network", format_network(config),
                         "accelerator", accelerator_names[config->accelerator], "cpu",
                         string_or_null(config->cpu), "machine", config->machine, "qemu",
                         config->qemu);
        /* absent when off, so that a ferry that does not know the fields takes the rest */
        if (!root || (config->agent && json_object_set_new(root, "agent", json_true()) < 0) ||
            (config->scsi && json_object_set_new(root, "scsi", json_true()) < 0))
                return -ENOMEM;
        text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
        if (!text)
                return -ENOMEM;
        *ret = text;
        return 0;
}

int vm_config_dup(const vm_config *config, vm_config **ret) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = vm_config_format(config, &text);
        if (r < 0)
                return r;
        return vm_config_parse(text, strlen(text), ret, NULL);
}
