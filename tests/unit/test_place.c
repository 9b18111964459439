#include "core/place.h"

#include <stdlib.h>

#include "test.h"

#define V100 FAST_GIB(16)

static struct fast_fleet *fleet_of(int gpus, uint64_t mem, bool repack)
{
    const struct fast_fleet_conf conf = {FAST_FIT_AREA, FAST_RECLAIM_RESTRUCTURE, repack};
    struct fast_fleet *fleet = NULL;
    assert_int_equal(fast_fleet_new(&conf, &fleet, NULL), 0);
    for (int i = 0; i < gpus; i++) {
        int gpu = -1;
        const struct fast_gpu_conf gpu_conf = {(uint32_t)i / 2, i % 2, mem};
        assert_int_equal(fast_fleet_gpu_add(fleet, &gpu_conf, &gpu, NULL), 0);
        assert_int_equal(gpu, i);
    }
    return fleet;
}

static struct fast_want want(int sm, int quota, uint64_t mem)
{
    return (struct fast_want){.slice = {sm, quota, quota ? quota : 1000, mem},
                              .node = FAST_ANY, .gpu = FAST_ANY};
}

static void must_place(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *w,
                       int gpu)
{
    struct fast_placed at;
    struct fast_err err = {0};
    if (fast_fleet_place(fleet, replica, w, &at, &err))
        fail_msg("replica %d: %s", (int)replica, err.msg);
    assert_int_equal(at.gpu, gpu);
    assert_true(fast_fleet_valid(fleet));
}

static void must_refuse(struct fast_fleet *fleet, const struct fast_want *w, const char *text)
{
    struct fast_placed at;
    struct fast_err err = {0};
    assert_int_equal(fast_fleet_place(fleet, 999999, w, &at, &err), -FAST_ENOROOM);
    if (!strstr(err.msg, text))
        fail_msg("the message is: %s", err.msg);
    assert_true(fast_fleet_valid(fleet));
}

/* 4 ResNet 12 % x 0.4, 2 RNN-T 24 % x 0.4, 2 BERT 50 % x 0.6, in this order, on one of four GPUs. */
static void paper_packing(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(4, V100, true);
    struct fast_gpu_room room;
    uint64_t id = 1;
    const struct fast_want mix[] = {want(12, 400, FAST_MIB(1525)), want(24, 400, FAST_MIB(2000)),
                                    want(50, 600, FAST_MIB(1800))};
    for (int i = 0; i < 8; i++)
        must_place(fleet, id++, &mix[i < 4 ? 0 : i < 6 ? 1 : 2], 0);
    assert_int_equal(fast_fleet_gpu_room(fleet, 0, &room, NULL), 0);
    assert_int_equal(room.area_free, 1600);
    assert_int_equal(room.replicas, 8);
    assert_true(room.mem_free == V100 - FAST_MIB(4 * 1525 + 2 * 2000 + 2 * 1800));
    must_place(fleet, id, &mix[0], 1); /* 1.6 % are left, but not in this shape */
    fast_fleet_free(fleet);
}

/* Three times 60 % SM x 0.5: two share the time, the third does not fit, and the message says why. */
static void third_refused(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(1, V100, true);
    const struct fast_want w = want(60, 500, FAST_GIB(2));
    must_place(fleet, 1, &w, 0);
    must_place(fleet, 2, &w, 0);
    must_refuse(fleet, &w, "SM x quota: 60 % x 0.500 wanted; at this quota the most SMs free on a "
                           "GPU are 40 %, at these SMs the most quota free is 0.000; free: GPU 0 "
                           "40 % x 1.000 and 12288 MiB");
    assert_int_equal(fast_fleet_remove(fleet, 1, NULL), 0);
    must_place(fleet, 3, &w, 0);
    fast_fleet_free(fleet);
}

