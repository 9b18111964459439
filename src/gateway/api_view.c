/* What people see of the whole: GPUs with the rectangles on them, replicas with their counts, and
 * the policy, which is the node's. Shares are fractions, 0 to 1. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/parse.h"

static json_t *fraction(int64_t milli)
{
    return json_real((double)milli / 1000.0);
}

static json_t *ms(int64_t ns)
{
    return json_real((double)ns / 1e6);
}

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

static void set_int(json_t *o, const char *key, uint64_t v)
{
    set(o, key, json_integer((json_int_t)v));
}

/* ---- GPUs ---- */

static json_t *rectangles(const struct gateway *gw, int fleet)
{
    json_t *list = json_array();
    for (const struct gw_replica *r = gw->replicas; r; r = r->next) {
        const struct fast_placed *p = gw_replica_place(gw, r, fleet);
        if (!p || !p->rect.quota)
            continue;
        json_t *o = json_object();
        set(o, "replica", json_string(r->id));
        set(o, "function", json_string(r->fn->spec->name));
        set(o, "quota_from", fraction(p->rect.quota_at));
        set(o, "quota_to", fraction(p->rect.quota_at + p->rect.quota));
        set(o, "sm_from", json_integer(p->rect.sm_at));
        set(o, "sm_to", json_integer(p->rect.sm_at + p->rect.sm));
        json_array_append_new(list, o);
    }
    return list;
}

/* What each namespace has of the shared memory of |gpu|, and may have. */
static json_t *model_namespaces(const struct gateway *gw, uint32_t gpu)
{
    json_t *list = json_array();
    for (const struct fast_msg_model_row *m = NULL; (m = gw_models_next(gw, m));) {
        uint64_t held;
        if (m->gpu != gpu || !gw_models_held(gw, m, &held))
            continue;
        json_array_append_new(list, json_pack("{s:s, s:I, s:o}", "namespace", m->ns.p, "bytes", (json_int_t)held,
                                              "limit_bytes", m->limit == UINT64_MAX ? json_null()
                                                                 : json_integer((json_int_t)m->limit)));
    }
    return list;
}

/* What a node that is gone has told last is not known today. */
static json_t *known(const struct gateway *gw, const struct fast_msg_gpu_row *row, uint32_t which,
                     uint32_t milli)
{
    return row->known & which && gw_link_synced(gw->link) ? fraction(milli) : json_null();
}

static json_t *gpu_json(const struct gateway *gw, const struct gw_gpu *g)
{
    struct fast_gpu_room room = {0};
    const struct fast_msg_gpu_row *row = &g->row;
    json_t *o = json_object();
    fast_fleet_gpu_room(gw->fleet, g->fleet, &room, NULL);
    set(o, "node", json_string(gw->node));
    set_int(o, "gpu", row->gpu);
    set(o, "uuid", json_string(g->uuid));
    set(o, "name", json_string(g->name));
    set(o, "simulated", json_boolean(gw->simulated));
    set_int(o, "sms", row->sms);
    set_int(o, "memory_total_bytes", row->mem_total);
    set_int(o, "memory_used_bytes", row->mem_used);
    set_int(o, "memory_capped_bytes", row->mem_capped);
    set_int(o, "memory_shared_bytes", row->mem_shared);
    set_int(o, "memory_cached_bytes", row->mem_cached);
    set(o, "model_namespaces", model_namespaces(gw, row->gpu));
    set(o, "shared_via", json_string(row->mem_shared ? fast_store_via_name(row->store_via) : ""));
    set(o, "utilization", known(gw, row, FAST_KNOWN_UTIL, row->util_milli));
    set(o, "sm_activity", known(gw, row, FAST_KNOWN_SM, row->sm_milli));
    set(o, "sm_occupancy", known(gw, row, FAST_KNOWN_OCCUPANCY, row->occupancy_milli));
    set(o, "dram_activity", known(gw, row, FAST_KNOWN_DRAM, row->dram_milli));
    set(o, "backend", json_string(fast_backend_name(row->backend)));
    set(o, "holds", json_pack("{s:s, s:s, s:s}", "sm", fast_hold_name(row->hold_sm), "time",
                              fast_hold_name(row->hold_time), "memory",
                              fast_hold_name(row->hold_mem)));
    set_int(o, "replicas", row->replicas);
    set_int(o, "tokens_out", row->tokens_out);
    set(o, "free_area", json_real((double)room.area_free / FAST_PLANE_AREA));
    set(o, "rectangles", rectangles(gw, g->fleet));
    return o;
}

void gw_api_gpus(const struct gw_request *rq)
{
    json_t *list = json_array();
    for (int i = 0; i < rq->gw->ngpus; i++)
        json_array_append_new(list, gpu_json(rq->gw, &rq->gw->gpus[i]));
    gw_reply_json(rq->req, 200, list);
}

