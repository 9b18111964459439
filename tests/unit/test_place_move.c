#include "core/place.h"
#include "core/sched_plan.h"

#include <stdlib.h>

#include "test.h"

#define MEM FAST_GIB(16)

/* Two GPUs a node, two nodes a failure domain; every other node has GPUs of type 2. */
static struct fast_fleet *fleet_of(int gpus, bool split)
{
    const struct fast_fleet_conf conf = {FAST_FIT_AREA, FAST_RECLAIM_RESTRUCTURE, false, split};
    struct fast_fleet *fleet = NULL;
    assert_int_equal(fast_fleet_new(&conf, &fleet, NULL), 0);
    for (int i = 0, gpu; i < gpus; i++) {
        const struct fast_gpu_conf it = {(uint32_t)i / 2, i % 2, MEM, 1 + (uint32_t)i / 2 % 2,
                                         (uint32_t)i / 4};
        assert_int_equal(fast_fleet_gpu_add(fleet, &it, &gpu, NULL), 0);
    }
    return fleet;
}

static struct fast_want want(int sm, int quota, uint64_t mem)
{
    return (struct fast_want){.slice = {sm, quota, quota, mem}, .node = FAST_ANY, .gpu = FAST_ANY};
}

static int place(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *w)
{
    struct fast_placed at;
    struct fast_err err = {0};
    int rc = fast_fleet_place(fleet, replica, w, &at, &err);
    assert_true(fast_fleet_valid(fleet));
    return rc ? -1 : at.gpu;
}

static void refused(struct fast_fleet *fleet, const struct fast_want *w, const char *text)
{
    struct fast_placed at;
    struct fast_err err = {0};
    assert_int_equal(fast_fleet_place(fleet, 999999, w, &at, &err), -FAST_ENOROOM);
    if (!strstr(err.msg, text))
        fail_msg("the message is: %s", err.msg);
}

static void types(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(8, true);
    struct fast_want w = want(50, 500, FAST_GIB(1));
    w.type = 2;
    for (uint64_t i = 1; i <= 16; i++) /* four GPUs of type 2, four places on each */
        assert_int_equal(place(fleet, i, &w) / 2 % 2, 1);
    refused(fleet, &w, "SM x quota: 50 % x 0.500 wanted");
    w.type = 3;
    refused(fleet, &w, "none is of the type that is wanted");
    fast_fleet_free(fleet);
}

/* One after the other over the domains, though one GPU would hold them all. */
static void spreading(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(12, true);
    struct fast_want w = want(12, 200, FAST_GIB(1));
    int count[3] = {0};
    w.group = 7;
    w.spread = true;
    for (uint64_t i = 1; i <= 9; i++) {
        count[place(fleet, i, &w) / 4]++;
        for (int d = 0; d < 3; d++)
            assert_in_range(count[d], i / 3, (i + 2) / 3);
    }
    /* Those of another group do not count, and a domain that lost one is next. */
    struct fast_want other = want(12, 200, FAST_GIB(1));
    other.group = 8;
    for (uint64_t i = 100; i < 110; i++)
        assert_true(place(fleet, i, &other) >= 0);
    const struct fast_placed *gone = fast_fleet_find(fleet, 5);
    int domain = gone->gpu / 4;
    assert_int_equal(fast_fleet_remove(fleet, 5, NULL), 0);
    assert_int_equal(place(fleet, 5, &w) / 4, domain);
    /* It is a preference: when the best domain is full, the next one is taken. */
    for (int g = 0; g < 4; g++)
        fast_fleet_gpu_open(fleet, g, false);
    for (uint64_t i = 20; i < 26; i++)
        assert_true(place(fleet, i, &w) >= 4);
    fast_fleet_free(fleet);
}

