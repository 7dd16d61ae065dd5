/* SPDX-License-Identifier: MIT */
/*
 * The texts, with $names$ where they differ, and the walk that prints them: a prologue, then each
 * service: its method table, its methods, its registration.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "protoc-gen-ttrpc-c/generate.h"
#include "protoc-gen-ttrpc-c/names.h"
#include "protoc-gen-ttrpc-c/template.h"

typedef Google__Protobuf__FileDescriptorProto file_proto;
typedef Google__Protobuf__ServiceDescriptorProto service_proto;
typedef Google__Protobuf__MethodDescriptorProto method_proto;

/* ---- the header ---- */

static const char header_begin[] = "/* Written by protoc-gen-ttrpc-c from $path$. Do not edit. */\n"
                                   "#pragma once\n"
                                   "\n"
                                   "/* A message that is NULL is sent as the empty one. Functions "
                                   "return 0 or a negative errno, as\n"
                                   " * those of ttrpc.h that they call. */\n"
                                   "\n"
                                   "#include \"$stem$.pb-c.h\"\n"
                                   "#include \"ttrpc/ttrpc.h\"\n"
                                   "\n"
                                   "#ifdef __cplusplus\n"
                                   "extern \"C\" {\n"
                                   "#endif\n";

static const char header_end[] = "\n"
                                 "#ifdef __cplusplus\n"
                                 "}\n"
                                 "#endif\n";

static const char service_head[] = "\n"
                                   "/* ---- $service$ ---- */\n"
                                   "\n";

static const char methods_begin[] =
        "#define $PREFIX$_SERVICE \"$service$\"\n"
        "\n"
        "/* What a server does. `request` is valid during the call; `call` as in ttrpc_handler.\n"
        " * A member that is NULL answers Unimplemented. */\n"
        "typedef struct $prefix$_methods {\n";

static const char methods_member[] =
        "        void (*$method$)(ttrpc_call *call, const $Request$ *request, void *userdata);\n";

static const char methods_end[] =
        "} $prefix$_methods;\n"
        "\n"
        "/* `methods` and `userdata` are borrowed. */\n"
        "int $prefix$_register(ttrpc_server *server, const $prefix$_methods *methods,\n"
        "                      void *userdata);\n";

static const char method_begin[] = "\n";

static const char server_unary[] =
        "int $prefix$_$method$_reply(ttrpc_call *call, const $Response$ *response);\n"
        "/* For a call that came as a stream (ttrpc_call_is_stream); then ttrpc_call_finish(). */\n"
        "int $prefix$_$method$_send(ttrpc_call *call, const $Response$ *response);\n";

static const char server_stream[] =
        "/* One message; then, at the end, ttrpc_call_finish(). */\n"
        "int $prefix$_$method$_send(ttrpc_call *call, const $Response$ *response);\n";

static const char client_unary[] =
        "/* As ttrpc_client_call_sync(): with 0 and *ret_code TTRPC_OK, *ret_response is to be "
        "freed by\n"
        " * protobuf_c_message_free_unpacked(). It is NULL otherwise, and *ret_message,\n"
        " * if not NULL, to be freed by free(). -EPROTO: the answer cannot be decoded. */\n"
        "int $prefix$_$method$_call(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options, int32_t *ret_code, char "
        "**ret_message,\n"
        "                $Response$ **ret_response);\n"
        "/* As ttrpc_client_call(); `response` is borrowed, NULL unless the code is TTRPC_OK. */\n"
        "int $prefix$_$method$_start(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options,\n"
        "                void (*on_reply)(int r, const ttrpc_status *status,\n"
        "                                 const $Response$ *response, void *userdata),\n"
        "                void *userdata, ttrpc_slot **ret_slot);\n";

static const char client_stream[] =
        "/* As ttrpc_client_stream(). A message that cannot be decoded ends the call with -EPROTO. "
        "*/\n"
        "int $prefix$_$method$_start(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options,\n"
        "                void (*on_message)(const $Response$ *message, void *userdata),\n"
        "                void (*on_end)(int r, const ttrpc_status *status, void *userdata),\n"
        "                void *userdata, ttrpc_slot **ret_slot);\n";