/* ---- replicas ---- */

static const char *state_of(const struct gw_replica *r)
{
    switch (r->phase) {
    case GW_PLACED:
        return "placed";
    case GW_DRAINING:
        return "draining";
    case GW_STOPPING:
        return "stopping";
    default:
        return fast_replica_state_name(r->state);
    }
}

/* Each of its GPUs, and what it uses there. */
static json_t *gpus_json(const struct gw_replica *r)
{
    json_t *list = json_array();
    int i = 0;
    for (uint32_t gpus = gw_replica_gpus(r); gpus; gpus &= gpus - 1, i++) {
        const struct fast_msg_replica_stats n = gw_replica_used_on(r, i);
        json_t *o = json_object();
        set(o, "gpu", json_integer(__builtin_ctz(gpus)));
        set_int(o, "memory_used_bytes", n.mem_bytes);
        set_int(o, "memory_context_bytes", n.mem_context);
        set_int(o, "launches", n.launches);
        set_int(o, "tokens", n.tokens);
        set(o, "busy_ms", ms(n.busy_ns));
        set(o, "held_ms", ms(n.held_ns));
        set(o, "wait_ms", ms(n.wait_ns));
        set(o, "throttled_ms", ms(n.throttled_ns));
        set(o, "overrun_ms", ms(n.overrun_ns));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *replica_json(struct gateway *gw, struct gw_replica *r)
{
    fast_ns now = fast_loop_now(gw->loop);
    const struct fast_msg_replica_stats used = gw_replica_used(r), *n = &used;
    json_t *o = json_object();
    set(o, "replica", json_string(r->id));
    set(o, "function", json_string(r->fn->spec->name));
    set(o, "namespace", json_string(r->fn->spec->ns));
    set(o, "gpu", json_integer(r->gpu));
    set(o, "gpus", gpus_json(r));
    set_int(o, "sm_pct", (uint64_t)r->slice.sm_pct);
    set(o, "quota_request", fraction(r->slice.request_milli));
    set(o, "quota_held", fraction(gw_elastic_slice(r).request_milli));
    set(o, "quota_limit", fraction(r->slice.limit_milli));
    set_int(o, "memory_cap_bytes", r->slice.mem_bytes);
    set_int(o, "memory_used_bytes", n->mem_bytes);
    set_int(o, "memory_context_bytes", n->mem_context);
    set_int(o, "memory_refused", n->mem_refused);
    set(o, "state", json_string(state_of(r)));
    set_int(o, "pid", r->pid);
    set_int(o, "port", (uint64_t)r->port);
    set_int(o, "restarts", r->restarts);
    set_int(o, "started_ms", r->started_ms);
    set_int(o, "up_ms", r->up_ms);
    set_int(o, "in_flight", (uint64_t)r->in_flight);
    set_int(o, "requests", r->stats.requests);
    set_int(o, "failures", r->stats.failures);
    set_int(o, "slo_missed", r->stats.slo_missed);
    set(o, "rps", fraction(gw_stats_rate_milli(&r->stats, now)));
    set(o, "p50_ms", ms(gw_stats_quantile(&r->stats, 500, now)));
    set(o, "p99_ms", ms(gw_stats_quantile(&r->stats, 990, now)));
    set_int(o, "clients", n->clients);
    set_int(o, "sms", n->sm_count);
    set_int(o, "clients_without_mps", n->without_mps);
    set_int(o, "launches", n->launches);
    set_int(o, "tokens", n->tokens);
    set(o, "busy_ms", ms(n->busy_ns));
    set(o, "held_ms", ms(n->held_ns));
    set(o, "wait_ms", ms(n->wait_ns));
    set(o, "throttled_ms", ms(n->throttled_ns));
    set(o, "overrun_ms", ms(n->overrun_ns));
    set(o, "text", json_string(r->text && *r->text ? r->text : r->phase == GW_PLACED
                                                                  ? r->fn->trouble
                                                                  : ""));
    set(o, "log", json_string(r->log_path ? r->log_path : ""));
    return o;
}

void gw_api_replicas(const struct gw_request *rq)
{
    json_t *list = json_array();
    for (struct gw_replica *r = rq->gw->replicas; r; r = r->next)
        if (r->phase != GW_GONE)
            json_array_append_new(list, replica_json(rq->gw, r));
    gw_reply_json(rq->req, 200, list);
}

/* ---- policy ---- */

static json_t *policy_json(const struct gateway *gw)
{
    json_t *o = json_object();
    set(o, "policy", json_string(fast_policy_name((enum fast_policy)gw->policy)));
    set(o, "charge", json_string(fast_charge_name((enum fast_charge)gw->charge)));
    set(o, "window_ms", ms(gw->window_ns));
    return o;
}

/* A change that the node has been asked for; |req| NULL: who asked has gone. */
struct change {
    struct gateway *gw;
    struct fast_http_req *req;
    struct fast_msg_policy_set set;
};

static void asker_gone(void *user, bool complete)
{
    struct change *c = user;
    (void)complete;
    c->req = NULL;
}

static void on_policy_set(void *arg, uint64_t key, int code, const char *text)
{
    struct change *c = arg;
    (void)key;
    if (!code) {
        c->gw->policy = c->set.policy;
        c->gw->charge = c->set.charge;
        if (c->set.window_ns)
            c->gw->window_ns = c->set.window_ns;
    }
    struct fast_http_req *req = c->req;
    if (req && !code)
        gw_reply_json(req, 200, policy_json(c->gw));
    else if (req)
        fast_http_req_text_reply(req, gw_status_of(code), "%s", text);
    free(c);
}

static int parse_policy(const struct gw_request *rq, struct fast_msg_policy_set *ret,
                        struct fast_err *err)
{
    enum fast_policy policy = (enum fast_policy)rq->gw->policy;
    enum fast_charge charge = (enum fast_charge)rq->gw->charge;
    json_t *o = json_loadb(rq->body, rq->len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *p = json_object_get(o, "policy"), *c = json_object_get(o, "charge");
    const json_t *w = json_object_get(o, "window_ms");
    int r = 0;
    if (!json_is_object(o))
        r = fast_err_set(err, FAST_EINVAL, "the body must be a JSON object such as "
                                           "{\"policy\":\"fast\"}");
    if (!r && ((p && !json_is_string(p)) || (c && !json_is_string(c))))
        r = fast_err_set(err, FAST_EINVAL, "policy and charge must be strings");
    if (!r && p)
        r = fast_policy_parse(json_string_value(p), &policy, err);
    if (!r && c)
        r = fast_charge_parse(json_string_value(c), &charge, err);
    double window = w ? json_number_value(w) * 1e6 : 0;
    if (!r && w && (!json_is_number(w) || window < (double)FAST_WINDOW_MIN ||
                    window > (double)FAST_WINDOW_MAX))
        r = fast_err_set(err, FAST_EINVAL, "window_ms: this must be a number from %lld to %lld",
                         (long long)(FAST_WINDOW_MIN / FAST_MS(1)),
                         (long long)(FAST_WINDOW_MAX / FAST_MS(1)));
    *ret = (struct fast_msg_policy_set){.policy = policy, .charge = charge,
                                        .window_ns = (int64_t)window};
    json_decref(o);
    return r;
}

static void set_policy(const struct gw_request *rq)
{
    static const struct fast_http_req_ops ops = {.done = asker_gone};
    struct fast_err err;
    struct fast_msg m = {.type = FAST_MSG_T_policy_set};
    if (parse_policy(rq, &m.policy_set, &err)) {
        gw_reply_err(rq->req, &err);
        return;
    }
    struct change *c = malloc(sizeof(*c));
    if (!c) {
        fast_http_req_text_reply(rq->req, 500, "no memory for a change");
        return;
    }
    *c = (struct change){rq->gw, rq->req, m.policy_set};
    if (gw_link_request(rq->gw->link, &m, on_policy_set, c, 0, &err)) {
        free(c);
        gw_reply_err(rq->req, &err);
        return;
    }
    fast_http_req_accept(rq->req, &ops, c);
}

void gw_api_policy(const struct gw_request *rq)
{
    if (!strcmp(rq->method, "PUT"))
        set_policy(rq);
    else if (!gw_link_synced(rq->gw->link))
        fast_http_req_text_reply(rq->req, 503, "fast-node is not there");
    else
        gw_reply_json(rq->req, 200, policy_json(rq->gw));
}

void gw_api_info(const struct gw_request *rq)
{
    struct utsname u;
    json_t *version = json_pack("{s:s, s:s}", "sha", FAST_VERSION, "release", FAST_VERSION);
    json_t *provider = json_pack("{s:s, s:O, s:s}", "provider", "fast-gshare", "version", version,
                                 "orchestration", "processes");
    json_t *o = json_pack("{s:o, s:o, s:s}", "provider", provider, "version", version, "arch",
                          uname(&u) ? "unknown" : u.machine);
    set(o, "node", json_string(rq->gw->node));
    set(o, "driver", json_string(rq->gw->driver));
    set(o, "simulated", json_boolean(rq->gw->simulated));
    set(o, "profiles", json_sprintf("%s/profiles.db", rq->gw->conf->state_dir));
    gw_reply_json(rq->req, 200, o);
}