static void company(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(8, true);
    struct fast_want loud = want(12, 200, FAST_GIB(1)), quiet = loud, near = loud;
    loud.group = 1;
    quiet.avoid = 1;
    assert_int_equal(place(fleet, 1, &loud), 0);
    assert_int_equal(place(fleet, 2, &quiet), 1);
    quiet.avoid_scope = FAST_SCOPE_NODE;
    assert_int_equal(place(fleet, 3, &quiet), 2);
    quiet.avoid_scope = FAST_SCOPE_DOMAIN;
    assert_int_equal(place(fleet, 4, &quiet), 4);
    near.near = 1;
    assert_int_equal(place(fleet, 5, &near), 0);
    near.near = 2;
    refused(fleet, &near, "neighbours:");
    near.near = 1;
    near.near_scope = FAST_SCOPE_NODE;
    near.exclusive = true; /* GPU 0 and 1 have replicas */
    refused(fleet, &near, "");
    /* One of each group a GPU: anti-affinity to itself. */
    struct fast_want alone = want(12, 200, FAST_GIB(1));
    alone.group = alone.avoid = 9;
    int seen = 0;
    for (uint64_t i = 10; i < 18; i++)
        seen |= 1 << place(fleet, i, &alone);
    assert_int_equal(seen, 255);
    refused(fleet, &alone, "neighbours:");
    assert_int_equal(fast_fleet_remove(fleet, 12, NULL), 0);
    assert_true(place(fleet, 12, &alone) >= 0);
    fast_fleet_free(fleet);
}

static void gangs(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(6, true);
    struct fast_want one = want(12, 200, FAST_GIB(1)), whole = want(100, 1000, FAST_GIB(8));
    struct fast_placed at[3];
    struct fast_err err;
    const uint64_t parts[3] = {50, 51, 52}, more[3] = {60, 61, 62};
    whole.exclusive = true;
    assert_int_equal(place(fleet, 1, &one), 0);
    assert_int_equal(fast_fleet_place_gang(fleet, parts, 3, &whole, at, &err), -FAST_ENOROOM);
    assert_string_equal(err.msg, "3 GPUs of one node are wanted: at most 2 of a node fit");
    assert_int_equal(fast_fleet_place_gang(fleet, parts, 2, &whole, at, &err), 0);
    assert_true(at[0].gpu == 2 && at[1].gpu == 3);
    assert_int_equal(fast_fleet_place_gang(fleet, more, 2, &whole, at, &err), 0);
    assert_true(at[0].gpu == 4 && at[1].gpu == 5);
    assert_true(fast_fleet_valid(fleet));
    const uint64_t last[1] = {70};
    assert_int_equal(fast_fleet_place_gang(fleet, last, 1, &whole, at, &err), 0);
    assert_int_equal(at[0].gpu, 1);
    assert_int_equal(fast_fleet_remove(fleet, 60, NULL), 0);
    assert_int_equal(fast_fleet_place_gang(fleet, parts, 2, &one, at, &err), -FAST_ENOROOM);
    assert_int_equal(fast_fleet_remove(fleet, 61, NULL), 0);
    assert_int_equal(fast_fleet_place_gang(fleet, more, 2, &one, at, &err), 0);
    assert_int_not_equal(at[0].gpu, at[1].gpu);
    fast_fleet_free(fleet);
}

/* Parts that must not be with each other on a node do not fit, and those that were placed go. */
static void gang_all_or_none(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(4, true);
    struct fast_want w = want(12, 200, FAST_GIB(1));
    struct fast_placed at[2];
    struct fast_err err;
    const uint64_t parts[2] = {50, 51};
    w.group = w.avoid = 9;
    w.avoid_scope = FAST_SCOPE_NODE;
    assert_int_equal(fast_fleet_place_gang(fleet, parts, 2, &w, at, &err), -FAST_ENOROOM);
    assert_null(fast_fleet_find(fleet, 50));
    assert_null(fast_fleet_find(fleet, 51));
    assert_true(fast_fleet_valid(fleet));
    fast_fleet_free(fleet);
}

static int gang(struct fast_fleet *fleet, uint64_t first, uint32_t on, const struct fast_want *w, struct fast_err *err)
{
    const uint64_t parts[2] = {first, first + 1};
    struct fast_placed at[2];
    for (int i = 0; i < fast_fleet_gpus(fleet); i++)
        fast_fleet_gpu_open(fleet, i, on >> i & 1);
    int rc = fast_fleet_place_gang(fleet, parts, 2, w, at, err);
    for (int i = 0; i < fast_fleet_gpus(fleet); i++)
        fast_fleet_gpu_open(fleet, i, true);
    assert_true(fast_fleet_valid(fleet));
    return rc;
}

