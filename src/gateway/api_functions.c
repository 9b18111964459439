/* The calls of OpenFaaS about functions: deploy, list, change, remove, status, scale. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

/* ---- reading ---- */

static void time_text(int64_t wall_ns, char *ret, size_t cap)
{
    time_t t = (time_t)(wall_ns / FAST_S(1));
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(ret, cap, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static bool is_empty(const json_t *v)
{
    return !v || json_is_null(v) || (json_is_object(v) && !json_object_size(v)) ||
           (json_is_array(v) && !json_array_size(v)) ||
           (json_is_string(v) && !*json_string_value(v));
}

/* What was deployed comes back byte by byte; what is empty is left out, since clients compare. */
static json_t *constant_json(const struct gw_spec *s)
{
    static const char *const echoed[] = {"image",   "envProcess", "envVars", "constraints",
                                         "secrets", "limits", "requests"};
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(s->name));
    json_object_set_new(o, "namespace", json_string(s->ns));
    for (size_t i = 0; i < sizeof(echoed) / sizeof(echoed[0]); i++)
        if (!is_empty(json_object_get(s->json, echoed[i])))
            json_object_set(o, echoed[i], json_object_get(s->json, echoed[i]));
    json_t *labels = json_is_object(json_object_get(s->json, "labels"))
                         ? json_copy(json_object_get(s->json, "labels"))
                         : json_object();
    json_object_set_new(labels, "faas_function", json_string(s->name));
    json_object_set_new(o, "labels", labels);
    /* Clients of OpenFaaS look into this map without asking whether it is there. */
    const json_t *notes = json_object_get(s->json, "annotations");
    json_object_set_new(o, "annotations", json_is_object(notes) ? json_incref((json_t *)notes)
                                                                : json_object());
    json_object_set_new(o, "runner", json_string(s->runner));
    json_object_set_new(o, "isolation", json_string(s->isolation));
    if (json_is_true(json_object_get(s->json, "readOnlyRootFilesystem")))
        json_object_set_new(o, "readOnlyRootFilesystem", json_true());
    return o;
}

/* The same as text without its closing brace, made once for each deployment: a list of ten thousand
 * functions is asked for every few seconds by whoever has a page open. */
static const char *constant_text(struct gw_spec *s)
{
    if (s->listed)
        return s->listed;
    json_t *o = constant_json(s);
    s->listed = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    if (s->listed)
        s->listed[strlen(s->listed) - 1] = 0;
    return s->listed;
}

static size_t changing_text(const struct gw_function *fn, char *buf, size_t cap)
{
    char created[32];
    int ready = gw_function_ready(fn);
    uint64_t calls = fn->stats.requests;
    size_t n = 0;
    if (calls)
        n += (size_t)snprintf(buf + n, cap - n, ",\"invocationCount\":%llu",
                              (unsigned long long)calls);
    if (fn->desired)
        n += (size_t)snprintf(buf + n, cap - n, ",\"replicas\":%d", fn->desired);
    if (ready)
        n += (size_t)snprintf(buf + n, cap - n, ",\"availableReplicas\":%d", ready);
    time_text(fn->created_ns, created, sizeof(created));
    n += (size_t)snprintf(buf + n, cap - n, ",\"createdAt\":\"%s\"}", created);
    return n;
}

static json_t *status_json(const struct gw_function *fn)
{
    char changing[256];
    fast_autofree char *all = NULL;
    const char *constant = constant_text(fn->spec);
    size_t n = changing_text(fn, changing, sizeof(changing));
    if (!constant || asprintf(&all, "%s%.*s", constant, (int)n, changing) < 0)
        return NULL;
    json_t *o = json_loads(all, 0, NULL), *profile = gw_profiles_json(fn);
    if (profile)
        json_object_set_new(o, "profile", profile);
    return o;
}

static void add_usage(struct gateway *gw, const struct gw_function *fn, json_t *o)
{
    uint64_t gpu = 0, resident = 0;
    double cpu = 0;
    for (struct gw_replica *r = gw->replicas; r; r = r->next) {
        double millicores = 0;
        uint64_t bytes = 0;
        if (r->fn != fn || r->phase == GW_GONE)
            continue;
        gw_usage(gw, r, &millicores, &bytes);
        cpu += millicores;
        resident += bytes;
        gpu += gw_replica_used(r).mem_bytes;
    }
    json_object_set_new(o, "usage", json_pack("{s:f, s:f, s:I}", "cpu", cpu, "totalMemoryBytes",
                                              (double)resident, "gpuMemoryBytes", (json_int_t)gpu));
}

struct page {
    char *p;
    size_t len, cap;
};

static bool add(struct page *w, const char *text, size_t n)
{
    if (w->len + n > w->cap) {
        size_t cap = 2 * (w->len + n) + 16384;
        char *p = realloc(w->p, cap);
        if (!p)
            return false;
        w->p = p;
        w->cap = cap;
    }
    memcpy(w->p + w->len, text, n);
    w->len += n;
    return true;
}

/* Takes |profile| over. */
static bool add_profile(struct page *w, const char *constant, const char *changing, size_t n,
                        json_t *profile)
{
    fast_autofree char *text = json_dumps(profile, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(profile);
    return constant && text && add(w, constant, strlen(constant)) && add(w, changing, n - 1) &&
           add(w, ",\"profile\":", 11) && add(w, text, strlen(text)) && add(w, "}", 1);
}

/* Of one namespace, as clients of OpenFaaS expect, who find a function in it by its name alone; "*": of all. */
static void list(const struct gw_request *rq)
{
    char ns[GW_NAME_MAX] = "", changing[256];
    struct page w = {0};
    if (!gw_query_get(rq->query, "namespace", ns, sizeof(ns)) || !*ns)
        snprintf(ns, sizeof(ns), "%s", GW_DEFAULT_NS);
    bool all = !strcmp(ns, "*");
    bool ok = add(&w, "[", 1);
    for (const struct gw_function *fn = rq->gw->functions; fn && ok; fn = fn->next) {
        if (fn->removed || (!all && strcmp(fn->spec->ns, ns) != 0))
            continue;
        const char *constant = constant_text(fn->spec);
        size_t n = changing_text(fn, changing, sizeof(changing));
        json_t *profile = gw_profiles_json(fn);
        if (profile) { /* few have one */
            ok = (w.len == 1 || add(&w, ",", 1)) && add_profile(&w, constant, changing, n, profile);
            continue;
        }
        ok = constant && (w.len == 1 || add(&w, ",", 1)) && add(&w, constant, strlen(constant)) &&
             add(&w, changing, n);
    }
    if (ok && add(&w, "]", 1))
        fast_http_req_reply(rq->req, 200, NULL, "application/json", w.p, w.len);
    else
        fast_http_req_text_reply(rq->req, 500, "no memory for the answer");
    free(w.p);
}

/* ---- finding what a request is about ---- */

/* NAME or NAME.NS; the namespace of the body, then of the query, then of the name. */
struct gw_function *gw_request_function(const struct gw_request *rq, const char *name,
                                        const char *body_ns)
{
    char ns[GW_NAME_MAX] = "";
    size_t len = strlen(name);
    const char *dot = strrchr(name, '.');
    if (name[strspn(name, NAME_CHARS)]) { /* its dots are no namespace */
        fast_http_req_text_reply(rq->req, 404, "there is no function \"%.64s\": a name has letters, digits, "
                                 "'-' and '_', and may have .NAMESPACE behind it", name);
        return NULL;
    }
    if (dot) {
        snprintf(ns, sizeof(ns), "%s", dot + 1);
        len = (size_t)(dot - name);
    } else if (body_ns && *body_ns) {
        snprintf(ns, sizeof(ns), "%s", body_ns);
    } else if (!gw_query_get(rq->query, "namespace", ns, sizeof(ns)) || !*ns) {
        snprintf(ns, sizeof(ns), "%s", GW_DEFAULT_NS);
    }
    struct gw_function *fn = gw_function_find(rq->gw, name, len, ns, strlen(ns));
    if (!fn)
        fast_http_req_text_reply(rq->req, 404, "there is no function %.64s in namespace %s", name,
                                 ns);
    return fn;
}

static json_t *parse_body(const struct gw_request *rq)
{
    json_error_t je;
    json_t *o = json_loadb(rq->body, rq->len, JSON_REJECT_DUPLICATES, &je);
    if (json_is_object(o))
        return o;
    if (o)
        fast_http_req_text_reply(rq->req, 400, "the body must be a JSON object");
    else
        fast_http_req_text_reply(rq->req, 400, "the body is not JSON: line %d column %d: %s",
                                 je.line, je.column, je.text);
    json_decref(o);
    return NULL;
}

/* ---- changing ---- */

/* With ?check=true nothing is changed: 200 when the function could be deployed. */
static void deploy(const struct gw_request *rq, bool must_exist)
{
    char ns[GW_NAME_MAX] = "", check[8] = "";
    struct gw_spec *spec = NULL;
    struct fast_err err;
    gw_query_get(rq->query, "namespace", ns, sizeof(ns));
    gw_query_get(rq->query, "check", check, sizeof(check));
    bool only_check = !strcmp(check, "true");
    if (gw_spec_parse(rq->body, rq->len, ns, &rq->gw->conf->paths, &spec, &err) ||
        gw_profiles_attach(rq->gw, spec, &err)) {
        gw_reply_err(rq->req, &err);
        gw_spec_free(spec);
        return;
    }
    if (must_exist && !only_check && !gw_function_find(rq->gw, spec->name, strlen(spec->name), spec->ns,
                                        strlen(spec->ns))) {
        fast_http_req_text_reply(rq->req, 404, "there is no function %s in namespace %s",
                                 spec->name, spec->ns);
    } else if (!gw_link_synced(rq->gw->link)) {
        fast_http_req_text_reply(rq->req, 503, "fast-node is not there: nothing can be deployed now");
    } else if (only_check ? gw_function_check(rq->gw, spec, &err)
                          : gw_function_deploy(rq->gw, spec, &err)) {
        gw_reply_err(rq->req, &err);
    } else if (only_check) {
        fast_http_req_reply(rq->req, 200, NULL, NULL, "", 0);
    } else {
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
        return; /* the function has the spec now */
    }
    gw_spec_free(spec);
}

static void delete_function(const struct gw_request *rq)
{
    struct fast_err err;
    json_t *o = parse_body(rq);
    if (!o)
        return;
    const char *name = json_string_value(json_object_get(o, "functionName"));
    const char *ns = json_string_value(json_object_get(o, "namespace"));
    if (!name || !*name) {
        fast_http_req_text_reply(rq->req, 400, "functionName: a name is needed");
        json_decref(o);
        return;
    }
    struct gw_function *fn = gw_request_function(rq, name, ns);
    json_decref(o);
    if (!fn)
        return;
    if (gw_function_remove(rq->gw, fn, &err))
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
}

void gw_api_functions(const struct gw_request *rq)
{
    if (!strcmp(rq->method, "GET"))
        list(rq);
    else if (!strcmp(rq->method, "DELETE"))
        delete_function(rq);
    else
        deploy(rq, !strcmp(rq->method, "PUT"));
}

void gw_api_function(const struct gw_request *rq, const char *name)
{
    char usage[8];
    struct gw_function *fn = gw_request_function(rq, name, NULL);
    if (!fn)
        return;
    json_t *o = status_json(fn);
    if (gw_query_get(rq->query, "usage", usage, sizeof(usage)) &&
        (!strcmp(usage, "1") || !strcmp(usage, "true")))
        add_usage(rq->gw, fn, o);
    const struct fast_slice *slice = &fn->spec->slice;
    if (fn->spec->gpu)
        json_object_set_new(o, "slice",
                            json_pack("{s:i, s:i, s:f, s:f, s:I}", "gpus", fn->spec->gpus, "sm_pct",
                                      slice->sm_pct, "quota_request",
                                      slice->request_milli / 1000.0, "quota_limit",
                                      slice->limit_milli / 1000.0, "memory_bytes",
                                      (json_int_t)slice->mem_bytes));
    json_t *levels = gw_isolation(rq->gw, fn);
    if (levels)
        json_object_set_new(o, "isolationLevels", levels);
    if (*fn->trouble)
        json_object_set_new(o, "trouble", json_string(fn->trouble));
    if (*fn->decided)
        json_object_set_new(o, "lastScaling", json_string(fn->decided));
    gw_reply_json(rq->req, 200, o);
}

void gw_api_scale(const struct gw_request *rq, const char *name)
{
    struct fast_err err;
    json_t *o = parse_body(rq);
    if (!o)
        return;
    json_t *n = json_object_get(o, "replicas");
    json_int_t replicas = json_integer_value(n);
    const char *ns = json_string_value(json_object_get(o, "namespace"));
    if ((n && !json_is_integer(n)) || replicas < 0 || replicas > FAST_SCALE_REPLICAS_MAX) {
        fast_http_req_text_reply(rq->req, 400, "replicas: this must be an integer from 0 to %d",
                                 FAST_SCALE_REPLICAS_MAX);
        json_decref(o);
        return;
    }
    struct gw_function *fn = gw_request_function(rq, name, ns);
    json_decref(o);
    if (!fn)
        return;
    if (!gw_link_synced(rq->gw->link))
        fast_http_req_text_reply(rq->req, 503, "fast-node is not there: nothing can be scaled now");
    else if (gw_function_scale(rq->gw, fn, (int)replicas, &err))
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
}
