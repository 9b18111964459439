/* fast bench memory: what a replica takes of a GPU with weights of its own, what it takes when replicas
 * share them, and what that costs once. Measured on whatever GPU the gateway has, as the difference that a
 * replica makes to the memory in use: nothing else may start or end meanwhile. */

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/api.h"
#include "cli/table.h"
#include "cli/trial_run.h"

#define NAME "bench-memory"
#define POLL_US 300000
#define SAMPLES_EQUAL 6 /* the node tells the gateway twice a second */
#define PATIENCE_S 120
#define MIB 1048576.0

struct bench {
    const char *image;
};

static const struct cli_opt opts[] = {
    {"image", 0, CLI_STR, offsetof(struct bench, image), "IMAGE",
     "a function that takes $MODEL and shares where it can; default: replay"},
};

struct row {
    const char *image, *model;
    double alone, shared, once; /* bytes */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Over all GPUs: where a replica goes does not matter. |ret_total|: of the smallest. */
static int look(struct cli *cli, double *ret_used, double *ret_total, bool *ret_simulated)
{
    json_t *gpus = NULL, *g;
    size_t i;
    int s = api_json(cli, "GET", "/system/gpus", NULL, &gpus);
    *ret_used = *ret_total = 0;
    json_array_foreach(gpus, i, g) {
        double total = json_num(g, "memory_total_bytes");
        *ret_used += json_num(g, "memory_used_bytes");
        *ret_total = i == 0 || total < *ret_total ? total : *ret_total;
        *ret_simulated = json_is_true(json_object_get(g, "simulated"));
    }
    if (!s && !json_array_size(gpus))
        s = cli_fail(CLI_FAILED, "bench: there is no GPU");
    json_decref(gpus);
    return s;
}

/* Memory in use, once it stays the same. */
static int measure(struct cli *cli, double *ret)
{
    double last = -1, total, end = now_s() + PATIENCE_S;
    bool simulated;
    for (int equal = 0; equal < SAMPLES_EQUAL; usleep(POLL_US)) {
        int s = look(cli, ret, &total, &simulated);
        if (s)
            return s;
        equal = *ret == last ? equal + 1 : 0;
        last = *ret;
        if (now_s() > end)
            return cli_fail(CLI_FAILED, "bench: the GPU's memory in use does not come to rest");
    }
    return CLI_OK;
}

/* One that had to be started again will not do better: |ret_why| says what became of it. */
static bool is_hopeless(const json_t *replica, char *ret_why, size_t cap)
{
    snprintf(ret_why, cap, "%s", json_text(replica, "text"));
    return strcmp(json_text(replica, "state"), "ready") != 0 && json_num(replica, "restarts") > 0;
}

static int wait_for(struct cli *cli, int want)
{
    double end = now_s() + PATIENCE_S;
    char why[256] = "";
    for (;; usleep(POLL_US)) {
        json_t *list = NULL, *r;
        size_t i;
        int ready = 0, all = 0, s = api_json(cli, "GET", "/system/replicas", NULL, &list);
        bool hopeless = false;
        json_array_foreach(list, i, r) {
            if (strcmp(json_text(r, "function"), NAME) != 0)
                continue;
            all++;
            ready += !strcmp(json_text(r, "state"), "ready");
            hopeless = hopeless || is_hopeless(r, why, sizeof(why));
        }
        json_decref(list);
        if (s || (all == want && ready == want))
            return s;
        if ((hopeless && want) || now_s() > end)
            return cli_fail(CLI_FAILED, "bench: %d of %d replicas of " NAME " are ready%s%s; deploy the image by "
                            "itself to see its log", ready, want, *why ? ": " : "", why);
    }
}

/* A changed number of replicas restarts none of them. */
static int deploy(struct cli *cli, const struct row *row, bool shared, int count, double mem)
{
    char bytes[32], number[8];
    snprintf(bytes, sizeof(bytes), "%.0f", mem);
    snprintf(number, sizeof(number), "%d", count);
    json_t *notes = json_pack("{s:s, s:s, s:s}", "fastgshare/gpu_sm_partition", "10",
                              "fastgshare/gpu_quota_request", "0.05", "fastgshare/gpu_mem", bytes);
    if (shared)
        json_object_set_new(notes, "fastgshare/model", json_string(NAME));
    json_t *d = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s}, s:o}", "service", NAME, "image", row->image,
                          "envVars", "MODEL", row->model, "labels", "com.openfaas.scale.min", number,
                          "com.openfaas.scale.max", number, "annotations", notes);
    int s = api_json(cli, count == 1 ? "POST" : "PUT", "/system/functions", d, NULL);
    json_decref(d);
    return s ? s : wait_for(cli, count);
}

