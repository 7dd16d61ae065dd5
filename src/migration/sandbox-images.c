/* SPDX-License-Identifier: MIT */
/* Disks that were packed for containers, in this host's folder of them. A sandbox that comes has
 * links of its own there: whoever removes the image at the source does not take it away here. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "migration/sandbox.h"
#include "migration/state.h"

static char *own_path(const sandbox *sb, const vm_config_disk *disk) {
        char *path;

        if (!disk->readonly || !disk->serial || !sandbox_image_folder(sb) ||
            asprintf(&path, "%s/%s-%s.erofs", sandbox_image_folder(sb), sandbox_id(sb),
                     disk->serial) < 0)
                return NULL;
        return path;
}

/* Where a caller may have put a copy of the source's. */
static char *copied_path(const sandbox *sb, const migration_state *state, size_t index) {
        const Ferry__State__V1__Vm *vm = state->message->vm;
        char role[VM_CONFIG_DISK_NAME_SIZE], hex[2 * DIGEST_SIZE + 1], *path;

        vm_config_disk_name(state->config, index, role);
        for (size_t i = 0; i < vm->n_files; i++)
                if (strcmp(vm->files[i]->role, role) == 0 &&
                    vm->files[i]->sha256.len == DIGEST_SIZE) {
                        hex_encode(vm->files[i]->sha256.data, DIGEST_SIZE, hex);
                        if (asprintf(&path, "%s/" SANDBOX_COPY_FORMAT, sandbox_image_folder(sb),
                                     hex) < 0)
                                return NULL;
                        return path;
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