static void refusals(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(0, V100, false);
    struct fast_placed at;
    struct fast_err err;
    struct fast_want w = want(50, 500, FAST_GIB(17));
    must_refuse(fleet, &w, "of 0 GPUs none takes new replicas");
    fast_fleet_free(fleet);

    fleet = fleet_of(2, V100, false);
    must_refuse(fleet, &w, "memory: 17408 MiB wanted, the most free on a GPU is 16384 MiB");
    w = want(100, 1000, FAST_GIB(1));
    must_place(fleet, 1, &w, 0);
    w = want(10, 100, FAST_GIB(10));
    must_place(fleet, 2, &w, 1);
    must_refuse(fleet, &w, "memory: 10240 MiB wanted; where 10 % SMs x quota 0.100 are free, at "
                           "most 6144 MiB are; free: GPU 0 0 % x 0.000 and 15360 MiB, GPU 1 100 % "
                           "x 0.900 and 6144 MiB");
    w.exclusive = true;
    must_refuse(fleet, &w, "each of the 2 GPUs has replicas");
    w = want(10, 100, FAST_GIB(1));
    w.node = 7;
    must_refuse(fleet, &w, "of 2 GPUs none is where the replica has to be");
    w = want(0, 100, FAST_GIB(1));
    assert_int_equal(fast_fleet_place(fleet, 3, &w, &at, &err), -FAST_EINVAL);
    w = want(101, 100, FAST_GIB(1));
    assert_int_equal(fast_fleet_choose(fleet, &w, &at, &err), -FAST_EINVAL);
    w = want(10, 100, FAST_GIB(1));
    assert_int_equal(fast_fleet_place(fleet, 2, &w, &at, &err), -FAST_EEXIST);
    assert_int_equal(fast_fleet_remove(fleet, 77, &err), -FAST_ENOENT);
    fast_fleet_gpu_open(fleet, 1, false);
    must_refuse(fleet, &w, "SM x quota: 10 % x 0.100 wanted");
    fast_fleet_gpu_open(fleet, 1, true);
    must_place(fleet, 3, &w, 1);
    fast_fleet_free(fleet);
}

/* The free rectangle with the least area left over, over all GPUs; then the least memory. */
static void least_area(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(3, V100, false);
    struct fast_want w = want(100, 500, FAST_GIB(1));
    must_place(fleet, 1, &w, 0);
    w = want(70, 1000, FAST_GIB(1));
    w.gpu = 1;
    must_place(fleet, 2, &w, 1);
    w = want(20, 500, FAST_GIB(1)); /* leaves 400 x 100 of GPU 0, 1000 x 10 and more of GPU 1 */
    must_place(fleet, 3, &w, 1);
    w = want(40, 500, FAST_GIB(1));
    must_place(fleet, 4, &w, 0);
    fast_fleet_free(fleet);

    fleet = fleet_of(2, V100, false);
    w = want(50, 0, FAST_GIB(4)); /* no rectangle, only memory */
    w.gpu = 1;
    must_place(fleet, 1, &w, 1);
    w = want(50, 500, FAST_GIB(1));
    must_place(fleet, 2, &w, 1); /* same shapes free, less memory */
    fast_fleet_free(fleet);
}

static void whole_gpu(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(3, V100, false);
    struct fast_want w = want(10, 100, FAST_GIB(1)), whole = want(50, 500, FAST_GIB(1));
    struct fast_want all_memory = want(50, 500, 0), bare = want(50, 0, FAST_GIB(1));
    whole.exclusive = true;
    must_place(fleet, 1, &w, 0);
    must_place(fleet, 2, &whole, 1);
    must_place(fleet, 3, &all_memory, 2);
    must_place(fleet, 4, &bare, 0); /* nobody joins an exclusive replica, with or without quota */
    bare.gpu = 1;
    must_refuse(fleet, &bare, "one replica's alone");
    w.gpu = 2;
    must_refuse(fleet, &w, "memory: 1024 MiB wanted, the most free on a GPU is 0 MiB");
    assert_int_equal(fast_fleet_remove(fleet, 2, NULL), 0);
    must_place(fleet, 5, &whole, 1);
    fast_fleet_free(fleet);
}

/* A GPU that has the weights goes first, and they are counted once. */
static void shared_weights(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(2, FAST_GIB(4), false);
    struct fast_gpu_room room;
    struct fast_want w = want(10, 100, FAST_MIB(512));
    w.weights = 77;
    w.weights_bytes = FAST_GIB(2);
    w.gpu = 1;
    must_place(fleet, 1, &w, 1);
    w.gpu = FAST_ANY;
    for (uint64_t id = 2; id <= 4; id++)
        must_place(fleet, id, &w, 1);
    assert_int_equal(fast_fleet_gpu_room(fleet, 1, &room, NULL), 0);
    assert_true(room.mem_free == 0);
    must_place(fleet, 5, &w, 0); /* no memory on GPU 1 */
    for (uint64_t id = 1; id <= 4; id++)
        assert_int_equal(fast_fleet_remove(fleet, id, NULL), 0);
    assert_int_equal(fast_fleet_gpu_room(fleet, 1, &room, NULL), 0);
    assert_true(room.mem_free == FAST_GIB(4));
    w.weights = 78;
    w.weights_bytes = UINT64_MAX;
    must_refuse(fleet, &w, "memory");
    fast_fleet_free(fleet);
}

