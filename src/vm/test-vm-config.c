/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vm/vm-config.h"

static vm_config *parse(const char *text) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_config *config = NULL;

        if (vm_config_parse(text, strlen(text), &config, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        return config;
}

static void refused(const char *text, const char *word) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_config *config = NULL;
        int r = vm_config_parse(text, strlen(text), &config, &error);

        if (r != -EINVAL || config || !strstr(ferry_error_message(&error), word))
                fail_msg("%s: %d, %s", text, r, ferry_error_message(&error));
        assert_int_equal(error.code, FERRY_INVALID_ARGUMENT);
}

static void test_defaults(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = parse("{}");

        assert_int_equal(config->memory_mb, 256);
        assert_int_equal(config->vcpus, 1);
        assert_null(config->kernel);
        assert_null(config->initrd);
        assert_string_equal(config->cmdline, "");
        assert_int_equal(config->n_disks, 0);
        assert_false(config->has_network);
        assert_int_equal(config->accelerator, VM_ACCELERATOR_AUTO);
        assert_null(config->cpu);
        assert_string_equal(config->machine, "pc-q35-7.2");
        assert_string_equal(config->qemu, "qemu-system-x86_64");
}

static void test_canonical_form_is_stable(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = parse(
                "{\"vcpus\":2,\"memory_mb\":512,\"kernel\":\"/k\",\"initrd\":\"/i\","
                "\"cmdline\":\"a=\\\"b, c\\\"\",\"disks\":[{\"path\":\"/d,0\"},"
                "{\"readonly\":true,\"path\":\"/d1\"}],\"network\":{\"mac\":\"52:54:00:AB:cd:ef\","
                "\"bridge\":\"br0\",\"tap\":\"t0\"},\"accelerator\":\"tcg\",\"cpu\":\"Westmere-"
                "v1\","
                "\"machine\":\"pc-q35-8.1\",\"qemu\":\"/opt/q\",\"agent\":true}");
        _cleanup_(vm_config_freep) vm_config *again = NULL;
        _cleanup_(freep) char *one = NULL, *two = NULL;

        assert_int_equal(vm_config_format(config, &one), 0);
        assert_string_equal(
                one,
                "{\"accelerator\":\"tcg\",\"agent\":true,\"cmdline\":\"a=\\\"b, "
                "c\\\"\",\"cpu\":\"Westmere-v1\","
                "\"disks\":[{\"path\":\"/d,0\",\"readonly\":false},{\"path\":\"/d1\","
                "\"readonly\":true}],\"initrd\":\"/i\",\"kernel\":\"/k\","
                "\"machine\":\"pc-q35-8.1\",\"memory_mb\":512,\"network\":{\"bridge\":\"br0\","
                "\"mac\":\"52:54:00:ab:cd:ef\",\"tap\":\"t0\"},\"qemu\":\"/opt/q\",\"vcpus\":2}");
        assert_int_equal(vm_config_dup(config, &again), 0);
        assert_int_equal(vm_config_format(again, &two), 0);
        assert_string_equal(one, two);
}

static void test_a_mac_is_made_once(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = parse("{\"network\":{}}");
        _cleanup_(vm_config_freep) vm_config *again = NULL;

        assert_true(config->has_network);
        assert_memory_equal(config->mac, "52:54:00:", 9);
        assert_int_equal(strlen(config->mac), 17);
        assert_int_equal(vm_config_dup(config, &again), 0);
        assert_string_equal(config->mac, again->mac);
        assert_string_equal(again->bridge, "");
}

