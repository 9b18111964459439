/* Decides which clients own the GPU together, and for how long. Column generation: the simplex
 * method on the sets found so far, and a knapsack over the 100 % of SMs that finds the set which
 * shortens the schedule most, until there is none. It starts from every client alone, so that what
 * it has is a schedule at every step; a limit on the steps can only make it longer than need be.
 * Floating point is used for lengths of slots only: nobody's account is kept in it. */
#include "core/sched_plan.h"

#include <string.h>

#include "core/types.h"

#define STEPS_MAX 1000
#define TRIES_MAX 20000
#define EPS 1e-9
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

/* What the clients of one GPU alone make of so many SMs of it. */
struct filling {
    double value[FAST_SM_PCT_MAX + 1];
    uint64_t set[FAST_SM_PCT_MAX + 1];
};

static void fill(const struct lp *lp, const double *value, int gpu, struct filling *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (int i = 0; i < lp->n; i++) {
        if (value[i] <= EPS || lp->on[i] != UINT32_C(1) << gpu)
            continue;
        for (int w = FAST_SM_PCT_MAX; w >= lp->width[i]; w--) {
            double v = ret->value[w - lp->width[i]] + value[i];
            if (v > ret->value[w] + EPS) {
                ret->value[w] = v;
                ret->set[w] = ret->set[w - lp->width[i]] | (UINT64_C(1) << i);
            }
        }
    }
}

/* The search for the best set: which clients of several GPUs are in it is tried out, what the rest of each
 * GPU is worth then is known. */
struct search {
    const struct lp *lp;
    const double *value;
    struct filling alone[FAST_PLAN_GPUS];
    int room[FAST_PLAN_GPUS];
    int gang[FAST_PLAN_CLIENTS], gangs; /* items of several GPUs */
    int tries;
    double best;
    uint64_t set;
};

static void look_at(struct search *s, int from, double value, uint64_t set)
{
    double here = value, more = 0;
    uint64_t all = set;
    for (int g = 0; g < s->lp->gpus; g++) {
        here += s->alone[g].value[s->room[g]];
        all |= s->alone[g].set[s->room[g]];
    }
    if (here > s->best + EPS) {
        s->best = here;
        s->set = all;
    }
    for (int k = from; k < s->gangs; k++)
        more += s->value[s->gang[k]];
    for (int k = from; k < s->gangs && here + more > s->best + EPS && s->tries < TRIES_MAX; k++) {
        int i = s->gang[k];
        bool fits = true;
        for (int g = 0; g < s->lp->gpus; g++)
            fits &= !(s->lp->on[i] >> g & 1) || s->lp->width[i] <= s->room[g];
        more -= s->value[i];
        if (!fits)
            continue;
        s->tries++;
        for (int g = 0; g < s->lp->gpus; g++)
            s->room[g] -= s->lp->on[i] >> g & 1 ? s->lp->width[i] : 0;
        look_at(s, k + 1, value + s->value[i], set | UINT64_C(1) << i);
        for (int g = 0; g < s->lp->gpus; g++)
            s->room[g] += s->lp->on[i] >> g & 1 ? s->lp->width[i] : 0;
    }
}

/* The set of the greatest value that fits; its value is returned. */
static double best_set(const struct lp *lp, const double *value, uint64_t *ret)
{
    struct search s;
    s.lp = lp;
    s.value = value;
    s.best = 0;
    s.set = 0;
    s.gangs = s.tries = 0;
    for (int g = 0; g < lp->gpus; g++) {
        fill(lp, value, g, &s.alone[g]);
        s.room[g] = FAST_SM_PCT_MAX;
    }
    for (int i = 0; i < lp->n; i++)
        if (value[i] > EPS && lp->on[i] & (lp->on[i] - 1))
            s.gang[s.gangs++] = i;
    look_at(&s, 0, 0, 0);
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

/* Goes on until the schedule is the shortest, or it is known whether the shortest is above |enough|
 * (0: only the former). The prices cannot all be paid when the best set is worth v, but a v-th of them
 * can, so a v-th of the length is a lower bound (Farley 1990). */
static void solve(struct lp *lp, double enough)
{
    for (int k = 0; k < STEPS_MAX; k++) {
        double price[FAST_PLAN_CLIENTS] = {0}, total = 0, value;
        uint64_t set;
        for (int i = 0; i < lp->n; i++)
            total += lp->len[i];
        if (total <= enough)
            return;
        for (int i = 0; i < lp->n; i++)
            for (int j = 0; j < lp->n; j++)
                price[j] += lp->inv[i][j];
        value = best_set(lp, price, &set);
        if (value <= 1 + 1e-7 || (enough > 0 && total > enough * value) || !enter(lp, set))
            return;
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

/* The items that have a request, each alone in a set. |ret_item| (room for all) is which they are. */
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
        lp->inv[lp->n][lp->n] = 1;
        lp->len[lp->n] = (double)items[i].request_ns / (double)window_ns;
        lp->set[lp->n] = UINT64_C(1) << lp->n;
        lp->n++;
    }
}

bool fast_plan_fits(const struct fast_plan_item *items, int n, fast_ns window_ns)
{
    struct lp lp = {0};
    int item[FAST_PLAN_CLIENTS];
    double total = 0, enough = 1 + 1e-9;
    begin(&lp, items, n, window_ns, item);
    solve(&lp, enough);
    for (int i = 0; i < lp.n; i++)
        total += lp.len[i];
    return total <= enough;
}

void fast_plan_make(const struct fast_plan_item *items, int n, fast_ns window_ns,
                    struct fast_plan *ret)
{
    struct lp lp = {0};
    int item[FAST_PLAN_CLIENTS] = {0};
    memset(ret, 0, sizeof(*ret));
    begin(&lp, items, n, window_ns, item);
    solve(&lp, 0);
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
