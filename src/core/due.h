#ifndef FAST_CORE_DUE_H
#define FAST_CORE_DUE_H

/* What is due when: whose moment has come is told in the order of their moments, and when to ask again is
 * known exactly. A zeroed struct is empty. Items are embedded in the caller's and belong to it. Adding
 * and taking out cost the logarithm of how many there are. */

#include "base/err.h"
#include "base/units.h"

struct fast_due_item {
    fast_ns at;
    int place; /* 0: it is in no set; the set's business */
};

struct fast_due {
    struct fast_due_item **heap;
    int n, cap;
};

void fast_due_fini(struct fast_due *set); /* items are the caller's */

/* |item|, which is in no set, is due at |at|. FAST_ENOMEM: nothing has changed. */
int fast_due_add(struct fast_due *set, struct fast_due_item *item, fast_ns at, struct fast_err *err);
/* Takes |item| out; it may be in no set. */
void fast_due_remove(struct fast_due *set, struct fast_due_item *item);
/* Takes out the earliest item that is due at |now|; NULL: none is. */
struct fast_due_item *fast_due_next(struct fast_due *set, fast_ns now);
/* When the earliest is due; FAST_NEVER: there is none. */
fast_ns fast_due_expiry(const struct fast_due *set);

#endif
