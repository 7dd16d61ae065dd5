/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vm/vm-config.h"

#define SCSI(path, serial, id)                                                                     \
        "{\"path\":\"/" path "\",\"serial\":\"" serial "\",\"scsi_id\":" id "}"
#define WITH_SCSI(disks) "{\"scsi\":true,\"disks\":[" disks "]}"

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
                { "{\"disks\":[{\"path\":\"/0\"},{\"path\":\"/1\"},{\"path\":\"/2\"},{\"path\":\"/"
                  "3\"},"
                  "{\"path\":\"/4\"},{\"path\":\"/5\"},{\"path\":\"/6\"},{\"path\":\"/7\"},"
                  "{\"path\":\"/8\"}]}",
                  "disks: too many disks without a serial" },
                { "{\"scsi\":1}", "scsi: must be true or false" },
                { "{\"disks\":[" SCSI("a", "s", "0") "]}", "serial: needs \"scsi\"" },
                { WITH_SCSI("{\"path\":\"/a\",\"serial\":\"s\"}"), "disks[0].scsi_id: goes with" },
                { WITH_SCSI("{\"path\":\"/a\",\"scsi_id\":1}"), "disks[0].scsi_id: goes with" },
                { WITH_SCSI(SCSI("a", "s", "32")), "disks[0].scsi_id: must be a number" },
                { WITH_SCSI(SCSI("a", "s", "-1")), "disks[0].scsi_id: must be a number" },
                { WITH_SCSI(SCSI("a", "s", "\"1\"")), "disks[0].scsi_id: must be a number" },
                { WITH_SCSI(SCSI("a", "", "0")), "disks[0].serial: must be 1 to 20" },
                { WITH_SCSI(SCSI("a", "a,b", "0")), "disks[0].serial: must be 1 to 20" },
                { WITH_SCSI(SCSI("a", "-a", "0")), "disks[0].serial: must be 1 to 20" },
                { WITH_SCSI(SCSI("a", "123456789012345678901", "0")), "disks[0].serial: longer" },
                { WITH_SCSI(SCSI("a", "s", "0") "," SCSI("b", "s", "1")), "same serial twice" },
                { WITH_SCSI(SCSI("a", "s", "0") "," SCSI("b", "t", "0")), "same scsi_id twice" },
                { WITH_SCSI(SCSI("a", "s", "0") "," SCSI("a", "t", "1")), "same path twice" },
                { WITH_SCSI(SCSI("a", "s", "0") ",{\"path\":\"/b\"}"), "serial come last" },
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
        const char *good = "{\"scsi\":true,\"disks\":[{\"path\":\"/d\"},"
                           "{\"path\":\"/s\",\"serial\":\"s\",\"scsi_id\":3}],\"network\":{\"mac\":"
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

static int add(vm_config *config, const char *path, const char *serial, uint32_t id, bool readonly,
               ferry_error *reterr) {
        vm_config_disk disk = {
                .path = (char *)path, .serial = (char *)serial, .scsi_id = id, .readonly = readonly
        };

        return vm_config_add_disk(config, &disk, reterr);
}

static void test_disks_come_and_go(void **state) {
        _cleanup_(vm_config_freep) vm_config *config =
                parse("{\"scsi\":true,\"disks\":[{\"path\":\"/boot\"}]}");
        _cleanup_(vm_config_freep) vm_config *again = NULL, *bare = parse("{}");
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *text = NULL;
        char name[VM_CONFIG_DISK_NAME_SIZE];

        assert_int_equal(add(bare, "/r", "web", 0, true, &error), -EINVAL);
        assert_int_equal(add(config, "/r", NULL, 0, true, &error), -EINVAL);
        assert_int_equal(add(config, "r", "web", 0, true, &error), -EINVAL);
        assert_int_equal(add(config, "/r", "we b", 0, true, &error), -EINVAL);
        assert_int_equal(add(config, "/r", "web", 32, true, &error), -EINVAL);
        assert_int_equal(add(config, "/boot", "web", 0, true, &error), -EEXIST);
        assert_int_equal(config->n_disks, 1);
        assert_int_equal(vm_config_free_scsi_id(config), 0);
        assert_int_equal(add(config, "/r", "web", 0, true, &error), 0);
        assert_int_equal(vm_config_free_scsi_id(config), 1);
        assert_int_equal(add(config, "/r", "web", 1, true, &error), -EEXIST);
        assert_int_equal(add(config, "/x", "db", 0, true, &error), -EEXIST);
        assert_int_equal(error.code, FERRY_ALREADY_EXISTS);
        assert_int_equal(add(config, "/r", "db", 2, false, &error), -EEXIST);
        assert_int_equal(add(config, "/r", "db", 31, true, &error), 0);
        assert_int_equal(add(config, "/w", "data", 1, false, &error), 0);
        assert_int_equal(vm_config_free_scsi_id(config), 2);
        assert_int_equal(config->n_disks, 4);
        vm_config_disk_name(config, 0, name);
        assert_string_equal(name, "disk0");
        vm_config_disk_name(config, 2, name);
        assert_string_equal(name, "scsi31");

        assert_int_equal(vm_config_dup(config, &again), 0);
        assert_int_equal(vm_config_format(again, &text), 0);
        assert_non_null(strstr(text, "\"disks\":[{\"path\":\"/boot\",\"readonly\":false},"
                                     "{\"path\":\"/r\",\"readonly\":true,\"scsi_id\":0,"
                                     "\"serial\":\"web\"},"));
        assert_non_null(strstr(text, "\"scsi\":true"));

        assert_int_equal(vm_config_find_disk(config, "web"), 1);
        assert_int_equal(vm_config_find_disk(config, "disk0"), -1);
        vm_config_remove_disk(config, 1);
        assert_int_equal(vm_config_find_disk(config, "web"), -1);
        assert_int_equal(vm_config_find_disk(config, "data"), 2);
        assert_int_equal(config->n_disks, 3);
        assert_int_equal(add(config, "/r", "web", 0, true, &error), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_canonical_form_is_stable),
                cmocka_unit_test(test_a_mac_is_made_once),
                cmocka_unit_test(test_bad_input_names_its_field),
                cmocka_unit_test(test_long_texts),
                cmocka_unit_test(test_mangled_input),
                cmocka_unit_test(test_disks_come_and_go),
        };

        return cmocka_run_group_tests_name("vm-config", tests, NULL, NULL);
}
