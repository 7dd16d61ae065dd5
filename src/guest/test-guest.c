/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <string.h>

#include "guest/command.h"
#include "guest/cpio.h"
#include "guest/image.h"
#include "guest/modules.h"
#include "guest/tar.h"

/* ---- cpio */

/* Fields of a header: inode, mode, uid, gid, links, mtime, size, dev 2, rdev 2, path size, check.
 */
static const char golden[] = "070701"
                             "00000001"
                             "000041ED"
                             "0000000000000000"
                             "00000002"
                             "00000000"
                             "00000000"
                             "0000000000000000"
                             "0000000000000000"
                             "00000004"
                             "00000000"
                             "bin\0"
                             "\0\0"
                             "070701"
                             "00000002"
                             "000081ED"
                             "0000000000000000"
                             "00000001"
                             "00000000"
                             "00000005"
                             "0000000000000000"
                             "0000000000000000"
                             "00000006"
                             "00000000"
                             "bin/x\0"
                             "hello\0\0\0"
                             "070701"
                             "00000003"
                             "0000A1FF"
                             "0000000000000000"
                             "00000001"
                             "00000000"
                             "00000001"
                             "0000000000000000"
                             "0000000000000000"
                             "00000007"
                             "00000000"
                             "bin/sh\0\0\0\0"
                             "x\0\0\0"
                             "070701"
                             "00000004"
                             "00002180"
                             "0000000000000000"
                             "00000001"
                             "00000000"
                             "00000000"
                             "0000000000000000"
                             "0000000500000001"
                             "00000008"
                             "00000000"
                             "console\0\0\0"
                             "070701"
                             "00000000"
                             "00000000"
                             "0000000000000000"
                             "00000001"
                             "00000000"
                             "00000000"
                             "0000000000000000"
                             "0000000000000000"
                             "0000000B"
                             "00000000"
                             "TRAILER!!!\0"
                             "\0\0\0";

static void test_cpio_bytes(void **state) {
        _cleanup_(cpio_done) cpio_writer w = { 0 };
        size_t n = sizeof(golden) - 1;

        assert_int_equal(cpio_add_folder(&w, "bin", 0755), 0);
        assert_int_equal(cpio_add_file(&w, "bin/x", 0755, "hello", 5), 0);
        assert_int_equal(cpio_add_link(&w, "bin/sh", "x"), 0);
        assert_int_equal(cpio_add_device(&w, "console", 0600, 5, 1), 0);
        assert_int_equal(cpio_finish(&w), 0);
        assert_true(w.n >= n);
        assert_memory_equal(w.data, golden, n);
        assert_int_equal(w.n % 512, 0);
        for (size_t i = n; i < w.n; i++)
                assert_int_equal(w.data[i], 0);
}

static void test_cpio_refuses(void **state) {
        _cleanup_(cpio_done) cpio_writer w = { 0 };
        char path[CPIO_PATH_MAX + 2];

        memset(path, 'a', sizeof(path));
        path[sizeof(path) - 1] = '\0';
        assert_int_equal(cpio_add_folder(&w, "", 0755), -EINVAL);
        assert_int_equal(cpio_add_folder(&w, "/bin", 0755), -EINVAL);
        assert_int_equal(cpio_add_folder(&w, path, 0755), -EINVAL);
        assert_int_equal(cpio_add_file(&w, "x", 0644, "", (size_t)CPIO_SIZE_MAX + 1), -EFBIG);
}

/* ---- tar */

typedef struct archive {
        char data[16 * 512];
        size_t n;
} archive;

static void archive_add(archive *a, char type, const char *path, const char *content) {
        char *header = a->data + a->n;
        size_t n_content = strlen(content);
        unsigned sum = 0;

        assert_true(a->n + 1024 + n_content < sizeof(a->data));
        memset(header, 0, 512);
        memcpy(header, path, strlen(path));
        (void)snprintf(header + 124, 12, "%011o", (unsigned)n_content);
        header[156] = type;
        memcpy(header + 257, "ustar  ", 8); /* GNU's */
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
                sum += (unsigned char)header[i];
        (void)snprintf(header + 148, 8, "%06o", sum);
        a->n += 512;
        memcpy(a->data + a->n, content, n_content);
        a->n += (n_content + 511) / 512 * 512;
}

static void archive_example(archive *a) {
        *a = (archive){ 0 };
        archive_add(a, '5', "./boot/", "");
        archive_add(a, '0', "./boot/vmlinuz", "kernel");
        archive_add(a, 'L', "././@LongLink", "./a/long/name.ko");
        archive_add(a, '0', "./a/lo", "module");
        a->n += 1024; /* the end: two blocks of zeros */
}

static FILE *open_bytes(const char *data, size_t n) {
        FILE *file = fmemopen((void *)data, n, "r");

        assert_non_null(file);
        return file;
}

