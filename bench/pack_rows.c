#include "pack_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/place.h"
#include "openb.h"
#include "pack.h"

#define FILL_ITEMS 3000
#define FILL_GPUS 2500
#define CHURN_GPUS 200
#define CHURN_ARRIVALS 30000
#define CHURN_COUNTED 20000 /* the last ones */
#define SHAPES_MAX 7

static const struct pack_policy policies[] = {
    {"scalar (bound)", PACK_SCALAR, PACK_BEST, FAST_FIT_AREA},
    {"splittable time, best fit", PACK_SPLIT, PACK_BEST, FAST_FIT_AREA},
    {"max. rectangles, best short side", PACK_RECTS, PACK_BEST, FAST_FIT_SHORT_SIDE},
    {"max. rectangles, best area", PACK_RECTS, PACK_BEST, FAST_FIT_AREA},
    {"max. rectangles, bottom left", PACK_RECTS, PACK_BEST, FAST_FIT_BOTTOM_LEFT},
    {"max. rectangles, bottom left, first fit", PACK_RECTS, PACK_FIRST, FAST_FIT_BOTTOM_LEFT},
    {"max. rectangles, best area, worst GPU", PACK_RECTS, PACK_WORST, FAST_FIT_AREA},
    {"skyline without a waste map, first fit", PACK_SKYLINE, PACK_FIRST, FAST_FIT_AREA},
    {"guillotine, best area", PACK_GUILLOTINE, PACK_BEST, FAST_FIT_AREA},
};
#define POLICIES ((int)(sizeof(policies) / sizeof(policies[0])))

/* xorshift64*: the same on every machine. */
static unsigned draw(uint64_t *state, unsigned n)
{
    if (!n)
        abort();
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (unsigned)((*state * 0x2545f4914f6cdd1dULL >> 33) % n);
}

static const int paper_grid[SHAPES_MAX] = {6, 12, 24, 50, 60, 80, 100};

static struct pack_item item_m5(uint64_t *random)
{
    int sm = paper_grid[draw(random, 4)];
    return (struct pack_item){sm, 200 * (1 + (int)draw(random, 5))};
}

/* |milli| of a GPU as a random SM of the grid, and the quota that keeps the area (rounded up). */
static struct pack_item item_m4(uint64_t *random, int milli)
{
    int first = 0;
    while (paper_grid[first] * 10 < milli)
        first++;
    int sm = paper_grid[first + (int)draw(random, (unsigned)(SHAPES_MAX - first))];
    return (struct pack_item){sm, (milli * 100 + sm - 1) / sm};
}

struct series {
    double sum, squares;
    long n;
};

static void add(struct series *s, double v)
{
    s->sum += v;
    s->squares += v * v;
    s->n++;
}

static struct pack_result result(const struct series *s)
{
    double mean = s->n ? s->sum / (double)s->n : NAN;
    double var = s->n > 1 ? (s->squares - (double)s->n * mean * mean) / (double)(s->n - 1) : 0;
    return (struct pack_result){mean, var > 0 ? sqrt(var) : 0, s->n};
}

static void print_row(const char *what, const char *name, const struct series *s, double scale)
{
    struct pack_result r = result(s);
    fprintf(stderr, "%-9s %-42s %8.*f  +-%.*f\n", what, name, scale > 1 ? 2 : 4, r.value,
            scale > 1 ? 2 : 4, r.spread);
}

static struct fast_want want_of(struct pack_item item)
{
    return (struct fast_want){.slice = {item.sm, item.quota, item.quota, 1},
                              .node = FAST_ANY, .gpu = FAST_ANY};
}

static struct fast_fleet *fleet_of(int gpus, bool split)
{
    const struct fast_fleet_conf conf = {.fit = FAST_FIT_AREA, .split = split};
    struct fast_fleet *fleet;
    if (fast_fleet_new(&conf, &fleet, NULL))
        abort();
    for (int i = 0; i < gpus; i++) {
        int gpu;
        if (fast_fleet_gpu_add(fleet, &(struct fast_gpu_conf){(uint32_t)i, 0, 1000}, &gpu, NULL))
            abort();
    }
    return fleet;
}

static int fleet_used(const struct fast_fleet *fleet)
{
    int used = 0;
    for (int g = 0; g < fast_fleet_gpus(fleet); g++) {
        struct fast_gpu_room room;
        if (!fast_fleet_gpu_room(fleet, g, &room, NULL))
            used += room.replicas > 0;
    }
    return used;
}

