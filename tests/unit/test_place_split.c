/* Places without a rectangle, against an oracle that shares no code with them: it enumerates every set
 * of replicas that fits, and proves its answer with a schedule, or with prices that no schedule can
 * pay. */

#include "core/place.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

#define ITEMS 10

struct item {
    int sm, quota;
};

static struct fast_fleet *fleet_of(int gpus, bool split)
{
    const struct fast_fleet_conf conf = {.fit = FAST_FIT_AREA, .split = split};
    struct fast_fleet *fleet = NULL;
    assert_int_equal(fast_fleet_new(&conf, &fleet, NULL), 0);
    for (int i = 0; i < gpus; i++) {
        int gpu;
        assert_int_equal(
            fast_fleet_gpu_add(fleet, &(struct fast_gpu_conf){(uint32_t)i, 0, 1000}, &gpu, NULL), 0);
    }
    return fleet;
}

static int place(struct fast_fleet *fleet, uint64_t id, struct item it, struct fast_placed *ret,
                 struct fast_err *err)
{
    const struct fast_want w = {.slice = {it.sm, it.quota, it.quota, 1},
                                .node = FAST_ANY, .gpu = FAST_ANY};
    int rc = fast_fleet_place(fleet, id, &w, ret, err);
    assert_true(fast_fleet_valid(fleet));
    return rc;
}

/* ---- the oracle ---- */

static bool set_fits(const struct item *items, int n, int set)
{
    int sm = 0;
    for (int i = 0; i < n; i++)
        sm += set >> i & 1 ? items[i].sm : 0;
    return sm <= FAST_SM_PCT_MAX;
}

/* The prices of a basis: each of its sets costs 1. Gauss with pivoting. */
static bool solve(int n, double a[ITEMS][ITEMS], double *b)
{
    for (int k = 0; k < n; k++) {
        int p = k;
        for (int i = k + 1; i < n; i++)
            p = fabs(a[i][k]) > fabs(a[p][k]) ? i : p;
        if (fabs(a[p][k]) < 1e-9)
            return false;
        for (int j = 0; j < n; j++) {
            double t = a[k][j];
            a[k][j] = a[p][j];
            a[p][j] = t;
        }
        double t = b[k];
        b[k] = b[p];
        b[p] = t;
        for (int i = 0; i < n; i++) {
            double f = i == k ? 0 : a[i][k] / a[k][k];
            for (int j = 0; j < n && f != 0; j++)
                a[i][j] -= f * a[k][j];
            b[i] -= f * b[k];
        }
    }
    for (int k = 0; k < n; k++)
        b[k] /= a[k][k];
    return true;
}

/* Solves for the lengths (rows are items) or the prices (rows are sets) of |basis|. */
static void basis_solve(int n, const int *basis, bool prices, const double *rhs, double *ret)
{
    double a[ITEMS][ITEMS];
    for (int i = 0; i < n; i++) {
        ret[i] = rhs[i];
        for (int j = 0; j < n; j++)
            a[i][j] = prices ? basis[i] >> j & 1 : basis[j] >> i & 1;
    }
    assert_true(solve(n, a, ret));
}

/* The length of the shortest schedule, in thousandths of the window. Every answer carries its proof:
 * lengths that are not negative and cover everybody, and prices that no set that fits exceeds. */
static double shortest(const struct item *items, int n)
{
    int basis[ITEMS];
    double quota[ITEMS], ones[ITEMS], length[ITEMS], price[ITEMS], column[ITEMS], bit[ITEMS];
    for (int i = 0; i < n; i++) {
        basis[i] = 1 << i;
        quota[i] = items[i].quota;
        ones[i] = 1;
    }
    for (int step = 0; step < 10000; step++) {
        basis_solve(n, basis, false, quota, length);
        basis_solve(n, basis, true, ones, price);
        int best = 0;
        double value = 1 + 1e-9;
        for (int set = 1; set < 1 << n; set++) {
            double v = 0;
            for (int i = 0; i < n; i++)
                v += set >> i & 1 ? price[i] : 0;
            if (v > value && set_fits(items, n, set)) {
                best = set;
                value = v;
            }
        }
        double sum = 0, paid = 0;
        for (int i = 0; i < n; i++) {
            assert_true(length[i] > -1e-6);
            sum += length[i];
            paid += price[i] * items[i].quota;
        }
        if (!best) {
            assert_true(fabs(sum - paid) < 1e-6); /* no shorter one, no longer one */
            return sum;
        }
        for (int i = 0; i < n; i++)
            bit[i] = best >> i & 1;
        basis_solve(n, basis, false, bit, column);
        int out = -1;
        for (int i = 0; i < n; i++)
            if (column[i] > 1e-9 &&
                (out < 0 || length[i] * column[out] < length[out] * column[i] - 1e-12))
                out = i;
        if (out < 0)
            fail_msg("the oracle has no way out");
        else
            basis[out] = best;
    }
    fail_msg("the oracle does not end");
    return 0;
}

