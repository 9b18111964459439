/* What people are told of decisions: GET /system/explain/NAME. Shares are fractions, rates requests/s. */

#include "gateway/scaling.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *const words[] = {"start", "stop", "resize"};

static json_t *milli(int64_t v)
{
    return json_real((double)v / 1000.0);
}

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

/* Its name, or "a replica that has gone". */
static const char *name_of(const struct gateway *gw, uint64_t key)
{
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->key == key)
            return r->id;
    return "";
}

static json_t *option_json(const struct gateway *gw, const struct fast_scale_option *p)
{
    json_t *o = json_object();
    set(o, "do", json_string(words[p->kind]));
    if (p->id)
        set(o, "replica", json_string(name_of(gw, p->id)));
    set(o, "count", json_integer(p->count));
    set(o, "sm_pct", json_integer(p->sm_pct));
    set(o, "quota", milli(p->quota_milli));
    if (p->late_milli >= 0)
        set(o, "late", milli(p->late_milli));
    set(o, "why", json_string(p->why));
    return o;
}

static json_t *did_json(const struct gateway *gw, const struct fast_scale_did *d)
{
    const struct fast_scale_action *a = &d->action;
    json_t *o = json_object();
    set(o, "do", json_string(words[a->kind]));
    if (a->id)
        set(o, "replica", json_string(name_of(gw, a->id)));
    if (a->sm_pct) {
        set(o, "sm_pct", json_integer(a->sm_pct));
        set(o, "quota", milli(a->quota_milli));
    }
    set(o, "why", json_string(a->reason));
    set(o, "done", json_boolean(!d->outcome[0]));
    if (d->outcome[0])
        set(o, "refused", json_string(d->outcome));
    return o;
}

static json_t *record_json(const struct gateway *gw, const struct fast_scale_record *r)
{
    char when[40];
    time_t t = (time_t)(r->wall_ns / FAST_S(1));
    struct tm tm;
    json_t *o = json_object(), *options = json_array(), *did = json_array();
    gmtime_r(&t, &tm);
    size_t n = strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + n, sizeof(when) - n, ".%03dZ", (int)(r->wall_ns / 1000000 % 1000));
    set(o, "time", json_string(when));
    set(o, "times", json_integer(r->times));
    set(o, "cause", json_string(r->cause));
    set(o, "policy", json_string(r->policy));
    set(o, "load", milli(r->load_milli));
    set(o, "expected", milli(r->expected_milli));
    set(o, "burst", milli(r->burst_milli));
    set(o, "most_of_late", milli(r->calm_milli));
    set(o, "waiting", json_integer(r->queued));
    set(o, "replicas", json_integer(r->replicas));
    set(o, "serving", json_integer(r->serving));
    set(o, "start_ms", json_real((double)r->start_ns / 1e6));
    set(o, "decided_by", milli(r->trace.load_milli));
    if (r->trace.late_milli >= 0) {
        set(o, "late", milli(r->trace.late_milli));
        set(o, "late_most", milli(r->trace.late_max_milli));
    }
    for (int i = 0; i < r->trace.noptions; i++)
        json_array_append_new(options, option_json(gw, &r->trace.option[i]));
    for (int i = 0; i < r->nactions && i < FAST_RECORD_ACTIONS; i++)
        json_array_append_new(did, did_json(gw, &r->did[i]));
    set(o, "weighed", options);
    set(o, "did", did);
    return o;
}

static json_t *function_json(struct gateway *gw, const struct gw_function *fn)
{
    const struct gw_spec *s = fn->spec;
    json_t *o = json_object(), *list = json_array();
    set(o, "name", json_string(s->name));
    set(o, "namespace", json_string(s->ns));
    set(o, "scaled", json_boolean(gw_spec_is_scaled(s)));
    set(o, "policy", json_string(fast_scaler_name(gw->conf->scaler)));
    set(o, "load_is", json_string(s->by_capacity && !(s->profile && s->slo) ? "in flight" : "requests/s"));
    set(o, "replicas", json_integer(fn->desired));
    set(o, "ready", json_integer(gw_function_ready(fn)));
    set(o, "min", json_integer(s->zero_after == FAST_NEVER ? s->min : 0));
    set(o, "max", json_integer(s->max));
    set(o, "priority", json_integer(s->priority));
    if (s->slo) {
        set(o, "slo_ms", json_real((double)s->slo / 1e6));
        set(o, "slo_percentile", json_integer(s->slo_p95 ? 95 : 99));
    }
    set(o, "profile", json_boolean(s->profile != NULL));
    if (*fn->trouble)
        set(o, "trouble", json_string(fn->trouble));
    if (fn->scaling && fn->scaling->latest.policy && fn->desired)
        set(o, "now", record_json(gw, &fn->scaling->latest));
    for (uint64_t back = 0; fn->scaling && back < FAST_RECORDS; back++) {
        const struct fast_scale_record *r = fast_scale_records_get(&fn->scaling->records, back);
        if (r)
            json_array_append_new(list, record_json(gw, r));
    }
    set(o, "decisions", list);
    return o;
}

void gw_api_explain(const struct gw_request *rq, const char *name)
{
    char ns[GW_NAME_MAX] = GW_DEFAULT_NS;
    gw_query_get(rq->query, "namespace", ns, sizeof(ns));
    const struct gw_function *fn = gw_function_find(rq->gw, name, strlen(name), ns, strlen(ns));
    if (fn)
        gw_reply_json(rq->req, 200, function_json(rq->gw, fn));
    else
        fast_http_req_text_reply(rq->req, 404, "there is no function %s.%s", name, ns);
}
