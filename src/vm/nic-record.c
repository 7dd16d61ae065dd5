/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/fd.h"
#include "vm/nic.h"

#define NIC_RECORD_MAX 8192U

static int open_recorded(const json_t *record) {
        _cleanup_(closep) int fd = -EBADF;
        const char *path = json_string_value(json_object_get(record, "path"));
        struct stat st;

        if (!path || nic_open_namespace(path, &fd, NULL) < 0 || fstat(fd, &st) < 0)
                return -ENOENT;
        /* another namespace may have that path now */
        if ((json_int_t)st.st_dev != json_integer_value(json_object_get(record, "device")) ||
            (json_int_t)st.st_ino != json_integer_value(json_object_get(record, "inode")))
                return -ENOENT;
        return TAKE_FD(fd);
}

void nic_clear(int folder) {
        _cleanup_(freep) char *text = NULL;
        _cleanup_(closep) int fd = -EBADF;
        const char *interface;
        json_t *record;
        size_t n;

        if (file_read(folder, NIC_RECORD, NIC_RECORD_MAX, &text, &n) < 0)
                return;
        record = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
        interface = json_string_value(json_object_get(record, "interface"));
        fd = open_recorded(record);
        if (fd >= 0 && interface)
                (void)nic_leave(fd, interface);
        json_decref(record);
}
