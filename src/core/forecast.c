/* Decides what load to expect. It assumes that the near future is like the last seconds with their
 * trend, and that a stream that has burst will burst alike. Floating point serves the estimate only. */

#include "core/forecast.h"

#include <math.h>

#define TREND FAST_FORECAST_TREND
#define MEMORY FAST_FORECAST_MEMORY
#define BURSTY 2 /* index of dispersion of requests per second; 1: Poisson */

void fast_forecast_add(struct fast_forecast *f, uint32_t requests)
{
    f->now += requests;
}

/* Requests of the second |back|, 1: the last one that is over. */
static uint32_t past(const struct fast_forecast *f, uint64_t back)
{
    return back <= f->seconds && back <= MEMORY ? f->past[(f->seconds - back) % MEMORY] : 0;
}

static uint64_t square(uint32_t a, uint32_t b)
{
    int64_t d = (int64_t)a - (int64_t)b;
    return (uint64_t)(d * d);
}

void fast_forecast_second(struct fast_forecast *f)
{
    if (f->seconds >= MEMORY) { /* the oldest leaves, with its difference to the next */
        f->sum -= past(f, MEMORY - 1);
        f->squares -= square(past(f, MEMORY), past(f, MEMORY - 1));
    }
    if (f->seconds) {
        f->sum += f->now;
        f->squares += square(f->now, past(f, 1));
    }
    f->past[f->seconds++ % MEMORY] = f->now;
    if (f->now >= f->most) {
        f->most = f->now;
        f->most_at = f->seconds;
    } else if (f->seconds - f->most_at >= MEMORY) {
        f->most = 0;
        for (uint64_t back = MEMORY; back >= 1; back--)
            if (past(f, back) >= f->most) {
                f->most = past(f, back);
                f->most_at = f->seconds - back + 1;
            }
    }
    f->now = 0;
}

int64_t fast_forecast_mean(const struct fast_forecast *f, int seconds)
{
    int64_t sum = 0;
    for (int i = 1; i <= seconds; i++)
        sum += past(f, (uint64_t)i);
    return sum * 1000 / seconds;
}

int64_t fast_forecast_most(const struct fast_forecast *f, int seconds, int over)
{
    int64_t sum = 0, most = 0;
    for (int i = 1; i <= over; i++) {
        sum += past(f, (uint64_t)i);
        sum -= i > seconds ? past(f, (uint64_t)(i - seconds)) : 0;
        most = sum > most ? sum : most;
    }
    return most * 1000 / seconds;
}

uint32_t fast_forecast_burst(const struct fast_forecast *f)
{
    bool bursts = f->seconds > TREND && f->squares > UINT64_C(2) * BURSTY * f->sum;
    return bursts ? f->most : 0;
}

int64_t fast_forecast_expect(const struct fast_forecast *f, fast_ns ahead)
{
    double sum = 0, moment = 0;
    for (int i = 1; i <= TREND; i++) {
        uint32_t n = past(f, (uint64_t)i);
        sum += n;
        moment += n * ((TREND + 1) / 2.0 - i);
    }
    double slope = moment * 12 / ((double)TREND * TREND * TREND - TREND), mean = sum / TREND;
    double at = mean + slope * ((TREND + 1) / 2.0 + (double)ahead / 1e9) + sqrt(mean / TREND);
    return at > 0 ? (int64_t)(at * 1000) : 0;
}
