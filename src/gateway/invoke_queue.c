/* Decides who waits for a replica, who is next, and who is told at once that waiting is of no use. A request
 * waits when every ready replica has as many in flight as its function allows, or when none is ready.
 * Callers take turns (core/fair.h). With an SLO a request is due that long after it came: it is answered
 * 429 when what waits before it, at the time that answers take now, leaves it no chance, or when its time
 * has come. While a function has no replica at all nobody is told so: who wakes it waits for it. */

#include "gateway/batch.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

#define LEARN 8 /* a new answer's share of the mean is one in so many */

/* ---- what is known ---- */

void gw_job_learn(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    fast_ns took = fast_loop_now(j->gw->loop) - j->sent;
    fn->service_ns += fn->service_ns ? (took - fn->service_ns) / LEARN : took;
}

/* How many requests the ready replicas take at a time; 0: as many as there are. */
static int slots_of(const struct gw_function *fn)
{
    return fn->spec->max_inflight * fast_balance_ready(&fn->balance);
}

/* When a request would be answered that has |before| others waiting before it. */
static fast_ns expected(const struct gw_function *fn, int before, fast_ns now)
{
    int slots = slots_of(fn);
    if (slots < 1)
        slots = 1;
    return now + fn->service_ns + (fast_ns)(before + 1) * fn->service_ns / slots;
}

/* Who asks: who presents the same credentials, else who comes from the same address. */
static uint64_t caller_of(const struct gw_job *j)
{
    if (j->batch)
        j = gw_batch_first(j->batch);
    const char *text = fast_http_req_text(j->req), *peer = fast_http_req_peer(j->req);
    const struct fast_http_head *h = fast_http_req_head(j->req);
    const struct fast_http_field *f = fast_http_head_find(h, text, "authorization");
    if (!f)
        f = fast_http_head_find(h, text, "x-forwarded-for");
    if (f)
        return fast_hash_of(text + f->value, f->value_len, 1);
    const char *colon = strrchr(peer, ':');
    return fast_hash_of(peer, colon ? (size_t)(colon - peer) : strlen(peer), 2);
}

/* ---- who cannot be served ---- */

static void too_late(struct gw_job *j, fast_ns when)
{
    char text[300];
    fast_ns now = fast_loop_now(j->gw->loop), wait = when > now ? when - now : 0;
    snprintf(text, sizeof(text), "function %s cannot answer within its %lld ms: %d requests wait",
             j->fn->spec->name, (long long)(j->fn->spec->slo / FAST_MS(1)), j->fn->queue.n);
    j->fn->shed++;
    gw_job_error(j, 429, (int)(wait / FAST_S(1)) + 1, text);
}

static void no_room(struct gw_job *j)
{
    char text[300];
    snprintf(text, sizeof(text), "%d requests wait for function %s already", j->fn->queue.n,
             j->fn->spec->name);
    j->fn->shed++;
    gw_job_error(j, fast_balance_ready(&j->fn->balance) ? 429 : 503, 1, text);
}

/* Whether there is room in the queue for one more of |caller|: it may take the place of who has come last
 * to a line that stays longer than its own. */
static bool make_room(struct gw_job *j, uint64_t caller)
{
    struct gw_function *fn = j->fn;
    int longest = 0;
    if (fn->queue.n < j->gw->conf->queue_max)
        return true;
    struct fast_fair_item *item = fast_fair_newest_of_longest(&fn->queue, &longest);
    if (!item || longest - 1 <= fast_fair_waiting(&fn->queue, caller))
        return false;
    struct gw_job *other = FAST_CONTAINER_OF(item, struct gw_job, waiting);
    gw_job_stop_waiting(other);
    no_room(other);
    return true;
}

