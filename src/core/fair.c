/* Decides whose request is next: lines take turns, one item each. A line lives as long as it has items, so
 * that a caller who comes again stands behind the lines that wait already. */

#include "core/fair.h"

#include <stdlib.h>

struct fast_fair_line {
    struct fast_fair_line *next, *prev; /* of the ring */
    uint64_t caller;
    struct fast_fair_item *first, *last;
    int n;
};

static struct fast_fair_line *find(const struct fast_fair *q, uint64_t caller)
{
    struct fast_fair_line *l = q->turn;
    if (!l)
        return NULL;
    do {
        if (l->caller == caller)
            return l;
        l = l->next;
    } while (l != q->turn);
    return NULL;
}

/* A new line has its turn after all that are there. */
static struct fast_fair_line *add_line(struct fast_fair *q, uint64_t caller)
{
    struct fast_fair_line *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->caller = caller;
    if (q->turn) {
        l->next = q->turn;
        l->prev = q->turn->prev;
        l->prev->next = l->next->prev = l;
    } else {
        q->turn = l->next = l->prev = l;
    }
    return l;
}

int fast_fair_push(struct fast_fair *q, struct fast_fair_item *item, uint64_t caller,
                   struct fast_err *err)
{
    struct fast_fair_line *l = find(q, caller);
    if (!l)
        l = add_line(q, caller);
    if (!l)
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more caller");
    *item = (struct fast_fair_item){.prev = l->last, .line = l};
    if (l->last)
        l->last->next = item;
    else
        l->first = item;
    l->last = item;
    l->n++;
    q->n++;
    return 0;
}

void fast_fair_remove(struct fast_fair *q, struct fast_fair_item *item)
{
    struct fast_fair_line *l = item->line;
    if (!l)
        return;
    if (item->prev)
        item->prev->next = item->next;
    else
        l->first = item->next;
    if (item->next)
        item->next->prev = item->prev;
    else
        l->last = item->prev;
    *item = (struct fast_fair_item){0};
    q->n--;
    if (--l->n)
        return;
    if (q->turn == l)
        q->turn = l->next == l ? NULL : l->next;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    free(l);
}

struct fast_fair_item *fast_fair_pop(struct fast_fair *q)
{
    if (!q->turn)
        return NULL;
    struct fast_fair_item *item = q->turn->first;
    q->turn = q->turn->next;
    fast_fair_remove(q, item);
    return item;
}

int fast_fair_waiting(const struct fast_fair *q, uint64_t caller)
{
    const struct fast_fair_line *l = find(q, caller);
    return l ? l->n : 0;
}

struct fast_fair_item *fast_fair_newest_of_longest(const struct fast_fair *q, int *ret_len)
{
    struct fast_fair_line *l = q->turn, *longest = l;
    if (!l)
        return NULL;
    do {
        if (l->n > longest->n)
            longest = l;
        l = l->next;
    } while (l != q->turn);
    *ret_len = longest->n;
    return longest->last;
}
