/* SPDX-License-Identifier: MIT */

/* A template's file: what was written is what is read, and what was not is not believed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/fd.h"
#include "vm/files.h"
#include "vm/template-file.h"
#include "vm/template.h"

#define BYTES (1ULL << 20)

typedef struct place {
        char above[64], path[80];
        int fd;
} place;

static void write_text(const char *path, const char *text) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        fd_close(fd);
}

static void place_begin(place *p) {
        strcpy(p->above, "/tmp/ferry-test-XXXXXX");
        assert_non_null(mkdtemp(p->above));
        snprintf(p->path, sizeof(p->path), "%s/tenant", p->above);
        assert_int_equal(template_folder_open(p->path, true, &p->fd, NULL), 0);
}

static void place_end(place *p) {
        (void)unlinkat(p->fd, TEMPLATE_FILE, 0);
        fd_close(p->fd);
        assert_int_equal(rmdir(p->path), 0);
        assert_int_equal(rmdir(p->above), 0);
}

static int new_memory(void) {
        int fd;

        assert_int_equal(memory_create(BYTES, &fd, NULL), 0);
        return fd;
}

static void put(int fd, const char *text, off_t at) {
        assert_int_equal(pwrite(fd, text, strlen(text), at), (ssize_t)strlen(text));
}

/* At both ends, at a page's last byte, side by side, and zeros that were written. */
static int filled_memory(void) {
        int fd = new_memory();

        put(fd, "first", 0);
        put(fd, "last", (off_t)BYTES - 4);
        put(fd, "x", 5 * 4096 - 1);
        put(fd, "y", 5 * 4096);
        put(fd, "far", 40 * 4096);
        assert_int_equal(pwrite(fd, "\0\0", 2, 80 * 4096), 2);
        return fd;
}

static void save(const place *p, const char *key, int memory) {
        assert_int_equal(template_save(p->fd, key, memory, BYTES, "devices", 7, NULL), 0);
}

static void assert_same(int a, int b) {
        uint8_t *one = malloc(BYTES), *two = malloc(BYTES);

        assert_int_equal(pread(a, one, BYTES, 0), BYTES);
        assert_int_equal(pread(b, two, BYTES, 0), BYTES);
        assert_memory_equal(one, two, BYTES);
        free(one);
        free(two);
}

static int read_back(const place *p, const char *key, int memory, uint64_t bytes) {
        const atomic_bool stop = false;
        uint8_t *devices = NULL;
        size_t n = 0;
        int fd, r;

        r = template_open(p->fd, key, &fd, NULL);
        if (r < 0)
                return r;
        r = template_read(fd, memory, bytes, &stop, &devices, &n, NULL);
        if (r == 0) {
                assert_int_equal(n, 7);
                assert_memory_equal(devices, "devices", 7);
        }
        free(devices);
        fd_close(fd);
        return r;
}

static void test_there_and_back(void **state) {
        int memory = filled_memory(), copy = new_memory(), fd;
        struct stat st;
        place p;

        place_begin(&p);
        save(&p, "key", memory);
        assert_int_equal(fstatat(p.fd, TEMPLATE_FILE, &st, 0), 0);
        assert_int_equal(st.st_mode, S_IFREG | 0600);
        assert_true(st.st_size < 32 * 4096); /* zeros take no room */
        assert_int_equal(read_back(&p, "key", copy, BYTES), 0);
        assert_same(memory, copy);
        assert_int_equal(fstat(copy, &st), 0);
        assert_true(st.st_blocks * 512 < 32 * 4096); /* neither there */
        assert_int_equal(read_back(&p, "another", copy, BYTES), -ENOENT);
        assert_int_equal(read_back(&p, "kez", copy, BYTES), -ENOENT);
        assert_int_equal(read_back(&p, "key", copy, BYTES / 2), -EBADMSG);
        assert_int_equal(template_open(p.fd, "key", &fd, NULL), 0);
        assert_int_equal(template_check(fd, NULL), 0);
        fd_close(fd);
        save(&p, "another", memory); /* the one before has gone */
        assert_int_equal(read_back(&p, "key", copy, BYTES), -ENOENT);
        fd_close(memory);
        fd_close(copy);
        place_end(&p);
}

