/* Which replica gets the next request. It decides by requests in flight against weight, so that with
 * equal weights the fewest in flight win, and a replica of twice the throughput gets twice the share.
 * A scan, not a heap: a function has few replicas, and "ready" and the limit change under it. */

#include "core/balance.h"

#include <stdlib.h>
#include <string.h>

void fast_balance_init(struct fast_balance *set)
{
    memset(set, 0, sizeof(*set));
}

void fast_balance_fini(struct fast_balance *set)
{
    free(set->items);
    memset(set, 0, sizeof(*set));
}

int fast_balance_add(struct fast_balance *set, struct fast_balance_item *item, struct fast_err *err)
{
    if (set->n == set->cap) {
        int cap = set->cap ? 2 * set->cap : 8;
        struct fast_balance_item **items = realloc(set->items, (size_t)cap * sizeof(*items));
        if (!items)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more replica");
        set->items = items;
        set->cap = cap;
    }
    item->slot = set->n;
    set->items[set->n++] = item;
    return 0;
}

void fast_balance_remove(struct fast_balance *set, struct fast_balance_item *item)
{
    set->items[item->slot] = set->items[--set->n];
    set->items[item->slot]->slot = item->slot;
    item->slot = -1;
}

/* (in_flight + 1) / weight is what the replica would have per throughput with one request more. */
static bool freer(const struct fast_balance_item *a, const struct fast_balance_item *b)
{
    __int128 wa = a->weight > 1 ? a->weight : 1, wb = b->weight > 1 ? b->weight : 1;
    __int128 la = (a->in_flight + 1) * wb, lb = (b->in_flight + 1) * wa;
    return la != lb ? la < lb : a->used < b->used;
}

struct fast_balance_item *fast_balance_pick(struct fast_balance *set)
{
    struct fast_balance_item *best = NULL;
    for (int i = 0; i < set->n; i++) {
        struct fast_balance_item *item = set->items[i];
        if (!item->ready || (set->limit > 0 && item->in_flight >= set->limit))
            continue;
        if (!best || freer(item, best))
            best = item;
    }
    if (best) {
        best->in_flight++;
        best->used = ++set->turn;
    }
    return best;
}

void fast_balance_done(struct fast_balance *set, struct fast_balance_item *item)
{
    (void)set;
    if (item->in_flight > 0)
        item->in_flight--;
}

int fast_balance_in_flight(const struct fast_balance *set)
{
    int n = 0;
    for (int i = 0; i < set->n; i++)
        n += set->items[i]->in_flight;
    return n;
}

int fast_balance_ready(const struct fast_balance *set)
{
    int n = 0;
    for (int i = 0; i < set->n; i++)
        n += set->items[i]->ready;
    return n;
}
