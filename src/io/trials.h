#ifndef FAST_IO_TRIALS_H
#define FAST_IO_TRIALS_H

/* The profile database: one row per trial of a function's slice, and what live requests have added,
 * in SQLite. The command line and the gateway have it open at the same time; a row is written whole or
 * not at all. What is there of an older version of the function stays, under that version. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

#define FAST_TRIALS_MAX 64 /* of one function, version and batch */
#define FAST_TRIAL_BATCHES_MAX 16
#define FAST_TRIAL_VERSION_MAX 24
#define FAST_TRIALS_IMPORTED "imported" /* the version of a profile that was not measured here */

struct fast_trial {
    int sm_pct, quota_milli;
    int batch;      /* inputs in a request; 1 where the function takes no batches */
    char state[16]; /* "ok": the numbers hold; else "errors", "crashed", "timeout" or "unready", and
                     * |text| says more; of one that is "ok", what may have disturbed it */
    char text[200];
    double rps;                    /* saturated; requests, each of |batch| inputs */
    double p50_ms, p95_ms, p99_ms; /* without a queue */
    double utilization, sm_activity, occupancy, dram; /* of the GPU while saturated, 0..1 */
    double gpu_ms;                 /* GPU time that a request is charged; 0: not known */
    int64_t memory_bytes;
    double error_rate; /* 0..1 */
    double seconds;    /* that the trial took */
};

/* What live requests say of a slice. */
struct fast_trial_live {
    int sm_pct, quota_milli;
    double rps;             /* while requests were always waiting; 0: they never were */
    double p95_ms, p99_ms;  /* at about the load of a trial; 0: there was none */
    int64_t spans, latency_spans; /* of time, that these come from */
    int64_t seen_s;         /* the last of them, seconds since 1970 */
};

/* Whether live requests still are as the trials say. */
struct fast_trial_drift {
    int milli;       /* throughput over that of the trials, in thousandths; 0: no drift */
    int64_t since_s; /* seconds since 1970 */
};

struct fast_trials;

/* Opens or creates. FAST_EPROTO: a newer version wrote it. |wait_ms|: how long to wait for others. */
int fast_trials_open(const char *path, int wait_ms, struct fast_trials **ret, struct fast_err *err);
void fast_trials_close(struct fast_trials *t); /* NULL is fine */

/* Whether somebody else has written since the last call; true the first time. */
bool fast_trials_changed(struct fast_trials *t);

/* The version of a deployed function, from its JSON: a hash of the image, the command line and the
 * environment. What is empty counts as not there. */
void fast_trials_version(const json_t *function, char ret[FAST_TRIAL_VERSION_MAX]);

/* Inserts or replaces the row of this slice and batch. */
int fast_trials_put(struct fast_trials *t, const char *function, const char *version,
                    const struct fast_trial *trial, struct fast_err *err);
/* Replaces |version| by |n| rows: all or none. */
int fast_trials_replace(struct fast_trials *t, const char *function, const char *version,
                        const struct fast_trial *trial, int n, struct fast_err *err);

/* All trials of |version| with |batch| inputs in a request, by SM and quota; at most FAST_TRIALS_MAX. */
int fast_trials_get(struct fast_trials *t, const char *function, const char *version, int batch,
                    struct fast_trial *ret, int *ret_count, struct fast_err *err);
/* Which batches |version| was tried with, ascending; at most FAST_TRIAL_BATCHES_MAX. Returns how many, or
 * an error. */
int fast_trials_batches(struct fast_trials *t, const char *function, const char *version,
                        int ret[FAST_TRIAL_BATCHES_MAX], struct fast_err *err);

/* The version that was tried or imported last. FAST_ENOENT: none. */
int fast_trials_latest(struct fast_trials *t, const char *function, char ret[FAST_TRIAL_VERSION_MAX],
                       struct fast_err *err);

/* Forgets |version|, with what live requests have said of it. */
int fast_trials_forget(struct fast_trials *t, const char *function, const char *version,
                       struct fast_err *err);

/* What live requests have said: |n| rows and the drift, written together. */
int fast_trials_live_put(struct fast_trials *t, const char *function, const char *version,
                         const struct fast_trial_live *live, int n,
                         const struct fast_trial_drift *drift, struct fast_err *err);
int fast_trials_live_get(struct fast_trials *t, const char *function, const char *version,
                         struct fast_trial_live *ret, int max, int *ret_count,
                         struct fast_trial_drift *ret_drift, struct fast_err *err);

#endif