/* One node of |gpus|. */
static struct fast_fleet *node_of(int gpus, uint64_t mem)
{
    const struct fast_fleet_conf conf = {FAST_FIT_AREA, FAST_RECLAIM_RESTRUCTURE, false, false};
    struct fast_fleet *fleet = NULL;
    assert_int_equal(fast_fleet_new(&conf, &fleet, NULL), 0);
    for (int i = 0, gpu; i < gpus; i++) {
        const struct fast_gpu_conf it = {0, i, mem, 1, (uint32_t)i};
        assert_int_equal(fast_fleet_gpu_add(fleet, &it, &gpu, NULL), 0);
    }
    return fleet;
}

/* Three GPUs that gangs link in a ring: each GPU by itself has room for two of 0.4, all together have not, as no two
 * of the gangs can run at once. */
static void gangs_have_one_schedule(void **state)
{
    (void)state;
    struct fast_fleet *fleet = node_of(4, MEM);
    struct fast_want w = want(60, 400, FAST_GIB(1));
    struct fast_placed at;
    struct fast_err err = {0};
    assert_int_equal(gang(fleet, 10, 3, &w, &err), 0);
    assert_true(fast_fleet_linked(fleet, 0, 1) && !fast_fleet_linked(fleet, 1, 2));
    assert_int_equal(gang(fleet, 20, 6, &w, &err), 0);
    assert_true(fast_fleet_linked(fleet, 0, 2) && !fast_fleet_linked(fleet, 0, 3));
    assert_int_equal(gang(fleet, 30, 5, &w, &err), -FAST_ENOROOM);
    assert_non_null(strstr(err.msg, "schedule together"));
    assert_null(fast_fleet_find(fleet, 30));
    w.slice.request_milli = w.slice.limit_milli = 200;
    assert_int_equal(gang(fleet, 30, 5, &w, &err), 0);
    /* With a part more for one of them it would not, nor with somebody new, where a rectangle is free. */
    w.slice.request_milli = w.slice.limit_milli = 250;
    assert_int_equal(fast_fleet_resize(fleet, 30, &w.slice, &at, &err), -FAST_ENOROOM);
    assert_non_null(strstr(err.msg, "schedule together"));
    w.slice.request_milli = w.slice.limit_milli = 100;
    w.gpu = 0;
    assert_int_equal(place(fleet, 40, &w), 0); /* beside the gang of GPU 1 and 2 */
    w.slice.request_milli = w.slice.limit_milli = 310;
    assert_int_equal(place(fleet, 41, &w), -1);
    refused(fleet, &w, "SM x quota");
    /* Where two of three GPUs have no schedule, the third is taken. */
    w = want(60, 500, FAST_GIB(1));
    assert_int_equal(fast_fleet_remove(fleet, 30, NULL) || fast_fleet_remove(fleet, 31, NULL), 0);
    assert_int_equal(fast_fleet_remove(fleet, 40, NULL), 0);
    assert_int_equal(gang(fleet, 50, 13, &w, &err), 0);
    assert_true(fast_fleet_find(fleet, 50)->gpu == 0 && fast_fleet_find(fleet, 51)->gpu == 3);
    assert_int_equal(fast_fleet_remove(fleet, 10, NULL) || fast_fleet_remove(fleet, 11, NULL), 0);
    assert_false(fast_fleet_linked(fleet, 0, 1));
    fast_fleet_free(fleet);
}

/* Linked GPUs have one plan, with room for so many. */
static void gangs_are_few(void **state)
{
    (void)state;
    struct fast_fleet *fleet = node_of(2, FAST_GIB(1000));
    struct fast_want w = want(1, 10, FAST_GIB(1));
    struct fast_err err = {0};
    assert_int_equal(gang(fleet, 1000, 3, &w, &err), 0);
    uint64_t n = 1;
    while (n < 100 && place(fleet, n, &w) >= 0)
        n++;
    assert_int_equal(n, 64); /* and the gang */
    refused(fleet, &w, "replicas: GPUs that replicas of several GPUs");
    assert_int_equal(gang(fleet, 2000, 3, &w, &err), -FAST_ENOROOM);
    assert_int_equal(fast_fleet_remove(fleet, 5, NULL), 0);
    assert_int_equal(gang(fleet, 2000, 3, &w, &err), 0);
    fast_fleet_free(fleet);
}

