/* SPDX-License-Identifier: MIT */
#include "vm/files.h"

#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fd.h"

#define LOG_TAIL_BYTES 600U
#define LOG_TAIL_LINES 4U

vm_user vm_user_choose(uid_t uid, gid_t gid, const char *state_dir) {
        uint32_t hash = 2166136261U; /* FNV-1a */
        struct stat kvm;
        vm_user user = { .kvm_gid = (gid_t)-1 };

        if (geteuid() != 0)
                return user;
        for (const char *c = state_dir; *c; c++)
                hash = (hash ^ (unsigned char)*c) * 16777619U;
        user.switch_user = true;
        user.uid = uid != 0 ? uid : VM_UID_FIRST + (hash ^ hash >> 16) % VM_UID_COUNT;
        user.gid = gid != 0 ? gid : (gid_t)user.uid;
        if (stat("/dev/kvm", &kvm) == 0 && kvm.st_gid != 0 && (kvm.st_mode & 0060) == 0060)
                user.kvm_gid = kvm.st_gid;
        return user;
}

int memory_create(uint64_t bytes, int *ret_fd, ferry_error *reterr) {
        _cleanup_(closep) int fd = memfd_create("ferry-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "memfd for the guest's memory");
        if (ftruncate(fd, (off_t)bytes) < 0)
                return ferry_error_set_errno(reterr, -errno, "guest memory of %llu MiB",
                                             (unsigned long long)(bytes >> 20));
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
                return ferry_error_set_errno(reterr, -errno, "seal the guest's memory");
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Asks the kernel as the other user would. fs ids and (by the raw call) groups are this thread's
 * only. When in doubt: no, and the file is copied. */
static bool user_can_open(const vm_user *user, const char *path) {
        _cleanup_(closep) int fd = -EBADF;
        gid_t groups[64];
        int n;

        if (!user->switch_user)
                return true;
        n = getgroups((int)ELEMENTS(groups), groups);
        if (n < 0 || syscall(SYS_setgroups, (size_t)0, NULL) < 0)
                return false;
        (void)setfsgid(user->gid);
        (void)setfsuid(user->uid);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        (void)setfsuid(geteuid());
        (void)setfsgid(getegid());
        (void)syscall(SYS_setgroups, (size_t)n, groups);
        return fd >= 0;
}

static int copy_to_memory(int from, uint64_t n, int *ret_fd) {
        _cleanup_(closep) int fd = memfd_create("ferry-boot", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0)
                return -errno;
        while (n > 0) {
                ssize_t k = sendfile(fd, from, NULL, n);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        return -errno;
                if (k == 0)
                        return -EIO; /* it shrank meanwhile */
                n -= (uint64_t)k;
        }
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int boot_file_open(const char *path, const char *what, const vm_user *user, int *ret_fd,
                   ferry_error *reterr) {
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;
        int r;

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "%s %s", what, path);
        if (fstat(fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s %s", what, path);
        if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > VM_BOOT_FILE_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s %s: must be a file of 1 byte to %llu MiB", what, path,
                                       VM_BOOT_FILE_MAX >> 20);
        *ret_fd = -EBADF;
        if (user_can_open(user, path))
                return 0;
        r = copy_to_memory(fd, (uint64_t)st.st_size, ret_fd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s %s", what, path);
        return 0;
}

int disk_open(const vm_config_disk *disk, int *ret_fd, bool *ret_block_device, bool *ret_direct,
              ferry_error *reterr) {
        int flags = (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
        _cleanup_(closep) int fd = open(disk->path, flags), direct = -EBADF;
        char path[32];
        struct stat st;

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "disk %s", disk->path);
        if (fstat(fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "disk %s", disk->path);
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "disk %s: must be a raw image or a block device",
                                       disk->path);
        /* Of the very file that was looked at, whatever the path names by now. */
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        direct = open(path, (flags & ~O_NONBLOCK) | O_DIRECT);
        *ret_block_device = S_ISBLK(st.st_mode);
        *ret_direct = direct >= 0;
        if (direct >= 0)
                *ret_fd = TAKE_FD(direct);
        else {
                int r = fd_set_nonblock(fd, false);

                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "disk %s", disk->path);
                *ret_fd = TAKE_FD(fd);
        }
        return 0;
}

int log_create(int dir_fd, const char *name, int *ret_fd, ferry_error *reterr) {
        int fd = openat(dir_fd, name,
                        O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "create %s", name);
        *ret_fd = fd;
        return 0;
}

char *log_tail(int dir_fd, const char *name) {
        _cleanup_(closep) int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        char text[LOG_TAIL_BYTES + 1], *begin;
        struct stat st;
        unsigned lines = 0;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return strdup("");
        n = pread(fd, text, LOG_TAIL_BYTES,
                  st.st_size > (off_t)LOG_TAIL_BYTES ? st.st_size - (off_t)LOG_TAIL_BYTES : 0);
        if (n <= 0)
                return strdup("");
        while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
                n--;
        text[n] = '\0';
        for (begin = text + n; begin > text; begin--)
                if (begin[-1] == '\n' && ++lines == LOG_TAIL_LINES)
                        break;
        for (char *c = begin; c < text + n; c++)
                if ((unsigned char)*c < ' ')
                        *c = ' ';
        return strdup(begin);
}

void log_limit(int dir_fd, const char *name, uint64_t max, uint64_t keep) {
        _cleanup_(closep) int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_(closep) int old = -EBADF;
        char old_name[64];
        struct stat st;
        off_t offset;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size <= max)
                return;
        snprintf(old_name, sizeof(old_name), "%s.old", name);
        old = openat(dir_fd, old_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        offset = st.st_size - (off_t)keep;
        while (old >= 0 && sendfile(old, fd, &offset, keep) > 0)
                ;
        (void)!ftruncate(fd, 0);
}
