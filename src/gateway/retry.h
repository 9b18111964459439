#ifndef FAST_GATEWAY_RETRY_H
#define FAST_GATEWAY_RETRY_H

/* Whether a call that has failed is made again, and how long after. Annotations say so as OpenFaaS has them;
 * what is malformed counts as not there, since a deployment with it was accepted. */

#include <stdbool.h>

#include "gateway/spec.h"

struct gw_retry {
    int64_t attempts;
    fast_ns min, max;
    const char *codes; /* NULL: the default */
};

struct gw_retry gw_retry_of(const struct gw_spec *spec); /* NULL: the function is not there any more */
/* Whether |status| may be another one next time; 0: there was no answer. */
bool gw_retry_passes(const struct gw_retry *r, int status);
/* How long to wait after so many attempts. */
fast_ns gw_retry_wait(const struct gw_retry *r, int attempts);

#endif
