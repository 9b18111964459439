#include "core/catalog.h"

#include <stdio.h>
#include <stdlib.h>

#include "test.h"

static struct fast_catalog *make(void)
{
    struct fast_catalog *c = NULL;
    assert_int_equal(fast_catalog_new(7, &c, NULL), 0);
    return c;
}

static struct fast_model_want of(const char *name, uint64_t bytes)
{
    return (struct fast_model_want){.ns = "a", .name = name, .version = "1", .digest = {1, 2},
                                    .bytes = bytes, .wait = FAST_S(1)};
}

static void want(struct fast_catalog *c, uint64_t client, const struct fast_model_want *w, fast_ns now)
{
    struct fast_err err;
    assert_int_equal(fast_catalog_want(c, client, (uint32_t)client, w, now, &err), 0);
}

/* The next action must be this one; returns its model. */
static struct fast_model *expect(struct fast_catalog *c, enum fast_catalog_do what, uint64_t client)
{
    struct fast_catalog_action a;
    assert_true(fast_catalog_next(c, &a));
    assert_int_equal(a.what, what);
    assert_true(a.client == client);
    assert_true(fast_catalog_valid(c));
    return a.model;
}

static void nothing(struct fast_catalog *c)
{
    struct fast_catalog_action a;
    assert_false(fast_catalog_next(c, &a));
    assert_true(fast_catalog_valid(c));
}

static void one_loads_the_others_wait(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("m", 100);
    want(c, 1, &w, 0);
    want(c, 2, &w, 0);
    want(c, 3, &w, 0);
    const struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
    nothing(c);
    assert_int_equal(m->waiting, 2);
    assert_int_equal(fast_catalog_commit(c, 2, m->id, 5, NULL), -FAST_EPERM);
    assert_int_equal(fast_catalog_commit(c, 1, m->id, 5, NULL), 0);
    expect(c, FAST_CATALOG_GIVE, 2);
    expect(c, FAST_CATALOG_GIVE, 3);
    nothing(c);
    assert_int_equal(m->refs, 3);
    assert_int_equal(fast_catalog_commit(c, 1, m->id, 5, NULL), -FAST_EPERM);
    fast_catalog_free(c);
}

static void a_dead_loader_is_replaced(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("m", 100), look = of("m", 0);
    want(c, 1, &w, 0);
    want(c, 2, &look, 0); /* it cannot load */
    want(c, 3, &w, 0);
    expect(c, FAST_CATALOG_LOAD, 1);
    fast_catalog_client_gone(c, 1, 1);
    const struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 3);
    nothing(c);
    fast_catalog_client_gone(c, 3, 2);
    assert_ptr_equal(expect(c, FAST_CATALOG_FREE, 0), m);
    expect(c, FAST_CATALOG_EXPIRE, 2);
    nothing(c);
    assert_int_equal(fast_catalog_count(c), 0);
    fast_catalog_free(c);
}

static void a_wait_ends(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("m", 100);
    want(c, 1, &w, 0);
    expect(c, FAST_CATALOG_LOAD, 1);
    want(c, 2, &w, 10);
    assert_true(fast_catalog_expiry(c) == FAST_S(1) + 10);
    fast_catalog_tick(c, FAST_S(1) + 9);
    nothing(c);
    fast_catalog_tick(c, FAST_S(1) + 10);
    expect(c, FAST_CATALOG_EXPIRE, 2);
    assert_true(fast_catalog_expiry(c) == FAST_NEVER);
    fast_catalog_free(c);
}

static void load(struct fast_catalog *c, uint64_t client, const char *name, fast_ns now)
{
    struct fast_model_want w = of(name, 100);
    want(c, client, &w, now);
    struct fast_model *m = expect(c, FAST_CATALOG_LOAD, client);
    assert_int_equal(fast_catalog_commit(c, client, m->id, now, NULL), 0);
    fast_catalog_client_gone(c, client, now);
    nothing(c);
}

