/* SPDX-License-Identifier: MIT */

/* Really mounts and packs, as root, in a mount namespace of this test. Exit 77 when that cannot be
 * had. What was packed is looked at by fsck.erofs, which writes the tree out again. */

#include "rootfs/rootfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"

#define LIMIT_USEC (20 * USEC_PER_SEC) /* ends a hung test, proves nothing */

typedef struct world {
        sd_event *event;
        char folder[64], cache[96];
        char *mounts_before;
        uint32_t cache_max_mb; /* 0: no limit */
} world;

typedef struct answer {
        unsigned n;
        int r;
        char text[1200], path[256];
        uint64_t bytes;
        rootfs_job *job;
} answer;

/* ---- helpers ---- */

static void run(const char *format, ...) _printf_(1, 2);

static void run(const char *format, ...) {
        char command[2048];
        va_list ap;

        va_start(ap, format);
        vsnprintf(command, sizeof(command), format, ap);
        va_end(ap);
        if (system(command) != 0)
                fail_msg("failed: %s", command);
}

static char *read_text(const char *path) {
        char *text;
        size_t n;

        if (file_read(AT_FDCWD, path, 1 << 20, &text, &n) < 0)
                fail_msg("cannot read %s", path);
        return text;
}

static void on_done(int r, const ferry_error *error, const rootfs_image *image, void *userdata) {
        answer *a = userdata;

        a->n++;
        a->r = r;
        snprintf(a->text, sizeof(a->text), "%s", r < 0 ? ferry_error_message(error) : "");
        if (r == 0) {
                snprintf(a->path, sizeof(a->path), "%s", image->path);
                a->bytes = image->bytes;
        }
}

static int on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        fail_msg("the test hung");
        return 0;
}

static void wait_for(world *w, answer *a) {
        sd_event_source *limit = NULL;

        assert_true(sd_event_add_time_relative(w->event, &limit, CLOCK_MONOTONIC, LIMIT_USEC, 0,
                                               on_limit, NULL) >= 0);
        while (a->n == 0)
                assert_true(sd_event_run(w->event, UINT64_MAX) >= 0);
        sd_event_source_disable_unref(limit);
        assert_int_equal(a->n, 1);
}

static int begin(world *w, answer *a, const rootfs_mount *mounts, size_t n, const char *identity) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        *a = (answer){ .n = 0 };
        r = rootfs_pack(w->event, mounts, n, w->cache, w->cache_max_mb, identity, on_done, a,
                        &a->job, &error);
        snprintf(a->text, sizeof(a->text), "%s", r < 0 ? ferry_error_message(&error) : "");
        return r;
}

static int pack(world *w, answer *a, const rootfs_mount *mounts, size_t n, const char *identity) {
        assert_int_equal(begin(w, a, mounts, n, identity), 0);
        assert_int_equal(a->n, 0);
        wait_for(w, a);
        a->job = rootfs_job_free(a->job);
        return a->r;
}

static void packed(world *w, answer *a, const rootfs_mount *mounts, size_t n,
                   const char *identity) {
        if (pack(w, a, mounts, n, identity) < 0)
                fail_msg("%s", a->text);
        assert_true(a->bytes > 0);
}

/* Into folder/out. */
static void unpack(world *w, const char *image) {
        run("rm -rf %s/out && fsck.erofs --extract=%s/out %s >/dev/null", w->folder, w->folder,
            image);
}

static void expect_file(world *w, const char *name, const char *content) {
        _cleanup_(freep) char *text = NULL;
        char path[256];

        snprintf(path, sizeof(path), "%s/out/%s", w->folder, name);
        text = read_text(path);
        assert_string_equal(text, content);
}

static bool exists(world *w, const char *name) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", w->folder, name);
        return access(path, F_OK) == 0;
}

static unsigned count_images(world *w) {
        DIR *dir = opendir(w->cache);
        unsigned n = 0;

        assert_non_null(dir);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir))
                if (e->d_name[0] != '.')
                        n++;
        closedir(dir);
        return n;
}

static char *path_in(world *w, const char *name) {
        char *path;

        assert_true(asprintf(&path, "%s/%s", w->folder, name) > 0);
        return path;
}

