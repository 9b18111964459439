/* What `fast simulate` tells: text, JSON, and plots over time. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/simulate.h"
#include "io/file.h"

#define WIDTH 900
#define HEIGHT 180
#define GAP 60
#define LEGEND_ROWS 15 /* then the next column, to the left */

static const char *const colors[] = {"#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910"};

static double pct(uint64_t part, uint64_t all)
{
    return all ? 100.0 * (double)part / (double)all : 0;
}

static double ms(const struct fast_hist *h, int milli)
{
    return (double)fast_hist_quantile(h, milli) / 1e6;
}

/* ---- plots ---- */

/* A file's name may have what is markup in XML. */
static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        const char *name = *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : NULL;
        if (name)
            fputs(name, out);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, out);
    }
}

static void panel(FILE *out, int at, const char *title, double most, const char *unit)
{
    fprintf(out,
            "<g transform=\"translate(0 %d)\"><text y=\"-8\">%s (top: %.3g%s)</text>\n"
            "<path d=\"M0 0V%dH%d\" stroke=\"black\" fill=\"none\"/>\n",
            at * (HEIGHT + GAP), title, most, unit, HEIGHT, WIDTH);
}

static void draw_replicas(FILE *out, const struct sim_world *w)
{
    const struct sim_cluster_result *r = &w->result;
    double span = (double)w->conf.end_ns;
    int most = 1;
    for (int i = 0; i < r->nsteps; i++)
        most = r->step[i].replicas > most ? r->step[i].replicas : most;
    panel(out, 0, "replicas", most, "");
    for (int f = 0; f < w->conf.functions; f++) {
        fprintf(out, "<path d=\"M0 %d", HEIGHT);
        for (int i = 0; i < r->nsteps; i++)
            if (r->step[i].function == f)
                fprintf(out, "H%.1fV%.1f", (double)r->step[i].at / span * WIDTH,
                        HEIGHT - (double)r->step[i].replicas / most * HEIGHT);
        fprintf(out, "H%d\" stroke=\"%s\" fill=\"none\"/>\n<text x=\"%d\" y=\"%d\" fill=\"%s\">",
                WIDTH, colors[f % 5], WIDTH - 200 * (1 + f / LEGEND_ROWS), 12 * (f % LEGEND_ROWS),
                colors[f % 5]);
        put_text(out, w->conf.function[f].name);
        fprintf(out, "</text>\n");
    }
    fprintf(out, "</g>\n");
}

enum series { HELD, USED, MEMORY, LATE };

/* GPUs on the mean of a bucket, or % late. */
static double value_of(const struct sim_world *w, const struct sim_cluster_bucket *b, enum series s)
{
    double span = (double)w->conf.end_ns / 1e9 / SIM_CLUSTER_BUCKETS;
    return s == HELD ? b->gpu_s / span
           : s == USED ? b->busy_s / span
           : s == MEMORY ? b->mem_s / span
                         : pct(b->violations, b->requests);
}

static void draw_series(FILE *out, const struct sim_world *w, enum series s, double most, const char *color)
{
    fprintf(out, "<path d=\"M0 %d", HEIGHT);
    for (int i = 0; i < SIM_CLUSTER_BUCKETS; i++)
        fprintf(out, "L%.1f %.1f", (i + 0.5) * WIDTH / SIM_CLUSTER_BUCKETS,
                HEIGHT - value_of(w, &w->result.bucket[i], s) / most * HEIGHT);
    fprintf(out, "\" stroke=\"%s\" fill=\"none\"/>\n", color);
}

static double most_of(const struct sim_world *w, enum series s)
{
    double most = 0;
    for (int i = 0; i < SIM_CLUSTER_BUCKETS; i++) {
        double v = value_of(w, &w->result.bucket[i], s);
        most = v > most ? v : most;
    }
    return most;
}

