/* Decides what a manifest means here. Nothing is dropped in silence: what has no meaning on this
 * platform is named, what this platform cannot do without is an error. */

#include "cli/manifest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/yaml_json.h"
#include "io/file.h"

#define FILE_MAX (1u << 20)

/* Annotations of the first generation, by their names of today. */
static const struct {
    const char *old, *now;
} aliases[] = {
    {"kubeshare/gpu_request", "fastgshare/gpu_quota_request"},
    {"kubeshare/gpu_limit", "fastgshare/gpu_quota_limit"},
    {"kubeshare/gpu_partition", "fastgshare/gpu_sm_partition"},
    {"kubeshare/gpu_mem", "fastgshare/gpu_mem"},
};

static const char *text_of(const json_t *o, const char *key)
{
    const char *t = json_string_value(json_object_get(o, key));
    return t && *t ? t : NULL;
}

static void ignore(json_t *ignored, const char *prefix, const char *key)
{
    char path[256];
    snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key);
    json_array_append_new(ignored, json_string(path));
}

/* Names the keys of |o| that are not in |known| (a list that ends with NULL). */
static void ignore_others(json_t *ignored, const char *prefix, json_t *o, const char *const *known)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v) {
        bool found = false;
        for (size_t i = 0; known[i]; i++)
            found = found || !strcmp(known[i], key);
        if (!found && !json_is_null(v))
            ignore(ignored, prefix, key);
    }
}

static void copy(json_t *to, const char *to_key, const json_t *from, const char *from_key)
{
    json_t *v = json_object_get(from, from_key);
    if (v && !json_is_null(v))
        json_object_set(to, to_key, v);
}

static void set_text(json_t *map, const char *key, const char *value)
{
    if (value && !json_object_get(map, key))
        json_object_set_new(map, key, json_string(value));
}

/* ---- pods ---- */

#define OF_CONTAINER "podSpec.containers[0]"

static size_t quoted(char *p, size_t cap, const char *word)
{
    size_t n = 0;
    for (const char *c = word; *c && n + 8 < cap; c++)
        if (*c == '\'')
            n += (size_t)snprintf(p + n, cap - n, "'\\''");
        else
            p[n++] = *c;
    p[n] = 0;
    return n;
}

/* command and args as one line that is split into the same words. */
static void add_command(json_t *d, const json_t *container, json_t *ignored)
{
    static const char *const lists[] = {"command", "args"};
    char line[8192] = "";
    size_t at = 0, i;
    json_t *v;
    if (!json_array_size(json_object_get(container, "command"))) {
        if (json_array_size(json_object_get(container, "args")))
            ignore(ignored, OF_CONTAINER, "args"); /* of what the image runs, which is told by nobody here */
        return;
    }
    for (size_t k = 0; k < FAST_COUNT_OF(lists); k++)
        json_array_foreach(json_object_get(container, lists[k]), i, v) {
            if (!json_is_string(v) || at + 16 > sizeof(line))
                continue;
            at += (size_t)snprintf(line + at, sizeof(line) - at, "%s'", at ? " " : "");
            at += quoted(line + at, sizeof(line) - at, json_string_value(v));
            at += (size_t)snprintf(line + at, sizeof(line) - at, "'");
        }
    json_object_set_new(d, "envProcess", json_string(line));
}

static void add_env(json_t *d, const json_t *container, json_t *ignored)
{
    json_t *env = json_object(), *v;
    size_t i;
    json_array_foreach(json_object_get(container, "env"), i, v) {
        const char *name = text_of(v, "name");
        if (name && json_object_get(v, "value"))
            json_object_set(env, name, json_object_get(v, "value"));
        else if (name)
            ignore(ignored, "containers[0].env", name);
    }
    if (json_object_size(env))
        json_object_set(d, "envVars", env);
    json_decref(env);
}

/* Of a probe its path counts; when and where it asks is the node's own. */
static void add_probe(json_t *notes, const json_t *container, const char *probe, const char *note, json_t *ignored)
{
    static const char *const of_probe[] = {"httpGet", NULL}, *const of_http[] = {"path", NULL};
    char path[64];
    json_t *p = json_object_get(container, probe), *http = json_object_get(p, "httpGet");
    set_text(notes, note, text_of(http, "path"));
    snprintf(path, sizeof(path), OF_CONTAINER ".%s", probe);
    ignore_others(ignored, path, p, of_probe);
    snprintf(path, sizeof(path), OF_CONTAINER ".%s.httpGet", probe);
    ignore_others(ignored, path, http, of_http);
}

