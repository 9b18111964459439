/* What is promised about asynchronous calls while writes to the disk fail, on a real loop in front of a
 * queue that fails when it is told to. */

#include "gateway/async.h"

#include <limits.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "gateway_world.h"

/* ---- a wall clock that is set ---- */

static fast_ns set_by; /* how far off it is */

/* In the place of libc's. */
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int r = (int)syscall(SYS_clock_gettime, clock, ret);
    if (!r && clock == CLOCK_REALTIME)
        ret->tv_sec += set_by / FAST_S(1);
    return r;
}

/* ---- a queue that keeps nothing ---- */

struct fake {
    struct gw_queue head;
    int unwritten; /* changes since the last commit */
    int lost_commits; /* that many fail */
    int takes, early_takes; /* the latter with something unwritten */
    int reclaims;
    int ready, row, longest; /* calls to hand out; how many went since the last commit, and at most */
    int64_t due, now; /* of the last call, at the last plan */
};

static struct fake *of(struct gw_queue *q)
{
    return (struct fake *)q;
}

static int put(struct gw_queue *q, const struct gw_call *call, struct fast_err *err)
{
    (void)err;
    of(q)->due = call->due_ns;
    of(q)->unwritten++;
    return 0;
}

static int take(struct gw_queue *q, int64_t now, const json_t *busy, gw_call_fn *fn, void *arg)
{
    (void)busy;
    (void)fn;
    (void)arg;
    of(q)->now = now;
    of(q)->takes++;
    of(q)->early_takes += of(q)->unwritten > 0;
    if (!of(q)->ready)
        return 0;
    of(q)->ready--;
    if (++of(q)->row > of(q)->longest)
        of(q)->longest = of(q)->row;
    return 1;
}

static int cancel(struct gw_queue *q, const char *call_id, struct fast_err *err)
{
    (void)q;
    return fast_err_set(err, FAST_ENOENT, "no call %s waits", call_id);
}

static int commit(struct gw_queue *q, struct fast_err *err)
{
    struct fake *f = of(q);
    bool lost = f->unwritten && f->lost_commits;
    f->unwritten = f->row = 0;
    f->lost_commits -= lost;
    return lost ? fast_err_set(err, FAST_EIO, "the disk is full") : 0;
}

static int reclaim(struct gw_queue *q, const char *held, struct fast_err *err)
{
    (void)held;
    of(q)->reclaims++;
    of(q)->unwritten++;
    return commit(q, err);
}

static int64_t next_due(struct gw_queue *q, const json_t *busy)
{
    (void)q;
    (void)busy;
    return 0; /* something is always due: plans are made all the time */
}

static void count(struct gw_queue *q, uint64_t *ret_waiting, uint64_t *ret_dead)
{
    (void)q;
    *ret_waiting = *ret_dead = 0;
}

static void close_queue(struct gw_queue *q)
{
    (void)q;
}

static const struct gw_queue_ops fake_ops = {.put = put, .take = take, .cancel = cancel, .commit = commit,
                                             .reclaim = reclaim, .next_due = next_due, .count = count,
                                             .close = close_queue};

/* ---- a gateway in front of it ---- */

struct world {
    struct gateway_world base;
    struct fake queue;
};

static void on_request(void *arg, struct fast_http_req *req)
{
    struct gateway_world *w = arg;
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req);
    struct gw_request rq = {.gw = &w->gw, .req = req};
    if (fast_http_is_exact(text + h->method, h->method_len, "DELETE"))
        gw_api_async_call(&rq, "unknown");
    else
        gw_async_request(&w->gw, req, text + h->target, h->target_len);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    *state = w;
    if (!w || world_begin(&w->base, "", on_request))
        return -1;
    w->queue.head.ops = &fake_ops;
    return gw_async_new(&w->base.gw, &w->queue.head, &w->base.gw.async, NULL);
}

