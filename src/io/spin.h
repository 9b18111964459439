#ifndef FAST_IO_SPIN_H
#define FAST_IO_SPIN_H

/* Whether a loop that has nothing to do looks again or goes to sleep. Pure. A core that sleeps takes
 * 5 to 30 us to wake, on a virtual machine most of all; looking again until the next event comes saves
 * that, when the event comes soon. What recent waits took tells whether it will. */

#include <stdbool.h>

#include "base/units.h"

struct fast_spin {
    fast_ns most;   /* that one wait looks before it sleeps; 0: never */
    int credit;     /* of short waits */
    fast_ns resume; /* the core is wanted by others: not before then */
};

/* Until when a wait that begins now looks; 0: it sleeps at once. */
fast_ns fast_spin_until(const struct fast_spin *s, fast_ns now);
/* Looking until |until|, or an event, was over at |now|. */
void fast_spin_over(struct fast_spin *s, fast_ns until, fast_ns now);
/* A wait was over after |waited|; |slept|: the time to wake is in it. */
void fast_spin_learn(struct fast_spin *s, fast_ns waited, bool slept);

#endif
