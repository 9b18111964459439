/* The metrics page: the names of OpenFaaS as they are, our own as fast_*. */

#include "gateway/async.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EACH_FUNCTION(gw, fn)                                                                      \
    for (struct gw_function *fn = (gw)->functions; fn; fn = fn->next)                              \
        if (!fn->removed)

static void histogram(struct gw_page *w, const struct gateway *gw)
{
    gw_page_head(w, "gateway_functions_seconds", "histogram", "Function time taken");
    EACH_FUNCTION(gw, fn)
    for (int i = 0; i < fn->stats.ncodes; i++) {
        const struct gw_code *c = &fn->stats.codes[i];
        char labels[200];
        snprintf(labels, sizeof(labels), "function_name=\"%s.%s\",code=\"%d\"", fn->spec->name,
                 fn->spec->ns, c->code);
        for (int k = 0; k < GW_BOUNDS; k++)
            gw_page_add(w, "gateway_functions_seconds_bucket{%s,le=\"%s%s\"} %llu\n", labels,
                        gw_stats_bound_names[k], w->open && !strchr(gw_stats_bound_names[k], '.') ? ".0" : "",
                        (unsigned long long)c->le[k]);
        gw_page_add(w, "gateway_functions_seconds_bucket{%s,le=\"+Inf\"} %llu\n", labels,
                    (unsigned long long)c->count);
        gw_page_add(w, "gateway_functions_seconds_sum{%s} %.15g\n", labels, c->sum_s);
        gw_page_add(w, "gateway_functions_seconds_count{%s} %llu\n", labels, (unsigned long long)c->count);
    }
}

static void openfaas(struct gw_page *w, const struct gateway *gw)
{
    gw_page_head(w, "gateway_function_invocation_total", "counter", "Function metrics");
    EACH_FUNCTION(gw, fn)
    for (int i = 0; i < fn->stats.ncodes; i++)
        gw_page_add(w, "gateway_function_invocation_total{function_name=\"%s.%s\",code=\"%d\"} %llu\n",
                    fn->spec->name, fn->spec->ns, fn->stats.codes[i].code,
                    (unsigned long long)fn->stats.codes[i].count);
    gw_page_head(w, "gateway_function_invocation_started", "counter", "Function requests started");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "gateway_function_invocation_started{function_name=\"%s.%s\"} %llu\n", fn->spec->name,
                fn->spec->ns, (unsigned long long)fn->stats.started);
    gw_page_head(w, "gateway_function_invocation_inflight", "gauge", "Requests that are not answered yet");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "gateway_function_invocation_inflight{function_name=\"%s.%s\"} %d\n", fn->spec->name,
                fn->spec->ns, fn->jobs);
    gw_page_head(w, "gateway_service_count", "gauge", "Replicas wanted");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "gateway_service_count{function_name=\"%s.%s\"} %d\n", fn->spec->name, fn->spec->ns,
                fn->desired);
    gw_page_head(w, "gateway_service_ready_count", "gauge", "Replicas that are ready");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "gateway_service_ready_count{function_name=\"%s.%s\"} %d\n", fn->spec->name,
                fn->spec->ns, gw_function_ready(fn));
    histogram(w, gw);
}

static void own(struct gw_page *w, const struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    gw_page_head(w, "fast_function_queued", "gauge", "Requests that wait for a replica");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "fast_function_queued{function_name=\"%s.%s\"} %d\n", fn->spec->name, fn->spec->ns,
                fn->queue.n);
    gw_page_head(w, "fast_function_shed_total", "counter",
                 "Requests that could not be served in time or found no room to wait");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "fast_function_shed_total{function_name=\"%s.%s\"} %llu\n", fn->spec->name, fn->spec->ns,
                (unsigned long long)fn->shed);
    gw_page_head(w, "fast_function_requests_per_second", "gauge", "Over the last 10 seconds");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "fast_function_requests_per_second{function_name=\"%s.%s\"} %.3f\n", fn->spec->name,
                fn->spec->ns, (double)gw_stats_rate_milli(&fn->stats, now) / 1000);
    gw_page_head(w, "fast_function_slo_missed_total", "counter", "Requests slower than the SLO, or failed");
    EACH_FUNCTION(gw, fn)
    gw_page_add(w, "fast_function_slo_missed_total{function_name=\"%s.%s\"} %llu\n", fn->spec->name,
                fn->spec->ns, (unsigned long long)fn->stats.slo_missed);
    gw_page_head(w, "fast_function_latency_seconds", "summary", "Quantiles over the last 10 to 20 seconds");
    EACH_FUNCTION(gw, fn)
    for (int q = 500; q <= 990; q += 490) {
        double seconds = (double)gw_stats_quantile(&fn->stats, q, now) / 1e9;
        if (seconds > 0) /* there were some */
            gw_page_add(w, "fast_function_latency_seconds{function_name=\"%s.%s\",quantile=\"%s\"} %.6f\n",
                        fn->spec->name, fn->spec->ns, q == 500 ? "0.5" : "0.99", seconds);
    }
}

/* Whether Accept names OpenMetrics. Who takes both formats, as Prometheus does, gets it: it is the newer
 * one of them. */
static bool wants_open(struct fast_http_req *req)
{
    static const char name[] = "application/openmetrics-text";
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, "accept");
    return f && memmem(text + f->value, f->value_len, name, sizeof(name) - 1);
}

void gw_api_metrics(void *arg, struct fast_http_req *req)
{
    struct gateway *gw = arg;
    struct gw_page w = {0};
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    if (fast_http_is_exact(path, h->target_len, "/healthz")) {
        fast_http_req_text_reply(req, 200, "OK");
        return;
    }
    if (!fast_http_is_exact(path, h->target_len, "/metrics")) {
        fast_http_req_text_reply(req, 404, "404 page not found");
        return;
    }
    w.open = wants_open(req);
    openfaas(&w, gw);
    own(&w, gw);
    uint64_t waiting, dead;
    int running;
    gw_async_counts(gw->async, &waiting, &dead, &running);
    gw_page_head(&w, "queue_worker_pending_messages", "gauge", "Asynchronous calls that are not done");
    gw_page_add(&w, "queue_worker_pending_messages %llu\n", (unsigned long long)waiting);
    gw_page_head(&w, "fast_async_running", "gauge", "Asynchronous calls that are being made");
    gw_page_add(&w, "fast_async_running %d\n", running);
    gw_page_head(&w, "fast_async_dead", "gauge", "Asynchronous calls that were given up");
    gw_page_add(&w, "fast_async_dead %llu\n", (unsigned long long)dead);
    gw_page_head(&w, "fast_node_up", "gauge", "1 while the gateway is connected to its node");
    gw_page_add(&w, "fast_node_up %d\n", gw_link_synced(gw->link));
    gw_page_head(&w, "fast_requests_unheld_total", "counter",
                 "Requests that began on idle time, as the quota of their replica could not be raised");
    gw_page_add(&w, "fast_requests_unheld_total %llu\n", (unsigned long long)gw->unraised);
    gw_page_head(&w, "fast_moves_total", "counter", "Replicas that were to go to another GPU");
    gw_page_add(&w, "fast_moves_total{outcome=\"moved\"} %llu\n", (unsigned long long)gw->moves.moved);
    gw_page_add(&w, "fast_moves_total{outcome=\"given_up\"} %llu\n", (unsigned long long)gw->moves.given_up);
    gw_metrics_gpus(&w, gw);
    gw_metrics_replicas(&w, gw);
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
