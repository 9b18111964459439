/* Plans of core/sched_plan.h: that they are schedules, and as short as any can be. */
#include "core/sched_plan.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

static uint32_t gpus_of(const struct fast_plan_item *item)
{
    return item->gpus ? item->gpus : 1;
}

/* On the GPU where it is widest. */
static int set_width(const struct fast_plan_item *items, uint64_t set)
{
    int most = 0;
    for (int g = 0; g < FAST_PLAN_GPUS; g++) {
        int sum = 0;
        for (uint64_t left = set; left; left &= left - 1)
            if (gpus_of(&items[__builtin_ctzll(left)]) >> g & 1)
                sum += items[__builtin_ctzll(left)].sm_pct;
        most = sum > most ? sum : most;
    }
    return most;
}

/* Every second one needs one GPU alone. */
static uint32_t random_gpus(unsigned *seed, int gpus)
{
    int alone = rand_r(seed) % 2, one = rand_r(seed) % gpus;
    return alone ? UINT32_C(1) << one : 1 + (uint32_t)rand_r(seed) % ((UINT32_C(1) << gpus) - 1);
}

/* Every slot fits on every GPU, every request is covered, and the schedule is no longer than it must be: never
 * below the area and the wide clients, never above the schedule that the set was cut from. */
static void plans_are_schedules(void **state)
{
    (void)state;
    unsigned seed = 5;
    for (int k = 0; k < 400; k++) {
        struct fast_plan_item items[FAST_PLAN_CLIENTS];
        struct fast_plan p;
        int n = rand_r(&seed) % (FAST_PLAN_CLIENTS + 1), gpus = 1 + k % 4;
        int64_t area = 0, wide = 0; /* of the first GPU */
        for (int i = 0; i < n; i++) {
            items[i] = (struct fast_plan_item){1 + rand_r(&seed) % 100, FAST_MS(rand_r(&seed) % 30),
                                               gpus > 1 ? random_gpus(&seed, gpus) : 0};
            if (!(gpus_of(&items[i]) & 1))
                continue;
            area += items[i].sm_pct * items[i].request_ns / 100;
            wide += items[i].sm_pct > 50 ? items[i].request_ns : 0;
        }
        fast_plan_make(items, n, FAST_MS(100), &p);
        assert_true(p.length_ns >= area - n && p.length_ns >= wide - 1);
        fast_ns own[FAST_PLAN_CLIENTS] = {0}, at = 0;
        for (int i = 0; i < p.slots; i++) {
            assert_true(set_width(items, p.owners[i]) <= 100);
            assert_true(p.end_ns[i] > at);
            for (int j = 0; j < n; j++)
                own[j] += p.owners[i] >> j & 1 ? p.end_ns[i] - at : 0;
            at = p.end_ns[i];
        }
        double stretch = p.length_ns ? 1e8 / (double)p.length_ns : 1;
        for (int j = 0; j < n; j++)
            assert_true((double)own[j] >= (double)items[j].request_ns * stretch - 1e8 / 100);
    }
}

/* ---- against the exact answer ----
 *
 * The shortest schedule is the linear program: minimize the sum of x over sets that fit, such that the sets with
 * client i cover its request. By duality that is the largest sum of request * y, with y >= 0 and a sum of y of at
 * most 1 over each set. Its best corner is where as many of these conditions as there are clients hold with
 * equality; with five clients all corners can be looked at. */

#define EXACT_MAX 5

struct exact {
    const struct fast_plan_item *items;
    int n, rows;
    double row[(1 << EXACT_MAX) + EXACT_MAX][EXACT_MAX + 1]; /* row * y <= last column */
    double best;
};

/* Solves the chosen rows as equations; false: they say no single thing. */
static bool solve(const struct exact *e, const int *chosen, double *ret)
{
    double m[EXACT_MAX][EXACT_MAX + 1];
    for (int i = 0; i < e->n; i++)
        for (int j = 0; j <= e->n; j++)
            m[i][j] = e->row[chosen[i]][j < e->n ? j : EXACT_MAX];
    for (int c = 0; c < e->n; c++) {
        int pivot = c;
        for (int i = c + 1; i < e->n; i++)
            pivot = fabs(m[i][c]) > fabs(m[pivot][c]) ? i : pivot;
        if (fabs(m[pivot][c]) < 1e-9)
            return false;
        for (int j = 0; j <= e->n; j++) {
            double t = m[c][j];
            m[c][j] = m[pivot][j];
            m[pivot][j] = t;
        }
        for (int i = 0; i < e->n; i++)
            for (int j = e->n; i != c && j >= c; j--)
                m[i][j] -= m[c][j] * m[i][c] / m[c][c];
    }
    for (int i = 0; i < e->n; i++)
        ret[i] = m[i][e->n] / m[i][i];
    return true;
}

static void look_at_corners(struct exact *e, int *chosen, int count, int from)
{
    double y[EXACT_MAX], sum = 0;
    for (int i = from; i < e->rows && count < e->n; i++) {
        chosen[count] = i;
        look_at_corners(e, chosen, count + 1, i + 1);
    }
    if (count < e->n || !solve(e, chosen, y))
        return;
    for (int i = 0; i < e->rows; i++) {
        double at = 0;
        for (int j = 0; j < e->n; j++)
            at += e->row[i][j] * y[j];
        if (at > e->row[i][EXACT_MAX] + 1e-9)
            return;
    }
    for (int j = 0; j < e->n; j++)
        sum += y[j] * (double)e->items[j].request_ns;
    e->best = sum > e->best ? sum : e->best;
}

