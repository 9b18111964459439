#ifndef FAST_BASE_ERR_H
#define FAST_BASE_ERR_H

/* The one error type. It is passed by value and allocates nothing, so that it also works where
 * malloc may belong to somebody else (the hook). An error is created where it happens, wrapped on
 * the way up ("outer: inner"), and logged once, where it is handled. */

enum fast_err_code {
    FAST_OK = 0,
    FAST_EINVAL,  /* the input is wrong: the message names the field and the accepted range */
    FAST_ENOENT,  /* there is no such thing */
    FAST_EEXIST,  /* it is already there */
    FAST_ENOMEM,  /* out of memory, host or device */
    FAST_ENOROOM, /* no GPU has room for it */
    FAST_EPERM,   /* not allowed */
    FAST_EBUSY,   /* in use, or not in a state that allows it */
    FAST_EIO,     /* a system call failed */
    FAST_EPROTO,  /* the peer does not speak the protocol */
    FAST_EPEER,   /* the peer is not there or went away */
    FAST_ETIME,   /* it took too long */
    FAST_ENOSYS,  /* not supported here */
    FAST_EBUG,    /* cannot happen */
    FAST_ERR_COUNT
};

struct fast_err {
    int code; /* enum fast_err_code */
    char msg[252];
};

/* Sets |err| (NULL is fine) and returns -|code|, so that `return fast_err_set(...)` is the idiom. */
int fast_err_set(struct fast_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__
/* The analyzer sees one file at a time and has to be told that an error is never 0. */
#define fast_err_set(err, code, ...) (fast_err_set(err, code, __VA_ARGS__), -(code))
#endif

/* Puts "text: " in front of the message of |err| and returns -code of it. */
int fast_err_wrap(struct fast_err *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__
#define fast_err_wrap(err, ...) (fast_err_wrap(err, __VA_ARGS__), -(int)FAST_EBUG)
#endif

/* A short name such as "not found"; never NULL. */
const char *fast_err_name(int code);

#endif