/* ---- filling ---- */

static double bound(const struct pack_item *items, int n)
{
    double area = 0;
    for (int i = 0; i < n; i++)
        area += items[i].sm * items[i].quota;
    return ceil(area / FAST_PLANE_AREA);
}

static double fill_policy(const struct pack_policy *policy, const struct pack_item *items, int n)
{
    struct pack_pool pool;
    pack_init(&pool, policy, FILL_GPUS);
    for (int i = 0; i < n; i++)
        if (pack_place(&pool, items[i]) < 0)
            abort();
    double ratio = pool.used / bound(items, n);
    pack_fini(&pool);
    return ratio;
}

static double fill_fleet(const struct pack_item *items, int n, bool split)
{
    struct fast_fleet *fleet = fleet_of(FILL_GPUS, split);
    for (int i = 0; i < n; i++) {
        struct fast_want want = want_of(items[i]);
        struct fast_placed placed;
        if (fast_fleet_place(fleet, (uint64_t)i, &want, &placed, NULL))
            abort();
    }
    double ratio = fleet_used(fleet) / bound(items, n);
    fast_fleet_free(fleet);
    return ratio;
}

struct pack_result pack_fill(const char *mix, int seeds)
{
    static struct pack_item items[FILL_ITEMS];
    static struct openb trace;
    struct series row[POLICIES + 2] = {0};
    bool m4 = strcmp(mix, "M4") == 0;
    if (m4 && (!openb_read(&trace, (char[200]){0}) || !trace.sharing))
        return (struct pack_result){0};
    int n = m4 ? 1500 : FILL_ITEMS;
    for (int s = 0; s < seeds; s++) {
        uint64_t random = 42 + (uint64_t)s;
        for (int i = 0; i < n; i++)
            items[i] = m4 ? item_m4(&random, openb_sharing(&trace, draw(&random, (unsigned)trace.sharing)))
                          : item_m5(&random);
        for (int k = 0; k < POLICIES; k++)
            add(&row[k], fill_policy(&policies[k], items, n));
        add(&row[POLICIES], fill_fleet(items, n, false));
        add(&row[POLICIES + 1], fill_fleet(items, n, true));
    }
    char what[16];
    snprintf(what, sizeof(what), "fill %s", mix);
    for (int k = 0; k < POLICIES; k++)
        print_row(what, policies[k].name, &row[k], 1);
    print_row(what, "core/place, rectangles only", &row[POLICIES], 1);
    print_row(what, "core/place, with split", &row[POLICIES + 1], 1);
    if (m4)
        openb_fini(&trace);
    return result(&row[POLICIES + 1]);
}

/* ---- churn ---- */

static void leave(struct pack_pool *pool, uint64_t *random)
{
    int total = 0, g = 0;
    for (int i = 0; i < pool->used; i++)
        total += pool->gpus[i].n;
    int k = (int)draw(random, (unsigned)total);
    while (k >= pool->gpus[g].n)
        k -= pool->gpus[g++].n;
    pack_remove(pool, g, k);
}

static double churn_policy(const struct pack_policy *policy, uint64_t random)
{
    struct pack_pool pool;
    double sum = 0;
    pack_init(&pool, policy, CHURN_GPUS);
    pool.used = CHURN_GPUS; /* all are open from the start */
    for (int i = 0; i < CHURN_ARRIVALS; i++) {
        int64_t area = 0;
        if (pack_place(&pool, item_m5(&random)) < 0)
            leave(&pool, &random);
        for (int g = 0; i >= CHURN_ARRIVALS - CHURN_COUNTED && g < CHURN_GPUS; g++)
            area += pool.gpus[g].area;
        sum += (double)area;
    }
    pack_fini(&pool);
    return 100 * sum / CHURN_COUNTED / CHURN_GPUS / FAST_PLANE_AREA;
}

