/* SPDX-License-Identifier: MIT */
/* The exported state, and what is compared of it. */
#include "migration/state.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "migration/options.h"

#define LIST(array)                                                                                \
        { array, ELEMENTS(array) }

static const char *const devices[] = { "nic0 virtio-net-pci 00:03.0",
                                       "rng virtio-rng-pci 00:02.0" };
static const char *const features[] = { "family=6", "sse3", "sse4.2", "x2apic" };
static const char *const words[] = { "00000001/0:ECX 80b82201", "00000001/0:EDX 078bfbfd" };
static const char *const ram[] = { "ram0 67100672" };
static const char *const capabilities[] = { "auto-converge", "events", "late-block-activate",
                                            "return-path" };

static const vm_facts facts = {
        .qemu_version = "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
        .machine = "pc-q35-7.2",
        .cpu_model = "Nehalem-v1",
        .accelerator = "tcg",
        .memory_bytes = (64 << 20) - 8192,
        .vcpus = 1,
        .page_size = 4096,
        .devices = LIST(devices),
        .cpu_features = LIST(features),
        .cpu_words = LIST(words),
        .ram = LIST(ram),
        .capabilities = LIST(capabilities),
};

static void make_state(uint8_t **ret, size_t *ret_n, uint8_t digest[DIGEST_SIZE]) {
        static const char json[] = "{\"memory_mb\":64,\"vcpus\":1,\"accelerator\":\"tcg\","
                                   "\"cpu\":\"Nehalem-v1\",\"network\":{}}";
        static const uint8_t secret[DIGEST_SIZE] = { 9 };
        _cleanup_(vm_config_freep) vm_config *config = NULL;

        assert_int_equal(vm_config_parse(json, strlen(json), &config, NULL), 0);
        assert_int_equal(migration_state_encode("session", "box", secret, config,
                                                &(vm_files){ .n = 0 }, &facts, NULL, NULL, ret,
                                                ret_n, digest, NULL),
                         0);
}

static void test_it_goes_round(void **state) {
        _cleanup_(migration_state_freep) migration_state *s = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) uint8_t *data = NULL;
        uint8_t digest[DIGEST_SIZE];
        size_t n;

        make_state(&data, &n, digest);
        assert_int_equal(migration_state_decode(data, n, "session", &s, &error), 0);
        assert_memory_equal(s->digest, digest, DIGEST_SIZE);
        assert_int_equal(s->config->memory_mb, 64);
        assert_int_equal(s->message->schema_version, MIGRATION_STATE_VERSION);
        assert_int_equal(migration_state_check_facts(s, &facts, &error), 0);
}

static void test_a_hostile_one_is_refused(void **state) {
        _cleanup_(freep) uint8_t *data = NULL;
        uint8_t digest[DIGEST_SIZE];
        migration_state *s = NULL;
        size_t n;

        make_state(&data, &n, digest);
        assert_true(migration_state_decode(data, n, "two", &s, NULL) < 0);
        for (size_t cut = 0; cut < n; cut++) {
                uint8_t *part = malloc(cut + !cut);

                memcpy(part, data, cut);
                assert_true(migration_state_decode(part, cut, "session", &s, NULL) < 0);
                free(part);
        }
        for (size_t i = 0; i < n; i++) {
                data[i] ^= 0x10;
                assert_true(migration_state_decode(data, n, "session", &s, NULL) < 0);
                data[i] ^= 0x10;
        }
        assert_null(s);
}

/* ---- versions ---- */

/* As the version before wrote it: kept, because sources of that version will be met. */
static void test_the_version_before_is_read(void **state) {
        _cleanup_(migration_state_freep) migration_state *s = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *folder = getenv("FERRY_STATE_SAMPLES");
        _cleanup_(freep) char *path = NULL, *data = NULL;
        vm_facts other = facts;
        size_t n;

        assert_non_null(folder);
        assert_true(asprintf(&path, "%s/version-2", folder) > 0);
        assert_int_equal(file_read(AT_FDCWD, path, MIGRATION_STATE_MAX, &data, &n), 0);
        assert_int_equal(migration_state_decode((uint8_t *)data, n, "session", &s, &error), 0);
        assert_int_equal(s->message->schema_version, 2);
        assert_string_equal(s->config->cpu, "Nehalem-v1");
        assert_int_equal(migration_state_check_facts(s, &facts, &error), 0);
        other.vcpus = 2;
        assert_true(migration_state_check_facts(s, &other, &error) < 0);
        other = facts;
        other.devices.n--;
        assert_true(migration_state_check_facts(s, &other, &error) < 0);
        assert_non_null(strstr(ferry_error_message(&error),
                               "device \"rng virtio-rng-pci 00:02.0\" is at the source and "
                               "not here"));
}