/* ---- the source ---- */

static const char source_begin[] =
        "/* Written by protoc-gen-ttrpc-c from $path$. Do not edit. */\n"
        "#include <errno.h>\n"
        "#include <stdlib.h>\n"
        "\n"
        "#include \"$stem$.ttrpc.h\"\n"
        "\n"
        "/* A serialized message; small ones need no memory. */\n"
        "struct packed {\n"
        "        uint8_t *data;\n"
        "        size_t n;\n"
        "        uint8_t small[512];\n"
        "};\n"
        "\n"
        "static int packed_init(struct packed *p, const ProtobufCMessage *message) {\n"
        "        p->n = message ? protobuf_c_message_get_packed_size(message) : 0;\n"
        "        p->data = p->small;\n"
        "        if (p->n > sizeof(p->small))\n"
        "                p->data = malloc(p->n);\n"
        "        if (!p->data)\n"
        "                return -ENOMEM;\n"
        "        if (message)\n"
        "                protobuf_c_message_pack(message, p->data);\n"
        "        return 0;\n"
        "}\n"
        "\n"
        "static void packed_done(struct packed *p) {\n"
        "        if (p->data != p->small)\n"
        "                free(p->data);\n"
        "}\n"
        "\n"
        "static int answer(int (*send)(ttrpc_call *call, const uint8_t *payload, size_t n),\n"
        "                  ttrpc_call *call, const ProtobufCMessage *message) {\n"
        "        struct packed p;\n"
        "        int r = packed_init(&p, message);\n"
        "\n"
        "        if (r < 0)\n"
        "                return r;\n"
        "        r = send(call, p.data, p.n);\n"
        "        packed_done(&p);\n"
        "        return r;\n"
        "}\n";

static const char handler[] =
        "\n"
        "/* ---- $service$.$Method$ ---- */\n"
        "\n"
        "static void $prefix$_$method$_handle(ttrpc_call *call, const uint8_t *payload, size_t n,\n"
        "                                     const void *methods, void *userdata) {\n"
        "        const $prefix$_methods *m = methods;\n"
        "        $Request$ *request;\n"
        "\n"
        "        if (!m->$method$) {\n"
        "                (void)ttrpc_call_fail(call, TTRPC_UNIMPLEMENTED, \"method $Method$\");\n"
        "                return;\n"
        "        }\n"
        "        request = ($Request$ *)protobuf_c_message_unpack(\n"
        "                        &$request$__descriptor, NULL, n, payload);\n"
        "        if (!request) {\n"
        "                (void)ttrpc_call_fail(call, TTRPC_INTERNAL,\n"
        "                                      \"ttrpc: error unmarshalling payload\");\n"
        "                return;\n"
        "        }\n"
        "        m->$method$(call, request, userdata);\n"
        "        protobuf_c_message_free_unpacked(&request->base, NULL);\n"
        "}\n";

static const char reply_source[] =
        "\n"
        "int $prefix$_$method$_reply(ttrpc_call *call, const $Response$ *response) {\n"
        "        return answer(ttrpc_call_reply, call, response ? &response->base : NULL);\n"
        "}\n";

static const char send_source[] =
        "\n"
        "int $prefix$_$method$_send(ttrpc_call *call, const $Response$ *response) {\n"
        "        return answer(ttrpc_call_send, call, response ? &response->base : NULL);\n"
        "}\n";

