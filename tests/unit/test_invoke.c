/* Which replica a request goes to, and which requests are told that they come too late, on a real loop with replicas
 * that are servers of the test's own. */

#include <arpa/inet.h>
#include <netinet/in.h>

#include "gateway_world.h"

enum { GOOD, BAD };

struct world {
    struct gateway_world base;
    struct gw_replica replicas[2];
    struct fast_http_server *good; /* answers 200 */
    struct fast_watch *watch;
    int bad; /* takes connections, and closes them */
    int good_asked, bad_asked;
};

static void on_request(void *arg, struct fast_http_req *req)
{
    static const char function[] = "/function/";
    struct gateway_world *w = arg;
    const struct fast_http_head *h = fast_http_req_head(req);
    size_t n = sizeof(function) - 1;
    gw_invoke(&w->gw, req, fast_http_req_text(req) + h->target + n, h->target_len - n);
}

static void on_good(void *arg, struct fast_http_req *req)
{
    struct world *w = arg;
    w->good_asked++;
    fast_http_req_reply(req, 200, NULL, NULL, "", 0);
}

static void on_bad(void *arg, int events)
{
    struct world *w = arg;
    int fd = accept(w->bad, NULL, NULL);
    (void)events;
    assert_true(fd >= 0);
    w->bad_asked++;
    close(fd);
}

static void on_wait_timer(void *arg)
{
    (void)arg; /* who has waited out is left where it is: the test is about whoever is too late for that */
}

static int open_bad(struct world *w)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    w->bad = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(w->bad, (struct sockaddr *)&a, len) || listen(w->bad, 16) ||
        getsockname(w->bad, (struct sockaddr *)&a, &len))
        return -1;
    w->watch = fast_watch_new(w->base.gw.loop, w->bad, FAST_LOOP_IN, on_bad, w);
    return w->watch ? ntohs(a.sin_port) : -1;
}

static struct world *begin(const char *annotations)
{
    static struct world w;
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = on_good, .arg = &w};
    memset(&w, 0, sizeof(w));
    assert_int_equal(world_begin(&w.base, annotations, on_request), 0);
    w.base.conf.queue_max = 10;
    w.base.conf.timeout = w.base.conf.queue_timeout = FAST_S(60);
    w.base.gw.wait_timer = fast_timer_new(w.base.gw.loop, on_wait_timer, NULL);
    assert_int_equal(fast_http_server_new(w.base.gw.loop, &conf, &w.good, NULL), 0);
    w.replicas[GOOD].port = fast_http_server_port(w.good);
    w.replicas[BAD].port = open_bad(&w);
    for (int i = 0; i < 2; i++) {
        struct gw_replica *r = &w.replicas[i];
        r->fn = w.base.fn;
        r->key = 100 + (uint64_t)i;
        r->phase = GW_TOLD;
        r->gpu = -1;
        r->item.weight = 1;
        gw_stats_init(&r->stats, fast_loop_now(w.base.gw.loop));
        assert_int_equal(fast_balance_add(&w.base.fn->balance, &r->item, NULL), 0);
    }
    return &w;
}

static void end(struct world *w)
{
    fast_http_server_free(w->base.server);
    for (int i = 0; i < 2; i++) {
        fast_balance_remove(&w->base.fn->balance, &w->replicas[i].item);
        fast_http_pool_free(w->replicas[i].pool);
        gw_stats_fini(&w->replicas[i].stats);
    }
    fast_http_server_free(w->good);
    fast_watch_free(w->watch);
    close(w->bad);
    fast_timer_free(w->base.gw.wait_timer);
    fast_due_fini(&w->base.gw.waiting);
    assert_int_equal(world_end(&w->base), 0);
}

static int get(struct world *w)
{
    return world_ask(&w->base, "GET /function/f HTTP/1.1\r\nHost: a\r\n\r\n");
}

/* A replica that has just failed a request looks like the one with the least to do. */
static void not_to_the_one_that_has_just_failed(void **state)
{
    (void)state;
    struct world *w = begin("");
    w->replicas[GOOD].item.ready = w->replicas[BAD].item.ready = true;
    w->replicas[GOOD].item.in_flight = 5;
    assert_int_equal(world_status(&w->base, get(w)), 200);
    assert_int_equal(w->bad_asked, 1);
    assert_int_equal(w->good_asked, 1);
    assert_true(w->replicas[BAD].item.ready); /* for others */
    end(w);
}

static void to_the_same_where_there_is_no_other(void **state)
{
    (void)state;
    struct world *w = begin("");
    w->replicas[BAD].item.ready = true;
    assert_int_equal(world_status(&w->base, get(w)), 502);
    assert_int_equal(w->bad_asked, 4);
    end(w);
}

static void what_may_not_be_repeated(void **state)
{
    (void)state;
    struct world *w = begin("");
    w->replicas[GOOD].item.ready = w->replicas[BAD].item.ready = true;
    w->replicas[GOOD].item.in_flight = 5;
    int call = world_ask(&w->base, "POST /function/f HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_int_equal(world_status(&w->base, call), 502);
    assert_int_equal(w->good_asked, 0);
    end(w);
}

/* |wait|: before the replica has room. Returns the status. */
static int wait_for_room(struct world *w, fast_ns wait, bool cold)
{
    struct fast_balance_item *item = &w->replicas[GOOD].item;
    item->ready = !cold;
    item->in_flight = 1;
    int call = get(w);
    world_run(&w->base, wait);
    item->ready = true;
    item->in_flight = 0;
    gw_invoke_queue(&w->base.gw, w->base.fn);
    return world_status(&w->base, call);
}

#define LIMITED(slo) "\"fastgshare/max_inflight\": \"1\", \"fastgshare/slo\": \"" slo "\""

static void whose_time_comes_as_room_does(void **state)
{
    (void)state;
    struct world *w = begin(LIMITED("100ms"));
    assert_int_equal(wait_for_room(w, FAST_MS(150), false), 429);
    assert_int_equal(w->good_asked, 0);
    assert_int_equal(w->base.fn->shed, 1);
    end(w);
}

static void who_still_has_time(void **state)
{
    (void)state;
    struct world *w = begin(LIMITED("1h"));
    assert_int_equal(wait_for_room(w, FAST_MS(150), false), 200);
    end(w);
}

static void who_had_to_wait_for_the_first_replica(void **state)
{
    (void)state;
    struct world *w = begin(LIMITED("100ms"));
    w->base.fn->desired = 1;
    assert_int_equal(wait_for_room(w, FAST_MS(150), true), 200);
    assert_int_equal(w->base.fn->shed, 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_to_the_one_that_has_just_failed),
        cmocka_unit_test(to_the_same_where_there_is_no_other),
        cmocka_unit_test(what_may_not_be_repeated),
        cmocka_unit_test(whose_time_comes_as_room_does),
        cmocka_unit_test(who_still_has_time),
        cmocka_unit_test(who_had_to_wait_for_the_first_replica),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
