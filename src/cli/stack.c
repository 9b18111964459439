/* A stack file (faas-cli's stack.yml) into FunctionDeployments. Known keys are taken, keys that
 * faas-cli knows and that mean nothing here are passed over, others are errors: a misspelled
 * annotation must not be ignored in silence. ${VAR} and ${VAR:-default} are replaced first. */

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/deploy.h"
#include "cli/yaml_json.h"
#include "io/file.h"

#define STACK_MAX (1u << 20)

/* Keys of a function and their name in the API; NULL: passed over. */
static const struct {
    const char *yaml, *api;
} keys[] = {
    {"image", "image"},
    {"fprocess", "envProcess"},
    {"namespace", "namespace"},
    {"labels", "labels"},
    {"annotations", "annotations"},
    {"environment", "envVars"},
    {"secrets", "secrets"},
    {"constraints", "constraints"},
    {"limits", "limits"},
    {"requests", "requests"},
    {"readonly_root_filesystem", "readOnlyRootFilesystem"},
    {"lang", NULL},
    {"handler", NULL},
    {"skip_build", NULL},
    {"build_options", NULL},
    {"build_args", NULL},
    {"build_secrets", NULL},
    {"platforms", NULL},
};

struct text {
    char *p;
    size_t len, cap;
};

static bool add(struct text *t, const char *p, size_t n)
{
    if (t->len + n + 1 > t->cap) {
        size_t cap = 2 * (t->len + n + 1);
        char *more = cap <= (size_t)4 * STACK_MAX ? realloc(t->p, cap) : NULL;
        if (!more)
            return false;
        t->p = more;
        t->cap = cap;
    }
    memcpy(t->p + t->len, p, n);
    t->len += n;
    t->p[t->len] = 0;
    return true;
}

/* Replaces one "${...}" at |p|; returns what follows it, NULL on an error. */
static const char *substitute(const char *p, struct text *out, struct fast_err *err)
{
    const char *end = strchr(p, '}');
    char name[128];
    if (!end || (size_t)(end - p) >= sizeof(name)) {
        fast_err_set(err, FAST_EINVAL, "\"%.20s\": a ${NAME} is not closed", p);
        return NULL;
    }
    snprintf(name, sizeof(name), "%.*s", (int)(end - p - 2), p + 2);
    char *fallback = strstr(name, ":-");
    if (fallback)
        *fallback = 0;
    const char *value = getenv(name);
    if (!value || !*value)
        value = fallback ? fallback + 2 : value;
    if (!value) {
        fast_err_set(err, FAST_EINVAL,
                     "${%s}: this environment variable is not set; set it or write "
                     "${%s:-default}", name, name);
        return NULL;
    }
    return add(out, value, strlen(value)) ? end + 1 : NULL;
}

static int expand(const char *in, struct text *out, struct fast_err *err)
{
    fast_err_set(err, FAST_ENOMEM, "out of memory");
    if (!add(out, "", 0))
        return -FAST_ENOMEM;
    while (*in) {
        const char *dollar = strstr(in, "${");
        size_t n = dollar ? (size_t)(dollar - in) : strlen(in);
        if (!add(out, in, n))
            return -FAST_ENOMEM;
        in += n;
        if (dollar && !(in = substitute(in, out, err)))
            return -err->code;
    }
    return 0;
}

/* What nobody here knows is told and passed over, since files of other versions are to be taken as
 * they are. */
static void add_key(json_t *d, const char *fn, const char *key, json_t *value)
{
    for (size_t i = 0; i < FAST_COUNT_OF(keys); i++) {
        if (strcmp(keys[i].yaml, key))
            continue;
        if (!keys[i].api || json_is_null(value))
            return;
        if (!strcmp(key, "readonly_root_filesystem"))
            value = json_boolean(!strcmp(json_string_value(value) ? json_string_value(value) : "",
                                         "true"));
        json_object_set(d, keys[i].api, value);
        return;
    }
    fprintf(stderr, "fast: functions.%s: ignored: %s\n", fn, key);
}

/* Merges "environment: {...}" of a file into |env|; a name that is there already stays. */
static int add_env_file(json_t *env, const char *path, struct fast_err *err)
{
    fast_autofree char *raw = NULL;
    struct text text = {0};
    json_t *root = NULL, *value;
    const char *name;
    int r = fast_file_read(path, STACK_MAX, &raw, NULL, err);
    r = r ? r : expand(raw, &text, err);
    r = r ? r : fast_yaml_parse(text.p, text.len, path, &root, err);
    free(text.p);
    json_t *map = r ? NULL : json_object_get(root, "environment");
    if (!r && !json_is_object(map))
        r = fast_err_set(err, FAST_EINVAL, "%.200s: there is no \"environment\" in it", path);
    json_object_foreach(map, name, value)
        if (!json_object_get(env, name))
            json_object_set(env, name, value);
    json_decref(root);
    return r;
}