/* What the store of a GPU has counts for where a replica goes, and for memory only while it is used. */
static void resident_weights(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(3, FAST_GIB(4), false);
    struct fast_gpu_room room;
    struct fast_want other = want(10, 100, FAST_MIB(512)), w = other;
    w.weights = 77;
    must_place(fleet, 1, &other, 0);
    assert_int_equal(fast_fleet_weights(fleet, 2, 77, FAST_GIB(2), false, NULL), 0);
    assert_int_equal(fast_fleet_gpu_room(fleet, 2, &room, NULL), 0);
    assert_true(room.mem_free == FAST_GIB(4)); /* it goes when the memory is needed */
    must_place(fleet, 2, &w, 2); /* although GPU 2 is idle and GPU 0 is not */
    assert_int_equal(fast_fleet_gpu_room(fleet, 2, &room, NULL), 0);
    assert_true(room.mem_free == FAST_GIB(2) - FAST_MIB(512));
    assert_true(fast_fleet_valid(fleet));
    /* Loaded by a replica that did not know how large they are. */
    w.weights = 78;
    w.gpu = 0;
    must_place(fleet, 3, &w, 0);
    w.gpu = FAST_ANY;
    assert_int_equal(fast_fleet_weights(fleet, 0, 78, FAST_GIB(1), false, NULL), 0);
    assert_int_equal(fast_fleet_gpu_room(fleet, 0, &room, NULL), 0);
    assert_true(room.mem_free == FAST_GIB(2));
    assert_int_equal(fast_fleet_weights(fleet, 0, 78, 0, false, NULL), 0); /* the store has died */
    must_place(fleet, 4, &w, 0);
    assert_true(fast_fleet_valid(fleet));
    /* Kept for good. */
    assert_int_equal(fast_fleet_weights(fleet, 1, 79, FAST_GIB(4), true, NULL), 0);
    w = want(10, 100, FAST_GIB(3));
    must_refuse(fleet, &w, "memory: 3072 MiB wanted");
    assert_int_equal(fast_fleet_weights(fleet, 1, 79, 0, true, NULL), 0);
    must_place(fleet, 5, &w, 1);
    for (uint64_t id = 1; id <= 5; id++)
        assert_int_equal(fast_fleet_remove(fleet, id, NULL), 0);
    for (int g = 0; g < 3; g++) {
        assert_int_equal(fast_fleet_gpu_room(fleet, g, &room, NULL), 0);
        assert_true(room.mem_free == FAST_GIB(4));
    }
    assert_int_equal(fast_fleet_weights(fleet, 3, 77, 1, false, NULL), -FAST_ENOENT);
    assert_true(fast_fleet_valid(fleet));
    fast_fleet_free(fleet);
}

/* Of equal places the one with the least free memory that is enough, whether the index is asked or, for a
 * want that names its node, each GPU; what is resident without a user is charged when it gets one. */
static void ties_and_charges(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(2, FAST_GIB(4), false);
    struct fast_want bare = want(50, 0, FAST_GIB(1)), w = want(50, 500, FAST_GIB(1));
    struct fast_placed at;
    bare.gpu = 1;
    must_place(fleet, 1, &bare, 1);
    assert_int_equal(fast_fleet_choose(fleet, &w, &at, NULL), 0);
    assert_int_equal(at.gpu, 1);
    w.node = 0;
    assert_int_equal(fast_fleet_choose(fleet, &w, &at, NULL), 0);
    assert_int_equal(at.gpu, 1);
    w.slice.mem_bytes = FAST_GIB(4);
    assert_int_equal(fast_fleet_choose(fleet, &w, &at, NULL), 0);
    assert_int_equal(at.gpu, 0);
    /* 3 GiB of weights lie on GPU 1, where 3 GiB are free: no room for them and a replica. */
    assert_int_equal(fast_fleet_weights(fleet, 1, 77, FAST_GIB(3), false, NULL), 0);
    w = want(10, 100, FAST_MIB(512));
    w.weights = 77;
    w.weights_bytes = FAST_GIB(3);
    must_place(fleet, 2, &w, 0);
    w.gpu = 1;
    must_refuse(fleet, &w, "memory: 3584 MiB wanted, the most free on a GPU is 3072 MiB");
    fast_fleet_free(fleet);
}