static void least_recently_used_goes_first(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want b = of("b", 0);
    load(c, 1, "a", 1);
    load(c, 1, "b", 2);
    load(c, 1, "c", 3);
    load(c, 1, "d", 4);
    want(c, 9, &b, 9); /* in use */
    expect(c, FAST_CATALOG_GIVE, 9);
    assert_int_equal(fast_catalog_pin(c, "a", "a", "", true, NULL), 0);
    assert_int_equal(fast_catalog_evict(c), 100);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "c");
    assert_int_equal(fast_catalog_evict(c), 100);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "d");
    assert_int_equal(fast_catalog_evict(c), 0);
    assert_int_equal(fast_catalog_pin(c, "a", "a", "1", false, NULL), 0);
    assert_int_equal(fast_catalog_evict(c), 100);
    expect(c, FAST_CATALOG_FREE, 0);
    assert_int_equal(fast_catalog_count(c), 1);
    fast_catalog_free(c);
}

static void giving_back_is_a_use(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("long", 100);
    want(c, 1, &w, 1);
    const struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
    assert_int_equal(fast_catalog_commit(c, 1, m->id, 1, NULL), 0);
    load(c, 2, "short", 2);
    assert_int_equal(fast_catalog_close(c, 1, m->id, 3, NULL), 0);
    fast_catalog_evict(c);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "short");
    w.bytes = 0; /* and so is taking it */
    load(c, 2, "short", 4);
    want(c, 1, &w, 5);
    expect(c, FAST_CATALOG_GIVE, 1);
    assert_true(m->used_at == 5);
    fast_catalog_free(c);
}

static void what_a_client_does_not_know_of_it_cannot_give_back(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want look = of("m", 0);
    load(c, 1, "m", 1);
    want(c, 2, &look, 2);
    uint64_t id = fast_catalog_at(c, 0)->id;
    assert_int_equal(fast_catalog_close(c, 2, id, 3, NULL), -FAST_ENOENT);
    expect(c, FAST_CATALOG_GIVE, 2);
    assert_int_equal(fast_catalog_close(c, 1, id, 3, NULL), -FAST_ENOENT);
    assert_int_equal(fast_catalog_close(c, 2, id, 3, NULL), 0);
    nothing(c);
    fast_catalog_free(c);
}

static void a_namespace_keeps_its_models(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    struct fast_model_want look = of("m", 0), w = of("m", 100);
    load(c, 1, "m", 1);
    look.ns = "b";
    assert_int_equal(fast_catalog_want(c, 2, 1, &look, 2, &err), -FAST_ENOENT);
    w.ns = "b"; /* it has to load its own */
    w.flags = FAST_MODEL_F_SHARED;
    want(c, 2, &w, 2);
    struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 2);
    assert_int_equal(fast_catalog_commit(c, 2, m->id, 2, NULL), 0);
    look.ns = "c"; /* b's is for all */
    want(c, 3, &look, 3);
    assert_ptr_equal(expect(c, FAST_CATALOG_GIVE, 3), m);
    look.ns = "a"; /* the own one comes first */
    want(c, 4, &look, 3);
    assert_string_equal(expect(c, FAST_CATALOG_GIVE, 4)->ns, "a");
    fast_catalog_free(c);
}

static void digest_and_version_tell_models_apart(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("m", 100);
    load(c, 1, "m", 1);
    w.digest[1] = 77;
    want(c, 3, &w, 1);
    expect(c, FAST_CATALOG_LOAD, 3);
    fast_catalog_client_gone(c, 3, 1);
    expect(c, FAST_CATALOG_FREE, 0);
    w = of("m", 100);
    w.digest[0] = 77;
    want(c, 1, &w, 2);
    struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
    struct fast_model_want any = of("m", 0);
    any.digest[0] = any.digest[1] = 0;
    any.version = "";
    want(c, 2, &any, 2); /* the one that is ready, not the one that is newer */
    assert_true(expect(c, FAST_CATALOG_GIVE, 2)->digest[0] == 1);
    assert_int_equal(fast_catalog_commit(c, 1, m->id, 3, NULL), 0);
    want(c, 2, &any, 3);
    assert_ptr_equal(expect(c, FAST_CATALOG_GIVE, 2), m);
    any.version = "2";
    assert_int_equal(fast_catalog_want(c, 2, 1, &any, 4, NULL), -FAST_ENOENT);
    fast_catalog_free(c);
}

