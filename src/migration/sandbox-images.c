/* SPDX-License-Identifier: MIT */
/* Disks that were made for containers, in this host's folders of them. A sandbox that comes has
 * links of its own there: whoever removes a disk at the source does not take it away here, even
 * where both hosts have one folder. */
#include "migration/sandbox-images.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <systemd/sd-id128.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"

#define PREFIX_BYTES 16
#define DISK_MAX     (UINT64_C(1) << 44) /* of one that is made here: ext4's limit */
#define PREFIX_SIZE  (2 * PREFIX_BYTES + 2)

/* What the names of its files begin with: no other sandbox has it, of this machine or another. */
static int make_prefix(const char *state_dir, char ret[PREFIX_SIZE]) {
        const sd_id128_t ferry =
                SD_ID128_MAKE(7b, 5e, 0c, 1d, 92, 4f, 4a, 6b, 8c, 33, 15, e0, d4, 0a, 6f, 21);
        const char *name = strrchr(state_dir, '/');
        _cleanup_(freep) char *parent = NULL, *real = NULL, *text = NULL;
        char machine[SD_ID128_STRING_MAX] = "";
        uint8_t digest[DIGEST_SIZE];
        sd_id128_t id;
        int n;

        if (!name || name[1] == '\0')
                return -EINVAL;
        parent = strndup(state_dir, (size_t)(name - state_dir) + 1);
        if (!parent)
                return -ENOMEM;
        real = realpath(parent, NULL);
        if (sd_id128_get_machine_app_specific(ferry, &id) == 0)
                sd_id128_to_string(id, machine);
        n = asprintf(&text, "%s\n%s/%s", machine, real ? real : parent, name + 1);
        if (n < 0) {
                text = NULL;
                return -ENOMEM;
        }
        digest_sha256(text, (size_t)n, digest);
        hex_encode(digest, PREFIX_BYTES, ret);
        ret[PREFIX_SIZE - 2] = '@';
        ret[PREFIX_SIZE - 1] = '\0';
        return 0;
}

static char *make_path(const char *folder, const char *state_dir, const char *name,
                       const char *suffix) {
        char prefix[PREFIX_SIZE], *path;

        if (!folder || make_prefix(state_dir, prefix) < 0 ||
            asprintf(&path, "%s/%s%s%s", folder, prefix, name, suffix) < 0)
                return NULL;
        return path;
}

char *sandbox_copy_path(const char *folder, const char *state_dir, const char *digest) {
        return make_path(folder, state_dir, digest, ".content");
}

char *sandbox_disk_path(const sandbox *sb, const char *serial, bool readonly) {
        return make_path(readonly ? sandbox_image_folder(sb) : sandbox_disk_root(sb),
                         sandbox_state_dir(sb), serial, readonly ? ".erofs" : ".ext4");
}

void sandbox_remove_images(const char *folder, const char *state_dir) {
        char prefix[PREFIX_SIZE];
        struct dirent *entry;
        DIR *d;

        if (make_prefix(state_dir, prefix) < 0)
                return;
        d = opendir(folder);
        while (d && (entry = readdir(d)))
                if (strncmp(entry->d_name, prefix, sizeof(prefix) - 1) == 0)
                        (void)unlinkat(dirfd(d), entry->d_name, 0);
        if (d)
                closedir(d);
}

static char *own_path(const sandbox *sb, const vm_config_disk *disk) {
        return disk->serial ? sandbox_disk_path(sb, disk->serial, disk->readonly) : NULL;
}

/* Where a caller may have put a copy of the source's. */
static char *copied_path(const sandbox *sb, const migration_state *state, size_t index) {
        const Ferry__State__V1__Vm *vm = state->message->vm;
        char role[VM_CONFIG_DISK_NAME_SIZE], hex[2 * DIGEST_SIZE + 1];

        vm_config_disk_name(state->config, index, role);
        for (size_t i = 0; i < vm->n_files; i++)
                if (strcmp(vm->files[i]->role, role) == 0 &&
                    vm->files[i]->sha256.len == DIGEST_SIZE) {
                        hex_encode(vm->files[i]->sha256.data, DIGEST_SIZE, hex);
                        return sandbox_copy_path(sandbox_image_folder(sb), sandbox_state_dir(sb),
                                                 hex);
                }
        return NULL;
}

/* The path may come from another host: nothing but a file is linked. */
static bool link_file(const char *from, const char *to) {
        struct stat st;

        if (!from || link(from, to) < 0)
                return false;
        if (lstat(to, &st) == 0 && S_ISREG(st.st_mode))
                return true;
        (void)unlink(to);
        return false;
}

/* ---- writable disks: is it one file? ---- */

/* Beside the disk, by its name: what only who has this export could have written. */
static char *marker_path(const char *disk) {
        char *path;

        return asprintf(&path, "%s.marker", disk) < 0 ? NULL : path;
}

void sandbox_remove_disk_file(const char *path) {
        _cleanup_(freep) char *marker = marker_path(path);

        (void)unlink(path);
        if (marker)
                (void)unlink(marker);
}

