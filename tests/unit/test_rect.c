#include "core/rect.h"

#include <stdlib.h>

#include "test.h"

/* The brute force works on a coarse plane: 20 x 20 cells of 50 thousandths by 5 %. */
#define CELLS 20
#define QUOTA_STEP (FAST_MILLI / CELLS)
#define SM_STEP (FAST_SM_PCT_MAX / CELLS)

static struct fast_rect cells(int q, int s, int w, int h)
{
    return (struct fast_rect){q * QUOTA_STEP, s * SM_STEP, w * QUOTA_STEP, h * SM_STEP};
}

static bool has_free(const struct fast_rects *r, struct fast_rect want)
{
    for (int i = 0; i < r->nfree; i++)
        if (!memcmp(&r->free[i], &want, sizeof(want)))
            return true;
    return false;
}

static void empty_gpu(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_rect at;
    struct fast_err err;
    assert_int_equal(fast_rects_init(&r, &err), 0);
    assert_true(fast_rects_valid(&r));
    assert_int_equal(fast_rects_free_area(&r), 100000);
    assert_true(fast_rects_find(&r, 1000, 100, FAST_FIT_AREA, &at, NULL));
    assert_false(fast_rects_find(&r, 1001, 100, FAST_FIT_AREA, &at, NULL));
    assert_false(fast_rects_find(&r, 1000, 101, FAST_FIT_AREA, &at, NULL));
    fast_rects_fini(&r);
}

/* One rectangle in the corner leaves two that overlap; one in the middle leaves four. */
static void splits(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_err err;
    assert_int_equal(fast_rects_init(&r, &err), 0);
    const struct fast_rect corner = {0, 0, 400, 12}, middle = {600, 40, 100, 20};
    assert_int_equal(fast_rects_take(&r, &corner, &err), 0);
    assert_int_equal(r.nfree, 2);
    assert_true(has_free(&r, (struct fast_rect){400, 0, 600, 100}));
    assert_true(has_free(&r, (struct fast_rect){0, 12, 1000, 88}));
    assert_int_equal(fast_rects_give(&r, &corner, FAST_RECLAIM_RESTRUCTURE, &err), 0);
    assert_int_equal(r.nfree, 1);
    assert_int_equal(fast_rects_take(&r, &middle, &err), 0);
    assert_int_equal(r.nfree, 4);
    assert_true(has_free(&r, (struct fast_rect){0, 0, 600, 100}));
    assert_true(has_free(&r, (struct fast_rect){700, 0, 300, 100}));
    assert_true(has_free(&r, (struct fast_rect){0, 0, 1000, 40}));
    assert_true(has_free(&r, (struct fast_rect){0, 60, 1000, 40}));
    assert_true(fast_rects_valid(&r));
    fast_rects_fini(&r);
}

