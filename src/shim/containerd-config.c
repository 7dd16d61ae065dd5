/* SPDX-License-Identifier: MIT */
#include "shim/containerd-config.h"

#include <fcntl.h>
#include <string.h>

#include <jansson.h>

#include "base/fd.h"
#include "rootfs/layer.h"
#include "rootfs/rootfs.h"
#include "vm/vm-config.h"

#define FILE_NAME        "/etc/ferry/containerd.json"
#define FILE_MAX         65536U
#define IMAGE_DEFAULT    "/var/lib/ferry/guest"
#define ROOT_DEFAULT     "/run/ferry-containerd"
#define CACHE_DEFAULT    "/var/cache/ferry/roots"
#define TEMPLATE_DEFAULT "/var/cache/ferry/templates"

/* FERRY_CONTAINERD_CONFIG, or NULL. */
static const char *given_path(void) {
        const char *given = getenv("FERRY_CONTAINERD_CONFIG");

        return given && given[0] ? given : NULL;
}

static const char *file_name(void) {
        const char *given = given_path();

        return given ? given : FILE_NAME;
}

static int set_text(const json_t *json, const char *key, const char *otherwise, bool is_path,
                    char **ret, ferry_error *reterr) {
        const json_t *value = json_object_get(json, key);
        const char *text = value ? json_string_value(value) : otherwise;

        if (!text || (is_path && text[0] != '/'))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s: %s: want %s",
                                       file_name(), key, is_path ? "an absolute path" : "a text");
        *ret = strdup(text);
        return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "%s", key);
}

static int set_number(const json_t *json, const char *key, json_int_t min, json_int_t max,
                      uint32_t *ret, ferry_error *reterr) {
        const json_t *value = json_object_get(json, key);

        if (!value)
                return 0;
        if (!json_is_integer(value) || json_integer_value(value) < min ||
            json_integer_value(value) > max)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: %s: want a number from %lld to %lld", file_name(), key,
                                       (long long)min, (long long)max);
        *ret = (uint32_t)json_integer_value(value);
        return 0;
}

static int set_switch(const json_t *json, const char *key, bool *ret, ferry_error *reterr) {
        const json_t *value = json_object_get(json, key);

        if (value && !json_is_boolean(value))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: %s: want true or false", FILE_NAME, key);
        *ret = json_is_true(value);
        return 0;
}

static int check_keys(json_t *json, ferry_error *reterr) {
        static const char *const known[] = { "image",     "root",     "cache_dir",   "cache_max_mb",
                                             "disk_root", "layer_mb", "accelerator", "memory_mb",
                                             "vcpus",     "template", "template_dir" };
        const char *key;
        json_t *value;

        json_object_foreach(json, key, value) {
                bool is_known = false;

                for (size_t i = 0; i < ELEMENTS(known); i++)
                        is_known |= strcmp(key, known[i]) == 0;
                if (!is_known)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "%s: unknown field %.64s", file_name(), key);
        }
        return 0;
}

static int load(json_t **ret, ferry_error *reterr) {
        const char *path = file_name();
        _cleanup_(freep) char *text = NULL;
        json_error_t at;
        size_t n;
        int r;

        r = file_read(AT_FDCWD, path, FILE_MAX, &text, &n);
        if (r == -ENOENT && !given_path()) {
                *ret = json_object();
                return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "%s", path);
        }
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", path);
        *ret = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
        if (json_is_object(*ret))
                return 0;
        json_decref(*ret);
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s: line %d: %s", path,
                               at.line, *ret ? "no object" : at.text);
}

int containerd_config_read(containerd_config **ret, ferry_error *reterr) {
        containerd_config *c;
        json_t *json = NULL;
        int r;

        r = load(&json, reterr);
        if (r < 0)
                return r;
        c = calloc(1, sizeof(*c));
        r = c ? check_keys(json, reterr) : ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        if (r == 0)
                r = set_text(json, "image", IMAGE_DEFAULT, true, &c->image, reterr);
        if (r == 0)
                r = set_text(json, "root", ROOT_DEFAULT, true, &c->root, reterr);
        if (r == 0)
                r = set_text(json, "cache_dir", CACHE_DEFAULT, true, &c->cache_dir, reterr);
        if (r == 0) {
                c->cache_max_mb = ROOTFS_CACHE_MB;
                r = set_number(json, "cache_max_mb", 0, ROOTFS_CACHE_MB_MAX, &c->cache_max_mb,
                               reterr);
        }
        if (r == 0 && json_object_get(json, "disk_root"))
                r = set_text(json, "disk_root", NULL, true, &c->disk_root, reterr);
        if (r == 0)
                r = set_number(json, "layer_mb", LAYER_MB_MIN, LAYER_MB_MAX, &c->layer_mb, reterr);
        if (r == 0)
                r = set_text(json, "accelerator", "auto", false, &c->accelerator, reterr);
        if (r == 0)
                r = set_number(json, "memory_mb", 1, VM_CONFIG_MEMORY_MAX, &c->memory_mb, reterr);
        if (r == 0)
                r = set_number(json, "vcpus", 1, VM_CONFIG_VCPUS_MAX, &c->vcpus, reterr);
        if (r == 0)
                r = set_switch(json, "template", &c->template, reterr);
        if (r == 0)
                r = set_text(json, "template_dir", TEMPLATE_DEFAULT, true, &c->template_dir,
                             reterr);
        json_decref(json);
        if (r < 0) {
                containerd_config_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

static int fill(json_t *vm, const containerd_config *c) {
        int r = 0;

        r |= json_object_set_new(vm, "agent", json_true());
        r |= json_object_set_new(vm, "scsi", json_true());
        r |= json_object_set_new(vm, "network", json_object());
        r |= json_object_set_new(vm, "accelerator", json_string(c->accelerator));
        if (c->memory_mb > 0)
                r |= json_object_set_new(vm, "memory_mb", json_integer(c->memory_mb));
        if (c->vcpus > 0)
                r |= json_object_set_new(vm, "vcpus", json_integer(c->vcpus));
        return r < 0 ? -ENOMEM : 0;
}

int containerd_config_vm(const containerd_config *c, char **ret, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *checked = NULL;
        _cleanup_(freep) char *path = NULL, *text = NULL, *filled = NULL;
        json_t *vm;
        size_t n;
        int r;

        if (asprintf(&path, "%s/vm.json", c->image) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "image");
        }
        r = file_read(AT_FDCWD, path, FILE_MAX, &text, &n);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, r,
                                       "%s: %s: make the guest's image by `ferry image build "
                                       "--containers --output %s`",
                                       path, strerror(-r), c->image);
        vm = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
        if (json_is_object(vm) && fill(vm, c) == 0)
                filled = json_dumps(vm, JSON_INDENT(2));
        json_decref(vm);
        if (!filled)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s is no configuration of a VM", path);
        r = vm_config_parse(filled, strlen(filled), &checked, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "%s", path);
        *ret = TAKE_PTR(filled);
        return 0;
}

char *containerd_config_templates(const containerd_config *c, const char *namespace) {
        char *path;

        return asprintf(&path, "%s/%s", c->template_dir, namespace) < 0 ? NULL : path;
}

containerd_config *containerd_config_free(containerd_config *c) {
        if (!c)
                return NULL;
        free(c->image);
        free(c->root);
        free(c->cache_dir);
        free(c->disk_root);
        free(c->accelerator);
        free(c->template_dir);
        free(c);
        return NULL;
}