int simulate_draw(const struct sim_world *w, const char *path, struct fast_err *err)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    double held = most_of(w, HELD), used = most_of(w, USED), memory = most_of(w, MEMORY);
    double most = held > used ? held : used;
    most = memory > most ? memory : most;
    most = most > 0 ? most : 1;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-20 -60 %d %d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n<text y=\"-36\" font-size=\"14\">policy %s, %d GPUs (simulated), %.0f s: "
            "%.3f %% late or lost</text>\n",
            WIDTH + 40, 3 * (HEIGHT + GAP) + 60, sim_cluster_policy_name(w->conf.policy), w->conf.gpus,
            (double)w->conf.end_ns / 1e9, pct(w->result.violations, w->result.requests));
    draw_replicas(out, w);
    panel(out, 1, "GPUs: time guaranteed (blue), used (green), memory (orange)", most, "");
    draw_series(out, w, HELD, most, colors[0]);
    draw_series(out, w, USED, most, colors[2]);
    draw_series(out, w, MEMORY, most, colors[4]);
    fprintf(out, "</g>\n");
    most = most_of(w, LATE);
    panel(out, 2, "late or lost", most > 0 ? most : 1, " %");
    draw_series(out, w, LATE, most > 0 ? most : 1, colors[1]);
    fprintf(out, "<text y=\"%d\">0 s</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f s</text>\n</g>\n</svg>\n",
            HEIGHT + 16, WIDTH, HEIGHT + 16, (double)w->conf.end_ns / 1e9);
    if (fclose(out))
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    return 0;
}

/* ---- what a scenario proves ---- */

static json_t *claim_json(const struct sim_world *w, int f)
{
    const struct fast_hist *h = &w->result.function[f].latency;
    const fast_ns slo = w->conf.function[f].slo_ns;
    uint64_t queries = w->result.function[f].requests, over = w->result.function[f].violations;
    int milli = fast_scenario_percentile(w->scenario);
    json_t *o = json_pack("{s:s}", "scenario", fast_scenario_name(w->scenario));
    if (!milli) {
        double span = (double)w->result.last_answer / 1e9;
        json_object_set_new(o, "samples_per_second",
                            json_real(span > 0 ? (double)(queries - w->result.timeouts) / span : 0));
        json_object_set_new(o, "all_answered", json_boolean(!w->result.timeouts));
        return o;
    }
    fast_ns bound = fast_loadgen_estimate(h, milli);
    if (w->search)
        json_object_set_new(o, "highest_rate", json_real((double)w->rate_milli / 1e3));
    json_object_set_new(o, "percentile", json_real(milli / 10.0));
    json_object_set_new(o, "queries", json_integer((json_int_t)queries));
    json_object_set_new(o, "over_slo", json_integer((json_int_t)over));
    json_object_set_new(o, "queries_needed",
                        json_integer((json_int_t)fast_loadgen_needed((int64_t)over, milli)));
    json_object_set_new(o, "slo_proven",
                        json_boolean(slo && fast_loadgen_proves((int64_t)queries, (int64_t)over, milli)));
    json_object_set_new(o, "bound_ms", bound ? json_real((double)bound / 1e6) : json_null());
    return o;
}

static void print_claim(const struct sim_world *w, int f)
{
    json_t *o = claim_json(w, f);
    if (w->search)
        printf("  server: the highest rate at which the SLO is proven is %.1f requests/s\n",
               (double)w->rate_milli / 1e3);
    if (w->scenario == FAST_SCENARIO_OFFLINE)
        printf("  offline: %.1f samples/s%s\n", json_num(o, "samples_per_second"),
               w->result.timeouts ? ", and some were not answered in time (--seconds)" : "");
    else if (json_is_number(json_object_get(o, "bound_ms")))
        printf("  %s: p%g is at most %.1f ms (early stopping, 99 %% confidence); SLO %s: %.0f of %.0f "
               "queries over it, which needs %.0f\n",
               json_text(o, "scenario"), json_num(o, "percentile"), json_num(o, "bound_ms"),
               json_is_true(json_object_get(o, "slo_proven")) ? "proven" : "not proven",
               json_num(o, "over_slo"), json_num(o, "queries"), json_num(o, "queries_needed"));
    else
        printf("  %s: %.0f queries are too few for any claim about p%g\n", json_text(o, "scenario"),
               json_num(o, "queries"), json_num(o, "percentile"));
    json_decref(o);
}

/* ---- figures ---- */

static json_t *function_json(const struct sim_world *w, int f)
{
    const struct sim_cluster_result *r = &w->result;
    json_t *o = json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f}", "profile", w->conf.function[f].name,
                          "requests", (json_int_t)r->function[f].requests, "violations",
                          (json_int_t)r->function[f].violations, "slo_ms",
                          (double)w->conf.function[f].slo_ns / 1e6, "p50_ms",
                          ms(&r->function[f].latency, 500), "p99_ms", ms(&r->function[f].latency, 990),
                          "gpu_seconds", r->function[f].gpu_s);
    if (w->scenario != FAST_SCENARIO_COUNT)
        json_object_set_new(o, "claim", claim_json(w, f));
    return o;
}