static void removal_waits_for_the_last_reference(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    struct fast_model_want look = of("m", 0);
    load(c, 1, "m", 1);
    want(c, 2, &look, 2);
    struct fast_model *m = expect(c, FAST_CATALOG_GIVE, 2);
    assert_int_equal(fast_catalog_remove(c, "b", "m", "", &err), -FAST_ENOENT);
    assert_int_equal(fast_catalog_remove(c, "a", "m", "", &err), 0);
    assert_int_equal(m->state, FAST_MODEL_RETIRED);
    assert_int_equal(fast_catalog_want(c, 3, 1, &look, 3, &err), -FAST_ENOENT);
    assert_int_equal(fast_catalog_close(c, 2, m->id, 4, &err), 0);
    expect(c, FAST_CATALOG_FREE, 0);
    nothing(c);
    fast_catalog_free(c);
}

/* Whoever asked before the removal gets it, nobody who asks later. */
static void what_is_being_loaded_can_be_removed(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    struct fast_model_want w = of("m", 100), two = of("m", 100), look = of("m", 0);
    two.version = "2";
    load(c, 1, "m", 1);
    want(c, 1, &two, 2);
    const struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
    want(c, 2, &two, 2);
    assert_int_equal(fast_catalog_remove(c, "a", "m", "", &err), 0);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->version, "1");
    nothing(c);
    look.version = "";
    assert_int_equal(fast_catalog_want(c, 3, 1, &look, 3, &err), -FAST_ENOENT);
    assert_int_equal(fast_catalog_remove(c, "a", "m", "", &err), -FAST_ENOENT);
    assert_int_equal(fast_catalog_pin(c, "a", "m", "", true, &err), -FAST_ENOENT);
    want(c, 4, &w, 3); /* a new one of that name */
    assert_ptr_not_equal(expect(c, FAST_CATALOG_LOAD, 4), m);
    assert_int_equal(fast_catalog_commit(c, 1, m->id, 4, NULL), 0);
    assert_int_equal(m->state, FAST_MODEL_RETIRED);
    assert_ptr_equal(expect(c, FAST_CATALOG_GIVE, 2), m);
    fast_catalog_client_gone(c, 1, 5);
    nothing(c);
    fast_catalog_client_gone(c, 2, 6);
    assert_ptr_equal(expect(c, FAST_CATALOG_FREE, 0), m);
    want(c, 5, &two, 7); /* one whose loader dies goes as well */
    m = expect(c, FAST_CATALOG_LOAD, 5);
    assert_int_equal(fast_catalog_remove(c, "a", "m", "2", &err), 0);
    fast_catalog_client_gone(c, 5, 8);
    assert_ptr_equal(expect(c, FAST_CATALOG_FREE, 0), m);
    fast_catalog_free(c);
}

static void an_earlier_life_is_told_apart(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    assert_int_equal(fast_catalog_close(c, 1, 0x600000001, 0, &err), -FAST_ENOENT);
    assert_non_null(strstr(err.msg, "earlier life"));
    assert_int_equal(fast_catalog_close(c, 1, 0x700000001, 0, &err), -FAST_ENOENT);
    assert_null(strstr(err.msg, "earlier life"));
    fast_catalog_free(c);
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    char longest[FAST_CATALOG_NAME + 1];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    struct fast_model_want w = of("", 100);
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 0, NULL), -FAST_EINVAL);
    w.name = longest;
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 0, NULL), -FAST_EINVAL);
    w.name = "two\nlines";
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 0, NULL), -FAST_EINVAL);
    w.name = "latin\xe9";
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 0, NULL), -FAST_EINVAL);
    w = of("m", 100);
    w.digest[0] = w.digest[1] = 0;
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 0, NULL), -FAST_EINVAL);
    assert_int_equal(fast_catalog_count(c), 0);
    fast_catalog_free(c);
}

