/* Decides which clients own the GPU together, and for how long. Column generation: the simplex
 * method on the sets found so far, and a knapsack over the 100 % of SMs that finds the set which
 * shortens the schedule most, until there is none. It starts from every client alone, so that what
 * it has is a schedule at every step; a limit on the steps can only make it longer than need be.
 * Floating point is used for lengths of slots only: nobody's account is kept in it. */
#include "core/sched_plan.h"

#include <string.h>

#include "core/types.h"

#define STEPS_MAX 1000
#define EPS 1e-9
#define SHORTEST_PART 500 /* a slot below this part of the window is not worth a hand-over */

struct lp {
    int n;
    int width[FAST_PLAN_CLIENTS];
    double inv[FAST_PLAN_CLIENTS][FAST_PLAN_CLIENTS]; /* inverse of the basis; row: of the basis */
    double len[FAST_PLAN_CLIENTS];                    /* of the set in the basis */
    uint64_t set[FAST_PLAN_CLIENTS];
};

/* The set of the greatest value that fits; its value is returned. */
static double best_set(const struct lp *lp, const double *value, uint64_t *ret)
{
    double best[FAST_SM_PCT_MAX + 1] = {0};
    uint64_t mask[FAST_SM_PCT_MAX + 1] = {0};
    for (int i = 0; i < lp->n; i++) {
        if (value[i] <= EPS)
            continue;
        for (int w = FAST_SM_PCT_MAX; w >= lp->width[i]; w--) {
            double v = best[w - lp->width[i]] + value[i];
            if (v > best[w] + EPS) {
                best[w] = v;
                mask[w] = mask[w - lp->width[i]] | (UINT64_C(1) << i);
            }
        }
    }
    *ret = mask[FAST_SM_PCT_MAX];
    return best[FAST_SM_PCT_MAX];
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