static json_t *series_json(const struct sim_world *w)
{
    json_t *list = json_array();
    for (int i = 0; i < SIM_CLUSTER_BUCKETS; i++) {
        const struct sim_cluster_bucket *b = &w->result.bucket[i];
        json_array_append_new(
            list, json_pack("{s:f, s:I, s:I, s:f, s:f, s:f}", "from_s",
                            (double)w->conf.end_ns / 1e9 * i / SIM_CLUSTER_BUCKETS, "requests",
                            (json_int_t)b->requests, "violations", (json_int_t)b->violations,
                            "gpus_held", value_of(w, b, HELD), "gpus_used", value_of(w, b, USED),
                            "gpus_memory", value_of(w, b, MEMORY)));
    }
    return list;
}

static json_t *report_json(const struct sim_world *w, bool all)
{
    const struct sim_cluster_result *r = &w->result;
    double span = (double)w->conf.end_ns / 1e9 * w->conf.gpus;
    json_t *list = json_array();
    for (int f = 0; f < w->conf.functions; f++)
        json_array_append_new(list, function_json(w, f));
    json_t *j = json_pack(
        "{s:s, s:b, s:i, s:f, s:I, s:I, s:f, s:I, s:I}", "policy",
        sim_cluster_policy_name(w->conf.policy), "simulated", 1, "gpus", w->conf.gpus, "seconds",
        (double)w->conf.end_ns / 1e9, "requests", (json_int_t)r->requests, "violations",
        (json_int_t)r->violations, "violation_pct", pct(r->violations, r->requests), "timeouts",
        (json_int_t)r->timeouts, "lost", (json_int_t)r->lost);
    json_t *k = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "starts",
        (json_int_t)r->starts, "cold_starts", (json_int_t)r->cold, "stops", (json_int_t)r->stops,
        "refused", (json_int_t)r->refused, "resizes", (json_int_t)r->resizes, "moves",
        (json_int_t)r->moves, "failures", (json_int_t)r->failures, "replica_seconds",
        (double)r->replica_ns / 1e9, "gpu_seconds", r->gpu_s, "gpu_seconds_used", r->busy_s,
        "gpu_hours", r->gpu_s / 3600, "memory_gpu_seconds", r->mem_s, "occupancy", r->gpu_s / span,
        "utilization", r->busy_s / span, "functions", list);
    json_object_set_new(k, "gpu_seconds_occupied", json_real(r->gpus_s));
    json_object_update(j, k);
    json_decref(k);
    if (all)
        json_object_set_new(j, "series", series_json(w));
    return j;
}

int simulate_write(const struct sim_world *w, const char *path, struct fast_err *err)
{
    json_t *j = report_json(w, true);
    errno = 0;
    int failed = json_dump_file(j, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    int reason = errno ? errno : EIO;
    json_decref(j);
    return failed ? fast_err_set(err, FAST_EIO, "cannot write %s: %s", path, strerror(reason)) : 0;
}

void simulate_print_json(const struct sim_world *w)
{
    json_t *j = report_json(w, false);
    api_print(j);
    json_decref(j);
}

void simulate_print_text(const struct sim_world *w)
{
    const struct sim_cluster_result *r = &w->result;
    for (int f = 0; f < w->conf.functions; f++) {
        printf("%-20s %8llu requests, p50 %.1f, p99 %.1f ms, %.3f %% late or lost, %.1f GPU s\n",
               w->conf.function[f].name, (unsigned long long)r->function[f].requests,
               ms(&r->function[f].latency, 500), ms(&r->function[f].latency, 990),
               pct(r->function[f].violations, r->function[f].requests), r->function[f].gpu_s);
        if (w->scenario != FAST_SCENARIO_COUNT)
            print_claim(w, f);
    }
    printf("policy %s on %d GPUs (simulated): %.1f GPU s held, %.1f used; %llu starts (%llu cold), %llu "
           "stops, %llu refused for lack of room\n",
           sim_cluster_policy_name(w->conf.policy), w->conf.gpus, r->gpu_s, r->busy_s,
           (unsigned long long)r->starts, (unsigned long long)r->cold, (unsigned long long)r->stops,
           (unsigned long long)r->refused);
    printf("GPUs with any replica: %.1f GPU s; %llu replicas moved\n", r->gpus_s,
           (unsigned long long)r->moves);
    if (w->conf.nfailures)
        printf("%llu of %d failures hit something: %llu requests lost\n", (unsigned long long)r->failures,
               w->conf.nfailures, (unsigned long long)r->lost);
}