/* Encoded anew, digest and all: only the version is wrong. */
static int decode_with_version(uint32_t version, ferry_error *error) {
        _cleanup_(migration_state_freep) migration_state *good = NULL, *s = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        uint8_t digest[DIGEST_SIZE];
        uint8_t *forged;
        size_t n;
        int r;

        make_state(&data, &n, digest);
        assert_int_equal(migration_state_decode(data, n, "session", &good, NULL), 0);
        good->message->schema_version = version;
        free(good->message->digest.data);
        good->message->digest = (ProtobufCBinaryData){ 0, NULL };
        n = ferry__state__v1__sandbox_state__get_packed_size(good->message);
        forged = malloc(n + 2 + DIGEST_SIZE);
        assert_non_null(forged);
        ferry__state__v1__sandbox_state__pack(good->message, forged);
        forged[n] = 15 << 3 | 2;
        forged[n + 1] = DIGEST_SIZE;
        digest_sha256(forged, n, forged + n + 2);
        r = migration_state_decode(forged, n + 2 + DIGEST_SIZE, "session", &s, error);
        free(forged);
        return r;
}

static void test_other_versions_are_refused(void **state) {
        static const uint32_t others[] = { 0, 1, 4, 99 };

        assert_int_equal(decode_with_version(3, NULL), 0);
        for (size_t i = 0; i < ELEMENTS(others); i++) {
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                char expected[96];

                snprintf(expected, sizeof(expected),
                         "config: schema version %u; this ferry reads 2 and 3", others[i]);
                assert_int_equal(decode_with_version(others[i], &error), -EINVAL);
                assert_int_equal(error.code, FERRY_INVALID_ARGUMENT);
                assert_string_equal(ferry_error_message(&error), expected);
        }
}

/* ---- differences ---- */

static const char *const other_devices[] = { "disk0 virtio-blk-pci 00:10.0",
                                             "nic0 virtio-net-pci 00:04.0" };
static const char *const other_features[] = { "family=6", "sse3", "sse4.1", "sse4.2" };
static const char *const other_words[] = { "00000001/0:ECX 80a82201", "00000001/0:EDX 078bfbfd" };
static const char *const other_ram[] = { "ram0 67108864" };
static const char *const old_capabilities[] = { "events", "return-path" };

#define TEXT(field_, value_, expected_)                                                            \
        { .field = offsetof(vm_facts, field_), .text = (value_), .expected = expected_ }
#define LINES(field_, array_, expected_)                                                           \
        { .field = offsetof(vm_facts, field_), .list = LIST(array_), .expected = expected_ }

static const struct {
        size_t field;
        const char *text;
        vm_fact_list list;
        const char *expected; /* all of it */
} cases[] = {
        TEXT(qemu_version, "10.0.2", NULL), /* another version is no difference */
        TEXT(qemu_version, "6.2.0", "QEMU is 6.2.0 here; it must be 7.2 or newer"),
        TEXT(machine, "pc-q35-9.0",
             "the machine type is pc-q35-7.2 at the source and pc-q35-9.0 here"),
        TEXT(accelerator, "kvm", "the accelerator is tcg at the source and kvm here"),
        TEXT(cpu_model, "Haswell-v2",
             "the CPU model is Nehalem-v1 at the source and Haswell-v2 here"),
        LINES(devices, other_devices,
              "device \"disk0 virtio-blk-pci 00:10.0\" is here and not at the source; device "
              "\"nic0 virtio-net-pci 00:03.0\" is at the source, and \"nic0 virtio-net-pci "
              "00:04.0\" "
              "here; device \"rng virtio-rng-pci 00:02.0\" is at the source and not here"),
        LINES(ram, other_ram,
              "RAM block \"ram0 67100672\" is at the source, and \"ram0 67108864\" here"),
        /* a feature that is gone counts, whatever CPUID says; one more only if it shows */
        LINES(cpu_features, other_features, "CPU feature x2apic is at the source and not here"),
        LINES(cpu_words, other_words,
              "CPUID word \"00000001/0:ECX 80b82201\" is at the source, and \"00000001/0:ECX "
              "80a82201\" here"),
        LINES(capabilities, old_capabilities,
              "QEMU's migration capability late-block-activate is needed and not here"),
};

static void compare(const vm_facts *here, differences *d) {
        Ferry__State__V1__Compatibility there;

        compatibility_fill(&there, &facts);
        assert_int_equal(compatibility_check_form(&there), 0);
        compatibility_compare(&there, "at the source", here, d);
}

static void test_each_difference_has_its_line(void **state) {
        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                _cleanup_(differences_done) differences d = { .n = 0 };
                char expected[512];
                vm_facts here = facts;

                if (cases[i].text)
                        memcpy((char *)&here + cases[i].field, &cases[i].text,
                               sizeof(cases[i].text));
                else
                        memcpy((char *)&here + cases[i].field, &cases[i].list,
                               sizeof(cases[i].list));
                compare(&here, &d);
                if (!cases[i].expected) {
                        assert_int_equal(differences_report(&d, "no", &error), 0);
                        continue;
                }
                snprintf(expected, sizeof(expected), "no: %s", cases[i].expected);
                assert_true(differences_report(&d, "no", &error) < 0);
                assert_int_equal(error.code, FERRY_FAILED_PRECONDITION);
                assert_string_equal(ferry_error_message(&error), expected);
        }
}

