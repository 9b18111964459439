#ifndef FAST_GATEWAY_FETCH_H
#define FAST_GATEWAY_FETCH_H

/* HTTP requests of the gateway itself, to its own port and to callback URLs: libcurl on the event
 * loop. Bodies are held in memory. */

#include <stddef.h>

#include "io/loop.h"

#define GW_FETCH_MAX ((size_t)64 << 20)

struct gw_fetcher;

struct gw_fetch {
    const char *method, *url;
    const char *headers; /* lines, each with its CRLF */
    const void *body;    /* copied */
    size_t len;
    fast_ns timeout;
    size_t keep; /* bytes of the answer's body, at most GW_FETCH_MAX; 0: its head is all that counts, and when that
                  * has come the body may be cut off */
};

struct gw_fetched {
    int status;       /* 0: there was no answer; |why| */
    const char *why;
    const char *headers; /* lines, without those of framing */
    const char *body;
    size_t len;
    double seconds;
    fast_ns retry_after; /* that the answer asks to wait; 0: nothing */
    bool internal; /* the answer is the platform's, not the function's */
    bool cut;      /* it was larger than |keep|: |body| is its beginning */
};

typedef void gw_fetched_fn(void *arg, const struct gw_fetched *answer);

int gw_fetcher_new(struct fast_loop *loop, struct gw_fetcher **ret, struct fast_err *err);
void gw_fetcher_free(struct gw_fetcher *f); /* nothing more is told; NULL is fine */
/* |fn| is told once, later. */
int gw_fetch(struct gw_fetcher *f, const struct gw_fetch *what, gw_fetched_fn *fn, void *arg,
             struct fast_err *err);
/* Ends the request that would tell |arg|, if there is one: nothing is told. */
void gw_fetch_cancel(struct gw_fetcher *f, const void *arg);
/* Whether |text| is a URL of http or https that can be asked for. */
bool gw_fetch_is_url(const char *text);

#endif
