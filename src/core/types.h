#ifndef FAST_CORE_TYPES_H
#define FAST_CORE_TYPES_H

/* The shared nouns: what a replica holds of a GPU, and how a GPU is shared. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

/* A GPU is 100 % of its SMs and 1000 thousandths of its time. */
#define FAST_SM_PCT_MAX 100
#define FAST_MILLI 1000

/* GPUs that one node has at most, and that one replica can see. */
#define FAST_NODE_GPUS_MAX 8

/* The accounting period of a time quota. The authors' code has 10 s, useless against an SLO of
 * tens of milliseconds; settable per node between the two bounds. */
#define FAST_WINDOW_DEFAULT FAST_MS(100)
#define FAST_WINDOW_MIN FAST_MS(10)
#define FAST_WINDOW_MAX FAST_S(10)

/* The slice of one GPU that a replica holds. */
struct fast_slice {
    int sm_pct;         /* SM partition: the most SMs it may use, 1..100 % */
    int request_milli;  /* time quota guaranteed in every window, 0..1000 thousandths */
    int limit_milli;    /* time quota it may never exceed, max(request, 1)..1000 */
    uint64_t mem_bytes; /* device memory cap over all its processes; 0 = the whole GPU */
};

/* How the token scheduler shares a GPU; all three run in the same code, to be compared. */
enum fast_policy {
    FAST_POLICY_FAST,      /* several tokens at once while their SM partitions fit in 100 % */
    FAST_POLICY_TIMESHARE, /* one token at a time, every partition counted as 100 % (KubeShare) */
    FAST_POLICY_RACING,    /* no tokens, no partitions, no quotas; memory caps still hold */
    FAST_POLICY_COUNT
};

/* What a client is charged for. */
enum fast_charge {
    FAST_CHARGE_BUSY, /* the time its work kept the GPU busy */
    FAST_CHARGE_HELD, /* the time it held a token (the authors' setting) */
    FAST_CHARGE_COUNT
};

/* Checks the ranges above; the message names the field, the value and the range. */
int fast_slice_check(const struct fast_slice *slice, struct fast_err *err);

const char *fast_policy_name(enum fast_policy policy);
int fast_policy_parse(const char *text, enum fast_policy *ret, struct fast_err *err);
const char *fast_charge_name(enum fast_charge charge);
int fast_charge_parse(const char *text, enum fast_charge *ret, struct fast_err *err);

#endif
