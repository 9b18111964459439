/* What a scene of the demo showed: two tables and a sentence, or JSON. */

#include <stdlib.h>
#include <string.h>

#include "cli/api.h"
#include "cli/demo.h"
#include "cli/table.h"
#include "cli/view.h"

static uint64_t failures(const struct fast_load_result *r)
{
    return r->lost + r->server_errors + r->timeouts + r->wrong + r->client_errors;
}

static double pct(uint64_t part, uint64_t all)
{
    return all ? 100.0 * (double)part / (double)all : 0;
}

static double rps(const struct fast_load_result *r)
{
    return r->span ? (double)r->ok * 1e9 / (double)r->span : 0;
}

static double inferences(const struct demo_fn *fn, const struct fast_load_result *r)
{
    return rps(r) * (fn->inputs ? fn->inputs : 1);
}

/* Of all functions together: answered inputs a second, and what was late of what has an SLO. */
struct sum {
    double inferences, greedy, late_pct;
};

static struct sum add_up(const struct demo_scene *scene, const struct demo_result *d)
{
    struct sum s = {0};
    uint64_t sent = 0, late = 0;
    for (int i = 0; i < scene->functions; i++) {
        const struct demo_fn *fn = &scene->fn[i];
        double n = inferences(fn, &d->fn[i]);
        s.inferences += n;
        s.greedy += fn->shape == DEMO_GREEDY ? n : 0;
        sent += fn->slo ? d->fn[i].sent : 0;
        late += fn->slo ? d->fn[i].violations : 0;
    }
    s.late_pct = pct(late, sent);
    return s;
}

static void print_functions(const struct demo_scene *scene, const struct demo_result *results)
{
    static const char *const heads[] = {"POLICY", "FUNCTION", "REQUESTS", "REQ/S", "P50 ms", "P99 ms",
                                        "SLO ms", "LATE%", "FAILED", NULL};
    struct table *t = table_new(heads);
    for (int k = 0; k < scene->policies; k++)
        for (int i = 0; i < scene->functions; i++) {
            const struct fast_load_result *r = &results[k].fn[i];
            fast_ns slo = scene->fn[i].slo;
            table_add(t, "%s", i ? "" : fast_policy_name(results[k].policy));
            table_add(t, "%s", scene->fn[i].name);
            table_add(t, "%llu", (unsigned long long)r->sent);
            table_add(t, "%.1f", rps(r));
            table_add(t, "%.1f", (double)fast_hist_quantile(&r->latency, 500) / 1e6);
            table_add(t, "%.1f", (double)fast_hist_quantile(&r->latency, 990) / 1e6);
            table_add(t, slo ? "%.0f" : "-", (double)slo / 1e6);
            table_add(t, slo ? "%.1f" : "-", pct(r->violations, r->sent));
            table_add(t, "%llu", (unsigned long long)failures(r));
        }
    table_print(t, stdout, 2);
}

static void add_mean(struct table *t, int digits, const struct json_mean *share)
{
    if (share->n)
        table_add(t, "%.*f", digits, 100 * json_mean_of(share));
    else
        table_add(t, "-");
}

static json_t *mean_json(const struct json_mean *share)
{
    return share->n ? json_real(json_mean_of(share)) : json_null();
}

static void print_policies(const struct demo_scene *scene, const struct demo_result *results)
{
    static const char *const heads[] = {"POLICY", "GPU UTILIZATION%", "SM ACTIVITY%", "SM OCCUPANCY%",
                                        "INFERENCES/S", "LATE%", NULL};
    struct table *t = table_new(heads);
    for (int k = 0; k < scene->policies; k++) {
        struct sum s = add_up(scene, &results[k]);
        table_add(t, "%s", fast_policy_name(results[k].policy));
        add_mean(t, 1, &results[k].gpu.utilization);
        add_mean(t, 1, &results[k].gpu.sm_activity);
        add_mean(t, 2, &results[k].gpu.occupancy);
        table_add(t, "%.1f", s.inferences);
        table_add(t, "%.1f", s.late_pct);
    }
    table_print(t, stdout, 2);
}

