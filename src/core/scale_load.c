/* Decides what a scaling policy is told of the load. It assumes to be told of every second. */

#include "core/scale_load.h"

#include "base/parse.h"

#define LOAD_SECONDS 3   /* that the load is the mean of */
#define KALMAN_SECONDS 10
#define CALM_SECONDS 20  /* nothing goes that a load of so long ago would need */
#define BURST_MILLI 1300 /* a burst that may come, of the greatest that is remembered, when a replica
                          * that waits holds only memory */
#define PANIC_SECONDS 6
#define TARGET_MILLI 700 /* requests that a replica has at a time */

static const char *const names[FAST_SCALER_COUNT] = {"queue", "paper", "hybrid", "whole"};

const char *fast_scaler_name(enum fast_scaler scaler)
{
    return names[scaler];
}

int fast_scaler_parse(const char *text, enum fast_scaler *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(names, FAST_SCALER_COUNT, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "\"%.40s\" is not queue, paper, hybrid or whole", text);
    *ret = (enum fast_scaler)found;
    return 0;
}

void fast_scaler_conf(enum fast_scaler scaler, struct fast_scale_conf *conf)
{
    conf->down_cooldown = FAST_S(10);
    switch (scaler) {
    case FAST_SCALER_PAPER:
        conf->policy = FAST_SCALE_PAPER;
        break;
    case FAST_SCALER_HYBRID:
        conf->policy = FAST_SCALE_HYBRID;
        break;
    case FAST_SCALER_WHOLE:
        conf->policy = FAST_SCALE_TARGET;
        conf->slice = (struct fast_slice){FAST_SM_PCT_MAX, FAST_MILLI, FAST_MILLI, 0};
        conf->target_rps_milli = TARGET_MILLI;
        conf->down_cooldown = 0; /* the mean of a minute is slow enough */
        break;
    default:
        conf->policy = FAST_SCALE_QUEUE;
        conf->in_place = true;
        conf->vertical = true;
    }
}

void fast_scale_load_second(struct fast_scale_load *load, uint32_t requests, int concurrency)
{
    fast_forecast_add(&load->forecast, requests);
    fast_forecast_second(&load->forecast);
    load->concurrency[load->seconds++ % FAST_CONCURRENCY_SECONDS] = concurrency;
}

static int64_t concurrency(const struct fast_scale_load *load, int seconds)
{
    int64_t sum = 0;
    int n = load->seconds < (uint64_t)seconds ? (int)load->seconds : seconds;
    for (int i = 1; i <= n; i++)
        sum += load->concurrency[(load->seconds - (uint64_t)i) % FAST_CONCURRENCY_SECONDS];
    return n ? sum * 1000 / n : 0;
}

int64_t fast_scale_load_in_flight(const struct fast_scale_load *load, int seconds)
{
    int most = 0;
    int n = load->seconds < (uint64_t)seconds ? (int)load->seconds : seconds;
    for (int i = 1; i <= n; i++) {
        int one = load->concurrency[(load->seconds - (uint64_t)i) % FAST_CONCURRENCY_SECONDS];
        most = one > most ? one : most;
    }
    return (int64_t)most * 1000;
}

/* Knative's: the mean concurrency of a minute; of six seconds, and never down, for a minute after that
 * asked for twice what there was. In "requests/s" of a target of 0.7. */
static int64_t knative(struct fast_scale_load *load, int replicas, fast_ns now)
{
    int64_t stable = concurrency(load, FAST_CONCURRENCY_SECONDS);
    int64_t panic = concurrency(load, PANIC_SECONDS), there = (int64_t)replicas * TARGET_MILLI;
    int64_t ready = replicas > 1 ? replicas : 1; /* none counts as one, or no load would be twice of it */
    if ((panic + TARGET_MILLI - 1) / TARGET_MILLI >= 2 * ready)
        load->panic_until = now + FAST_S(60);
    if (now >= load->panic_until)
        return stable;
    return panic > there ? panic : there;
}

void fast_scale_load_tell(struct fast_scale_load *load, const struct fast_scale_conf *conf, bool whole,
                          fast_ns start, struct fast_scale_input *in)
{
    const struct fast_forecast *f = &load->forecast;
    in->load_milli = whole ? knative(load, in->nreplicas, in->now)
                           : fast_forecast_mean(f, LOAD_SECONDS);
    if (conf->policy == FAST_SCALE_HYBRID) {
        in->expected_milli =
            fast_kalman_step(&load->kalman, fast_forecast_mean(f, KALMAN_SECONDS));
    } else if (conf->policy == FAST_SCALE_QUEUE) {
        in->expected_milli = fast_forecast_expect(f, start + FAST_S(1));
        in->burst_milli = (int64_t)fast_forecast_burst(f) * (conf->vertical ? BURST_MILLI : 1000);
    }
    if (conf->in_place)
        in->calm_milli = fast_forecast_most(f, LOAD_SECONDS, CALM_SECONDS);
    if (in->load_milli == 0 && in->queued)
        in->load_milli = (int64_t)in->queued * 1000;
}
