/* fast model: the weights that replicas share on the GPUs. */

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "cli/api.h"
#include "cli/table.h"
#include "cli/view.h"

struct model {
    const char *ns, *name, *version, *gpu;
    bool pin, shared, off;
};

static const struct cli_opt opts[] = {
    {"namespace", 'n', CLI_NAME, offsetof(struct model, ns), "NS", "of the model; default: openfaas-fn"},
    {"name", 0, CLI_STR, offsetof(struct model, name), "NAME", "push: default is the file's name"},
    {"version", 0, CLI_STR, offsetof(struct model, version), "V",
     "push: default is one made of the file; rm, pin: default is all"},
    {"gpu", 0, CLI_STR, offsetof(struct model, gpu), "N", "push: default is the one with most room"},
    {"pin", 0, CLI_FLAG, offsetof(struct model, pin), NULL, "push: never dropped for lack of memory"},
    {"shared", 0, CLI_FLAG, offsetof(struct model, shared), NULL,
     "push: functions of every namespace may use it"},
    {"off", 0, CLI_FLAG, offsetof(struct model, off), NULL, "pin: it may be dropped again"},
};

/* What each namespace has on each GPU, of what it may have: behind the models, at the first of each. */
static void print_limits(const json_t *all)
{
    json_t *m, *o;
    size_t i, k;
    char held[32], limit[32];
    json_array_foreach(all, i, m) {
        double sum = 0;
        bool first = true;
        json_array_foreach(all, k, o) {
            if (strcmp(json_text(o, "namespace"), json_text(m, "namespace")) != 0 ||
                json_num(o, "gpu") != json_num(m, "gpu"))
                continue;
            first &= k >= i;
            sum += json_num(o, "bytes");
        }
        const json_t *most = json_object_get(m, "namespace_limit_bytes");
        if (first && json_is_number(most))
            printf("%s takes %s of %s on GPU %.0f.\n", json_text(m, "namespace"),
                   view_bytes(sum, held, sizeof(held)),
                   view_bytes(json_number_value(most), limit, sizeof(limit)), json_num(m, "gpu"));
    }
}

static void print_models(const json_t *all)
{
    static const char *const heads[] = {"MODEL", "VERSION", "NAMESPACE", "GPU", "STATE", "SIZE",
                                        "TENSORS", "USED BY", "LOAD ms", "NOTE", NULL};
    struct table *t = table_new(heads);
    json_t *m;
    size_t i;
    char size[32];
    json_array_foreach(all, i, m) {
        bool pinned = json_is_true(json_object_get(m, "pinned"));
        bool shared = json_is_true(json_object_get(m, "shared"));
        table_add(t, "%s", json_text(m, "name"));
        table_add(t, "%s", json_text(m, "version"));
        table_add(t, "%s", json_text(m, "namespace"));
        table_add(t, "%.0f", json_num(m, "gpu"));
        table_add(t, "%s", json_text(m, "state"));
        table_add(t, "%s", view_bytes(json_num(m, "bytes"), size, sizeof(size)));
        table_add(t, "%.0f", json_num(m, "tensors"));
        table_add(t, "%.0f", json_num(m, "references"));
        table_add(t, "%.0f", json_num(m, "load_ms"));
        bool verified = json_is_true(json_object_get(m, "verified")), ready = json_num(m, "tensors") > 0;
        table_add(t, "%s%s%s%s%s", pinned ? "pinned" : "", pinned && shared ? ", " : "",
                  shared ? "shared" : "", (pinned || shared) && !verified && ready ? ", " : "",
                  !verified && ready ? "unverified" : "");
    }
    table_print(t, stdout, 0);
    print_limits(all);
}

static int list(struct cli *cli)
{
    json_t *all = NULL;
    int s = api_json(cli, "GET", "/system/models", NULL, &all);
    if (s)
        return s;
    if (cli->json)
        api_print(all);
    else if (json_array_size(all))
        print_models(all);
    else
        puts("No GPU holds a model.");
    json_decref(all);
    return CLI_OK;
}

