#ifndef FAST_GATEWAY_SCALING_H
#define FAST_GATEWAY_SCALING_H

/* What the scaler knows of one function, shared by scaler.c (decides and carries out), give_way.c (who
 * goes for whom) and explain.c (tells people). */

#include "core/scale_record.h"
#include "gateway/gateway.h"

struct gw_scaling {
    struct fast_scale_load load;
    uint64_t seen;     /* requests that |load| has been told of */
    fast_ns second_at; /* when the second that runs began */
    fast_ns start_ns;  /* what a start took of late */
    fast_ns rushed_at; /* when it was last decided on between two ticks */
    uint64_t ticks;
    struct fast_scale_record latest; /* the decision of the last second, also when nothing was done */
    struct fast_scale_records records;
};

/* Keeps |record|, which says what has been done, and logs it. */
void gw_scaling_keep(struct gw_function *fn, const struct fast_scale_record *record);
/* The same for what the scaler did not decide by itself; |reason| is copied. */
void gw_scaling_note(struct gateway *gw, struct gw_function *fn, const char *cause,
                     enum fast_scale_kind kind, uint64_t id, const char *reason);

/* ---- give_way.c ---- */

/* Replicas of functions with a lower priority that are more than their |min| give way, so that |slice|
 * has a place on some GPU: as few as possible, the lowest priority first. True: they are going, the
 * place is free soon. */
bool gw_give_way(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice);
/* Whether |count| replicas of |spec| would have a place if all of those went. */
int gw_give_way_check(struct gateway *gw, const struct gw_spec *spec, int count, struct fast_err *err);

#endif