static void test_bad_input_names_its_field(void **state) {
        static const char *const table[][2] = {
                { "[]", "must be a JSON object" },
                { "", "line" },
                { "{\"memory_mb\":1", "line 1" },
                { "{\"vcpus\":1,\"vcpus\":2}", "vcpus" },
                { "{\"memory\":1}", "memory: no such field" },
                { "{\"memory_mb\":15}", "memory_mb" },
                { "{\"memory_mb\":4194305}", "memory_mb" },
                { "{\"memory_mb\":\"256\"}", "memory_mb" },
                { "{\"memory_mb\":256.5}", "memory_mb" },
                { "{\"memory_mb\":-1}", "memory_mb" },
                { "{\"memory_mb\":null}", "memory_mb" },
                { "{\"vcpus\":0}", "vcpus" },
                { "{\"vcpus\":256}", "vcpus" },
                { "{\"kernel\":\"vmlinuz\"}", "kernel: must be an absolute path" },
                { "{\"kernel\":\"\"}", "kernel" },
                { "{\"kernel\":\"/a\\nb\"}", "kernel: control characters" },
                { "{\"kernel\":7}", "kernel: must be a string" },
                { "{\"kernel\":\"/a\\u0000b\"}", "line" },
                { "{\"initrd\":\"/i\"}", "initrd: needs a kernel" },
                { "{\"cmdline\":\"x\"}", "cmdline: needs a kernel" },
                { "{\"kernel\":\"/k\",\"cmdline\":5}", "cmdline" },
                { "{\"disks\":{}}", "disks: must be an array" },
                { "{\"disks\":[7]}", "disks[0]: must be an object" },
                { "{\"disks\":[{}]}", "disks[0].path: is missing" },
                { "{\"disks\":[{\"path\":null}]}", "disks[0].path: is missing" },
                { "{\"disks\":[{\"path\":\"/a\"},{\"path\":\"b\"}]}", "disks[1].path" },
                { "{\"disks\":[{\"path\":\"/a\",\"format\":\"qcow2\"}]}", "disks[0].format" },
                { "{\"disks\":[{\"path\":\"/a\",\"readonly\":1}]}", "disks[0].readonly" },
                { "{\"disks\":[{\"path\":\"/a\"},{\"path\":\"/a\"}]}", "disks: the same path" },
                { "{\"disks\":[{},{},{},{},{},{},{},{},{}]}", "disks: too many" },
                { "{\"network\":[]}", "network: must be" },
                { "{\"agent\":1}", "agent: must be" },
                { "{\"network\":{\"vlan\":1}}", "network.vlan" },
                { "{\"network\":{\"mac\":\"52:54:00:12:34\"}}", "network.mac" },
                { "{\"network\":{\"mac\":\"52-54-00-12-34-56\"}}", "network.mac" },
                { "{\"network\":{\"mac\":\"01:00:00:00:00:00\"}}", "multicast" },
                { "{\"network\":{\"mac\":\"00:00:00:00:00:00\"}}", "is zero" },
                { "{\"network\":{\"mac\":\"52:54:00:12:34:56,x=y\"}}", "network.mac" },
                { "{\"network\":{\"bridge\":\"a/b\"}}", "network.bridge" },
                { "{\"network\":{\"bridge\":\"\"}}", "network.bridge" },
                { "{\"network\":{\"tap\":\"sixteen-bytes-xx\"}}", "network.tap" },
                { "{\"network\":{\"tap\":\"t%d\"}}", "network.tap" },
                { "{\"accelerator\":\"hvf\"}", "accelerator" },
                { "{\"accelerator\":null}", "accelerator" },
                { "{\"cpu\":\"host\"}", "cpu" },
                { "{\"cpu\":\"max\"}", "cpu" },
                { "{\"cpu\":\"Nehalem,+vmx\"}", "cpu" },
                { "{\"cpu\":\"\"}", "cpu" },
                { "{\"machine\":\"q35\"}", "machine" },
                { "{\"machine\":\"pc-i440fx-7.2\"}", "machine" },
                { "{\"machine\":\"pc-q35-7.2,accel=kvm\"}", "machine" },
                { "{\"machine\":\"pc-q35-7\"}", "machine" },
                { "{\"qemu\":\"./qemu\"}", "qemu" },
                { "{\"qemu\":\"-h\"}", "qemu" },
                { "{\"qemu\":\"\"}", "qemu" },
                { "{\"network\":{\"mac\":[[[[[[[[1]]]]]]]]}}", "nested" },
        };

        for (size_t i = 0; i < ELEMENTS(table); i++)
                refused(table[i][0], table[i][1]);
}

static void test_long_texts(void **state) {
        char *text = malloc(VM_CONFIG_TEXT_MAX + 2), *end;
        vm_config *config = NULL;

        if (!text) {
                fail();
                return;
        }
        end = text + sprintf(text, "{\"kernel\":\"/");
        memset(end, 'k', VM_CONFIG_PATH_MAX);
        strcpy(end + VM_CONFIG_PATH_MAX, "\"}");
        refused(text, "kernel: longer");
        strcpy(end + VM_CONFIG_PATH_MAX - 1, "\"}");
        config = parse(text);
        assert_int_equal(strlen(config->kernel), VM_CONFIG_PATH_MAX);
        config = vm_config_free(config);

        end = text + sprintf(text, "{\"kernel\":\"/k\",\"cmdline\":\"");
        memset(end, 'c', VM_CONFIG_CMDLINE_MAX + 1);
        strcpy(end + VM_CONFIG_CMDLINE_MAX + 1, "\"}");
        refused(text, "cmdline: longer");

        memset(text, ' ', VM_CONFIG_TEXT_MAX + 1);
        memcpy(text, "{}", 2);
        assert_int_equal(vm_config_parse(text, VM_CONFIG_TEXT_MAX, &config, NULL), 0);
        config = vm_config_free(config);
        assert_int_equal(vm_config_parse(text, VM_CONFIG_TEXT_MAX + 1, &config, NULL), -EFBIG);
        free(text);
}

/* No input may do worse than be refused: cut and mangled at every byte. */
static void test_mangled_input(void **state) {
        const char *good = "{\"disks\":[{\"path\":\"/d\"}],\"network\":{\"mac\":"
                           "\"52:54:00:00:00:01\"},\"kernel\":\"/k\",\"vcpus\":1}";
        size_t n = strlen(good);

        for (size_t i = 0; i <= n; i++)
                for (unsigned c = 0; c < 256; c += 5) {
                        char *copy = malloc(n + 1);
                        vm_config *config = NULL;

                        memcpy(copy, good, n);
                        if (i < n)
                                copy[i] = (char)c;
                        if (vm_config_parse(copy, i < n ? n : i, &config, NULL) == 0)
                                config = vm_config_free(config);
                        assert_null(config);
                        free(copy);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_canonical_form_is_stable),
                cmocka_unit_test(test_a_mac_is_made_once),
                cmocka_unit_test(test_bad_input_names_its_field),
                cmocka_unit_test(test_long_texts),
                cmocka_unit_test(test_mangled_input),
        };

        return cmocka_run_group_tests_name("vm-config", tests, NULL, NULL);
}
