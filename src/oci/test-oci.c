/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "oci/oci.h"

static const oci_options options = { .root = "/g/root",
                                     .cgroup = "/ferry/c1",
                                     .files_folder = "/g/files" };

/* As ctr writes it, shortened. */
static const char of_ctr[] =
        "{\"ociVersion\":\"1.2.0\",\"process\":{\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"sh\"],"
        "\"env\":[\"PATH=/bin\"],\"cwd\":\"/"
        "\",\"noNewPrivileges\":true,\"apparmorProfile\":\"docker\","
        "\"selinuxLabel\":\"x\",\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":1024,\"soft\":"
        "1024}]},"
        "\"root\":{\"path\":\"rootfs\",\"readonly\":true},\"hooks\":{\"prestart\":[{\"path\":\"/"
        "bin/x\"}]},"
        "\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
        "{\"destination\":\"/etc/resolv.conf\",\"type\":\"bind\",\"source\":\"/etc/resolv.conf\","
        "\"options\":[\"rbind\",\"ro\"]},"
        "{\"destination\":\"/dev/shm\",\"type\":\"bind\",\"source\":\"/run/"
        "shm\",\"options\":[\"rbind\"]},"
        "{\"destination\":\"/etc/hosts\",\"source\":\"/x/hosts\",\"options\":[\"bind\"]}],"
        "\"annotations\":{\"io.ferry.sandbox-id\":\"abc\"},"
        "\"linux\":{\"cgroupsPath\":\"/default/"
        "c1\",\"sysctl\":{\"net.ipv4.ip_forward\":\"1\",\"kernel.x\":\"2\"},"
        "\"devices\":[{\"path\":\"/dev/kvm\"}],\"maskedPaths\":[\"/proc/kcore\"],"
        "\"resources\":{\"devices\":[{\"allow\":false,\"access\":\"rwm\"}],\"memory\":{\"limit\":"
        "1048576}},"
        "\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"network\",\"path\":\"/proc/7/ns/net\"},"
        "{\"type\":\"ipc\",\"path\":\"/proc/7/ns/ipc\"},{\"type\":\"mount\"}]}}";

