/* SPDX-License-Identifier: MIT */
#include "cli/host.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/sandbox.h"

#define HOST_FILE     "host.json"
#define HOST_FILE_MAX 4096U
#define NAME_MAX_LEN  63U

#define N_FIELDS 8U
static const char *const host_fields[N_FIELDS] = { "name", "netns",     "address",    "bridge",
                                                   "qemu", "disk_root", "containerd", "cache_dir" };

/* In the fields' order. */
static host_values to_values(const char *const texts[N_FIELDS]) {
        return (host_values){ .name = texts[0],
                              .netns = texts[1],
                              .address = texts[2],
                              .bridge = texts[3],
                              .qemu = texts[4],
                              .disk_root = texts[5],
                              .containerd = texts[6],
                              .cache_dir = texts[7] };
}

static int refuse(ferry_error *reterr, const char *field, const char *text) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s: %s", field, text);
}

/* A file name below /run/netns and a word in a message: nothing that could lead elsewhere. */
static bool is_name(const char *text) {
        size_t n = strlen(text);

        if (n == 0 || n > NAME_MAX_LEN || text[0] == '.' || text[0] == '-')
                return false;
        return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
               n;
}

static bool is_address(const char *text) {
        unsigned char binary[sizeof(struct in6_addr)];

        return inet_pton(AF_INET, text, binary) == 1 || inet_pton(AF_INET6, text, binary) == 1;
}

static int check(const host_values *v, ferry_error *reterr) {
        if (!v->name)
                return refuse(reterr, "name", "is missing");
        if (!is_name(v->name))
                return refuse(reterr, "name", "must be letters, digits, '-', '_' and '.'");
        if (v->netns && !is_name(v->netns))
                return refuse(reterr, "netns", "must be the name of a namespace in /run/netns");
        if (v->address && !is_address(v->address))
                return refuse(reterr, "address", "must be an IPv4 or IPv6 address");
        if (v->bridge && (!is_name(v->bridge) || strlen(v->bridge) >= IFNAMSIZ))
                return refuse(reterr, "bridge", "must be the name of a network interface");
        if (v->qemu && v->qemu[0] != '/')
                return refuse(reterr, "qemu", "must be the absolute path of a program");
        if (v->disk_root && v->disk_root[0] != '/')
                return refuse(reterr, "disk_root", "must be an absolute path");
        if (v->containerd && v->containerd[0] != '/')
                return refuse(reterr, "containerd", "must be the absolute path of its socket");
        if (v->cache_dir && v->cache_dir[0] != '/')
                return refuse(reterr, "cache_dir", "must be an absolute path");
        return 0;
}

host *host_free(host *h) {
        if (!h)
                return NULL;
        free(h->root);
        free(h->name);
        free(h->netns);
        free(h->address);
        free(h->bridge);
        free(h->qemu);
        free(h->disk_root);
        free(h->containerd);
        free(h->cache_dir);
        free(h);
        return NULL;
}

static int copy(const char *text, char **ret) {
        if (!text)
                return 0;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

static int host_new(const char *root, const host_values *v, bool is_set, host **ret) {
        _cleanup_(host_freep) host *h = calloc(1, sizeof(*h));

        if (!h)
                return -ENOMEM;
        h->is_set = is_set;
        if (copy(root, &h->root) < 0 || copy(v->name, &h->name) < 0 ||
            copy(v->netns, &h->netns) < 0 ||
            copy(v->address ? v->address : "127.0.0.1", &h->address) < 0 ||
            copy(v->bridge, &h->bridge) < 0 || copy(v->qemu, &h->qemu) < 0 ||
            copy(v->disk_root, &h->disk_root) < 0 || copy(v->containerd, &h->containerd) < 0 ||
            copy(v->cache_dir ? v->cache_dir : HOST_CACHE_DIR, &h->cache_dir) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(h);
        return 0;
}

static int host_parse(const char *root, const char *text, size_t n, host **ret,
                      ferry_error *reterr) {
        const char *texts[N_FIELDS] = { NULL };
        json_error_t where;
        host_values values;
        json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where), *value;
        const char *key;
        int r = 0;

        if (!json)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "line %d: %s",
                                       where.line, where.text);
        if (!json_is_object(json))
                r = refuse(reterr, HOST_FILE, "must be an object");
        json_object_foreach(json, key, value) {
                size_t i = 0;

                while (i < ELEMENTS(host_fields) && strcmp(key, host_fields[i]) != 0)
                        i++;
                if (i == ELEMENTS(host_fields))
                        r = refuse(reterr, key, "is no field of a host");
                else if (json_is_string(value))
                        texts[i] = json_string_value(value);
                else if (!json_is_null(value))
                        r = refuse(reterr, key, "must be a string or null");
                if (r < 0)
                        break;
        }
        values = to_values(texts);
        if (r == 0)
                r = check(&values, reterr);
        if (r == 0) {
                r = host_new(root, &values, true, ret);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "host");
        }
        json_decref(json);
        return r;
}

int host_read(const char *root, host **ret, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        size_t n;
        int r;

        if (asprintf(&path, "%s/" HOST_FILE, root) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        r = file_read(AT_FDCWD, path, HOST_FILE_MAX, &text, &n);
        if (r == -ENOENT || r == -ENOTDIR) {
                r = host_new(root, &(host_values){ .name = "this host" }, false, ret);
                return r < 0 ? ferry_error_set_errno(reterr, r, "host") : 0;
        }
        if (r == -EACCES && geteuid() != 0)
                return ferry_error_set(reterr, FERRY_PERMISSION_DENIED, r,
                                       "%s is another user's: take a --root of your own, or become "
                                       "root",
                                       root);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", path);
        r = host_parse(root, text, n, ret, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r,
                                          "%s is damaged (`ferry host set` writes it anew)", path)
                     : 0;
}

static json_t *text_or_null(const char *text) {
        return text ? json_string(text) : json_null();
}

static json_t *to_json(const host_values *v) {
        return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name", v->name, "netns",
                         text_or_null(v->netns), "address", text_or_null(v->address), "bridge",
                         text_or_null(v->bridge), "qemu", text_or_null(v->qemu), "disk_root",
                         text_or_null(v->disk_root), "containerd", text_or_null(v->containerd),
                         "cache_dir", text_or_null(v->cache_dir));
}

int host_to_json(const host *h, json_t **ret) {
        *ret = to_json(&(host_values){ .name = h->name,
                                       .netns = h->netns,
                                       .address = h->address,
                                       .bridge = h->bridge,
                                       .qemu = h->qemu,
                                       .disk_root = h->disk_root,
                                       .containerd = h->containerd,
                                       .cache_dir = h->cache_dir });
        return *ret ? 0 : -ENOMEM;
}

int host_write(const char *root, const host_values *values, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        json_t *json;
        int r;

        r = check(values, reterr);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/" HOST_FILE, root) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        json = to_json(values);
        text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
        json_decref(json);
        if (!text)
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        if (mkdir(root, 0700) < 0 && errno != EEXIST)
                return sandbox_cannot_make(root, reterr);
        r = file_replace(AT_FDCWD, path, text, strlen(text), 0600, false);
        return r < 0 ? ferry_error_set_errno(reterr, r, "cannot write %s", path) : 0;
}
