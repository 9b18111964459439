#ifndef FAST_CORE_SCALE_RECORD_H
#define FAST_CORE_SCALE_RECORD_H

/* Decisions about the replicas of a function, kept for people: what they went by, what was weighed, what
 * was done and why. A ring: the oldest makes room. */

#include "core/scale.h"

#define FAST_RECORDS 24 /* that are kept; memory for them is taken as they come */
#define FAST_RECORD_ACTIONS 4

struct fast_scale_did {
    struct fast_scale_action action;
    char outcome[200]; /* "" : done; else why not */
};

struct fast_scale_record {
    int64_t wall_ns;    /* when, by the caller's clock; of the latest of |times| */
    int times;          /* that it came one after the other, with the same outcome */
    const char *policy; /* static */
    const char *cause;  /* static: "load", "wake", ... */
    /* What it went by; thousandths of requests/s. */
    int64_t load_milli, expected_milli, burst_milli, calm_milli;
    int queued, replicas, serving;
    fast_ns start_ns; /* that a start takes */
    struct fast_scale_trace trace;
    int nactions; /* of them the first FAST_RECORD_ACTIONS are kept */
    struct fast_scale_did did[FAST_RECORD_ACTIONS];
};

/* Zeroed: none yet. */
struct fast_scale_records {
    struct fast_scale_record *ring; /* NULL until the first */
    int cap;        /* of |ring|, up to FAST_RECORDS */
    uint64_t total; /* that were ever added */
};

void fast_scale_records_fini(struct fast_scale_records *records);

/* Adds a copy of |record| with times 1, or counts the latest one up if it is alike: same cause, same
 * actions, same outcomes, and at least one of them not done. Out of memory: it is lost. */
void fast_scale_records_add(struct fast_scale_records *records,
                            const struct fast_scale_record *record);

/* The record |back| before the latest, 0: that one; NULL: there is none any more. Good until the next one
 * is added: they move. */
const struct fast_scale_record *fast_scale_records_get(const struct fast_scale_records *records,
                                                       uint64_t back);

#endif