static bool runs(const struct item *items, int n, int set)
{
    struct item some[ITEMS] = {0};
    int k = 0, area = 0;
    for (int i = 0; i < n; i++)
        if (set >> i & 1) {
            area += items[i].sm * items[i].quota;
            some[k++] = items[i];
        }
    return area <= FAST_PLANE_AREA && shortest(some, k) <= FAST_MILLI + 1e-6;
}

/* The fewest GPUs for |n| items: over all partitions, by sets. */
static int fewest_gpus(const struct item *items, int n)
{
    static bool one[1 << ITEMS];
    static int gpus[1 << ITEMS];
    for (int set = 1; set < 1 << n; set++) {
        one[set] = runs(items, n, set);
        gpus[set] = one[set] ? 1 : n;
        for (int part = (set - 1) & set; part && !one[set]; part = (part - 1) & set)
            if (one[part] && 1 + gpus[set & ~part] < gpus[set])
                gpus[set] = 1 + gpus[set & ~part];
    }
    return gpus[(1 << n) - 1];
}

/* ---- tests ---- */

/* Three of 50 % SM x 0.6 need 0.9 of the area. As rectangles two of them leave no third; cut in time
 * they take turns: each pair for 0.3. A fourth has no schedule. */
static void three_take_turns(void **state)
{
    (void)state;
    const struct item it = {50, 600};
    for (int split = 0; split < 2; split++) {
        struct fast_fleet *fleet = fleet_of(1, split);
        struct fast_placed at;
        struct fast_err err;
        assert_int_equal(place(fleet, 1, it, &at, &err), 0);
        assert_int_equal(place(fleet, 2, it, &at, &err), 0);
        assert_false(at.split);
        assert_int_equal(place(fleet, 3, it, &at, &err), split ? 0 : -FAST_ENOROOM);
        assert_int_equal(at.split, split);
        assert_int_equal(place(fleet, 4, it, &at, &err), -FAST_ENOROOM);
        if (split) {
            struct fast_gpu_room room;
            assert_int_equal(fast_fleet_gpu_room(fleet, 0, &room, NULL), 0);
            assert_int_equal(room.area_free, FAST_PLANE_AREA - 3 * 50 * 600);
            /* The third gets the rectangle of the first. */
            assert_int_equal(fast_fleet_remove(fleet, 1, NULL), 0);
            assert_false(fast_fleet_find(fleet, 3)->split);
            assert_true(fast_fleet_valid(fleet));
        }
        fast_fleet_free(fleet);
    }
}

/* Three of 60 % SM x 0.5 fit by area (0.9) and never by a schedule: no two run at once. */
static void area_is_not_enough(void **state)
{
    (void)state;
    const struct item items[] = {{60, 500}, {60, 500}, {60, 500}};
    assert_true(fabs(shortest(items, 3) - 1500) < 1e-6);
    struct fast_fleet *fleet = fleet_of(1, true);
    struct fast_placed at;
    struct fast_err err;
    assert_int_equal(place(fleet, 1, items[0], &at, &err), 0);
    assert_int_equal(place(fleet, 2, items[1], &at, &err), 0);
    assert_int_equal(place(fleet, 3, items[2], &at, &err), -FAST_ENOROOM);
    if (!strstr(err.msg, "SM x quota: 60 % x 0.500 wanted"))
        fail_msg("the message is: %s", err.msg);
    fast_fleet_free(fleet);
}

static struct item random_item(unsigned *seed)
{
    static const int sms[] = {6, 12, 24, 34, 50, 60, 80};
    return (struct item){sms[rand_r(seed) % 7], 100 * (1 + rand_r(seed) % 10)};
}

/* Up to 10 replicas on up to 4 GPUs: what is admitted has a schedule, what is refused has none on any
 * GPU with those that are there. */
