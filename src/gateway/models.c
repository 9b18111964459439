/* The models that the node's GPUs hold, as the node tells of them, and what people ask of them. What is
 * asked goes to the node, whose answer is the answer; a model file has to lie on the node's machine. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/parse.h"
#include "core/catalog.h"
#include "core/pass.h"

struct gw_model {
    struct gw_model *next;
    struct fast_msg_model_row row; /* its strings are those below */
    char ns[FAST_CATALOG_NS], name[FAST_CATALOG_NAME], version[FAST_CATALOG_VERSION];
    char loader[FAST_PASS_NAME];
};

/* ---- what is there ---- */

static uint64_t identity(const char *ns, const char *name)
{
    return fast_hash_of(name, strlen(name), fast_hash_of(ns, strlen(ns), 0)) | 1;
}

/* One that was removed is nothing that a new replica could use, but fills the GPU until its last user is gone. */
static uint64_t retired_identity(const struct fast_msg_model_row *r)
{
    return fast_hash_of(&r->model, sizeof(r->model), identity(r->ns.p, r->name.p)) | 1;
}

static void tell_weights(struct gateway *gw, uint32_t gpu, uint64_t weights, uint64_t bytes, bool firm)
{
    for (int i = 0; i < gw->ngpus; i++)
        if (gw->gpus[i].row.gpu == gpu)
            fast_fleet_weights(gw->fleet, gw->gpus[i].fleet, weights, bytes, firm, NULL);
}

/* The placement learns what |gpu| has of the model of that name: all its versions. */
static void tell_fleet(struct gateway *gw, uint32_t gpu, const char *ns, const char *name)
{
    uint64_t bytes = 0;
    bool firm = false;
    for (const struct gw_model *m = gw->models; m; m = m->next) {
        if (m->row.gpu != gpu || strcmp(m->ns, ns) != 0 || strcmp(m->name, name) != 0 ||
            m->row.state == FAST_MODEL_RETIRED)
            continue;
        bytes += m->row.bytes;
        firm |= m->row.pinned != 0;
    }
    tell_weights(gw, gpu, identity(ns, name), bytes, firm);
}

void gw_models_want(const struct gateway *gw, const struct gw_spec *spec, struct fast_want *ret)
{
    const char *name = gw_spec_map(spec, "annotations", "fastgshare/model");
    if (!name)
        return;
    ret->weights = identity(spec->ns, name);
    for (const struct gw_model *m = gw->models; m; m = m->next) {
        if (strcmp(m->name, name) != 0 || (strcmp(m->ns, spec->ns) != 0 && !m->row.shared))
            continue;
        ret->weights = identity(m->ns, name);
        ret->weights_bytes = m->row.bytes;
        if (!strcmp(m->ns, spec->ns))
            return;
    }
}

static void take_row(struct gateway *gw, const struct fast_msg_model_row *row)
{
    struct gw_model **at = &gw->models, *m;
    while (*at && ((*at)->row.model != row->model || (*at)->row.gpu != row->gpu))
        at = &(*at)->next;
    m = *at;
    if (row->state == FAST_MODEL_GONE) {
        if (m)
            *at = m->next;
        free(m);
        return;
    }
    if (!m && !(m = calloc(1, sizeof(*m))))
        return;
    *at = m;
    snprintf(m->ns, sizeof(m->ns), "%s", row->ns.p);
    snprintf(m->name, sizeof(m->name), "%s", row->name.p);
    snprintf(m->version, sizeof(m->version), "%s", row->version.p);
    m->row = *row;
    snprintf(m->loader, sizeof(m->loader), "%s", row->loader.p);
    m->row.loader = fast_str(m->loader);
    m->row.ns = fast_str(m->ns);
    m->row.name = fast_str(m->name);
    m->row.version = fast_str(m->version);
}

void gw_models_told(void *arg, const struct fast_msg_model_row *row)
{
    struct gateway *gw = arg;
    take_row(gw, row);
    tell_fleet(gw, row->gpu, row->ns.p, row->name.p);
    tell_weights(gw, row->gpu, retired_identity(row), row->state == FAST_MODEL_RETIRED ? row->bytes : 0, true);
}

void gw_models_forget(struct gateway *gw)
{
    while (gw->models) {
        struct gw_model *m = gw->models;
        gw->models = m->next;
        tell_fleet(gw, m->row.gpu, m->ns, m->name);
        tell_weights(gw, m->row.gpu, retired_identity(&m->row), 0, true);
        free(m);
    }
}

const struct fast_msg_model_row *gw_models_next(const struct gateway *gw,
                                                const struct fast_msg_model_row *before)
{
    const struct gw_model *m = gw->models;
    for (; before && m && &m->row != before; m = m->next)
        ;
    if (before && m)
        m = m->next;
    return m ? &m->row : NULL;
}

bool gw_models_held(const struct gateway *gw, const struct fast_msg_model_row *of, uint64_t *ret)
{
    bool found = false;
    *ret = 0;
    for (const struct gw_model *m = gw->models; m; m = m->next) {
        if (m->row.gpu != of->gpu || strcmp(m->ns, of->ns.p) != 0)
            continue;
        if (!found && &m->row != of)
            return false;
        found = true;
        *ret += m->row.bytes;
    }
    return found;
}

