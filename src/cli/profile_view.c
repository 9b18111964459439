/* What people see of a profile: tables and plots. Measured slices are marked; the others come from the
 * predictor. */

#include "cli/profile.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/table.h"
#include "cli/view.h"

#define PLOT_ROWS 16
#define PLOT_COLS 61
#define ANSWERS_MAX 5
#define REPLICAS_MAX 1000

const int profile_sms[PROFILE_SMS] = {6, 12, 24, 50, 60, 80, 100};
const int profile_quotas[PROFILE_QUOTAS] = {200, 400, 600, 800, 1000};

/* Colours of the lines in the SVG: Okabe and Ito's, told apart by people who see colours differently. */
static const char *const colors[PROFILE_SMS] = {"#000000", "#e69f00", "#56b4e9", "#009e73",
                                                "#0072b2", "#d55e00", "#cc79a7"};
static const char marks[PROFILE_SMS + 1] = "abcdefg";

void profile_candidates(struct fast_predict_point ret[PROFILE_GRID])
{
    for (int i = 0; i < PROFILE_GRID; i++)
        ret[i] = (struct fast_predict_point){profile_sms[i / PROFILE_QUOTAS],
                                             profile_quotas[i % PROFILE_QUOTAS], 0};
}

int profile_load(struct fast_trials *db, struct profile *p, struct fast_err *err)
{
    struct fast_trial_live live[FAST_TRIALS_MAX];
    int r = fast_trials_get(db, p->name, p->version, p->batch, p->trial, &p->trials, err);
    if (!r)
        r = fast_trials_live_get(db, p->name, p->version, live, FAST_TRIALS_MAX, &p->live_slices, &p->drift,
                                 err);
    p->live_spans = 0;
    for (int i = 0; !r && i < p->live_slices; i++)
        p->live_spans += live[i].spans + live[i].latency_spans;
    return r;
}

static bool is_ok(const struct fast_trial *t)
{
    return !strcmp(t->state, "ok") && t->rps >= 0.001;
}

int profile_fit(const struct profile *p, struct fast_predict **ret, struct fast_err *err)
{
    struct fast_predict_point point[FAST_TRIALS_MAX];
    int n = 0;
    for (int i = 0; i < p->trials; i++)
        if (is_ok(&p->trial[i]))
            point[n++] = (struct fast_predict_point){p->trial[i].sm_pct, p->trial[i].quota_milli,
                                                     llround(p->trial[i].rps * 1e3)};
    if (!n)
        return fast_err_set(err, FAST_EINVAL, "no trial of %.64s succeeded%s%.150s", p->name,
                            p->trials ? ": " : "", p->trials ? p->trial[0].text : "");
    return fast_predict_new(point, n, ret, err);
}

static double rpr(const struct fast_trial *t)
{
    return t->rps * 1e5 / ((double)t->sm_pct * t->quota_milli);
}

/* Of a table that was imported, these are not known. */
static void add_known(struct table *t, int digits, double v)
{
    if (v > 0)
        table_add(t, "%.*f", digits, v);
    else
        table_add(t, "-");
}

static void print_live(const struct profile *p)
{
    char when[32] = "";
    time_t since = (time_t)p->drift.since_s;
    struct tm tm;
    if (p->live_slices)
        printf("live requests have refined %d slices, from %lld spans\n", p->live_slices,
               (long long)p->live_spans);
    if (!p->drift.milli)
        return;
    gmtime_r(&since, &tm);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%SZ", &tm);
    printf("drift since %s: live throughput is %.0f %% of that of the trials; --fresh measures "
           "again\n", when, p->drift.milli * 0.1);
}

void profile_print(const struct profile *p)
{
    static const char *const heads[] = {"SM %", "QUOTA", "RPS", "P50 ms", "P95 ms", "P99 ms", "UTIL %",
                                        "SM ACT %", "OCC %", "MEM MiB", "ERR %", "RPR", "", NULL};
    const struct fast_trial *best = NULL;
    if (p->batch > 1)
        printf("batch %d: a request has %d inputs\n", p->batch, p->batch);
    for (int i = 0; i < p->trials; i++)
        if (is_ok(&p->trial[i]) && (!best || rpr(&p->trial[i]) > rpr(best)))
            best = &p->trial[i];
    struct table *t = table_new(heads);
    if (!t)
        return;
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *r = &p->trial[i];
        table_add(t, "%d", r->sm_pct);
        table_add(t, "%.3g", r->quota_milli * 1e-3);
        if (!is_ok(r)) {
            for (int k = 0; k < 8; k++)
                table_add(t, "-");
            table_add(t, "%.1f", 100 * r->error_rate);
            table_add(t, "-");
            table_add(t, "%s: %s", r->state, r->text);
            continue;
        }
        table_add(t, "%.2f", r->rps);
        add_known(t, 1, r->p50_ms);
        table_add(t, "%.1f", r->p95_ms);
        table_add(t, "%.1f", r->p99_ms);
        add_known(t, 0, 100 * r->utilization);
        add_known(t, 1, 100 * r->sm_activity);
        add_known(t, 1, 100 * r->occupancy);
        add_known(t, 0, (double)r->memory_bytes / 1048576);
        table_add(t, "%.1f", 100 * r->error_rate);
        table_add(t, "%.1f", rpr(r));
        bool noted = *r->text && strcmp(r->text, "imported") != 0;
        table_add(t, "%s%s%s", r == best ? "<- most requests/s per GPU" : "", r == best && noted ? "; " : "",
                  noted ? r->text : "");
    }
    table_print(t, stdout, 0);
    print_live(p);
}

