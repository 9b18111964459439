/* Decides what a URL means, and who may ask. Functions, health and metrics are open; everything
 * below /system needs the password when there is one. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gateway/metrics.h"

#define BODY_MAX (1 << 20)

/* ---- answers ---- */

int gw_status_of(int code)
{
    switch (code) {
    case FAST_EINVAL:
        return 400;
    case FAST_ENOENT:
        return 404;
    case FAST_EEXIST:
    case FAST_ENOROOM:
    case FAST_EBUSY:
        return 409;
    case FAST_EPERM:
        return 403;
    case FAST_EPEER:
        return 503;
    case FAST_ENOSYS:
        return 501;
    default:
        return 500;
    }
}

void gw_reply_err(struct fast_http_req *req, const struct fast_err *err)
{
    fast_http_req_text_reply(req, gw_status_of(err->code), "%s", err->msg);
}

void gw_reply_json(struct fast_http_req *req, int status, json_t *json)
{
    fast_autofree char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(json);
    if (text)
        fast_http_req_reply(req, status, NULL, "application/json", text, strlen(text));
    else
        fast_http_req_text_reply(req, 500, "no memory for the answer");
}

/* ---- who may ask ---- */

static int base64_value(char c)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(set, c) : NULL;
    return at ? (int)(at - set) : -1;
}

static bool decode_base64(const char *p, size_t len, char *ret, size_t cap, size_t *ret_len)
{
    uint32_t bits = 0;
    int have = 0;
    size_t n = 0;
    while (len && p[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++) {
        int v = base64_value(p[i]);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have >= 8) {
            have -= 8;
            if (n == cap)
                return false;
            ret[n++] = (char)(bits >> have & 0xff);
        }
    }
    *ret_len = n;
    return true;
}

/* Takes as long whether the first or the last byte is wrong. */
static bool same_secret(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned diff = a_len != b_len;
    for (size_t i = 0; i < a_len; i++)
        diff |= (unsigned char)a[i] ^ (unsigned char)b[b_len ? i % b_len : 0];
    return diff == 0;
}

static bool is_allowed(const struct gateway *gw, const struct fast_http_req *req)
{
    char plain[2 * GW_CREDENTIAL_MAX + 1] = "";
    size_t len = 0;
    const char *text = fast_http_req_text(req);
    if (!gw->conf->auth)
        return true;
    const struct fast_http_field *f =
        fast_http_head_find(fast_http_req_head(req), text, "authorization");
    if (!f || f->value_len < 6 || !fast_http_is(text + f->value, 6, "basic "))
        return false;
    if (!decode_base64(text + f->value + 6, f->value_len - 6, plain, sizeof(plain), &len))
        return false;
    size_t user = 0;
    while (user < len && plain[user] != ':')
        user++;
    if (user == len)
        return false;
    bool a = same_secret(plain, user, gw->conf->user, strlen(gw->conf->user));
    bool b = same_secret(plain + user + 1, len - user - 1, gw->conf->password, strlen(gw->conf->password));
    return a && b;
}

/* ---- pages in browsers ----
 * A web page could have its reader's browser deploy programs here. A browser says where a request
 * comes from; other clients say nothing. */

static bool field_of(const struct fast_http_req *req, const char *name, const char **ret, size_t *ret_len)
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, name);
    *ret = f ? text + f->value : "";
    *ret_len = f ? f->value_len : 0;
    return f != NULL;
}

static bool starts(const char *p, size_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && !memcmp(p, with, n);
}

/* Another origin than the one that is asked, or a form: a page needs no permission to send one. */
static bool is_foreign(const struct fast_http_req *req)
{
    static const char *const forms[] = {"application/x-www-form-urlencoded", "multipart/form-data",
                                        "text/plain"};
    const char *p, *host;
    size_t len, host_len;
    field_of(req, "host", &host, &host_len);
    if (field_of(req, "origin", &p, &len)) {
        const char *slashes = memmem(p, len, "://", 3);
        size_t skip = slashes ? (size_t)(slashes - p) + 3 : len;
        if (host_len != len - skip || memcmp(p + skip, host, host_len) != 0)
            return true;
    }
    if (field_of(req, "sec-fetch-site", &p, &len) && !fast_http_is(p, len, "same-origin") &&
        !fast_http_is(p, len, "none"))
        return true;
    bool browser = field_of(req, "user-agent", &p, &len) && starts(p, len, "Mozilla/");
    field_of(req, "content-type", &p, &len);
    for (size_t i = 0; browser && i < FAST_COUNT_OF(forms); i++)
        if (len >= strlen(forms[i]) && fast_http_is(p, strlen(forms[i]), forms[i]))
            return true;
    return false;
}

