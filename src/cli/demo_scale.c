/* The last act of the demo: replicas follow a ramp up, down and to none, the gateway says why, and a
 * deployment that has no room is refused with what is missing. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/view.h"
#include "io/loop.h"

#define PEAK_MILLI 60000
#define SLO FAST_MS(69)
#define TO_ZERO "5s"
#define ZERO_TIMEOUT FAST_S(60)
#define POLL_US 200000

static int deploy(struct cli *cli)
{
    json_t *d = json_pack(
        "{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s, s:s}, s:{s:s, s:s, s:s}}", "service", "resnet50",
        "image", "replay", "envVars", "MODEL", "resnet50", "labels", "com.openfaas.scale.min", "1",
        "com.openfaas.scale.max", "6", "com.openfaas.scale.zero", "true",
        "com.openfaas.scale.zero-duration", TO_ZERO, "annotations", "fastgshare/profile", "resnet50",
        "fastgshare/slo", "69ms", "fastgshare/gpu_mem", "1600Mi");
    int s = api_json(cli, "POST", "/system/functions", d, NULL);
    json_decref(d);
    return s;
}

static int delete(struct cli *cli)
{
    json_t *d = json_pack("{s:s}", "functionName", "resnet50");
    int s = api_json(cli, "DELETE", "/system/functions", d, NULL);
    json_decref(d);
    return s;
}

static bool on_progress(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    char text[128];
    (void)arg;
    snprintf(text, sizeof(text), "  ramp %3d s, %llu of %llu requests", (int)(elapsed / FAST_S(1)),
             (unsigned long long)done, (unsigned long long)all);
    view_progress(text, total ? (double)elapsed / (double)total : 1);
    return !demo_interrupted();
}

static int play(int port, int seconds, struct fast_load_result *ret, struct fast_err *err)
{
    struct fast_arrivals a = {0};
    int r = demo_ramp(&a, PEAK_MILLI, seconds, err);
    struct fast_load_spec spec = {.host = "127.0.0.1", .port = port, .path = "/function/resnet50",
                                  .due = a.at, .due_count = a.count, .slo = SLO,
                                  .timeout = FAST_S(60), .connections_max = 64};
    if (!r)
        r = fast_load_run(&spec, 1, on_progress, NULL, ret, err);
    view_progress_end();
    fast_arrivals_fini(&a);
    return r;
}

/* Waits until the function has no replica. */
static int wait_zero(struct cli *cli)
{
    for (fast_ns start = fast_clock_now(); fast_clock_now() - start < ZERO_TIMEOUT; usleep(POLL_US)) {
        json_t *f = NULL;
        view_progress("  replicas go away", (double)(fast_clock_now() - start) / (double)ZERO_TIMEOUT);
        int s = api_json(cli, "GET", "/system/explain/resnet50", NULL, &f);
        bool none = !s && json_num(f, "replicas") == 0;
        json_decref(f);
        if (s || none || demo_interrupted()) {
            view_progress_end();
            return s || none ? s : CLI_FAILED;
        }
    }
    return cli_fail(CLI_FAILED, "resnet50 was not scaled to zero");
}

/* The oldest first; |ret_list| gets them as they came. */
static int print_decisions(const struct demo_stage *stage, json_t **ret_list)
{
    json_t *f = NULL, *list, *d;
    int s = api_json(stage->cli, "GET", "/system/explain/resnet50", NULL, &f);
    if (s)
        return s;
    list = json_object_get(f, "decisions");
    for (size_t i = json_array_size(list); i-- > 0;) {
        json_t *r = json_array_get(list, i);
        size_t k;
        json_array_foreach(json_object_get(r, "did"), k, d) {
            char text[512];
            fprintf(stage->out, "  %.8s %s", json_text(r, "time") + strlen("2026-01-01T"), json_text(d, "do"));
            if (json_num(d, "sm_pct") > 0)
                fprintf(stage->out, " %.0f %% SM x %.1f", json_num(d, "sm_pct"), json_num(d, "quota"));
            fputc('\n', stage->out);
            snprintf(text, sizeof(text), "%s%s", json_text(d, "why"),
                     *json_text(d, "refused") ? " (refused: no room)" : "");
            view_wrap(stage->out, 11, text);
        }
    }
    *ret_list = json_incref(list);
    json_decref(f);
    return CLI_OK;
}

/* More than any GPU of the demo has left. */
static int be_refused(const struct demo_stage *stage)
{
    struct cli *cli = stage->cli;
    static const char body[] =
        "{\"service\": \"large\", \"image\": \"replay\", \"envVars\": {\"MODEL\": \"bert\"},"
        " \"labels\": {\"com.openfaas.scale.min\": \"64\", \"com.openfaas.scale.max\": \"64\"},"
        " \"annotations\": {\"fastgshare/gpu_sm_partition\": \"60\","
        " \"fastgshare/gpu_quota_request\": \"0.6\", \"fastgshare/gpu_mem\": \"2800Mi\"}}";
    api_autoreply r = {0};
    if (api_call(cli, "POST", "/system/functions", body, strlen(body), "application/json", &r))
        return cli_fail(CLI_NOREACH, "no gateway at %s", cli->gateway);
    if (r.status != 409)
        return cli_fail(CLI_FAILED, "64 replicas of bert were not refused (%ld): %s", r.status,
                        r.body ? r.body : "");
    fprintf(stage->out, "  64 replicas of bert, 60 %% SM x 0.6 each, are refused:\n");
    view_wrap(stage->out, 4, r.body);
    return CLI_OK;
}

static void report(const struct demo_stage *stage, const struct fast_load_result *load, json_t *decisions)
{
    double late = load->sent ? 100.0 * (double)load->violations / (double)load->sent : 0;
    fprintf(stage->out, "  %llu requests, %llu answered, %.1f %% late or lost (the start included)\n",
            (unsigned long long)load->sent, (unsigned long long)load->ok, late);
    if (stage->list)
        json_array_append_new(
            stage->list, json_pack("{s:s, s:b, s:I, s:I, s:f, s:O}", "scene", "ramp", "simulated",
                                   stage->simulated, "sent", (json_int_t)load->sent, "ok",
                                   (json_int_t)load->ok, "violations_pct", late, "decisions", decisions));
}

int demo_scale(const struct demo_stage *stage)
{
    fast_autofree struct fast_load_result *load = calloc(1, sizeof(*load));
    struct cli *cli = stage->cli;
    json_t *decisions = NULL;
    struct fast_err err;
    char about[256];
    if (!load)
        return cli_fail(CLI_FAILED, "out of memory");
    snprintf(about, sizeof(about), "resnet50, SLO 69 ms, 0 to 6 replicas, the paper's ramp up to %d "
             "requests/s in %d s, then nothing. Why its replicas change:", PEAK_MILLI / 1000,
             stage->seconds);
    demo_say(stage, "Replicas follow the load", about);
    int s = deploy(cli);
    if (!s && play(stage->port, stage->seconds, load, &err))
        s = cli_fail(CLI_FAILED, "%s", err.msg);
    if (!s && demo_interrupted())
        s = CLI_FAILED;
    if (!s)
        s = wait_zero(cli);
    if (!s)
        s = print_decisions(stage, &decisions);
    if (!s)
        report(stage, load, decisions);
    json_decref(decisions);
    if (!s)
        s = be_refused(stage);
    return s ? s : delete(cli);
}