static int setup(void **state) {
        world *w = calloc(1, sizeof(*w));

        assert_non_null(w);
        *state = w;
        assert_true(sd_event_new(&w->event) >= 0);
        strcpy(w->folder, "/tmp/ferry-rootfs-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->cache, sizeof(w->cache), "%s/cache", w->folder);
        w->mounts_before = read_text("/proc/self/mountinfo");
        return 0;
}

static int mount_tmpfs(const char *where, const char *size) {
        char data[64];

        snprintf(data, sizeof(data), "size=%s,mode=0700", size);
        return mount("ferry-test", where, "tmpfs", 0, data);
}

static bool has_children(void) {
        return waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD;
}

/* What this process and its namespace had before, they have: no mount, no child. */
static int teardown(void **state) {
        _cleanup_(freep) char *after = read_text("/proc/self/mountinfo");
        world *w = *state;
        bool clean = strcmp(w->mounts_before, after) == 0 && !has_children();

        if (!clean)
                fprintf(stderr, "left behind:\n%s", after);
        run("rm -rf %s", w->folder);
        sd_event_unref(w->event);
        free(w->mounts_before);
        free(w);
        return clean ? 0 : -1;
}

/* ---- bind ---- */

static void make_tree(world *w, const char *name) {
        char path[256];

        run("cd %s && mkdir %s && cd %s && mkdir -p etc bin empty && echo box >etc/hostname && "
            "echo run >bin/app && chmod 4755 bin/app && ln bin/app bin/hard && ln -s "
            "../etc/hostname "
            "bin/link && mkfifo pipe && mknod null c 1 3 && chown 1234:5678 etc/hostname && chmod "
            "640 "
            "etc/hostname && head -c 100000 /dev/zero | tr '\\0' x >big && touch -d 2001-02-03 big",
            w->folder, name, name);
        snprintf(path, sizeof(path), "%s/%s/bin/app", w->folder, name);
        assert_int_equal(setxattr(path, "user.note", "kept", 4, 0), 0);
}

static void test_bind(void **state) {
        static const char *const options[] = { "rbind", "rw" };
        world *w = *state;
        struct stat st;
        char note[8];
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree"), *app = path_in(w, "out/bin/app"),
                              *null = path_in(w, "out/null"),
                              *name = path_in(w, "out/etc/hostname");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = options, .n_options = 2 };

        make_tree(w, "tree");
        packed(w, &a, &mount, 1, "one");
        assert_int_equal(stat(a.path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0400);
        assert_int_equal((uint64_t)st.st_size, a.bytes);
        assert_int_equal(a.bytes % 512, 0); /* a disk's sectors */
        unpack(w, a.path);
        expect_file(w, "etc/hostname", "box\n");
        expect_file(w, "bin/link", "box\n");
        assert_true(exists(w, "out/empty"));
        assert_int_equal(lstat(name, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0640);
        assert_true(st.st_uid == 1234 && st.st_gid == 5678);
        assert_int_equal(lstat(null, &st), 0);
        assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
        run("cmp %s/tree/big %s/out/big", w->folder, w->folder);
        /* what fsck.erofs does not write out */
        run("mount -o loop,ro %s %s/out", a.path, w->folder);
        assert_int_equal(lstat(app, &st), 0);
        assert_int_equal(st.st_mode & 07777, 04755);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(getxattr(app, "user.note", note, sizeof(note)), 4);
        assert_memory_equal(note, "kept", 4);
        run("umount %s/out", w->folder);
}

/* ---- overlay ---- */

static void test_overlay(void **state) {
        _cleanup_(freep) char *lower = NULL, *upper = NULL, *work = NULL;
        const char *options[3];
        world *w = *state;
        answer a;
        rootfs_mount mount = {
                .type = "overlay", .source = "overlay", .options = options, .n_options = 3
        };

        run("cd %s && mkdir l1 l2 upper work && echo old >l1/both && echo one >l1/only && echo "
            "gone "
            ">l1/gone && echo new >l2/both && echo top >upper/top && mknod upper/gone c 0 0",
            w->folder);
        assert_true(asprintf(&lower, "lowerdir=%s/l2:%s/l1", w->folder, w->folder) > 0);
        assert_true(asprintf(&upper, "upperdir=%s/upper", w->folder) > 0);
        assert_true(asprintf(&work, "workdir=%s/work", w->folder) > 0);
        options[0] = work;
        options[1] = upper;
        options[2] = lower;
        packed(w, &a, &mount, 1, "overlay");
        unpack(w, a.path);
        expect_file(w, "both", "new\n");
        expect_file(w, "only", "one\n");
        expect_file(w, "top", "top\n");
        assert_false(exists(w, "out/gone"));
        run("test $(ls -A %s/upper | wc -l) = 2", w->folder); /* nothing was written to it */
}

/* Their names are longer than a page. */
static void test_many_layers(void **state) {
        _cleanup_(freep) char *text = NULL;
        const char *options[1];
        world *w = *state;
        char path[300], name[16];
        answer a;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);
        rootfs_mount mount = {
                .type = "overlay", .source = "overlay", .options = options, .n_options = 1
        };

        assert_non_null(f);
        fprintf(f, "lowerdir=");
        for (unsigned i = 0; i < 100; i++) {
                snprintf(path, sizeof(path), "%s/a-folder-with-a-rather-long-name/snapshots/%u/fs",
                         w->folder, i);
                run("mkdir -p %s && echo %u >%s/f%u && echo %u >%s/all", path, i, path, i, i, path);
                fprintf(f, "%s%s", i > 0 ? ":" : "", path);
        }
        fclose(f);
        assert_true(n > 6000);
        options[0] = text;
        packed(w, &a, &mount, 1, "many");
        unpack(w, a.path);
        expect_file(w, "all", "0\n");
        for (unsigned i = 0; i < 100; i++) {
                char content[16];

                snprintf(name, sizeof(name), "f%u", i);
                snprintf(content, sizeof(content), "%u\n", i);
                expect_file(w, name, content);
        }
}

/* ---- a file with a file system, and one mount in another ---- */

static void test_loop_and_inner_mounts(void **state) {
        static const char *const bind[] = { "bind", "ro" }, *const loop[] = { "loop", "ro" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree"), *inner = path_in(w, "inner");
        rootfs_mount mounts[2] = {
                { .type = "bind", .source = tree, .options = bind, .n_options = 2 },
                { .type = "erofs", .target = "/mnt/data", .options = loop, .n_options = 2 },
        };
        rootfs_mount first = { .type = "bind", .source = inner, .options = bind, .n_options = 2 };
        char image[256];

        run("cd %s && mkdir -p tree/mnt/data inner && echo in >inner/file && echo out >tree/file",
            w->folder);
        packed(w, &a, &first, 1, "inner");
        /* beside the cache, which the packing process cannot see into */
        snprintf(image, sizeof(image), "%s/image", w->folder);
        run("cp %s %s", a.path, image);
        mounts[1].source = image;
        packed(w, &a, mounts, 2, "outer");
        unpack(w, a.path);
        expect_file(w, "file", "out\n");
        expect_file(w, "mnt/data/file", "in\n");
        run("! losetup -a | grep -q %s", w->folder);
}

static void test_what_is_a_disk_already(void **state) {
        static const char *const loop[] = { "rw", "loop" }, *const other[] = { "loop",
                                                                               "data=journal" };
        world *w = *state;
        _cleanup_(freep) char *ext4 = path_in(w, "ext4"), *dirty = path_in(w, "dirty");
        rootfs_mount m = { .type = "ext4", .source = ext4, .options = loop, .n_options = 2 };
        rootfs_mount two[2];

        run("truncate -s 8M %s && mkfs.ext4 -q -F %s && cp %s %s && debugfs -w -R 'feature "
            "needs_recovery' %s >/dev/null 2>&1",
            ext4, ext4, ext4, dirty, dirty);
        assert_string_equal(rootfs_find_disk(&m, 1), "ext4");
        m.target = "/";
        assert_string_equal(rootfs_find_disk(&m, 1), "ext4");
        m.target = "/mnt";
        assert_null(rootfs_find_disk(&m, 1));
        m.target = NULL;
        two[0] = two[1] = m;
        assert_null(rootfs_find_disk(two, 2));
        m.n_options = 1; /* a file without loop */
        assert_null(rootfs_find_disk(&m, 1));
        m.n_options = 2;
        m.options = other;
        assert_null(rootfs_find_disk(&m, 1));
        m.options = loop;
        m.type = "erofs"; /* which it is not */
        assert_null(rootfs_find_disk(&m, 1));
        m.type = "xfs";
        assert_null(rootfs_find_disk(&m, 1));
        m.type = "ext4";
        m.source = dirty;
        assert_null(rootfs_find_disk(&m, 1));
        m.source = w->folder;
        assert_null(rootfs_find_disk(&m, 1));
}

/* A link in the tree does not lead a mount out of it. */
static void test_targets_stay_inside(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree"), *inner = path_in(w, "inner"),
                              *outside = path_in(w, "outside");
        rootfs_mount mounts[2] = {
                { .type = "bind", .source = tree, .options = bind, .n_options = 1 },
                { .type = "bind",
                  .source = inner,
                  .target = "link",
                  .options = bind,
                  .n_options = 1 },
        };

        run("cd %s && mkdir -p tree%s inner outside && echo in >inner/file && ln -s %s tree/link "
            "&& "
            "echo mine >outside/file",
            w->folder, outside, outside);
        packed(w, &a, mounts, 2, "link");
        unpack(w, a.path);
        {
                _cleanup_(freep) char *there = NULL;

                assert_true(asprintf(&there, "%s/file", outside + 1) > 0);
                expect_file(w, there, "in\n");
        }
        mounts[1].target = "../../../../etc/passwd-is-not-there";
        assert_int_equal(pack(w, &a, mounts, 2, "above"), -ENOENT);
        run("test $(cat %s/outside/file) = mine", w->folder);
}

/* ---- the cache ---- */

static void test_packed_once(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        struct stat one, two;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        make_tree(w, "tree");
        packed(w, &a, &mount, 1, "one");
        assert_int_equal(stat(a.path, &one), 0);
        run("rm -rf %s/tree", w->folder); /* it is not looked at again */
        packed(w, &a, &mount, 1, "one");
        assert_int_equal(stat(a.path, &two), 0);
        assert_int_equal(one.st_ino, two.st_ino);
        assert_int_equal(one.st_mtim.tv_nsec, two.st_mtim.tv_nsec);
        assert_int_equal(pack(w, &a, &mount, 1, "two"), -ENOENT);
        assert_int_equal(count_images(w), 1);
        /* what is no image is made anew */
        make_tree(w, "tree");
        run("f=$(echo %s/*.erofs) && rm $f && echo rubbish >$f", w->cache);
        packed(w, &a, &mount, 1, "one");
        assert_int_equal(count_images(w), 1);
        unpack(w, a.path);
        expect_file(w, "etc/hostname", "box\n");
}

static void test_two_at_once(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a, b, c;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        make_tree(w, "tree");
        assert_int_equal(begin(w, &a, &mount, 1, "same"), 0);
        assert_int_equal(begin(w, &b, &mount, 1, "same"), 0);
        assert_int_equal(begin(w, &c, &mount, 1, "other"), 0);
        wait_for(w, &a);
        wait_for(w, &b);
        wait_for(w, &c);
        assert_true(a.r == 0 && b.r == 0 && c.r == 0);
        assert_string_equal(a.path, b.path);
        assert_string_not_equal(a.path, c.path);
        assert_int_equal(count_images(w), 2);
        rootfs_job_free(a.job);
        rootfs_job_free(b.job);
        rootfs_job_free(c.job);
}

/* The same tree, made in another order at another time on another file system. */
static void test_the_same_bytes(void **state) {
        static const char *const bind[] = { "bind" };
        char one[256];
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree"), *again = path_in(w, "again");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        make_tree(w, "tree");
        run("cd %s/tree && for i in $(seq 200); do echo $i >etc/f$i; done", w->folder);
        packed(w, &a, &mount, 1, "snapshot");
        snprintf(one, sizeof(one), "%s/one", w->folder);
        run("mv %s %s", a.path, one);
        assert_int_equal(mkdir(again, 0700), 0);
        assert_int_equal(mount_tmpfs(again, "64m"), 0);
        run("cd %s/tree && find . -mindepth 1 | sort -r | tar -c --no-recursion --xattrs "
            "--xattrs-include='*' -T - | tar -x --xattrs --xattrs-include='*' -C %s -p && "
            "chmod --reference=. %s && find %s -exec touch -h -d 2020-02-02 {} +",
            w->folder, again, again, again);
        mount.source = again;
        packed(w, &a, &mount, 1, "snapshot");
        run("cmp %s %s", one, a.path);
        assert_int_equal(umount(again), 0);
}

/* ---- failures ---- */

static void test_no_room(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        run("cd %s && mkdir tree && head -c 5000000 /dev/zero >tree/big", w->folder);
        assert_int_equal(mkdir(w->cache, 0700), 0);
        assert_int_equal(mount_tmpfs(w->cache, "4m"), 0);
        assert_int_equal(pack(w, &a, &mount, 1, "one"), -ENOSPC);
        assert_non_null(strstr(a.text, "room for"));
        assert_int_equal(count_images(w), 0);
        run("truncate -s 1000000 %s/big", tree);
        packed(w, &a, &mount, 1, "one");
        assert_int_equal(umount(w->cache), 0);
}

/* It looked as if there were room. */
static void test_room_runs_out(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        /* no two fit one block: 8 MB, and counted for 5 */
        run("cd %s && mkdir tree && cd tree && head -c 5000000 /dev/urandom | split -a 4 -b 2500",
            w->folder);
        assert_int_equal(mkdir(w->cache, 0700), 0);
        assert_int_equal(mount_tmpfs(w->cache, "7m"), 0);
        assert_int_equal(pack(w, &a, &mount, 1, "one"), -ENOSPC);
        assert_non_null(strstr(a.text, "mkfs.erofs"));
        assert_int_equal(count_images(w), 0);
        /* and what it had written is gone */
        run("mount -o remount,size=16m %s", w->cache);
        packed(w, &a, &mount, 1, "one");
        assert_true(a.bytes > 7 << 20);
        assert_int_equal(umount(w->cache), 0);
}

/* ---- what is thrown away ---- */

/* An image of some `kib` that nothing makes smaller; in use until its job is freed. */
static int pack_kib(world *w, answer *a, const char *name, unsigned kib) {
        static const char *const bind[] = { "bind" };
        _cleanup_(freep) char *tree = path_in(w, name);
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        run("mkdir -p %s && head -c %u /dev/urandom >%s/data", tree, kib << 10, tree);
        assert_int_equal(begin(w, a, &mount, 1, name), 0);
        wait_for(w, a);
        return a->r;
}

static void packed_kib(world *w, answer *a, const char *name, unsigned kib) {
        if (pack_kib(w, a, name, kib) < 0)
                fail_msg("%s", a->text);
}

static bool is_there(const answer *a) {
        return access(a->path, F_OK) == 0;
}

static void test_the_longest_unused_goes(void **state) {
        world *w = *state;
        answer a, b, c, d;

        w->cache_max_mb = 4;
        packed_kib(w, &a, "a", 1200);
        packed_kib(w, &b, "b", 1200);
        a.job = rootfs_job_free(a.job);
        b.job = rootfs_job_free(b.job);
        packed_kib(w, &a, "a", 1); /* the same identity is found, whatever is there now */
        a.job = rootfs_job_free(a.job);
        packed_kib(w, &c, "c", 1200);
        assert_true(is_there(&a) && !is_there(&b) && is_there(&c));
        /* one in use stays, and so is the limit passed */
        packed_kib(w, &a, "a", 1);
        packed_kib(w, &d, "d", 1200);
        assert_true(is_there(&a) && is_there(&c) && is_there(&d));
        c.job = rootfs_job_free(c.job);
        packed_kib(w, &b, "b", 1200);
        assert_true(is_there(&a) && is_there(&b) && !is_there(&c) && is_there(&d));
        a.job = rootfs_job_free(a.job);
        b.job = rootfs_job_free(b.job);
        d.job = rootfs_job_free(d.job);
}

/* A QEMU whose shim has gone, and a name that a sandbox from elsewhere has. */
static void test_what_others_use_stays(void **state) {
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1 };
        char name[] = "0123456789abcdef0123456789abcdef@root.erofs";
        _cleanup_(closep) int fd = -EBADF;
        world *w = *state;
        answer a, b, c;

        w->cache_max_mb = 1;
        packed_kib(w, &a, "a", 700);
        packed_kib(w, &b, "b", 700);
        a.job = rootfs_job_free(a.job);
        b.job = rootfs_job_free(b.job);
        fd = open(a.path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
        run("ln %s %s/%s", b.path, w->cache, name);
        packed_kib(w, &c, "c", 700);
        assert_true(is_there(&a) && is_there(&b));
        fd = fd_close(fd);
        run("rm %s/%s && echo other >%s/other", w->cache, name, w->cache);
        c.job = rootfs_job_free(c.job);
        packed_kib(w, &c, "d", 700);
        assert_true(!is_there(&a) && !is_there(&b) && is_there(&c));
        c.job = rootfs_job_free(c.job);
        assert_int_equal(count_images(w), 2); /* and what is no image is left alone */
}

static void test_a_full_disk(void **state) {
        world *w = *state;
        answer a, b, c;

        assert_int_equal(mkdir(w->cache, 0700), 0);
        assert_int_equal(mount_tmpfs(w->cache, "8m"), 0);
        packed_kib(w, &a, "a", 2000);
        packed_kib(w, &b, "b", 2000);
        b.job = rootfs_job_free(b.job);
        /* not even with all that nobody uses: nothing is thrown away in vain */
        assert_int_equal(pack_kib(w, &c, "c", 7000), -ENOSPC);
        c.job = rootfs_job_free(c.job);
        assert_non_null(strstr(c.text, "room for"));
        assert_non_null(strstr(c.text, "of images that nobody uses"));
        assert_true(is_there(&a) && is_there(&b));
        packed_kib(w, &c, "d", 4000);
        assert_true(is_there(&a) && !is_there(&b) && is_there(&c));
        c.job = rootfs_job_free(c.job);
        a.job = rootfs_job_free(a.job);
        assert_int_equal(umount(w->cache), 0);
}

#define MANY 8U

/* Each has what it asked for in its hands, whatever the others throw away and whoever is killed. */
static void test_many_at_once_in_a_small_cache(void **state) {
        static const char *const bind[] = { "bind" };
        char names[MANY][8], trees[MANY][96];
        world *w = *state;
        answer all[MANY];

        w->cache_max_mb = 2;
        for (unsigned i = 0; i < MANY; i++) {
                snprintf(names[i], sizeof(names[i]), "t%u", i);
                snprintf(trees[i], sizeof(trees[i]), "%s/t%u", w->folder, i);
                run("mkdir %s && head -c 700000 /dev/urandom >%s/data", trees[i], trees[i]);
        }
        for (unsigned turn = 0; turn < 5; turn++) {
                for (unsigned i = 0; i < MANY; i++) {
                        rootfs_mount mount = {
                                .type = "bind", .source = trees[i], .options = bind, .n_options = 1
                        };

                        assert_int_equal(begin(w, &all[i], &mount, 1, names[i]), 0);
                }
                for (unsigned i = turn; i < turn + 2; i++) /* as a shim's end does it */
                        all[i].job = rootfs_job_free(all[i].job);
                for (unsigned i = 0; i < MANY; i++) {
                        if (!all[i].job)
                                continue;
                        while (all[i].n == 0)
                                assert_true(sd_event_run(w->event, UINT64_MAX) >= 0);
                        if (all[i].r < 0)
                                fail_msg("%s", all[i].text);
                }
                for (unsigned i = 0; i < MANY; i++)
                        if (all[i].job) {
                                assert_true(is_there(&all[i]));
                                run("fsck.erofs %s >/dev/null", all[i].path);
                        }
                for (unsigned i = 0; i < MANY; i++)
                        all[i].job = rootfs_job_free(all[i].job);
        }
        packed_kib(w, &all[0], "last", 1);
        all[0].job = rootfs_job_free(all[0].job);
        assert_in_range(count_images(w), 1, 3);
}

static void test_what_cannot_be_mounted(void **state) {
        static const char *const none[] = { "bind" };
        static const char *const bad[] = { "lowerdir=/nowhere" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mounts[2] = {
                { .type = "bind", .source = tree, .options = none, .n_options = 1 },
                { .type = "overlay", .source = "overlay", .options = bad, .n_options = 1 },
        };

        assert_int_equal(pack(w, &a, mounts, 1, "one"), -ENOENT);
        assert_non_null(strstr(a.text, tree));
        make_tree(w, "tree");
        assert_true(pack(w, &a, mounts, 2, "one") < 0);
        assert_non_null(strstr(a.text, "overlay"));
        mounts[1].type = "no-such-fs";
        assert_true(pack(w, &a, mounts, 2, "one") < 0);
        assert_int_equal(count_images(w), 0);
}

static void test_refused_as_it_stands(void **state) {
        static const char *const mapped[] = { "bind", "uidmap=0:1:2" };
        static const char *const bind[] = { "bind" };
        rootfs_mount many[ROOTFS_MOUNTS_MAX + 1] = { 0 };
        rootfs_mount mount = { .type = "bind", .source = "/tmp", .options = bind, .n_options = 1 };
        world *w = *state;
        answer a;

        assert_int_equal(begin(w, &a, NULL, 0, "one"), -EINVAL);
        for (size_t i = 0; i < ELEMENTS(many); i++)
                many[i] = mount;
        assert_int_equal(begin(w, &a, many, ELEMENTS(many), "one"), -EINVAL);
        assert_int_equal(begin(w, &a, &mount, 1, ""), -EINVAL);
        mount.source = "tmp";
        assert_int_equal(begin(w, &a, &mount, 1, "one"), -EINVAL);
        mount.source = "/tmp";
        mount.options = mapped;
        mount.n_options = 2;
        assert_int_equal(begin(w, &a, &mount, 1, "one"), -EINVAL);
        mount.n_options = ROOTFS_OPTIONS_MAX + 1;
        assert_int_equal(begin(w, &a, &mount, 1, "one"), -EINVAL);
        mount.n_options = 1;
        /* anybody could put a program there */
        assert_int_equal(mkdir(w->cache, 0700), 0);
        assert_int_equal(chmod(w->cache, 0777), 0);
        assert_int_equal(begin(w, &a, &mount, 1, "one"), -EPERM);
}

/* ---- cancel ---- */

/* Until mkfs.erofs runs in this test's session. */
static void await_mkfs(void) {
        run("for i in $(seq 2000); do pgrep -x mkfs.erofs -s 0 >/dev/null && exit 0; sleep 0.01; "
            "done; "
            "exit 1");
}

static void test_cancel(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        make_tree(w, "tree");
        run("head -c 200000000 /dev/zero >%s/large", tree);
        /* at once, and in the middle of it */
        assert_int_equal(begin(w, &a, &mount, 1, "one"), 0);
        a.job = rootfs_job_free(a.job);
        assert_int_equal(begin(w, &a, &mount, 1, "one"), 0);
        await_mkfs();
        a.job = rootfs_job_free(a.job);
        while (sd_event_run(w->event, 0) > 0)
                ;
        assert_int_equal(a.n, 0);
        assert_int_equal(count_images(w), 0);
        /* nobody holds the lock */
        packed(w, &a, &mount, 1, "one");
}

static void test_killed(void **state) {
        static const char *const bind[] = { "bind" };
        world *w = *state;
        answer a;
        _cleanup_(freep) char *tree = path_in(w, "tree");
        rootfs_mount mount = { .type = "bind", .source = tree, .options = bind, .n_options = 1 };

        make_tree(w, "tree");
        run("head -c 200000000 /dev/zero >%s/large", tree);
        assert_int_equal(begin(w, &a, &mount, 1, "one"), 0);
        await_mkfs();
        run("kill -9 $(pgrep -x mkfs.erofs -s 0)");
        wait_for(w, &a);
        assert_int_equal(a.r, -EIO);
        assert_non_null(strstr(a.text, "signal 9"));
        a.job = rootfs_job_free(a.job);
        assert_int_equal(count_images(w), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_bind),
                TEST(test_overlay),
                TEST(test_many_layers),
                TEST(test_loop_and_inner_mounts),
                TEST(test_what_is_a_disk_already),
                TEST(test_targets_stay_inside),
                TEST(test_packed_once),
                TEST(test_two_at_once),
                TEST(test_the_same_bytes),
                TEST(test_no_room),
                TEST(test_room_runs_out),
                TEST(test_the_longest_unused_goes),
                TEST(test_what_others_use_stays),
                TEST(test_a_full_disk),
                TEST(test_many_at_once_in_a_small_cache),
                TEST(test_what_cannot_be_mounted),
                TEST(test_refused_as_it_stands),
                TEST(test_cancel),
                TEST(test_killed),
        };

        /* A session of its own tells its mkfs.erofs from others'; nothing mounted here is seen
         * elsewhere. */
        if (geteuid() != 0 || system("command -v mkfs.erofs >/dev/null") != 0 ||
            unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return 77;
        (void)setsid();
        return cmocka_run_group_tests_name("rootfs", tests, NULL, NULL);
}
