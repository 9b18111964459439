/* Decides which clients own the GPU together, and for how long. Column generation: the simplex
 * method on the sets found so far, and a knapsack over the 100 % of SMs that finds the set which
 * shortens the schedule most, until there is none. It starts from sets that were packed one after the
 * other, so that what it has is a schedule at every step, and mostly one that fits already; a limit on
 * the steps can only make it longer than need be. A node plans between two tokens: the limits are for
 * those who wait there meanwhile (token.plan_stall_us).
 * Floating point is used for lengths of slots only: nobody's account is kept in it. */
#include "core/sched_plan.h"

#include <math.h>
#include <string.h>

#include "core/types.h"

#define STEPS_MAX 1000
#define STEPS_MORE 16   /* when it is known whether the requests fit into the window */
#define TRIES_MAX 4000 /* of all steps */
#define TRIES_KNOWN 500 /* of these steps */
#define TRIES_WORTH 100 /* of a step that has found a set worth it */
#define EPS 1e-9
#define ENOUGH (1 + EPS) /* a schedule that is no longer fits into the window */
#define NEXT 1e-18 /* left of a request that ends together with another one: each ends in a set of his own */
#define WORTH_IT (1 + 1e-7) /* a set of more value shortens the schedule */
#define SHORTEST_PART 500 /* a slot below this part of the window is not worth a hand-over */

struct lp {
    int n;
    int gpus; /* from 0 */
    int width[FAST_PLAN_CLIENTS];
    uint32_t on[FAST_PLAN_CLIENTS]; /* GPUs, as bits */
    double inv[FAST_PLAN_CLIENTS][FAST_PLAN_CLIENTS]; /* inverse of the basis; row: of the basis */
    double len[FAST_PLAN_CLIENTS];                    /* of the set in the basis */
    uint64_t set[FAST_PLAN_CLIENTS];
};

/* What those who need the same GPUs make of so many SMs of each of them. */
struct filling {
    uint32_t on;
    double value[FAST_SM_PCT_MAX + 1];
    uint64_t set[FAST_SM_PCT_MAX + 1];
};

static void fill(struct filling *f, int width, double value, int item)
{
    for (int w = FAST_SM_PCT_MAX; w >= width; w--) {
        double v = f->value[w - width] + value;
        if (v > f->value[w] + EPS) {
            f->value[w] = v;
            f->set[w] = f->set[w - width] | (UINT64_C(1) << item);
        }
    }
}

/* The search for the best set: how many SMs those have who need the same several GPUs is tried out, kind by kind;
 * what the rest of each GPU is worth then is known. */
struct search {
    struct filling alone[FAST_PLAN_GPUS];
    struct filling kind[FAST_PLAN_CLIENTS];
    int gpus, kinds;
    int room[FAST_PLAN_GPUS];
    int tries;       /* of this search */
    int *tries_left; /* of the whole plan */
    bool ended;      /* not all was tried */
    double best;
    uint64_t set;
};

static int room_on(const struct search *s, uint32_t on)
{
    int room = FAST_SM_PCT_MAX;
    for (; on; on &= on - 1)
        if (s->room[__builtin_ctz(on)] < room)
            room = s->room[__builtin_ctz(on)];
    return room;
}

static void take_room(int *room, uint32_t on, int width)
{
    for (; on; on &= on - 1)
        room[__builtin_ctz(on)] -= width;
}

static bool may_try(struct search *s)
{
    s->tries++;
    s->ended |= --*s->tries_left <= 0 || (s->best > WORTH_IT && s->tries >= TRIES_WORTH);
    return !s->ended;
}

static void look_at(struct search *s, int k, double value, uint64_t set)
{
    double here = value, most;
    uint64_t all = set;
    for (int g = 0; g < s->gpus; g++) {
        here += s->alone[g].value[s->room[g]];
        all |= s->alone[g].set[s->room[g]];
    }
    if (here > s->best + EPS) {
        s->best = here;
        s->set = all;
    }
    most = here;
    for (int i = k; i < s->kinds; i++)
        most += s->kind[i].value[room_on(s, s->kind[i].on)];
    if (k == s->kinds || most <= s->best + EPS)
        return;
    const struct filling *f = &s->kind[k];
    int room = room_on(s, f->on);
    most -= f->value[room];
    for (int w = room; w >= 0 && most + f->value[w] > s->best + EPS && may_try(s); w--) {
        while (w > 0 && f->value[w - 1] >= f->value[w])
            w--;
        take_room(s->room, f->on, w);
        look_at(s, k + 1, value + f->value[w], set | f->set[w]);
        take_room(s->room, f->on, -w);
    }
}

