/* SPDX-License-Identifier: MIT */
#include "tls/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/fd.h"

#define FILE_NAME "/etc/ferry/tls.json"
#define FILE_MAX  65536U

static int bad(const tls_config *c, const char *key, const char *want, ferry_error *reterr) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s: %.64s: want %s",
                               c->path, key, want);
}

static int take_path(tls_config *c, const char *key, const json_t *value, char **ret,
                     ferry_error *reterr) {
        const char *text = json_string_value(value);

        if (!text || text[0] != '/')
                return bad(c, key, "an absolute path", reterr);
        *ret = strdup(text);
        return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "%s", c->path);
}

static int take_names(tls_config *c, const json_t *value, ferry_error *reterr) {
        if (!json_is_array(value) || json_array_size(value) == 0 ||
            json_array_size(value) > TLS_NAMES_MAX)
                return bad(c, "names", "a list of 1 to 64 names", reterr);
        for (size_t i = 0; i < json_array_size(value); i++) {
                const char *name = json_string_value(json_array_get(value, i));

                if (!name || name[0] == '\0' || strlen(name) > TLS_NAME_MAX)
                        return bad(c, "names", "names of hosts", reterr);
                c->names[i] = strdup(name);
                if (!c->names[i])
                        return ferry_error_set_errno(reterr, -ENOMEM, "%s", c->path);
                c->n_names = i + 1;
        }
        return 0;
}

static int take(tls_config *c, json_t *json, ferry_error *reterr) {
        const char *key;
        json_t *value;
        int r = 0;

        json_object_foreach(json, key, value) {
                if (strcmp(key, "require") == 0) {
                        if (!json_is_boolean(value))
                                return bad(c, key, "true or false", reterr);
                        c->require = json_is_true(value);
                } else if (strcmp(key, "certificate") == 0)
                        r = take_path(c, key, value, &c->certificate, reterr);
                else if (strcmp(key, "key") == 0)
                        r = take_path(c, key, value, &c->key, reterr);
                else if (strcmp(key, "ca") == 0)
                        r = take_path(c, key, value, &c->ca, reterr);
                else if (strcmp(key, "names") == 0)
                        r = take_names(c, value, reterr);
                else
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "%s: unknown field %.64s", c->path, key);
                if (r < 0)
                        return r;
        }
        return 0;
}

int tls_config_read(tls_config **ret, ferry_error *reterr) {
        const char *given = getenv("FERRY_TLS_CONFIG");
        bool is_given = given && given[0];
        _cleanup_(tls_config_freep) tls_config *c = calloc(1, sizeof(*c));
        _cleanup_(freep) char *text = NULL;
        json_error_t at;
        json_t *json;
        size_t n;
        int r;

        if (c)
                c->path = strdup(is_given ? given : FILE_NAME);
        if (!c || !c->path)
                return ferry_error_set_errno(reterr, -ENOMEM, FILE_NAME);
        r = file_read(AT_FDCWD, c->path, FILE_MAX, &text, &n);
        if (r == -ENOENT && !is_given) {
                *ret = TAKE_PTR(c);
                return 0;
        }
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", c->path);
        json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
        if (!json_is_object(json)) {
                r = ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "%s: line %d: %s",
                                    c->path, at.line, json ? "no object" : at.text);
                json_decref(json);
                return r;
        }
        r = take(c, json, reterr);
        json_decref(json);
        if (r == 0)
                *ret = TAKE_PTR(c);
        return r;
}

tls_config *tls_config_free(tls_config *c) {
        if (!c)
                return NULL;
        for (size_t i = 0; i < c->n_names; i++)
                free(c->names[i]);
        free(c->path);
        free(c->certificate);
        free(c->key);
        free(c->ca);
        free(c);
        return NULL;
}

static int check_files(const tls_config *c, ferry_error *reterr) {
        struct stat st;

        if (!c->certificate || !c->key || !c->ca)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                                       "encryption by certificates (x509) needs \"certificate\", "
                                       "\"key\" and \"ca\" in %s",
                                       c->path);
        if (stat(c->key, &st) < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -errno, "%s: %s", c->key,
                                       strerror(errno));
        if (st.st_mode & (S_IRWXG | S_IRWXO))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPERM,
                                       "%s: a key that others may read: chmod 600", c->key);
        return 0;
}

int tls_config_check(const tls_config *c, tls_kind kind, ferry_error *reterr) {
        if (kind == TLS_NONE && c->require)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPERM,
                                       "this host moves nothing unencrypted (\"require\" in %s): "
                                       "init_options.encryption must be 1 (PSK) or 2 (X509)",
                                       c->path);
        return kind == TLS_X509 ? check_files(c, reterr) : 0;
}

void tls_config_files(const tls_config *c, tls_files *ret) {
        *ret = (tls_files){
                .certificate = c->certificate,
                .key = c->key,
                .ca = c->ca,
                .names = c->n_names > 0 ? (const char *const *)c->names : NULL,
        };
}