static void adoption(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(1, V100, false);
    struct fast_gpu_room room;
    struct fast_placed at;
    struct fast_want w = want(60, 600, FAST_GIB(10));
    assert_int_equal(fast_fleet_adopt(fleet, 1, &w, &at, NULL), -FAST_ENOENT);
    w.gpu = 0;
    fast_fleet_gpu_open(fleet, 0, false);
    assert_int_equal(fast_fleet_adopt(fleet, 1, &w, &at, NULL), 0);
    assert_false(at.forced);
    assert_int_equal(fast_fleet_adopt(fleet, 2, &w, &at, NULL), 0);
    assert_true(at.forced);
    assert_int_equal(at.rect.quota, 0);
    assert_true(fast_fleet_valid(fleet));
    assert_int_equal(fast_fleet_gpu_room(fleet, 0, &room, NULL), 0);
    assert_false(room.open);
    assert_int_equal(room.replicas, 2);
    assert_true(room.mem_free == 0);
    assert_int_equal(fast_fleet_remove(fleet, 2, NULL), 0);
    assert_int_equal(fast_fleet_gpu_room(fleet, 0, &room, NULL), 0);
    assert_true(room.mem_free == FAST_GIB(6));
    assert_true(fast_fleet_valid(fleet));
    fast_fleet_free(fleet);
}

static void resizing(void **state)
{
    (void)state;
    struct fast_fleet *fleet = fleet_of(1, V100, true);
    struct fast_placed at;
    struct fast_err err;
    struct fast_want w = want(50, 500, FAST_GIB(4));
    for (uint64_t id = 1; id <= 3; id++)
        must_place(fleet, id, &w, 0);
    struct fast_slice s = {50, 1000, 1000, FAST_GIB(4)};
    assert_int_equal(fast_fleet_resize(fleet, 9, &s, &at, &err), -FAST_ENOENT);
    /* The fourth quarter is free, but beside 1 or 2 or 3: only a new layout makes room for all. */
    for (uint64_t id = 1; id <= 3; id++) {
        s.request_milli = 1000;
        assert_int_equal(fast_fleet_resize(fleet, id, &s, &at, &err), 0);
        assert_int_equal(at.rect.quota, 1000);
        assert_true(fast_fleet_valid(fleet));
        s.request_milli = 500;
        assert_int_equal(fast_fleet_resize(fleet, id, &s, &at, &err), 0);
        assert_true(fast_fleet_valid(fleet));
    }
    const struct fast_placed before = *fast_fleet_find(fleet, 1);
    s = (struct fast_slice){51, 1000, 1000, FAST_GIB(4)};
    assert_int_equal(fast_fleet_resize(fleet, 1, &s, &at, &err), -FAST_ENOROOM);
    assert_non_null(strstr(err.msg, "51 % x 1.000 does not fit"));
    s = (struct fast_slice){50, 500, 500, FAST_GIB(9)};
    assert_int_equal(fast_fleet_resize(fleet, 1, &s, &at, &err), -FAST_ENOROOM);
    assert_non_null(strstr(err.msg, "9216 MiB wanted, 8192 MiB"));
    s.limit_milli = 400;
    assert_int_equal(fast_fleet_resize(fleet, 1, &s, &at, &err), -FAST_EINVAL);
    assert_memory_equal(fast_fleet_find(fleet, 1), &before, sizeof(before));
    assert_true(fast_fleet_valid(fleet));
    s = (struct fast_slice){50, 500, 500, FAST_GIB(8)};
    assert_int_equal(fast_fleet_resize(fleet, 1, &s, &at, &err), 0);
    s = (struct fast_slice){50, 0, 500, FAST_GIB(1)};
    assert_int_equal(fast_fleet_resize(fleet, 1, &s, &at, &err), 0);
    assert_int_equal(at.rect.quota, 0);
    assert_true(fast_fleet_valid(fleet));
    fast_fleet_free(fleet);
}