/* Who was placed near somebody stays there. */
static void near_stays(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(2, false);
    struct fast_want first = want(25, 200, FAST_GIB(1)), near = first;
    struct fast_move moves[8];
    struct fast_defrag worth;
    first.group = near.near = 1;
    assert_int_equal(place(fleet, 1, &first), 0);
    assert_int_equal(place(fleet, 2, &near), 0);
    first.group = 2;
    first.gpu = 1;
    first.slice.request_milli = 600; /* fuller, so that GPU 0 would be emptied first */
    first.slice.limit_milli = 600;
    assert_int_equal(place(fleet, 3, &first), 1);
    assert_int_equal(fast_fleet_remove(fleet, 1, NULL), 0);
    assert_int_equal(fast_fleet_defrag(fleet, 8, UINT64_MAX, moves, &worth, NULL), 0);
    for (int i = 0; i < worth.nmoves; i++)
        assert_int_not_equal(moves[i].replica, 2);
    fast_fleet_free(fleet);
}

/* A plan that is only made leaves every replica as it was: same GPU, same extent, a rectangle if it had one. */
static void plans_change_nothing(void **state)
{
    (void)state;
    static const int sm[] = {6, 12, 24, 50, 60}, quota[] = {200, 300, 400, 600, 700, 1000};
    unsigned seed = 11;
    int made = 0;
    for (int round = 0; round < 120; round++) {
        struct fast_fleet *fleet = fleet_of(4, round % 2);
        struct fast_placed before[80] = {0};
        struct fast_move moves[FAST_MOVES_MAX];
        struct fast_defrag worth;
        for (uint64_t id = 1; id < 80; id++) {
            struct fast_want w = want(sm[rand_r(&seed) % 5], quota[rand_r(&seed) % 6], FAST_MIB(128));
            place(fleet, id, &w);
            if (id > 20)
                fast_fleet_remove(fleet, 1 + (uint64_t)rand_r(&seed) % id, NULL);
        }
        for (uint64_t id = 1; id < 80; id++)
            if (fast_fleet_find(fleet, id))
                before[id] = *fast_fleet_find(fleet, id);
        struct fast_want wide = want(sm[rand_r(&seed) % 5], quota[rand_r(&seed) % 6], FAST_MIB(128));
        made += !fast_fleet_make_room(fleet, &wide, 6, moves, &worth, NULL);
        fast_fleet_defrag(fleet, 8, UINT64_MAX, moves, &worth, NULL);
        assert_true(fast_fleet_valid(fleet));
        for (uint64_t id = 1; id < 80; id++) {
            const struct fast_placed *now = fast_fleet_find(fleet, id), *was = &before[id];
            assert_int_equal(now != NULL, was->rect.quota > 0);
            if (now && (now->gpu != was->gpu || now->rect.quota != was->rect.quota ||
                        now->rect.sm != was->rect.sm || now->forced || (now->split && !was->split)))
                fail_msg("round %d, replica %d: quota %d then %d, split %d then %d, forced %d", round, (int)id,
                         was->rect.quota, now->rect.quota, was->split, now->split, now->forced);
        }
        fast_fleet_free(fleet);
    }
    assert_true(made > 10);
}

static int idle(const struct fast_fleet *fleet)
{
    int n = 0;
    for (int g = 0; g < fast_fleet_gpus(fleet); g++) {
        struct fast_gpu_room room;
        assert_int_equal(fast_fleet_gpu_room(fleet, g, &room, NULL), 0);
        n += !room.replicas;
    }
    return n;
}

/* Each copy has its place while the replica still has its own. */
static void carry_out(struct fast_fleet *fleet, const struct fast_move *moves, int n, uint64_t *id)
{
    for (int i = 0; i < n; i++) {
        struct fast_placed at;
        struct fast_err err;
        assert_int_equal(fast_fleet_find(fleet, moves[i].replica)->gpu, moves[i].from);
        if (fast_fleet_place(fleet, (*id)++, &moves[i].want, &at, &err))
            fail_msg("move %d: %s", i, err.msg);
        assert_int_equal(at.gpu, moves[i].to);
    }
    for (int i = 0; i < n; i++)
        assert_int_equal(fast_fleet_remove(fleet, moves[i].replica, NULL), 0);
    assert_true(fast_fleet_valid(fleet));
}