static double value(const struct fast_predict *f, int sm, int quota)
{
    return (double)fast_predict_look(f, sm, quota).rps_milli * 1e-3;
}

/* The line in the plot of the smallest partition that is not below |sm|. */
static int line_of(int sm)
{
    int s = 0;
    while (s < PROFILE_SMS - 1 && profile_sms[s] < sm)
        s++;
    return s;
}

void profile_plot(const struct profile *p, const struct fast_predict *f, FILE *out)
{
    char cell[PLOT_ROWS][PLOT_COLS + 1];
    double top = value(f, 100, 1000);
    memset(cell, ' ', sizeof(cell));
    for (int s = 0; s < PROFILE_SMS; s++)
        for (int c = 0; c < PLOT_COLS; c++) {
            int quota = 100 + c * 900 / (PLOT_COLS - 1);
            int row = (int)lround((1 - value(f, profile_sms[s], quota) / top) * (PLOT_ROWS - 1));
            cell[row][c] = marks[s];
        }
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *t = &p->trial[i];
        int s = line_of(t->sm_pct), row = (int)lround((1 - t->rps / top) * (PLOT_ROWS - 1));
        int col = (t->quota_milli - 100) * (PLOT_COLS - 1) / 900;
        if (is_ok(t) && profile_sms[s] == t->sm_pct && col >= 0 && row >= 0 && row < PLOT_ROWS)
            cell[row][col] = (char)(marks[s] - 'a' + 'A');
    }
    fprintf(out, "requests/s of one replica over its time quota; capital letters: measured\n");
    for (int r = 0; r < PLOT_ROWS; r++) {
        cell[r][PLOT_COLS] = '\0';
        fprintf(out, "%9.1f |%s\n", top * (1 - (double)r / (PLOT_ROWS - 1)), cell[r]);
    }
    fprintf(out, "          +-------------+------------+-------------+-------------+-----\n"
                 "         0.1           0.3          0.5           0.7           0.9\n         ");
    for (int s = 0; s < PROFILE_SMS; s++)
        fprintf(out, " %c %d %%", marks[s], profile_sms[s]);
    fputc('\n', out);
}

/* The smallest of 1, 2, 2.5, 5 times a power of ten that is not below |v|. */
static double tick(double v)
{
    static const double round[] = {1, 2, 2.5, 5, 10};
    double power = pow(10, floor(log10(v)));
    size_t i = 0;
    while (i + 1 < FAST_COUNT_OF(round) && round[i] * power < v)
        i++;
    return round[i] * power;
}

void profile_svg(const struct profile *p, const struct fast_predict *f, FILE *out)
{
    const double w = 560, h = 340, left = 60, low = 40;
    double top = 5 * tick(value(f, 100, 1000) / 5);
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"420\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<title>%s: throughput of one replica over its "
            "time quota, by SM partition</title>\n<rect width=\"760\" height=\"420\" fill=\"white\"/>\n",
            p->name);
    for (int i = 0; i <= 5; i++) {
        double x = left + w * i / 5, y = low + h * (1 - i / 5.0);
        fprintf(out, "<path d=\"M%.0f %.0fH%.0f\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"%.0f\" "
                "text-anchor=\"end\">%g</text><text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">%.1f"
                "</text>\n", left, y, left + w, left - 6, y + 4, top * i / 5, x, low + h + 18, i / 5.0);
    }
    fprintf(out, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">time quota</text><text x=\"10\" "
            "y=\"24\">%s: requests/s of one replica (dots: measured)</text>\n", left + w / 2, low + h + 36,
            p->name);
    for (int s = 0; s < PROFILE_SMS; s++) {
        fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colors[s]);
        for (int q = 20; q <= 1000; q += 20)
            fprintf(out, "%.1f,%.1f ", left + w * q / 1000, low + h * (1 - value(f, profile_sms[s], q) / top));
        fprintf(out, "\"/>\n<rect x=\"640\" y=\"%d\" width=\"16\" height=\"4\" fill=\"%s\"/><text x=\"662\" "
                "y=\"%d\">SM %d %%</text>\n", 60 + 20 * s, colors[s], 66 + 20 * s, profile_sms[s]);
    }
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *t = &p->trial[i];
        int s = line_of(t->sm_pct);
        if (is_ok(t))
            fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n",
                    left + w * t->quota_milli / 1000, low + h * (1 - t->rps / top), colors[s]);
    }
    fprintf(out, "</svg>\n");
}

