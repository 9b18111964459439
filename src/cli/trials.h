#ifndef FAST_CLI_TRIALS_H
#define FAST_CLI_TRIALS_H

/* The profile database: one row per trial of a function's slice, in SQLite. A row is written whole or
 * not at all. What is there of an older version of the function stays, under that version. */

#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

#define TRIALS_MAX 64       /* of one function and version */
#define TRIAL_VERSION_MAX 24

struct trial {
    int sm_pct, quota_milli;
    char state[16]; /* "ok": the numbers hold; else "errors", "crashed", "timeout" or "unready", and
                     * |text| says more */
    char text[200];
    double rps;                  /* saturated */
    double p50_ms, p95_ms, p99_ms; /* without a queue */
    double utilization, sm_activity, occupancy, dram; /* of the GPU meanwhile, 0..1 */
    int64_t memory_bytes;
    double error_rate;           /* 0..1 */
    double seconds;              /* that the trial took */
};

struct trials;

/* Opens or creates. FAST_EPROTO: a newer version wrote it. */
int trials_open(const char *path, struct trials **ret, struct fast_err *err);
void trials_close(struct trials *t); /* NULL is fine */

/* Inserts or replaces the row of this slice. */
int trials_put(struct trials *t, const char *function, const char *version, const struct trial *trial,
               struct fast_err *err);

/* All trials of |version|, by SM and quota; at most TRIALS_MAX. */
int trials_get(struct trials *t, const char *function, const char *version, struct trial *ret,
               int *ret_count, struct fast_err *err);

/* The version that was tried last. FAST_ENOENT: none. */
int trials_latest(struct trials *t, const char *function, char ret[TRIAL_VERSION_MAX],
                  struct fast_err *err);

/* Forgets |version|. */
int trials_forget(struct trials *t, const char *function, const char *version, struct fast_err *err);

#endif
