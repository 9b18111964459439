/* fast apply: what a file describes, whatever it was written for. */

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/deploy.h"
#include "cli/manifest.h"

struct apply {
    const char *file;
};

static const struct cli_opt opts[] = {
    {"file", 'f', CLI_STR, offsetof(struct apply, file), "FILE", "YAML; - for standard input"},
};

static void tell_ignored(const json_t *ignored, const char *what)
{
    json_t *v;
    size_t i;
    json_array_foreach(ignored, i, v)
        fprintf(stderr, "fast: %s: ignored: %s\n", what, json_string_value(v));
}

static int make_namespace(struct cli *cli, const char *name)
{
    api_autoreply r = {0};
    json_t *body = json_pack("{s:s}", "name", name);
    fast_autofree char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (api_call(cli, "POST", "/system/namespace/", text, strlen(text), NULL, &r))
        return cli_fail(CLI_NOREACH, "no gateway at %s. Start one with `fast up`", cli->gateway);
    if (r.status != 201 && r.status != 409)
        return cli_fail(CLI_FAILED, "namespace %s: %s", name, r.body);
    printf(cli->json ? "{\"namespace\": \"%s\"}\n" : "namespace %s is there.\n", name);
    return CLI_OK;
}

static int send_all(struct cli *cli, const json_t *list)
{
    json_t *d;
    size_t i;
    int status = deploy_check_all(cli, list);
    if (status)
        return status;
    json_array_foreach(list, i, d) {
        int s = deploy_send(cli, d);
        status = s ? s : status;
    }
    return status;
}

/* Everything is read before anything is done, so that a mistake changes nothing. */
static int read_all(const json_t *docs, json_t *deployments, json_t *namespaces, struct fast_err *err)
{
    json_t *doc;
    size_t i;
    json_array_foreach(docs, i, doc) {
        json_t *ignored = json_array(), *d = NULL;
        fast_autofree char *ns = NULL;
        int r = manifest_read(doc, &d, &ns, ignored, err);
        const char *kind = json_string_value(json_object_get(doc, "kind"));
        tell_ignored(ignored, kind ? kind : "document");
        json_decref(ignored);
        if (r)
            return fast_err_wrap(err, "document %zu", i + 1);
        if (d)
            json_array_append_new(deployments, d);
        if (ns)
            json_array_append_new(namespaces, json_string(ns));
    }
    return 0;
}

static int apply(struct cli *cli, const char *file)
{
    struct fast_err err;
    json_t *docs = NULL, *deployments = json_array(), *namespaces = json_array(), *ns, *stack = NULL;
    int r = manifest_load(file, &docs, &err), status = CLI_OK;
    const json_t *first = json_array_get(docs, 0);
    if (!r && json_object_get(first, "functions") && !json_object_get(first, "kind")) {
        r = deploy_read_stack(cli, file, &stack, &err);
        if (!r)
            json_array_extend(deployments, stack);
    } else if (!r) {
        r = read_all(docs, deployments, namespaces, &err);
    }
    size_t i;
    if (r)
        status = cli_fail(CLI_USAGE, "apply: %s", err.msg);
    else
        json_array_foreach(namespaces, i, ns)
            status = status ? status : make_namespace(cli, json_string_value(ns));
    if (!r && !status)
        status = send_all(cli, deployments);
    json_decref(docs);
    json_decref(stack);
    json_decref(deployments);
    json_decref(namespaces);
    return status;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct apply *o = arg;
    if (!o->file == !argc)
        return cli_fail(CLI_USAGE, "apply: name one FILE");
    return apply(cli, o->file ? o->file : argv[0]);
}

const struct cli_cmd cmd_apply = {
    .name = "apply", .args = "[FILE]", .summary = "deploy what a file describes", .max_args = 1,
    .detail = "Takes a stack.yml of faas-cli and manifests that were written for Kubernetes: Function\n"
              "(openfaas.com/v1), FaSTPod, FaSTFunc, FaSTSvc, SharePod and Namespace, several in one\n"
              "file. What has no meaning here is named. Example: fast apply -f fastpod.yaml",
    CLI_CMD_OPTS(opts, struct apply), .run = run};
