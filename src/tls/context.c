/* SPDX-License-Identifier: MIT */
#include "tls/context.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/x509v3.h>

/* Both have SHA-256, as the key's session has. */
#define CIPHERS     "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
#define READ_BUFFER (128U << 10)

struct tls_keeper {
        char identity[TLS_NAME_MAX + 1];
        uint8_t key[TLS_KEY_SIZE];
};

static const uint8_t cipher_id[] = { 0x13, 0x01 }; /* TLS_AES_128_GCM_SHA256 */

/* The last error of OpenSSL's own list. */
static int fail(ferry_error *reterr, const char *what) {
        unsigned long code = ERR_peek_last_error();
        const char *reason = ERR_reason_error_string(code);

        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EINVAL, "TLS: %s%s%s", what,
                               reason ? ": " : "", reason ? reason : "");
}

static tls_keeper *keeper_of(SSL *ssl) {
        return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

static SSL_SESSION *make_session(SSL *ssl) {
        const tls_keeper *keeper = keeper_of(ssl);
        const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, cipher_id);
        SSL_SESSION *session = SSL_SESSION_new();

        if (!session || !cipher ||
            SSL_SESSION_set1_master_key(session, keeper->key, sizeof(keeper->key)) != 1 ||
            SSL_SESSION_set_cipher(session, cipher) != 1 ||
            SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
                SSL_SESSION_free(session);
                return NULL;
        }
        return session;
}

static int use_key(SSL *ssl, const EVP_MD *md, const unsigned char **ret_id, size_t *ret_n,
                   SSL_SESSION **ret) {
        const tls_keeper *keeper = keeper_of(ssl);

        *ret = NULL;
        if (md && EVP_MD_get_type(md) != NID_sha256)
                return 1; /* not with that hash */
        *ret = make_session(ssl);
        *ret_id = (const unsigned char *)keeper->identity;
        *ret_n = strlen(keeper->identity);
        return *ret != NULL;
}

static int find_key(SSL *ssl, const unsigned char *id, size_t n, SSL_SESSION **ret) {
        const tls_keeper *keeper = keeper_of(ssl);

        *ret = NULL;
        if (n != strlen(keeper->identity) || memcmp(id, keeper->identity, n) != 0)
                return 1; /* unknown: the handshake finds no other way, and fails */
        *ret = make_session(ssl);
        return *ret != NULL;
}

static int use_files(SSL_CTX *context, const tls_files *files, ferry_error *reterr) {
        char what[512];

        (void)snprintf(what, sizeof(what), "certificate %s", files->certificate);
        if (SSL_CTX_use_certificate_chain_file(context, files->certificate) != 1)
                return fail(reterr, what);
        (void)snprintf(what, sizeof(what), "key %s", files->key);
        if (SSL_CTX_use_PrivateKey_file(context, files->key, SSL_FILETYPE_PEM) != 1 ||
            SSL_CTX_check_private_key(context) != 1)
                return fail(reterr, what);
        (void)snprintf(what, sizeof(what), "CA %s", files->ca);
        if (SSL_CTX_load_verify_file(context, files->ca) != 1)
                return fail(reterr, what);
        return 0;
}

/* A client with the key takes no certificate instead, for it knows no CA. A server with the key has
 * no certificate to show: a client without the key is at an end. */
static int verify_mode(const tls_options *options) {
        if (options->files)
                return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
        return options->role == TLS_CLIENT ? SSL_VERIFY_PEER : SSL_VERIFY_NONE;
}

static int limit_to_our_kind(SSL_CTX *context, const tls_options *options) {
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(context,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        /* many records for one call of the kernel */
        SSL_CTX_set_read_ahead(context, 1);
        SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER);
        SSL_CTX_set_verify(context, verify_mode(options), NULL);
        return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                               SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
                               SSL_CTX_set_ciphersuites(context, CIPHERS) == 1 &&
                               SSL_CTX_set_num_tickets(context, 0) == 1 &&
                               SSL_CTX_set_max_early_data(context, 0) == 1
                       ? 0
                       : -EINVAL;
}

tls_keeper *tls_keeper_free(tls_keeper *keeper) {
        if (keeper)
                explicit_bzero(keeper, sizeof(*keeper));
        free(keeper);
        return NULL;
}

int tls_context_new(const tls_options *options, SSL_CTX **ret, tls_keeper **ret_keeper,
                    ferry_error *reterr) {
        tls_keeper *keeper = *ret_keeper = calloc(1, sizeof(*keeper));
        SSL_CTX *context = *ret = SSL_CTX_new(TLS_method());

        ERR_clear_error();
        if (!keeper || !context)
                return ferry_error_set_errno(reterr, -ENOMEM, "TLS");
        if (limit_to_our_kind(context, options) < 0)
                return fail(reterr, "OpenSSL cannot do TLS 1.3 with its ciphers");
        if (options->files)
                return use_files(context, options->files, reterr);
        if (strlen(options->identity) > TLS_NAME_MAX)
                return ferry_error_set_errno(reterr, -ENAMETOOLONG, "TLS");
        strcpy(keeper->identity, options->identity);
        memcpy(keeper->key, options->key, sizeof(keeper->key));
        SSL_CTX_set_app_data(context, keeper);
        if (options->role == TLS_CLIENT)
                SSL_CTX_set_psk_use_session_callback(context, use_key);
        else
                SSL_CTX_set_psk_find_session_callback(context, find_key);
        return 0;
}

int tls_prepare(SSL *ssl, const tls_options *options, ferry_error *reterr) {
        const char *const *names = options->files ? options->files->names : NULL;

        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        for (size_t i = 0; names && names[i]; i++)
                if (SSL_add1_host(ssl, names[i]) != 1)
                        return fail(reterr, "a peer's name");
        return 0;
}

static const char *describe_library_error(const SSL *ssl, unsigned long code) {
        long verified = SSL_get_verify_result(ssl);

        switch (ERR_GET_REASON(code)) {
        case SSL_R_WRONG_VERSION_NUMBER:
        case SSL_R_HTTP_REQUEST:
        case SSL_R_UNEXPECTED_MESSAGE:
                return "what answers on the migration connection does not speak TLS 1.3";
        case SSL_R_UNSUPPORTED_PROTOCOL:
        case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
                return "the other side speaks no TLS 1.3";
        case SSL_R_BINDER_DOES_NOT_VERIFY:
        case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
        case SSL_R_NO_SHARED_CIPHER:
        case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        case SSL_R_NO_CERTIFICATE_SET:
                return "the other end of the migration connection has not this session's key";
        case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
                return "the other side does not accept this host's certificate";
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
                return X509_verify_cert_error_string(verified);
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
        case SSL_R_SSLV3_ALERT_BAD_RECORD_MAC:
        case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
                return "what came was changed on the way, or made with another key";
        case SSL_R_UNEXPECTED_EOF_WHILE_READING:
                return "the migration connection was cut";
        default:
                return ERR_reason_error_string(code);
        }
}

void tls_describe_failure(const SSL *ssl, int reason, char *ret, size_t n) {
        unsigned long code = ERR_peek_error();
        const char *text = NULL;

        if (code != 0)
                text = describe_library_error(ssl, code);
        else if (reason == SSL_ERROR_SYSCALL && errno != 0)
                text = strerrordesc_np(errno);
        (void)snprintf(ret, n, "TLS: %s", text ? text : "the migration connection was cut");
}