/* Random clients that want, load, close and die. Whoever was given a model has it until it closes or
 * dies, no model is freed before, there is one loader, and in the end nothing is left. */

#define CLIENTS 8
#define HELD 64

struct client {
    uint64_t held[HELD];
    int count;
};

static void forget(struct client *k, uint64_t model)
{
    for (int i = 0; i < k->count; i++)
        if (k->held[i] == model) {
            k->held[i] = k->held[--k->count];
            return;
        }
    fail();
}

static void perform(struct fast_catalog *c, struct client *clients)
{
    struct fast_catalog_action a;
    while (fast_catalog_next(c, &a)) {
        struct client *k = a.client ? &clients[a.client - 1] : NULL;
        if (a.what == FAST_CATALOG_FREE) {
            for (int i = 0; i < CLIENTS; i++)
                for (int n = 0; n < clients[i].count; n++)
                    assert_true(clients[i].held[n] != a.model->id);
        } else if (a.what != FAST_CATALOG_EXPIRE) {
            assert_true(k->count < HELD);
            assert_true(a.what == FAST_CATALOG_LOAD ? a.model->state == FAST_MODEL_LOADING
                                                    : a.model->state != FAST_MODEL_LOADING);
            k->held[k->count++] = a.model->id;
        }
    }
    assert_true(fast_catalog_valid(c));
}

static void step(struct fast_catalog *c, struct client *clients, unsigned *seed, fast_ns now)
{
    static const char *const names[] = {"a", "b", "c"};
    uint64_t id = 1 + (uint64_t)(rand_r(seed) % CLIENTS);
    struct client *k = &clients[id - 1];
    struct fast_model_want w = of(names[rand_r(seed) % 3], rand_r(seed) % 3 ? 100 : 0);
    const struct fast_model *m = NULL;
    switch (rand_r(seed) % 8) {
    case 0:
    case 1:
    case 2:
        if (k->count < HELD / 2)
            fast_catalog_want(c, id, 1, &w, now, NULL);
        break;
    case 3:
        m = k->count ? fast_catalog_find(c, k->held[0]) : NULL;
        if (m && m->loader == id && m->state == FAST_MODEL_LOADING)
            assert_int_equal(fast_catalog_commit(c, id, m->id, now, NULL), 0);
        break;
    case 4:
        if (k->count) {
            uint64_t model = k->held[rand_r(seed) % k->count];
            assert_int_equal(fast_catalog_close(c, id, model, now, NULL), 0);
            forget(k, model);
        }
        break;
    case 5:
        fast_catalog_client_gone(c, id, now);
        k->count = 0;
        break;
    case 6:
        fast_catalog_tick(c, now);
        fast_catalog_evict(c);
        break;
    default:
        fast_catalog_remove(c, "a", w.name, "", NULL);
    }
    perform(c, clients);
}

static void only_its_own_namespace_loads_a_model(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want w = of("m", 100), foreign = of("m", 100);
    w.flags = FAST_MODEL_F_SHARED;
    foreign.ns = "b";
    want(c, 1, &w, 0);
    struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
    want(c, 2, &foreign, 0); /* waits; it may read, never write */
    want(c, 3, &w, 0);
    fast_catalog_client_gone(c, 1, 1);
    assert_ptr_equal(expect(c, FAST_CATALOG_LOAD, 3), m);
    fast_catalog_client_gone(c, 3, 1);
    assert_ptr_equal(expect(c, FAST_CATALOG_FREE, 0), m);
    expect(c, FAST_CATALOG_EXPIRE, 2);
    nothing(c);
    fast_catalog_free(c);
}

