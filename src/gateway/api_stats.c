/* Counts requests to the API, by method, path and status, as OpenFaaS' gateway and provider do: theirs are two
 * programs, and this is both. Calls of functions are counted by function instead (stats.h). */

#include "gateway/gateway.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 256 /* what goes beyond is not counted: methods and paths are few, and statuses of each */

struct row {
    const char *method, *path;
    int status;
    struct gw_times took;
};

struct gw_api_stats {
    struct row row[ROWS_MAX];
    int n;
};

static const char *method_of(const struct fast_http_req *req)
{
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"};
    const struct fast_http_head *h = fast_http_req_head(req);
    for (size_t i = 0; i < FAST_COUNT_OF(methods); i++)
        if (fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, methods[i]))
            return methods[i];
    return "other";
}

static struct row *row_of(struct gw_api_stats *s, const char *method, const char *path, int status)
{
    for (int i = 0; i < s->n; i++)
        if (s->row[i].status == status && s->row[i].method == method && s->row[i].path == path)
            return &s->row[i];
    if (s->n == ROWS_MAX)
        return NULL;
    s->row[s->n] = (struct row){.method = method, .path = path, .status = status};
    return &s->row[s->n++];
}

void gw_api_finished(void *arg, const struct fast_http_finished *what)
{
    struct gateway *gw = arg;
    const struct fast_http_head *h = fast_http_req_head(what->req);
    const char *path = gw_api_path(fast_http_req_text(what->req) + h->target, h->target_len);
    if (gw->access_log)
        gw_access_log(gw, what);
    if (!path || !what->status)
        return;
    if (!gw->api_stats)
        gw->api_stats = calloc(1, sizeof(*gw->api_stats));
    struct row *r = gw->api_stats ? row_of(gw->api_stats, method_of(what->req), path, what->status) : NULL;
    if (r)
        gw_times_add(&r->took, fast_clock_now() - what->began);
}

/* |status|: how the label is called. */
static void requests(struct gw_page *w, const struct gw_api_stats *s, const char *name, const char *status,
                     bool provider, bool seconds)
{
    for (int i = 0; s && i < s->n; i++) {
        const struct row *r = &s->row[i];
        size_t len = strlen(r->path);
        char labels[160];
        if (provider && strncmp(r->path, "/system/", 8) != 0)
            continue;
        len -= r->path[len - 1] == '/'; /* a name follows, which is left out */
        snprintf(labels, sizeof(labels), "method=\"%s\",path=\"%.*s\",%s=\"%d\"", r->method, (int)len, r->path,
                 status, r->status);
        if (seconds)
            gw_page_histogram(w, name, labels, &r->took);
        else
            gw_page_add(w, "%s{%s} %llu\n", name, labels, (unsigned long long)r->took.count);
    }
}

void gw_metrics_api(struct gw_page *w, const struct gateway *gw)
{
    static const struct {
        const char *prefix, *status;
    } rows[] = {{"", "status"}, {"provider_", "code"}};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof(name), "%shttp_requests_total", rows[i].prefix);
        gw_page_head(w, name, "counter", "Requests to the API");
        requests(w, gw->api_stats, name, rows[i].status, i, false);
        snprintf(name, sizeof(name), "%shttp_request_duration_seconds", rows[i].prefix);
        gw_page_head(w, name, "histogram", "Time that requests to the API took");
        requests(w, gw->api_stats, name, rows[i].status, i, true);
    }
}
