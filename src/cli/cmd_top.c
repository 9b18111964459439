/* fast gpu and fast top: what is going on, from /system/gpus and /system/replicas. */

#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/parse.h"
#include "cli/api.h"
#include "cli/table.h"
#include "cli/view.h"

#define BAR 20

struct top {
    bool once;
    const char *interval;
};

/* A measured share in per cent; what the GPU does not tell is "-". */
static const char *share(const json_t *gpu, const char *key, int digits, char *buf, size_t cap)
{
    const json_t *value = json_object_get(gpu, key);
    if (!json_is_number(value))
        return "-";
    snprintf(buf, cap, "%.*f", digits, 100 * json_number_value(value));
    return buf;
}

static void print_gpus(const json_t *gpus, FILE *out)
{
    static const char *const heads[] = {"GPU", "NAME", "SMs", "UTIL%", "SM%", "OCC%", "MEMORY",
                                        "CAPPED", "SHARED", "REPLICAS", "FREE%", "PARTITIONS",
                                        "SM/TIME/MEM HOLD", NULL};
    struct table *t = table_new(heads);
    json_t *g;
    size_t i;
    char used[32], total[32], capped[32], shared[32], text[16];
    json_array_foreach(gpus, i, g) {
        table_add(t, "%.0f", json_num(g, "gpu"));
        table_add(t, "%s", json_text(g, "name"));
        table_add(t, "%.0f", json_num(g, "sms"));
        table_add(t, "%s", share(g, "utilization", 0, text, sizeof(text)));
        table_add(t, "%s", share(g, "sm_activity", 0, text, sizeof(text)));
        table_add(t, "%s", share(g, "sm_occupancy", 1, text, sizeof(text)));
        table_add(t, "%s of %s",
                  view_bytes(json_num(g, "memory_used_bytes"), used, sizeof(used)),
                  view_bytes(json_num(g, "memory_total_bytes"), total, sizeof(total)));
        table_add(t, "%s", view_bytes(json_num(g, "memory_capped_bytes"), capped, sizeof(capped)));
        table_add(t, "%s", view_bytes(json_num(g, "memory_shared_bytes"), shared, sizeof(shared)));
        table_add(t, "%.0f", json_num(g, "replicas"));
        table_add(t, "%.0f", 100 * json_num(g, "free_area"));
        table_add(t, "%s", json_text(g, "backend"));
        const json_t *holds = json_object_get(g, "holds");
        table_add(t, "%s/%s/%s", json_text(holds, "sm"), json_text(holds, "time"), json_text(holds, "memory"));
    }
    table_print(t, out, 0);
}

/* Whose shared models a GPU holds, and how much of it they may take. */
static void print_models(const json_t *gpu)
{
    json_t *n;
    size_t i;
    char held[32], limit[32];
    json_array_foreach(json_object_get(gpu, "model_namespaces"), i, n) {
        const json_t *most = json_object_get(n, "limit_bytes");
        printf("GPU %.0f: models of %s take %s%s%s\n", json_num(gpu, "gpu"), json_text(n, "namespace"),
               view_bytes(json_num(n, "bytes"), held, sizeof(held)), json_is_number(most) ? " of " : "",
               json_is_number(most) ? view_bytes(json_number_value(most), limit, sizeof(limit)) : "");
    }
}

/* The plane of one GPU: rows are SMs (top is 100 %), columns are the time of a window. */
static void print_plane(const struct cli *cli, const json_t *gpu)
{
    enum { ROWS = 10, COLS = 50 };
    char cell[ROWS][COLS + 1];
    const json_t *rects = json_object_get(gpu, "rectangles");
    json_t *r;
    size_t i;
    if (!json_array_size(rects))
        return;
    for (int row = 0; row < ROWS; row++) {
        memset(cell[row], '.', COLS);
        cell[row][COLS] = 0;
    }
    json_array_foreach(rects, i, r)
        for (int row = 0; row < ROWS; row++)
            for (int col = 0; col < COLS; col++) {
                double sm = (row + 0.5) * 100 / ROWS, q = (col + 0.5) / COLS;
                if (sm >= json_num(r, "sm_from") && sm < json_num(r, "sm_to") &&
                    q >= json_num(r, "quota_from") && q < json_num(r, "quota_to"))
                    cell[row][col] = (char)(i < 26 ? 'A' + (int)i : '#');
            }
    printf("\n%sGPU %.0f, SMs upwards, time of a window to the right%s\n", view_color(cli, "bold"),
           json_num(gpu, "gpu"), view_color(cli, "off"));
    for (int row = ROWS - 1; row >= 0; row--)
        printf("%4d%% |%s|\n", (row + 1) * 100 / ROWS, cell[row]);
    json_array_foreach(rects, i, r)
        printf("      %c  %s: SM %.0f%%, quota %.2f\n", (char)(i < 26 ? 'A' + (int)i : '#'),
               json_text(r, "replica"), json_num(r, "sm_to") - json_num(r, "sm_from"),
               json_num(r, "quota_to") - json_num(r, "quota_from"));
}

static int run_gpu(struct cli *cli, void *arg, int argc, char **argv)
{
    json_t *gpus = NULL, *g;
    size_t i;
    (void)arg;
    (void)argc;
    (void)argv;
    int s = api_json(cli, "GET", "/system/gpus", NULL, &gpus);
    if (s)
        return s;
    if (cli->json) {
        api_print(gpus);
    } else {
        print_gpus(gpus, stdout);
        json_array_foreach(gpus, i, g)
            print_models(g);
        json_array_foreach(gpus, i, g)
            print_plane(cli, g);
        if (json_is_true(json_object_get(json_array_get(gpus, 0), "simulated")))
            puts("\nThese GPUs are simulated: no figure here is a GPU's.");
    }
    json_decref(gpus);
    return CLI_OK;
}

