/* Secrets are files, STATE_DIR/secrets/NAMESPACE/NAME, readable by the user of the platform alone.
 * Functions find their folder in the environment variable SECRETS_PATH. Values are never given
 * out by the API. */

#include "gateway/gateway.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "io/file.h"

int gw_secret_dir(const struct gateway *gw, const char *ns, char *ret, size_t cap)
{
    int n = snprintf(ret, cap, "%s/secrets/%s", gw->conf->state_dir, ns);
    return n > 0 && (size_t)n < cap ? 0 : -FAST_EINVAL;
}

int gw_secrets_remove(const struct gateway *gw, const char *ns, struct fast_err *err)
{
    char path[4096];
    if (gw_secret_dir(gw, ns, path, sizeof(path)) || access(path, F_OK))
        return 0;
    return fast_dir_remove(path, err);
}

/* A name of DNS labels joined by dots: never a way out of the folder. */
static int check_name(const char *name, struct fast_err *err)
{
    size_t n = name ? strlen(name) : 0;
    bool ok = n > 0 && n <= 253 && name[0] != '.' && name[0] != '-' && !strstr(name ? name : "", "..");
    for (size_t i = 0; ok && i < n; i++)
        ok = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
             name[i] == '-' || name[i] == '.';
    if (ok)
        return 0;
    return fast_err_set(err, FAST_EINVAL, "name: \"%.80s\" is not a secret's name (a-z, 0-9, -, .)",
                        name ? name : "");
}

static int path_of(const struct gateway *gw, const char *ns, const char *name, char *ret, size_t cap,
                   struct fast_err *err)
{
    int r = check_name(name, err);
    if (r)
        return r;
    r = gw_secret_dir(gw, ns, ret, cap);
    size_t len = r ? 0 : strlen(ret);
    if (r || snprintf(ret + len, cap - len, "/%s", name) >= (int)(cap - len))
        return fast_err_set(err, FAST_EINVAL, "the path of secret %.80s is too long", name);
    return 0;
}

int gw_secret_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err)
{
    json_t *list = json_object_get(spec->json, "secrets"), *v;
    size_t i;
    json_array_foreach(list, i, v) {
        char path[4096];
        int r = path_of(gw, spec->ns, json_string_value(v), path, sizeof(path), err);
        if (r)
            return fast_err_wrap(err, "secrets");
        if (access(path, F_OK))
            return fast_err_set(err, FAST_EINVAL, "secrets: there is no secret %.80s in namespace %s",
                                json_string_value(v), spec->ns);
    }
    return 0;
}

static void list(const struct gw_request *rq, const char *ns)
{
    char path[4096];
    json_t *all = json_array();
    DIR *d = gw_secret_dir(rq->gw, ns, path, sizeof(path)) ? NULL : opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (!check_name(e->d_name, NULL)) /* what is being written ends with "~" */
            json_array_append_new(all,
                                  json_pack("{s:s, s:s}", "name", e->d_name, "namespace", ns));
    if (d)
        closedir(d);
    gw_reply_json(rq->req, 200, all);
}

static int base64(const char *text, char **ret, size_t *ret_len, struct fast_err *err)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = strlen(text), n = 0;
    uint32_t bits = 0;
    int have = 0;
    char *out = malloc(len + 1);
    if (!out)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a secret");
    while (len && text[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++) {
        const char *at = strchr(set, text[i]);
        if (!at) {
            free(out);
            return fast_err_set(err, FAST_EINVAL, "rawValue: this is not base64");
        }
        bits = bits << 6 | (uint32_t)(at - set);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (char)(bits >> have & 0xff);
        }
    }
    *ret = out;
    *ret_len = n;
    return 0;
}

/* |value| or |rawValue| of the body. */
static int value_of(const json_t *o, char **ret, size_t *ret_len, struct fast_err *err)
{
    const json_t *value = json_object_get(o, "value"), *raw = json_object_get(o, "rawValue");
    if (json_is_string(raw) && *json_string_value(raw))
        return base64(json_string_value(raw), ret, ret_len, err);
    if (!json_is_string(value))
        return fast_err_set(err, FAST_EINVAL, "value: a string is needed (or rawValue in base64)");
    *ret_len = json_string_length(value);
    *ret = malloc(*ret_len + 1);
    if (!*ret)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a secret");
    memcpy(*ret, json_string_value(value), *ret_len);
    return 0;
}

static int write_secret(const struct gateway *gw, const char *ns, const char *path, const json_t *o,
                        struct fast_err *err)
{
    fast_autofree char *value = NULL;
    char dir[4096];
    size_t len = 0;
    int r = value_of(o, &value, &len, err);
    if (!r && gw_secret_dir(gw, ns, dir, sizeof(dir)))
        r = fast_err_set(err, FAST_EINVAL, "the state directory has too long a path");
    if (!r)
        r = fast_dir_make(dir, 0700, err);
    /* The folder is its group's once a function with a user of its own has read from it (fast-run does that). */
    struct stat st;
    bool shared = !r && !stat(dir, &st) && (st.st_mode & S_ISGID);
    return r ? r : fast_file_replace(path, value, len, shared ? 0640 : 0600, err);
}

static void change(const struct gw_request *rq, const json_t *o, const char *ns)
{
    char path[4096];
    struct fast_err err;
    const char *name = json_string_value(json_object_get(o, "name"));
    int r = path_of(rq->gw, ns, name, path, sizeof(path), &err);
    bool exists = !r && !access(path, F_OK);
    if (!r && !strcmp(rq->method, "POST") && exists)
        r = fast_err_set(&err, FAST_EEXIST, "secret %s is there already", name);
    else if (!r && strcmp(rq->method, "POST") && !exists)
        r = fast_err_set(&err, FAST_ENOENT, "there is no secret %s in namespace %s", name, ns);
    if (!r && !strcmp(rq->method, "DELETE") && unlink(path))
        r = fast_err_set(&err, FAST_EIO, "cannot remove secret %s: %s", name, strerror(errno));
    else if (!r && strcmp(rq->method, "DELETE"))
        r = write_secret(rq->gw, ns, path, o, &err);
    if (r)
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
}

void gw_api_secrets(const struct gw_request *rq)
{
    char ns[GW_NAME_MAX] = "";
    struct fast_err err;
    json_t *o = NULL;
    bool get = !strcmp(rq->method, "GET");
    if (!get)
        o = json_loadb(rq->body, rq->len, JSON_ALLOW_NUL, NULL);
    const char *body_ns = json_string_value(json_object_get(o, "namespace"));
    if (body_ns && *body_ns)
        snprintf(ns, sizeof(ns), "%s", body_ns);
    else if (!gw_query_get(rq->query, "namespace", ns, sizeof(ns)) || !*ns)
        snprintf(ns, sizeof(ns), "%s", GW_DEFAULT_NS);
    if (!get && !json_is_object(o))
        fast_http_req_text_reply(rq->req, 400, "the body must be a JSON object");
    else if (gw_spec_check_ns(ns, "namespace", &err))
        gw_reply_err(rq->req, &err);
    else if (get)
        list(rq, ns);
    else
        change(rq, o, ns);
    json_decref(o);
}
