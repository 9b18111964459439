/* The indexes of a fleet against a look at every GPU that keeps books of its own: on random fleets, while
 * replicas come and go, stores gain and lose weights and GPUs close, every decision is the same. */

#include "core/place.h"

#include <stdlib.h>

#include "test.h"

#define GPUS 240
#define LIVE_MAX 6000
#define MODELS 6 /* from 1 */
#define GROUPS 5 /* from 1 */

struct store {
    int refs;
    bool resident, firm;
    uint64_t bytes;
};

struct live {
    uint64_t id;
    int gpu;
    uint64_t weights, group;
};

struct books {
    struct fast_fleet *fleet;
    int gpus;
    unsigned seed;
    struct fast_gpu_conf conf[GPUS];
    struct store store[GPUS][MODELS + 1];
    bool open[GPUS], alone[GPUS];
    struct live live[LIVE_MAX];
    int n;
    uint64_t next;
};

static int draw(struct books *b, int n)
{
    return (int)((unsigned)rand_r(&b->seed) % (unsigned)n);
}

/* Replicas of |group| that are with |gpu|. */
static int with(const struct books *b, uint64_t group, int gpu, enum fast_scope scope)
{
    int n = 0;
    for (int i = 0; i < b->n; i++) {
        const struct fast_gpu_conf *x = &b->conf[b->live[i].gpu], *y = &b->conf[gpu];
        bool same = scope == FAST_SCOPE_GPU    ? b->live[i].gpu == gpu
                    : scope == FAST_SCOPE_NODE ? x->node == y->node
                                               : x->domain == y->domain;
        n += same && b->live[i].group == group;
    }
    return n;
}

/* What of |gpu| decides, the least first: weights elsewhere, area left over, free memory, number. */
struct score {
    long level, elsewhere, left;
    uint64_t mem;
};

static bool score(const struct books *b, const struct fast_want *w, int g, struct score *ret)
{
    const struct store *s = &b->store[g][w->weights];
    bool has = w->weights && (s->refs || s->resident), charged = has && (s->refs || s->firm);
    uint64_t need = w->slice.mem_bytes + (charged || !w->weights ? 0 : has && s->bytes ? s->bytes : w->weights_bytes);
    int sm = w->exclusive ? 100 : w->slice.sm_pct, quota = w->exclusive ? 1000 : w->slice.request_milli;
    struct fast_gpu_room room;
    struct fast_rect at, from;
    assert_int_equal(fast_fleet_gpu_room(b->fleet, g, &room, NULL), 0);
    if (!b->open[g] || b->alone[g] || (w->exclusive && room.replicas) || room.mem_free < need ||
        (w->type && w->type != b->conf[g].type) || (w->node != FAST_ANY && w->node != b->conf[g].node) ||
        (w->avoid && with(b, w->avoid, g, w->avoid_scope)) || (w->near && !with(b, w->near, g, w->near_scope)) ||
        room.rects->nused == FAST_RECTS_USED_MAX || !fast_rects_find(room.rects, quota, sm, FAST_FIT_AREA, &at, &from))
        return false;
    *ret = (struct score){.level = w->spread && w->group ? with(b, w->group, g, FAST_SCOPE_DOMAIN) : 0,
                          .elsewhere = w->weights && !has,
                          .left = fast_rect_area(&from) - fast_rect_area(&at),
                          .mem = room.mem_free};
    return true;
}

static bool is_better(const struct score *a, const struct score *b)
{
    if (a->level != b->level)
        return a->level < b->level;
    if (a->elsewhere != b->elsewhere)
        return a->elsewhere < b->elsewhere;
    return a->left != b->left ? a->left < b->left : a->mem < b->mem;
}

/* -1: none. */
static int look_at_all(const struct books *b, const struct fast_want *w)
{
    int best = -1;
    struct score least = {0}, it;
    for (int g = 0; g < b->gpus; g++)
        if (score(b, w, g, &it) && (best < 0 || is_better(&it, &least))) {
            best = g;
            least = it;
        }
    return best;
}

