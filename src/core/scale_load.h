#ifndef FAST_CORE_SCALE_LOAD_H
#define FAST_CORE_SCALE_LOAD_H

/* What the scaler of a function remembers of its load, and which of it each policy is told. The caller
 * says when a second is over. */

#include "core/forecast.h"
#include "core/scale.h"

#define FAST_CONCURRENCY_SECONDS 60

/* Who scales a function that has a profile and an SLO. */
enum fast_scaler {
    FAST_SCALER_QUEUE,  /* FAST_SCALE_QUEUE, quotas in place first, guaranteed while there is work */
    FAST_SCALER_PAPER,  /* FAST_SCALE_PAPER */
    FAST_SCALER_HYBRID, /* FAST_SCALE_HYBRID, every other second */
    FAST_SCALER_WHOLE,  /* whole GPUs, by concurrency as Knative's autoscaler for KServe: mean of 60 s at
                         * 70 %, of 6 s when that is twice as much as there is */
    FAST_SCALER_COUNT
};

const char *fast_scaler_name(enum fast_scaler scaler);
int fast_scaler_parse(const char *text, enum fast_scaler *ret, struct fast_err *err);
/* Makes |conf|, whose limits, SLO and time to zero are set, the configuration of |scaler|. */
void fast_scaler_conf(enum fast_scaler scaler, struct fast_scale_conf *conf);

/* Zeroed: nothing has come yet. */
struct fast_scale_load {
    struct fast_forecast forecast;
    struct fast_kalman kalman;
    int concurrency[FAST_CONCURRENCY_SECONDS]; /* by second, a ring */
    uint64_t seconds;
    fast_ns panic_until;
};

/* A second is over in which |requests| more came (beyond fast_forecast_add()); |concurrency| are being
 * served or wait. */
void fast_scale_load_second(struct fast_scale_load *load, uint32_t requests, int concurrency);

/* The most that were served or waited in one of the last |seconds|, in thousandths. */
int64_t fast_scale_load_in_flight(const struct fast_scale_load *load, int seconds);

/* Sets the loads of |input|, whose |now|, |nreplicas| and |queued| are set, as |conf| needs them. |start|:
 * how long a start takes. To be called once for each decision: filters go on. */
void fast_scale_load_tell(struct fast_scale_load *load, const struct fast_scale_conf *conf, bool whole,
                          fast_ns start, struct fast_scale_input *input);

#endif
