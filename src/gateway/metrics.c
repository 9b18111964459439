/* The metrics page: the names of OpenFaaS as they are, our own as fast_*. */

#include "gateway/async.h"
#include "gateway/gateway.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct page {
    char *p;
    size_t len, cap;
};

static void add(struct page *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct page *w, const char *fmt, ...)
{
    va_list ap;
    if (w->cap - w->len < 512) {
        size_t cap = w->cap ? 2 * w->cap : 16384;
        char *p = realloc(w->p, cap);
        if (!p)
            return;
        w->p = p;
        w->cap = cap;
    }
    va_start(ap, fmt);
    int n = vsnprintf(w->p + w->len, w->cap - w->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        w->len += (size_t)n < w->cap - w->len ? (size_t)n : w->cap - w->len - 1;
}

static void head(struct page *w, const char *name, const char *type, const char *help)
{
    add(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

#define EACH_FUNCTION(gw, fn)                                                                      \
    for (struct gw_function *fn = (gw)->functions; fn; fn = fn->next)                              \
        if (!fn->removed)

static void histogram(struct page *w, const struct gateway *gw)
{
    head(w, "gateway_functions_seconds", "histogram", "Function time taken");
    EACH_FUNCTION(gw, fn)
    for (int i = 0; i < fn->stats.ncodes; i++) {
        const struct gw_code *c = &fn->stats.codes[i];
        char labels[200];
        snprintf(labels, sizeof(labels), "function_name=\"%s.%s\",code=\"%d\"", fn->spec->name,
                 fn->spec->ns, c->code);
        for (int k = 0; k < GW_BOUNDS; k++)
            add(w, "gateway_functions_seconds_bucket{%s,le=\"%s\"} %llu\n", labels,
                gw_stats_bound_names[k], (unsigned long long)c->le[k]);
        add(w, "gateway_functions_seconds_bucket{%s,le=\"+Inf\"} %llu\n", labels,
            (unsigned long long)c->count);
        add(w, "gateway_functions_seconds_sum{%s} %.9g\n", labels, c->sum_s);
        add(w, "gateway_functions_seconds_count{%s} %llu\n", labels, (unsigned long long)c->count);
    }
}

static void openfaas(struct page *w, const struct gateway *gw)
{
    head(w, "gateway_function_invocation_total", "counter", "Function metrics");
    EACH_FUNCTION(gw, fn)
    for (int i = 0; i < fn->stats.ncodes; i++)
        add(w, "gateway_function_invocation_total{function_name=\"%s.%s\",code=\"%d\"} %llu\n",
            fn->spec->name, fn->spec->ns, fn->stats.codes[i].code,
            (unsigned long long)fn->stats.codes[i].count);
    head(w, "gateway_function_invocation_started", "counter", "Function requests started");
    EACH_FUNCTION(gw, fn)
    add(w, "gateway_function_invocation_started{function_name=\"%s.%s\"} %llu\n", fn->spec->name,
        fn->spec->ns, (unsigned long long)fn->stats.started);
    head(w, "gateway_function_invocation_inflight", "gauge", "Requests that are not answered yet");
    EACH_FUNCTION(gw, fn)
    add(w, "gateway_function_invocation_inflight{function_name=\"%s.%s\"} %d\n", fn->spec->name,
        fn->spec->ns, fn->jobs);
    head(w, "gateway_service_count", "gauge", "Replicas wanted");
    EACH_FUNCTION(gw, fn)
    add(w, "gateway_service_count{function_name=\"%s.%s\"} %d\n", fn->spec->name, fn->spec->ns,
        fn->desired);
    head(w, "gateway_service_ready_count", "gauge", "Replicas that are ready");
    EACH_FUNCTION(gw, fn)
    add(w, "gateway_service_ready_count{function_name=\"%s.%s\"} %d\n", fn->spec->name,
        fn->spec->ns, gw_function_ready(gw, fn));
    histogram(w, gw);
}

static void own(struct page *w, const struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    head(w, "fast_function_queued", "gauge", "Requests that wait for a replica");
    EACH_FUNCTION(gw, fn)
    add(w, "fast_function_queued{function_name=\"%s.%s\"} %d\n", fn->spec->name, fn->spec->ns,
        fn->queue.n);
    head(w, "fast_function_shed_total", "counter", "Requests that could not be served in time or found no room to wait");
    EACH_FUNCTION(gw, fn)
    add(w, "fast_function_shed_total{function_name=\"%s.%s\"} %llu\n", fn->spec->name, fn->spec->ns,
        (unsigned long long)fn->shed);
    head(w, "fast_function_requests_per_second", "gauge", "Over the last 10 seconds");
    EACH_FUNCTION(gw, fn)
    add(w, "fast_function_requests_per_second{function_name=\"%s.%s\"} %.3f\n", fn->spec->name,
        fn->spec->ns, (double)gw_stats_rate_milli(&fn->stats, now) / 1000);
    head(w, "fast_function_slo_missed_total", "counter", "Requests slower than the SLO, or failed");
    EACH_FUNCTION(gw, fn)
    add(w, "fast_function_slo_missed_total{function_name=\"%s.%s\"} %llu\n", fn->spec->name,
        fn->spec->ns, (unsigned long long)fn->stats.slo_missed);
    head(w, "fast_function_latency_seconds", "gauge", "Quantiles over the last 10 to 20 seconds");
    EACH_FUNCTION(gw, fn)
    for (int q = 500; q <= 990; q += 490)
        add(w, "fast_function_latency_seconds{function_name=\"%s.%s\",quantile=\"%s\"} %.6f\n",
            fn->spec->name, fn->spec->ns, q == 500 ? "0.5" : "0.99",
            (double)gw_stats_quantile(&fn->stats, q, now) / 1e9);
}

static void gpu_value(struct page *w, const struct gateway *gw, const char *name, const char *help,
                      double (*value)(const struct gw_gpu *g))
{
    head(w, name, "gauge", help);
    for (int i = 0; i < gw->ngpus; i++)
        add(w, "%s{node=\"%s\",gpu=\"%u\",uuid=\"%s\"} %.9g\n", name, gw->node,
            gw->gpus[i].row.gpu, gw->gpus[i].uuid, value(&gw->gpus[i]));
}

static double utilization(const struct gw_gpu *g)
{
    return g->row.util_milli / 1000.0;
}

static double sm_activity(const struct gw_gpu *g)
{
    return g->row.sm_milli / 1000.0;
}

static double occupancy(const struct gw_gpu *g)
{
    return g->row.occupancy_milli / 1000.0;
}

static double mem_used(const struct gw_gpu *g)
{
    return (double)g->row.mem_used;
}

static double mem_total(const struct gw_gpu *g)
{
    return (double)g->row.mem_total;
}

static void replica_value(struct page *w, const struct gateway *gw, const char *name,
                          const char *help, double (*value)(const struct fast_msg_replica_stats *s))
{
    head(w, name, "counter", help);
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->phase != GW_GONE)
            add(w, "%s{replica=\"%s\",function_name=\"%s.%s\",gpu=\"%d\"} %.9g\n", name, r->id,
                r->fn->spec->name, r->fn->spec->ns, r->gpu, value(&r->node_stats));
}

static double mem_shared(const struct gw_gpu *g)
{
    return (double)g->row.mem_shared;
}

static double mem_cached(const struct gw_gpu *g)
{
    return (double)g->row.mem_cached;
}

/* A label's value with what the format does not allow in one taken out. */
static const char *label(const char *text, char *buf, size_t cap)
{
    size_t n = 0;
    for (; *text && n + 1 < cap; text++)
        buf[n++] = (char)(*text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? '_' : *text);
    buf[n] = 0;
    return buf;
}

static void models(struct page *w, const struct gateway *gw)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {{"fast_model_bytes", "gauge", "Device memory of a model that replicas share"},
                {"fast_model_references", "gauge", "Processes that have it"},
                {"fast_model_gets_total", "counter", "Times that it was taken without loading"}};
    for (int i = 0; i < 3; i++) {
        head(w, rows[i].name, rows[i].type, rows[i].help);
        for (const struct fast_msg_model_row *m = NULL; (m = gw_models_next(gw, m));) {
            char name[128], version[64];
            add(w, "%s{model=\"%s\",version=\"%s\",namespace=\"%s\",gpu=\"%u\"} %llu\n", rows[i].name,
                label(m->name.p, name, sizeof(name)), label(m->version.p, version, sizeof(version)),
                m->ns.p, m->gpu,
                (unsigned long long)(i == 0 ? m->bytes : i == 1 ? m->refs : m->gets));
        }
    }
}

static double busy(const struct fast_msg_replica_stats *s)
{
    return (double)s->busy_ns / 1e9;
}

static double throttled(const struct fast_msg_replica_stats *s)
{
    return (double)s->throttled_ns / 1e9;
}

static double launches(const struct fast_msg_replica_stats *s)
{
    return (double)s->launches;
}

void gw_api_metrics(void *arg, struct fast_http_req *req)
{
    struct gateway *gw = arg;
    struct page w = {0};
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
    openfaas(&w, gw);
    own(&w, gw);
    uint64_t waiting, dead;
    int running;
    gw_async_counts(gw->async, &waiting, &dead, &running);
    head(&w, "queue_worker_pending_messages", "gauge", "Asynchronous calls that are not done");
    add(&w, "queue_worker_pending_messages %llu\n", (unsigned long long)waiting);
    head(&w, "fast_async_running", "gauge", "Asynchronous calls that are being made");
    add(&w, "fast_async_running %d\n", running);
    head(&w, "fast_async_dead", "gauge", "Asynchronous calls that were given up");
    add(&w, "fast_async_dead %llu\n", (unsigned long long)dead);
    head(&w, "fast_node_up", "gauge", "1 while the gateway is connected to its node");
    add(&w, "fast_node_up %d\n", gw_link_synced(gw->link));
    gpu_value(&w, gw, "fast_gpu_utilization", "Share of time with a kernel running", utilization);
    gpu_value(&w, gw, "fast_gpu_sm_activity", "Share of SMs with a warp", sm_activity);
    gpu_value(&w, gw, "fast_gpu_sm_occupancy", "Share of warp slots", occupancy);
    gpu_value(&w, gw, "fast_gpu_memory_used_bytes", "Memory in use", mem_used);
    gpu_value(&w, gw, "fast_gpu_memory_total_bytes", "Memory of the GPU", mem_total);
    gpu_value(&w, gw, "fast_gpu_memory_shared_bytes", "Models that replicas share", mem_shared);
    gpu_value(&w, gw, "fast_gpu_memory_cached_bytes", "Of them, those that nobody uses", mem_cached);
    models(&w, gw);
    replica_value(&w, gw, "fast_replica_busy_seconds_total", "Time the GPU was busy for it", busy);
    replica_value(&w, gw, "fast_replica_throttled_seconds_total", "Time it was out of quota",
                  throttled);
    replica_value(&w, gw, "fast_replica_launches_total", "Kernels and graphs", launches);
    fast_http_req_reply(req, 200, NULL, "text/plain; version=0.0.4; charset=utf-8", w.p ? w.p : "",
                        w.len);
    free(w.p);
}
