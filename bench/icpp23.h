#ifndef FAST_BENCH_ICPP23_H
#define FAST_BENCH_ICPP23_H

/* The measurements of the authors of FaST-GShare on a V100, and the same experiments simulated. The
 * file is not part of this repository: ../shared/data/icpp23_measured.csv beside it, or the path in
 * FAST_BENCH_DATA. */

#include <stdbool.h>

#include "base/err.h"
#include "sim/experiment.h"

#define ICPP23_ROWS_MAX 400

struct icpp23_row {
    char model[32], mode[16]; /* profile, partition, racing */
    double quota;
    int sm_pct, replicas;
    double rps, util_pct, sm_active, occupancy, dram, p95_ms;
};

struct icpp23 {
    int rows;
    struct icpp23_row row[ICPP23_ROWS_MAX];
};

/* False when the file is not there or not what is expected; |why| says it. */
bool icpp23_read(struct icpp23 *ret, char why[200]);

/* Reads models/NAME.model of the source tree. */
int icpp23_model(const char *name, struct sim_model *ret, struct fast_err *err);

/* The experiment of |row| with |model|. */
void icpp23_conf(const struct icpp23_row *row, const struct sim_model *model,
                 struct sim_exp_conf *ret);

/* What was simulated, in the form of a row. */
struct icpp23_row icpp23_simulate(const struct icpp23_row *row, const struct sim_model *model);

#endif