static void test_tar_reads(void **state) {
        archive a;

        archive_example(&a);
        _cleanup_(fclosep) FILE *file = open_bytes(a.data, a.n);
        _cleanup_(freep) char *kernel = NULL;
        tar_reader t = { .file = file };
        size_t n;

        assert_int_equal(tar_next(&t), 1);
        assert_string_equal(t.path, "./boot/");
        assert_int_equal(t.type, '5');
        assert_int_equal(tar_next(&t), 1);
        assert_string_equal(t.path, "./boot/vmlinuz");
        assert_int_equal(tar_read(&t, &kernel, &n), 0);
        assert_int_equal(n, 6);
        assert_string_equal(kernel, "kernel");
        assert_int_equal(tar_next(&t), 1);
        assert_string_equal(t.path, "./a/long/name.ko");
        assert_int_equal(t.size, 6); /* left unread */
        assert_int_equal(tar_next(&t), 0);
}

/* Cut anywhere before the end, or with any header byte changed, it is an error, not a short list.
 */
static void test_tar_refuses_damage(void **state) {
        archive a;

        archive_example(&a);
        for (size_t cut = 1; cut < a.n - 1024; cut += 7) {
                _cleanup_(fclosep) FILE *file = open_bytes(a.data, cut);
                tar_reader t = { .file = file };
                int r;

                while ((r = tar_next(&t)) > 0)
                        ;
                assert_int_equal(r, -EBADMSG);
        }
        for (size_t i = 0; i < 512; i++) {
                archive damaged = a;

                if (i >= 148 && i < 156) /* blanks and NULs there mean the same */
                        continue;
                damaged.data[i] = (char)(damaged.data[i] ^ 1);
                _cleanup_(fclosep) FILE *file = open_bytes(damaged.data, damaged.n);
                tar_reader t = { .file = file };

                assert_int_equal(tar_next(&t), -EBADMSG);
        }
}

/* ---- modules */

typedef struct elf_module {
        Elf64_Ehdr header;
        char names[24]; /* "" ".shstrtab" ".modinfo" */
        char info[64];
        Elf64_Shdr sections[3];
} elf_module;

/* `info` ends at its array's end: NUL-terminated strings, one behind the other. */
static elf_module make_module(const char *info, size_t n_info) {
        elf_module m = { .names = "\0.shstrtab\0.modinfo" };

        memcpy(m.header.e_ident, ELFMAG, SELFMAG);
        m.header.e_ident[EI_CLASS] = ELFCLASS64;
        m.header.e_ident[EI_DATA] = ELFDATA2LSB;
        m.header.e_shoff = offsetof(elf_module, sections);
        m.header.e_shentsize = sizeof(Elf64_Shdr);
        m.header.e_shnum = 3;
        m.header.e_shstrndx = 1;
        m.sections[1] = (Elf64_Shdr){ .sh_name = 1,
                                      .sh_type = SHT_STRTAB,
                                      .sh_offset = offsetof(elf_module, names),
                                      .sh_size = sizeof(m.names) };
        m.sections[2] = (Elf64_Shdr){ .sh_name = 11,
                                      .sh_type = SHT_PROGBITS,
                                      .sh_offset = offsetof(elf_module, info),
                                      .sh_size = n_info };
        memcpy(m.info, info, n_info);
        return m;
}

#define MODULE(info) make_module(info, sizeof(info))

static void give(module_list *list, const char *name, elf_module content) {
        module *m;

        assert_true(module_list_add(list, name, strlen(name)) >= 0);
        m = module_list_find(list, name, strlen(name));
        assert_non_null(m);
        m->data = malloc(sizeof(content));
        assert_non_null(m->data);
        memcpy(m->data, &content, sizeof(content));
        m->n_data = sizeof(content);
}

static void test_module_info(void **state) {
        elf_module m = MODULE("license=GPL\0depends=virtio,virtio-ring\0alias=x");
        const char *value = NULL;

        assert_int_equal(module_info((char *)&m, sizeof(m), "depends", &value), 1);
        assert_string_equal(value, "virtio,virtio-ring");
        assert_int_equal(module_info((char *)&m, sizeof(m), "alias", &value), 1);
        assert_string_equal(value, "x");
        assert_int_equal(module_info((char *)&m, sizeof(m), "depend", &value), 0);
}

/* Cut short at every byte, and with every byte of its headers changed: refused, never read past
 * (exact-size copies, so that ASan sees one byte too far). */
static void test_module_info_damaged(void **state) {
        elf_module m = MODULE("depends=virtio");
        const char *value;

        for (size_t cut = 0; cut < sizeof(m); cut++) {
                _cleanup_(freep) char *part = malloc(cut + !cut);

                assert_non_null(part);
                memcpy(part, &m, cut);
                assert_int_equal(module_info(part, cut, "depends", &value), -EBADMSG);
        }
        for (size_t i = 0; i < sizeof(m); i++) {
                _cleanup_(freep) char *copy = malloc(sizeof(m));

                assert_non_null(copy);
                memcpy(copy, &m, sizeof(m));
                copy[i] = (char)(copy[i] ^ 0x81);
                (void)module_info(copy, sizeof(m), "depends", &value);
        }
        m = make_module("depends=virtio", 14); /* no NUL */
        assert_int_equal(module_info((char *)&m, sizeof(m), "depends", &value), -EBADMSG);
}