static json_t *translated(const char *text, oci_config *ret) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (oci_translate(text, strlen(text), &options, ret, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        return json_loads(ret->text, 0, NULL);
}

static const char *text_at(const json_t *json, const char *a, const char *b) {
        return json_string_value(json_object_get(json_object_get(json, a), b));
}

static bool has_note(const oci_config *c, const char *what) {
        for (size_t i = 0; i < c->n_notes; i++)
                if (strncmp(c->notes[i], what, strlen(what)) == 0)
                        return true;
        return false;
}

static void test_a_container_of_ctr(void **state) {
        _cleanup_(oci_config_done) oci_config c;
        json_t *json = translated(of_ctr, &c), *l = json_object_get(json, "linux"), *item;
        json_t *mounts = json_object_get(json, "mounts");
        size_t i;

        assert_string_equal(text_at(json, "root", "path"), "/g/root");
        assert_string_equal(json_string_value(json_object_get(json, "ociVersion")), "1.0.2");
        assert_true(json_is_true(json_object_get(json_object_get(json, "root"), "readonly")));
        assert_string_equal(json_string_value(json_object_get(l, "cgroupsPath")), "/ferry/c1");
        assert_null(json_object_get(json, "hooks"));
        assert_null(json_object_get(json_object_get(json, "process"), "apparmorProfile"));
        assert_non_null(json_object_get(json_object_get(json, "process"), "rlimits"));
        assert_null(json_object_get(l, "devices"));
        assert_null(json_object_get(json_object_get(l, "resources"), "devices"));
        assert_non_null(json_object_get(json_object_get(l, "resources"), "memory"));
        assert_non_null(json_object_get(l, "maskedPaths"));
        assert_null(json_object_get(json_object_get(l, "sysctl"), "net.ipv4.ip_forward"));
        assert_non_null(json_object_get(json_object_get(l, "sysctl"), "kernel.x"));
        assert_int_equal(json_array_size(json_object_get(l, "namespaces")), 3);
        json_array_foreach(json_object_get(l, "namespaces"), i, item) {
                assert_null(json_object_get(item, "path"));
                assert_string_not_equal(json_string_value(json_object_get(item, "type")),
                                        "network");
        }
        assert_int_equal(c.n_files, 2);
        assert_string_equal(c.files[0], "/etc/resolv.conf");
        assert_string_equal(c.files[1], "/x/hosts");
        assert_string_equal(json_string_value(json_object_get(json_array_get(mounts, 1), "source")),
                            "/g/files/0");
        assert_string_equal(json_string_value(json_object_get(json_array_get(mounts, 2), "type")),
                            "tmpfs");
        assert_string_equal(json_string_value(json_object_get(json_array_get(mounts, 3), "source")),
                            "/g/files/1");
        assert_true(has_note(&c, "hooks") && has_note(&c, "devices") && has_note(&c, "network") &&
                    has_note(&c, "net.ipv4.ip_forward") && has_note(&c, "apparmorProfile"));
        assert_false(c.terminal);
        json_decref(json);
}

static void test_the_smallest(void **state) {
        _cleanup_(oci_config_done) oci_config c;
        json_t *json = translated("{\"process\":{\"terminal\":true}}", &c);

        assert_true(c.terminal);
        assert_string_equal(text_at(json, "linux", "cgroupsPath"), "/ferry/c1");
        json_decref(json);
}

static void test_what_is_refused(void **state) {
        static const char *const bad[] = {
                "",
                "[]",
                "{}",
                "{\"process\":7}",
                "{\"process\":{},\"process\":{}}",
                "{\"process\":{},\"linux\":7}",
                "{\"process\":{},\"mounts\":7}",
                "{\"process\":{},\"mounts\":[7]}",
                "{\"process\":{},\"mounts\":[{\"destination\":\"relative\"}]}",
                "{\"process\":{},\"mounts\":[{\"destination\":\"/x\",\"options\":[\"bind\"]}]}",
        };

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                oci_config c;

                assert_true(oci_translate(bad[i], strlen(bad[i]), &options, &c, &error) < 0);
                assert_int_equal(error.code, FERRY_INVALID_ARGUMENT);
                assert_null(c.text);
                assert_int_equal(c.n_files, 0);
        }
}

static void test_too_many_files(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        json_t *json = json_pack("{s:{}, s:[]}", "process", "mounts");
        oci_config c;
        char *text;

        for (size_t i = 0; i <= OCI_FILES_MAX; i++)
                (void)json_array_append_new(json_object_get(json, "mounts"),
                                            json_pack("{s:s, s:s, s:s}", "destination", "/x",
                                                      "type", "bind", "source", "/y"));
        text = json_dumps(json, 0);
        assert_true(oci_translate(text, strlen(text), &options, &c, &error) < 0);
        free(text);
        json_decref(json);
}

static void test_a_process(void **state) {
        static const char process[] = "{\"args\":[\"x\"],\"apparmorProfile\":\"y\",\"cwd\":\"/\"}";
        _cleanup_(freep) char *text = NULL;

        assert_int_equal(oci_translate_process(process, strlen(process), &text, NULL), 0);
        assert_null(strstr(text, "apparmor"));
        assert_non_null(strstr(text, "\"args\""));
        assert_true(oci_translate_process("7", 1, &text, NULL) < 0);
}

static void test_an_annotation(void **state) {
        _cleanup_(freep) char *value =
                oci_annotation(of_ctr, strlen(of_ctr), "io.ferry.sandbox-id");

        assert_string_equal(value, "abc");
        assert_null(oci_annotation(of_ctr, strlen(of_ctr), "other"));
        assert_null(oci_annotation("{", 1, "other"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_container_of_ctr), cmocka_unit_test(test_the_smallest),
                cmocka_unit_test(test_what_is_refused),    cmocka_unit_test(test_too_many_files),
                cmocka_unit_test(test_a_process),          cmocka_unit_test(test_an_annotation),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
