/* SPDX-License-Identifier: MIT */
#include "agent/cgroup.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define PIDS_MAX  65536U
#define DEPTH_MAX 16U

static FILE *open_file(const char *folder, const char *file) {
        char path[1024];

        if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, file) >= sizeof(path))
                return NULL;
        return fopen(path, "re");
}

void cgroup_lines(const char *folder, const char *file,
                  void (*each)(const char *name, uint64_t value, void *userdata), void *userdata) {
        _cleanup_(fclosep) FILE *f = open_file(folder, file);
        char line[256], name[128];
        uint64_t value;

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "%127s %" SCNu64, name, &value) == 2)
                        each(name, value, userdata);
}

typedef struct wanted {
        const char *key;
        uint64_t value;
} wanted;

static void compare(const char *name, uint64_t value, void *userdata) {
        wanted *w = userdata;

        if (strcmp(name, w->key) == 0)
                w->value = value;
}

uint64_t cgroup_number(const char *folder, const char *file, const char *key) {
        _cleanup_(fclosep) FILE *f = NULL;
        wanted w = { .key = key };

        if (key) {
                cgroup_lines(folder, file, compare, &w);
                return w.value;
        }
        f = open_file(folder, file);
        return f && fscanf(f, "%" SCNu64, &w.value) == 1 ? w.value : 0;
}

static int add_pids(const char *folder, pid_t **pids, size_t *n) {
        _cleanup_(fclosep) FILE *f = open_file(folder, "cgroup.procs");
        int pid;

        while (f && *n < PIDS_MAX && fscanf(f, "%d", &pid) == 1) {
                pid_t *grown = realloc(*pids, (*n + 1) * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                *pids = grown;
                grown[(*n)++] = pid;
        }
        return 0;
}

static int add_all(const char *folder, unsigned depth, pid_t **pids, size_t *n) {
        DIR *d = opendir(folder);
        struct dirent *entry;
        int r;

        if (!d)
                return depth == 0 ? -errno : 0;
        r = add_pids(folder, pids, n);
        while (r == 0 && depth < DEPTH_MAX && (entry = readdir(d))) {
                char path[1024];

                if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
                    (size_t)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >=
                            sizeof(path))
                        continue;
                r = add_all(path, depth + 1, pids, n);
        }
        closedir(d);
        return r;
}

int cgroup_pids(const char *folder, pid_t **ret, size_t *ret_n) {
        pid_t *pids = NULL;
        size_t n = 0;
        int r = add_all(folder, 0, &pids, &n);

        if (r < 0) {
                free(pids);
                return r;
        }
        *ret = pids;
        *ret_n = n;
        return 0;
}