static void test_numbers_have_theirs(void **state) {
        _cleanup_(differences_done) differences d = { .n = 0 };
        vm_facts here = facts;

        here.memory_bytes += 4096;
        here.vcpus = 4;
        here.page_size = 16384;
        compare(&here, &d);
        assert_int_equal(d.n, 3);
        assert_string_equal(d.items[0], "memory is 67100672 at the source and 67104768 here");
        assert_string_equal(d.items[1], "the number of vCPUs is 1 at the source and 4 here");
        assert_string_equal(d.items[2], "the page size is 4096 at the source and 16384 here");
}

static void test_a_feature_more_is_told_when_cpuid_differs(void **state) {
        _cleanup_(differences_done) differences d = { .n = 0 };
        vm_facts here = facts;

        here.cpu_words = (vm_fact_list)LIST(other_words);
        here.cpu_features = (vm_fact_list)LIST(other_features);
        compare(&here, &d);
        assert_int_equal(d.n, 2);
        assert_string_equal(d.items[0], "CPU feature x2apic is at the source and not here");
        assert_string_equal(d.items[1], "CPU feature sse4.1 is here and not at the source");
}

static void test_the_message_is_bounded(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(differences_done) differences d = { .n = 0 };

        for (size_t i = 0; i < 500; i++)
                differ(&d, "%zu %0200d", i, 0);
        assert_true(differences_report(&d, "no", &error) < 0);
        assert_in_range(strlen(ferry_error_message(&error)), 3000, 4200);
        assert_non_null(strstr(ferry_error_message(&error), "0; 1 00"));
        /* 19 of 205 bytes fit */
        assert_non_null(strstr(ferry_error_message(&error), "; and 481 more"));
}

/* ---- compatibility_data ---- */

static void pack(const Ferry__State__V1__Compatibility *c, uint8_t **ret, size_t *ret_n) {
        *ret_n = ferry__state__v1__compatibility__get_packed_size(c);
        *ret = malloc(*ret_n + 1);
        assert_non_null(*ret);
        ferry__state__v1__compatibility__pack(c, *ret);
}

static void test_compatibility_data(void **state) {
        Ferry__State__V1__Compatibility c, *back;
        CompatibilityInfo info = COMPATIBILITY_INFO__INIT;
        InitializeOptions message = INITIALIZE_OPTIONS__INIT;
        migration_options options;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(differences_done) differences d = { .n = 0 };
        _cleanup_(freep) uint8_t *data = NULL;
        uint8_t garbage[] = { 0x0a, 0x7f, 1 };
        size_t n;

        compatibility_fill(&c, &facts);
        pack(&c, &data, &n);
        assert_int_equal(compatibility_unpack(data, n, &back), 0);
        compatibility_compare(back, "in compatibility_data", &facts, &d);
        assert_int_equal(d.n, 0);
        ferry__state__v1__compatibility__free_unpacked(back, NULL);

        message.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        message.compatibility_data = &info;
        info.data = (ProtobufCBinaryData){ n, data };
        assert_int_equal(migration_options_parse(&message, &options, &error), 0);
        info.data = (ProtobufCBinaryData){ sizeof(garbage), garbage };
        assert_int_equal(migration_options_parse(&message, &options, &error), -EINVAL);
        assert_non_null(strstr(ferry_error_message(&error), "compatibility_data"));

        /* what is left out is not compared */
        ferry__state__v1__compatibility__init(&c);
        c.machine = (char *)"pc-q35-8.0";
        compatibility_compare(&c, "in compatibility_data", &facts, &d);
        assert_int_equal(d.n, 1);
        assert_string_equal(
                d.items[0],
                "the machine type is pc-q35-8.0 in compatibility_data and pc-q35-7.2 here");
}

static void test_bad_forms(void **state) {
        const char *unsorted[] = { "b", "a" };
        Ferry__State__V1__Compatibility c;

        compatibility_fill(&c, &facts);
        c.machine = (char *)"pc\n";
        assert_int_equal(compatibility_check_form(&c), -EINVAL);
        compatibility_fill(&c, &facts);
        c.devices = (char **)unsorted;
        c.n_devices = 2;
        assert_int_equal(compatibility_check_form(&c), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_it_goes_round),
                cmocka_unit_test(test_a_hostile_one_is_refused),
                cmocka_unit_test(test_the_version_before_is_read),
                cmocka_unit_test(test_other_versions_are_refused),
                cmocka_unit_test(test_each_difference_has_its_line),
                cmocka_unit_test(test_numbers_have_theirs),
                cmocka_unit_test(test_a_feature_more_is_told_when_cpuid_differs),
                cmocka_unit_test(test_the_message_is_bounded),
                cmocka_unit_test(test_compatibility_data),
                cmocka_unit_test(test_bad_forms),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
