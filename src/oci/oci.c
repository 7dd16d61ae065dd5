/* SPDX-License-Identifier: MIT */
#include "oci/oci.h"

#include <string.h>

#include <jansson.h>

#define MOUNTS_MAX      256U
#define SOURCE_MAX      4095U
#define SHARED_NAME_MAX 63U     /* as Kubernetes has it */
#define VERSION         "1.0.2" /* of the specification, that Debian 12's crun takes */

/* ---- helpers ---- */

static int invalid(ferry_error *reterr, const char *what) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "config.json: %s", what);
}

static void note(oci_config *c, const char *what, const char *why) {
        if (c->n_notes == OCI_NOTES_MAX)
                return;
        if (asprintf(&c->notes[c->n_notes], "%.200s: %s", what, why) >= 0)
                c->n_notes++;
}

static void drop(oci_config *c, json_t *object, const char *key, const char *why) {
        if (!json_object_get(object, key))
                return;
        note(c, key, why);
        (void)json_object_del(object, key);
}

static json_t *load(const char *text, size_t n, ferry_error *reterr) {
        json_error_t at;
        json_t *json;

        if (n > OCI_TEXT_MAX) {
                ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EFBIG,
                                "config.json: more than %u bytes", OCI_TEXT_MAX);
                return NULL;
        }
        json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
        if (json_is_object(json))
                return json;
        json_decref(json);
        ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "config.json: line %d: %s",
                        at.line, json ? "no object" : at.text);
        return NULL;
}

static const char *text_of(const json_t *object, const char *key) {
        const char *text = json_string_value(json_object_get(object, key));

        return text ? text : "";
}

/* ---- parts ---- */

static void translate_process(oci_config *c, json_t *process) {
        drop(c, process, "apparmorProfile", "the guest has no AppArmor");
        drop(c, process, "selinuxLabel", "the guest has no SELinux");
        c->terminal = json_is_true(json_object_get(process, "terminal"));
}

static bool has_option(const json_t *mount, const char *option) {
        json_t *value;
        size_t i;

        json_array_foreach(json_object_get(mount, "options"), i, value) {
                const char *text = json_string_value(value);

                if (text && strcmp(text, option) == 0)
                        return true;
        }
        return false;
}

static bool is_bind(const json_t *mount) {
        return strcmp(text_of(mount, "type"), "bind") == 0 || has_option(mount, "bind") ||
               has_option(mount, "rbind");
}

/* A pod's shared memory is a folder of the host's; in the guest each container has its own. */
static int make_shm(json_t *mount) {
        return json_object_set_new(mount, "type", json_string("tmpfs")) < 0 ||
                               json_object_set_new(mount, "source", json_string("shm")) < 0 ||
                               json_object_set_new(mount, "options",
                                                   json_pack("[s, s, s, s]", "nosuid", "noexec",
                                                             "nodev", "mode=1777")) < 0
                       ? -ENOMEM
                       : 0;
}

static bool is_shm(const char *target) {
        size_t n = strlen("/dev/shm");

        return strncmp(target, "/dev/shm", n) == 0 && strspn(target + n, "/") == strlen(target + n);
}

const char *oci_shared_name(const char *source) {
        static const char mark[] = "/kubernetes.io~empty-dir/";
        const char *at = strstr(source, mark), *name = at ? at + strlen(mark) : "";
        size_t n = strlen(name);

        return n > 0 && n <= SHARED_NAME_MAX && name[0] != '.' &&
                               strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == n
                       ? name
                       : NULL;
}

static int translate_bind(oci_config *c, json_t *mount, const oci_options *options,
                          ferry_error *reterr) {
        const char *source = text_of(mount, "source"), *target = text_of(mount, "destination"),
                   *shared;
        char *path;
        int r;

        if (source[0] != '/' || strlen(source) > SOURCE_MAX)
                return invalid(reterr, "a bind mount without an absolute source");
        if (is_shm(target)) {
                note(c, source, "/dev/shm is the container's own");
                return make_shm(mount);
        }
        if (c->n_files == OCI_FILES_MAX)
                return invalid(reterr, "more than 32 bind mounts");
        c->files[c->n_files] = strdup(source);
        if (!c->files[c->n_files])
                return -ENOMEM;
        shared = oci_shared_name(source);
        r = shared ? asprintf(&path, "%s/%s", options->shared_folder, shared)
                   : asprintf(&path, "%s/%zu", options->files_folder, c->n_files);
        c->n_files++;
        if (r < 0)
                return -ENOMEM;
        r = json_object_set_new(mount, "source", json_string(path)) < 0 ? -ENOMEM : 0;
        free(path);
        return r;
}

