#include "gateway/stats.h"

#include <stdlib.h>
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
}

void gw_stats_fini(struct gw_stats *s)
{
    free(s->answers);
    s->answers = NULL;
}

static void turn(struct gw_answers *a, fast_ns now)
{
    if (now - a->turned < TURN)
        return;
    if (now - a->turned < 2 * TURN)
        a->recent[1] = a->recent[0];
    else
        fast_hist_init(&a->recent[1]);
    fast_hist_init(&a->recent[0]);
    a->turned = now;
}

static struct gw_answers *answers_of(struct gw_stats *s, fast_ns now)
{
    if (!s->answers && (s->answers = calloc(1, sizeof(*s->answers))))
        s->answers->turned = now;
    return s->answers;
}

void gw_stats_start(struct gw_stats *s, fast_ns now)
{
    s->started++;
    s->last = now;
    fast_rate_add(&s->rate, 1, now);
}

/* The codes of a function are few; when there are more than the table has room for, the rest is
 * counted with the last one, so that the sum stays right. */
static struct gw_code *code_of(struct gw_answers *s, int code)
{
    for (int i = 0; i < s->ncodes; i++)
        if (s->codes[i].code == code)
            return &s->codes[i];
    if (s->ncodes == GW_CODES_MAX)
        return &s->codes[GW_CODES_MAX - 1];
    s->codes[s->ncodes].code = code;
    return &s->codes[s->ncodes++];
}

void gw_times_add(struct gw_times *t, fast_ns took)
{
    t->count++;
    t->sum_s += (double)took / 1e9;
    for (int i = GW_BOUNDS - 1; i >= 0 && took <= gw_stats_bounds[i]; i--)
        t->le[i]++;
}

void gw_stats_end(struct gw_stats *s, int code, fast_ns took, fast_ns slo, fast_ns now)
{
    s->requests++;
    if (code == 0)
        return;
    s->failures += code >= 500;
    s->slo_missed += slo && (took > slo || code >= 500);
    struct gw_answers *a = answers_of(s, now);
    if (!a)
        return; /* no memory: how long this one took is not told */
    turn(a, now);
    fast_hist_add(&a->recent[0], took);
    gw_times_add(&code_of(a, code)->took, took);
}

int64_t gw_stats_rate_milli(struct gw_stats *s, fast_ns now)
{
    return fast_rate_milli(&s->rate, now);
}

int64_t gw_stats_quantile(struct gw_stats *s, int milli, fast_ns now)
{
    struct gw_answers *a = s->answers;
    if (!a)
        return 0;
    turn(a, now);
    struct fast_hist both = a->recent[0];
    fast_hist_merge(&both, &a->recent[1]);
    return fast_hist_quantile(&both, milli);
}
