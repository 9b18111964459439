/* The scenes of the demo in which policies are compared, and how one is played: deploy, load, remove,
 * under each policy in turn. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/view.h"
#include "io/loop.h"

#define READY_TIMEOUT FAST_S(60)
#define GONE_TIMEOUT FAST_S(30)
#define POLL_US 100000

/* One V100 holds all of it: the slices of the paper's packing example (ResNet 12 % x 40 %, RNN-T
 * 24 % x 40 %, BERT 50 % x 60 %), GNMT beside them, and the digits. SLOs: the paper's for ResNet,
 * MLPerf's bounds for BERT (130 ms), GNMT (250 ms) and RNN-T (1 s). */
static const struct demo_fn mix[] = {
    {"digits", "digits", NULL, 1, 6, "0.2", "1.0", FAST_MIB(512), FAST_MS(50), DEMO_AZURE, 20000, 1},
    {"resnet50", "replay", "resnet50", 3, 12, "0.4", "0.8", FAST_MIB(1600), FAST_MS(69), DEMO_RAMP,
     110000, 1},
    {"bert", "replay", "bert", 1, 50, "0.6", "1.0", FAST_MIB(2800), FAST_MS(130), DEMO_POISSON, 12000, 1},
    {"rnnt", "replay", "rnnt", 1, 24, "0.4", "1.0", FAST_MIB(2400), FAST_MS(1000), DEMO_POISSON, 3000, 1},
    {"gnmt", "replay", "gnmt", 1, 24, "0.4", "1.0", FAST_MIB(2600), FAST_MS(250), DEMO_POISSON, 4000, 1},
};

/* Whoever has an SLO is guaranteed most of each window. The neighbour is guaranteed next to nothing and
 * may have all that is left. Alone the functions need a third of the GPU's time, so that what is late is
 * late because of the neighbour. */
static const struct demo_fn neighbour[] = {
    {"digits", "digits", NULL, 1, 6, "0.4", "1.0", FAST_MIB(512), FAST_MS(50), DEMO_AZURE, 20000, 1},
    {"resnet50", "replay", "resnet50", 3, 12, "0.8", "1.0", FAST_MIB(1600), FAST_MS(69), DEMO_POISSON,
     75000, 1},
    {"bert", "replay", "bert", 1, 50, "0.8", "1.0", FAST_MIB(2800), FAST_MS(130), DEMO_POISSON, 12000, 1},
    {"batch", "replay", "resnet50", 5, 20, "0.05", "1.0", FAST_MIB(1600), 0, DEMO_GREEDY, 0, 32},
};

static const enum fast_policy all[] = {FAST_POLICY_TIMESHARE, FAST_POLICY_RACING, FAST_POLICY_FAST};
static const enum fast_policy sharing[] = {FAST_POLICY_RACING, FAST_POLICY_FAST};

const struct demo_scene demo_scenes[] = {
    {"mix", "Five functions share one GPU",
     "The same load under three policies: timeshare (one at a time, with the whole GPU), racing (all at "
     "once, without limits) and fast (all at once, each in its slice). resnet50: the paper's ramp; "
     "bert, rnnt, gnmt: Poisson;",
     mix, FAST_COUNT_OF(mix), all, FAST_COUNT_OF(all)},
    {"neighbour", "A neighbour takes all it gets",
     "batch has no SLO: five replicas that classify an archive, 32 images a request, each with the next "
     "request waiting. The others have their SLOs and load that their slices can do.",
     neighbour, FAST_COUNT_OF(neighbour), sharing, FAST_COUNT_OF(sharing)},
};
const int demo_scene_count = FAST_COUNT_OF(demo_scenes);

static json_t *deployment(const struct demo_fn *fn)
{
    char sm[16], mem[32], slo[32], replicas[16], inputs[16];
    snprintf(sm, sizeof(sm), "%d", fn->sm_pct);
    snprintf(mem, sizeof(mem), "%llu", (unsigned long long)fn->mem_bytes);
    snprintf(slo, sizeof(slo), "%lldms", (long long)(fn->slo / FAST_MS(1)));
    snprintf(replicas, sizeof(replicas), "%d", fn->replicas);
    snprintf(inputs, sizeof(inputs), "%d", fn->inputs);
    json_t *env = fn->model ? json_pack("{s:s, s:s}", "MODEL", fn->model, "HAS_GPU_BATCH_SIZE", inputs)
                            : json_object();
    json_t *annotations = json_pack("{s:s, s:s, s:s, s:s}", "fastgshare/gpu_sm_partition", sm,
                                    "fastgshare/gpu_quota_request", fn->quota_request,
                                    "fastgshare/gpu_quota_limit", fn->quota_limit, "fastgshare/gpu_mem",
                                    mem);
    if (fn->slo)
        json_object_set_new(annotations, "fastgshare/slo", json_string(slo));
    return json_pack("{s:s, s:s, s:o, s:{s:s, s:s}, s:o}", "service", fn->name, "image", fn->image,
                     "envVars", env, "labels", "com.openfaas.scale.min", replicas,
                     "com.openfaas.scale.max", replicas, "annotations", annotations);
}

