#ifndef FAST_CORE_LIMIT_H
#define FAST_CORE_LIMIT_H

/* How much device memory of one GPU the models of a namespace may take, as people write it: a list such as
 * "50%,openfaas-fn=100%,team=8GiB". A value by itself is for every namespace that is not named. */

#include <stdint.h>

#include "base/err.h"

#define FAST_LIMIT_NAMES 64

/* Where the list says nothing: whoever runs functions for himself alone has the whole GPU, and a tenant
 * beside others leaves half of it to them. */
#define FAST_LIMIT_DEFAULT "50%,openfaas-fn=100%"

struct fast_limit {
    char ns[64]; /* "": every other one */
    uint64_t bytes;
    uint32_t percent; /* of the device, if |bytes| is UINT64_MAX */
};

struct fast_limits {
    int count;
    struct fast_limit row[FAST_LIMIT_NAMES];
};

/* FAST_EINVAL: it is no such list, or names a namespace twice. Without a value by itself the rest is as in
 * FAST_LIMIT_DEFAULT. */
int fast_limits_parse(const char *text, const char *what, struct fast_limits *ret, struct fast_err *err);

/* Bytes that |ns| may have on a device of |total|; UINT64_MAX: there is no limit. |limits| of zeros: none. */
uint64_t fast_limits_of(const struct fast_limits *limits, const char *ns, uint64_t total);

#endif
