/* SPDX-License-Identifier: MIT */
/*
 * protoc-gen-ttrpc-c: a protoc plugin. For NAME.proto with services it writes NAME.ttrpc.h and
 * NAME.ttrpc.c, which go with protoc-c's NAME.pb-c.h. No options.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "plugin.pb-c.h"
#include "protoc-gen-ttrpc-c/generate.h"
#include "protoc-gen-ttrpc-c/names.h"

#define REQUEST_MAX             ((size_t)256 << 20)
#define FEATURE_PROTO3_OPTIONAL 1U /* it changes nothing for services */

static int read_all(int fd, uint8_t **ret, size_t *ret_n) {
        _cleanup_(freep) uint8_t *data = NULL;
        size_t n = 0, size = 0;

        for (;;) {
                ssize_t got;

                if (n == size) {
                        uint8_t *more;

                        size = size ? 2 * size : 65536;
                        more = size <= REQUEST_MAX ? realloc(data, size) : NULL;
                        if (!more)
                                return -ENOMEM;
                        data = more;
                }
                got = read(fd, data + n, size - n);
                if (got < 0)
                        return -errno;
                if (got == 0)
                        break;
                n += (size_t)got;
        }
        *ret = TAKE_PTR(data);
        *ret_n = n;
        return 0;
}

static int write_all(int fd, const uint8_t *data, size_t n) {
        while (n > 0) {
                ssize_t r = write(fd, data, n);

                if (r < 0)
                        return -errno;
                data += r;
                n -= (size_t)r;
        }
        return 0;
}

static int add_file(Plugin__Response *response, const char *stem, const char *suffix,
                    char *content) {
        Plugin__File *file = malloc(sizeof(*file));
        _cleanup_(freep) char *name = NULL;

        if (!file)
                return -ENOMEM;
        if (asprintf(&name, "%s%s", stem, suffix) < 0) {
                name = NULL;
                free(file);
                return -ENOMEM;
        }
        plugin__file__init(file);
        file->name = TAKE_PTR(name);
        file->content = content;
        response->files[response->n_files++] = file;
        return 0;
}

static int answer_file(const Google__Protobuf__FileDescriptorProto *file,
                       Plugin__Response *response) {
        _cleanup_(freep) char *stem = name_stem(file->name), *header = NULL, *source = NULL;
        int r;

        if (!stem)
                return -ENOMEM;
        r = generate_file(file, &header, &source, &response->error);
        if (r < 0 || !header)
                return r;
        r = add_file(response, stem, ".ttrpc.h", header);
        if (r < 0)
                return r;
        header = NULL;
        r = add_file(response, stem, ".ttrpc.c", source);
        if (r < 0)
                return r;
        source = NULL;
        return 0;
}

static const Google__Protobuf__FileDescriptorProto *find(const Plugin__Request *request,
                                                         const char *name) {
        for (size_t i = 0; i < request->n_files; i++)
                if (request->files[i]->name && strcmp(request->files[i]->name, name) == 0)
                        return request->files[i];
        return NULL;
}

/* -ENOTSUP: response->error says what. */
static int answer(const Plugin__Request *request, Plugin__Response *response) {
        int r = 0;

        response->supported_features = FEATURE_PROTO3_OPTIONAL;
        if (*request->parameter) {
                response->error = strdup("ttrpc-c has no options");
                return response->error ? -ENOTSUP : -ENOMEM;
        }
        response->files = calloc(2 * request->n_file_to_generate + 1, sizeof(*response->files));
        if (!response->files)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < request->n_file_to_generate; i++) {
                const Google__Protobuf__FileDescriptorProto *file =
                        find(request, request->file_to_generate[i]);

                r = file ? answer_file(file, response) : -EINVAL;
        }
        return r;
}

static int run(void) {
        _cleanup_(freep) uint8_t *in = NULL, *out = NULL;
        Plugin__Request *request;
        Plugin__Response *response;
        size_t n = 0;
        int r = read_all(STDIN_FILENO, &in, &n);

        if (r < 0)
                return r;
        request = plugin__request__unpack(NULL, n, in);
        if (!request)
                return -EBADMSG;
        response = malloc(sizeof(*response));
        if (!response) {
                plugin__request__free_unpacked(request, NULL);
                return -ENOMEM;
        }
        plugin__response__init(response);
        response->error = NULL;
        r = answer(request, response);
        if (r == 0 || r == -ENOTSUP) {
                n = plugin__response__get_packed_size(response);
                out = malloc(n + 1);
                r = out ? write_all(STDOUT_FILENO, out, plugin__response__pack(response, out))
                        : -ENOMEM;
        }
        plugin__response__free_unpacked(response, NULL);
        plugin__request__free_unpacked(request, NULL);
        return r;
}

int main(void) {
        int r = run();

        if (r < 0) {
                fprintf(stderr, "protoc-gen-ttrpc-c: %s\n", strerror(-r));
                return 1;
        }
        return 0;
}