static void defragments(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(4, false);
    struct fast_want w = want(50, 500, FAST_GIB(2));
    struct fast_move moves[8];
    struct fast_defrag worth;
    uint64_t id = 100;
    for (int g = 0; g < 3; g++) { /* one replica on each of three GPUs of two types */
        struct fast_want here = w;
        here.gpu = g;
        assert_int_equal(place(fleet, (uint64_t)g + 1, &here), g);
    }
    assert_int_equal(fast_fleet_defrag(fleet, 8, UINT64_MAX, moves, &worth, NULL), 0);
    assert_true(worth.nmoves == 1 && worth.gpus == 1 && worth.bytes == FAST_GIB(2));
    assert_int_equal(worth.area, 50 * 500);
    assert_true(moves[0].replica == 1 && moves[0].from == 0 && moves[0].to == 1); /* its type is there */
    assert_int_equal(fast_fleet_find(fleet, 1)->gpu, 0); /* nothing has changed */
    assert_int_equal(idle(fleet), 1);
    carry_out(fleet, moves, 1, &id);
    assert_int_equal(idle(fleet), 2);
    assert_int_equal(fast_fleet_defrag(fleet, 8, UINT64_MAX, moves, &worth, NULL), 0);
    assert_int_equal(worth.nmoves, 0); /* what is left is of different types */
    fast_fleet_free(fleet);

    /* Too many moves or bytes for the budget, and who is tied stays. */
    fleet = fleet_of(2, false);
    for (uint64_t i = 1; i <= 4; i++) {
        struct fast_want here = want(25, 200, FAST_GIB(1));
        here.gpu = i <= 2 ? 0 : 1;
        place(fleet, i, &here);
    }
    assert_int_equal(fast_fleet_defrag(fleet, 1, UINT64_MAX, moves, &worth, NULL), 0);
    assert_int_equal(worth.nmoves, 0);
    assert_int_equal(fast_fleet_defrag(fleet, 8, FAST_GIB(2) - 1, moves, &worth, NULL), 0);
    assert_int_equal(worth.nmoves, 0);
    assert_int_equal(fast_fleet_defrag(fleet, 2, FAST_GIB(2), moves, &worth, NULL), 0);
    assert_int_equal(worth.nmoves, 2);
    struct fast_want tied = want(25, 200, FAST_GIB(1));
    tied.avoid = 77;
    tied.gpu = 0;
    assert_int_equal(place(fleet, 5, &tied), 0);
    struct fast_placed placed;
    tied.avoid = 0;
    tied.tied = true;
    tied.gpu = 1;
    assert_int_equal(fast_fleet_adopt(fleet, 6, &tied, &placed, NULL), 0);
    assert_int_equal(fast_fleet_defrag(fleet, 8, UINT64_MAX, moves, &worth, NULL), 0);
    assert_int_equal(worth.nmoves, 0);
    fast_fleet_free(fleet);
}

static void makes_room(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(2, false);
    struct fast_want small = want(100, 300, FAST_GIB(1)), large = want(100, 800, FAST_GIB(1));
    struct fast_move moves[4];
    struct fast_defrag worth;
    struct fast_err err;
    uint64_t id = 100;
    for (uint64_t i = 0; i < 2; i++) {
        small.gpu = (int)i;
        assert_int_equal(place(fleet, i + 1, &small), (int)i);
    }
    refused(fleet, &large, "SM x quota");
    assert_int_equal(fast_fleet_make_room(fleet, &large, 4, moves, &worth, &err), 0);
    assert_true(worth.nmoves == 1 && moves[0].replica == 1 && moves[0].to == 1);
    refused(fleet, &large, "SM x quota"); /* only a plan */
    carry_out(fleet, moves, 1, &id);
    assert_int_equal(place(fleet, 9, &large), 0);
    large.slice.request_milli = 900;
    assert_int_equal(fast_fleet_make_room(fleet, &large, 4, moves, &worth, &err), -FAST_ENOROOM);
    assert_true(strstr(err.msg, "no 4 moves") != NULL);
    fast_fleet_free(fleet);
}