static void one_namespace_does_not_fill_the_catalogue(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    char name[16];
    struct fast_model_want w = of(name, 1), other = of("m", 1);
    other.ns = "b";
    for (int i = 0; i < FAST_CATALOG_NS_MODELS; i++) {
        snprintf(name, sizeof(name), "%d", i);
        want(c, 1, &w, i);
        const struct fast_model *m = expect(c, FAST_CATALOG_LOAD, 1);
        assert_int_equal(fast_catalog_commit(c, 1, m->id, i, NULL), 0);
    }
    snprintf(name, sizeof(name), "more");
    assert_int_equal(fast_catalog_want(c, 1, 1, &w, 1000, &err), -FAST_ENOROOM);
    want(c, 2, &other, 1000);
    expect(c, FAST_CATALOG_LOAD, 2);
    fast_catalog_client_gone(c, 1, 1001); /* what it does not use makes place */
    want(c, 1, &w, 1002);
    expect(c, FAST_CATALOG_FREE, 0);
    expect(c, FAST_CATALOG_LOAD, 1);
    assert_int_equal(fast_catalog_count(c), FAST_CATALOG_NS_MODELS + 1);
    fast_catalog_free(c);
}

/* A catalogue in which "a" may have 1000 bytes and others 300, of 4000, by multiples of 10. */
static struct fast_catalog *make_limited(void)
{
    struct fast_catalog *c = make();
    struct fast_limits l;
    assert_int_equal(fast_limits_parse("a=1000,300", "x", &l, NULL), 0);
    fast_catalog_limit(c, &l, 4000, 10);
    return c;
}

static uint64_t load_bytes(struct fast_catalog *c, uint64_t client, const char *ns, const char *name,
                           uint64_t bytes, fast_ns now)
{
    struct fast_model_want w = of(name, bytes);
    w.ns = ns;
    want(c, client, &w, now);
    struct fast_model *m = expect(c, FAST_CATALOG_LOAD, client);
    assert_int_equal(fast_catalog_commit(c, client, m->id, now, NULL), 0);
    return m->id;
}

static void expect_refused(struct fast_catalog *c, const char *ns, const char *name, uint64_t bytes,
                           const char *why)
{
    struct fast_err err;
    struct fast_model_want w = of(name, bytes);
    int before = fast_catalog_count(c);
    w.ns = ns;
    assert_int_equal(fast_catalog_want(c, 99, 1, &w, 100, &err), -FAST_ENOROOM);
    if (!strstr(err.msg, why))
        fail_msg("%s", err.msg);
    assert_int_equal(fast_catalog_count(c), before);
    nothing(c);
}

static void a_namespace_has_only_so_many_bytes(void **state)
{
    (void)state;
    struct fast_catalog *c = make_limited();
    struct fast_model_want again = of("two", 300), w = of("x", 300);
    assert_true(fast_catalog_limit_of(c, "a") == 1000 && fast_catalog_limit_of(c, "z") == 300);
    load_bytes(c, 1, "a", "one", 395, 1); /* 400 of the device */
    uint64_t two = load_bytes(c, 2, "a", "two", 600, 2);
    expect_refused(c, "a", "three", 1, "namespace a has");
    expect_refused(c, "a", "three", UINT64_MAX, "the GPU has");
    expect_refused(c, "a", "three", 4001, "the GPU has");
    again.digest[0] = 77; /* a version of it that is there is no more bytes; another one is */
    assert_int_equal(fast_catalog_want(c, 3, 1, &again, 3, NULL), -FAST_ENOROOM);
    again = of("two", 600);
    want(c, 3, &again, 3);
    expect(c, FAST_CATALOG_GIVE, 3);
    w.ns = "b"; /* others are not held back by it */
    want(c, 4, &w, 3);
    expect(c, FAST_CATALOG_LOAD, 4);
    expect_refused(c, "b", "more", 1, "limit");
    assert_int_equal(fast_catalog_remove(c, "a", "two", "", NULL), 0);
    expect_refused(c, "a", "three", 1, "namespace a has"); /* in use by two: its bytes are there */
    fast_catalog_client_gone(c, 2, 4);
    expect_refused(c, "a", "three", 1, "namespace a has");
    fast_catalog_client_gone(c, 3, 5);
    assert_true(expect(c, FAST_CATALOG_FREE, 0)->id == two);
    load_bytes(c, 5, "a", "three", 600, 6);
    fast_catalog_free(c);
}

