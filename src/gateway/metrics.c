/* The metrics page: the names of OpenFaaS as they are, our own as fast_*. */

#include "gateway/async.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- functions ---- */

static void label(struct gw_page *w, const char *name, const struct gw_function *fn)
{
    gw_page_put(w, name);
    gw_page_put(w, "{function_name=\"");
    gw_page_put(w, fn->spec->name);
    gw_page_put(w, ".");
    gw_page_put(w, fn->spec->ns);
    gw_page_put(w, "\"");
}

#define COUNT(name, value)                                                                         \
    static uint64_t name(const struct gw_function *fn)                                             \
    {                                                                                              \
        return (uint64_t)(value);                                                                  \
    }

COUNT(started, fn->stats.started)
COUNT(in_flight, fn->jobs)
COUNT(wanted, fn->desired)
COUNT(ready, gw_function_ready(fn))
COUNT(least, fn->spec->min)
COUNT(queued, fn->queue.n)
COUNT(shed, fn->shed)
COUNT(late, fn->stats.slo_missed)

static int ncodes(const struct gw_function *fn)
{
    return fn->stats.answers ? fn->stats.answers->ncodes : 0;
}

static void by_code(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    (void)now;
    for (int i = 0; i < ncodes(fn); i++) {
        label(w, name, fn);
        gw_page_add(w, ",code=\"%d\"} %llu\n", fn->stats.answers->codes[i].code,
                    (unsigned long long)fn->stats.answers->codes[i].took.count);
    }
}

static void seconds(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    (void)now;
    for (int i = 0; i < ncodes(fn); i++) {
        const struct gw_code *c = &fn->stats.answers->codes[i];
        char labels[200];
        snprintf(labels, sizeof(labels), "function_name=\"%s.%s\",code=\"%d\"", fn->spec->name,
                 fn->spec->ns, c->code);
        gw_page_histogram(w, name, labels, &c->took);
    }
}

static void rate(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    int64_t milli = fn->stats.started ? gw_stats_rate_milli(&fn->stats, now) : 0;
    label(w, name, fn);
    gw_page_put(w, "} ");
    gw_page_milli(w, (uint64_t)milli);
}

static void quantiles(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    for (int q = 500; fn->stats.answers && q <= 990; q += 490) {
        double took = (double)gw_stats_quantile(&fn->stats, q, now) / 1e9;
        if (took > 0) /* there were some */
            gw_page_add(w, "%s{function_name=\"%s.%s\",quantile=\"%s\"} %.6f\n", name, fn->spec->name,
                        fn->spec->ns, q == 500 ? "0.5" : "0.99", took);
    }
}

/* Of one that is scaled by its load alone. */
static bool has_target(const struct gw_function *fn)
{
    return gw_spec_is_scaled(fn->spec) && !(fn->spec->profile && fn->spec->slo);
}

static void target(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    (void)now;
    if (!has_target(fn))
        return;
    label(w, name, fn);
    gw_page_put(w, "} ");
    gw_page_milli(w, (uint64_t)fn->spec->target_milli);
}

static void target_load(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now)
{
    (void)now;
    if (!has_target(fn))
        return;
    label(w, name, fn);
    gw_page_put(w, fn->spec->by_capacity ? ",scaling_type=\"capacity\"} " : ",scaling_type=\"rps\"} ");
    gw_page_milli(w, (uint64_t)fn->spec->target_milli);
}

static const struct family {
    const char *name, *type, *help;
    uint64_t (*count)(const struct gw_function *fn); /* else |put| */
    void (*put)(struct gw_page *w, const char *name, struct gw_function *fn, fast_ns now);
} families[] = {
    {"gateway_function_invocation_total", "counter", "Function metrics", NULL, by_code},
    {"gateway_function_invocation_started", "counter", "Function requests started", started, NULL},
    {"gateway_function_invocation_inflight", "gauge", "Requests that are not answered yet", in_flight, NULL},
    {"gateway_functions_seconds", "histogram", "Function time taken", NULL, seconds},
    {"gateway_service_count", "gauge", "Replicas wanted", wanted, NULL},
    {"gateway_service_ready_count", "gauge", "Replicas that are ready", ready, NULL},
    {"gateway_service_min", "gauge", "The fewest replicas there may be", least, NULL},
    {"gateway_service_target", "gauge", "Load of one replica that is scaled for", NULL, target},
    {"gateway_service_target_load", "gauge", "The same, by what the load is", NULL, target_load},
    {"fast_function_queued", "gauge", "Requests that wait for a replica", queued, NULL},
    {"fast_function_shed_total", "counter", "Requests that could not be served in time or found no room to wait",
     shed, NULL},
    {"fast_function_requests_per_second", "gauge", "Over the last 10 seconds", NULL, rate},
    {"fast_function_slo_missed_total", "counter", "Requests slower than the SLO, or failed", late, NULL},
    {"fast_function_latency_seconds", "summary", "Quantiles over the last 10 to 20 seconds", NULL, quantiles},
};