/* "environment_file": a list of files, whose names are looked for from where fast runs, as faas-cli
 * does. The environment of the function itself comes first, then the files in reverse order. */
static int add_env_files(json_t *d, const char *fn, json_t *files, struct fast_err *err)
{
    if (!json_is_array(files))
        return fast_err_set(err, FAST_EINVAL, "functions.%s.environment_file: a list is expected", fn);
    json_t *own = json_object_get(d, "envVars");
    json_t *env = json_is_object(own) ? json_deep_copy(own) : json_object();
    int r = 0;
    for (size_t i = json_array_size(files); !r && i > 0; i--) {
        const char *path = json_string_value(json_array_get(files, i - 1));
        r = path ? add_env_file(env, path, err)
                 : fast_err_set(err, FAST_EINVAL, "item %zu is no name of a file", i);
    }
    json_object_set_new(d, "envVars", env);
    return r ? fast_err_wrap(err, "functions.%s.environment_file", fn) : 0;
}

static int add_function(json_t *list, const char *fn, json_t *spec, struct fast_err *err)
{
    if (!json_is_object(spec))
        return fast_err_set(err, FAST_EINVAL, "functions.%s: a mapping is expected", fn);
    json_t *d = json_pack("{s:s}", "service", fn);
    json_array_append_new(list, d);
    const char *key;
    json_t *value;
    json_object_foreach(spec, key, value)
        if (strcmp(key, "environment_file") != 0)
            add_key(d, fn, key, value);
    json_t *files = json_object_get(spec, "environment_file");
    int r = files && !json_is_null(files) ? add_env_files(d, fn, files, err) : 0;
    if (r)
        return r;
    if (!json_object_get(d, "image"))
        return fast_err_set(err, FAST_EINVAL, "functions.%s: \"image\" is missing", fn);
    return 0;
}

static void use_gateway(struct cli *cli, const json_t *provider)
{
    const char *url = json_string_value(json_object_get(provider, "gateway"));
    size_t n = url ? strlen(url) : 0;
    while (n && url[n - 1] == '/')
        n--;
    if (!n || n >= sizeof(cli->gateway_of_stack) || cli->gateway != cli->gateway_unasked ||
        !strncmp(url, "http://127.0.0.1:8080", n) || !strncmp(url, "http://localhost:8080", n))
        return;
    /* The password is for the gateway that the user names: a file from elsewhere gets it nowhere else. */
    size_t own = strlen(cli->gateway);
    while (own && cli->gateway[own - 1] == '/')
        own--;
    cli->foreign = own != n || strncasecmp(cli->gateway, url, n) != 0;
    snprintf(cli->gateway_of_stack, sizeof(cli->gateway_of_stack), "%.*s", (int)n, url);
    cli->gateway = cli->gateway_unasked = cli->gateway_of_stack;
}

static int from_root(const char *path, json_t *root, json_t *list, struct fast_err *err)
{
    json_t *functions = json_object_get(root, "functions");
    const char *provider =
        json_string_value(json_object_get(json_object_get(root, "provider"), "name"));
    if (provider && strcmp(provider, "openfaas") && strcmp(provider, "faas"))
        return fast_err_set(err, FAST_EINVAL, "%s: provider.name is \"%s\"; only openfaas is known",
                            path, provider);
    if (!json_is_object(functions) || !json_object_size(functions))
        return fast_err_set(err, FAST_EINVAL, "%s: there is no \"functions\" in it", path);
    const char *fn;
    json_t *spec;
    json_object_foreach(functions, fn, spec) {
        int r = add_function(list, fn, spec, err);
        if (r) {
            fast_err_wrap(err, "%s", path);
            return r;
        }
    }
    return 0;
}

int deploy_read_stack(struct cli *cli, const char *path, json_t **ret, struct fast_err *err)
{
    fast_autofree char *raw = NULL;
    struct text text = {0};
    json_t *root = NULL, *list = json_array();
    int r = fast_file_read(path, STACK_MAX, &raw, NULL, err);
    if (!r) {
        r = expand(raw, &text, err);
        if (r)
            fast_err_wrap(err, "%s", path);
    }
    if (!r)
        r = fast_yaml_parse(text.p, text.len, path, &root, err);
    if (!r)
        r = from_root(path, root, list, err);
    if (!r)
        use_gateway(cli, json_object_get(root, "provider"));
    free(text.p);
    json_decref(root);
    if (r) {
        json_decref(list);
        return r;
    }
    *ret = list;
    return 0;
}