static struct fast_want draw_want(struct books *b)
{
    static const int sms[] = {6, 12, 24, 50, 60, 100}, quotas[] = {100, 200, 400, 500, 1000};
    int quota = quotas[draw(b, 5)];
    struct fast_want w = {.slice = {sms[draw(b, 6)], quota, quota, FAST_MIB(256 * (1 + draw(b, 6)))},
                          .node = FAST_ANY, .gpu = FAST_ANY};
    w.exclusive = draw(b, 40) == 0;
    if (draw(b, 2)) {
        w.weights = 1 + (uint64_t)draw(b, MODELS);
        w.weights_bytes = FAST_MIB(300 * w.weights);
    }
    if (draw(b, 2)) {
        w.group = 1 + (uint64_t)draw(b, GROUPS);
        w.spread = draw(b, 2);
        w.avoid = draw(b, 3) ? 0 : draw(b, 2) ? w.group : 1 + (uint64_t)draw(b, GROUPS);
        w.avoid_scope = (enum fast_scope)draw(b, 3);
        w.near = draw(b, 6) ? 0 : 1 + (uint64_t)draw(b, GROUPS);
        w.near_scope = (enum fast_scope)draw(b, 3);
    }
    if (draw(b, 10) == 0)
        w.node = draw(b, b->gpus / 2);
    if (draw(b, 10) == 0)
        w.type = 1 + (uint32_t)draw(b, 2);
    return w;
}

static void come(struct books *b, int *placed, int *refused)
{
    struct fast_want w = draw_want(b);
    struct fast_placed at;
    int expected = look_at_all(b, &w);
    int rc = fast_fleet_place(b->fleet, b->next, &w, &at, NULL);
    *placed += !rc;
    *refused += rc != 0;
    assert_int_equal(rc, expected < 0 ? -FAST_ENOROOM : 0);
    if (rc)
        return;
    assert_int_equal(at.gpu, expected);
    struct store *s = &b->store[at.gpu][w.weights];
    if (w.weights && !s->refs && !s->resident)
        *s = (struct store){.bytes = w.weights_bytes};
    s->refs += w.weights != 0;
    b->alone[at.gpu] |= w.exclusive;
    b->live[b->n++] = (struct live){b->next++, at.gpu, w.weights, w.group};
}

static void leave(struct books *b)
{
    int i = draw(b, b->n);
    const struct live it = b->live[i];
    assert_int_equal(fast_fleet_remove(b->fleet, it.id, NULL), 0);
    b->live[i] = b->live[--b->n];
    b->store[it.gpu][it.weights].refs -= it.weights != 0;
    b->alone[it.gpu] = false; /* it had it alone, or nobody has */
}

/* A store has weights or drops them, sometimes in another size; a GPU closes or opens. */
static void change(struct books *b)
{
    int g = draw(b, b->gpus);
    uint64_t weights = 1 + (uint64_t)draw(b, MODELS);
    struct store *s = &b->store[g][weights];
    if (draw(b, 4) == 0) {
        b->open[g] = draw(b, 4) > 0;
        fast_fleet_gpu_open(b->fleet, g, b->open[g]);
        return;
    }
    uint64_t bytes = draw(b, 4) ? FAST_MIB(300 * weights) / (1 + (uint64_t)(draw(b, 5) == 0)) : 0;
    bool firm = draw(b, 2);
    assert_int_equal(fast_fleet_weights(b->fleet, g, weights, bytes, firm, NULL), 0);
    s->resident = bytes > 0;
    s->firm = bytes && firm;
    if (bytes)
        s->bytes = bytes;
}