/* ---- which replicas for this load? ---- */

struct option {
    int sm, quota, replicas, cost; /* cost in SM % x thousandths of time */
    fast_ns p95;
    struct fast_predict_value value;
};

static bool meets(const struct fast_predict *f, struct option *o, int replicas, int64_t rate_milli,
                  fast_ns slo, fast_ns window)
{
    struct fast_predict_load load = {.rate_milli = rate_milli, .window_ns = window, .replicas = replicas};
    o->p95 = fast_predict_p95(f, o->sm, o->quota, &load);
    return o->p95 <= slo;
}

/* The fewest replicas of the slice that do; 0: no number of them does. More replicas are never slower. */
static int replicas_for(const struct fast_predict *f, struct option *o, int64_t rate_milli,
                        fast_ns slo, fast_ns window)
{
    int below = 0, enough = 1;
    while (!meets(f, o, enough, rate_milli, slo, window)) {
        if (enough == REPLICAS_MAX)
            return 0;
        below = enough;
        enough = 2 * enough < REPLICAS_MAX ? 2 * enough : REPLICAS_MAX;
    }
    while (enough - below > 1) {
        int middle = (below + enough) / 2;
        if (meets(f, o, middle, rate_milli, slo, window))
            enough = middle;
        else
            below = middle;
    }
    meets(f, o, enough, rate_milli, slo, window);
    return enough;
}

static int options(const struct fast_predict *f, int64_t rate_milli, fast_ns slo, fast_ns window,
                   struct option best[ANSWERS_MAX])
{
    int n = 0;
    for (int i = 0; i < PROFILE_GRID; i++) {
        struct option o = {.sm = profile_sms[i / PROFILE_QUOTAS],
                           .quota = profile_quotas[i % PROFILE_QUOTAS]};
        o.value = fast_predict_look(f, o.sm, o.quota);
        o.replicas = replicas_for(f, &o, rate_milli, slo, window);
        o.cost = o.replicas * o.sm * o.quota;
        int at = n;
        while (at > 0 && o.replicas && best[at - 1].cost > o.cost)
            at--;
        if (!o.replicas || at == ANSWERS_MAX)
            continue;
        n = n < ANSWERS_MAX ? n + 1 : n;
        memmove(&best[at + 1], &best[at], sizeof(best[0]) * (size_t)(n - at - 1));
        best[at] = o;
    }
    return n;
}

int profile_answer(const struct cli *cli, const struct fast_predict *f, int64_t rate_milli,
                   fast_ns slo, fast_ns window)
{
    static const char *const heads[] = {"REPLICAS", "SM %", "QUOTA", "GPUS", "RPS EACH", "+- %",
                                        "P95 ms", NULL};
    struct option best[ANSWERS_MAX];
    int n = options(f, rate_milli, slo, window, best);
    if (!n)
        return cli_fail(CLI_FAILED, "no slice carries %.3f requests/s with a p95 of %.1f ms, with however "
                        "many replicas", (double)rate_milli * 1e-3, (double)slo * 1e-6);
    json_t *list = json_array();
    struct table *t = cli->json ? NULL : table_new(heads);
    for (int i = 0; i < n; i++) {
        const struct option *o = &best[i];
        double gpus = o->cost * 1e-5, rps = (double)o->value.rps_milli * 1e-3;
        json_array_append_new(list, json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f}", "replicas",
                                              o->replicas, "sm_pct", o->sm, "quota",
                                              o->quota * 1e-3, "gpus", gpus, "rps", rps, "uncertainty",
                                              o->value.uncertainty_milli * 1e-3, "p95_ms",
                                              (double)o->p95 * 1e-6));
        if (!t)
            continue;
        table_add(t, "%d", o->replicas);
        table_add(t, "%d", o->sm);
        table_add(t, "%.3g", o->quota * 1e-3);
        table_add(t, "%.2f", gpus);
        table_add(t, "%.1f", rps);
        table_add(t, "%.0f", o->value.uncertainty_milli * 0.1);
        table_add(t, "%.1f", (double)o->p95 * 1e-6);
    }
    if (t) {
        printf("%.3f requests/s with a p95 of at most %.1f ms, the cheapest first:\n",
               (double)rate_milli * 1e-3, (double)slo * 1e-6);
        table_print(t, stdout, 0);
    } else {
        api_print(list);
    }
    json_decref(list);
    return CLI_OK;
}
