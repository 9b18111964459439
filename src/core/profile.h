#ifndef FAST_CORE_PROFILE_H
#define FAST_CORE_PROFILE_H

/* The profile of a function: measured throughput and latency per configuration (SM partition x time
 * quota). The scaler picks configurations among the measured points; any other slice is
 * interpolated. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/types.h"

#define FAST_PROFILE_POINTS_MAX 1024

struct fast_profile_point {
    int sm_pct;        /* 1..100 */
    int quota_milli;   /* 1..1000 */
    int64_t rps_milli; /* requests per second, thousandths, at most FAST_PROFILE_RPS_MAX */
    fast_ns p95_ns;
    fast_ns p99_ns; /* where the table has none: the p95 */
};

#define FAST_PROFILE_RPS_MAX INT64_C(1000000000) /* 1,000,000 requests/s in thousandths */

struct fast_profile;

/* Parses CSV text: a header of the columns sm, quota, rps, p95_ms and optionally p99_ms, in any
 * order, then one row per configuration: sm in %, quota a fraction such as 0.2, rps and latencies
 * decimal. Lines beginning with "#" and empty lines are skipped. Anything else, a configuration
 * that comes twice, or no row at all is FAST_EINVAL, and the message names the line and the field. */
int fast_profile_parse(const char *text, struct fast_profile **ret, struct fast_err *err);

/* Builds one from |n| points in any order, with the same checks. */
int fast_profile_new(const struct fast_profile_point *points, int n, struct fast_profile **ret,
                     struct fast_err *err);
void fast_profile_free(struct fast_profile *profile); /* NULL is fine */

/* The points, sorted by SM partition and then quota. */
int fast_profile_count(const struct fast_profile *profile);
const struct fast_profile_point *fast_profile_at(const struct fast_profile *profile, int i);

/* The point at |sm_pct| x |quota_milli|: a measured one exactly; between measured ones linear in the
 * quota and piecewise linear in the SM partition, so never beyond the measured neighbours; above the
 * largest measured, the largest; below the smallest, throughput goes down in proportion and latency
 * up in proportion. Monotone wherever the measurements are. */
struct fast_profile_point fast_profile_look(const struct fast_profile *profile, int sm_pct,
                                            int quota_milli);

/* Throughput per resource, T / (S x Q): requests/s, in thousandths, that a whole GPU of such
 * configurations would have. */
int64_t fast_profile_rpr_milli(const struct fast_profile_point *point);

/* Orders by RPR exactly (no rounding): negative when |a| has less. */
int fast_profile_rpr_cmp(const struct fast_profile_point *a, const struct fast_profile_point *b);

/* Writes the CSV form of |profile|, as snprintf does; returns the length without the NUL. */
size_t fast_profile_print(const struct fast_profile *profile, char *buf, size_t len);

#endif