/* Each of the first bytes, and some of each part behind. */
static void test_each_byte_counts(void **state) {
        int memory = filled_memory(), copy = new_memory(), fd;
        struct stat st;
        place p;

        place_begin(&p);
        save(&p, "key", memory);
        fd = openat(p.fd, TEMPLATE_FILE, O_RDWR | O_CLOEXEC);
        assert_int_equal(fstat(fd, &st), 0);
        for (off_t at = 0; at < st.st_size; at += at < 512 ? 1 : 997) {
                uint8_t byte, other;

                assert_int_equal(pread(fd, &byte, 1, at), 1);
                other = byte ^ 0x10;
                assert_int_equal(pwrite(fd, &other, 1, at), 1);
                assert_true(read_back(&p, "key", copy, BYTES) < 0);
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_int_equal(read_back(&p, "key", copy, BYTES), 0);
        for (off_t n = st.st_size - 1; n >= 0; n = n > 600 ? n - 997 : n - 1) {
                assert_int_equal(ftruncate(fd, n), 0);
                assert_int_equal(read_back(&p, "key", copy, BYTES), -EBADMSG);
        }
        fd_close(fd);
        fd_close(memory);
        fd_close(copy);
        place_end(&p);
}

/* A right digest does not make what it says sound: lengths and places are looked at all the same.
 */
static int read_made_up(const place *p, const template_head *like, const uint64_t run[2]) {
        _cleanup_(freep) uint8_t *file = calloc(1, BYTES);
        uint8_t *at = file + TEMPLATE_HEAD_SIZE;
        template_head head = *like;
        digest_stream *digest;
        size_t n;

        memcpy(at, "keydevices", 10);
        at += 10;
        for (int i = 0; i < 16; i++)
                at[i] = (uint8_t)(run[i / 8] >> (56 - 8 * (i % 8)));
        n = (size_t)(at + 16 + 4096 - file);
        template_head_write(&head, file);
        assert_int_equal(digest_stream_new(&digest), 0);
        digest_stream_add(digest, file, TEMPLATE_HEAD_SIZE - DIGEST_SIZE);
        digest_stream_add(digest, file + TEMPLATE_HEAD_SIZE, n - TEMPLATE_HEAD_SIZE);
        digest_stream_end(digest, head.digest);
        digest_stream_free(digest);
        template_head_write(&head, file);
        assert_int_equal(file_replace(p->fd, TEMPLATE_FILE, file, n, 0600, false), 0);
        return read_back(p, "key", -EBADF, BYTES);
}

static void test_lies_are_refused(void **state) {
        const template_head good = { 3, 7, 1, 4096, BYTES, { 0 } };
        static const uint64_t bad[][2] = {
                { BYTES, 4096 },
                { BYTES - 4096, 8192 },
                { 1, 4096 },
                { UINT64_MAX, 4096 },
                { 0, 0 },
                { 0, 100 },
                { UINT64_MAX - 4095, 4096 },
                { 0, UINT64_MAX - 4095 },
                { 4096, 8192 },
        };
        place p;

        place_begin(&p);
        assert_int_equal(read_made_up(&p, &good, (uint64_t[]){ BYTES - 4096, 4096 }), 0);
        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_int_equal(read_made_up(&p, &good, bad[i]), -EBADMSG);
        for (size_t i = 0; i < 5; i++) {
                template_head lie = good;

                *(&lie.n_key + i) = UINT64_MAX - 4000; /* sums that wrap */
                assert_int_equal(read_made_up(&p, &lie, (uint64_t[]){ 0, 4096 }), -EBADMSG);
        }
        place_end(&p);
}

/* Whatever others could have had their hands in. */
static void test_only_ours(void **state) {
        int memory = filled_memory(), fd;
        char path[96];
        place p;

        place_begin(&p);
        save(&p, "key", memory);
        for (unsigned bit = 1; bit <= 040; bit <<= 1) {
                assert_int_equal(fchmodat(p.fd, TEMPLATE_FILE, 0600 | bit, 0), 0);
                assert_int_equal(template_open(p.fd, "key", &fd, NULL), -EPERM);
                assert_int_equal(fchmodat(p.fd, TEMPLATE_FILE, 0600, 0), 0);
                assert_int_equal(chmod(p.path, 0700 | bit), 0);
                assert_int_equal(template_folder_open(p.path, false, &fd, NULL), -EPERM);
                assert_int_equal(chmod(p.path, 0700), 0);
                assert_int_equal(chmod(p.above, 0700 | bit), 0);
                assert_int_equal(template_folder_open(p.path, true, &fd, NULL), -EPERM);
                assert_int_equal(chmod(p.above, 0700), 0);
        }
        if (geteuid() == 0) {
                assert_int_equal(fchownat(p.fd, TEMPLATE_FILE, 12345, 0, 0), 0);
                assert_int_equal(template_open(p.fd, "key", &fd, NULL), -EPERM);
                assert_int_equal(fchownat(p.fd, TEMPLATE_FILE, 0, 0, 0), 0);
        }
        assert_int_equal(linkat(p.fd, TEMPLATE_FILE, p.fd, "other", 0), 0);
        assert_int_equal(template_open(p.fd, "key", &fd, NULL), -EPERM);
        assert_int_equal(renameat(p.fd, "other", p.fd, "moved"), 0);
        assert_int_equal(unlinkat(p.fd, TEMPLATE_FILE, 0), 0);
        assert_int_equal(symlinkat("moved", p.fd, TEMPLATE_FILE), 0);
        assert_true(template_open(p.fd, "key", &fd, NULL) < 0);
        assert_int_equal(unlinkat(p.fd, "moved", 0), 0);
        snprintf(path, sizeof(path), "%s/link", p.above);
        assert_int_equal(symlink("tenant", path), 0);
        assert_int_equal(template_folder_open(path, false, &fd, NULL), -EPERM);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(template_folder_open("tenant", false, &fd, NULL), -EINVAL);
        assert_int_equal(template_folder_open("/tenant", false, &fd, NULL), -EINVAL);
        fd_close(memory);
        place_end(&p);
}

static char *key_of(const char *more) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        char text[512], *key = NULL;

        snprintf(text, sizeof(text),
                 "{\"accelerator\":\"tcg\",\"cpu\":\"Nehalem-v1\",\"qemu\":\"/bin/true\","
                 "\"agent\":true,\"kernel\":\"/tmp/ferry-test-kernel-%d\"%s}",
                 (int)getpid(), more);
        assert_int_equal(vm_config_parse(text, strlen(text), &config, NULL), 0);
        return template_key(config, &key, NULL) == 0 ? key : NULL;
}