static struct filling *filling_of(struct search *s, uint32_t on)
{
    int k = 0;
    if (!(on & (on - 1)))
        return &s->alone[__builtin_ctz(on)];
    while (k < s->kinds && s->kind[k].on != on)
        k++;
    if (k == s->kinds)
        s->kind[s->kinds++] = (struct filling){.on = on};
    return &s->kind[k];
}

/* The set of the greatest value that fits, unless the tries end before; its value is returned. No set is worth more
 * than |ret_bound|. */
static double best_set(const struct lp *lp, const double *value, int *tries_left, uint64_t *ret, double *ret_bound)
{
    struct search s;
    s.best = 0;
    s.set = 0;
    s.gpus = lp->gpus;
    s.kinds = s.tries = 0;
    s.tries_left = tries_left;
    s.ended = false;
    for (int g = 0; g < lp->gpus; g++) {
        s.alone[g] = (struct filling){0};
        s.room[g] = FAST_SM_PCT_MAX;
    }
    for (int i = 0; i < lp->n; i++)
        if (value[i] > EPS)
            fill(filling_of(&s, lp->on[i]), lp->width[i], value[i], i);
    look_at(&s, 0, 0, 0);
    *ret_bound = s.ended ? INFINITY : s.best;
    *ret = s.set;
    return s.best;
}

/* Puts |set| into the basis for the one that runs out first. */
static bool enter(struct lp *lp, uint64_t set)
{
    double step[FAST_PLAN_CLIENTS];
    int out = -1;
    for (int i = 0; i < lp->n; i++) {
        step[i] = 0;
        for (int j = 0; j < lp->n; j++)
            if (set >> j & 1)
                step[i] += lp->inv[i][j];
        if (step[i] > EPS &&
            (out < 0 || lp->len[i] * step[out] < lp->len[out] * step[i] - EPS))
            out = i;
    }
    if (out < 0)
        return false;
    for (int j = 0; j < lp->n; j++)
        lp->inv[out][j] /= step[out];
    lp->len[out] /= step[out];
    for (int i = 0; i < lp->n; i++) {
        if (i == out || step[i] == 0)
            continue;
        for (int j = 0; j < lp->n; j++)
            lp->inv[i][j] -= step[i] * lp->inv[out][j];
        lp->len[i] -= step[i] * lp->len[out];
        if (lp->len[i] < 0)
            lp->len[i] = 0;
    }
    lp->set[out] = set;
    return true;
}

/* Goes on until it is known whether the shortest schedule fits into the window, or the tries are over; |shorten|:
 * then for some more steps, unless it is the shortest before. The prices cannot all be paid when the best set is
 * worth v, but a v-th of them can, so a v-th of the length is a lower bound (Farley 1990). */
static void solve(struct lp *lp, bool shorten)
{
    int tries_left = TRIES_MAX, more = 0;
    for (int k = 0; k < STEPS_MAX; k++) {
        double price[FAST_PLAN_CLIENTS] = {0}, total = 0, value, bound;
        uint64_t set;
        for (int i = 0; i < lp->n; i++)
            total += lp->len[i];
        if (total <= ENOUGH && !shorten)
            return;
        for (int i = 0; i < lp->n; i++)
            for (int j = 0; j < lp->n; j++)
                price[j] += lp->inv[i][j];
        value = best_set(lp, price, &tries_left, &set, &bound);
        bool known = more || total <= ENOUGH || total > ENOUGH * bound || tries_left <= 0;
        if (value <= WORTH_IT || (known && (!shorten || more++ == STEPS_MORE)) || !enter(lp, set))
            return;
        if (known && tries_left > TRIES_KNOWN)
            tries_left = TRIES_KNOWN;
    }
}

/* Puts next to each other what has most clients in common: a client that owns two slots in a row
 * keeps its token. */
static void order_slots(uint64_t *set, double *len, int n)
{
    for (int i = 1; i < n; i++) {
        int best = i;
        for (int j = i + 1; j < n; j++) {
            int a = __builtin_popcountll(set[j] ^ set[i - 1]);
            int b = __builtin_popcountll(set[best] ^ set[i - 1]);
            if (a < b)
                best = j;
        }
        uint64_t s = set[i];
        double l = len[i];
        set[i] = set[best];
        len[i] = len[best];
        set[best] = s;
        len[best] = l;
    }
}

/* ---- where it begins ---- */

