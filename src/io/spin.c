/* Decides by a counter, as processors guess branches: a short wait adds 1 and a long one takes 4, so
 * that it spins while more than four of five waits are short, and a wait that it loses costs |most|. It
 * assumes that who looks all the time looks at least every |most|: a longer gap means that another
 * process, a CPU limit or the host took the core away, and then spinning takes from those who work. */

#include "io/spin.h"

#define CREDIT_MAX 16
#define CREDIT_ENOUGH 8
#define LONG_TAKES 4
/* It rests for so many times as long as it was kept from the core: at most 2 % of the time goes there. */
#define REST 50

fast_ns fast_spin_until(const struct fast_spin *s, fast_ns now)
{
    return s->most && s->credit >= CREDIT_ENOUGH && now >= s->resume ? now + s->most : 0;
}

void fast_spin_over(struct fast_spin *s, fast_ns until, fast_ns now)
{
    fast_ns kept_away = now - until;
    if (kept_away > s->most)
        s->resume = now + REST * kept_away;
}

void fast_spin_learn(struct fast_spin *s, fast_ns waited, bool slept)
{
    bool is_short = waited <= (slept ? 2 * s->most : s->most);
    s->credit += is_short ? 1 : -LONG_TAKES;
    if (s->credit > CREDIT_MAX)
        s->credit = CREDIT_MAX;
    if (s->credit < 0)
        s->credit = 0;
}