static void add_resources(json_t *d, const json_t *container, const char *key, json_t *ignored)
{
    static const char *const known[] = {"memory", "cpu", NULL};
    char path[64];
    json_t *from = json_object_get(json_object_get(container, "resources"), key);
    snprintf(path, sizeof(path), OF_CONTAINER ".resources.%s", key);
    ignore_others(ignored, path, from, known);
    json_t *to = json_object();
    copy(to, "memory", from, "memory");
    copy(to, "cpu", from, "cpu");
    if (json_object_size(to))
        json_object_set(d, key, to);
    json_decref(to);
}

static int from_pod(json_t *d, json_t *pod, json_t *notes, json_t *ignored, struct fast_err *err)
{
    static const char *const of_pod[] = {"containers", NULL};
    static const char *const of_container[] = {"name", "image", "command", "args", "env",
                                               "resources", "readinessProbe", "livenessProbe", NULL};
    json_t *containers = json_object_get(pod, "containers");
    json_t *c = json_array_get(containers, 0);
    if (!text_of(c, "image"))
        return fast_err_set(err, FAST_EINVAL, "containers[0].image: it is missing");
    ignore_others(ignored, "podSpec", pod, of_pod);
    ignore_others(ignored, OF_CONTAINER, c, of_container);
    for (size_t i = 1; i < json_array_size(containers); i++) {
        char path[48];
        snprintf(path, sizeof(path), "containers[%zu]", i);
        ignore(ignored, "podSpec", path);
    }
    copy(d, "image", c, "image");
    add_command(d, c, ignored);
    add_env(d, c, ignored);
    add_probe(notes, c, "readinessProbe", "com.openfaas.ready.http.path", ignored);
    add_probe(notes, c, "livenessProbe", "com.openfaas.health.http.path", ignored);
    add_resources(d, c, "limits", ignored);
    add_resources(d, c, "requests", ignored);
    return 0;
}

static json_t *map_of(const json_t *meta, const char *key)
{
    json_t *map = json_object_get(meta, key);
    return json_is_object(map) ? json_copy(map) : json_object();
}

static void rename_notes(json_t *notes)
{
    for (size_t i = 0; i < FAST_COUNT_OF(aliases); i++) {
        json_t *v = json_object_get(notes, aliases[i].old);
        if (v && !json_object_get(notes, aliases[i].now))
            json_object_set(notes, aliases[i].now, v);
    }
}

static int read_pod(json_t *doc, json_t **ret, json_t *ignored, struct fast_err *err)
{
    static const char *const of_spec[] = {"podSpec", "replicas", NULL};
    static const char *const of_meta[] = {"name", "namespace", "labels", "annotations", NULL};
    json_t *meta = json_object_get(doc, "metadata"), *spec = json_object_get(doc, "spec");
    json_t *pod = json_object_get(spec, "podSpec");
    const char *name = text_of(meta, "name");
    if (!name)
        return fast_err_set(err, FAST_EINVAL, "metadata.name: it is missing");
    json_t *d = json_pack("{s:s}", "service", name);
    json_t *notes = map_of(meta, "annotations"), *labels = map_of(meta, "labels");
    copy(d, "namespace", meta, "namespace");
    rename_notes(notes);
    set_text(labels, "com.openfaas.scale.min", text_of(spec, "replicas"));
    set_text(labels, "com.openfaas.scale.max", text_of(spec, "replicas"));
    ignore_others(ignored, "metadata", meta, of_meta);
    if (pod)
        ignore_others(ignored, "spec", spec, of_spec);
    int r = from_pod(d, pod ? pod : spec, notes, ignored, err); /* a SharePod has no podSpec */
    json_object_set_new(d, "annotations", notes);
    json_object_set_new(d, "labels", labels);
    if (r) {
        json_decref(d);
        return r;
    }
    *ret = d;
    return 0;
}

/* ---- Function of OpenFaaS ---- */

