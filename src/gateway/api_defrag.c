/* What people are told of moves, and asked for: GET and POST /system/defrag. */

#include "gateway/gateway.h"

#include <string.h>

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

static json_t *plan_json(const struct gateway *gw, const struct fast_move *m)
{
    const struct gw_replica *r = gw->replicas;
    json_t *o = json_object();
    while (r && r->key != m->replica)
        r = r->next;
    set(o, "replica", json_string(r ? r->id : ""));
    set(o, "from", json_integer(gw_gpu_of(gw, m->from)));
    set(o, "to", json_integer(gw_gpu_of(gw, m->to)));
    set(o, "sm_pct", json_integer(m->want.slice.sm_pct));
    set(o, "quota", json_real((double)m->want.slice.request_milli / 1000.0));
    set(o, "bytes", json_integer((json_int_t)m->want.slice.mem_bytes));
    return o;
}

static json_t *latest_json(const struct gateway *gw)
{
    static const char *const states[] = {"copying", "draining", "moved", "given up"};
    json_t *o = json_object(), *list = json_array();
    for (int i = 0; i < gw->moves.n; i++) {
        const struct gw_move *m = &gw->moves.move[i];
        json_t *one = json_pack("{s:s, s:s, s:i, s:i, s:s}", "replica", m->replica, "copy", m->copy, "from",
                                m->from, "to", m->to, "state", states[m->state]);
        if (*m->why)
            set(one, "why", json_string(m->why));
        json_array_append_new(list, one);
    }
    set(o, "cause", json_string(gw->moves.cause));
    set(o, "active", json_integer(gw_moves_active(gw)));
    set(o, "moves", list);
    return o;
}

void gw_api_defrag(const struct gw_request *rq)
{
    struct gateway *gw = rq->gw;
    struct fast_move moves[GW_MOVES_MAX];
    struct fast_defrag worth = {0};
    struct fast_err err;
    bool apply = !strcmp(rq->method, "POST");
    if (gw_moves_active(gw) && !apply)
        worth.nmoves = 0; /* what comes next is known when that is done */
    else if (gw_move_plan(gw, moves, &worth, &err) ||
             (apply && worth.nmoves && gw_move_begin(gw, moves, worth.nmoves, "to empty GPUs", NULL, &err))) {
        gw_reply_err(rq->req, &err);
        return;
    }
    json_t *o = json_object(), *list = json_array();
    for (int i = 0; i < worth.nmoves; i++)
        json_array_append_new(list, plan_json(gw, &moves[i]));
    set(o, "moves", list);
    set(o, "cost", json_pack("{s:i, s:I}", "moves", worth.nmoves, "bytes", (json_int_t)worth.bytes));
    set(o, "gain", json_pack("{s:i, s:f}", "gpus", worth.gpus, "area",
                             (double)worth.area / (double)FAST_PLANE_AREA));
    set(o, "latest", latest_json(gw));
    gw_reply_json(rq->req, apply ? 202 : 200, o);
}