/* Whatever has a source of its own would have it in the guest, not on the host. */
static int check_type(const json_t *mount, ferry_error *reterr) {
        static const char *const known[] = { "proc",   "sysfs",  "tmpfs",  "devpts",
                                             "mqueue", "cgroup", "cgroup2" };
        const char *type = text_of(mount, "type");

        for (size_t i = 0; i < ELEMENTS(known); i++)
                if (strcmp(type, known[i]) == 0)
                        return 0;
        return ferry_error_set(
                reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                "config.json: the mount at %.200s is of type \"%.40s\", which a "
                "container in a VM cannot have: bind mounts of files and folders, and proc, "
                "sysfs, tmpfs, devpts, mqueue, cgroup",
                text_of(mount, "destination"), type);
}

static int translate_mount(oci_config *c, json_t *mount, const oci_options *options,
                           ferry_error *reterr) {
        if (!json_is_object(mount) || text_of(mount, "destination")[0] != '/')
                return invalid(reterr, "a mount without an absolute destination");
        drop(c, mount, "uidMappings", "the VM is what isolates");
        drop(c, mount, "gidMappings", "the VM is what isolates");
        if (is_bind(mount))
                return translate_bind(c, mount, options, reterr);
        return check_type(mount, reterr);
}

static int translate_mounts(oci_config *c, json_t *root, const oci_options *options,
                            ferry_error *reterr) {
        json_t *mounts = json_object_get(root, "mounts"), *mount;
        int r = 0;
        size_t i;

        if (mounts && (!json_is_array(mounts) || json_array_size(mounts) > MOUNTS_MAX))
                return invalid(reterr, "`mounts` is no array of at most 256");
        json_array_foreach(mounts, i, mount) {
                r = translate_mount(c, mount, options, reterr);
                if (r < 0)
                        break;
        }
        return r;
}

/* Namespaces of the host's mean nothing in the guest; the network is the whole guest's. */
static int translate_namespace(oci_config *c, const json_t *item, json_t *to, ferry_error *reterr) {
        static const char *const known[] = { "pid", "mount", "ipc", "uts", "cgroup", "time" };
        const char *type = text_of(item, "type");

        if (strcmp(type, "network") == 0) {
                free(c->network);
                c->network = strdup(text_of(item, "path"));
        }
        if (strcmp(type, "network") == 0 || strcmp(type, "user") == 0) {
                note(c, type, "this namespace is the guest's");
                return 0;
        }
        for (size_t i = 0; i < ELEMENTS(known); i++)
                if (strcmp(type, known[i]) == 0)
                        return json_array_append_new(to, json_pack("{s:s}", "type", type)) < 0
                                       ? -ENOMEM
                                       : 0;
        return invalid(reterr, "a namespace of no known type");
}