/* Who of |left| fits together, the largest first; |ret_first| runs out first. */
static uint64_t largest_set(const struct lp *lp, const double *left, int *ret_first)
{
    int room[FAST_PLAN_GPUS], order[FAST_PLAN_CLIENTS] = {0}, n = 0;
    double area[FAST_PLAN_CLIENTS];
    uint64_t set = 0;
    for (int g = 0; g < FAST_PLAN_GPUS; g++)
        room[g] = FAST_SM_PCT_MAX;
    for (int i = 0; i < lp->n; i++) {
        if (left[i] <= 0)
            continue;
        area[i] = left[i] * lp->width[i] * __builtin_popcount(lp->on[i]);
        int at = n++;
        for (; at > 0 && area[i] > area[order[at - 1]]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (int k = 0; k < n; k++) {
        int i = order[k];
        bool fits = true;
        for (uint32_t on = lp->on[i]; on; on &= on - 1)
            fits &= lp->width[i] <= room[__builtin_ctz(on)];
        if (!fits)
            continue;
        take_room(room, lp->on[i], lp->width[i]);
        *ret_first = !set || left[i] < left[*ret_first] ? i : *ret_first;
        set |= UINT64_C(1) << i;
    }
    return set;
}

/* Puts sets one after the other until every request is covered; each is as long as what is left of the first in it
 * that runs out. Whoever has run out is in no later set, so that the inverse of this basis follows set by set. */
static void pack(struct lp *lp)
{
    double left[FAST_PLAN_CLIENTS];
    int at[FAST_PLAN_CLIENTS] = {0}; /* who runs out, in this order; his row is that of the set */
    memcpy(left, lp->len, sizeof(left));
    for (int k = 0; k < lp->n; k++) {
        int out = 0;
        uint64_t set = largest_set(lp, left, &out);
        double len = left[out];
        for (int i = 0; i < lp->n; i++)
            if (set >> i & 1)
                left[i] = left[i] - len > NEXT ? left[i] - len : NEXT;
        left[out] = 0;
        lp->len[out] = len;
        lp->set[out] = set;
        at[k] = out;
        lp->inv[out][out] = 1;
        for (int e = 0; e < k; e++)
            for (int q = 0; q <= e && lp->set[at[e]] >> out & 1; q++)
                lp->inv[out][at[q]] -= lp->inv[at[e]][at[q]];
    }
}

/* The items that have a request. |ret_item| (room for all) is which they are. */
static void begin(struct lp *lp, const struct fast_plan_item *items, int n, fast_ns window_ns,
                  int *ret_item)
{
    for (int i = 0; i < n && i < FAST_PLAN_CLIENTS; i++) {
        if (items[i].request_ns <= 0)
            continue;
        ret_item[lp->n] = i;
        lp->width[lp->n] = items[i].sm_pct;
        lp->on[lp->n] = items[i].gpus ? items[i].gpus : 1;
        while (lp->gpus < FAST_PLAN_GPUS && lp->on[lp->n] >> lp->gpus)
            lp->gpus++;
        lp->len[lp->n] = (double)items[i].request_ns / (double)window_ns;
        lp->n++;
    }
    pack(lp);
}

bool fast_plan_fits(const struct fast_plan_item *items, int n, fast_ns window_ns)
{
    struct lp lp = {0};
    int item[FAST_PLAN_CLIENTS];
    double total = 0;
    begin(&lp, items, n, window_ns, item);
    solve(&lp, false);
    for (int i = 0; i < lp.n; i++)
        total += lp.len[i];
    return total <= ENOUGH;
}

void fast_plan_make(const struct fast_plan_item *items, int n, fast_ns window_ns,
                    struct fast_plan *ret)
{
    struct lp lp = {0};
    int item[FAST_PLAN_CLIENTS] = {0};
    memset(ret, 0, sizeof(*ret));
    begin(&lp, items, n, window_ns, item);
    solve(&lp, true);
    uint64_t set[FAST_PLAN_CLIENTS];
    double len[FAST_PLAN_CLIENTS], total = 0, kept = 0, at = 0;
    int k = 0;
    for (int i = 0; i < lp.n; i++) {
        total += lp.len[i];
        if (lp.len[i] < 1.0 / SHORTEST_PART)
            continue;
        len[k] = lp.len[i];
        set[k++] = lp.set[i];
        kept += lp.len[i];
    }
    ret->length_ns = (fast_ns)(total * (double)window_ns + 0.5);
    order_slots(set, len, k);
    for (int i = 0; i < k; i++) {
        at += len[i] / kept;
        ret->end_ns[i] = i == k - 1 ? window_ns : (fast_ns)(at * (double)window_ns);
        for (int j = 0; j < lp.n; j++)
            if (set[i] >> j & 1)
                ret->owners[i] |= UINT64_C(1) << item[j];
    }
    ret->slots = k;
}
