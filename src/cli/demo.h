#ifndef FAST_CLI_DEMO_H
#define FAST_CLI_DEMO_H

/* The pieces of `fast demo`: scenes (what is deployed and played, under which policies), their tables,
 * and the last scene, in which replicas follow the load. */

#include <jansson.h>
#include <stdbool.h>

#include "cli/api.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "core/types.h"
#include "sim/arrivals.h"

#define DEMO_FUNCTIONS_MAX 5

enum demo_shape {
    DEMO_RAMP,
    DEMO_AZURE,
    DEMO_POISSON,
    DEMO_GREEDY, /* two requests under way for each replica, always */
};

struct demo_fn {
    const char *name, *image, *model; /* model: env MODEL of replay; NULL: none */
    int replicas, sm_pct;
    const char *quota_request, *quota_limit;
    uint64_t mem_bytes;
    fast_ns slo; /* 0: none */
    enum demo_shape shape;
    int64_t rps_milli; /* mean of Poisson and Azure, peak of the ramp */
    int inputs;        /* of one request; 0: 1 */
};

struct demo_scene {
    const char *name, *title, *about;
    const struct demo_fn *fn;
    int functions;
    const enum fast_policy *policy;
    int policies;
};

extern const struct demo_scene demo_scenes[];
extern const int demo_scene_count;

/* Averages of what /system/gpus told while the load was played. */
struct demo_gpu {
    struct json_mean utilization, sm_activity, occupancy;
};

/* Of one policy. */
struct demo_result {
    enum fast_policy policy;
    struct fast_load_result fn[DEMO_FUNCTIONS_MAX];
    struct demo_gpu gpu;
};

/* The held-out digits: records of 65 bytes, 64 pixels and what they show. */
struct demo_digits {
    char *data;
    size_t count;
    const char **bodies;
    size_t *lens;
};

/* What all scenes have. */
struct demo_stage {
    struct cli *cli;
    const struct demo_digits *digits;
    int port, seconds; /* of the gateway; of the load under each policy */
    bool simulated;
    FILE *out;    /* text for people: stderr with --json */
    json_t *list; /* with --json: what the scenes showed */
};

/* Finds and reads functions/digits' held-out set. */
int demo_digits_load(struct demo_digits *d, const struct cli *cli, struct fast_err *err);
void demo_digits_fini(struct demo_digits *d);
/* How many of them the function "digits" reads right, told on stage->out. */
int demo_digits_read(const struct demo_stage *stage);

/* Creates the functions of a scene and waits for their replicas; removes them and waits for that. */
int demo_deploy(const struct demo_stage *stage, const struct demo_scene *scene);
int demo_remove(const struct demo_stage *stage, const struct demo_scene *scene);

/* Plays a scene under each of its policies and reports. No function is there before, nor after. */
int demo_scene_play(const struct demo_stage *stage, const struct demo_scene *scene);

/* Plays the load of a scene under the policy that is set. */
int demo_play(const struct demo_stage *stage, const struct demo_scene *scene, struct demo_result *ret,
              struct fast_err *err);

/* The paper's ramp, scaled to the length and the peak wanted. */
int demo_ramp(struct fast_arrivals *a, int64_t peak_milli, int seconds, struct fast_err *err);

/* Replicas follow a ramp, and a deployment is refused. No function is there before, nor after. */
int demo_scale(const struct demo_stage *stage);

/* Prints the tables of a scene and says whether every request was answered. */
bool demo_report(const struct demo_stage *stage, const struct demo_scene *scene,
                 const struct demo_result *results);

/* A title, and text below it. */
void demo_say(const struct demo_stage *stage, const char *title, const char *text);

/* Ctrl-C, SIGTERM, or nobody reads what is told. */
bool demo_interrupted(void);

/* Where the arrivals of DEMO_AZURE come from: a sentence. */
const char *demo_azure_source(void);

#endif