static void wrong_takes(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_err err;
    assert_int_equal(fast_rects_init(&r, &err), 0);
    const struct fast_rect wrong[] = {
        {-1, 0, 10, 10}, {0, -1, 10, 10}, {0, 0, 0, 10},   {0, 0, 10, 0},
        {0, 0, 1001, 1}, {0, 0, 1, 101},  {995, 0, 10, 1}, {0, 95, 10, 10}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(fast_rects_take(&r, &wrong[i], &err), -FAST_EINVAL);
    const struct fast_rect a = {0, 0, 500, 50}, b = {499, 49, 500, 50};
    assert_int_equal(fast_rects_take(&r, &a, &err), 0);
    assert_int_equal(fast_rects_take(&r, &b, &err), -FAST_EBUSY);
    assert_int_equal(fast_rects_give(&r, &b, FAST_RECLAIM_KEEP, &err), -FAST_ENOENT);
    assert_int_equal(r.nused, 1);
    assert_int_equal(r.nfree, 2);
    fast_rects_fini(&r);
}

static void most_replicas(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_err err;
    assert_int_equal(fast_rects_init(&r, &err), 0);
    for (int i = 0; i < FAST_RECTS_USED_MAX; i++)
        assert_int_equal(fast_rects_take(&r, &(struct fast_rect){i, i, 1, 1}, &err), 0);
    assert_true(fast_rects_valid(&r));
    assert_int_equal(fast_rects_take(&r, &(struct fast_rect){500, 90, 1, 1}, &err), -FAST_ENOROOM);
    fast_rects_fini(&r);
}

/* Each rule chooses as it says, among a 300 x 100 strip, a 1000 x 20 one and the crossing of both. */
static void rules(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_rect at, from;
    struct fast_err err;
    assert_int_equal(fast_rects_init(&r, &err), 0);
    assert_int_equal(fast_rects_take(&r, &(struct fast_rect){300, 0, 700, 80}, &err), 0);
    assert_int_equal(r.nfree, 2);
    /* 200 x 20 leaves 30000 - 4000 or 20000 - 4000. */
    assert_true(fast_rects_find(&r, 200, 20, FAST_FIT_AREA, &at, &from));
    assert_int_equal(at.sm_at, 80);
    assert_int_equal(from.quota, 1000);
    /* 290 x 15: 10 thousandths are left over at one side, 5 % = 50 thousandths at the other. */
    assert_true(fast_rects_find(&r, 290, 15, FAST_FIT_SHORT_SIDE, &at, &from));
    assert_int_equal(from.quota, 300);
    assert_true(fast_rects_find(&r, 200, 20, FAST_FIT_BOTTOM_LEFT, &at, &from));
    assert_int_equal(at.sm_at, 0);
    assert_int_equal(at.quota_at, 0);
    assert_int_equal(from.quota, 300);
    assert_false(fast_rects_find(&r, 301, 21, FAST_FIT_AREA, &at, &from));
    fast_rects_fini(&r);
}

/* "keep" gives the old rectangle back unmerged; a rebuild merges it. */
static void keep_and_restructure(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_rect at;
    struct fast_err err;
    const struct fast_rect a = {0, 0, 500, 100}, b = {500, 0, 500, 50}, c = {500, 50, 500, 50};
    assert_int_equal(fast_rects_init(&r, &err), 0);
    assert_int_equal(fast_rects_take(&r, &a, &err), 0);
    assert_int_equal(fast_rects_take(&r, &b, &err), 0);
    assert_int_equal(fast_rects_take(&r, &c, &err), 0);
    assert_int_equal(r.nfree, 0);
    assert_int_equal(fast_rects_give(&r, &b, FAST_RECLAIM_KEEP, &err), 0);
    assert_int_equal(fast_rects_give(&r, &c, FAST_RECLAIM_KEEP, &err), 0);
    assert_int_equal(r.nfree, 2);
    assert_true(fast_rects_valid(&r));
    assert_true(fast_rects_find(&r, 500, 50, FAST_FIT_AREA, &at, NULL));
    assert_false(fast_rects_find(&r, 500, 51, FAST_FIT_AREA, &at, NULL));
    assert_int_equal(fast_rects_rebuild(&r, &err), 0);
    assert_int_equal(r.nfree, 1);
    assert_true(fast_rects_find(&r, 500, 100, FAST_FIT_AREA, &at, NULL));
    /* The last one to go leaves the whole GPU, whatever the rule. */
    assert_int_equal(fast_rects_give(&r, &a, FAST_RECLAIM_KEEP, &err), 0);
    assert_true(fast_rects_find(&r, 1000, 100, FAST_FIT_AREA, &at, NULL));
    fast_rects_fini(&r);
}

/* Takes the best place for each of |n| shapes in turn; the number that found one. */
static int take_in_turn(struct fast_rects *r, const struct fast_rect *shapes, int n, bool repack)
{
    struct fast_rect at, moved[FAST_RECTS_USED_MAX];
    for (int i = 0; i < n; i++) {
        int quota = shapes[i].quota, sm = shapes[i].sm;
        if (!fast_rects_find(r, quota, sm, FAST_FIT_AREA, &at, NULL) &&
            !(repack && fast_rects_repack(r, quota, sm, moved) &&
              fast_rects_find(r, quota, sm, FAST_FIT_AREA, &at, NULL)))
            return i;
        assert_int_equal(fast_rects_take(r, &at, NULL), 0);
        assert_true(fast_rects_valid(r));
    }
    return n;
}

/* The paper's mix, 98.4 % of a GPU by area: 2 BERT, 2 RNN-T, 4 ResNet. */
static const struct fast_rect paper_mix[8] = {
    {.quota = 600, .sm = 50}, {.quota = 600, .sm = 50}, {.quota = 400, .sm = 24},
    {.quota = 400, .sm = 24}, {.quota = 400, .sm = 12}, {.quota = 400, .sm = 12},
    {.quota = 400, .sm = 12}, {.quota = 400, .sm = 12}};

static void paper_packing(void **state)
{
    (void)state;
    struct fast_rects r;
    assert_int_equal(fast_rects_init(&r, NULL), 0);
    assert_int_equal(take_in_turn(&r, paper_mix, 8, false), 8);
    assert_int_equal(r.used_area, 98400);
    fast_rects_fini(&r);
}

/* All 420 orders of the mix: without a new layout about a third fits, with it every one does. */
static void paper_packing_any_order(void **state)
{
    (void)state;
    int orders = 0, fit = 0;
    for (unsigned bert = 0; bert < 256; bert++)
        for (unsigned rnnt = 0; rnnt < 256; rnnt++) {
            if (__builtin_popcount(bert) != 2 || __builtin_popcount(rnnt) != 2 || bert & rnnt)
                continue;
            struct fast_rect shapes[8];
            for (int i = 0; i < 8; i++)
                shapes[i] = paper_mix[bert >> i & 1 ? 0 : rnnt >> i & 1 ? 2 : 4];
            struct fast_rects r;
            assert_int_equal(fast_rects_init(&r, NULL), 0);
            fit += take_in_turn(&r, shapes, 8, false) == 8;
            fast_rects_fini(&r);
            assert_int_equal(fast_rects_init(&r, NULL), 0);
            assert_int_equal(take_in_turn(&r, shapes, 8, true), 8);
            fast_rects_fini(&r);
            orders++;
        }
    assert_int_equal(orders, 420);
    assert_in_range(fit, 100, 200);
}

/* A new layout never loses a rectangle, and says no when there is no room. */
static void repack_limits(void **state)
{
    (void)state;
    struct fast_rects r;
    struct fast_rect moved[FAST_RECTS_USED_MAX];
    assert_int_equal(fast_rects_init(&r, NULL), 0);
    /* Two strips with a gap on both sides: 500 x 100 fits only after moving one. */
    const struct fast_rect a = {100, 0, 200, 100}, b = {600, 0, 300, 100};
    assert_int_equal(fast_rects_take(&r, &a, NULL), 0);
    assert_int_equal(fast_rects_take(&r, &b, NULL), 0);
    assert_false(fast_rects_repack(&r, 501, 100, moved));
    assert_false(fast_rects_repack(&r, 0, 100, moved));
    assert_false(fast_rects_repack(&r, 100, 101, moved));
    assert_memory_equal(&r.used[0], &a, sizeof(a));
    assert_true(fast_rects_repack(&r, 500, 100, moved));
    assert_int_equal(r.nused, 2);
    for (int i = 0; i < 2; i++)
        assert_memory_equal(&r.used[i], &moved[i], sizeof(a));
    assert_int_equal(moved[0].quota, 200);
    assert_int_equal(moved[1].quota, 300);
    assert_true(fast_rects_valid(&r));
    assert_true(fast_rects_find(&r, 500, 100, FAST_FIT_AREA, moved, NULL));
    fast_rects_fini(&r);
}

/* What the list answers against a grid of cells: the largest free extent at each place. */
struct grid {
    bool used[CELLS][CELLS];
};

static void grid_set(struct grid *g, const struct fast_rect *r, bool used)
{
    for (int q = r->quota_at / QUOTA_STEP; q < (r->quota_at + r->quota) / QUOTA_STEP; q++)
        for (int s = r->sm_at / SM_STEP; s < (r->sm_at + r->sm) / SM_STEP; s++)
            g->used[q][s] = used;
}

static bool grid_free(const struct grid *g, int q, int s, int w, int h)
{
    if (q < 0 || s < 0 || q + w > CELLS || s + h > CELLS)
        return false;
    for (int i = q; i < q + w; i++)
        for (int k = s; k < s + h; k++)
            if (g->used[i][k])
                return false;
    return true;
}

/* Counts the maximal free rectangles of the grid and checks that each is in the list. */
static int grid_maximal(const struct grid *g, const struct fast_rects *r)
{
    int n = 0;
    for (int q = 0; q < CELLS; q++)
        for (int s = 0; s < CELLS; s++)
            for (int w = 1; grid_free(g, q, s, w, 1); w++) {
                int h = 1;
                while (grid_free(g, q, s, w, h + 1))
                    h++;
                if (grid_free(g, q - 1, s, w + 1, h) || grid_free(g, q, s, w + 1, h) ||
                    grid_free(g, q, s - 1, w, h + 1))
                    continue;
                n++;
                assert_true(has_free(r, cells(q, s, w, h)));
            }
    return n;
}

static bool grid_covered(const struct grid *g, const struct fast_rects *r)
{
    struct grid covered;
    memset(&covered, 0, sizeof(covered));
    for (int i = 0; i < r->nfree; i++)
        grid_set(&covered, &r->free[i], true);
    for (int q = 0; q < CELLS; q++)
        for (int s = 0; s < CELLS; s++)
            if (covered.used[q][s] == g->used[q][s])
                return false;
    return true;
}

/* Random inserts and removals: with "restructure" the list is exactly the maximal free rectangles of
 * the grid; with "keep" it still covers exactly what is free. */
static void random_changes(enum fast_reclaim reclaim, unsigned seed)
{
    struct fast_rects r;
    struct grid g;
    struct fast_err err;
    memset(&g, 0, sizeof(g));
    assert_int_equal(fast_rects_init(&r, &err), 0);
    for (int step = 0; step < 500; step++) {
        struct fast_rect at;
        if (r.nused && rand_r(&seed) % 100 < 45) {
            at = r.used[(unsigned)rand_r(&seed) % (unsigned)r.nused];
            assert_int_equal(fast_rects_give(&r, &at, reclaim, &err), 0);
            grid_set(&g, &at, false);
        } else {
            int w = 1 + rand_r(&seed) % 8, h = 1 + rand_r(&seed) % 8;
            enum fast_fit fit = (enum fast_fit)(rand_r(&seed) % FAST_FIT_COUNT);
            if (!fast_rects_find(&r, w * QUOTA_STEP, h * SM_STEP, fit, &at, NULL))
                continue;
            assert_true(grid_free(&g, at.quota_at / QUOTA_STEP, at.sm_at / SM_STEP, w, h));
            assert_int_equal(fast_rects_take(&r, &at, &err), 0);
            grid_set(&g, &at, true);
        }
        assert_true(fast_rects_valid(&r));
        assert_true(grid_covered(&g, &r));
        if (reclaim == FAST_RECLAIM_RESTRUCTURE)
            assert_int_equal(grid_maximal(&g, &r), r.nfree);
    }
    fast_rects_fini(&r);
}

static void random_restructure(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 4; seed++)
        random_changes(FAST_RECLAIM_RESTRUCTURE, seed);
}

static void random_keep(void **state)
{
    (void)state;
    for (unsigned seed = 11; seed <= 14; seed++)
        random_changes(FAST_RECLAIM_KEEP, seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_gpu),          cmocka_unit_test(splits),
        cmocka_unit_test(wrong_takes),        cmocka_unit_test(most_replicas),
        cmocka_unit_test(rules),              cmocka_unit_test(keep_and_restructure),
        cmocka_unit_test(paper_packing),      cmocka_unit_test(paper_packing_any_order),
        cmocka_unit_test(repack_limits),      cmocka_unit_test(random_restructure),
        cmocka_unit_test(random_keep),
    };
    return cmocka_run_group_tests_name("rect", tests, NULL, NULL);
}