static void draw_gpus(const struct cli *cli, const json_t *gpus)
{
    json_t *g;
    size_t i;
    char bar[3][BAR * 3 + 1], text[2][16], used[32], total[32];
    json_array_foreach(gpus, i, g) {
        double mem = json_num(g, "memory_total_bytes");
        printf("%sGPU %.0f%s  %s\n  time %s %3s%%   SMs %s %3s%%   memory %s %s of %s\n",
               view_color(cli, "bold"), json_num(g, "gpu"), view_color(cli, "off"),
               json_text(g, "name"), view_bar(json_num(g, "utilization"), BAR, bar[0], sizeof(bar[0])),
               share(g, "utilization", 0, text[0], sizeof(text[0])),
               view_bar(json_num(g, "sm_activity"), BAR, bar[1], sizeof(bar[1])),
               share(g, "sm_activity", 0, text[1], sizeof(text[1])),
               view_bar(mem ? json_num(g, "memory_used_bytes") / mem : 0, BAR, bar[2], sizeof(bar[2])),
               view_bytes(json_num(g, "memory_used_bytes"), used, sizeof(used)),
               view_bytes(mem, total, sizeof(total)));
    }
}

/* GPU time used since the last look, as a share of it. */
static double share_used(const json_t *now, const json_t *before, double seconds)
{
    json_t *r;
    size_t i;
    json_array_foreach((json_t *)before, i, r)
        if (!strcmp(json_text(r, "replica"), json_text(now, "replica")) && seconds > 0)
            return (json_num(now, "busy_ms") - json_num(r, "busy_ms")) / 1e3 / seconds;
    return 0;
}

static void draw_replicas(const json_t *list, const json_t *before, double seconds)
{
    static const char *const heads[] = {"REPLICA", "STATE", "GPU", "SM%", "QUOTA", "USED", "REQ/S",
                                        "IN", "P50 ms", "P99 ms", "TOKENS", "WAIT ms", "MEMORY",
                                        "CONTEXT", NULL};
    struct table *t = table_new(heads);
    json_t *r;
    size_t i;
    char mem[32], gpus[32];
    json_array_foreach(list, i, r) {
        table_add(t, "%s", json_text(r, "replica"));
        table_add(t, "%s", json_text(r, "state"));
        table_add(t, "%s", view_gpus(r, gpus, sizeof(gpus)));
        table_add(t, "%.0f", json_num(r, "sm_pct"));
        table_add(t, "%.3g-%.3g", json_num(r, "quota_request"), json_num(r, "quota_limit"));
        table_add(t, "%.2f", share_used(r, before, seconds));
        table_add(t, "%.1f", json_num(r, "rps"));
        table_add(t, "%.0f", json_num(r, "in_flight"));
        table_add(t, "%.1f", json_num(r, "p50_ms"));
        table_add(t, "%.1f", json_num(r, "p99_ms"));
        table_add(t, "%.0f", json_num(r, "tokens"));
        table_add(t, "%.0f", json_num(r, "wait_ms"));
        table_add(t, "%s", view_bytes(json_num(r, "memory_used_bytes"), mem, sizeof(mem)));
        table_add(t, "%s", view_bytes(json_num(r, "memory_context_bytes"), mem, sizeof(mem)));
    }
    table_print(t, stdout, 0);
}

static int run_top(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct top *top = arg;
    struct fast_err err;
    fast_ns interval = FAST_S(1);
    json_t *before = NULL;
    (void)argc;
    (void)argv;
    if (top->interval &&
        fast_parse_duration(top->interval, "--interval", FAST_MS(100), FAST_S(3600), &interval, &err))
        return cli_fail(CLI_USAGE, "top: %s", err.msg);
    bool once = top->once || !cli->tty || cli->json;
    int s = CLI_OK;
    for (bool first = true; s == CLI_OK; first = false) {
        json_t *gpus = NULL, *replicas = NULL;
        s = api_json(cli, "GET", "/system/gpus", NULL, &gpus);
        if (!s)
            s = api_json(cli, "GET", "/system/replicas", NULL, &replicas);
        if (!s && cli->json) {
            json_t *all = json_pack("{s:O, s:O}", "gpus", gpus, "replicas", replicas);
            api_print(all);
            json_decref(all);
        } else if (!s) {
            if (!once)
                fputs("\033[H\033[2J", stdout);
            draw_gpus(cli, gpus);
            putchar('\n');
            draw_replicas(replicas, before, first ? 0 : (double)interval / 1e9);
            if (!once)
                printf("\n%severy %.1f s, Ctrl-C ends%s\n", view_color(cli, "dim"),
                       (double)interval / 1e9, view_color(cli, "off"));
            fflush(stdout);
        }
        json_decref(gpus);
        json_decref(before);
        before = replicas;
        if (once || s)
            break;
        struct timespec t = {interval / FAST_S(1), interval % FAST_S(1)};
        nanosleep(&t, NULL);
    }
    json_decref(before);
    return s;
}

static const struct cli_opt top_opts[] = {
    {"once", 0, CLI_FLAG, offsetof(struct top, once), NULL, "print one table and end"},
    {"interval", 0, CLI_STR, offsetof(struct top, interval), "TIME", "default: 1s"},
};

const struct cli_cmd cmd_gpu = {.name = "gpu", .args = "",
                                .summary = "show the GPUs and who holds which part of them",
                                .run = run_gpu};
const struct cli_cmd cmd_top = {.name = "top", .args = "",
                                .summary = "live table of GPUs and replicas",
                                CLI_CMD_OPTS(top_opts, struct top), .run = run_top};