void gw_job_wait(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    struct fast_err err;
    fast_ns now = fast_loop_now(j->gw->loop);
    if (fn->removed) {
        gw_job_error(j, 404, 0, "the function was removed");
        return;
    }
    j->cold = j->cold || fast_balance_ready(&fn->balance) == 0;
    fast_ns when = expected(fn, fn->queue.n, now);
    if (j->due && !j->cold && when > j->due) {
        too_late(j, when);
        return;
    }
    uint64_t caller = caller_of(j);
    if (!make_room(j, caller)) {
        no_room(j);
        return;
    }
    if (j->req)
        fast_http_req_read(j->req, false);
    fast_ns until = now + j->gw->conf->queue_timeout;
    if (j->due && !j->cold && j->due < until)
        until = j->due;
    if (fast_fair_push(&fn->queue, &j->waiting, caller, &err) ||
        fast_due_add(&j->gw->waiting, &j->waits_until, until, &err)) {
        gw_job_stop_waiting(j);
        gw_job_error(j, 503, 1, err.msg);
        return;
    }
    j->deadline = 0;
    fast_timer_set(j->gw->wait_timer, fast_due_expiry(&j->gw->waiting));
    gw_function_wake(j->gw, fn);
}

void gw_job_stop_waiting(struct gw_job *j)
{
    fast_fair_remove(&j->fn->queue, &j->waiting);
    fast_due_remove(&j->gw->waiting, &j->waits_until);
}

/* The next in turn; NULL: nobody waits. */
static struct gw_job *next_waiting(struct gw_function *fn)
{
    struct fast_fair_item *item = fast_fair_pop(&fn->queue);
    struct gw_job *j = item ? FAST_CONTAINER_OF(item, struct gw_job, waiting) : NULL;
    if (j)
        gw_job_stop_waiting(j);
    return j;
}

/* Why no replica of |fn| is ready, as far as it is known; "". */
static const char *why_none(const struct gw_function *fn, const struct gateway *gw)
{
    if (*fn->trouble)
        return fn->trouble;
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->fn == fn && r->text && *r->text)
            return r->text;
    return "";
}

/* It has waited too long: answers so. */
static void waited_out(struct gw_job *j)
{
    char text[600];
    struct gw_function *fn = j->fn;
    const char *why = why_none(fn, j->gw);
    gw_job_stop_waiting(j);
    if (j->due && !j->cold) {
        too_late(j, expected(fn, fn->queue.n, fast_loop_now(j->gw->loop)));
        return;
    }
    snprintf(text, sizeof(text), "no replica of function %s within %lld s%s%s", fn->spec->name,
             (long long)(j->gw->conf->queue_timeout / FAST_S(1)), *why ? ": " : "", why);
    gw_job_error(j, 503, 1, text);
}

void gw_invoke_wait_out(struct gateway *gw)
{
    struct fast_due_item *item;
    while ((item = fast_due_next(&gw->waiting, fast_loop_now(gw->loop))))
        waited_out(FAST_CONTAINER_OF(item, struct gw_job, waits_until));
    fast_timer_set(gw->wait_timer, fast_due_expiry(&gw->waiting));
}

/* ---- who is next ---- */

static bool has_room(const struct gw_function *fn)
{
    for (int i = 0; i < fn->balance.n; i++) {
        const struct fast_balance_item *item = fn->balance.items[i];
        if (item->ready && (!fn->spec->max_inflight || item->in_flight < fn->spec->max_inflight))
            return true;
    }
    return false;
}

void gw_invoke_queue(struct gateway *gw, struct gw_function *fn)
{
    fast_ns now = fast_loop_now(gw->loop);
    if (fn->handing_out || !fn->queue.n)
        return;
    fn->handing_out = true; /* the end of one request makes room for others: from here, not deeper */
    fn->jobs++;             /* the last request may be what holds the function */
    /* One that has to wait again goes to the end of its line, so each is tried once. */
    for (int n = fn->queue.n; n > 0 && fn->queue.n && has_room(fn); n--) {
        struct gw_job *j = next_waiting(fn);
        if (j->due && !j->cold && now >= j->due)
            too_late(j, now);
        else
            gw_job_dispatch(j);
    }
    fn->jobs--;
    fn->handing_out = false;
}

void gw_invoke_drop_queue(struct gateway *gw, struct gw_function *fn)
{
    (void)gw;
    for (struct gw_job *j; (j = next_waiting(fn));)
        gw_job_error(j, 404, 0, "the function was removed");
}
