/* Decides which namespaces there are: two that are always there, those that were created, and those
 * that functions are in, since deploying into a new one needs no other call. Created ones keep the
 * labels and annotations that they came with. */

#include "gateway/gateway.h"

#include <string.h>

#include "base/mem.h"
#include "base/parse.h"

static const char *const always[] = {GW_DEFAULT_NS, "fast-gshare-fn"};

static bool is_built_in(const char *ns)
{
    for (size_t i = 0; i < FAST_COUNT_OF(always); i++)
        if (!strcmp(always[i], ns))
            return true;
    return false;
}

static int functions_in(const struct gateway *gw, const char *ns)
{
    int n = 0;
    for (const struct gw_function *fn = gw->functions; fn; fn = fn->next)
        n += !fn->removed && !strcmp(fn->spec->ns, ns);
    return n;
}

static void load_one(void *arg, const char *name, const char *json)
{
    json_t *all = arg, *o = json_loads(json, 0, NULL);
    if (o)
        json_object_set_new(all, name, o);
}

int gw_namespaces_load(struct gateway *gw, struct fast_err *err)
{
    gw->namespaces = json_object();
    if (!gw->namespaces)
        return fast_err_set(err, FAST_ENOMEM, "no memory for namespaces");
    return gw_store_ns_each(gw->store, load_one, gw->namespaces, err);
}

/* The second built-in one is told when something is in it: clients compare this list. */
void gw_api_namespaces(const struct gw_request *rq)
{
    json_t *set = json_object(), *list = json_array(), *v;
    const char *name;
    json_object_set_new(set, GW_DEFAULT_NS, json_true());
    json_object_foreach(rq->gw->namespaces, name, v)
        json_object_set_new(set, name, json_true());
    for (const struct gw_function *fn = rq->gw->functions; fn; fn = fn->next)
        if (!fn->removed)
            json_object_set_new(set, fn->spec->ns, json_true());
    json_object_foreach(set, name, v)
        json_array_append_new(list, json_string(name));
    json_decref(set);
    gw_reply_json(rq->req, 200, list);
}

static void show(const struct gw_request *rq, const char *name, const json_t *known)
{
    json_t *o = json_pack("{s:s}", "name", name);
    static const char *const maps[] = {"annotations", "labels"};
    for (size_t i = 0; i < FAST_COUNT_OF(maps); i++) {
        json_t *map = json_object_get(known, maps[i]);
        if (json_object_size(map))
            json_object_set(o, maps[i], map);
    }
    gw_reply_json(rq->req, 200, o);
}

static int store(struct gateway *gw, const char *name, json_t *body, struct fast_err *err)
{
    json_t *o = json_object();
    static const char *const maps[] = {"annotations", "labels"};
    for (size_t i = 0; i < FAST_COUNT_OF(maps); i++) {
        json_t *map = json_object_get(body, maps[i]);
        if (json_is_object(map))
            json_object_set(o, maps[i], map);
    }
    fast_autofree char *text = json_dumps(o, JSON_COMPACT);
    int r = text ? gw_store_ns_put(gw->store, name, text, err)
                 : fast_err_set(err, FAST_ENOMEM, "no memory for a namespace");
    if (r)
        json_decref(o);
    else
        json_object_set_new(gw->namespaces, name, o);
    return r;
}

static int remove_one(struct gateway *gw, const char *name, struct fast_err *err)
{
    int n = functions_in(gw, name);
    if (is_built_in(name))
        return fast_err_set(err, FAST_EPERM, "namespace %s is always there", name);
    if (n)
        return fast_err_set(err, FAST_EBUSY, "namespace %s has %d function%s: remove %s first", name, n,
                            n == 1 ? "" : "s", n == 1 ? "it" : "them");
    /* Who creates a namespace of this name later gets none of what was in it. */
    int r = gw_secrets_remove(gw, name, err);
    r = r ? r : gw_store_ns_remove(gw->store, name, err);
    if (!r)
        json_object_del(gw->namespaces, name);
    return r;
}

static int change(const struct gw_request *rq, const char *name, json_t *body, bool known,
                  struct fast_err *err)
{
    bool post = !strcmp(rq->method, "POST");
    int r = gw_spec_check_ns(name ? name : "", "name", err);
    if (r)
        return r;
    if (post && known)
        return fast_err_set(err, FAST_EEXIST, "namespace %s is there already", name);
    if (!post && !known)
        return fast_err_set(err, FAST_ENOENT, "there is no namespace %s", name);
    if (!strcmp(rq->method, "DELETE"))
        return remove_one(rq->gw, name, err);
    return store(rq->gw, name, body, err);
}

void gw_api_namespace(const struct gw_request *rq, const char *name)
{
    struct fast_err err;
    bool get = !strcmp(rq->method, "GET"), post = !strcmp(rq->method, "POST");
    json_t *body = get ? NULL : json_loadb(rq->body, rq->len, JSON_REJECT_DUPLICATES, NULL);
    const char *inner = json_string_value(json_object_get(body, "name"));
    if (!*name && inner)
        name = inner;
    json_t *kept = json_object_get(rq->gw->namespaces, name);
    bool known = kept || is_built_in(name) || functions_in(rq->gw, name);
    if (!get && rq->len && !json_is_object(body))
        fast_http_req_text_reply(rq->req, 400, "the body must be a JSON object");
    else if (get && !known)
        fast_http_req_text_reply(rq->req, 404, "there is no namespace %.64s", name);
    else if (get)
        show(rq, name, kept);
    else if (change(rq, name, body, known, &err))
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, post ? 201 : 202, NULL, NULL, "", 0);
    json_decref(body);
}
