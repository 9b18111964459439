/* A sliding counter: a ring of slots, one more than the window has, because the oldest one is partly
 * inside. Slots are counted from the moment of init, so that any clock will do. */

#include "base/rate.h"

#include <string.h>

#define RING (FAST_RATE_SLOTS + 1)
#define SLOTS_MIN 4 /* that a rate is over, at least */

void fast_rate_init(struct fast_rate *rate, fast_ns window, fast_ns now)
{
    memset(rate, 0, sizeof(*rate));
    rate->slot_ns = window / FAST_RATE_SLOTS > 0 ? window / FAST_RATE_SLOTS : 1;
    rate->began = rate->at = now;
}

/* Moves the ring to the slot of |now| and empties what it passes. */
static void move(struct fast_rate *rate, fast_ns now)
{
    if (now <= rate->at)
        return;
    rate->at = now;
    int64_t slot = (now - rate->began) / rate->slot_ns;
    if (slot - rate->slot >= RING)
        memset(rate->counts, 0, sizeof(rate->counts));
    else
        for (int64_t s = rate->slot + 1; s <= slot; s++)
            rate->counts[s % RING] = 0;
    rate->slot = slot;
}

void fast_rate_add(struct fast_rate *rate, uint32_t events, fast_ns now)
{
    move(rate, now);
    rate->total += events;
    uint32_t *count = &rate->counts[rate->slot % RING];
    *count = *count > UINT32_MAX - events ? UINT32_MAX : *count + events;
}

int64_t fast_rate_milli(struct fast_rate *rate, fast_ns now)
{
    return fast_rate_milli_over(rate, rate->slot_ns * FAST_RATE_SLOTS, now);
}

int64_t fast_rate_milli_over(struct fast_rate *rate, fast_ns span, fast_ns now)
{
    move(rate, now);
    if (span > rate->slot_ns * FAST_RATE_SLOTS)
        span = rate->slot_ns * FAST_RATE_SLOTS;
    if (span > rate->at - rate->began)
        span = rate->at - rate->began;
    if (span < SLOTS_MIN * rate->slot_ns)
        span = SLOTS_MIN * rate->slot_ns;
    fast_ns from = rate->at - rate->began - span; /* may be negative in the first slot */
    __int128 weighted = 0;                        /* events x ns of their slot that count */
    for (int64_t s = rate->slot; s >= 0 && s > rate->slot - RING; s--) {
        fast_ns start = s * rate->slot_ns;
        if (start + rate->slot_ns <= from)
            break;
        fast_ns inside = start >= from ? rate->slot_ns : start + rate->slot_ns - from;
        weighted += (__int128)rate->counts[s % RING] * inside;
    }
    return (int64_t)(weighted * ((__int128)FAST_S(1) * 1000) / rate->slot_ns / span);
}
