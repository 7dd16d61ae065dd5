/* SPDX-License-Identifier: MIT */
#include "migration/encrypt.h"

#include <stdio.h>
#include <string.h>

#include "base/fd.h"

#define PURPOSE_MAX 512U

int encrypt_check(tls_kind kind, ferry_error *reterr) {
        _cleanup_(tls_config_freep) tls_config *config = NULL;
        int r = tls_config_read(&config, reterr);

        return r < 0 ? r : tls_config_check(config, kind, reterr);
}

/* `files` NULL: by the key. */
static int start(int *fd, const encrypt_options *options, const tls_files *files, tls_tunnel **ret,
                 ferry_error *reterr) {
        tls_options o = {
                .role = options->source ? TLS_CLIENT : TLS_SERVER,
                .identity = options->session_id,
                .files = files,
        };
        char purpose[PURPOSE_MAX];
        int r;

        (void)snprintf(purpose, sizeof(purpose), "ferry migration 1 %s %s", options->session_id,
                       options->purpose);
        tls_derive_key(options->secret, purpose, o.key);
        r = tls_tunnel_start(TAKE_FD(*fd), &o, fd, ret, reterr);
        explicit_bzero(&o, sizeof(o));
        return r;
}

static int start_with_files(int *fd, const encrypt_options *options, tls_tunnel **ret,
                            ferry_error *reterr) {
        _cleanup_(tls_config_freep) tls_config *config = NULL;
        tls_files files;
        int r = tls_config_read(&config, reterr);

        if (r == 0)
                r = tls_config_check(config, options->kind, reterr);
        if (r < 0)
                return r;
        tls_config_files(config, &files);
        return start(fd, options, &files, ret, reterr);
}

/* With a key no file of the host's is read: a session whose outcome is open must not depend on one.
 */
int encrypt_start(int *fd, const encrypt_options *options, tls_tunnel **ret, ferry_error *reterr) {
        int r = options->kind == TLS_X509 ? start_with_files(fd, options, ret, reterr)
                                          : start(fd, options, NULL, ret, reterr);

        if (r < 0)
                *fd = fd_close(*fd);
        return r;
}
