/* SPDX-License-Identifier: MIT */
/* Disks that were packed for containers, in this host's folder of them. A sandbox that comes has
 * links of its own there: whoever removes the image at the source does not take it away here, even
 * where both hosts have one folder. */
#include "migration/sandbox-images.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/digest.h"

#define PREFIX_BYTES 16
#define PREFIX_SIZE  (2 * PREFIX_BYTES + 2)

/* What the names of its files begin with: no other sandbox of this machine has it. */
static int make_prefix(const char *state_dir, char ret[PREFIX_SIZE]) {
        const char *name = strrchr(state_dir, '/');
        _cleanup_(freep) char *parent = NULL, *real = NULL, *text = NULL;
        uint8_t digest[DIGEST_SIZE];
        int n;

        if (!name || name[1] == '\0')
                return -EINVAL;
        parent = strndup(state_dir, (size_t)(name - state_dir) + 1);
        if (!parent)
                return -ENOMEM;
        real = realpath(parent, NULL);
        n = asprintf(&text, "%s/%s", real ? real : parent, name + 1);
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

static char *make_path(const char *folder, const char *state_dir, const char *kind,
                       const char *name) {
        char prefix[PREFIX_SIZE], *path;

        if (!folder || make_prefix(state_dir, prefix) < 0 ||
            asprintf(&path, "%s/%s%s%s.erofs", folder, prefix, kind, name) < 0)
                return NULL;
        return path;
}

char *sandbox_copy_path(const char *folder, const char *state_dir, const char *digest) {
        return make_path(folder, state_dir, "content-", digest);
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
        return disk->readonly && disk->serial
                       ? make_path(sandbox_image_folder(sb), sandbox_state_dir(sb), "disk-",
                                   disk->serial)
                       : NULL;
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

void sandbox_adopt_images(sandbox *sb, migration_state *state) {
        for (size_t i = 0; i < state->config->n_disks; i++) {
                vm_config_disk *disk = &state->config->disks[i];
                _cleanup_(freep) char *own = own_path(sb, disk), *copied = NULL;

                if (!own)
                        continue;
                copied = copied_path(sb, state, i);
                (void)unlink(own); /* of a sandbox that has gone: this one has no VM */
                if (link_file(copied, own) || link_file(disk->path, own)) {
                        free(disk->path);
                        disk->path = TAKE_PTR(own);
                }
        }
}

bool sandbox_owns_image(const sandbox *sb, const vm_config_disk *disk) {
        _cleanup_(freep) char *own = own_path(sb, disk);

        return own && strcmp(own, disk->path) == 0;
}

void sandbox_drop_images(sandbox *sb, const vm_config *config) {
        for (size_t i = 0; i < config->n_disks; i++) {
                _cleanup_(freep) char *own = own_path(sb, &config->disks[i]);

                if (own)
                        (void)unlink(own);
        }
}