static void make_mark(const uint8_t secret[DIGEST_SIZE], const char *disk,
                      char ret[2 * DIGEST_SIZE + 1]) {
        const digest_part parts[] = { { "disk", 4 }, { disk, strlen(disk) } };
        uint8_t digest[DIGEST_SIZE];

        digest_hmac(secret, parts, ELEMENTS(parts), digest);
        hex_encode(digest, DIGEST_SIZE, ret);
}

void sandbox_mark_disks(const sandbox *sb, const vm_config *config,
                        const uint8_t secret[DIGEST_SIZE]) {
        for (size_t i = 0; i < config->n_disks; i++) {
                const vm_config_disk *disk = &config->disks[i];
                _cleanup_(freep) char *path = NULL;
                char mark[2 * DIGEST_SIZE + 1];
                int r = -ENOMEM;

                if (disk->readonly || !sandbox_owns_image(sb, disk))
                        continue;
                path = marker_path(disk->path);
                make_mark(secret, disk->path, mark);
                if (path)
                        r = file_replace(AT_FDCWD, path, mark, strlen(mark), 0600, false);
                if (r < 0)
                        log_warning("%s: no marker: %s", disk->path, strerror(-r));
        }
}

static bool is_same_file(const char *disk, const uint8_t secret[DIGEST_SIZE]) {
        _cleanup_(freep) char *path = marker_path(disk), *text = NULL;
        char mark[2 * DIGEST_SIZE + 1];
        size_t n;

        if (!path || file_read(AT_FDCWD, path, sizeof(mark), &text, &n) < 0)
                return false;
        make_mark(secret, disk, mark);
        return strcmp(text, mark) == 0;
}

/* ---- what comes ---- */

static int check_names(const sandbox *sb, const vm_config *config, ferry_error *reterr) {
        for (size_t i = 0; i < config->n_disks; i++)
                if (sandbox_owns_image(sb, &config->disks[i]))
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EEXIST,
                                               "disk %s has the name here that it has at the "
                                               "source: two machines have one /etc/machine-id",
                                               config->disks[i].path);
        return 0;
}

/* A file of the source's own, by its name: any other is where the caller says that it is. */
static bool is_made_by_ferry(const char *path) {
        const char *name = strrchr(path, '/');

        return name && strspn(name + 1, "0123456789abcdef") == PREFIX_SIZE - 2 &&
               name[PREFIX_SIZE - 1] == '@';
}

/* Of the size that the source's has. */
static bool make_empty(const migration_state *state, size_t index, const char *own) {
        const Ferry__State__V1__Vm *vm = state->message->vm;
        char role[VM_CONFIG_DISK_NAME_SIZE];
        uint64_t size = 0;
        bool made;
        int fd;

        vm_config_disk_name(state->config, index, role);
        for (size_t i = 0; i < vm->n_files; i++)
                if (strcmp(vm->files[i]->role, role) == 0)
                        size = vm->files[i]->size;
        if (size == 0 || size > DISK_MAX)
                return false;
        fd = open(own, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        made = fd >= 0 && ftruncate(fd, (off_t)size) == 0;
        if (!made)
                log_error("%s: %s", own, strerror(errno));
        if (fd >= 0 && !made)
                (void)unlink(own);
        fd_close(fd);
        return made;
}

static bool take_writable(const sandbox *sb, migration_state *state, size_t index,
                          const char *own) {
        const char *path = state->config->disks[index].path;

        (void)mkdir(sandbox_disk_root(sb), 0700);
        if (is_same_file(path, state->message->session_secret.data) && link_file(path, own))
                return true;
        if (!is_made_by_ferry(path) || !make_empty(state, index, own))
                return false;
        state->to_mirror |= UINT64_C(1) << index;
        return true;
}

static bool take_disk(const sandbox *sb, migration_state *state, size_t index, const char *own) {
        const vm_config_disk *disk = &state->config->disks[index];
        _cleanup_(freep) char *copied = NULL;

        (void)unlink(own); /* of a sandbox that has gone: this one has no VM */
        if (!disk->readonly)
                return take_writable(sb, state, index, own);
        copied = copied_path(sb, state, index);
        return link_file(copied, own) || link_file(disk->path, own);
}

int sandbox_adopt_images(sandbox *sb, migration_state *state, ferry_error *reterr) {
        int r = check_names(sb, state->config, reterr);

        for (size_t i = 0; r == 0 && i < state->config->n_disks; i++) {
                vm_config_disk *disk = &state->config->disks[i];
                _cleanup_(freep) char *own = own_path(sb, disk);

                if (own && take_disk(sb, state, i, own)) {
                        free(disk->path);
                        disk->path = TAKE_PTR(own);
                }
        }
        return r;
}

bool sandbox_owns_image(const sandbox *sb, const vm_config_disk *disk) {
        _cleanup_(freep) char *own = own_path(sb, disk);

        return own && strcmp(own, disk->path) == 0;
}

void sandbox_drop_images(sandbox *sb, const vm_config *config) {
        for (size_t i = 0; i < config->n_disks; i++)
                if (sandbox_owns_image(sb, &config->disks[i]))
                        (void)unlink(config->disks[i].path);
}
