/* fast defrag: which replicas could go to another GPU, what that costs and gains; and has them go. */

#include <string.h>
#include <time.h>

#include "cli/api.h"
#include "cli/view.h"

#define LOOK_MS 200

struct defrag {
    bool dry;
};

static const struct cli_opt opts[] = {
    {"dry-run", 0, CLI_FLAG, offsetof(struct defrag, dry), NULL, "show the plan, move nothing"},
};

static void print_plan(const json_t *f)
{
    const json_t *cost = json_object_get(f, "cost"), *gain = json_object_get(f, "gain");
    json_t *m;
    size_t i;
    if (!json_array_size(json_object_get(f, "moves"))) {
        puts("Nothing to move: no GPU can be emptied onto others that are in use.");
        return;
    }
    json_array_foreach(json_object_get(f, "moves"), i, m)
        printf("move %s  GPU %.0f to %.0f  (%.0f %% SM x %.2f, %.0f MiB)\n", json_text(m, "replica"),
               json_num(m, "from"), json_num(m, "to"), json_num(m, "sm_pct"), json_num(m, "quota"),
               json_num(m, "bytes") / (1 << 20));
    printf("cost  %.0f moves, copies fill %.0f MiB\n", json_num(cost, "moves"), json_num(cost, "bytes") / (1 << 20));
    printf("gain  %.0f GPUs idle, which now give away %.1f %% of a GPU\n", json_num(gain, "gpus"),
           100 * json_num(gain, "area"));
}

static bool is_given_up(const json_t *move)
{
    return !strcmp(json_text(move, "state"), "given up");
}

static int count_given_up(const json_t *latest)
{
    json_t *m;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(latest, "moves"), i, m)
        n += is_given_up(m);
    return n;
}

/* Those of the latest plan. */
static void print_latest(const json_t *latest)
{
    json_t *m;
    size_t i;
    json_array_foreach(json_object_get(latest, "moves"), i, m)
        printf("%s  %s, copy %s: %s%s%s\n", json_text(m, "replica"), json_text(latest, "cause"),
               *json_text(m, "copy") ? json_text(m, "copy") : "-", json_text(m, "state"),
               is_given_up(m) ? ": " : "", json_text(m, "why"));
}

/* Until the moves that were begun are over. Sets |ret| to the last answer. */
static int wait_over(struct cli *cli, json_t **ret)
{
    const struct timespec pause = {0, LOOK_MS * 1000000L};
    for (;;) {
        json_decref(*ret);
        *ret = NULL;
        int s = api_json(cli, "GET", "/system/defrag", NULL, ret);
        if (s || json_num(json_object_get(*ret, "latest"), "active") == 0)
            return s;
        nanosleep(&pause, NULL);
    }
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct defrag *o = arg;
    json_t *plan = NULL, *after = NULL;
    (void)argc;
    (void)argv;
    int s = api_json(cli, o->dry ? "GET" : "POST", "/system/defrag", NULL, &plan);
    if (s)
        return s;
    if (!cli->json)
        print_plan(plan);
    bool begun = !o->dry && json_array_size(json_object_get(plan, "moves"));
    if (begun)
        s = wait_over(cli, &after);
    if (after && cli->json)
        json_object_set(plan, "latest", json_object_get(after, "latest"));
    const json_t *latest = json_object_get(after ? after : plan, "latest");
    if (cli->json)
        api_print(plan);
    else if (begun || json_num(latest, "active") > 0)
        print_latest(latest);
    int failed = begun ? count_given_up(latest) : 0;
    json_decref(plan);
    json_decref(after);
    return s ? s : failed ? CLI_FAILED : CLI_OK;
}

const struct cli_cmd cmd_defrag = {
    .name = "defrag", .args = "", .summary = "empty GPUs by moving replicas behind warm copies",
    .detail = "Shows which replicas go where, what that costs and what it gains, and moves them: a copy is\n"
              "started, and when it is ready the replica ends what it has and stops. A copy that fails\n"
              "changes nothing. Without --dry-run it waits until the moves are over.",
    .max_args = 0, CLI_CMD_OPTS(opts, struct defrag), .run = run};