/* An answer of a function on its way to a callback URL. Who may only call functions would else have
 * the gateway deploy for it what a function echoes. */
static bool is_callback(const struct fast_http_req *req)
{
    const char *p;
    size_t len;
    return field_of(req, "x-function-status", &p, &len);
}

/* Without a password on the loopback, who comes under another name than the loopback's was led here
 * by a name service (DNS rebinding). An address cannot be rebound. */
static bool is_misled(const struct gateway *gw, const struct fast_http_req *req)
{
    const char *host;
    size_t len;
    if (gw->conf->auth || strncmp(gw->conf->listen, "127.", 4) != 0 ||
        !field_of(req, "host", &host, &len))
        return false;
    const char *colon = memrchr(host, ':', len);
    size_t n = colon && host[len - 1] != ']' ? (size_t)(colon - host) : len;
    if (fast_http_is(host, n, "localhost") || starts(host, n, "["))
        return false;
    for (size_t i = 0; i < n; i++)
        if (host[i] != '.' && (host[i] < '0' || host[i] > '9'))
            return true;
    return false;
}

/* ---- routes ---- */

struct route {
    const char *path; /* with a "/" at its end: a name follows */
    const char *methods;
    void (*fn)(const struct gw_request *rq);
    void (*named)(const struct gw_request *rq, const char *name);
};

static const struct route routes[] = {
    {"/system/functions", "GET POST PUT DELETE", gw_api_functions, NULL},
    {"/system/function/", "GET", NULL, gw_api_function},
    {"/system/recorded/", "GET", NULL, gw_api_recorded},
    {"/system/scale-function/", "POST", NULL, gw_api_scale},
    {"/system/secrets", "GET POST PUT DELETE", gw_api_secrets, NULL},
    {"/system/namespaces", "GET", gw_api_namespaces, NULL},
    {"/system/namespace/", "GET POST PUT DELETE", NULL, gw_api_namespace},
    {"/system/async", "GET", gw_api_async, NULL},
    {"/async-function/", "DELETE", NULL, gw_api_async_call},
    {"/system/alert", "POST", gw_api_alert, NULL},
    {"/system/info", "GET", gw_api_info, NULL},
    {"/system/logs", "GET", gw_api_logs, NULL},
    {"/system/gpus", "GET", gw_api_gpus, NULL},
    {"/system/replicas", "GET", gw_api_replicas, NULL},
    {"/system/models", "GET POST PUT DELETE", gw_api_models, NULL},
    {"/system/policy", "GET PUT", gw_api_policy, NULL},
    {"/system/explain/", "GET", NULL, gw_api_explain},
    {"/system/defrag", "GET POST", gw_api_defrag, NULL},
};

static const struct route *find_route(const char *path, const char **ret_name)
{
    for (size_t i = 0; i < FAST_COUNT_OF(routes); i++) {
        size_t n = strlen(routes[i].path);
        bool nameless = routes[i].named == gw_api_namespace; /* its name is in the body */
        if (routes[i].named ? !strncmp(path, routes[i].path, n) && (path[n] || nameless) &&
                                  !strchr(path + n, '/')
                            : !strcmp(path, routes[i].path)) {
            *ret_name = path + n;
            return &routes[i];
        }
    }
    return NULL;
}

