/* SPDX-License-Identifier: MIT */

/* What a source says of its guest's programs, as a hostile one may write it. */

#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "fuzz.h"
#include "guestlink/processes.h"

static int folder(void) {
        static char path[] = "/tmp/ferry-fuzz-guest-XXXXXX";
        static int fd = -1;

        if (fd < 0 && mkdtemp(path)) {
                fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                (void)rmdir(path); /* nothing is left, and nothing can be made in it */
        }
        return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (guest_processes_arrive(folder(), "1", data, n, &error) < 0)
                FUZZ_REQUIRE(error.code != FERRY_OK);
        return 0;
}