static const char client_unary_source[] =
        "\n"
        "int $prefix$_$method$_call(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options, int32_t *ret_code, char "
        "**ret_message,\n"
        "                $Response$ **ret_response) {\n"
        "        struct packed p;\n"
        "        uint8_t *payload = NULL;\n"
        "        size_t n = 0;\n"
        "        int r;\n"
        "\n"
        "        *ret_code = TTRPC_UNKNOWN;\n"
        "        *ret_message = NULL;\n"
        "        *ret_response = NULL;\n"
        "        r = packed_init(&p, request ? &request->base : NULL);\n"
        "        if (r < 0)\n"
        "                return r;\n"
        "        r = ttrpc_client_call_sync(client, $PREFIX$_SERVICE, \"$Method$\", p.data, p.n, "
        "options,\n"
        "                                   ret_code, ret_message, &payload, &n);\n"
        "        packed_done(&p);\n"
        "        if (r == 0 && *ret_code == TTRPC_OK) {\n"
        "                *ret_response = ($Response$ *)protobuf_c_message_unpack(\n"
        "                        &$response$__descriptor, NULL, n, payload);\n"
        "                if (!*ret_response) {\n"
        "                        *ret_code = TTRPC_INTERNAL;\n"
        "                        r = -EPROTO;\n"
        "                }\n"
        "        }\n"
        "        free(payload);\n"
        "        return r;\n"
        "}\n"
        "\n"
        "struct $prefix$_$method$_closure {\n"
        "        void (*on_reply)(int r, const ttrpc_status *status, const $Response$ *response,\n"
        "                         void *userdata);\n"
        "        void *userdata;\n"
        "};\n"
        "\n"
        "static void $prefix$_$method$_on_reply(int r, const ttrpc_status *status,\n"
        "                                       const uint8_t *payload, size_t n, void *userdata) "
        "{\n"
        "        static const ttrpc_status malformed = { TTRPC_INTERNAL, \"malformed response\" "
        "};\n"
        "        const struct $prefix$_$method$_closure *c = userdata;\n"
        "        $Response$ *response = NULL;\n"
        "\n"
        "        if (r == 0 && status->code == TTRPC_OK) {\n"
        "                response = ($Response$ *)protobuf_c_message_unpack(\n"
        "                        &$response$__descriptor, NULL, n, payload);\n"
        "                if (!response) {\n"
        "                        status = &malformed;\n"
        "                        r = -EPROTO;\n"
        "                }\n"
        "        }\n"
        "        c->on_reply(r, status, response, c->userdata);\n"
        "        if (response)\n"
        "                protobuf_c_message_free_unpacked(&response->base, NULL);\n"
        "}\n"
        "\n"
        "int $prefix$_$method$_start(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options,\n"
        "                void (*on_reply)(int r, const ttrpc_status *status,\n"
        "                                 const $Response$ *response, void *userdata),\n"
        "                void *userdata, ttrpc_slot **ret_slot) {\n"
        "        struct $prefix$_$method$_closure *c = malloc(sizeof(*c));\n"
        "        struct packed p;\n"
        "        ttrpc_slot *slot;\n"
        "        int r;\n"
        "\n"
        "        if (!c)\n"
        "                return -ENOMEM;\n"
        "        c->on_reply = on_reply;\n"
        "        c->userdata = userdata;\n"
        "        r = packed_init(&p, request ? &request->base : NULL);\n"
        "        if (r == 0) {\n"
        "                r = ttrpc_client_call(client, $PREFIX$_SERVICE, \"$Method$\", p.data, "
        "p.n,\n"
        "                                      options, $prefix$_$method$_on_reply, c, &slot);\n"
        "                packed_done(&p);\n"
        "        }\n"
        "        if (r < 0) {\n"
        "                free(c);\n"
        "                return r;\n"
        "        }\n"
        "        ttrpc_slot_set_destroy(slot, free);\n"
        "        if (ret_slot)\n"
        "                *ret_slot = slot;\n"
        "        return 0;\n"
        "}\n";