static json_t *body_of(const struct model *o, const char *name)
{
    json_t *b = json_pack("{s:s}", "name", name);
    if (o->ns)
        json_object_set_new(b, "namespace", json_string(o->ns));
    if (o->version)
        json_object_set_new(b, "version", json_string(o->version));
    return b;
}

/* rm and pin, for each name. */
static int each(struct cli *cli, const struct model *o, bool rm, int n, char **names)
{
    const char *did = rm ? "removed" : o->off ? "unpinned" : "pinned";
    int status = CLI_OK;
    for (int i = 0; i < n; i++) {
        json_t *b = body_of(o, names[i]);
        if (!rm)
            json_object_set_new(b, "pinned", json_boolean(!o->off));
        int s = api_json(cli, rm ? "DELETE" : "PUT", "/system/models", b, NULL);
        json_decref(b);
        json_t *told = !s && cli->json ? json_pack("{s:s, s:b}", "name", names[i], did, 1) : NULL;
        if (told)
            api_print(told);
        else if (!s)
            printf("%s is %s.\n", names[i], did);
        json_decref(told);
        status = s ? s : status;
    }
    return status;
}

static int push(struct cli *cli, const struct model *o, const char *file)
{
    char path[PATH_MAX], name[256];
    struct fast_err err;
    int64_t gpu = 0;
    if (!realpath(file, path))
        return cli_fail(CLI_FAILED, "model: %s: %m", file);
    if (o->gpu && fast_parse_int(o->gpu, "--gpu", 0, 1023, &gpu, &err))
        return cli_fail(CLI_USAGE, "model: %s", err.msg);
    const char *base = strrchr(path, '/') + 1;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(base, "."), base);
    json_t *b = body_of(o, o->name ? o->name : name), *answer = NULL;
    json_object_set_new(b, "path", json_string(path));
    json_object_set_new(b, "pinned", json_boolean(o->pin));
    json_object_set_new(b, "shared", json_boolean(o->shared));
    if (o->gpu)
        json_object_set_new(b, "gpu", json_integer(gpu));
    int s = api_json(cli, "POST", "/system/models", b, &answer);
    json_decref(b);
    if (!s && cli->json)
        api_print(answer);
    else if (!s)
        puts(json_text(answer, "text"));
    json_decref(answer);
    return s;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct model *o = arg;
    if (!strcmp(argv[0], "ls") && argc == 1)
        return list(cli);
    if (!strcmp(argv[0], "rm") && argc > 1)
        return each(cli, o, true, argc - 1, argv + 1);
    if (!strcmp(argv[0], "pin") && argc > 1)
        return each(cli, o, false, argc - 1, argv + 1);
    if (!strcmp(argv[0], "push") && argc == 2)
        return push(cli, o, argv[1]);
    return cli_fail(CLI_USAGE, "model: use `fast model ls`, `rm NAME...`, `pin NAME...` or `push FILE`");
}

const struct cli_cmd cmd_model = {
    .name = "model", .args = "ls | rm NAME... | pin NAME... | push FILE.safetensors",
    .summary = "models whose weights replicas share", .min_args = 1, .max_args = -1,
    .detail = "A function with the annotation fastgshare/model: NAME gets a store of models for its GPU,\n"
              "and libfast-store.so or the Python package fastshare to use it; replicas then have one\n"
              "copy of the weights. `push` loads a file before anybody needs it; the file has to lie on\n"
              "the node's machine. What nobody uses stays until the memory is needed, unless it is\n"
              "pinned; what is removed while it is in use or loaded goes with its last user.\n"
              "\"unverified\" is what a replica has loaded: its bytes are what it says that they are. `push`\n"
              "of the same file compares them.",
    CLI_CMD_OPTS(opts, struct model), .run = run};
