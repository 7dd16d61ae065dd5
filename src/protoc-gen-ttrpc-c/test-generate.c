/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "protoc-gen-ttrpc-c/generate.h"
#include "protoc-gen-ttrpc-c/names.h"
#include "protoc-gen-ttrpc-c/template.h"

/* ---- names: what protoc-c 1.4 makes of them ---- */

static void expect(char *name, const char *expected) {
        assert_non_null(name);
        assert_string_equal(name, expected);
        free(name);
}

static void test_types(void **state) {
        expect(name_type(".Plain"), "Plain");
        expect(name_type(".a.b.OCISpec"), "A__B__OCISpec");
        expect(name_type(".fooBar.my_pkg.foo_lower.X509Cert_v3Z"),
               "FooBar__MyPkg__FooLower__X509CertV3Z");
        expect(name_type("._lead.Trail_"), "Lead__Trail");
        expect(name_type_lower(".Plain"), "plain");
        expect(name_type_lower(".a.b.OCISpec"), "a__b__ocispec");
        expect(name_type_lower(".fooBar.ABCDef.X509Cert_v3Z"), "foo_bar__abcdef__x509_cert_v3_z");
        expect(name_type_lower(".Foo_Bar.D__D.F2X"), "foo__bar__d___d__f2_x");
}

static void test_functions(void **state) {
        expect(name_lower("Migration"), "migration");
        expect(name_lower("ferry.shim.v1.Shim"), "ferry_shim_v1_shim");
        expect(name_lower("PrepareAndExportSandbox"), "prepare_and_export_sandbox");
}

static void test_stems(void **state) {
        expect(name_stem("a/b.c/my-file.v1.proto"), "a/b.c/my-file.v1");
        expect(name_stem("odd"), "odd");
        expect(name_stem(".proto"), ".proto");
}

/* ---- templates ---- */

static void test_template(void **state) {
        static const template_value values[] = { { "a", "1" }, { "long", "two" } };
        char text[64] = "";
        FILE *f = fmemopen(text, sizeof(text), "w");

        assert_non_null(f);
        assert_int_equal(template_print(f, "$a$$long$ b $a$.", values, ELEMENTS(values)), 0);
        assert_int_equal(template_print(f, "$b$", values, ELEMENTS(values)), -EINVAL);
        assert_int_equal(template_print(f, "$a", values, ELEMENTS(values)), -EINVAL);
        assert_int_equal(template_print(f, "", values, ELEMENTS(values)), 0);
        fclose(f);
        assert_string_equal(text, "1two b 1.");
}

/* ---- files ---- */

typedef struct sample {
        Google__Protobuf__FileDescriptorProto file;
        Google__Protobuf__ServiceDescriptorProto service, *services[1];
        Google__Protobuf__MethodDescriptorProto method, *methods[1];
} sample;

/* One service with one method. The strings are only read. */
static void sample_init(sample *s) {
        google__protobuf__file_descriptor_proto__init(&s->file);
        google__protobuf__service_descriptor_proto__init(&s->service);
        google__protobuf__method_descriptor_proto__init(&s->method);
        s->method.name = (char *)"Do";
        s->method.input_type = (char *)".p.In";
        s->method.output_type = (char *)".p.Out";
        s->methods[0] = &s->method;
        s->service.name = (char *)"Doer";
        s->service.method = s->methods;
        s->service.n_method = 1;
        s->services[0] = &s->service;
        s->file.name = (char *)"x/p.proto";
        s->file.package = (char *)"p";
        s->file.service = s->services;
        s->file.n_service = 1;
}

static int generate(const sample *s, char **ret_error) {
        _cleanup_(freep) char *header = NULL, *source = NULL;
        int r = generate_file(&s->file, &header, &source, ret_error);

        assert_int_equal(header != NULL, source != NULL);
        if (r < 0)
                assert_null(header);
        return r;
}

static void test_file(void **state) {
        _cleanup_(freep) char *header = NULL, *source = NULL, *error = NULL;
        sample s;

        sample_init(&s);
        assert_int_equal(generate_file(&s.file, &header, &source, &error), 0);
        assert_null(error);
        assert_non_null(strstr(header, "#include \"x/p.pb-c.h\""));
        assert_non_null(strstr(header, "#define P_DOER_SERVICE \"p.Doer\""));
        assert_non_null(strstr(header, "int p_doer_do_reply(ttrpc_call *call, const P__Out *"));
        assert_non_null(strstr(source, "&p__in__descriptor"));
        assert_null(strchr(header, '$'));
        assert_null(strchr(source, '$'));
}

static void test_no_service(void **state) {
        _cleanup_(freep) char *error = NULL, *header = NULL, *source = NULL;
        sample s;

        sample_init(&s);
        s.service.n_method = 0;
        assert_int_equal(generate_file(&s.file, &header, &source, &error), 0);
        assert_null(header);
        s.file.n_service = 0;
        assert_int_equal(generate_file(&s.file, &header, &source, &error), 0);
        assert_null(header);
}

static void test_client_stream(void **state) {
        _cleanup_(freep) char *error = NULL;
        sample s;

        sample_init(&s);
        s.method.has_client_streaming = s.method.client_streaming = 1;
        assert_int_equal(generate(&s, &error), -ENOTSUP);
        assert_string_equal(error, "x/p.proto: p.Doer.Do: client streams are not supported");
}

static void test_incomplete(void **state) {
        _cleanup_(freep) char *error = NULL;
        sample s;

        sample_init(&s);
        s.method.input_type = NULL;
        assert_int_equal(generate(&s, &error), -EINVAL);
        sample_init(&s);
        s.service.name = NULL;
        assert_int_equal(generate(&s, &error), -EINVAL);
        sample_init(&s);
        s.file.name = NULL;
        assert_int_equal(generate(&s, &error), -EINVAL);
        assert_null(error);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_types),         cmocka_unit_test(test_functions),
                cmocka_unit_test(test_stems),         cmocka_unit_test(test_template),
                cmocka_unit_test(test_file),          cmocka_unit_test(test_no_service),
                cmocka_unit_test(test_client_stream), cmocka_unit_test(test_incomplete),
        };

        return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
