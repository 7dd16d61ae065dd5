/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "services/host-files.h"

/* The current folder is one of the test's own. */
static char place[] = "/tmp/ferry-host-files-XXXXXX";

static void write_file(const char *path, const void *data, size_t n, mode_t mode) {
        assert_int_equal(file_replace(AT_FDCWD, path, data, n, mode, false), 0);
        assert_int_equal(chmod(path, mode), 0);
}

static void make_folder(const char *path, mode_t mode) {
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(chmod(path, mode), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
        return remove(path);
}

static int setup(void **state) {
        strcpy(place + sizeof(place) - 7, "XXXXXX");
        return mkdtemp(place) && chdir(place) == 0 ? 0 : -1;
}

static int teardown(void **state) {
        return chdir("/") < 0 ? -1 : nftw(place, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int read_one(const char *name, host_files *ret, ferry_error *reterr) {
        char *source;
        int r;

        assert_true(asprintf(&source, "%s/%s", place, name) > 0);
        r = host_files_read(&source, 1, ret, reterr);
        free(source);
        return r;
}

static void must(const char *name, host_files *ret) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (read_one(name, ret, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
}

static void assert_refused(const char *name, int r, const char *why) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        host_files files;

        assert_int_equal(read_one(name, &files, &error), r);
        assert_int_equal(files.n, 0);
        assert_int_equal(files.bytes, 0);
        assert_int_equal(files.n_notes, 0);
        if (!strstr(ferry_error_message(&error), why) ||
            !strstr(ferry_error_message(&error), place))
                fail_msg("%s", ferry_error_message(&error));
        host_files_done(&files);
}

static const guest_file *find(const host_files *files, const char *path) {
        for (size_t i = 0; i < files->n; i++)
                if (strcmp(files->items[i].path, path) == 0)
                        return &files->items[i];
        fail_msg("no %s", path);
        return NULL;
}

static void assert_file(const host_files *files, const char *path, mode_t mode, const char *data) {
        const guest_file *file = find(files, path);

        assert_int_equal(file->mode, mode);
        assert_int_equal(file->uid, getuid());
        assert_int_equal(file->n, strlen(data));
        if (file->n > 0)
                assert_memory_equal(file->data, data, file->n);
}

static bool has_note(const host_files *files, const char *text) {
        for (size_t i = 0; i < files->n_notes; i++)
                if (strstr(files->notes[i], text))
                        return true;
        return false;
}

/* As the kubelet writes one. */
static void make_volume(void) {
        make_folder("volume", 01777);
        make_folder("volume/..1", 0755);
        write_file("volume/..1/token", "secret", 6, 0640);
        write_file("volume/..1/empty", "", 0, 0644);
        assert_int_equal(symlink("..1", "volume/..data"), 0);
        assert_int_equal(symlink("..data/token", "volume/token"), 0);
        assert_int_equal(symlink("/etc/passwd", "volume/out"), 0);
}

static void test_a_folder(void **state) {
        host_files files;

        make_volume();
        must("volume", &files);
        assert_int_equal(files.n, 7);
        assert_file(&files, "0", S_IFDIR | 01777, "");
        assert_file(&files, "0/..1", S_IFDIR | 0755, "");
        assert_file(&files, "0/..1/token", S_IFREG | 0640, "secret");
        assert_file(&files, "0/..1/empty", S_IFREG | 0644, "");
        assert_file(&files, "0/..data", S_IFLNK | 0777, "..1");
        assert_file(&files, "0/token", S_IFLNK | 0777, "..data/token");
        assert_file(&files, "0/out", S_IFLNK | 0777, "/etc/passwd"); /* it is not followed */
        assert_string_equal(files.items[0].path, "0");
        assert_true(find(&files, "0/..1") < find(&files, "0/..1/token"));
        assert_int_equal(files.n_notes, 1);
        assert_true(has_note(&files, "copied into the VM (7 "));
        host_files_done(&files);
}

/* Other sources behind it; one that is a link is followed, as mount(2) does. */
static void test_several(void **state) {
        char *sources[3] = { NULL };
        host_files files;

        make_volume();
        write_file("hosts", "127.0.0.1 localhost\n", 20, 04755);
        assert_int_equal(symlink("volume/..data", "link"), 0);
        assert_true(asprintf(&sources[0], "%s/hosts", place) > 0);
        assert_true(asprintf(&sources[1], "%s/link", place) > 0);
        assert_true(asprintf(&sources[2], "%s/hosts", place) > 0);
        assert_int_equal(host_files_read(sources, 3, &files, NULL), 0);
        assert_int_equal(files.n, 5);
        assert_file(&files, "0", S_IFREG | 04755, "127.0.0.1 localhost\n");
        assert_file(&files, "1", S_IFDIR | 0755, "");
        assert_file(&files, "1/token", S_IFREG | 0640, "secret");
        assert_file(&files, "2", S_IFREG | 04755, "127.0.0.1 localhost\n");
        assert_int_equal(files.bytes, 46);
        host_files_done(&files);
        for (size_t i = 0; i < ELEMENTS(sources); i++)
                free(sources[i]);
}

static void test_what_is_left_out(void **state) {
        host_files files;
        int fd;

        make_folder("odd", 0755);
        assert_int_equal(mkfifo("odd/pipe", 0600), 0);
        assert_int_equal(unix_listen("odd/socket", 0600, 1, &fd), 0);
        write_file("odd/file", "x", 1, 0600);
        must("odd", &files);
        fd_close(fd);
        assert_int_equal(files.n, 2);
        assert_file(&files, "0/file", S_IFREG | 0600, "x");
        assert_true(has_note(&files, "left out: 0/pipe"));
        assert_true(has_note(&files, "left out: 0/socket"));
        host_files_done(&files);
        assert_refused("odd/pipe", -EINVAL, "neither a file nor a folder");
        assert_refused("none", -ENOENT, "No such file");
}

/* Where there is one. */
static void test_a_mount_in_it(void **state) {
        char *source = (char *)"/dev";
        host_files files;
        struct stat dev, pts;

        if (stat("/dev", &dev) < 0 || stat("/dev/pts", &pts) < 0 || dev.st_dev == pts.st_dev)
                return;
        assert_int_equal(host_files_read(&source, 1, &files, NULL), 0);
        assert_true(has_note(&files, "left out: 0/pts: another file system"));
        host_files_done(&files);
}

static void test_limits(void **state) {
        static uint8_t data[HOST_FILES_BYTES_MAX];
        char path[64];
        host_files files;

        make_folder("large", 0755);
        write_file("large/all", data, sizeof(data), 0644);
        must("large", &files);
        assert_int_equal(files.bytes, HOST_FILES_BYTES_MAX);
        assert_memory_equal(find(&files, "0/all")->data, data, sizeof(data));
        host_files_done(&files);
        write_file("large/more", "x", 1, 0644);
        assert_refused("large", -EFBIG, "3 files, folders and links with 2.0 MiB");
        assert_int_equal(truncate("large/more", 1LL << 40), 0);
        assert_refused("large", -EFBIG, "links with 104857");

        make_folder("many", 0755);
        for (unsigned i = 1; i < HOST_FILES_MAX; i++) {
                (void)snprintf(path, sizeof(path), "many/%u", i);
                write_file(path, "", 0, 0644);
        }
        must("many", &files);
        assert_int_equal(files.n, HOST_FILES_MAX);
        host_files_done(&files);
        write_file("many/0", "", 0, 0644);
        assert_refused("many", -EFBIG, "1025 files, folders and links with 0.0 MiB");
}

static void test_too_many_together(void **state) {
        static const uint8_t half[HOST_FILES_BYTES_MAX / 2 + 1];
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        char *sources[2] = { NULL };
        host_files files;

        write_file("half", half, sizeof(half), 0644);
        assert_true(asprintf(&sources[0], "%s/half", place) > 0);
        sources[1] = sources[0];
        assert_int_equal(host_files_read(sources, 2, &files, &error), -EFBIG);
        assert_non_null(
                strstr(ferry_error_message(&error), "others of its mounts have 1 with 1.0 MiB"));
        host_files_done(&files);
        free(sources[0]);
}

static void test_too_deep(void **state) {
        char path[512] = "deep";
        host_files files;

        make_folder(path, 0755);
        for (unsigned i = 1; i < HOST_FILES_DEPTH_MAX; i++) {
                strcat(path, "/d");
                make_folder(path, 0755);
        }
        must("deep", &files);
        assert_int_equal(files.n, HOST_FILES_DEPTH_MAX);
        host_files_done(&files);
        strcat(path, "/d");
        make_folder(path, 0755);
        assert_refused("deep", -EINVAL, "more than 16 folders");
}

static void test_too_long(void **state) {
        char name[201], path[700] = "long";

        memset(name, 'n', sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        make_folder(path, 0755);
        for (unsigned i = 0; i < 3; i++) {
                strcat(path, "/");
                strcat(path, name);
                make_folder(path, 0755);
        }
        assert_refused("long", -EINVAL, "too long");
}

static void test_a_shared_one(void **state) {
        host_files files;

        make_folder("kubernetes.io~empty-dir", 0755);
        make_folder("kubernetes.io~empty-dir/cache", 01777);
        write_file("kubernetes.io~empty-dir/cache/file", "x", 1, 0644);
        must("kubernetes.io~empty-dir/cache", &files);
        assert_int_equal(files.n, 1);
        assert_file(&files, "cache", S_IFDIR | 01777, "");
        assert_true(files.items[0].shared);
        assert_true(has_note(&files, "all of its containers share it"));
        host_files_done(&files);
        make_folder("kubernetes.io~empty-dir/cache/part", 0755);
        assert_refused("kubernetes.io~empty-dir/cache/part", -EINVAL, "a part of an emptyDir");
        assert_refused("kubernetes.io~empty-dir/cache/file", -EINVAL, "a part of an emptyDir");
}

/* Another process goes on changing it as the kubelet does: what is read is of one version, or
 * refused. */
static void swap_forever(void) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails does not get to kill it */
        char folder[64], file[80], number[16];

        for (unsigned i = 2;; i++) {
                (void)snprintf(folder, sizeof(folder), "volume/..%u", i);
                (void)snprintf(file, sizeof(file), "%s/token", folder);
                (void)snprintf(number, sizeof(number), "..%u", i);
                (void)mkdir(folder, 0755);
                (void)file_replace(AT_FDCWD, file, number, strlen(number), 0644, false);
                (void)symlink(number, "volume/..new");
                (void)rename("volume/..new", "volume/..data");
                (void)snprintf(folder, sizeof(folder), "volume/..%u", i - 1);
                (void)snprintf(file, sizeof(file), "%s/token", folder);
                (void)unlink(file);
                (void)rmdir(folder);
        }
}

static void test_one_that_changes(void **state) {
        unsigned n_read = 0;
        pid_t pid;

        make_volume();
        assert_int_equal(unlink("volume/..1/empty"), 0);
        pid = fork();
        if (pid == 0)
                swap_forever();
        for (unsigned i = 0; i < 1000; i++) {
                host_files files;
                char path[64];
                int r = read_one("volume", &files, NULL);

                assert_true(r == 0 || r == -EAGAIN);
                if (r == 0) {
                        const guest_file *data = find(&files, "0/..data");

                        (void)snprintf(path, sizeof(path), "0/%.*s/token", (int)data->n,
                                       (const char *)data->data);
                        (void)find(&files, path);
                        n_read++;
                }
                host_files_done(&files);
        }
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        print_message("# read %u times of 1000\n", n_read);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_a_folder, setup, teardown),
                cmocka_unit_test_setup_teardown(test_several, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_left_out, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_mount_in_it, setup, teardown),
                cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_many_together, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_deep, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_shared_one, setup, teardown),
                cmocka_unit_test_setup_teardown(test_one_that_changes, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
