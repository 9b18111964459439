#ifndef FAST_CLI_PROFILE_H
#define FAST_CLI_PROFILE_H

/* The pieces of `fast profile`: the slices of its grid, the run of its trials, what is shown of a profile,
 * and the forms that it can be written and read in. */

#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"
#include "io/trials.h"
#include "core/predict.h"

#define PROFILE_NAME_MAX 140
#define PROFILE_SMS 7
#define PROFILE_QUOTAS 5
#define PROFILE_GRID (PROFILE_SMS * PROFILE_QUOTAS)
#define PROFILE_BATCHES_MAX 8
#define PROFILE_BATCH_MAX 1024

extern const int profile_sms[PROFILE_SMS]; /* SM partitions of the paper */
extern const int profile_quotas[PROFILE_QUOTAS];

/* The trials of one function with one batch, and what live requests have said of it. */
struct profile {
    char name[PROFILE_NAME_MAX]; /* NAME, or NAME.NAMESPACE where that is not the default */
    char version[FAST_TRIAL_VERSION_MAX];
    int batch; /* inputs in a request */
    struct fast_trial trial[FAST_TRIALS_MAX];
    int trials;
    struct fast_trial_drift drift;
    int live_slices;
    int64_t live_spans;
};

/* Reads the trials of |version| and |batch|, and the drift. */
int profile_load(struct fast_trials *db, struct profile *p, struct fast_err *err);

/* Fits those that succeeded. FAST_EINVAL: there is none. */
int profile_fit(const struct profile *p, struct fast_predict **ret, struct fast_err *err);

/* The slices of the grid, without what they do. */
void profile_candidates(struct fast_predict_point ret[PROFILE_GRID]);

/* The trials and throughput per resource as a table, the best marked, and what live requests say. */
void profile_print(const struct profile *p);

/* Throughput over quota, one line per SM partition. */
void profile_plot(const struct profile *p, const struct fast_predict *f, FILE *out);
void profile_svg(const struct profile *p, const struct fast_predict *f, FILE *out);

/* Which replicas of which slice carry |rate_milli| with a p95 of at most |slo|, the cheapest first. */
int profile_answer(const struct cli *cli, const struct fast_predict *f, int64_t rate_milli,
                   fast_ns slo, fast_ns window);

/* Forms: "csv" as fast-gateway --profiles reads it, "authors" as the authors' trial_result_info,
 * "json" with everything. */
int profile_write(const struct profile *p, const char *form, FILE *out, struct fast_err *err);
int profile_read(const char *text, size_t len, struct profile *ret, struct fast_err *err);

/* ---- trials ---- */

/* Bodies of requests, sent in turn; owned. */
#define PROFILE_BODIES_MAX 16
struct profile_bodies {
    char *data[PROFILE_BODIES_MAX];
    size_t len[PROFILE_BODIES_MAX];
    int count; /* 0: empty bodies */
    const char *source; /* in words, static */
};

/* From |file|; else, where it is NULL and |recorded|, those that the gateway has kept of live requests; else
 * from the function's sample, which |function| (GET /system/function/NAME) declares; else none. Of a
 * request with |batch| inputs each is repeated so often. */
int profile_bodies(struct cli *cli, const json_t *function, const char *file, bool recorded, int batch,
                   struct profile_bodies *ret, struct fast_err *err);
void profile_bodies_free(struct profile_bodies *bodies);

/* |text| is "1,4,16". */
int profile_parse_batches(const char *text, const char *what, int ret[PROFILE_BATCHES_MAX], int *ret_n,
                          struct fast_err *err);

struct profile_plan {
    bool grid, fresh, recorded;
    const char *body; /* path; NULL */
    int64_t confidence_milli, max_trials, seconds_milli, users;
    fast_ns max_time; /* FAST_NEVER: none */
    int batch[PROFILE_BATCHES_MAX], batches; /* 0: as the function declares, else 1 */
};

/* Window of the node's time quota; the default where no gateway tells. */
fast_ns profile_window(struct cli *cli);

/* Runs the trials that are missing, and leaves the profile of the first batch in |ret|. An exit status. */
int profile_run(struct cli *cli, const struct profile_plan *plan, struct fast_trials *db,
                const char *db_path, const char *name, struct profile *ret);

#endif