/* Waits until |wanted| replicas are ready (0: until none is there). */
static int wait_replicas(struct cli *cli, size_t wanted, fast_ns timeout, const char *what)
{
    fast_ns start = fast_clock_now();
    while (!demo_interrupted()) {
        json_t *list = NULL, *r;
        size_t i, ready = 0;
        int s = api_json(cli, "GET", "/system/replicas", NULL, &list);
        if (s)
            return s;
        json_array_foreach(list, i, r)
            ready += wanted ? !strcmp(json_text(r, "state"), "ready") : 1;
        json_decref(list);
        if (wanted ? ready >= wanted : ready == 0) {
            view_progress_end();
            return CLI_OK;
        }
        fast_ns waited = fast_clock_now() - start;
        if (waited > timeout) {
            view_progress_end();
            return cli_fail(CLI_FAILED, "%zu of %zu replicas after %d s (%s)", ready, wanted,
                            (int)(waited / FAST_S(1)), what);
        }
        view_progress(what, wanted ? (double)ready / (double)wanted
                                   : (double)waited / (double)timeout);
        usleep(POLL_US);
    }
    return CLI_FAILED;
}

int demo_deploy(const struct demo_stage *stage, const struct demo_scene *scene)
{
    size_t replicas = 0;
    for (int i = 0; i < scene->functions; i++) {
        json_t *d = deployment(&scene->fn[i]);
        int s = api_json(stage->cli, "POST", "/system/functions", d, NULL);
        json_decref(d);
        if (s)
            return s;
        replicas += (size_t)scene->fn[i].replicas;
    }
    return wait_replicas(stage->cli, replicas, READY_TIMEOUT, "  replicas become ready");
}

int demo_remove(const struct demo_stage *stage, const struct demo_scene *scene)
{
    for (int i = 0; i < scene->functions; i++) {
        json_t *d = json_pack("{s:s}", "functionName", scene->fn[i].name);
        int s = api_json(stage->cli, "DELETE", "/system/functions", d, NULL);
        json_decref(d);
        if (s)
            return s;
    }
    return wait_replicas(stage->cli, 0, GONE_TIMEOUT, "  replicas go away");
}

static int set_policy(struct cli *cli, enum fast_policy policy)
{
    json_t *body = json_pack("{s:s}", "policy", fast_policy_name(policy));
    int s = api_json(cli, "PUT", "/system/policy", body, NULL);
    json_decref(body);
    return s;
}

static int play_policy(const struct demo_stage *stage, const struct demo_scene *scene, bool read_digits,
                       struct demo_result *ret)
{
    struct fast_err err;
    int s = set_policy(stage->cli, ret->policy);
    if (!s)
        s = demo_deploy(stage, scene);
    if (!s && read_digits)
        s = demo_digits_read(stage);
    if (s)
        return s;
    fprintf(stage->out, "  playing %d s under policy %s\n", stage->seconds, fast_policy_name(ret->policy));
    fflush(stage->out);
    if (demo_play(stage, scene, ret, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    return demo_interrupted() ? CLI_FAILED : demo_remove(stage, scene);
}

int demo_scene_play(const struct demo_stage *stage, const struct demo_scene *scene)
{
    fast_autofree struct demo_result *results = calloc((size_t)scene->policies, sizeof(*results));
    if (!results)
        return cli_fail(CLI_FAILED, "out of memory");
    bool first = scene == demo_scenes;
    char about[512];
    snprintf(about, sizeof(about), "%s%s%s", scene->about, first ? " " : "", first ? demo_azure_source() : "");
    demo_say(stage, scene->title, about);
    int s = CLI_OK;
    for (int k = 0; k < scene->policies && !s; k++) {
        results[k].policy = scene->policy[k];
        s = play_policy(stage, scene, first && k == 0, &results[k]);
    }
    if (!s && !demo_report(stage, scene, results))
        s = CLI_FAILED;
    return s;
}