static void test_module_order(void **state) {
        _cleanup_(freep) module_list *list = calloc(1, sizeof(*list));
        const module *order[MODULE_COUNT_MAX];
        size_t n = 0;

        assert_non_null(list);
        give(list, "virtio-net", MODULE("depends=net_failover,virtio"));
        assert_int_equal(module_list_close(list), 1);
        assert_int_equal(module_list_close(list), 0);
        give(list, "net_failover", MODULE("depends=failover"));
        assert_int_equal(module_list_close(list), 1);
        give(list, "virtio", MODULE("depends="));
        give(list, "failover", MODULE("license=GPL"));
        assert_int_equal(module_list_close(list), 0);
        assert_int_equal(module_list_order(list, order, &n), 0);
        assert_int_equal(n, 4);
        assert_string_equal(order[0]->name, "failover");
        assert_string_equal(order[1]->name, "net_failover");
        assert_string_equal(order[2]->name, "virtio");
        assert_string_equal(order[3]->name, "virtio_net");
        module_list_done(list);
}

static void test_module_loop(void **state) {
        _cleanup_(freep) module_list *list = calloc(1, sizeof(*list));
        const module *order[MODULE_COUNT_MAX];
        size_t n;

        assert_non_null(list);
        give(list, "a", MODULE("depends=b"));
        give(list, "b", MODULE("depends=a"));
        assert_int_equal(module_list_order(list, order, &n), -ELOOP);
        module_list_done(list);
}

static void test_module_names(void **state) {
        _cleanup_(freep) module_list *list = calloc(1, sizeof(*list));
        const char *name;
        char text[8];

        assert_non_null(list);
        assert_int_equal(module_list_add(list, "virtio-rng", 10), 1);
        assert_int_equal(module_list_add(list, "virtio_rng", 10), 0);
        assert_int_equal(module_list_add(list, "virtio", 6), 1);
        assert_int_equal(module_list_add(list, "", 0), -EINVAL);
        assert_int_equal(module_list_add(list, "../x", 4), -EINVAL);
        module_list_mark_built_in(list, "kernel/a/virtio.ko\nkernel/a/other.ko\nkernel/virtio-rng");
        assert_true(list->items[1].built_in);
        assert_false(list->items[0].built_in);
        assert_int_equal(module_name_of_path("a/virtio-rng.ko", 15, &name), 10);
        assert_memory_equal(name, "virtio-rng", 10);
        assert_int_equal(module_name_of_path("x.ko", 4, &name), 1);
        assert_int_equal(module_name_of_path(".ko", 3, &name), 0);
        assert_int_equal(module_name_of_path("a/x.ko.xz", 9, &name), 0);
        for (int i = 2; i < (int)MODULE_COUNT_MAX; i++)
                assert_int_equal(
                        module_list_add(list, text, (size_t)snprintf(text, sizeof(text), "m%d", i)),
                        1);
        assert_int_equal(module_list_add(list, "more", 4), -E2BIG);
}

/* ---- programs */

static void test_command(void **state) {
        const char *const says[] = { "sh", "-c", "echo out; echo err >&2", NULL };
        const char *const fails[] = { "sh", "-c", "echo first >&2; echo why >&2; exit 3", NULL };
        const char *const missing[] = { "/nonexistent/program", NULL };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *text = NULL, *none = NULL;

        assert_int_equal(command_run(says, "/", 100, &text, &error), 0);
        assert_string_equal(text, "out\n");
        assert_int_equal(command_run(says, NULL, 4, NULL, &error), 0);
        assert_int_equal(command_run(says, NULL, 3, &none, &error), -EFBIG);
        assert_int_equal(command_run(fails, NULL, 100, &none, &error), -EREMOTEIO);
        assert_non_null(strstr(ferry_error_message(&error), "exit status 3): why"));
        assert_int_equal(command_run(missing, NULL, 100, &none, &error), -ENOENT);
        assert_null(none);
}

/* ---- parameters */

/* None of them makes a guest easier to attack: no mitigation, randomisation, protection of code or
 * module of security is turned off, no memory left as it was. What is added here is looked at for
 * that first. noreplace-smp keeps locks that one CPU alone could do without. */
static void test_parameters_weaken_nothing(void **state) {
        static const char *const known[] = { "console=ttyS0", "quiet",          "panic=-1",
                                             "noreplace-smp", "no_timer_check", "cryptomgr.notests",
                                             "audit=0" };
        char text[] = GUEST_IMAGE_CMDLINE;

        for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
                bool found = false;

                for (size_t i = 0; i < ELEMENTS(known); i++)
                        found |= strcmp(word, known[i]) == 0;
                if (!found)
                        fail_msg("%s", word);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cpio_bytes),
                cmocka_unit_test(test_cpio_refuses),
                cmocka_unit_test(test_tar_reads),
                cmocka_unit_test(test_tar_refuses_damage),
                cmocka_unit_test(test_module_info),
                cmocka_unit_test(test_module_info_damaged),
                cmocka_unit_test(test_module_order),
                cmocka_unit_test(test_module_loop),
                cmocka_unit_test(test_module_names),
                cmocka_unit_test(test_command),
                cmocka_unit_test(test_parameters_weaken_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
