#ifndef FAST_CORE_SCALE_IMPL_H
#define FAST_CORE_SCALE_IMPL_H

/* The inside of a scaling decision, shared by scale.c and the policies that have a file of their own. */

#include "core/scale.h"

/* The actions that are being collected. */
struct scale_plan {
    const struct fast_scale_conf *conf;
    const struct fast_scale_input *in;
    struct fast_scale_action *ret;
    int n, max;
    int count;        /* replicas after the actions */
    int64_t capacity; /* sum of T after the actions */
};

int64_t scale_throughput(const struct scale_plan *plan, const struct fast_scale_replica *r);
fast_ns scale_latency(const struct scale_plan *plan, const struct fast_profile_point *p);
bool scale_meets_slo(const struct scale_plan *plan, const struct fast_profile_point *p);
/* The configuration with the best RPR among those that meet the SLO; NULL: none does. */
const struct fast_profile_point *scale_best_rpr(const struct scale_plan *plan);
int scale_no_configuration(const struct scale_plan *plan, struct fast_err *err);

/* Each false when there is no room for one more action (or replica). */
bool scale_add_start(struct scale_plan *plan, const struct fast_profile_point *p, const char *why);
bool scale_add_stop(struct scale_plan *plan, const struct fast_scale_replica *r, const char *why);
bool scale_add_resize(struct scale_plan *plan, const struct fast_scale_replica *r, int quota_milli,
                      const char *why);
/* Starts what |min| asks for beyond the load. */
void scale_fill_to(struct scale_plan *plan, int floor);

/* Stops the replicas with the highest ids until |count| are left. */
void scale_stop_newest(struct scale_plan *plan, int count, const char *why);
/* Enters what is weighed into the trace, if one is wanted and the option is among the best. */
void scale_note(const struct scale_plan *plan, const struct fast_scale_option *option);

int scale_by_queue(struct scale_plan *plan, int floor, bool up, bool down, struct fast_err *err);
int scale_hybrid(struct scale_plan *plan, int floor, bool up, bool down, struct fast_err *err);

#endif