static int tear_down(void **state)
{
    struct world *w = *state;
    fast_http_server_free(w->base.server);
    gw_async_free(w->base.gw.async);
    int r = world_end(&w->base);
    free(w);
    return r;
}

static int ask_call(struct world *w)
{
    return world_ask(&w->base, "POST /async-function/f HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
}

static void run_for(struct world *w, fast_ns ns)
{
    world_run(&w->base, ns);
}

static int status(struct world *w, int fd)
{
    return world_status(&w->base, fd);
}

/* ---- tests ---- */

static void accepted_when_written(void **state)
{
    struct world *w = *state;
    assert_int_equal(status(w, ask_call(w)), 202);
    assert_int_equal(w->queue.unwritten, 0);
    w->queue.lost_commits = 1;
    assert_int_equal(status(w, ask_call(w)), 500);
    assert_int_equal(status(w, ask_call(w)), 202);
    assert_int_equal(gw_async_counts(w->base.gw.async).submitted, 2);
}

/* A DELETE writes at once what had gathered, calls that came just before it too. */
static void a_write_that_somebody_else_loses(void **state)
{
    struct world *w = *state;
    w->queue.lost_commits = 1;
    int call = ask_call(w), remove = world_ask(&w->base, "DELETE /async-function/unknown HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(status(w, call), 500);
    status(w, remove);
    assert_int_equal(w->queue.lost_commits, 0);
}

/* Else a call runs whose caller is told that it was not taken, and its end removes the one that gets its number. */
static void nothing_begins_before_it_is_written(void **state)
{
    struct world *w = *state;
    w->base.gw.loaded = true;
    run_for(w, FAST_MS(250)); /* plans are made from now on */
    assert_true(w->queue.takes > 0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(status(w, ask_call(w)), 202);
    assert_int_equal(w->queue.early_takes, 0);
}

/* However many are due, others are served between. */
static void so_many_at_a_time(void **state)
{
    struct world *w = *state;
    w->queue.ready = 1000;
    w->base.gw.loaded = true;
    for (int i = 0; w->queue.ready && i < 2000; i++)
        run_for(w, FAST_MS(5));
    assert_int_equal(w->queue.ready, 0);
    assert_int_equal(w->queue.longest, 32);
}

/* Nor does the attempt to write again take what came meanwhile along unnoticed. */
static void a_disk_that_stays_full(void **state)
{
    enum { MAX = 2000 };
    static int calls[MAX];
    struct world *w = *state;
    int n = 0;
    w->base.gw.loaded = true;
    w->queue.lost_commits = INT_MAX;
    for (; n < MAX && !w->queue.reclaims; n++) {
        calls[n] = ask_call(w);
        run_for(w, FAST_MS(1));
    }
    assert_int_equal(w->queue.reclaims, 1);
    for (int i = 0; i < n; i++)
        assert_int_equal(status(w, calls[i]), 500);
    assert_int_equal(w->queue.early_takes, 0);
}

/* Nothing is hastened or delayed by it. */
static void the_clock_is_set(void **state)
{
    static const fast_ns jumps[] = {FAST_S(86400), FAST_S(-86400), FAST_S(86400) * 365 * 20};
    struct world *w = *state;
    w->base.gw.loaded = true;
    assert_int_equal(status(w, ask_call(w)), 202);
    int64_t due = w->queue.due;
    assert_true(llabs(due - fast_clock_wall()) < FAST_S(600));
    for (size_t i = 0; i < FAST_COUNT_OF(jumps); i++) {
        set_by = jumps[i];
        assert_int_equal(status(w, ask_call(w)), 202);
        run_for(w, FAST_MS(300));
        assert_in_range(w->queue.due - due, 0, FAST_S(600));
        assert_in_range(w->queue.now - due, 0, FAST_S(600));
    }
    set_by = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(accepted_when_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_write_that_somebody_else_loses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_begins_before_it_is_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(so_many_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_clock_is_set, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_stays_full, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
