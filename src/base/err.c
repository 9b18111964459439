#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int(fast_err_set)(struct fast_err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        va_end(ap);
    }
    return -code;
}

int(fast_err_wrap)(struct fast_err *err, const char *fmt, ...)
{
    if (!err)
        return -FAST_EBUG;
    char inner[sizeof(err->msg)];
    memcpy(inner, err->msg, sizeof(inner));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n;
    if (at + 3 < sizeof(err->msg))
        snprintf(err->msg + at, sizeof(err->msg) - at, ": %.*s",
                 (int)(sizeof(err->msg) - at - 3), inner);
    return -err->code;
}

const char *fast_err_name(int code)
{
    static const char *const names[FAST_ERR_COUNT] = {
        [FAST_OK] = "ok",
        [FAST_EINVAL] = "invalid",
        [FAST_ENOENT] = "not found",
        [FAST_EEXIST] = "exists already",
        [FAST_ENOMEM] = "out of memory",
        [FAST_ENOROOM] = "no room",
        [FAST_EPERM] = "not allowed",
        [FAST_EBUSY] = "busy",
        [FAST_EIO] = "input/output error",
        [FAST_EPROTO] = "protocol error",
        [FAST_EPEER] = "peer is gone",
        [FAST_ETIME] = "timed out",
        [FAST_ENOSYS] = "not supported",
        [FAST_EBUG] = "internal error",
    };
    if (code < 0)
        code = -code;
    return code < FAST_ERR_COUNT ? names[code] : "unknown error";
}
