#ifndef FAST_CLI_PROFILE_H
#define FAST_CLI_PROFILE_H

/* The pieces of `fast profile`: the slices of its grid, what is shown of a profile, and the forms that
 * it can be written and read in. */

#include <stdio.h>

#include "cli/cli.h"
#include "io/trials.h"
#include "core/predict.h"

#define PROFILE_SMS 7
#define PROFILE_QUOTAS 5
#define PROFILE_GRID (PROFILE_SMS * PROFILE_QUOTAS)

extern const int profile_sms[PROFILE_SMS]; /* SM partitions of the paper */
extern const int profile_quotas[PROFILE_QUOTAS];

/* The trials of one function. */
struct profile {
    const char *name;
    char version[FAST_TRIAL_VERSION_MAX];
    struct fast_trial trial[FAST_TRIALS_MAX];
    int trials;
};

/* Fits those that succeeded. FAST_EINVAL: there is none. */
int profile_fit(const struct profile *p, struct fast_predict **ret, struct fast_err *err);

/* The slices of the grid, without what they do. */
void profile_candidates(struct fast_predict_point ret[PROFILE_GRID]);

/* The trials and throughput per resource as a table, the best marked. */
void profile_print(const struct cli *cli, const struct profile *p);

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

#endif
