/* Predicts the latency of a slice under load, by playing it: requests come at random, one is served at a
 * time, first on the host and then on the GPU, where the quota opens the gate for its part of each window. It
 * assumes that requests are of one length, and that a replica gets its share of them at random, which is worse
 * than what a balancer does. The same question always gets the same answer. */

#include "core/predict.h"

#include <math.h>

#include "base/hist.h"

#define ASKED 4000     /* requests: p95 is then a few percent off at most loads */
#define WARM 200       /* first ones that count for nothing */
#define HOST_BOUND 0.98 /* of what full quota gives: the quota does not limit */
#define MEET 0.05      /* above this share of requests, p95 has a closed gate in it */
#define LONGEST 3600.0 /* s; what takes longer is no answer */

/* One replica, in seconds. */
struct slice {
    double host, gpu;     /* of a request */
    double window, quota; /* GPU time in each window */
};

/* In (0, 1]: xorshift64*. */
static double draw(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (double)((*state * UINT64_C(0x2545f4914f6cdd1d) >> 11) + 1) / 9007199254740992.0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* When |gpu| of work is done that begins at |at|; |*end| is the end of the window, |*used| what was used of
 * it. */
static double through_gate(const struct slice *s, double at, double *end, double *used)
{
    double left = s->gpu;
    while (left > 1e-12) {
        if (at >= *end) {
            *end = (floor(at / s->window) + 1) * s->window;
            *used = 0;
        }
        double room = s->quota - *used, run = left < room ? left : room;
        run = run < *end - at ? run : *end - at;
        if (run <= 1e-12) {
            /* The windows that it uses up at once: a request of a slow function has many of them. */
            double whole = larger(ceil(left / s->quota) - 1, 0);
            at = *end + whole * s->window;
            *end = at + s->window;
            *used = 0;
            left -= whole * s->quota;
            continue;
        }
        at += run;
        *used += run;
        left -= run;
    }
    return at;
}

static double play(const struct slice *s, double per_s)
{
    struct fast_hist hist;
    uint64_t random = 1;
    double come = 0, done = 0, end = s->window, used = 0;
    fast_hist_init(&hist);
    for (int i = 0; i < ASKED; i++) {
        come -= log(draw(&random)) / per_s;
        double begin = come > done ? come : done;
        done = through_gate(s, begin + s->host, &end, &used);
        if (i >= WARM)
            fast_hist_add(&hist, llround((done - come < LONGEST ? done - come : LONGEST) * 1e9));
    }
    return (double)fast_hist_quantile(&hist, 950) * 1e-9;
}

static double rps(const struct fast_predict *f, int sm_pct, int quota_milli)
{
    return (double)fast_predict_look(f, sm_pct, quota_milli).rps_milli * 1e-3;
}

/* GPU time of a request: what the quota allows over what comes of it, where it is the quota that limits. */
static struct slice slice_of(const struct fast_predict *f, int sm_pct, double quota, double rate,
                             double full, double window)
{
    double gpu = rate < full * HOST_BOUND ? quota / rate : 0.2 / rps(f, sm_pct, 200);
    gpu = gpu < 1 / full ? gpu : 1 / full;
    return (struct slice){1 / full - gpu, gpu, window, quota * window};
}

fast_ns fast_predict_p95(const struct fast_predict *f, int sm_pct, int quota_milli,
                         const struct fast_predict_load *load)
{
    int milli = quota_milli < 1 ? 1 : quota_milli > FAST_MILLI ? FAST_MILLI : quota_milli;
    double quota = milli * 1e-3, window = (double)load->window_ns * 1e-9;
    double rate = rps(f, sm_pct, milli), full = rps(f, sm_pct, FAST_MILLI);
    double replicas = load->replicas > 0 ? load->replicas : 1, p95;
    if (rate <= 0 || full <= 0)
        return FAST_NEVER;
    if (load->users > 0) {
        /* Each user waits for all others, and some for what the quota closes of a window. */
        double users = load->users / replicas, waiting = users / (rate * window);
        double closed = rate < full * 0.99 ? window * (1 - quota) : 0;
        p95 = users / full + (waiting >= MEET ? closed : 0);
    } else {
        double per_s = (double)load->rate_milli * 1e-3 / replicas;
        if (per_s >= rate)
            return FAST_NEVER;
        struct slice s = slice_of(f, sm_pct, quota, rate, full, window);
        /* Without a load worth mentioning a request is alone, at a random moment of a window. */
        p95 = play(&s, per_s > 0.01 * rate ? per_s : 0.01 * rate);
    }
    return p95 >= LONGEST ? FAST_NEVER : (fast_ns)llround(p95 * 1e9);
}