static const char client_stream_source[] =
        "\n"
        "struct $prefix$_$method$_closure {\n"
        "        void (*on_message)(const $Response$ *message, void *userdata);\n"
        "        void (*on_end)(int r, const ttrpc_status *status, void *userdata);\n"
        "        void *userdata;\n"
        "        ttrpc_slot *slot;\n"
        "};\n"
        "\n"
        "static void $prefix$_$method$_on_message(const uint8_t *payload, size_t n, void "
        "*userdata) {\n"
        "        static const ttrpc_status malformed = { TTRPC_INTERNAL, \"malformed message\" };\n"
        "        struct $prefix$_$method$_closure c = *(struct $prefix$_$method$_closure "
        "*)userdata;\n"
        "        $Response$ *message = ($Response$ *)protobuf_c_message_unpack(\n"
        "                        &$response$__descriptor, NULL, n, payload);\n"
        "\n"
        "        if (!message) {\n"
        "                ttrpc_slot_cancel(c.slot);\n"
        "                c.on_end(-EPROTO, &malformed, c.userdata);\n"
        "                return;\n"
        "        }\n"
        "        c.on_message(message, c.userdata);\n"
        "        protobuf_c_message_free_unpacked(&message->base, NULL);\n"
        "}\n"
        "\n"
        "static void $prefix$_$method$_on_end(int r, const ttrpc_status *status,\n"
        "                                     const uint8_t *payload, size_t n, void *userdata) {\n"
        "        const struct $prefix$_$method$_closure *c = userdata;\n"
        "\n"
        "        (void)payload;\n"
        "        (void)n;\n"
        "        c->on_end(r, status, c->userdata);\n"
        "}\n"
        "\n"
        "int $prefix$_$method$_start(ttrpc_client *client, const $Request$ *request,\n"
        "                const ttrpc_call_options *options,\n"
        "                void (*on_message)(const $Response$ *message, void *userdata),\n"
        "                void (*on_end)(int r, const ttrpc_status *status, void *userdata),\n"
        "                void *userdata, ttrpc_slot **ret_slot) {\n"
        "        struct $prefix$_$method$_closure *c = malloc(sizeof(*c));\n"
        "        struct packed p;\n"
        "        int r;\n"
        "\n"
        "        if (!c)\n"
        "                return -ENOMEM;\n"
        "        c->on_message = on_message;\n"
        "        c->on_end = on_end;\n"
        "        c->userdata = userdata;\n"
        "        r = packed_init(&p, request ? &request->base : NULL);\n"
        "        if (r == 0) {\n"
        "                r = ttrpc_client_stream(client, $PREFIX$_SERVICE, \"$Method$\", p.data, "
        "p.n,\n"
        "                                        options, $prefix$_$method$_on_message,\n"
        "                                        $prefix$_$method$_on_end, c, &c->slot);\n"
        "                packed_done(&p);\n"
        "        }\n"
        "        if (r < 0) {\n"
        "                free(c);\n"
        "                return r;\n"
        "        }\n"
        "        ttrpc_slot_set_destroy(c->slot, free);\n"
        "        if (ret_slot)\n"
        "                *ret_slot = c->slot;\n"
        "        return 0;\n"
        "}\n";

static const char service_begin[] = "\n"
                                    "/* ---- $service$ ---- */\n"
                                    "\n"
                                    "static const ttrpc_method $prefix$_table[] = {\n";

static const char service_member[] =
        "        { \"$Method$\", $streams$, $prefix$_$method$_handle },\n";

static const char service_end[] =
        "};\n"
        "\n"
        "static const ttrpc_service $prefix$_service = {\n"
        "        $PREFIX$_SERVICE,\n"
        "        $prefix$_table,\n"
        "        sizeof($prefix$_table) / sizeof($prefix$_table[0]),\n"
        "};\n"
        "\n"
        "int $prefix$_register(ttrpc_server *server, const $prefix$_methods *methods,\n"
        "                      void *userdata) {\n"
        "        return ttrpc_server_register(server, &$prefix$_service, methods, userdata);\n"
        "}\n";

/* ---- the walk ---- */

/* What the texts' names stand for; strings are owned. */
enum {
        PATH,
        STEM,
        SERVICE,
        PREFIX,
        PREFIX_UPPER,
        METHOD,
        METHOD_LOWER,
        REQUEST,
        REQUEST_LOWER,
        RESPONSE,
        RESPONSE_LOWER,
        STREAMS,
        N_NAMES
};

