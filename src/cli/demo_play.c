/* The load of a scene: the paper's ramp, bursts of a production trace (where it is at hand), Poisson
 * arrivals, or all that a function can do; and the GPU's figures meanwhile. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/view.h"
#include "io/file.h"

#define AZURE_FILE "../shared/data/azure_llm_code_2023.csv"
#define AZURE_MAX (16u << 20)
#define SAMPLE_NS FAST_MS(500)
#define TIMEOUT FAST_S(60)
#define CONNECTIONS 64
#define SEED 1

const char *demo_azure_source(void)
{
    return access(AZURE_FILE, R_OK) == 0
               ? "digits: arrivals of a production LLM service (Azure Public Dataset, code, 2023), "
                 "a stretch with the mean rate wanted."
               : "digits: Poisson.";
}

/* The paper's ramp (figure 12): seconds and requests/s, scaled to the length and the peak wanted. */
int demo_ramp(struct fast_arrivals *a, int64_t peak_milli, int seconds, struct fast_err *err)
{
    static const int at[] = {0, 5, 35, 110, 125, 135, 145, 160, 184};
    static const int rate[] = {0, 30, 60, 110, 100, 90, 70, 50, 21};
    struct fast_rate_point p[FAST_COUNT_OF(at)];
    for (size_t i = 0; i < FAST_COUNT_OF(at); i++)
        p[i] = (struct fast_rate_point){FAST_S(at[i]) * seconds / 184, peak_milli * rate[i] / 110};
    return fast_arrivals_ramp(a, p, FAST_COUNT_OF(at), SEED, err);
}

/* Where the stretch of that length begins whose count of arrivals is nearest to |wanted|. */
static fast_ns typical_stretch(const struct fast_arrivals *a, fast_ns length, size_t wanted)
{
    size_t end = 0, best = SIZE_MAX;
    fast_ns ret = 0;
    for (size_t i = 0; i < a->count && a->at[i] + length <= a->at[a->count - 1]; i++) {
        while (end < a->count && a->at[end] < a->at[i] + length)
            end++;
        size_t n = end - i, off = n > wanted ? n - wanted : wanted - n;
        if (off < best) {
            best = off;
            ret = a->at[i];
        }
    }
    return ret;
}

/* The time of the trace is stretched or shrunk until its mean rate is the one wanted. It begins quietly,
 * so what is played is a stretch in which the rate is about that mean. */
static int make_azure(struct fast_arrivals *a, int64_t rps_milli, int seconds, struct fast_err *err)
{
    fast_autofree char *text = NULL;
    if (fast_file_read(AZURE_FILE, AZURE_MAX, &text, NULL, err))
        return fast_arrivals_poisson(a, rps_milli, FAST_S(seconds), SEED, err);
    int r = fast_arrivals_parse(a, text, AZURE_FILE, err);
    if (r || a->count < 2)
        return r;
    int64_t mean_milli = (int64_t)((double)a->count * 1e12 / (double)a->at[a->count - 1]);
    fast_arrivals_scale(a, mean_milli, rps_milli);
    fast_ns from = typical_stretch(a, FAST_S(seconds), (size_t)(rps_milli * seconds / 1000));
    fast_arrivals_cut(a, from, from + FAST_S(seconds));
    return 0;
}

static int make_arrivals(struct fast_arrivals *a, const struct demo_fn *fn, int seconds,
                         uint64_t seed, struct fast_err *err)
{
    if (fn->shape == DEMO_GREEDY)
        return 0;
    if (fn->shape == DEMO_RAMP)
        return demo_ramp(a, fn->rps_milli, seconds, err);
    if (fn->shape == DEMO_AZURE)
        return make_azure(a, fn->rps_milli, seconds, err);
    return fast_arrivals_poisson(a, fn->rps_milli, FAST_S(seconds), seed, err);
}

/* ---- the GPU's figures, looked at from a thread of its own so that the load is not held up ---- */

struct sampler {
    struct cli cli;
    atomic_bool stop;
    struct demo_gpu sum;
};

static void *sample(void *arg)
{
    struct sampler *s = arg;
    while (!atomic_load(&s->stop)) {
        api_autoreply r = {0};
        struct timespec t = {0, SAMPLE_NS};
        nanosleep(&t, NULL);
        if (api_call(&s->cli, "GET", "/system/gpus", NULL, 0, NULL, &r) || r.status != 200)
            continue;
        json_t *gpus = json_loadb(r.body, r.len, 0, NULL), *g;
        size_t i;
        json_array_foreach(gpus, i, g) {
            json_mean_add(&s->sum.utilization, g, "utilization");
            json_mean_add(&s->sum.sm_activity, g, "sm_activity");
            json_mean_add(&s->sum.occupancy, g, "sm_occupancy");
        }
        json_decref(gpus);
    }
    return NULL;
}

/* ---- playing ---- */

/* A wrong reading is the network's right (its accuracy is told before); an answer without a digit is
 * not. */
static bool check_digit(void *arg, size_t request, const char *body, size_t len)
{
    (void)arg;
    (void)request;
    return memmem(body, len, "\"digit\"", 7) != NULL;
}

static bool on_progress(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    char text[128];
    snprintf(text, sizeof(text), "  %-9s %3d s, %llu of %llu requests", (const char *)arg,
             (int)(elapsed / FAST_S(1)), (unsigned long long)done, (unsigned long long)all);
    view_progress(text, total ? (double)elapsed / (double)total : 1);
    return !demo_interrupted();
}

static struct fast_load_spec make_spec(const struct demo_stage *stage, const struct demo_fn *fn,
                                       const char *path, const struct fast_arrivals *a)
{
    struct fast_load_spec spec = {
        .host = "127.0.0.1", .port = stage->port, .path = path, .due = a->at, .due_count = a->count,
        .slo = fn->slo, .timeout = TIMEOUT, .connections_max = CONNECTIONS};
    if (fn->shape == DEMO_GREEDY) {
        spec.closed_until = FAST_S(stage->seconds);
        spec.connections_max = 2 * fn->replicas;
    }
    if (fn->model)
        return spec;
    spec.bodies = stage->digits->bodies;
    spec.body_lens = stage->digits->lens;
    spec.body_count = stage->digits->count;
    spec.check = check_digit;
    return spec;
}

int demo_play(const struct demo_stage *stage, const struct demo_scene *scene, struct demo_result *ret,
              struct fast_err *err)
{
    struct fast_arrivals arrivals[DEMO_FUNCTIONS_MAX] = {0};
    struct fast_load_spec specs[DEMO_FUNCTIONS_MAX] = {0};
    char path[DEMO_FUNCTIONS_MAX][128];
    int r = 0;
    for (int i = 0; !r && i < scene->functions; i++) {
        r = make_arrivals(&arrivals[i], &scene->fn[i], stage->seconds, SEED + (uint64_t)i, err);
        snprintf(path[i], sizeof(path[i]), "/function/%s", scene->fn[i].name);
        specs[i] = make_spec(stage, &scene->fn[i], path[i], &arrivals[i]);
    }
    struct sampler s = {.cli = *stage->cli};
    pthread_t thread;
    bool sampling = !r && !pthread_create(&thread, NULL, sample, &s);
    if (!r)
        r = fast_load_run(specs, (size_t)scene->functions, on_progress,
                          (void *)fast_policy_name(ret->policy), ret->fn, err);
    view_progress_end();
    atomic_store(&s.stop, true);
    if (sampling)
        pthread_join(thread, NULL);
    ret->gpu = s.sum;
    for (int i = 0; i < scene->functions; i++)
        fast_arrivals_fini(&arrivals[i]);
    return r;
}
