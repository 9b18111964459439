/* gpu-load: an open-loop HTTP load whose rate is linear between points, as JSON. It is `fast load` with a
 * ramp and without the libraries of the command line. Latency counts from when a request was due; what
 * is late or not answered well is a violation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/load.h"
#include "sim/arrivals.h"

#define POINTS_MAX 64

static const char usage[] =
    "usage: gpu-load PORT PATH SLO_MS SEED SECONDS:RATE,SECONDS:RATE...\n"
    "Poisson arrivals on 127.0.0.1:PORT, the rate linear between the points, to the last of them.\n";

static size_t parse_points(const char *text, struct fast_rate_point *ret)
{
    size_t n = 0;
    while (*text && n < POINTS_MAX) {
        char *end;
        double at = strtod(text, &end);
        if (end == text || *end != ':')
            return 0;
        text = end + 1;
        double rate = strtod(text, &end);
        if (end == text || (*end && *end != ',') || at < 0 || rate < 0)
            return 0;
        ret[n++] = (struct fast_rate_point){(fast_ns)(at * 1e9), (int64_t)(rate * 1000)};
        text = *end ? end + 1 : end;
    }
    return n;
}

static void print(const struct fast_load_result *r)
{
    static const int milli[] = {500, 950, 990, 999};
    static const char *const names[] = {"p50_ms", "p95_ms", "p99_ms", "p999_ms"};
    printf("{\"sent\": %llu, \"ok\": %llu, \"throttled\": %llu, \"client_errors\": %llu, "
           "\"server_errors\": %llu, \"timeouts\": %llu, \"lost\": %llu, \"violations\": %llu, "
           "\"seconds\": %.3f",
           (unsigned long long)r->sent, (unsigned long long)r->ok, (unsigned long long)r->throttled,
           (unsigned long long)r->client_errors, (unsigned long long)r->server_errors,
           (unsigned long long)r->timeouts, (unsigned long long)r->lost,
           (unsigned long long)r->violations, (double)r->span / 1e9);
    for (int i = 0; i < 4; i++)
        printf(", \"%s\": %.4f", names[i], (double)fast_hist_quantile(&r->latency, milli[i]) / 1e6);
    printf("}\n");
}

int main(int argc, char **argv)
{
    struct fast_rate_point points[POINTS_MAX];
    struct fast_arrivals a = {0};
    struct fast_err err = {0};
    size_t n = argc == 6 ? parse_points(argv[5], points) : 0;
    if (n < 2)
        return fputs(usage, stderr), 2;
    struct fast_load_result *result = calloc(1, sizeof(*result));
    int r = !result ? 1 : fast_arrivals_ramp(&a, points, n, strtoull(argv[4], NULL, 10), &err);
    const struct fast_load_spec spec = {
        .host = "127.0.0.1", .port = atoi(argv[1]), .path = argv[2], .due = a.at, .due_count = a.count,
        .slo = (fast_ns)(strtod(argv[3], NULL) * 1e6), .timeout = FAST_S(20), .connections_max = 256};
    if (!r)
        r = fast_load_run(&spec, 1, NULL, NULL, result, &err);
    if (r)
        fprintf(stderr, "gpu-load: %s\n", result ? err.msg : "out of memory");
    else
        print(result);
    fast_arrivals_fini(&a);
    free(result);
    return r != 0;
}