static void admission_is_exact(void **state)
{
    (void)state;
    unsigned seed = 11;
    int split = 0, refused = 0;
    for (int round = 0; round < 60; round++) {
        int gpus = 1 + rand_r(&seed) % 4, n[4] = {0};
        struct item on[4][ITEMS] = {0};
        struct fast_fleet *fleet = fleet_of(gpus, true);
        for (uint64_t id = 1; id <= ITEMS; id++) {
            struct item it = random_item(&seed);
            struct fast_placed at;
            int rc = place(fleet, id, it, &at, NULL);
            if (!rc) {
                on[at.gpu][n[at.gpu]++] = it;
                assert_true(runs(on[at.gpu], n[at.gpu], (1 << n[at.gpu]) - 1));
                split += at.split;
                continue;
            }
            refused++;
            for (int g = 0; g < gpus; g++) {
                on[g][n[g]] = it;
                assert_false(runs(on[g], n[g] + 1, (1 << (n[g] + 1)) - 1));
            }
        }
        fast_fleet_free(fleet);
    }
    assert_true(split > 10 && refused > 50);
}

/* GPUs used, largest first, against the fewest over all partitions: within 3 % on average. */
static void near_the_optimum(void **state)
{
    (void)state;
    unsigned seed = 5;
    int used = 0, fewest = 0;
    for (int round = 0; round < 40; round++) {
        int n = 5 + rand_r(&seed) % 4;
        struct item items[ITEMS] = {0};
        struct fast_fleet *fleet = fleet_of(ITEMS, true);
        bool gpu_used[ITEMS] = {false};
        for (int i = 0; i < n; i++) {
            struct item it = random_item(&seed);
            int k = i;
            for (; k > 0 && items[k - 1].sm * items[k - 1].quota < it.sm * it.quota; k--)
                items[k] = items[k - 1];
            items[k] = it;
        }
        for (int i = 0; i < n; i++) {
            struct fast_placed at;
            assert_int_equal(place(fleet, (uint64_t)i, items[i], &at, NULL), 0);
            used += !gpu_used[at.gpu];
            gpu_used[at.gpu] = true;
        }
        fewest += fewest_gpus(items, n);
        fast_fleet_free(fleet);
    }
    if (used * 100 > fewest * 103)
        fail_msg("%d GPUs used where %d suffice", used, fewest);
}

/* Replicas come, go and are resized; the books stay right, and an empty GPU is whole. */
static void random_changes(void **state)
{
    (void)state;
    unsigned seed = 3;
    struct fast_fleet *fleet = fleet_of(8, true);
    uint64_t live[2000], next = 1;
    int n = 0, split = 0;
    struct fast_placed at;
    for (int step = 0; step < 3000; step++) {
        struct item it = random_item(&seed);
        int what = rand_r(&seed) % 100, i = n ? rand_r(&seed) % n : 0;
        if (n && what < 40) {
            assert_int_equal(fast_fleet_remove(fleet, live[i], NULL), 0);
            live[i] = live[--n];
        } else if (n && what < 50) {
            struct fast_slice slice = {it.sm, it.quota, it.quota, 1};
            fast_fleet_resize(fleet, live[i], &slice, &at, NULL);
        } else if (!place(fleet, next, it, &at, NULL)) {
            live[n++] = next;
            split += at.split;
        }
        next++;
        assert_true(fast_fleet_valid(fleet));
    }
    assert_true(split > 50);
    while (n)
        assert_int_equal(fast_fleet_remove(fleet, live[--n], NULL), 0);
    for (int g = 0; g < 8; g++) {
        struct fast_gpu_room room;
        assert_int_equal(fast_fleet_gpu_room(fleet, g, &room, NULL), 0);
        assert_int_equal(room.area_free, FAST_PLANE_AREA);
    }
    fast_fleet_free(fleet);
}

/* Of shapes of equal throughput the one that fills a busy GPU is taken. */
static void any_shape(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(2, false);
    struct fast_placed at;
    int which = -1;
    const struct fast_want wants[] = {
        {.slice = {24, 500, 500, 1}, .node = FAST_ANY, .gpu = FAST_ANY},
        {.slice = {12, 1000, 1000, 1}, .node = FAST_ANY, .gpu = FAST_ANY},
    };
    assert_int_equal(place(fleet, 1, (struct item){88, 1000}, &at, NULL), 0);
    assert_int_equal(fast_fleet_place_any(fleet, 2, wants, 2, &which, &at, NULL), 0);
    assert_int_equal(which, 1);
    assert_int_equal(at.gpu, 0);
    assert_int_equal(fast_fleet_place_any(fleet, 3, wants, 2, &which, &at, NULL), 0);
    assert_int_equal(which, 0); /* the preferred one, on the idle GPU */
    assert_int_equal(at.gpu, 1);
    fast_fleet_free(fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_take_turns),   cmocka_unit_test(area_is_not_enough),
        cmocka_unit_test(admission_is_exact), cmocka_unit_test(near_the_optimum),
        cmocka_unit_test(random_changes),     cmocka_unit_test(any_shape),
    };
    return cmocka_run_group_tests_name("place_split", tests, NULL, NULL);
}
