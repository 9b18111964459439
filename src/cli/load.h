#ifndef FAST_CLI_LOAD_H
#define FAST_CLI_LOAD_H

/* An HTTP load. Open: requests go out when they are due, whatever became of the ones before, and
 * latency counts from the moment a request was due (no coordinated omission). Closed: whoever has an
 * answer sends the next request, as a job does that takes all it gets. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "base/units.h"

/* One target with its schedule. Everything is borrowed until fast_load_run() returns. */
struct fast_load_spec {
    const char *host;   /* numeric IPv4 address */
    int port;
    const char *path;   /* from "/" on */
    const char *method; /* NULL: POST */
    const char *const *bodies; /* sent in turn; NULL: empty bodies */
    const size_t *body_lens;
    size_t body_count;
    const fast_ns *due;  /* moments after the start, ascending (sim/arrivals.h makes them) */
    size_t due_count;
    fast_ns closed_until; /* > 0: no schedule, a closed loop on each connection, until that after the start */
    fast_ns slo;         /* 0: none */
    fast_ns timeout;     /* of one request, counted from when it was due (closed: sent) */
    int connections_max; /* keep-alive connections at most; requests wait for one, their clock runs */
    /* Looks at an answer with status 2xx; false counts it as wrong. May be NULL. */
    bool (*check)(void *arg, size_t request, const char *body, size_t len);
    void *check_arg;
    fast_ns *answered; /* where the moments of answers that are ok go, due_count of them; NULL: nowhere */
};

struct fast_load_result {
    uint64_t sent, ok;       /* ok: 2xx, and check() said yes */
    uint64_t wrong;          /* 2xx, and check() said no */
    uint64_t throttled;      /* 429 */
    uint64_t client_errors;  /* other 4xx */
    uint64_t server_errors;  /* 5xx */
    uint64_t timeouts, lost; /* lost: the connection broke without an answer */
    uint64_t violations;     /* later than slo, and everything that is not ok */
    struct fast_hist latency; /* of the answers with 2xx, ns */
    fast_ns span;            /* from the start to the last answer, or the end of the last time-out */
    fast_ns last_ok;         /* from the start to the last answer that is ok; 0: none */
};

/* Called about ten times a second. False: the load ends now, and what is in flight has been sent and no more. */
typedef bool fast_load_progress(void *arg, fast_ns elapsed, fast_ns total, uint64_t done,
                                uint64_t all);

/* Plays all schedules at once and waits for every answer or its time-out. */
int fast_load_run(const struct fast_load_spec *specs, size_t count, fast_load_progress *progress,
                  void *progress_arg, struct fast_load_result *ret, struct fast_err *err);

#endif