static bool more_fits(const struct fast_plan_item *items, int n, unsigned set)
{
    for (int i = 0; i < n; i++)
        if (!(set >> i & 1) && set_width(items, set | 1u << i) <= 100)
            return true;
    return false;
}

static double exact_length(const struct fast_plan_item *items, int n)
{
    static struct exact e;
    int chosen[EXACT_MAX];
    e = (struct exact){.items = items, .n = n};
    for (unsigned set = 1; set < 1u << n; set++) {
        if (set_width(items, set) > 100 || more_fits(items, n, set))
            continue;
        for (int j = 0; j < n; j++)
            e.row[e.rows][j] = set >> j & 1;
        e.row[e.rows++][EXACT_MAX] = 1;
    }
    for (int j = 0; j < n; j++)
        e.row[e.rows++][j] = -1;
    look_at_corners(&e, chosen, 0, 0);
    return e.best;
}

/* The plan is as short as any schedule can be, so that a set is admitted exactly if one can serve it. */
static void plans_are_exact(void **state)
{
    (void)state;
    unsigned seed = 3;
    int admitted = 0, refused = 0;
    for (int k = 0; k < 600; k++) {
        struct fast_plan_item items[EXACT_MAX];
        struct fast_plan p;
        int n = 2 + rand_r(&seed) % (EXACT_MAX - 1), gpus = k < 300 ? 1 : 2 + k % 2;
        for (int i = 0; i < n; i++)
            items[i] = (struct fast_plan_item){10 + rand_r(&seed) % 71, FAST_MS(1 + rand_r(&seed) % 60),
                                               random_gpus(&seed, gpus)};
        fast_plan_make(items, n, FAST_MS(100), &p);
        double exact = exact_length(items, n);
        if (fabs((double)p.length_ns - exact) > 1e-6 * exact + 10)
            fail_msg("set %d of %d: planned %lld ns, exact %.0f", k, n, (long long)p.length_ns, exact);
        bool fits = fast_plan_fits(items, n, FAST_MS(100));
        if (fabs(exact - 1e8) > 10)
            assert_int_equal(fits, exact < 1e8);
        admitted += fits;
        refused += !fits;
    }
    assert_true(admitted > 50 && refused > 50);
}

/* Three clients of two GPUs each, of which no two fit together, though every GPU by itself has room for its
 * two in half of the window: the schedule that holds all of them is half as long again. */
static void gangs_are_planned_together(void **state)
{
    (void)state;
    struct fast_plan_item items[] = {{60, FAST_MS(50), 3}, {60, FAST_MS(50), 6}, {60, FAST_MS(50), 5}};
    struct fast_plan p;
    for (uint32_t g = 1; g < 8; g <<= 1) {
        struct fast_plan_item on[3];
        int n = 0;
        for (int i = 0; i < 3; i++)
            if (items[i].gpus & g)
                on[n++] = (struct fast_plan_item){60, FAST_MS(50), 0};
        assert_int_equal(n, 2);
        assert_true(fast_plan_fits(on, n, FAST_MS(100)));
    }
    assert_false(fast_plan_fits(items, 3, FAST_MS(100)));
    fast_plan_make(items, 3, FAST_MS(100), &p);
    assert_int_equal(p.length_ns, FAST_MS(150));
    items[2].request_ns = 0;
    assert_true(fast_plan_fits(items, 3, FAST_MS(100)));
}

/* A window whose eighths are filled with gangs one after the other, which are then shuffled. */
static int cut_window(unsigned *seed, int gpus, struct fast_plan_item *ret)
{
    int n = 0;
    for (int slot = 1; slot <= 8; slot++) {
        int room[FAST_PLAN_GPUS];
        for (int g = 0; g < gpus; g++)
            room[g] = 100;
        for (int k = 0; k < 40 && n < slot * FAST_PLAN_CLIENTS / 8; k++) {
            uint32_t on = 1 + (uint32_t)rand_r(seed) % ((UINT32_C(1) << gpus) - 1);
            int width = 10 + rand_r(seed) % 40;
            bool fits = true;
            for (int g = 0; g < gpus; g++)
                fits &= !(on >> g & 1) || width <= room[g];
            for (int g = 0; g < gpus && fits; g++)
                room[g] -= on >> g & 1 ? width : 0;
            if (fits)
                ret[n++] = (struct fast_plan_item){width, FAST_MS(100) / 8, on};
        }
    }
    for (int i = n - 1; i > 0; i--) {
        int k = rand_r(seed) % (i + 1);
        struct fast_plan_item item = ret[i];
        ret[i] = ret[k];
        ret[k] = item;
    }
    return n;
}

/* The search for sets ends early. It finds a schedule for all full windows of two GPUs even so, and for nearly all of
 * four. */
static void full_windows_fit(void **state)
{
    (void)state;
    unsigned seed = 11;
    int fit[2] = {0};
    for (int k = 0; k < 120; k++) {
        struct fast_plan_item items[FAST_PLAN_CLIENTS];
        struct fast_plan p;
        int n = cut_window(&seed, k < 60 ? 2 : 4, items);
        bool fits = fast_plan_fits(items, n, FAST_MS(100));
        fast_plan_make(items, n, FAST_MS(100), &p);
        assert_int_equal(fits, p.length_ns <= FAST_MS(100)); /* what is accepted is planned */
        fit[k / 60] += fits;
    }
    assert_int_equal(fit[0], 60);
    assert_true(fit[1] >= 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_schedules),
        cmocka_unit_test(plans_are_exact),
        cmocka_unit_test(gangs_are_planned_together),
        cmocka_unit_test(full_windows_fit),
    };
    return cmocka_run_group_tests_name("sched_plan", tests, NULL, NULL);
}
