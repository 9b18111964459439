#ifndef FAST_CLI_SIMULATE_H
#define FAST_CLI_SIMULATE_H

/* The pieces of `fast simulate`: what is played, and what is told of it. */

#include <stdbool.h>

#include "base/err.h"
#include "sim/cluster.h"
#include "sim/loadgen.h"

struct sim_world {
    struct sim_cluster_conf conf;
    struct fast_arrivals load;
    enum fast_scenario scenario; /* FAST_SCENARIO_COUNT: none */
    int query, seconds;          /* of a scenario: samples of a query (0: open), and its length */
    int64_t rate_milli;          /* of a Poisson load; 0: another one */
    uint64_t seed;
    bool search;                 /* for the highest rate */
    struct fast_profile *profiles[SIM_CLUSTER_FUNCTIONS];
    struct sim_cluster_result result;
};

int simulate_draw(const struct sim_world *w, const char *path, struct fast_err *err);
int simulate_write(const struct sim_world *w, const char *path, struct fast_err *err);
void simulate_print_json(const struct sim_world *w);
void simulate_print_text(const struct sim_world *w);

#endif