static const char *const names[N_NAMES] = {
        [PATH] = "path",
        [STEM] = "stem",
        [SERVICE] = "service",
        [PREFIX] = "prefix",
        [PREFIX_UPPER] = "PREFIX",
        [METHOD] = "Method",
        [METHOD_LOWER] = "method",
        [REQUEST] = "Request",
        [REQUEST_LOWER] = "request",
        [RESPONSE] = "Response",
        [RESPONSE_LOWER] = "response",
        [STREAMS] = "streams",
};

typedef struct printer {
        const file_proto *file;
        FILE *header, *source;
        char *values[N_NAMES];
        char **ret_error;
} printer;

static int set(printer *p, int name, char *value) {
        free(p->values[name]);
        p->values[name] = value;
        return value ? 0 : -ENOMEM;
}

static int print(printer *p, FILE *f, const char *text) {
        template_value values[N_NAMES];

        for (int i = 0; i < N_NAMES; i++)
                values[i] = (template_value){ names[i], p->values[i] };
        return template_print(f, text, values, N_NAMES);
}

/* The comment before a thing of the .proto file, as a comment in C. `path` as in SourceCodeInfo. */
static void print_comment(const printer *p, FILE *f, const char *indent, const int32_t *path,
                          size_t n_path) {
        const Google__Protobuf__SourceCodeInfo *info = p->file->source_code_info;
        const char *text = NULL;
        size_t n;

        for (size_t i = 0; info && i < info->n_location; i++)
                if (info->location[i]->n_path == n_path &&
                    memcmp(info->location[i]->path, path, n_path * sizeof(*path)) == 0)
                        text = info->location[i]->leading_comments;
        n = text ? strlen(text) : 0;
        while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
                n--;
        if (n == 0)
                return;
        fprintf(f, "%s/*", indent);
        for (size_t i = 0; i < n; i++) {
                if (i > 0 && text[i] == '/' && text[i - 1] == '*')
                        fputc(' ', f); /* not the end of ours */
                if (i > 0 && text[i] == '*' && text[i - 1] == '/')
                        fputc(' ', f);
                fputc(text[i], f);
                if (text[i] == '\n')
                        fprintf(f, "%s *", indent);
        }
        fputs(" */\n", f);
}

static int set_method(printer *p, const method_proto *method) {
        if (!method->name || !method->input_type || !method->output_type)
                return -EINVAL;
        if (set(p, METHOD, strdup(method->name)) < 0 ||
            set(p, METHOD_LOWER, name_lower(method->name)) < 0 ||
            set(p, REQUEST, name_type(method->input_type)) < 0 ||
            set(p, REQUEST_LOWER, name_type_lower(method->input_type)) < 0 ||
            set(p, RESPONSE, name_type(method->output_type)) < 0 ||
            set(p, RESPONSE_LOWER, name_type_lower(method->output_type)) < 0 ||
            set(p, STREAMS, strdup(method->server_streaming ? "1" : "0")) < 0)
                return -ENOMEM;
        if (!method->client_streaming)
                return 0;
        if (asprintf(p->ret_error, "%s: %s.%s: client streams are not supported", p->values[PATH],
                     p->values[SERVICE], method->name) < 0) {
                *p->ret_error = NULL;
                return -ENOMEM;
        }
        return -ENOTSUP;
}