static json_t *row_json(const struct fast_msg_model_row *r)
{
    json_t *o = json_pack(
        "{s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:f, s:f}", "gpu",
        (json_int_t)r->gpu, "namespace", r->ns.p, "name", r->name.p, "version", r->version.p, "state",
        fast_model_state_name(r->state), "tensors", (json_int_t)r->tensors, "bytes",
        (json_int_t)r->bytes, "references", (json_int_t)r->refs, "pinned", r->pinned != 0, "shared",
        r->shared != 0, "waiting", (json_int_t)r->waiting, "gets", (json_int_t)r->gets, "load_ms",
        (double)r->load_ns / 1e6, "idle_seconds", (double)r->idle_ms / 1e3);
    json_object_set_new(o, "loaded_by", json_string(r->loader.p));
    json_object_set_new(o, "verified", json_boolean(r->verified != 0));
    json_object_set_new(o, "namespace_limit_bytes",
                        r->limit == UINT64_MAX ? json_null() : json_integer((json_int_t)r->limit));
    return o;
}

static void list(const struct gw_request *rq)
{
    json_t *all = json_array();
    for (const struct gw_model *m = rq->gw->models; m; m = m->next)
        json_array_append_new(all, row_json(&m->row));
    gw_reply_json(rq->req, 200, all);
}

/* ---- requests ---- */

/* Something that the node has been asked for; |req| NULL: who asked has gone. */
struct ask {
    struct fast_http_req *req;
    json_t *body;
};

static void asker_gone(void *user, bool complete)
{
    struct ask *a = user;
    (void)complete;
    a->req = NULL;
}

static void on_answer(void *arg, uint64_t key, int code, const char *text)
{
    struct ask *a = arg;
    struct fast_http_req *req = a->req;
    (void)key;
    json_decref(a->body);
    if (req && !code)
        gw_reply_json(req, 200, json_pack("{s:s}", "text", text));
    else if (req)
        fast_http_req_text_reply(req, gw_status_of(code), "%s", text);
    free(a);
}

static const char *text_of(const json_t *body, const char *key, const char *otherwise)
{
    const char *v = json_string_value(json_object_get(body, key));
    return v && *v ? v : otherwise;
}

/* The GPU with the most memory that is not in use. */
static uint32_t roomiest(const struct gateway *gw)
{
    uint64_t most = 0;
    uint32_t gpu = 0;
    for (int i = 0; i < gw->ngpus; i++) {
        const struct fast_msg_gpu_row *r = &gw->gpus[i].row;
        uint64_t used = r->mem_used > r->mem_cached ? r->mem_used - r->mem_cached : 0;
        uint64_t left = r->mem_total > used ? r->mem_total - used : 0;
        if (left > most) {
            most = left;
            gpu = r->gpu;
        }
    }
    return gpu;
}

static uint32_t flags_of(const json_t *body)
{
    return (json_is_true(json_object_get(body, "shared")) ? FAST_MODEL_F_SHARED : 0u) |
           (json_is_true(json_object_get(body, "pinned")) ? FAST_MODEL_F_PINNED : 0u);
}

/* The strings of |ret| belong to |body|. */
static int to_message(const struct gw_request *rq, const json_t *body, struct fast_msg *ret,
                      struct fast_err *err)
{
    const json_t *gpu = json_object_get(body, "gpu");
    struct fast_str ns = fast_str(text_of(body, "namespace", GW_DEFAULT_NS));
    struct fast_str name = fast_str(text_of(body, "name", ""));
    struct fast_str version = fast_str(text_of(body, "version", ""));
    struct fast_str path = fast_str(text_of(body, "path", ""));
    if (!json_is_object(body) || !name.len)
        return fast_err_set(err, FAST_EINVAL, "the body must be a JSON object with a \"name\"");
    if (fast_parse_name(ns.p, "namespace", err))
        return -FAST_EINVAL;
    if (!strcmp(rq->method, "DELETE")) {
        *ret = (struct fast_msg){.type = FAST_MSG_T_model_remove,
                                 .model_remove = {.ns = ns, .name = name, .version = version}};
    } else if (!strcmp(rq->method, "PUT")) {
        if (!json_is_boolean(json_object_get(body, "pinned")))
            return fast_err_set(err, FAST_EINVAL, "pinned: this must be true or false");
        bool pin = json_is_true(json_object_get(body, "pinned"));
        *ret = (struct fast_msg){
            .type = FAST_MSG_T_model_pin,
            .model_pin = {.ns = ns, .name = name, .version = version, .pin = pin}};
    } else {
        if (*path.p != '/')
            return fast_err_set(err, FAST_EINVAL, "path: this must be an absolute path of a "
                                                  "safetensors file on the node's machine");
        uint32_t to = json_is_integer(gpu) ? (uint32_t)json_integer_value(gpu) : roomiest(rq->gw);
        *ret = (struct fast_msg){.type = FAST_MSG_T_model_push,
                                 .model_push = {.gpu = to, .flags = flags_of(body), .ns = ns,
                                                .name = name, .version = version, .path = path}};
    }
    return 0;
}

void gw_api_models(const struct gw_request *rq)
{
    static const struct fast_http_req_ops ops = {.done = asker_gone};
    struct fast_err err = {0};
    struct fast_msg m;
    if (!strcmp(rq->method, "GET")) {
        list(rq);
        return;
    }
    struct ask *a = calloc(1, sizeof(*a));
    if (!a) {
        fast_http_req_text_reply(rq->req, 500, "no memory for a request");
        return;
    }
    a->req = rq->req;
    a->body = json_loadb(rq->body, rq->len, JSON_REJECT_DUPLICATES, NULL);
    if (to_message(rq, a->body, &m, &err) ||
        gw_link_request(rq->gw->link, &m, on_answer, a, 0, &err)) {
        json_decref(a->body);
        free(a);
        gw_reply_err(rq->req, &err);
        return;
    }
    fast_http_req_accept(rq->req, &ops, a);
}
