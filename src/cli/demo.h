#ifndef FAST_CLI_DEMO_H
#define FAST_CLI_DEMO_H

/* The pieces of `fast demo`: what is deployed, what is played, and the table at the end. */

#include <stdbool.h>

#include "cli/api.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "core/types.h"
#include "sim/arrivals.h"

#define DEMO_FUNCTIONS 5

enum demo_shape { DEMO_RAMP, DEMO_AZURE, DEMO_POISSON };

struct demo_fn {
    const char *name, *image, *model; /* model: env MODEL of replay; NULL: none */
    int replicas, sm_pct;
    const char *quota_request, *quota_limit;
    uint64_t mem_bytes;
    fast_ns slo;
    enum demo_shape shape;
    int64_t rps_milli; /* mean of Poisson and Azure, peak of the ramp */
};

extern const struct demo_fn demo_functions[DEMO_FUNCTIONS];

/* Averages of what /system/gpus told while the load was played. */
struct demo_gpu {
    struct json_mean utilization, sm_activity, occupancy;
};

struct demo_result {
    enum fast_policy policy;
    struct fast_load_result fn[DEMO_FUNCTIONS];
    struct demo_gpu gpu;
};

/* The held-out digits: records of 65 bytes, 64 pixels and what they show. */
struct demo_digits {
    char *data;
    size_t count;
    const char **bodies;
    size_t *lens;
};

/* Finds and reads functions/digits' held-out set. */
int demo_digits_load(struct demo_digits *d, const struct cli *cli, struct fast_err *err);
void demo_digits_fini(struct demo_digits *d);
/* True when |body|, the answer to image |i|, names the right digit. */
bool demo_digits_right(const struct demo_digits *d, size_t i, const char *body, size_t len);

/* Plays |seconds| of load on all functions at |host|:|port|. */
int demo_play(struct cli *cli, const struct demo_digits *digits, int port, int seconds,
              struct demo_result *ret, struct fast_err *err);

/* The paper's ramp, scaled to the length and the peak wanted. */
int demo_ramp(struct fast_arrivals *a, int64_t peak_milli, int seconds, struct fast_err *err);

/* Replicas follow a ramp, and a deployment is refused: told on |out|. No function is there before, nor after. */
int demo_scale(struct cli *cli, int port, int seconds, FILE *out);

/* Prints the table of all policies and says whether anything was lost. */
bool demo_report(struct cli *cli, const struct demo_result *results, size_t count, bool simulated);

/* Ctrl-C, or SIGTERM. */
bool demo_interrupted(void);

/* Where the arrivals of DEMO_AZURE come from: a sentence. */
const char *demo_azure_source(void);

#endif
