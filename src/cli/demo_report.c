/* The table at the end of the demo, and the held-out digits. */

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/table.h"
#include "cli/view.h"
#include "io/file.h"

#define DIGIT_BYTES 64
#define DIGITS_MAX (1u << 20)

static uint64_t failures(const struct fast_load_result *r)
{
    return r->lost + r->server_errors + r->timeouts + r->wrong + r->client_errors;
}

static void print_functions(const struct demo_result *results, size_t count)
{
    static const char *const heads[] = {"POLICY", "FUNCTION", "REQUESTS", "REQ/S", "P50 ms", "P99 ms",
                                        "SLO ms", "VIOLATIONS%", "FAILED", NULL};
    struct table *t = table_new(heads);
    for (size_t k = 0; k < count; k++)
        for (int i = 0; i < DEMO_FUNCTIONS; i++) {
            const struct fast_load_result *r = &results[k].fn[i];
            table_add(t, "%s", i ? "" : fast_policy_name(results[k].policy));
            table_add(t, "%s", demo_functions[i].name);
            table_add(t, "%llu", (unsigned long long)r->sent);
            table_add(t, "%.1f", r->span ? (double)r->ok * 1e9 / (double)r->span : 0);
            table_add(t, "%.1f", (double)fast_hist_quantile(&r->latency, 500) / 1e6);
            table_add(t, "%.1f", (double)fast_hist_quantile(&r->latency, 990) / 1e6);
            table_add(t, "%.0f", (double)demo_functions[i].slo / 1e6);
            table_add(t, "%.1f", r->sent ? 100.0 * (double)r->violations / (double)r->sent : 0);
            table_add(t, "%llu", (unsigned long long)failures(r));
        }
    table_print(t, stdout, 2);
}

static double violations(const struct demo_result *d)
{
    uint64_t sent = 0, late = 0;
    for (int i = 0; i < DEMO_FUNCTIONS; i++) {
        sent += d->fn[i].sent;
        late += d->fn[i].violations;
    }
    return sent ? 100.0 * (double)late / (double)sent : 0;
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

static void print_policies(const struct demo_result *results, size_t count)
{
    static const char *const heads[] = {"POLICY", "GPU UTILIZATION%", "SM ACTIVITY%",
                                        "SM OCCUPANCY%", "SLO VIOLATIONS%", NULL};
    struct table *t = table_new(heads);
    for (size_t k = 0; k < count; k++) {
        table_add(t, "%s", fast_policy_name(results[k].policy));
        add_mean(t, 1, &results[k].gpu.utilization);
        add_mean(t, 1, &results[k].gpu.sm_activity);
        add_mean(t, 2, &results[k].gpu.occupancy);
        table_add(t, "%.1f", violations(&results[k]));
    }
    table_print(t, stdout, 2);
}

static void print_json(const struct demo_result *results, size_t count, bool simulated)
{
    json_t *list = json_array();
    for (size_t k = 0; k < count; k++) {
        json_t *fns = json_array();
        for (int i = 0; i < DEMO_FUNCTIONS; i++) {
            const struct fast_load_result *r = &results[k].fn[i];
            json_array_append_new(
                fns, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:I, s:I}", "function",
                               demo_functions[i].name, "sent", (json_int_t)r->sent, "ok",
                               (json_int_t)r->ok, "rps",
                               r->span ? (double)r->ok * 1e9 / (double)r->span : 0.0, "p50_ms",
                               (double)fast_hist_quantile(&r->latency, 500) / 1e6, "p99_ms",
                               (double)fast_hist_quantile(&r->latency, 990) / 1e6, "violations",
                               (json_int_t)r->violations, "failed", (json_int_t)failures(r)));
        }
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:o, s:o, s:o, s:f, s:o}", "policy",
                            fast_policy_name(results[k].policy), "simulated", simulated,
                            "gpu_utilization", mean_json(&results[k].gpu.utilization), "sm_activity",
                            mean_json(&results[k].gpu.sm_activity), "sm_occupancy",
                            mean_json(&results[k].gpu.occupancy),
                            "violations_pct", violations(&results[k]), "functions", fns));
    }
    api_print(list);
    json_decref(list);
}

bool demo_report(struct cli *cli, const struct demo_result *results, size_t count, bool simulated)
{
    uint64_t lost = 0;
    for (size_t k = 0; k < count; k++)
        for (int i = 0; i < DEMO_FUNCTIONS; i++)
            lost += failures(&results[k].fn[i]);
    if (cli->json) {
        print_json(results, count, simulated);
        return lost == 0;
    }
    printf("\n%sResult%s%s\n", view_color(cli, "bold"), simulated ? " (simulated GPU)" : "",
           view_color(cli, "off"));
    print_functions(results, count);
    putchar('\n');
    print_policies(results, count);
    if (simulated)
        puts("\nThe GPU was simulated: the table compares policies on the simulation and says "
             "nothing about a GPU.");
    if (lost)
        printf("\n%s%llu requests were lost or failed.%s\n", view_color(cli, "red"),
               (unsigned long long)lost, view_color(cli, "off"));
    return lost == 0;
}

/* ---- the held-out digits ---- */

static int find_digits(const struct cli *cli, char *path, size_t cap, struct fast_err *err)
{
    static const char *const places[] = {
        "/../../functions/digits/" , /* build tree: build/src/cli -> build/functions/digits */
        "/../../../functions/digits/", /* source tree beside it */
        "/../share/fast-gshare/digits/",
    };
    for (size_t i = 0; i < FAST_COUNT_OF(places); i++) {
        snprintf(path, cap, "%s%sheldout.bin", cli->self_dir, places[i]);
        FILE *f = fopen(path, "rb");
        if (f) {
            fclose(f);
            return 0;
        }
    }
    return fast_err_set(err, FAST_ENOENT, "the held-out digits (heldout.bin) are not found");
}

int demo_digits_load(struct demo_digits *d, const struct cli *cli, struct fast_err *err)
{
    char path[PATH_MAX];
    size_t len = 0;
    *d = (struct demo_digits){0};
    int r = find_digits(cli, path, sizeof(path), err);
    if (!r)
        r = fast_file_read(path, DIGITS_MAX, &d->data, &len, err);
    if (r)
        return r;
    d->count = len / (DIGIT_BYTES + 1);
    d->bodies = calloc(d->count + 1, sizeof(*d->bodies));
    d->lens = calloc(d->count + 1, sizeof(*d->lens));
    if (!d->bodies || !d->lens || !d->count || len % (DIGIT_BYTES + 1)) {
        demo_digits_fini(d);
        return fast_err_set(err, FAST_EINVAL, "%s is not a set of digits", path);
    }
    for (size_t i = 0; i < d->count; i++) {
        d->bodies[i] = d->data + i * (DIGIT_BYTES + 1);
        d->lens[i] = DIGIT_BYTES;
    }
    return 0;
}

void demo_digits_fini(struct demo_digits *d)
{
    free(d->data);
    free(d->bodies);
    free(d->lens);
    *d = (struct demo_digits){0};
}

bool demo_digits_right(const struct demo_digits *d, size_t i, const char *body, size_t len)
{
    json_t *answer = json_loadb(body, len, 0, NULL);
    json_t *digit = json_object_get(answer, "digit");
    bool right = json_is_integer(digit) && i < d->count &&
                 json_integer_value(digit) == d->bodies[i][DIGIT_BYTES];
    json_decref(answer);
    return right;
}
