#ifndef FAST_TESTS_HOOK_FAKE_NODE_H
#define FAST_TESTS_HOOK_FAKE_NODE_H

/* A node of a few lines, to test the hook against: it speaks node.sock with tokens and memory caps in
 * a thread of the test, does as it is told, and remembers what it saw. */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

struct fake_revocation {
    fast_ns at, back; /* when the token was taken back, and when it was given back */
};

struct fake_conf {
    const char *path;    /* of the socket */
    uint64_t cap;        /* bytes, over all clients; 0: none */
    bool gated;          /* false: policy racing */
    bool deaf;           /* it misses the first wish */
    bool flash;          /* the first token is taken back at once */
    bool silent;         /* tokens are wanted in vain until fake_node_grant() */
    bool fail_open;
    bool contended;
    fast_ns token_ns;    /* length of a token */
    fast_ns grace_ns;
    fast_ns inflight_ns;
    uint32_t limit_milli; /* of the slice; 0: no limit */
    bool pulse;           /* tells that it is alive */
    int full;             /* so many hellos are refused for now */
    uint32_t gpus;        /* that it says a replica has; 0: 1 */
    enum {
        FAKE_OK,
        FAKE_NO_PAGES,     /* it welcomes with nothing else, */
        FAKE_NO_MAGIC,     /* with a page of something else, */
        FAKE_PAGE_VERSION, /* or of another version, */
        FAKE_VERSION,      /* or speaks another one */
    } wrong;
    struct fake_revocation *revocations; /* gets them in order; NULL: not wanted */
    int revocations_max;
};

struct fake_stats {
    int hellos, reconnects, clients, refused;
    int revocations;
    uint64_t late_max; /* launches that were counted between a revocation and its done, at most */
    int wants, dones, tokens, strange; /* strange: a done without a token, or of another one; more memory of a
                                        * family released than reserved */
    int reports, sm_count, mps, driver_version;
    char unhooked[256];
    uint64_t launches, copies; /* sums of the counters pages, of dead clients too */
    int64_t busy_ns, wait_ns, page_busy_ns, overrun_max_ns;
    uint64_t mem_used, mem_peak, mem_state;
    int mem_asked, mem_refused;
};

struct fake_node;

struct fake_node *fake_node_start(const struct fake_conf *conf);
/* From now on tokens are granted. */
void fake_node_grant(struct fake_node *node);
void fake_node_stats(struct fake_node *node, struct fake_stats *ret);
/* Hangs: the socket stays open, and nothing is done any more. */
void fake_node_hang(struct fake_node *node);
/* Ends as if killed: the sockets close, the pages stay as they are. */
void fake_node_stop(struct fake_node *node);

/* The ticket that it lets in. */
#define FAKE_TICKET "00112233445566778899aabbccddeeff"

#endif
