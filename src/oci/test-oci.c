/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>

#include "base/fd.h"
#include "oci/oci.h"

static const oci_options options = { .root = "/g/root",
                                     .cgroup = "/ferry/c1",
                                     .files_folder = "/g/files",
                                     .shared_folder = "/g/shared" };

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
        assert_int_equal(json_array_size(json_object_get(l, "namespaces")), 4); /* uts too */
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

/* The name is that of the volume: the pod that it is in has another path on each host. */
static void test_an_empty_dir(void **state) {
        static const char text[] =
                "{\"process\":{},\"mounts\":[{\"destination\":\"/a\",\"type\":\"bind\",\"source\":"
                "\"/k/pods/1/volumes/kubernetes.io~empty-dir/cache-2\"},{\"destination\":\"/b\","
                "\"type\":\"bind\",\"source\":\"/x\"}]}";
        _cleanup_(oci_config_done) oci_config c;
        json_t *json = translated(text, &c), *mounts = json_object_get(json, "mounts");

        assert_int_equal(c.n_files, 2);
        assert_string_equal(json_string_value(json_object_get(json_array_get(mounts, 0), "source")),
                            "/g/shared/cache-2");
        assert_string_equal(json_string_value(json_object_get(json_array_get(mounts, 1), "source")),
                            "/g/files/1");
        json_decref(json);
        assert_string_equal(oci_shared_name("/x/kubernetes.io~empty-dir/a.b-c"), "a.b-c");
        assert_null(oci_shared_name("/x/kubernetes.io~empty-dir"));
        assert_null(oci_shared_name("/x/kubernetes.io~empty-dir/"));
        assert_null(oci_shared_name("/x/kubernetes.io~empty-dir/.."));
        assert_null(oci_shared_name("/x/kubernetes.io~empty-dir/a/b"));
        assert_null(oci_shared_name(
                "/x/kubernetes.io~empty-dir/"
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        assert_null(oci_shared_name("/x/kubernetes.io~configmap/a"));
}

/* ---- what `ctr run` of three containerds wrote for a real runc ---- */

typedef struct bundle {
        const char *name;  /* in testdata, without .json */
        const char *files; /* brought in, each with a blank after it */
        const char *notes; /* the first words of them, likewise */
        bool terminal;
} bundle;

/* `network` of the namespaces; `devices` of linux's, of its resources' or of both. */
static const bundle bundles[] = {
        { "ctr-1.6-plain", "", "devices network ", false },
        { "ctr-1.6-terminal", "", "devices network ", true },
        { "ctr-1.6-memory-limit", "", "devices network ", false },
        { "ctr-1.6-net-host", "/etc/hosts /etc/resolv.conf ", "devices ", false },
        { "ctr-1.6-mount-file", "/srv/note ", "devices network ", false },
        { "ctr-1.6-device", "", "devices devices network ", false },
        { "ctr-1.6-privileged", "", "devices devices network ", false },
        { "ctr-1.6-seccomp-cpus", "", "devices network ", false },
        { "ctr-1.7-env-user", "", "devices network ", false },
        { "ctr-2.1-seccomp-cpus", "", "devices network ", false },
};

/* What is for the guest to do as the host would have: to the last of its values. */
static void assert_kept(const json_t *before, const json_t *after) {
        static const char *const of_linux[] = { "seccomp", "maskedPaths", "readonlyPaths" };
        static const char *const of_resources[] = { "memory", "cpu" };
        const json_t *l[] = { json_object_get(before, "linux"), json_object_get(after, "linux") };

        assert_true(
                json_equal(json_object_get(before, "process"), json_object_get(after, "process")));
        for (size_t i = 0; i < ELEMENTS(of_linux); i++) {
                const json_t *was = json_object_get(l[0], of_linux[i]);

                assert_true(!was == !json_object_get(l[1], of_linux[i]));
                assert_true(!was || json_equal(was, json_object_get(l[1], of_linux[i])));
        }
        for (size_t i = 0; i < ELEMENTS(of_resources); i++) {
                const json_t *was =
                        json_object_get(json_object_get(l[0], "resources"), of_resources[i]);
                const json_t *is =
                        json_object_get(json_object_get(l[1], "resources"), of_resources[i]);

                assert_true(!was == !is && (!was || json_equal(was, is)));
        }
}

/* A bind mount differs in its source and in nothing else, the others in nothing. */
static void assert_mounts(json_t *before, json_t *after, size_t n_binds) {
        const json_t *was;
        size_t i, n = 0;

        assert_int_equal(json_array_size(before), json_array_size(after));
        json_array_foreach(before, i, was) {
                json_t *is = json_array_get(after, i);
                char path[32];

                if (strcmp(json_string_value(json_object_get(was, "type")), "bind") == 0) {
                        snprintf(path, sizeof(path), "%s/%zu", options.files_folder, n++);
                        assert_string_equal(json_string_value(json_object_get(is, "source")), path);
                        (void)json_object_set(is, "source", json_object_get(was, "source"));
                }
                assert_true(json_equal(was, is));
        }
        assert_int_equal(n, n_binds);
}

static void assert_of_the_guest(const json_t *before, const json_t *after) {
        const json_t *l = json_object_get(after, "linux"), *item;
        size_t i;

        assert_string_equal(text_at(after, "root", "path"), options.root);
        assert_true(json_is_true(json_object_get(json_object_get(after, "root"), "readonly")) ==
                    json_is_true(json_object_get(json_object_get(before, "root"), "readonly")));
        assert_string_equal(json_string_value(json_object_get(after, "ociVersion")), "1.0.2");
        assert_string_equal(json_string_value(json_object_get(l, "cgroupsPath")), options.cgroup);
        assert_null(json_object_get(l, "devices"));
        assert_null(json_object_get(json_object_get(l, "resources"), "devices"));
        assert_int_equal(json_array_size(json_object_get(l, "namespaces")), 4);
        json_array_foreach(json_object_get(l, "namespaces"), i, item) {
                const char *type = json_string_value(json_object_get(item, "type"));

                assert_null(json_object_get(item, "path"));
                assert_true(strcmp(type, "pid") == 0 || strcmp(type, "ipc") == 0 ||
                            strcmp(type, "uts") == 0 || strcmp(type, "mount") == 0);
        }
}

static void assert_words(char *const *texts, size_t n, char end, const char *wanted) {
        char found[512] = "";

        for (size_t i = 0; i < n; i++) {
                size_t at = strlen(found);

                snprintf(found + at, sizeof(found) - at, "%.*s ",
                         (int)strcspn(texts[i], (char[]){ end, 0 }), texts[i]);
        }
        assert_string_equal(found, wanted);
}

static void test_bundles_of_ctr(void **state) {
        const char *folder = getenv("FERRY_OCI_BUNDLES");

        assert_non_null(folder);
        for (size_t i = 0; i < ELEMENTS(bundles); i++) {
                const bundle *b = &bundles[i];
                _cleanup_(oci_config_done) oci_config c = { .n_files = 0 };
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                _cleanup_(freep) char *text = NULL;
                char path[4096];
                json_t *before, *after;
                size_t n;

                snprintf(path, sizeof(path), "%s/%s.json", folder, b->name);
                print_message("# %s\n", b->name);
                assert_int_equal(file_read(AT_FDCWD, path, OCI_TEXT_MAX, &text, &n), 0);
                if (oci_translate(text, n, &options, &c, &error) < 0)
                        fail_msg("%s", ferry_error_message(&error));
                before = json_loadb(text, n, 0, NULL);
                after = json_loads(c.text, 0, NULL);
                assert_kept(before, after);
                assert_mounts(json_object_get(before, "mounts"), json_object_get(after, "mounts"),
                              c.n_files);
                assert_of_the_guest(before, after);
                assert_true(c.terminal == b->terminal);
                assert_words(c.files, c.n_files, '\0', b->files);
                assert_words(c.notes, c.n_notes, ':', b->notes);
                json_decref(before);
                json_decref(after);
        }
}

/* So that the comparisons above are of something. */
static void test_bundles_hold_what_they_are_named_for(void **state) {
        static const char *const named[][2] = {
                { "ctr-1.6-memory-limit", "\"memory\":{\"limit\":67108864}" },
                { "ctr-1.6-seccomp-cpus", "\"quota\":50000" },
                { "ctr-1.6-seccomp-cpus", "SCMP_ACT_ALLOW" },
                { "ctr-1.6-seccomp-cpus", "\"readonly\":true" },
                { "ctr-1.6-privileged", "CAP_SYS_ADMIN" },
                { "ctr-1.6-privileged", "/dev/cpu/0/cpuid" },
                { "ctr-1.6-device", "/dev/fuse" },
                { "ctr-1.7-env-user", "\"uid\":1000,\"gid\":1000" },
                { "ctr-1.7-env-user", "\"A=b\",\"EMPTY=\"" },
                { "ctr-2.1-seccomp-cpus", "\"ociVersion\":\"1.2.1\"" },
        };

        for (size_t i = 0; i < ELEMENTS(named); i++) {
                _cleanup_(freep) char *text = NULL;
                char path[4096];
                size_t n;

                snprintf(path, sizeof(path), "%s/%s.json", getenv("FERRY_OCI_BUNDLES"),
                         named[i][0]);
                assert_int_equal(file_read(AT_FDCWD, path, OCI_TEXT_MAX, &text, &n), 0);
                if (!memmem(text, n, named[i][1], strlen(named[i][1])))
                        fail_msg("%s: no %s", named[i][0], named[i][1]);
        }
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
                "{\"process\":{},\"mounts\":[{\"destination\":\"/x\",\"type\":\"ext4\"}]}",
                "{\"process\":{},\"mounts\":[{\"destination\":\"/x\",\"type\":\"overlay\"}]}",
                "{\"process\":{},\"mounts\":[{\"destination\":\"/x\",\"type\":\"9p\"}]}",
                "{\"process\":{},\"mounts\":[{\"destination\":\"/x\"}]}",
                "{\"process\":{},\"linux\":{\"namespaces\":\"x\"}}",
                "{\"process\":{},\"linux\":{\"namespaces\":{\"type\":\"pid\"}}}",
                "{\"process\":{},\"linux\":{\"namespaces\":[7]}}",
                "{\"process\":{},\"linux\":{\"namespaces\":[{\"type\":\"pids\"}]}}",
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

/* What would let it see more of the guest than is its own, or what the guest's kernel has not got.
 */
static void test_what_is_left_out(void **state) {
        static const char config[] =
                "{\"process\":{},\"mounts\":[{\"destination\":\"/dev/shm//\",\"type\":\"bind\","
                "\"source\":\"/run/shm\"},{\"destination\":\"/f\",\"type\":\"bind\",\"source\":\"/"
                "f\",\"uidMappings\":[{\"containerID\":0}],\"gidMappings\":[]}],"
                "\"linux\":{\"seccomp\":{\"listenerPath\":\"/s\",\"listenerMetadata\":\"m\","
                "\"defaultAction\":\"SCMP_ACT_ALLOW\"},"
                "\"resources\":{\"memory\":{\"limit\":5,\"swappiness\":1,\"kernel\":2,"
                "\"kernelTCP\":3,"
                "\"disableOOMKiller\":true},\"cpu\":{\"shares\":7,\"realtimeRuntime\":1,"
                "\"realtimePeriod\":2}}}}";
        _cleanup_(oci_config_done) oci_config c;
        json_t *json = translated(config, &c), *l = json_object_get(json, "linux"), *item;
        json_t *resources = json_object_get(l, "resources");
        size_t i, n_pid = 0, n_mount = 0;

        assert_int_equal(c.n_files, 1);
        item = json_array_get(json_object_get(json, "mounts"), 0);
        assert_string_equal(json_string_value(json_object_get(item, "type")), "tmpfs");
        item = json_array_get(json_object_get(json, "mounts"), 1);
        assert_null(json_object_get(item, "uidMappings"));
        assert_null(json_object_get(item, "gidMappings"));
        assert_int_equal(json_object_size(json_object_get(l, "seccomp")), 1);
        assert_int_equal(json_object_size(json_object_get(resources, "memory")), 1);
        assert_int_equal(json_object_size(json_object_get(resources, "cpu")), 1);
        json_array_foreach(json_object_get(l, "namespaces"), i, item) {
                n_pid += strcmp(json_string_value(json_object_get(item, "type")), "pid") == 0;
                n_mount += strcmp(json_string_value(json_object_get(item, "type")), "mount") == 0;
        }
        assert_int_equal(n_pid, 1);
        assert_int_equal(n_mount, 1);
        assert_true(has_note(&c, "listenerPath") && has_note(&c, "swappiness") &&
                    has_note(&c, "realtimePeriod") && has_note(&c, "uidMappings"));
        json_decref(json);
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
                cmocka_unit_test(test_an_empty_dir),
                cmocka_unit_test(test_a_container_of_ctr),
                cmocka_unit_test(test_the_smallest),
                cmocka_unit_test(test_what_is_refused),
                cmocka_unit_test(test_what_is_left_out),
                cmocka_unit_test(test_too_many_files),
                cmocka_unit_test(test_a_process),
                cmocka_unit_test(test_an_annotation),
                cmocka_unit_test(test_bundles_of_ctr),
                cmocka_unit_test(test_bundles_hold_what_they_are_named_for),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