/* Whatever has come and gone: a plan can be carried out as it stands, and frees what it says. */
static void random_fleets(void **state)
{
    (void)state;
    unsigned seed = 3;
    int freed = 0, cleared = 0;
    for (int round = 0; round < 40; round++) {
        struct fast_fleet *fleet = fleet_of(16, round % 2);
        struct fast_move moves[FAST_MOVES_MAX];
        struct fast_defrag worth;
        uint64_t id = 1;
        for (int i = 0; i < 300; i++) {
            static const int sm[] = {6, 12, 24, 50}, quota[] = {200, 400, 600, 800, 1000};
            struct fast_want w = want(sm[rand_r(&seed) % 4], quota[rand_r(&seed) % 5], FAST_MIB(256));
            w.group = 1 + (uint64_t)(rand_r(&seed) % 5);
            place(fleet, id++, &w);
            if (i > 100)
                for (int k = 0; k < 2; k++)
                    fast_fleet_remove(fleet, 1 + (uint64_t)rand_r(&seed) % id, NULL);
        }
        int before = idle(fleet);
        assert_int_equal(fast_fleet_defrag(fleet, 16, UINT64_MAX, moves, &worth, NULL), 0);
        assert_true(fast_fleet_valid(fleet));
        assert_int_equal(idle(fleet), before);
        carry_out(fleet, moves, worth.nmoves, &id);
        assert_int_equal(idle(fleet), before + worth.gpus);
        freed += worth.gpus;
        struct fast_want wide = want(100, 700, FAST_MIB(256));
        for (int g = 0; g < 16; g++)
            if (place(fleet, id, &wide) >= 0)
                id++;
        wide.slice.request_milli = 600;
        if (place(fleet, id++, &wide) < 0 &&
            !fast_fleet_make_room(fleet, &wide, 6, moves, &worth, NULL)) {
            assert_true(fast_fleet_valid(fleet));
            carry_out(fleet, moves, worth.nmoves, &id);
            assert_true(place(fleet, id, &wide) >= 0);
            cleared++;
        }
        fast_fleet_free(fleet);
    }
    print_message("%d GPUs emptied, %d times room made\n", freed, cleared);
    assert_true(freed > 0);
}

#define LIVE_MAX 16

/* Somebody that has a place: on |n| GPUs, with the keys |key| and those after it. */
struct live {
    uint64_t key;
    int n;
};

/* The whole node has a schedule, each one on all of his GPUs at once. */
static bool has_schedule(const struct fast_fleet *fleet, const struct live *live, int n)
{
    struct fast_plan_item items[LIVE_MAX];
    for (int i = 0; i < n; i++) {
        items[i].gpus = 0;
        for (int k = 0; k < live[i].n; k++) {
            const struct fast_placed *p = fast_fleet_find(fleet, live[i].key + (uint64_t)k);
            items[i].sm_pct = p->rect.sm;
            items[i].request_ns = FAST_US(p->rect.quota);
            items[i].gpus |= UINT32_C(1) << p->gpu;
        }
        assert_int_equal(__builtin_popcount(items[i].gpus), live[i].n);
    }
    return fast_plan_fits(items, n, FAST_MS(1));
}

static struct fast_want random_want(unsigned *seed)
{
    static const int sm[] = {12, 24, 51, 60}, quota[] = {100, 200, 300, 400};
    return want(sm[rand_r(seed) % 4], quota[rand_r(seed) % 4], FAST_MIB(256));
}

static bool come(struct fast_fleet *fleet, struct live *it, unsigned *seed, int *refusals)
{
    const uint64_t keys[] = {it->key, it->key + 1, it->key + 2};
    const struct fast_want w = random_want(seed);
    struct fast_placed at[3];
    struct fast_err err = {0};
    int rc = it->n > 1 ? fast_fleet_place_gang(fleet, keys, it->n, &w, at, &err)
                       : fast_fleet_place(fleet, it->key, &w, at, &err);
    *refusals += rc && strstr(err.msg, "schedule together");
    return !rc;
}

static void resize(struct fast_fleet *fleet, const struct live *it, unsigned *seed)
{
    const struct fast_slice to = random_want(seed).slice;
    const struct fast_placed *was = fast_fleet_find(fleet, it->key);
    const struct fast_slice old = {was->rect.sm, was->rect.quota, was->rect.quota, was->mem_bytes};
    struct fast_placed at;
    int rc = 0, done = 0;
    for (; !rc && done < it->n; done += !rc)
        rc = fast_fleet_resize(fleet, it->key + (uint64_t)done, &to, &at, NULL);
    while (rc && done > 0)
        assert_int_equal(fast_fleet_resize(fleet, it->key + (uint64_t)--done, &old, &at, NULL), 0);
}

