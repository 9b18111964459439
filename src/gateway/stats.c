#include "gateway/stats.h"

#include <stddef.h>
#include <string.h>

#define TURN FAST_S(10)

const fast_ns gw_stats_bounds[GW_BOUNDS] = {
    FAST_MS(5),   FAST_MS(10),  FAST_MS(25),   FAST_MS(50),   FAST_MS(100), FAST_MS(250),
    FAST_MS(500), FAST_MS(1000), FAST_MS(2500), FAST_MS(5000), FAST_MS(10000)};
const char *const gw_stats_bound_names[GW_BOUNDS] = {"0.005", "0.01", "0.025", "0.05", "0.1", "0.25",
                                                     "0.5",   "1",    "2.5",   "5",    "10"};

void gw_stats_init(struct gw_stats *s, fast_ns now)
{
    memset(s, 0, sizeof(*s));
    fast_rate_init(&s->rate, FAST_RATE_WINDOW, now);
    s->turned = now;
}

static void turn(struct gw_stats *s, fast_ns now)
{
    if (now - s->turned < TURN)
        return;
    if (now - s->turned < 2 * TURN)
        s->recent[1] = s->recent[0];
    else
        fast_hist_init(&s->recent[1]);
    fast_hist_init(&s->recent[0]);
    s->turned = now;
}

void gw_stats_start(struct gw_stats *s, fast_ns now)
{
    s->started++;
    s->last = now;
    fast_rate_add(&s->rate, 1, now);
}

/* The codes of a function are few; when there are more than the table has room for, the rest is
 * counted with the last one, so that the sum stays right. */
static struct gw_code *code_of(struct gw_stats *s, int code)
{
    for (int i = 0; i < s->ncodes; i++)
        if (s->codes[i].code == code)
            return &s->codes[i];
    if (s->ncodes == GW_CODES_MAX)
        return &s->codes[GW_CODES_MAX - 1];
    s->codes[s->ncodes].code = code;
    return &s->codes[s->ncodes++];
}

void gw_stats_end(struct gw_stats *s, int code, fast_ns took, fast_ns slo, fast_ns now)
{
    s->requests++;
    if (code == 0)
        return;
    s->failures += code >= 500;
    s->slo_missed += slo && (took > slo || code >= 500);
    turn(s, now);
    fast_hist_add(&s->recent[0], took);
    struct gw_code *c = code_of(s, code);
    c->count++;
    c->sum_s += (double)took / 1e9;
    for (int i = GW_BOUNDS - 1; i >= 0 && took <= gw_stats_bounds[i]; i--)
        c->le[i]++;
}

int64_t gw_stats_rate_milli(struct gw_stats *s, fast_ns now)
{
    return fast_rate_milli(&s->rate, now);
}

int64_t gw_stats_quantile(struct gw_stats *s, int milli, fast_ns now)
{
    turn(s, now);
    struct fast_hist both = s->recent[0];
    fast_hist_merge(&both, &s->recent[1]);
    return fast_hist_quantile(&both, milli);
}
