/* Decides what an alert of AlertManager changes: the rule of OpenFaaS by which a firing alert adds a step of
 * replicas, com.openfaas.scale.factor per cent of the most there may be, and a resolved one goes back to the
 * fewest. It works beside our own scaler, whose next decision counts as any later one. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/parse.h"

#define FACTOR 20 /* per cent, as OpenFaaS' documentation has it */

static int replicas_after(const struct gw_function *fn, bool firing, int *ret, struct fast_err *err)
{
    const char *text = gw_spec_map(fn->spec, "labels", "com.openfaas.scale.factor");
    int64_t factor = FACTOR;
    int max = fn->spec->max, step;
    int r = text ? fast_parse_int(text, "com.openfaas.scale.factor", 0, 100, &factor, err) : 0;
    if (r)
        return r;
    step = (int)((max * factor + 99) / 100);
    *ret = !firing ? fn->spec->min : fn->desired + step < max ? fn->desired + step : max;
    if (firing && factor == 0)
        *ret = fn->desired; /* this function is not scaled by alerts */
    return 0;
}

static int apply(struct gateway *gw, const json_t *alert, struct fast_err *err)
{
    const char *name = json_string_value(json_object_get(json_object_get(alert, "labels"), "function_name"));
    const char *status = json_string_value(json_object_get(alert, "status"));
    int n = 0;
    if (!name || !status)
        return fast_err_set(err, FAST_EINVAL, "an alert without status or labels.function_name");
    const char *dot = strrchr(name, '.'), *ns = dot ? dot + 1 : GW_DEFAULT_NS;
    size_t len = dot ? (size_t)(dot - name) : strlen(name);
    struct gw_function *fn = gw_function_find(gw, name, len, ns, strlen(ns));
    if (!fn)
        return fast_err_set(err, FAST_ENOENT, "there is no function %.100s", name);
    int r = replicas_after(fn, strcmp(status, "firing") == 0, &n, err);
    if (r || n == fn->desired)
        return r;
    fast_log(INFO, "scaled by an alert", "function=%s status=%s replicas=%d", name, status, n);
    return gw_function_scale(gw, fn, n, err);
}

void gw_api_alert(const struct gw_request *rq)
{
    json_error_t je;
    json_t *root = json_loadb(rq->body, rq->len, 0, &je), *alert;
    json_t *alerts = json_object_get(root, "alerts");
    char wrong[2048] = "";
    size_t i, n = 0;
    if (!json_is_array(alerts)) {
        json_decref(root);
        fast_http_req_text_reply(rq->req, 400, "the body is not an alert of AlertManager: alerts is missing");
        return;
    }
    json_array_foreach(alerts, i, alert) {
        struct fast_err err;
        if (apply(rq->gw, alert, &err) && n < sizeof(wrong))
            n += (size_t)snprintf(wrong + n, sizeof(wrong) - n, "%s\n", err.msg);
    }
    json_decref(root);
    if (n)
        fast_http_req_reply(rq->req, 500, NULL, "text/plain; charset=utf-8", wrong, strlen(wrong));
    else
        fast_http_req_reply(rq->req, 200, NULL, NULL, "", 0);
}