static bool has_method(const char *methods, const char *method)
{
    size_t n = strlen(method);
    for (const char *p = methods; (p = strstr(p, method)); p += n)
        if ((p == methods || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
            return true;
    return false;
}

/* Copies what the handlers work on, since a body may move the head. */
static void on_body(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    struct gateway *gw = arg;
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req), *name = NULL;
    fast_autofree char *target = strndup(text + h->target, h->target_len);
    char method[33];
    snprintf(method, sizeof(method), "%.*s", (int)h->method_len, text + h->method);
    if (!target) {
        fast_http_req_text_reply(req, 500, "no memory for a request");
        return;
    }
    char *query = target + strcspn(target, "?");
    if (*query)
        *query++ = 0;
    const struct route *r = find_route(target, &name);
    struct gw_request rq = {gw, req, method, target, query, body, len};
    if (r && r->fn)
        r->fn(&rq);
    else if (r)
        r->named(&rq, name);
}

/* |methods|: those that there are, a blank between two. */
static void reply_method(struct fast_http_req *req, const char *methods)
{
    char fields[64], *end = stpcpy(fields, "Allow: ");
    for (const char *m = methods; *m; m++)
        end = *m == ' ' ? stpcpy(end, ", ") : (*end = *m, end + 1);
    stpcpy(end, "\r\n");
    fast_http_req_reply(req, 405, fields, "text/plain; charset=utf-8", "405 method not allowed\n", 23);
}

static void system_request(struct gateway *gw, struct fast_http_req *req, const char *path,
                           size_t len)
{
    fast_http_req_watch(req);
    char text[512], method[33];
    const char *name;
    const struct fast_http_head *h = fast_http_req_head(req);
    const struct route *r = NULL;
    size_t path_len = 0;
    while (path_len < len && path[path_len] != '?')
        path_len++;
    if (path_len < sizeof(text)) {
        memcpy(text, path, path_len);
        text[path_len] = 0;
        r = find_route(text, &name);
    }
    snprintf(method, sizeof(method), "%.*s", (int)h->method_len,
             fast_http_req_text(req) + h->method);
    if (!is_allowed(gw, req)) {
        static const char why[] = "invalid credentials\n";
        fast_http_req_reply(req, 401, "WWW-Authenticate: Basic realm=\"Restricted\"\r\n",
                            "text/plain; charset=utf-8", why, sizeof(why) - 1);
    } else if (is_foreign(req)) {
        fast_http_req_text_reply(req, 403, "a web page of another origin may not use this API");
    } else if (is_callback(req)) {
        fast_http_req_text_reply(req, 403, "X-Callback-Url: answers of functions are not for this API");
    } else if (is_misled(gw, req)) {
        fast_http_req_text_reply(req, 403, "Host: without a password this API is asked for as "
                                           "localhost or by address");
    } else if (!r) {
        fast_http_req_text_reply(req, 404, "404 page not found");
    } else if (!has_method(r->methods, method)) {
        reply_method(req, r->methods);
    } else {
        fast_http_req_collect(req, BODY_MAX, on_body, gw);
    }
}

static void root_page(struct gateway *gw, struct fast_http_req *req)
{
    char text[700];
    int n = snprintf(text, sizeof(text),
                     "fast-gateway %s on node %s%s\n\n"
                     "/function/NAME        call a function\n"
                     "/system/functions     deploy, list, change, remove\n"
                     "/system/gpus          GPUs and who is on them\n"
                     "/system/replicas      processes of functions\n"
                     "/system/models        models that replicas share\n"
                     "/system/policy        how GPUs are shared\n"
                     "/system/explain/NAME  why a function has the replicas that it has\n"
                     "/system/defrag        which replicas could be moved, and for what\n",
                     FAST_VERSION, gw->welcomed ? gw->node : "(not connected)",
                     gw->simulated ? " (simulated GPUs)" : "");
    fast_http_req_reply(req, 200, NULL, "text/plain; charset=utf-8", text, (size_t)n);
}

/* Pages that have no parameters, and take no notice of any. */
static bool is_page(const char *target, size_t len, const char *path)
{
    size_t n = strlen(path);
    return len >= n && !memcmp(target, path, n) && (len == n || target[n] == '?');
}

static bool only_get(struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *method = fast_http_req_text(req) + h->method;
    bool ok = fast_http_is_exact(method, h->method_len, "GET") || fast_http_is_exact(method, h->method_len, "HEAD");
    if (!ok)
        reply_method(req, "GET HEAD");
    return ok;
}

static void health(struct fast_http_req *req)
{
    if (only_get(req))
        fast_http_req_text_reply(req, 200, "OK");
}

const char *gw_api_path(const char *target, size_t len)
{
    char text[512];
    const char *name;
    size_t n = 0;
    if (starts(target, len, "/async-function/"))
        return "/async-function/";
    if (!starts(target, len, "/system/"))
        return NULL;
    while (n < len && n < sizeof(text) - 1 && target[n] != '?')
        n++;
    memcpy(text, target, n);
    text[n] = 0;
    const struct route *r = find_route(text, &name);
    return r ? r->path : "/system/";
}

void gw_api_request(void *arg, struct fast_http_req *req)
{
    struct gateway *gw = arg;
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    size_t len = h->target_len;
    if (starts(path, len, "/function/"))
        gw_invoke(gw, req, path + 10, len - 10);
    else if (starts(path, len, "/async-function/") &&
             !fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, "DELETE"))
        gw_async_request(gw, req, path + 16, len - 16);
    else if (starts(path, len, "/system/") || starts(path, len, "/async-function/"))
        system_request(gw, req, path, len);
    else if (is_page(path, len, "/healthz"))
        health(req);
    else if (!is_page(path, len, "/"))
        fast_http_req_text_reply(req, 404, "404 page not found");
    else if (only_get(req))
        root_page(gw, req);
}

void gw_api_metrics(void *arg, struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    if (is_page(path, h->target_len, "/healthz"))
        health(req);
    else if (!is_page(path, h->target_len, "/metrics"))
        fast_http_req_text_reply(req, 404, "404 page not found");
    else if (only_get(req))
        gw_metrics_reply(arg, req);
}