/* All of a function at once, since each is far away in memory when there are many: a page for each family,
 * and then one after the other. */
static void functions(struct gw_page *w, const struct gateway *gw)
{
    struct gw_page part[FAST_COUNT_OF(families)] = {0};
    fast_ns now = fast_loop_now(gw->loop);
    for (size_t i = 0; i < FAST_COUNT_OF(families); i++) {
        part[i].open = w->open;
        gw_page_head(&part[i], families[i].name, families[i].type, families[i].help);
    }
    for (struct gw_function *fn = gw->functions; fn; fn = fn->next)
        for (size_t i = 0; !fn->removed && i < FAST_COUNT_OF(families); i++) {
            const struct family *f = &families[i];
            if (f->put) {
                f->put(&part[i], f->name, fn, now);
                continue;
            }
            label(&part[i], f->name, fn);
            gw_page_put(&part[i], "} ");
            gw_page_count(&part[i], f->count(fn));
        }
    for (size_t i = 0; i < FAST_COUNT_OF(families); i++)
        gw_page_join(w, &part[i]);
}

/* ---- the page ---- */

/* Whether Accept names OpenMetrics. Who takes both formats, as Prometheus does, gets it: it is the newer
 * one of them. */
static bool wants_open(struct fast_http_req *req)
{
    static const char name[] = "application/openmetrics-text";
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, "accept");
    return f && memmem(text + f->value, f->value_len, name, sizeof(name) - 1);
}

/* The one queue has the name that it has by default in OpenFaaS. */
static void async(struct gw_page *w, const struct gateway *gw)
{
    struct gw_async_counts c = gw_async_counts(gw->async);
    const struct {
        const char *name, *type, *help, *labels;
        uint64_t value;
    } rows[] = {
#define QUEUE "{queue_name=\"faas-request\"}"
        {"queue_worker_pending_messages", "gauge", "Asynchronous calls that are not done", QUEUE, c.waiting},
        {"queue_worker_messages_submitted_total", "counter", "Asynchronous calls that were accepted", QUEUE,
         c.submitted},
        {"queue_worker_messages_processed_total", "counter", "Asynchronous calls that are done or given up", QUEUE,
         c.processed},
#undef QUEUE
        {"fast_async_running", "gauge", "Asynchronous calls that are being made", "", (uint64_t)c.running},
        {"fast_async_dead", "gauge", "Asynchronous calls that were given up", "", c.dead}};
    for (size_t i = 0; i < FAST_COUNT_OF(rows); i++) {
        gw_page_head(w, rows[i].name, rows[i].type, rows[i].help);
        gw_page_add(w, "%s%s %llu\n", rows[i].name, rows[i].labels, (unsigned long long)rows[i].value);
    }
}

void gw_metrics_reply(struct gateway *gw, struct fast_http_req *req)
{
    struct gw_page w = {0};
    w.open = wants_open(req);
    functions(&w, gw);
    async(&w, gw);
    gw_page_head(&w, "fast_node_up", "gauge", "1 while the gateway is connected to its node");
    gw_page_add(&w, "fast_node_up %d\n", gw_link_synced(gw->link));
    gw_page_head(&w, "fast_requests_unheld_total", "counter",
                 "Requests that began on idle time, as the quota of their replica could not be raised");
    gw_page_add(&w, "fast_requests_unheld_total %llu\n", (unsigned long long)gw->unraised);
    gw_page_head(&w, "fast_moves_total", "counter", "Replicas that were to go to another GPU");
    gw_page_add(&w, "fast_moves_total{outcome=\"moved\"} %llu\n", (unsigned long long)gw->moves.moved);
    gw_page_add(&w, "fast_moves_total{outcome=\"given_up\"} %llu\n", (unsigned long long)gw->moves.given_up);
    gw_metrics_api(&w, gw);
    gw_metrics_gpus(&w, gw);
    gw_metrics_replicas(&w, gw);
    gw_metrics_usage(&w, gw);
    if (w.open)
        gw_page_add(&w, "# EOF\n");
    if (w.failed) { /* half of it would be taken for all */
        free(w.p);
        fast_http_req_text_reply(req, 503, "no memory for the metrics");
        return;
    }
    fast_http_req_reply(req, 200, NULL,
                        w.open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                               : "text/plain; version=0.0.4; charset=utf-8",
                        w.p, w.len);
    free(w.p);
}