/* Whoever comes, goes and changes on four GPUs: what was let in has one schedule, and no plan moves a gang. */
static void random_gangs(void **state)
{
    (void)state;
    unsigned seed = 5;
    int refusals = 0, gangs = 0;
    for (int round = 0; round < 60; round++) {
        struct fast_fleet *fleet = NULL;
        struct live live[LIVE_MAX];
        struct fast_move moves[FAST_MOVES_MAX];
        struct fast_defrag worth;
        uint64_t key = 1;
        int n = 0;
        fleet = node_of(4, MEM);
        for (int i = 0; i < 60; i++) {
            int what = rand_r(&seed) % 8, which = n ? rand_r(&seed) % n : 0;
            if (what < 5 && n < LIVE_MAX) {
                live[n] = (struct live){key, 1 + rand_r(&seed) % 3};
                key += 3;
                bool came = come(fleet, &live[n], &seed, &refusals);
                gangs += came && live[n].n > 1;
                n += came;
            } else if (n && what < 7) {
                for (int k = 0; k < live[which].n; k++)
                    assert_int_equal(fast_fleet_remove(fleet, live[which].key + (uint64_t)k, NULL), 0);
                live[which] = live[--n];
            } else if (n) {
                resize(fleet, &live[which], &seed);
            }
            assert_true(fast_fleet_valid(fleet));
            assert_true(has_schedule(fleet, live, n));
        }
        assert_int_equal(fast_fleet_defrag(fleet, 16, UINT64_MAX, moves, &worth, NULL), 0);
        for (int i = 0; i < worth.nmoves; i++)
            assert_false(fast_fleet_find(fleet, moves[i].replica)->gang);
        fast_fleet_free(fleet);
    }
    print_message("%d gangs, %d refused for want of one schedule\n", gangs, refusals);
    assert_true(gangs > 0 && refusals > 0);
}

/* Both GPUs of the second node have room for a third replica of 50 % x 0.6 by a schedule only. */
static void gang_by_schedule(void **state)
{
    (void)state;
    struct fast_want w = want(50, 600, FAST_GIB(1)), whole = want(100, 1000, FAST_GIB(1));
    const uint64_t parts[] = {21, 22}, more[] = {31, 32};
    struct fast_placed at[2];
    struct fast_err err = {0};
    for (int split = 0; split < 2; split++) {
        struct fast_fleet *fleet = fleet_of(4, split);
        for (int i = 0; i < 6; i++) { /* two whole ones on node 0, four halves on node 1 */
            struct fast_want *it = i < 2 ? &whole : &w;
            it->gpu = i < 2 ? i : 2 + i % 2;
            assert_int_equal(place(fleet, 1 + (uint64_t)i, it), it->gpu);
        }
        w.gpu = FAST_ANY;
        int rc = fast_fleet_place_gang(fleet, parts, 2, &w, at, &err);
        assert_int_equal(rc, split ? 0 : -FAST_ENOROOM);
        for (int i = 0; split && i < 2; i++) {
            assert_int_equal(at[i].gpu, 2 + i);
            assert_true(at[i].split);
        }
        assert_int_equal(fast_fleet_place_gang(fleet, more, 2, &w, at, &err), -FAST_ENOROOM);
        assert_true(fast_fleet_valid(fleet));
        fast_fleet_free(fleet);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gang_by_schedule),
        cmocka_unit_test(types), cmocka_unit_test(spreading), cmocka_unit_test(company),
        cmocka_unit_test(gangs), cmocka_unit_test(gang_all_or_none),
        cmocka_unit_test(gangs_have_one_schedule),
        cmocka_unit_test(gangs_are_few),
        cmocka_unit_test(near_stays),
        cmocka_unit_test(plans_change_nothing),
        cmocka_unit_test(defragments), cmocka_unit_test(makes_room),
        cmocka_unit_test(random_fleets), cmocka_unit_test(random_gangs),
    };
    return cmocka_run_group_tests_name("place_move", tests, NULL, NULL);
}