static double churn_fleet(uint64_t random, bool split)
{
    static struct live {
        uint64_t id;
        int area;
    } live[CHURN_ARRIVALS];
    struct fast_fleet *fleet = fleet_of(CHURN_GPUS, split);
    int64_t area = 0;
    double sum = 0;
    int n = 0;
    for (int i = 0; i < CHURN_ARRIVALS; i++) {
        struct pack_item item = item_m5(&random);
        struct fast_want want = want_of(item);
        struct fast_placed placed;
        if (!fast_fleet_place(fleet, (uint64_t)i, &want, &placed, NULL)) {
            live[n++] = (struct live){(uint64_t)i, item.sm * item.quota};
            area += (int64_t)item.sm * item.quota;
        } else {
            int k = (int)draw(&random, (unsigned)n);
            if (fast_fleet_remove(fleet, live[k].id, NULL))
                abort();
            area -= live[k].area;
            live[k] = live[--n];
        }
        if (i >= CHURN_ARRIVALS - CHURN_COUNTED)
            sum += (double)area;
    }
    fast_fleet_free(fleet);
    return 100 * sum / CHURN_COUNTED / CHURN_GPUS / FAST_PLANE_AREA;
}

struct pack_result pack_churn(int seeds)
{
    struct series row[POLICIES + 2] = {0};
    for (int s = 0; s < seeds; s++) {
        uint64_t random = 42 + (uint64_t)s;
        for (int k = 0; k < POLICIES; k++)
            add(&row[k], churn_policy(&policies[k], random));
        add(&row[POLICIES], churn_fleet(random, false));
        add(&row[POLICIES + 1], churn_fleet(random, true));
    }
    for (int k = 0; k < POLICIES; k++)
        print_row("churn %", policies[k].name, &row[k], 100);
    print_row("churn %", "core/place, rectangles only", &row[POLICIES], 100);
    print_row("churn %", "core/place, with split", &row[POLICIES + 1], 100);
    return result(&row[POLICIES + 1]);
}

/* ---- moldable ---- */

enum shape { SHAPE_RANDOM, SHAPE_NARROW, SHAPE_WIDE, SHAPE_WITH_PLACE, SHAPE_RULES };

/* The shapes of equal throughput, widest first; they have the same area but for rounding up. */
static int shapes_of(uint64_t *random, struct pack_item ret[SHAPES_MAX])
{
    static const int knees[] = {12, 24, 50, 80};
    int knee = knees[draw(random, 4)], n = 0;
    int work = knee * 50 * (1 + (int)draw(random, 20)); /* of the plane's area */
    for (int i = SHAPES_MAX - 1; i >= 0; i--) {
        int quota = (work + paper_grid[i] - 1) / paper_grid[i];
        if (paper_grid[i] <= knee && quota <= FAST_MILLI)
            ret[n++] = (struct pack_item){paper_grid[i], quota};
    }
    return n;
}

static double mold(enum shape rule, uint64_t random)
{
    struct fast_fleet *fleet = fleet_of(FILL_GPUS, rule == SHAPE_WITH_PLACE);
    double area = 0;
    for (int i = 0; i < FILL_ITEMS; i++) {
        struct pack_item shapes[SHAPES_MAX];
        struct fast_want wants[SHAPES_MAX];
        struct fast_placed placed;
        int n = shapes_of(&random, shapes), which, at = 0;
        int least = FAST_PLANE_AREA, some = (int)draw(&random, (unsigned)n);
        for (int k = 0; k < n; k++) {
            wants[k] = want_of(shapes[k]);
            least = shapes[k].sm * shapes[k].quota < least ? shapes[k].sm * shapes[k].quota : least;
        }
        area += least;
        if (rule == SHAPE_RANDOM)
            at = some;
        else if (rule == SHAPE_NARROW)
            at = n - 1;
        int rc = rule == SHAPE_WITH_PLACE
                     ? fast_fleet_place_any(fleet, (uint64_t)i, wants, n, &which, &placed, NULL)
                     : fast_fleet_place(fleet, (uint64_t)i, &wants[at], &placed, NULL);
        if (rc)
            abort();
    }
    double ratio = fleet_used(fleet) / ceil(area / FAST_PLANE_AREA);
    fast_fleet_free(fleet);
    return ratio;
}

struct pack_result pack_moldable(int seeds)
{
    static const char *const names[] = {"fixed random shape, rectangles", "narrowest SM, rectangles",
                                        "widest SM, rectangles", "shape chosen with the place, split"};
    struct series row[SHAPE_RULES] = {0};
    for (int k = 0; k < SHAPE_RULES; k++) {
        for (int s = 0; s < seeds; s++)
            add(&row[k], mold((enum shape)k, 42 + (uint64_t)s));
        print_row("moldable", names[k], &row[k], 1);
    }
    return result(&row[SHAPE_WITH_PLACE]);
}
