/* SPDX-License-Identifier: MIT */

/* What a real QEMU says that it can do. Exit 77 without QEMU. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/ability.h"
#include "vm/facts.h"
#include "vm/spawn.h"

typedef struct answer {
        bool came, has_facts, knows_machine, knows_cpu;
        char reason[256], version[256];
        char *json;
} answer;

static void on_done(const vm_ability_result *result, void *userdata) {
        answer *a = userdata;
        json_t *json;

        assert_false(a->came);
        a->came = true;
        a->has_facts = result->facts != NULL;
        a->knows_machine = result->knows_machine;
        a->knows_cpu = result->knows_cpu;
        snprintf(a->reason, sizeof(a->reason), "%s", result->reason);
        snprintf(a->version, sizeof(a->version), "%s", result->qemu_version);
        if (result->facts) {
                json = vm_facts_to_json(result->facts);
                a->json = json_dumps(json, JSON_SORT_KEYS);
                json_decref(json);
        }
}

static answer ask(const char *machine, const char *cpu, const char *cache) {
        vm_ability_options options = {
                .qemu = VM_CONFIG_QEMU_DEFAULT,
                .machine = machine,
                .cpu = cpu,
                .accelerator = "tcg",
                .cache_path = cache,
                .limit_usec = 60 * USEC_PER_SEC,
                .user = vm_user_choose(0, 0, "/tmp"),
        };
        vm_ability *ability = NULL;
        sd_event *event = NULL;
        answer a = { .came = false };

        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(vm_ability_start(event, &options, on_done, &a, &ability, NULL), 0);
        assert_false(a.came);
        while (!a.came)
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
        vm_ability_free(ability);
        sd_event_unref(event);
        return a;
}

static void test_it_tells_all_of_it(void **state) {
        answer a = ask(VM_CONFIG_MACHINE_DEFAULT, VM_CONFIG_CPU_TCG, NULL);

        assert_true(a.has_facts && a.knows_machine && a.knows_cpu);
        assert_string_equal(a.reason, "");
        assert_non_null(strstr(a.json, "\"machine\": \"" VM_CONFIG_MACHINE_DEFAULT "\""));
        assert_non_null(strstr(a.json, "\"accelerator\": \"tcg\""));
        assert_non_null(strstr(a.json, "\"ssse3\""));
        assert_non_null(strstr(a.json, "\"min-level=11\""));
        assert_non_null(strstr(a.json, "\"return-path\""));
        free(a.json);
}

/* What the accelerator lacks is not there, though the model has it. */
static void test_features_are_the_guests(void **state) {
        answer a = ask(VM_CONFIG_MACHINE_DEFAULT, "Haswell-v2", NULL);

        assert_true(a.has_facts);
        assert_non_null(strstr(a.json, "\"popcnt\""));
        assert_null(strstr(a.json, "\"tsc-deadline\"")); /* which no TCG gives */
        free(a.json);
}

static void test_what_it_does_not_know_is_named(void **state) {
        answer a = ask("pc-q35-99.0", VM_CONFIG_CPU_TCG, NULL);

        assert_false(a.has_facts || a.knows_machine);
        assert_true(a.knows_cpu);
        assert_true(a.version[0] >= '1' && a.version[0] <= '9');
        assert_non_null(strstr(a.reason, "unsupported machine type"));

        a = ask("pc-q35-99.0", "Zen-v9", NULL);
        assert_false(a.has_facts || a.knows_machine || a.knows_cpu);
        a = ask(VM_CONFIG_MACHINE_DEFAULT, "Zen-v9", NULL);
        assert_true(!a.has_facts && a.knows_machine && !a.knows_cpu);
}

static void test_the_answer_is_kept(void **state) {
        char folder[] = "/tmp/ferry-ability-XXXXXX";
        _cleanup_(freep) char *path = NULL, *text = NULL;
        struct stat first, second;
        answer a, b;
        size_t n;

        assert_non_null(mkdtemp(folder));
        assert_true(asprintf(&path, "%s/cache", folder) > 0);
        a = ask(VM_CONFIG_MACHINE_DEFAULT, VM_CONFIG_CPU_TCG, path);
        assert_int_equal(stat(path, &first), 0);
        b = ask(VM_CONFIG_MACHINE_DEFAULT, VM_CONFIG_CPU_TCG, path);
        assert_int_equal(stat(path, &second), 0);
        assert_int_equal(first.st_ino, second.st_ino); /* not written again: it was taken */
        assert_string_equal(a.json, b.json);
        free(b.json);
        /* another question is not answered from it, and neither is anything by a broken one */
        b = ask(VM_CONFIG_MACHINE_DEFAULT, "Westmere-v1", path);
        assert_string_not_equal(a.json, b.json);
        free(b.json);
        assert_int_equal(file_replace(AT_FDCWD, path, "{\"key\": 7", 9, 0600, false), 0);
        b = ask(VM_CONFIG_MACHINE_DEFAULT, VM_CONFIG_CPU_TCG, path);
        assert_string_equal(a.json, b.json);
        assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text, &n), 0);
        assert_true(n > 1000);
        free(a.json);
        free(b.json);
        unlink(path);
        rmdir(folder);
}

static void test_there_may_be_no_qemu(void **state) {
        vm_ability_options options = {
                .qemu = "/nonexistent/qemu", .machine = "m", .cpu = "c", .accelerator = "tcg"
        };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_ability *ability = NULL;
        sd_event *event = NULL;

        assert_true(sd_event_new(&event) >= 0);
        assert_true(vm_ability_start(event, &options, on_done, NULL, &ability, &error) < 0);
        assert_null(ability);
        options.qemu = "/bin/false";
        {
                answer a = { .came = false };

                assert_int_equal(vm_ability_start(event, &options, on_done, &a, &ability, &error),
                                 0);
                while (!a.came)
                        assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                assert_false(a.has_facts || a.knows_machine || a.knows_cpu);
                assert_string_equal(a.version, "");
                assert_string_equal(a.reason, "QEMU said nothing");
        }
        vm_ability_free(ability);
        sd_event_unref(event);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_it_tells_all_of_it),
                cmocka_unit_test(test_features_are_the_guests),
                cmocka_unit_test(test_what_it_does_not_know_is_named),
                cmocka_unit_test(test_the_answer_is_kept),
                cmocka_unit_test(test_there_may_be_no_qemu),
        };
        char *program = NULL;

        if (vm_find_program(VM_CONFIG_QEMU_DEFAULT, &program, NULL) < 0)
                return 77;
        free(program);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