/* Prints a text for each method; to the header with the method's comment. */
static int print_methods(printer *p, size_t service, FILE *f, const char *text) {
        const service_proto *s = p->file->service[service];

        for (size_t i = 0; i < s->n_method; i++) {
                const int32_t path[] = { 6, (int32_t)service, 2, (int32_t)i };
                int r = set_method(p, s->method[i]);

                if (r < 0)
                        return r;
                if (f == p->header)
                        print_comment(p, f, "        ", path, ELEMENTS(path));
                r = print(p, f, text);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int print_texts(printer *p, FILE *f, const char *const *texts) {
        int r = 0;

        for (; r == 0 && *texts; texts++)
                r = print(p, f, *texts);
        return r;
}

static int print_calls(printer *p, const service_proto *service) {
        static const char *const header_unary[] = { method_begin, server_unary, client_unary,
                                                    NULL };
        static const char *const header_stream[] = { method_begin, server_stream, client_stream,
                                                     NULL };
        static const char *const source_unary[] = { handler, reply_source, send_source,
                                                    client_unary_source, NULL };
        static const char *const source_stream[] = { handler, send_source, client_stream_source,
                                                     NULL };

        for (size_t i = 0; i < service->n_method; i++) {
                bool streams = service->method[i]->server_streaming;
                int r = set_method(p, service->method[i]);

                if (r == 0)
                        r = print_texts(p, p->header, streams ? header_stream : header_unary);
                if (r == 0)
                        r = print_texts(p, p->source, streams ? source_stream : source_unary);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int set_service(printer *p, const service_proto *service) {
        const char *package = p->file->package ? p->file->package : "";
        char *full_name, *upper;

        if (!service->name)
                return -EINVAL;
        if (asprintf(&full_name, "%s%s%s", package, *package ? "." : "", service->name) < 0)
                return -ENOMEM;
        if (set(p, SERVICE, full_name) < 0 || set(p, PREFIX, name_lower(full_name)) < 0 ||
            set(p, PREFIX_UPPER, strdup(p->values[PREFIX])) < 0)
                return -ENOMEM;
        for (upper = p->values[PREFIX_UPPER]; *upper; upper++)
                if (*upper >= 'a' && *upper <= 'z')
                        *upper = (char)(*upper - 'a' + 'A');
        return 0;
}

static int print_service(printer *p, size_t i) {
        const int32_t path[] = { 6, (int32_t)i };
        const service_proto *service = p->file->service[i];
        int r = set_service(p, service);

        /* An empty table is no C. */
        if (r < 0 || service->n_method == 0)
                return r;
        r = print(p, p->header, service_head);
        if (r < 0)
                return r;
        print_comment(p, p->header, "", path, ELEMENTS(path));
        r = print(p, p->header, methods_begin);
        if (r == 0)
                r = print_methods(p, i, p->header, methods_member);
        if (r == 0)
                r = print(p, p->header, methods_end);
        if (r == 0)
                r = print_calls(p, service);
        if (r == 0)
                r = print(p, p->source, service_begin);
        if (r == 0)
                r = print_methods(p, i, p->source, service_member);
        if (r == 0)
                r = print(p, p->source, service_end);
        return r;
}

static int print_file(printer *p) {
        int r;

        if (!p->file->name)
                return -EINVAL;
        if (set(p, PATH, strdup(p->file->name)) < 0 || set(p, STEM, name_stem(p->file->name)) < 0)
                return -ENOMEM;
        r = print(p, p->header, header_begin);
        if (r == 0)
                r = print(p, p->source, source_begin);
        for (size_t i = 0; r == 0 && i < p->file->n_service; i++)
                r = print_service(p, i);
        if (r == 0)
                r = print(p, p->header, header_end);
        return r;
}

static int close_stream(FILE *f) {
        bool failed = ferror(f);

        return fclose(f) != 0 || failed ? -ENOMEM : 0;
}

static bool has_methods(const file_proto *file) {
        for (size_t i = 0; i < file->n_service; i++)
                if (file->service[i]->n_method > 0)
                        return true;
        return false;
}

int generate_file(const file_proto *file, char **ret_header, char **ret_source, char **ret_error) {
        _cleanup_(freep) char *header = NULL, *source = NULL;
        printer p = { .file = file, .ret_error = ret_error };
        size_t n_header, n_source;
        int r = -ENOMEM;

        *ret_header = *ret_source = *ret_error = NULL;
        if (!has_methods(file))
                return 0;
        p.header = open_memstream(&header, &n_header);
        p.source = open_memstream(&source, &n_source);
        if (p.header && p.source)
                r = print_file(&p);
        if (p.header && close_stream(p.header) < 0 && r == 0)
                r = -ENOMEM;
        if (p.source && close_stream(p.source) < 0 && r == 0)
                r = -ENOMEM;
        for (int i = 0; i < N_NAMES; i++)
                free(p.values[i]);
        if (r < 0)
                return r;
        *ret_header = TAKE_PTR(header);
        *ret_source = TAKE_PTR(source);
        return 0;
}