static int read_function(json_t *doc, json_t **ret, json_t *ignored, struct fast_err *err)
{
    static const struct {
        const char *crd, *api;
    } keys[] = {{"image", "image"},       {"handler", "envProcess"},   {"environment", "envVars"},
                {"labels", "labels"},     {"annotations", "annotations"}, {"limits", "limits"},
                {"requests", "requests"}, {"constraints", "constraints"}, {"secrets", "secrets"}};
    static const char *const known[] = {"name", "image", "handler", "environment", "labels",
                                        "annotations", "limits", "requests", "constraints", "secrets",
                                        "readOnlyRootFilesystem", NULL};
    static const char *const of_meta[] = {"name", "namespace", NULL};
    json_t *meta = json_object_get(doc, "metadata"), *spec = json_object_get(doc, "spec");
    const char *name = text_of(spec, "name") ? text_of(spec, "name") : text_of(meta, "name");
    const char *read_only = text_of(spec, "readOnlyRootFilesystem");
    if (!name)
        return fast_err_set(err, FAST_EINVAL, "spec.name: it is missing");
    if (!text_of(spec, "image"))
        return fast_err_set(err, FAST_EINVAL, "spec.image: it is missing");
    json_t *d = json_pack("{s:s}", "service", name);
    copy(d, "namespace", meta, "namespace");
    for (size_t i = 0; i < FAST_COUNT_OF(keys); i++)
        copy(d, keys[i].api, spec, keys[i].crd);
    if (read_only && !strcmp(read_only, "true"))
        json_object_set_new(d, "readOnlyRootFilesystem", json_true());
    ignore_others(ignored, "metadata", meta, of_meta);
    ignore_others(ignored, "spec", spec, known);
    *ret = d;
    return 0;
}

/* ---- the whole ---- */

int manifest_read(json_t *doc, json_t **ret_deployment, char **ret_ns, json_t *ignored,
                  struct fast_err *err)
{
    static const char *const pods[] = {"FaSTPod", "FaSTFunc", "FaSTSvc", "SharePod"};
    static const char *const of_namespace[] = {"name", NULL};
    const char *kind = text_of(doc, "kind");
    const char *name = text_of(json_object_get(doc, "metadata"), "name");
    char text[256];
    *ret_deployment = NULL;
    *ret_ns = NULL;
    if (!kind)
        return fast_err_set(err, FAST_EINVAL, "this is neither a stack nor a manifest with a kind");
    for (size_t i = 0; i < FAST_COUNT_OF(pods); i++)
        if (!strcmp(kind, pods[i]))
            return read_pod(doc, ret_deployment, ignored, err);
    if (!strcmp(kind, "Function"))
        return read_function(doc, ret_deployment, ignored, err);
    if (!strcmp(kind, "Namespace") && name) {
        ignore_others(ignored, "metadata", json_object_get(doc, "metadata"), of_namespace);
        *ret_ns = strdup(name);
        return *ret_ns ? 0 : fast_err_set(err, FAST_ENOMEM, "out of memory");
    }
    snprintf(text, sizeof(text), "%.60s %.100s (this kind has no meaning here)", kind,
             name ? name : "");
    ignore(ignored, "", text);
    return 0;
}

/* The end of a document: a line "---". */
static const char *document_end(const char *p)
{
    for (; (p = strstr(p, "\n---")); p += 4)
        if (p[4] == '\n' || p[4] == '\r' || p[4] == ' ' || !p[4])
            return p + 1;
    return NULL;
}

static bool is_blank(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] == '#')
            while (i < len && p[i] != '\n')
                i++;
        else if (!strchr(" \t\r\n-", p[i]))
            return false;
    }
    return true;
}

int manifest_parse(const char *text, const char *name, json_t **ret, struct fast_err *err)
{
    int r = 0;
    json_t *all = json_array();
    for (const char *p = text; !r && *p;) {
        json_t *doc = NULL;
        const char *end = document_end(p);
        size_t len = end ? (size_t)(end - p) : strlen(p);
        if (!is_blank(p, len)) {
            r = fast_yaml_parse(p, len, name, &doc, err);
            if (!r)
                json_array_append_new(all, doc);
        }
        p += len;
        p += end ? strcspn(p, "\n") : 0;
    }
    if (!r && !json_array_size(all))
        r = fast_err_set(err, FAST_EINVAL, "%s: the file is empty", name);
    if (r) {
        json_decref(all);
        return r;
    }
    *ret = all;
    return 0;
}

int manifest_load(const char *path, json_t **ret, struct fast_err *err)
{
    fast_autofree char *text = NULL;
    int r = fast_file_read(strcmp(path, "-") ? path : "/dev/stdin", FILE_MAX, &text, NULL, err);
    return r ? r : manifest_parse(text, path, ret, err);
}
