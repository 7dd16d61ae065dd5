/* SPDX-License-Identifier: MIT */
#include "base/error.h"

#include <stdarg.h>
#include <string.h>

static _printf_(1, 0) char *format_text(const char *format, va_list ap) {
        char *text = NULL;

        if (vasprintf(&text, format, ap) < 0)
                return NULL;
        return text;
}

int ferry_error_set(ferry_error *error, ferry_code code, int r, const char *format, ...) {
        va_list ap;

        if (!error)
                return r;
        ferry_error_done(error);
        va_start(ap, format);
        *error = (ferry_error){ .code = code, .message = format_text(format, ap) };
        va_end(ap);
        return r;
}

int ferry_error_set_errno(ferry_error *error, int r, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;

        if (!error)
                return r;
        va_start(ap, format);
        text = format_text(format, ap);
        va_end(ap);
        return ferry_error_set(error, ferry_code_from_errno(r), r, "%s: %s", text ? text : "error",
                               strerror(-r));
}

int ferry_error_prefix(ferry_error *error, int r, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        char *joined = NULL;
        va_list ap;

        if (!error || !error->message)
                return r;
        va_start(ap, format);
        text = format_text(format, ap);
        va_end(ap);
        if (text && asprintf(&joined, "%s: %s", text, error->message) >= 0) {
                free(error->message);
                error->message = joined;
        }
        return r;
}

void ferry_error_move(ferry_error *to, ferry_error *from) {
        if (!from)
                return;
        if (to) {
                ferry_error_done(to);
                *to = *from;
                *from = FERRY_ERROR_INIT;
        } else
                ferry_error_done(from);
}

void ferry_error_done(ferry_error *error) {
        if (!error)
                return;
        free(error->message);
        *error = FERRY_ERROR_INIT;
}

const char *ferry_error_message(const ferry_error *error) {
        if (error && error->message)
                return error->message;
        return error && error->code != FERRY_OK ? ferry_code_to_string((int)error->code)
                                                : "unknown error";
}

const char *ferry_code_to_string(int code) {
        static const char *const names[] = {
                "OK",
                "Cancelled",
                "Unknown",
                "InvalidArgument",
                "DeadlineExceeded",
                "NotFound",
                "AlreadyExists",
                "PermissionDenied",
                "ResourceExhausted",
                "FailedPrecondition",
                "Aborted",
                "OutOfRange",
                "Unimplemented",
                "Internal",
                "Unavailable",
                "DataLoss",
                "Unauthenticated",
        };

        return code >= 0 && (size_t)code < ELEMENTS(names) ? names[code] : "Unknown";
}

ferry_code ferry_code_from_errno(int r) {
        static const struct {
                int number;
                ferry_code code;
        } table[] = {
                { EINVAL, FERRY_INVALID_ARGUMENT },
                { EBADMSG, FERRY_INVALID_ARGUMENT },
                { EMSGSIZE, FERRY_RESOURCE_EXHAUSTED },
                { ENOENT, FERRY_NOT_FOUND },
                { ESRCH, FERRY_NOT_FOUND },
                { EEXIST, FERRY_ALREADY_EXISTS },
                { EADDRINUSE, FERRY_ALREADY_EXISTS },
                { EACCES, FERRY_PERMISSION_DENIED },
                { EPERM, FERRY_PERMISSION_DENIED },
                { ENOMEM, FERRY_RESOURCE_EXHAUSTED },
                { ENOSPC, FERRY_RESOURCE_EXHAUSTED },
                { EMFILE, FERRY_RESOURCE_EXHAUSTED },
                { ETIMEDOUT, FERRY_DEADLINE_EXCEEDED },
                { ECANCELED, FERRY_CANCELLED },
                { EPROTO, FERRY_FAILED_PRECONDITION },
                { EREMOTEIO, FERRY_FAILED_PRECONDITION },
                { EBUSY, FERRY_FAILED_PRECONDITION },
                { ENOTCONN, FERRY_UNAVAILABLE },
                { ECONNREFUSED, FERRY_UNAVAILABLE },
                { ECONNRESET, FERRY_UNAVAILABLE },
                { EPIPE, FERRY_UNAVAILABLE },
                { EOPNOTSUPP, FERRY_UNIMPLEMENTED },
                { ENOSYS, FERRY_UNIMPLEMENTED },
                { EKEYREJECTED, FERRY_UNAUTHENTICATED },
        };

        for (size_t i = 0; i < ELEMENTS(table); i++)
                if (table[i].number == -r)
                        return table[i].code;
        return FERRY_INTERNAL;
}
