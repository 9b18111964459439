#ifndef FAST_WIRE_PAGE_H
#define FAST_WIRE_PAGE_H

/* The two pages that a client (one process of a replica) and its node share.
 *
 * limits page: written by the node alone. The client gets a read-only descriptor of a sealed memfd,
 * so it can map it in no other way. It holds the token of the client.
 *
 * counters page: written by the client, read by the node, which believes nothing in it: counts are
 * for show, and busy time is bounded by the time that the token was held.
 *
 * Token life, per GPU of the replica:
 *   client: no token -> sends token_want, waits on |wake| (futex)
 *   node:   writes |until_ns| and |last|, then |token| = number (never 0, never used twice), then
 *           ++|wake|, FUTEX_WAKE
 *   client: while |token| is not 0 it may submit work; it reads nothing else on the fast path
 *   node:   at the end of the token, or when another client is owed the SMs: |token| = 0, ++|wake|,
 *           FUTEX_WAKE (the hook's thread waits there too)
 *   client: submits no more, waits until all that it submitted is complete, sends token_done (also for a
 *           token that was not taken from it: the node then sets |token| to 0 and wakes nobody)
 *   client: a token that came and went before it looked is in |last|; it is given back like any other
 *   node:   only now gives the SMs to another client
 *   node:   token_done says whether its sender waits for another one, and outweighs every token_want
 *           that was sent before it
 * A client that is idle gives its token back by itself as soon as |contended| is not 0.
 *
 * All moments are CLOCK_MONOTONIC. Futexes on these words are shared ones (no FUTEX_PRIVATE). */

#include <stdatomic.h>
#include <stdint.h>

#include "base/units.h"

#define FAST_PAGE_MAGIC 0x46615354u /* "FaST" */
#define FAST_PAGE_VERSION 1
#define FAST_PAGE_BYTES 4096
/* The node tells that it is alive this often, and is given up after so long without. */
#define FAST_PULSE_NS FAST_MS(200)
#define FAST_PULSE_LOST_NS FAST_S(2)

#define FAST_PAGE_GPUS 8 /* GPUs that one replica can see at most */

struct fast_grant {
    _Atomic uint64_t token;   /* 0: none */
    _Atomic int64_t until_ns; /* when the node will take it back at the latest */
    _Atomic uint32_t wake;    /* futex word: changes whenever |token| does */
    _Atomic uint32_t contended; /* somebody else waits for these SMs */
    _Atomic uint64_t mem_cap_bytes;  /* of the replica on this GPU; 0: the whole GPU */
    _Atomic uint64_t mem_used_bytes; /* of the replica on this GPU, all its processes */
    _Atomic uint32_t sm_pct;
    _Atomic uint32_t limit_milli;
    _Atomic uint64_t last; /* the newest token that was ever in |token|; it stays when that goes to 0 */
    uint64_t pad[1];
};

struct fast_limits_page {
    uint32_t magic, version;
    _Atomic uint64_t epoch;   /* of the node's life; a new one means: say hello again */
    _Atomic uint32_t gated;   /* 0: policy racing, submit without a token */
    _Atomic uint32_t closing; /* the node is going away on purpose */
    _Atomic int64_t grace_ns; /* without a node the client goes on this long with its last slice */
    _Atomic int64_t inflight_ns; /* how much work a client may keep in flight, as GPU time */
    _Atomic int64_t pulse_ns; /* the node was alive then; 0: it does not tell */
    uint64_t pad[2];
    struct fast_grant gpu[FAST_PAGE_GPUS];
};

struct fast_counters {
    _Atomic uint64_t launches;  /* kernels and graphs, of the thread that launched first */
    _Atomic uint64_t copies;    /* gated copies and memsets */
    _Atomic int64_t busy_ns;    /* time with work in flight */
    _Atomic int64_t wait_ns;    /* time that launches waited for a token */
    _Atomic uint32_t in_flight; /* launches not known to be complete */
    _Atomic uint32_t window;    /* launches that may be in flight now */
    _Atomic uint64_t launches_others; /* of all other threads */
    uint64_t pad[2];
};

struct fast_counters_page {
    uint32_t magic, version;
    uint64_t pad[7];
    struct fast_counters gpu[FAST_PAGE_GPUS];
};

static inline uint64_t fast_counters_launches(const struct fast_counters *c)
{
    return atomic_load_explicit(&c->launches, memory_order_relaxed) +
           atomic_load_explicit(&c->launches_others, memory_order_relaxed);
}

_Static_assert(sizeof(struct fast_grant) == 64, "a grant is one cache line");
_Static_assert(sizeof(struct fast_counters) == 64, "counters are one cache line");
_Static_assert(sizeof(struct fast_limits_page) <= FAST_PAGE_BYTES, "limits fit in a page");
_Static_assert(sizeof(struct fast_counters_page) <= FAST_PAGE_BYTES, "counters fit in a page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must not take a lock");

/* What the node puts into the environment of a replica for the hook. */
#define FAST_ENV_SOCKET "FAST_NODE_SOCKET" /* path of node.sock */
#define FAST_WATCHDOG_IN_IMAGE "/.fast-watchdog" /* where fast-run shows the watchdog in an image's file system */
#define FAST_ENV_USER "FAST_FUNCTION_USER" /* UID:GID that fast-run becomes; "": it stays who it is */
#define FAST_ENV_TICKET "FAST_TICKET"      /* 32 hex digits; whoever has them is the replica */
#define FAST_ENV_FAIL "FAST_FAIL"          /* open (default) | closed: what to do without a node */
/* Of a replica that shares models (docs/store.md). */
#define FAST_ENV_MODEL "FAST_MODEL"             /* what its function calls the model; set by the gateway */
#define FAST_ENV_STORE "FAST_STORE_SOCKET"      /* path of the socket of the store of its GPU */
#define FAST_ENV_STORE_PASS "FAST_STORE_PASS"   /* core/pass.h */
#define FAST_ENV_STORE_LIB "FAST_STORE_LIB"     /* path of libfast-store.so */
#define FAST_ENV_MEM_WAIT "FAST_MEM_WAIT_MS" /* at the memory cap an allocation waits so long, else fails at once */
#define FAST_MEM_WAIT_MAX FAST_S(60)
#define FAST_ENV_HOOK_LOG "FAST_HOOK_LOG"  /* a file for the hook's own log; unset: silent */

#endif
