/* A log-linear histogram. A value below 32 has its own bucket; above, its five bits behind the
 * leading one choose among the 32 buckets of its power of two. It assumes nothing of the values but
 * that they are meant to be non-negative. */

#include "base/hist.h"

#include <string.h>

#define SUB_BITS 5
#define SUB (1 << SUB_BITS)

_Static_assert(FAST_HIST_BUCKETS == (42 - SUB_BITS + 1) * SUB, "one row of buckets a power of two");

static int bucket_of(int64_t value)
{
    if (value < SUB)
        return (int)value;
    if (value >= FAST_HIST_TOP)
        return FAST_HIST_BUCKETS - 1;
    int shift = 63 - __builtin_clzll((unsigned long long)value) - SUB_BITS;
    return (shift + 1) * SUB + (int)(value >> shift) - SUB;
}

/* The largest value that falls into |bucket|. */
static int64_t bucket_last(int bucket)
{
    if (bucket < SUB)
        return bucket;
    int shift = bucket / SUB - 1;
    return ((int64_t)(SUB + bucket % SUB + 1) << shift) - 1;
}

void fast_hist_init(struct fast_hist *hist)
{
    memset(hist, 0, sizeof(*hist));
}

void fast_hist_add(struct fast_hist *hist, int64_t value)
{
    if (value < 0)
        value = 0;
    if (!hist->count || value < hist->min)
        hist->min = value;
    if (value > hist->max)
        hist->max = value;
    hist->count++;
    hist->sum += (uint64_t)value;
    hist->buckets[bucket_of(value)]++;
}

void fast_hist_merge(struct fast_hist *into, const struct fast_hist *from)
{
    if (!from->count)
        return;
    if (!into->count || from->min < into->min)
        into->min = from->min;
    if (from->max > into->max)
        into->max = from->max;
    into->count += from->count;
    into->sum += from->sum;
    for (int i = 0; i < FAST_HIST_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

int64_t fast_hist_rank(const struct fast_hist *hist, uint64_t rank)
{
    uint64_t seen = 0;
    for (int i = 0; i < FAST_HIST_BUCKETS - 1; i++) {
        seen += hist->buckets[i];
        if (seen >= rank)
            return bucket_last(i) < hist->max ? bucket_last(i) : hist->max;
    }
    return hist->max;
}

int64_t fast_hist_quantile(const struct fast_hist *hist, int milli)
{
    if (!hist->count)
        return 0;
    if (milli <= 0)
        return hist->min;
    if (milli >= 1000)
        return hist->max;
    /* Nearest rank: ceil(count * milli / 1000), without overflow for any count. */
    uint64_t rank = hist->count / 1000 * (uint64_t)milli +
                    (hist->count % 1000 * (uint64_t)milli + 999) / 1000;
    return fast_hist_rank(hist, rank);
}

int64_t fast_hist_mean(const struct fast_hist *hist)
{
    return hist->count ? (int64_t)(hist->sum / hist->count) : 0;
}

uint64_t fast_hist_count_le(const struct fast_hist *hist, int64_t bound)
{
    uint64_t n = 0;
    if (bound >= hist->max)
        return hist->count;
    for (int i = 0; i < FAST_HIST_BUCKETS - 1 && bucket_last(i) <= bound; i++)
        n += hist->buckets[i];
    return n;
}