static void test_key(void **state) {
        static const char *const none[] = { ",\"disks\":[{\"path\":\"/dev/null\"}]",
                                            ",\"cmdline\":\"quiet ferry.ip=10.0.0.1/24\"",
                                            ",\"initrd\":\"/bin/no-such\"" };
        static const char *const other[] = {
                ",\"memory_mb\":128",       ",\"vcpus\":2",    ",\"cmdline\":\"quiet\"",
                ",\"scsi\":true",           ",\"network\":{}", ",\"machine\":\"pc-q35-8.0\"",
                ",\"initrd\":\"/bin/true\""
        };
        char kernel[64], *key, *again;

        snprintf(kernel, sizeof(kernel), "/tmp/ferry-test-kernel-%d", (int)getpid());
        write_text(kernel, "a kernel");
        key = key_of("");
        assert_non_null(key);
        for (size_t i = 0; i < ELEMENTS(other); i++) {
                again = key_of(other[i]);
                assert_non_null(again);
                assert_string_not_equal(key, again);
                free(again);
        }
        again = key_of(",\"network\":{\"mac\":\"52:54:00:00:00:01\"}");
        free(key);
        key = key_of(",\"network\":{\"mac\":\"52:54:00:00:00:02\",\"tap\":\"t\"}");
        assert_string_equal(key, again); /* each has its own */
        free(again);
        write_text(kernel, "b kernel");
        again = key_of(",\"network\":{}");
        assert_string_not_equal(key, again);
        free(again);
        free(key);
        for (size_t i = 0; i < ELEMENTS(none); i++)
                assert_null(key_of(none[i]));
        assert_int_equal(unlink(kernel), 0);
        assert_null(key_of(""));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_there_and_back),
                cmocka_unit_test(test_each_byte_counts),
                cmocka_unit_test(test_lies_are_refused),
                cmocka_unit_test(test_only_ours),
                cmocka_unit_test(test_key),
        };

        return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