static int take_away(struct cli *cli)
{
    json_t *d = json_pack("{s:s}", "functionName", NAME);
    int s = api_json(cli, "DELETE", "/system/functions", d, NULL);
    json_decref(d);
    return s ? s : wait_for(cli, 0);
}

static int forget_model(struct cli *cli)
{
    json_t *d = json_pack("{s:s}", "name", NAME);
    int s = api_json(cli, "DELETE", "/system/models", d, NULL);
    json_decref(d);
    return s;
}

static int bench(struct cli *cli, double mem, struct row *row)
{
    double base, alone, first, second;
    int s = measure(cli, &base);
    s = s ? s : deploy(cli, row, false, 1, mem);
    s = s ? s : measure(cli, &alone);
    s = s ? s : take_away(cli);
    s = s ? s : measure(cli, &base);
    s = s ? s : deploy(cli, row, true, 1, mem);
    s = s ? s : measure(cli, &first);
    s = s ? s : deploy(cli, row, true, 2, mem);
    s = s ? s : measure(cli, &second);
    s = s ? s : take_away(cli);
    s = s ? s : forget_model(cli);
    if (s)
        return s;
    row->alone = alone - base;
    row->shared = second - first;
    row->once = first - base - row->shared;
    return CLI_OK;
}

static void print(const struct row *rows, int n, double total, bool simulated)
{
    static const char *const heads[] = {"MODEL", "ALONE MiB", "SHARED MiB", "ONCE PER GPU MiB",
                                        "REPLICAS PER GPU", NULL};
    struct table *t = table_new(heads);
    for (int i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        table_add(t, "%s", r->model);
        table_add(t, "%.0f", r->alone / MIB);
        table_add(t, "%.0f", r->shared / MIB);
        table_add(t, "%.0f", r->once / MIB);
        table_add(t, "%d alone, %d shared", r->alone > 0 ? (int)(total / r->alone) : 0,
                  r->shared > 0 ? (int)((total - r->once) / r->shared) : 0);
    }
    table_print(t, stdout, 0);
    if (simulated)
        puts("\nThe GPU is simulated: no GPU was measured.");
}

static void print_json(const struct row *rows, int n, bool simulated)
{
    json_t *all = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(all, json_pack("{s:s, s:f, s:f, s:f, s:b}", "model", rows[i].model,
                                             "alone_bytes", rows[i].alone, "shared_bytes",
                                             rows[i].shared, "once_bytes", rows[i].once, "simulated",
                                             simulated));
    api_print(all);
    json_decref(all);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    static const char *const all[] = {"resnet50", "rnnt", "gnmt", "bert"};
    struct row rows[32];
    struct trial_guard guard;
    struct fast_err err;
    double used, total;
    bool simulated = false;
    int n = argc > 1 ? argc - 1 : (int)(sizeof(all) / sizeof(all[0])), s;
    const struct bench *o = arg;
    if (strcmp(argv[0], "memory") != 0 || n > (int)(sizeof(rows) / sizeof(rows[0])))
        return cli_fail(CLI_USAGE, "bench: use `fast bench memory [MODEL...]`");
    s = look(cli, &used, &total, &simulated);
    s = s ? s : wait_for(cli, 0);
    if (s)
        return s;
    if (trial_guard_begin(&guard, cli, NAME, &err)) /* removes the function, however this ends */
        return cli_fail(CLI_FAILED, "bench: %s", err.msg);
    for (int i = 0; i < n && !s; i++) {
        rows[i] = (struct row){.image = o->image ? o->image : "replay",
                               .model = argc > 1 ? argv[i + 1] : all[i]};
        s = bench(cli, total * 0.4, &rows[i]); /* two replicas and the weights */
    }
    trial_guard_end(&guard);
    if (!s && cli->json)
        print_json(rows, n, simulated);
    else if (!s)
        print(rows, n, total, simulated);
    return s;
}

const struct cli_cmd cmd_bench = {
    .name = "bench", .args = "memory [MODEL...]",
    .summary = "measure what sharing models saves", .min_args = 1, .max_args = -1,
    .detail = "For each model (default: resnet50 rnnt gnmt bert) replicas of a function are\n"
              "started and ended under the name " NAME ", alone and sharing their weights, and the\n"
              "memory that the GPU has in use is compared. Takes about half a minute a model on an\n"
              "otherwise idle GPU; what runs beside it must not start or end. replay takes the sizes\n"
              "of models/NAME.model; examples/torch/serve.py is the models themselves.",
    CLI_CMD_OPTS(opts, struct bench), .run = run};
