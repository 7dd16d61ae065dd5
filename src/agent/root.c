/* SPDX-License-Identifier: MIT */
#include "agent/root.h"

#include <ftw.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "agent/disk.h"
#include "base/cleanup.h"
#include "base/clock.h"

#define DISK_WAIT_USEC (10 * USEC_PER_SEC)
#define DISK_LOOK_USEC 10000U
#define PATH_SIZE      256
#define REMOVE_FDS     16

static int failed(const char *what, int r) {
        (void)fprintf(stderr, "%s: %s\n", what, strerror(-r));
        return r;
}

static int wait_for_disk(const char *serial, char ret[32]) {
        uint64_t until = now_usec() + DISK_WAIT_USEC;
        int r;

        while ((r = disk_find(serial, ret)) == -ENOENT && now_usec() < until)
                (void)usleep(DISK_LOOK_USEC);
        if (r < 0)
                (void)fprintf(stderr, "no disk with the serial %s\n", serial);
        return r;
}

static int make_folder(const char *folder, const char *name, char ret[PATH_SIZE]) {
        if (snprintf(ret, PATH_SIZE, "%s/%s", folder, name) >= PATH_SIZE)
                return failed(folder, -ENAMETOOLONG);
        return mkdir(ret, 0700) < 0 && errno != EEXIST ? failed(ret, -errno) : 0;
}

static int mount_upper_disk(const char *upper, const char *serial) {
        char disk[32];
        int r = wait_for_disk(serial, disk);

        if (r < 0)
                return r;
        return mount(disk, upper, "ext4", MS_NODEV, NULL) < 0 ? failed(disk, -errno) : 0;
}

static int mount_upper(const root_spec *spec, const char *upper) {
        char options[64] = "mode=0700";

        if (spec->upper_disk[0])
                return mount_upper_disk(upper, spec->upper_disk);
        if (spec->upper_bytes > 0)
                (void)snprintf(options, sizeof(options), "mode=0700,size=%" PRIu64,
                               spec->upper_bytes);
        if (mount("tmpfs", upper, "tmpfs", MS_NODEV, options) < 0)
                return failed("the writable layer", -errno);
        return 0;
}

/* The root folder itself is as the image has it. */
static int copy_attributes(const char *from, const char *to) {
        struct stat st;

        if (stat(from, &st) < 0 || chown(to, st.st_uid, st.st_gid) < 0 ||
            chmod(to, st.st_mode & 07777) < 0)
                return failed(to, -errno);
        return 0;
}

static int mount_overlay(const char *folder, const char *lower, const char *upper,
                         const char *rootfs) {
        char up[PATH_SIZE], work[PATH_SIZE], options[4 * PATH_SIZE];
        int r;

        r = make_folder(upper, "up", up);
        if (r == 0)
                r = make_folder(upper, "work", work);
        if (r == 0)
                r = copy_attributes(lower, up);
        if (r < 0)
                return r;
        (void)snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, up,
                       work);
        if (mount("overlay", rootfs, "overlay", MS_NODEV, options) < 0)
                return failed("the container's root", -errno);
        return 0;
}

int root_mount(const root_spec *spec) {
        char lower[PATH_SIZE], upper[PATH_SIZE], rootfs[PATH_SIZE], disk[32];
        int r;

        r = make_folder(spec->folder, "lower", lower);
        if (r == 0)
                r = make_folder(spec->folder, "upper", upper);
        if (r == 0)
                r = make_folder(spec->folder, "rootfs", rootfs);
        if (r == 0)
                r = wait_for_disk(spec->disk, disk);
        if (r < 0)
                return r;
        if (mount(disk, lower, spec->fstype, MS_RDONLY | MS_NODEV, NULL) < 0)
                return failed(disk, -errno);
        r = mount_upper(spec, upper);
        return r < 0 ? r : mount_overlay(spec->folder, lower, upper, rootfs);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
        return remove(path) < 0 && errno != ENOENT ? failed(path, -errno) : 0;
}

int root_remove(const char *folder) {
        static const char *const mounts[] = { "rootfs", "upper", "lower", "files" };
        char path[PATH_SIZE];

        for (size_t i = 0; i < ELEMENTS(mounts); i++) {
                (void)snprintf(path, sizeof(path), "%s/%s", folder, mounts[i]);
                if (umount2(path, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
                        return failed(path, -errno);
        }
        return nftw(folder, remove_one, REMOVE_FDS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 ? -EIO
                                                                                          : 0;
}