/* Where there is a neighbour: what its being held back is worth, and what it costs it. */
static void print_price(const struct demo_scene *scene, const struct demo_result *results)
{
    const struct demo_result *fast = NULL, *racing = NULL;
    for (int k = 0; k < scene->policies; k++) {
        fast = results[k].policy == FAST_POLICY_FAST ? &results[k] : fast;
        racing = results[k].policy == FAST_POLICY_RACING ? &results[k] : racing;
    }
    if (!fast || !racing)
        return;
    struct sum f = add_up(scene, fast), r = add_up(scene, racing);
    if (r.greedy <= 0)
        return;
    char text[512];
    snprintf(text, sizeof(text), "Of the requests with an SLO %.1f %% are late under racing and %.1f %% "
             "under fast. The price: the neighbour does %.0f inferences/s under fast and %.0f under "
             "racing, all functions together %.0f and %.0f.", r.late_pct, f.late_pct, f.greedy,
             r.greedy, f.inferences, r.inferences);
    view_wrap(stdout, 2, text);
}

static json_t *function_json(const struct demo_fn *fn, const struct fast_load_result *r)
{
    json_t *j = json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I}", "function", fn->name, "sent",
                          (json_int_t)r->sent, "ok", (json_int_t)r->ok, "rps", rps(r),
                          "inferences_per_s", inferences(fn, r), "p50_ms",
                          (double)fast_hist_quantile(&r->latency, 500) / 1e6, "p99_ms",
                          (double)fast_hist_quantile(&r->latency, 990) / 1e6, "violations",
                          (json_int_t)r->violations, "failed", (json_int_t)failures(r));
    json_object_set_new(j, "slo_ms", fn->slo ? json_real((double)fn->slo / 1e6) : json_null());
    return j;
}

static void append_json(json_t *list, const struct demo_scene *scene, const struct demo_result *results,
                        bool simulated)
{
    for (int k = 0; k < scene->policies; k++) {
        const struct demo_result *d = &results[k];
        struct sum s = add_up(scene, d);
        json_t *fns = json_array();
        for (int i = 0; i < scene->functions; i++)
            json_array_append_new(fns, function_json(&scene->fn[i], &d->fn[i]));
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:b, s:o, s:o, s:o, s:f, s:f, s:o}", "scene", scene->name,
                            "policy", fast_policy_name(d->policy), "simulated", simulated,
                            "gpu_utilization", mean_json(&d->gpu.utilization), "sm_activity",
                            mean_json(&d->gpu.sm_activity), "sm_occupancy", mean_json(&d->gpu.occupancy),
                            "inferences_per_s", s.inferences, "violations_pct", s.late_pct, "functions",
                            fns));
    }
}

bool demo_report(const struct demo_stage *stage, const struct demo_scene *scene,
                 const struct demo_result *results)
{
    const struct cli *cli = stage->cli;
    uint64_t lost = 0;
    for (int k = 0; k < scene->policies; k++)
        for (int i = 0; i < scene->functions; i++)
            lost += failures(&results[k].fn[i]);
    if (cli->json) {
        append_json(stage->list, scene, results, stage->simulated);
        return lost == 0;
    }
    putchar('\n');
    print_functions(scene, results);
    putchar('\n');
    print_policies(scene, results);
    print_price(scene, results);
    if (lost)
        printf("  %s%llu requests were lost or failed.%s\n", view_color(cli, "red"),
               (unsigned long long)lost, view_color(cli, "off"));
    return lost == 0;
}

void demo_say(const struct demo_stage *stage, const char *title, const char *text)
{
    fprintf(stage->out, "\n%s%s%s%s\n", view_color(stage->cli, "bold"), title,
            stage->simulated ? " (simulated GPU)" : "", view_color(stage->cli, "off"));
    view_wrap(stage->out, 2, text);
    fflush(stage->out);
}