static void play(unsigned seed, int gpus, int domain_size, int steps)
{
    static struct books b;
    const struct fast_fleet_conf conf = {FAST_FIT_AREA, FAST_RECLAIM_RESTRUCTURE, false, false};
    int placed = 0, refused = 0;
    b = (struct books){.gpus = gpus, .seed = seed, .next = 1};
    assert_int_equal(fast_fleet_new(&conf, &b.fleet, NULL), 0);
    for (int g = 0, number; g < gpus; g++) {
        b.conf[g] = (struct fast_gpu_conf){(uint32_t)g / 2, g % 2, FAST_GIB(draw(&b, 2) ? 8 : 16),
                                           1 + (uint32_t)draw(&b, 2), 7 + (uint32_t)((g / domain_size) * 5 % 97)};
        b.open[g] = true;
        assert_int_equal(fast_fleet_gpu_add(b.fleet, &b.conf[g], &number, NULL), 0);
    }
    for (int step = 0; step < steps; step++) {
        /* It fills up, empties, and fills up again. */
        int leaving = step % 1000 < 500 ? 25 : 60;
        if (draw(&b, 5) == 0)
            change(&b);
        else if (b.n && draw(&b, 100) < leaving)
            leave(&b);
        else
            come(&b, &placed, &refused);
        if (step % 200 == 0)
            assert_true(fast_fleet_valid(b.fleet));
    }
    assert_true(placed > steps / 10 && (gpus > 30 || refused > steps / 50));
    while (b.n)
        leave(&b);
    assert_true(fast_fleet_valid(b.fleet));
    fast_fleet_free(b.fleet);
}

static void small_fleets(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 10; seed++)
        play(seed, 3 + 2 * (int)seed, 1 + (int)seed % 4, 3000);
}

static void large_fleets(void **state)
{
    (void)state;
    for (unsigned seed = 11; seed <= 13; seed++)
        play(seed, GPUS, seed == 13 ? 1 : 5, 3000);
}

/* All domains but one have the group, and nearly all free places are in those: the search through the whole
 * fleet gives up and that domain is found, with the weights and without. */
static void one_domain_left(void **state)
{
    (void)state;
    const struct fast_fleet_conf conf = {FAST_FIT_AREA, FAST_RECLAIM_RESTRUCTURE, false, false};
    struct fast_fleet *fleet = NULL;
    struct fast_placed at;
    struct fast_want w = {.slice = {12, 200, 200, FAST_MIB(256)}, .node = FAST_ANY, .gpu = FAST_ANY, .group = 1};
    assert_int_equal(fast_fleet_new(&conf, &fleet, NULL), 0);
    for (int g = 0, number; g < 1000; g++) {
        const struct fast_gpu_conf it = {(uint32_t)g, 0, FAST_GIB(16), 1, (uint32_t)g / 10};
        assert_int_equal(fast_fleet_gpu_add(fleet, &it, &number, NULL), 0);
        assert_int_equal(fast_fleet_weights(fleet, number, 9, FAST_GIB(1), g % 2, NULL), 0);
    }
    for (w.gpu = 0; w.gpu < 1000; w.gpu++)
        if (w.gpu / 10 != 99)
            assert_int_equal(fast_fleet_place(fleet, 1 + (uint64_t)w.gpu, &w, &at, NULL), 0);
    w.gpu = FAST_ANY;
    for (int k = 0; k < 4; k++) {
        w.weights = k % 2 ? 9 : 0;
        w.weights_bytes = k % 2 ? FAST_GIB(1) : 0;
        w.spread = k < 2;
        w.avoid = k < 2 ? 0 : 1;
        w.avoid_scope = FAST_SCOPE_DOMAIN;
        assert_int_equal(fast_fleet_choose(fleet, &w, &at, NULL), 0);
        assert_int_equal(at.gpu, 991);
    }
    fast_fleet_free(fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_fleets),
        cmocka_unit_test(large_fleets),
        cmocka_unit_test(one_domain_left),
    };
    return cmocka_run_group_tests_name("place_index", tests, NULL, NULL);
}
