#ifndef FAST_NODE_PAGES_H
#define FAST_NODE_PAGES_H

/* The two pages of wire/page.h for one client. */

#include "base/err.h"
#include "wire/page.h"

struct node_pages {
    struct fast_limits_page *limits;
    const struct fast_counters_page *counters;
};

/* Makes both pages. |ret_fds|: what the client gets, in the order of welcome: limits (which nobody
 * can write or map writable through it), counters. The caller closes them. */
int node_pages_new(struct node_pages *ret, int ret_fds[2], struct fast_err *err);
void node_pages_free(struct node_pages *pages);

/* Ends the waiting of the client's threads on |grant|. */
void node_pages_wake(struct fast_grant *grant);

#endif