static void its_own_unused_models_make_room(void **state)
{
    (void)state;
    struct fast_catalog *c = make_limited();
    load_bytes(c, 1, "b", "other", 300, 1);
    load_bytes(c, 1, "a", "old", 200, 2);
    load_bytes(c, 1, "a", "pinned", 200, 3);
    load_bytes(c, 1, "a", "young", 300, 4);
    load_bytes(c, 2, "a", "used", 300, 5);
    fast_catalog_client_gone(c, 1, 6);
    assert_int_equal(fast_catalog_pin(c, "a", "pinned", "", true, NULL), 0);
    expect_refused(c, "a", "large", 501, "has 0.0 MiB of models in use or pinned"); /* nothing is dropped for it */
    assert_int_equal(fast_catalog_count(c), 5);
    struct fast_model_want w = of("large", 500);
    want(c, 3, &w, 7);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "young");
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "old");
    expect(c, FAST_CATALOG_LOAD, 3);
    nothing(c);
    assert_int_equal(fast_catalog_count(c), 4); /* with that of the other namespace, though it is the oldest */
    fast_catalog_client_gone(c, 3, 8);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "large");
    load_bytes(c, 3, "a", "small", 200, 9);
    fast_catalog_client_gone(c, 3, 9);
    load_bytes(c, 3, "a", "tiny", 300, 10); /* just fits beside it */
    nothing(c);
    assert_int_equal(fast_catalog_count(c), 5);
    fast_catalog_free(c);
}

static void a_new_limit_is_for_what_comes(void **state)
{
    (void)state;
    struct fast_catalog *c = make_limited();
    struct fast_limits l;
    load_bytes(c, 1, "a", "one", 600, 1);
    assert_int_equal(fast_limits_parse("500", "x", &l, NULL), 0);
    fast_catalog_limit(c, &l, 4000, 10);
    assert_int_equal(fast_catalog_count(c), 1);
    expect_refused(c, "a", "two", 1, "limit");
    fast_catalog_client_gone(c, 1, 2);
    struct fast_model_want w = of("two", 1);
    want(c, 2, &w, 3);
    assert_string_equal(expect(c, FAST_CATALOG_FREE, 0)->name, "one");
    expect(c, FAST_CATALOG_LOAD, 2);
    fast_catalog_free(c);
}

/* What is freed and told of to nobody yet has its place, whatever goes after it. */
static void many_may_go_before_anybody_is_told(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_catalog_action a;
    int came = 0, freed = 0;
    char ns[16];
    struct fast_model_want w = of("m", 1);
    w.ns = ns;
    for (int i = 0; i < 3 * FAST_CATALOG_MODELS; i++) {
        snprintf(ns, sizeof(ns), "n%d", i);
        came += !fast_catalog_want(c, 1 + (uint64_t)i / 100, 1, &w, i, NULL);
        if (i % 100 == 99)
            fast_catalog_client_gone(c, 1 + (uint64_t)i / 100, i);
    }
    for (uint64_t i = 1; i < 10; i++)
        fast_catalog_client_gone(c, i, 1);
    while (fast_catalog_next(c, &a))
        freed += a.what == FAST_CATALOG_FREE;
    assert_int_equal(came, 2 * FAST_CATALOG_MODELS);
    assert_int_equal(freed, came);
    fast_catalog_free(c);
}

static void a_full_catalogue_drops_what_nobody_uses(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    char ns[16];
    struct fast_model_want w = of("m", 1);
    w.ns = ns;
    for (int i = 0; i < 2 * FAST_CATALOG_MODELS; i++) {
        struct fast_catalog_action a;
        snprintf(ns, sizeof(ns), "n%d", i);
        want(c, 1, &w, i);
        assert_true(fast_catalog_next(c, &a));
        if (a.what == FAST_CATALOG_FREE)
            assert_true(fast_catalog_next(c, &a));
        assert_int_equal(a.what, FAST_CATALOG_LOAD);
        assert_int_equal(fast_catalog_commit(c, 1, a.model->id, i, NULL), 0);
        fast_catalog_client_gone(c, 1, i);
        nothing(c);
    }
    assert_int_equal(fast_catalog_count(c), FAST_CATALOG_MODELS);
    fast_catalog_free(c);
}

