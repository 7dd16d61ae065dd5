/* SPDX-License-Identifier: MIT */
#include "services/bundle.h"

#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "oci/oci.h"

int bundle_read(const char *bundle, char **ret, size_t *ret_n, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/config.json", bundle) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "bundle");
        }
        r = file_read(AT_FDCWD, path, OCI_TEXT_MAX, ret, ret_n);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", path) : 0;
}