/* The guest's own are its agent's: nobody else is to be in them. */
static int add_missing(oci_config *c, json_t *to) {
        static const char *const needed[] = { "pid", "mount", "ipc", "uts" };

        for (size_t i = 0; i < ELEMENTS(needed); i++) {
                bool found = false;
                json_t *item;
                size_t k;

                json_array_foreach(to, k, item) found |=
                        strcmp(text_of(item, "type"), needed[i]) == 0;
                if (found)
                        continue;
                note(c, needed[i], "the container has this namespace for itself");
                if (json_array_append_new(to, json_pack("{s:s}", "type", needed[i])) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int translate_namespaces(oci_config *c, json_t *l, ferry_error *reterr) {
        json_t *from = json_object_get(l, "namespaces"), *to = json_array(), *item;
        int r = to ? 0 : -ENOMEM;
        size_t i;

        if (r == 0 && from && !json_is_array(from))
                r = invalid(reterr, "`namespaces` is no array");
        json_array_foreach(from, i, item) {
                if (r == 0)
                        r = translate_namespace(c, item, to, reterr);
        }
        if (r == 0)
                r = add_missing(c, to);
        if (r < 0) {
                json_decref(to);
                return r;
        }
        return json_object_set_new(l, "namespaces", to) < 0 ? -ENOMEM : 0;
}

/* Of the network's settings only a namespace of its own could have its own. */
static void translate_sysctl(oci_config *c, json_t *l) {
        json_t *all = json_object_get(l, "sysctl"), *value;
        const char *key;
        void *next;

        json_object_foreach_safe(all, next, key, value) {
                if (strncmp(key, "net.", 4) == 0)
                        drop(c, all, key, "the network is the whole guest's");
        }
}

/* What only cgroup v1 has. */
static void translate_resources(oci_config *c, json_t *resources) {
        static const char *const memory[] = { "kernel", "kernelTCP", "swappiness",
                                              "disableOOMKiller", "useHierarchy" };
        static const char *const cpu[] = { "realtimeRuntime", "realtimePeriod" };

        drop(c, resources, "devices", "the host's devices are not the guest's");
        drop(c, resources, "blockIO", "the host's disks are not the guest's");
        drop(c, resources, "network", "the network is the whole guest's");
        drop(c, resources, "rdma", "not in a VM");
        for (size_t i = 0; i < ELEMENTS(memory); i++)
                drop(c, json_object_get(resources, "memory"), memory[i], "only cgroup v1 has it");
        for (size_t i = 0; i < ELEMENTS(cpu); i++)
                drop(c, json_object_get(resources, "cpu"), cpu[i], "only cgroup v1 has it");
}

static int translate_linux(oci_config *c, json_t *root, const oci_options *options,
                           ferry_error *reterr) {
        static const char *const dropped[][2] = {
                { "devices", "the host's devices are not the guest's" },
                { "mountLabel", "the guest has no SELinux" },
                { "intelRdt", "not in a VM" },
                { "uidMappings", "the VM is what isolates" },
                { "gidMappings", "the VM is what isolates" },
                { "rootfsPropagation", "the root is the guest's" },
        };
        json_t *l = json_object_get(root, "linux"), *resources;
        int r;

        if (!l) {
                l = json_object();
                if (!l || json_object_set_new(root, "linux", l) < 0)
                        return -ENOMEM;
        }
        for (size_t i = 0; i < ELEMENTS(dropped); i++)
                drop(c, l, dropped[i][0], dropped[i][1]);
        resources = json_object_get(l, "resources");
        if (resources)
                translate_resources(c, resources);
        drop(c, json_object_get(l, "seccomp"), "listenerPath", "nobody listens in the guest");
        drop(c, json_object_get(l, "seccomp"), "listenerMetadata", "nobody listens in the guest");
        translate_sysctl(c, l);
        r = translate_namespaces(c, l, reterr);
        if (r == 0 && json_object_set_new(l, "cgroupsPath", json_string(options->cgroup)) < 0)
                r = -ENOMEM;
        return r;
}

/* ---- whole ---- */

static int translate(oci_config *c, json_t *root, const oci_options *options, ferry_error *reterr) {
        json_t *process = json_object_get(root, "process"), *at;
        bool readonly = json_is_true(json_object_get(json_object_get(root, "root"), "readonly"));
        int r;

        if (!json_is_object(process))
                return invalid(reterr, "no `process`");
        at = json_object_get(root, "linux");
        if (at && !json_is_object(at))
                return invalid(reterr, "`linux` is no object");
        /* the runtime refuses what is newer; what it does not know of that it passes over */
        if (json_object_set_new(root, "ociVersion", json_string(VERSION)) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "config.json");
        translate_process(c, process);
        drop(c, root, "hooks", "programs of the host do not run in the guest");
        r = translate_mounts(c, root, options, reterr);
        if (r == 0)
                r = translate_linux(c, root, options, reterr);
        if (r == 0 && json_object_set_new(root, "root",
                                          json_pack("{s:s, s:b}", "path", options->root, "readonly",
                                                    readonly)) < 0)
                r = -ENOMEM;
        if (r < 0)
                return r == -ENOMEM ? ferry_error_set_errno(reterr, r, "config.json") : r;
        c->text = json_dumps(root, JSON_COMPACT);
        return c->text ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "config.json");
}

int oci_translate(const char *text, size_t n, const oci_options *options, oci_config *ret,
                  ferry_error *reterr) {
        json_t *root = load(text, n, reterr);
        int r;

        *ret = (oci_config){ .n_files = 0 };
        if (!root)
                return n > OCI_TEXT_MAX ? -EFBIG : -EINVAL;
        r = translate(ret, root, options, reterr);
        json_decref(root);
        if (r < 0)
                oci_config_done(ret);
        return r;
}

void oci_config_done(oci_config *c) {
        free(c->text);
        free(c->network);
        for (size_t i = 0; i < c->n_files; i++)
                free(c->files[i]);
        for (size_t i = 0; i < c->n_notes; i++)
                free(c->notes[i]);
        *c = (oci_config){ .n_files = 0 };
}

int oci_translate_process(const char *text, size_t n, char **ret, ferry_error *reterr) {
        _cleanup_(oci_config_done) oci_config c = { .n_files = 0 };
        json_t *process = load(text, n, reterr);

        if (!process)
                return n > OCI_TEXT_MAX ? -EFBIG : -EINVAL;
        translate_process(&c, process);
        *ret = json_dumps(process, JSON_COMPACT);
        json_decref(process);
        return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "process");
}

char *oci_annotation(const char *text, size_t n, const char *key) {
        json_t *root = load(text, n, NULL);
        const char *value =
                json_string_value(json_object_get(json_object_get(root, "annotations"), key));
        char *copy = value ? strdup(value) : NULL;

        json_decref(root);
        return copy;
}

char *oci_network(const char *text, size_t n) {
        json_t *root = load(text, n, NULL), *item;
        char *copy = NULL;
        size_t i;

        json_array_foreach(json_object_get(json_object_get(root, "linux"), "namespaces"), i, item) {
                if (!copy && strcmp(text_of(item, "type"), "network") == 0)
                        copy = strdup(text_of(item, "path"));
        }
        json_decref(root);
        return copy;
}