/* What a look at every GPU would choose: the least area left over, and whether there is a place. */
static bool brute_force(const struct fast_fleet *fleet, const struct fast_want *w, int *ret_left)
{
    bool found = false;
    for (int g = 0; g < fast_fleet_gpus(fleet); g++) {
        struct fast_gpu_room room;
        struct fast_rect at, from;
        assert_int_equal(fast_fleet_gpu_room(fleet, g, &room, NULL), 0);
        if (!room.open || room.mem_free < w->slice.mem_bytes ||
            room.rects->nused == FAST_RECTS_USED_MAX ||
            !fast_rects_find(room.rects, w->slice.request_milli, w->slice.sm_pct, FAST_FIT_AREA,
                             &at, &from))
            continue;
        int left = fast_rect_area(&from) - fast_rect_area(&at);
        if (!found || left < *ret_left)
            *ret_left = left;
        found = true;
    }
    return found;
}

/* The area left over at |at| before it is taken. */
static int left_at(const struct fast_fleet *fleet, const struct fast_placed *at)
{
    struct fast_gpu_room room;
    struct fast_rect rect, from;
    assert_int_equal(fast_fleet_gpu_room(fleet, at->gpu, &room, NULL), 0);
    assert_true(fast_rects_find(room.rects, at->rect.quota, at->rect.sm, FAST_FIT_AREA, &rect,
                                &from));
    return fast_rect_area(&from) - fast_rect_area(&rect);
}

/* Random replicas come and go, GPUs open and close: the index always answers as well as a look at
 * every GPU, and the books stay right. */
static void random_fleet(void **state)
{
    (void)state;
    static const int sms[] = {6, 12, 24, 50, 60, 100}, quotas[] = {50, 200, 400, 600, 1000};
    unsigned seed = 3;
    for (int round = 0; round < 3; round++) {
        struct fast_fleet *fleet = fleet_of(12, V100, round == 2);
        uint64_t live[2000], next = 1;
        int n = 0, placed_count = 0, refused = 0;
        for (int step = 0; step < 1500; step++) {
            if (rand_r(&seed) % 50 == 0)
                fast_fleet_gpu_open(fleet, rand_r(&seed) % 12, rand_r(&seed) % 3);
            if (n && rand_r(&seed) % 100 < 46) {
                int i = rand_r(&seed) % n;
                assert_int_equal(fast_fleet_remove(fleet, live[i], NULL), 0);
                live[i] = live[--n];
            } else {
                struct fast_want w = want(sms[rand_r(&seed) % 6], quotas[rand_r(&seed) % 5],
                                          FAST_MIB(100 + rand_r(&seed) % 4000));
                struct fast_placed at;
                int left = 0;
                bool possible = brute_force(fleet, &w, &left);
                int rc = fast_fleet_choose(fleet, &w, &at, NULL);
                assert_int_equal(rc, possible ? 0 : -FAST_ENOROOM);
                if (possible)
                    assert_int_equal(left_at(fleet, &at), left);
                if (fast_fleet_place(fleet, next, &w, &at, NULL) == 0) {
                    live[n++] = next;
                    placed_count++;
                } else {
                    assert_false(possible);
                    refused++;
                }
                next++;
            }
            if (step % 10 == 0)
                assert_true(fast_fleet_valid(fleet));
        }
        assert_true(placed_count > 300 && refused > 20);
        while (n)
            assert_int_equal(fast_fleet_remove(fleet, live[--n], NULL), 0);
        assert_true(fast_fleet_valid(fleet));
        for (int g = 0; g < 12; g++) {
            struct fast_gpu_room room;
            assert_int_equal(fast_fleet_gpu_room(fleet, g, &room, NULL), 0);
            assert_int_equal(room.area_free, FAST_PLANE_AREA);
            assert_true(room.mem_free == V100);
        }
        fast_fleet_free(fleet);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paper_packing), cmocka_unit_test(third_refused),
        cmocka_unit_test(refusals),      cmocka_unit_test(least_area),
        cmocka_unit_test(whole_gpu),     cmocka_unit_test(shared_weights),
        cmocka_unit_test(resident_weights),
        cmocka_unit_test(adoption),      cmocka_unit_test(ties_and_charges),      cmocka_unit_test(resizing),
        cmocka_unit_test(random_fleet),
    };
    return cmocka_run_group_tests_name("place", tests, NULL, NULL);
}
