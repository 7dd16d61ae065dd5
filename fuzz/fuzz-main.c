/* SPDX-License-Identifier: MIT */

/* Replays a folder of inputs, each whole and, so that ends are seen too, cut short at every byte of
 * its first 256. Prints TAP. */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "fuzz.h"

#define INPUT_MAX (4U * 1024 * 1024)
#define CUTS_MAX  256U

static void closedirp(DIR **d) {
        if (*d)
                (void)closedir(*d);
}

/* A copy of exactly this size, so that ASan sees a read behind it. */
static void run_once(const char *data, size_t n) {
        uint8_t *exact = malloc(n > 0 ? n : 1);

        if (!exact)
                abort();
        memcpy(exact, data, n);
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
}

static int replay(int dir_fd, const char *name) {
        _cleanup_(freep) char *data = NULL;
        size_t n;
        int r;

        r = file_read(dir_fd, name, INPUT_MAX, &data, &n);
        if (r < 0)
                return r;
        for (size_t cut = 0; cut < n && cut < CUTS_MAX; cut++)
                run_once(data, cut);
        run_once(data, n);
        return 0;
}

int main(int argc, char **argv) {
        _cleanup_(closedirp) DIR *dir = NULL;
        struct dirent *entry;
        unsigned n = 0, n_failed = 0;

        if (argc != 2 || !(dir = opendir(argv[1]))) {
                fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
                return 2;
        }
        while ((entry = readdir(dir))) {
                int r;

                if (entry->d_name[0] == '.')
                        continue;
                r = replay(dirfd(dir), entry->d_name);
                n_failed += r < 0;
                printf("%s %u - %s\n", r < 0 ? "not ok" : "ok", ++n, entry->d_name);
        }
        printf("1..%u\n", n);
        return n > 0 && n_failed == 0 ? 0 : 1;
}