/* So that the places for those who wait are as many as the clients, and nobody takes those of others. */
static void a_client_waits_for_one_model_at_a_time(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_model_want first = of("m", 100), second = of("n", 100), ready = of("r", 100);
    want(c, 1, &ready, 0);
    struct fast_model *r = expect(c, FAST_CATALOG_LOAD, 1);
    assert_int_equal(fast_catalog_commit(c, 1, r->id, 0, NULL), 0);
    want(c, 1, &first, 0);
    expect(c, FAST_CATALOG_LOAD, 1);
    want(c, 1, &second, 0);
    expect(c, FAST_CATALOG_LOAD, 1);
    want(c, 2, &first, 0);
    assert_int_equal(fast_catalog_want(c, 2, 8, &first, 0, NULL), -FAST_EBUSY);
    assert_int_equal(fast_catalog_want(c, 2, 8, &second, 0, NULL), -FAST_EBUSY);
    want(c, 2, &ready, 0); /* for which nobody waits */
    expect(c, FAST_CATALOG_GIVE, 2);
    fast_catalog_tick(c, FAST_S(1));
    want(c, 2, &second, FAST_S(1)); /* the other one is over, told or not */
    expect(c, FAST_CATALOG_EXPIRE, 2);
    nothing(c);
    fast_catalog_client_gone(c, 1, 0);
    fast_catalog_client_gone(c, 2, 0);
    fast_catalog_free(c);
}

static void a_client_has_only_so_many_references(void **state)
{
    (void)state;
    struct fast_catalog *c = make();
    struct fast_err err;
    struct fast_model_want look = of("m", 0);
    load(c, 1, "m", 1);
    for (int i = 0; i < FAST_CATALOG_HOLDS; i++) {
        want(c, 2, &look, 2);
        expect(c, FAST_CATALOG_GIVE, 2);
    }
    assert_int_equal(fast_catalog_want(c, 2, 1, &look, 2, &err), -FAST_ENOROOM);
    want(c, 3, &look, 2);
    expect(c, FAST_CATALOG_GIVE, 3);
    fast_catalog_free(c);
}

static void references_always_add_up(void **state)
{
    (void)state;
    for (unsigned run = 1; run <= 40; run++) {
        struct client clients[CLIENTS] = {0};
        struct fast_catalog *c = make();
        unsigned seed = run;
        for (int i = 0; i < 1000; i++)
            step(c, clients, &seed, FAST_MS(100) * i);
        for (uint64_t id = 1; id <= CLIENTS; id++) {
            fast_catalog_client_gone(c, id, 0);
            clients[id - 1].count = 0;
        }
        while (fast_catalog_evict(c))
            ;
        perform(c, clients);
        assert_int_equal(fast_catalog_count(c), 0);
        fast_catalog_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_loads_the_others_wait),
        cmocka_unit_test(a_dead_loader_is_replaced),
        cmocka_unit_test(a_wait_ends),
        cmocka_unit_test(least_recently_used_goes_first),
        cmocka_unit_test(giving_back_is_a_use),
        cmocka_unit_test(what_a_client_does_not_know_of_it_cannot_give_back),
        cmocka_unit_test(a_namespace_keeps_its_models),
        cmocka_unit_test(digest_and_version_tell_models_apart),
        cmocka_unit_test(removal_waits_for_the_last_reference),
        cmocka_unit_test(a_namespace_has_only_so_many_bytes),
        cmocka_unit_test(its_own_unused_models_make_room),
        cmocka_unit_test(a_new_limit_is_for_what_comes),
        cmocka_unit_test(many_may_go_before_anybody_is_told),
        cmocka_unit_test(what_is_being_loaded_can_be_removed),
        cmocka_unit_test(an_earlier_life_is_told_apart),
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(only_its_own_namespace_loads_a_model),
        cmocka_unit_test(one_namespace_does_not_fill_the_catalogue),
        cmocka_unit_test(a_full_catalogue_drops_what_nobody_uses),
        cmocka_unit_test(a_client_waits_for_one_model_at_a_time),
        cmocka_unit_test(a_client_has_only_so_many_references),
        cmocka_unit_test(references_always_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
