/* Decides what a number of queries proves. A bound is claimed for a part p of all queries when chance alone
 * would have shown so few over it in less than 1 of 100 runs, were it false: the binomial sum up to |over|
 * at 1 - p is at most 0.01. It assumes that queries are late independently of each other. */

#include "sim/loadgen.h"

#include <math.h>

#include "base/parse.h"

#define DOUBT 0.01

static const char *const names[FAST_SCENARIO_COUNT] = {"single-stream", "multi-stream", "server",
                                                       "offline"};

const char *fast_scenario_name(enum fast_scenario scenario)
{
    return names[scenario];
}

int fast_scenario_parse(const char *text, enum fast_scenario *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(names, FAST_SCENARIO_COUNT, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL,
                        "\"%.40s\" is not single-stream, multi-stream, server or offline", text);
    *ret = (enum fast_scenario)found;
    return 0;
}

int fast_scenario_percentile(enum fast_scenario scenario)
{
    static const int milli[FAST_SCENARIO_COUNT] = {900, 990, 990, 0};
    return milli[scenario];
}

bool fast_loadgen_proves(int64_t queries, int64_t over, int percentile_milli)
{
    double tail = 1 - percentile_milli / 1000.0, n = (double)queries;
    /* Above the mean the sum is far above |DOUBT|. */
    if (over >= queries || (double)over >= n * tail)
        return false;
    /* Logarithms, since the terms of a large |queries| are too small for a number. */
    double term = n * log(1 - tail), sum = term, odds = log(tail / (1 - tail));
    for (int64_t k = 1; k <= over; k++) {
        term += log((n - (double)k + 1) / (double)k) + odds;
        sum = term > sum ? term + log(1 + exp(sum - term)) : sum + log(1 + exp(term - sum));
    }
    return sum <= log(DOUBT);
}

int64_t fast_loadgen_needed(int64_t over, int percentile_milli)
{
    int64_t low = over, high = over + 1;
    while (high < FAST_LOADGEN_QUERIES && !fast_loadgen_proves(high, over, percentile_milli)) {
        low = high;
        high *= 2;
    }
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (fast_loadgen_proves(middle, over, percentile_milli))
            high = middle;
        else
            low = middle;
    }
    return high;
}

fast_ns fast_loadgen_estimate(const struct fast_hist *latency, int percentile_milli)
{
    int64_t n = (int64_t)latency->count, low = -1, high = n;
    while (high - low > 1) { /* the most that may be over the bound */
        int64_t middle = low + (high - low) / 2;
        if (fast_loadgen_proves(n, middle, percentile_milli))
            low = middle;
        else
            high = middle;
    }
    return low < 0 ? 0 : fast_hist_rank(latency, (uint64_t)(n - low));
}
