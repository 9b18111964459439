/* fast deploy: one function from flags, or all of a stack file. */

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/deploy.h"
#include "core/types.h"

struct deploy {
    const char *image, *process, *ns, *file;
    const char *sm, *quota, *request, *limit, *mem, *slo, *profile, *replicas, *min, *max;
    const char *priority, *gpus;
    struct cli_list env, label, annotation, secret;
};

static const struct cli_opt opts[] = {
    {"file", 'f', CLI_STR, offsetof(struct deploy, file), "STACK.yml",
     "deploy every function of a stack file (as faas-cli reads it)"},
    {"image", 'i', CLI_STR, offsetof(struct deploy, image), "NAME",
     "a program of the image folders, or the path of an executable"},
    {"process", 'p', CLI_STR, offsetof(struct deploy, process), "COMMAND",
     "the command line to run (fprocess); default: the image itself"},
    {"namespace", 'n', CLI_NAME, offsetof(struct deploy, ns), "NAME", "default: openfaas-fn"},
    {"sm", 0, CLI_STR, offsetof(struct deploy, sm), "PERCENT", "SM partition, 1 to 100"},
    {"quota", 0, CLI_STR, offsetof(struct deploy, quota), "FRACTION",
     "share of GPU time, request and limit alike, 0.001 to 1"},
    {"request", 0, CLI_STR, offsetof(struct deploy, request), "FRACTION",
     "share of GPU time that is guaranteed"},
    {"limit", 0, CLI_STR, offsetof(struct deploy, limit), "FRACTION",
     "share of GPU time that is never exceeded"},
    {"gpus", 0, CLI_STR, offsetof(struct deploy, gpus), "N",
     "GPUs of one node that each replica has at once, with the slice on each of them (default 1)"},
    {"mem", 0, CLI_STR, offsetof(struct deploy, mem), "SIZE",
     "cap of device memory, such as 2Gi; default: the --sm percentage of the smallest GPU's memory, "
     "at least 512Mi"},
    {"slo", 0, CLI_STR, offsetof(struct deploy, slo), "TIME",
     "answer within this time at the 99th percentile, such as 69ms"},
    {"profile", 0, CLI_STR, offsetof(struct deploy, profile), "NAME",
     "profile that scaling uses to meet the SLO, such as resnet50"},
    {"replicas", 'r', CLI_STR, offsetof(struct deploy, replicas), "N", "fixed number of replicas"},
    {"min", 0, CLI_STR, offsetof(struct deploy, min), "N", "fewest replicas (0: down to none)"},
    {"max", 0, CLI_STR, offsetof(struct deploy, max), "N", "most replicas"},
    {"priority", 0, CLI_STR, offsetof(struct deploy, priority), "N",
     "-100 to 100 (default 0): on full GPUs those with less give way, down to their fewest"},
    {"env", 'e', CLI_LIST, offsetof(struct deploy, env), "NAME=VALUE", "environment variable"},
    {"label", 'l', CLI_LIST, offsetof(struct deploy, label), "NAME=VALUE", "label"},
    {"annotation", 'a', CLI_LIST, offsetof(struct deploy, annotation), "NAME=VALUE", "annotation"},
    {"secret", 0, CLI_LIST, offsetof(struct deploy, secret), "NAME", "secret to hand to it"},
};

static int add_pairs(json_t *obj, const struct cli_list *list, const char *what,
                     struct fast_err *err)
{
    for (int i = 0; i < list->n; i++) {
        const char *eq = strchr(list->v[i], '=');
        if (!eq || eq == list->v[i])
            return fast_err_set(err, FAST_EINVAL, "--%s %s: NAME=VALUE is expected", what,
                                list->v[i]);
        fast_autofree char *name = strndup(list->v[i], (size_t)(eq - list->v[i]));
        json_object_set_new(obj, name, json_string(eq + 1));
    }
    return 0;
}

static int check_milli(const char *text, const char *what, int64_t min, int64_t *ret, struct fast_err *err)
{
    return text ? fast_parse_milli(text, what, min, FAST_MILLI, ret, err) : 0;
}

/* The gateway checks again; here the message can name the flag. */
static int check(const struct deploy *d, struct fast_err *err)
{
    int64_t v, request = 0, limit = 0, n[3] = {0};
    uint64_t bytes;
    fast_ns ns;
    int r = 0;
    if (d->quota && (d->request || d->limit))
        return fast_err_set(err, FAST_EINVAL,
                            "--quota sets request and limit; give it or the other two");
    if (d->sm)
        r = fast_parse_int(d->sm, "--sm", 1, FAST_SM_PCT_MAX, &v, err);
    if (!r)
        r = check_milli(d->quota, "--quota", 1, &v, err);
    if (!r)
        r = check_milli(d->request, "--request", 0, &request, err);
    if (!r)
        r = check_milli(d->limit, "--limit", 1, &limit, err);
    if (!r && d->gpus)
        r = fast_parse_int(d->gpus, "--gpus", 1, FAST_NODE_GPUS_MAX, &v, err);
    if (!r && d->mem)
        r = fast_parse_bytes(d->mem, "--mem", UINT64_MAX, &bytes, err);
    if (!r && d->slo)
        r = fast_parse_duration(d->slo, "--slo", 1000, FAST_S(3600), &ns, err);
    const char *const counts[] = {d->replicas, d->min, d->max};
    const char *const names[] = {"--replicas", "--min", "--max"};
    for (size_t i = 0; !r && i < FAST_COUNT_OF(counts); i++)
        if (counts[i])
            r = fast_parse_int(counts[i], names[i], 0, 1000, &n[i], err);
    if (!r && d->priority)
        r = fast_parse_int(d->priority, "--priority", -100, 100, &v, err);
    if (!r && d->min && d->max && n[1] > n[2])
        r = fast_err_set(err, FAST_EINVAL, "--max: \"%.20s\" is not from --min, %.20s, to 1000", d->max, d->min);
    if (!r && d->request && d->limit && request > limit)
        r = fast_err_set(err, FAST_EINVAL, "--limit: \"%.20s\" is not from --request, %.20s, to 1", d->limit,
                         d->request);
    return r;
}

static void set_text(json_t *obj, const char *key, const char *value)
{
    if (value)
        json_object_set_new(obj, key, json_string(value));
}

static int build(const char *name, const struct deploy *d, json_t **ret, struct fast_err *err)
{
    json_t *labels = json_object(), *notes = json_object(), *env = json_object();
    json_t *secrets = json_array();
    char bytes[32];
    int r = check(d, err);
    if (!r)
        r = add_pairs(labels, &d->label, "label", err);
    if (!r)
        r = add_pairs(notes, &d->annotation, "annotation", err);
    if (!r)
        r = add_pairs(env, &d->env, "env", err);
    for (int i = 0; i < d->secret.n; i++)
        json_array_append_new(secrets, json_string(d->secret.v[i]));
    set_text(notes, "fastgshare/gpu_sm_partition", d->sm);
    set_text(notes, "fastgshare/gpu_quota_request", d->quota ? d->quota : d->request);
    set_text(notes, "fastgshare/gpu_quota_limit", d->quota ? d->quota : d->limit);
    set_text(notes, "fastgshare/gpus", d->gpus);
    set_text(notes, "fastgshare/slo", d->slo);
    set_text(notes, "fastgshare/profile", d->profile);
    set_text(notes, "fastgshare/priority", d->priority);
    if (!r && d->mem) { /* the annotation takes plain bytes, as the authors' YAML has them */
        uint64_t n = 0;
        r = fast_parse_bytes(d->mem, "--mem", UINT64_MAX, &n, err);
        snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)n);
        set_text(notes, "fastgshare/gpu_mem", bytes);
    }
    set_text(labels, "com.openfaas.scale.min", d->replicas ? d->replicas : d->min);
    set_text(labels, "com.openfaas.scale.max", d->replicas ? d->replicas : d->max);
    json_t *out = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "service", name, "image",
                            d->image ? d->image : name, "labels", labels, "annotations", notes,
                            "envVars", env, "secrets", secrets);
    set_text(out, "envProcess", d->process);
    set_text(out, "namespace", d->ns);
    if (r) {
        json_decref(out);
        return r;
    }
    *ret = out;
    return 0;
}

static int no_gateway(const struct cli *cli, const struct api_reply *r)
{
    return cli_fail(CLI_NOREACH, "no gateway at %s (%s). Start one with `fast up`, or name it with "
                    "--gateway", cli->gateway, r->body ? r->body : "out of memory");
}

int deploy_send(struct cli *cli, const json_t *d)
{
    api_autoreply r = {0};
    fast_autofree char *text = json_dumps(d, JSON_COMPACT);
    const char *name = json_text(d, "service");
    int rc = api_call(cli, "PUT", "/system/functions", text, strlen(text), NULL, &r);
    if (!rc && r.status == 404) {
        api_reply_free(&r);
        rc = api_call(cli, "POST", "/system/functions", text, strlen(text), NULL, &r);
    }
    if (rc)
        return no_gateway(cli, &r);
    if (r.status == 401)
        return api_unauthorized(cli);
    if (r.status != 200 && r.status != 202) /* 400: something that was given is wrong */
        return cli_fail(r.status == 400 ? CLI_USAGE : CLI_FAILED, "%s was not deployed: %s", name,
                        r.len ? r.body : "no reason given");
    if (cli->json)
        printf("{\"function\": \"%s\", \"status\": %ld}\n", name, r.status);
    else
        printf("%s is being deployed. Try: fast invoke %s\n", name, name);
    return CLI_OK;
}

int deploy_check_all(struct cli *cli, const json_t *list)
{
    json_t *d;
    size_t i;
    int status = CLI_OK;
    json_array_foreach(list, i, d) {
        api_autoreply r = {0};
        fast_autofree char *text = json_dumps(d, JSON_COMPACT);
        if (api_call(cli, "PUT", "/system/functions?check=true", text, strlen(text), NULL, &r))
            return no_gateway(cli, &r);
        /* Another gateway than ours does not know the question. */
        if (r.status == 400)
            status = cli_fail(CLI_USAGE, "%s: %s", json_text(d, "service"), r.len ? r.body : "refused");
    }
    return status ? cli_fail(status, "nothing was deployed") : CLI_OK;
}

/* With an objective, and yet without a GPU: that is seldom meant. */
static void tell_plain(struct cli *cli, const struct deploy *d, const char *name)
{
    json_t *f = NULL;
    char path[512], ns[256] = "";
    if (d->ns)
        snprintf(ns, sizeof(ns), "?namespace=%.200s", d->ns);
    snprintf(path, sizeof(path), "/system/function/%.200s%s", name, ns);
    if (api_json(cli, "GET", path, NULL, &f))
        return;
    if (!json_object_get(f, "slice"))
        printf("It is a plain process, without a GPU: there was no --sm, --quota, --mem, --gpus or --profile, and it\n"
               "was not measured yet. To do that: fast profile %s, then deploy it again.\n", name);
    json_decref(f);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct deploy *d = arg;
    struct fast_err err;
    json_t *list = NULL, *one = NULL, *item;
    size_t i;
    if (!d->file == !argc)
        return cli_fail(CLI_USAGE, "deploy: give a NAME, or a stack file with --file");
    if (d->file && deploy_read_stack(cli, d->file, &list, &err))
        return cli_fail(CLI_USAGE, "deploy: %s", err.msg);
    if (!d->file) {
        if (fast_parse_name(argv[0], "function name", &err) || build(argv[0], d, &one, &err))
            return cli_fail(CLI_USAGE, "deploy: %s", err.msg);
        list = json_pack("[o]", one);
    }
    int status = json_array_size(list) > 1 ? deploy_check_all(cli, list) : CLI_OK;
    if (status) {
        json_decref(list);
        return status;
    }
    json_array_foreach(list, i, item) {
        int s = deploy_send(cli, item);
        status = s ? s : status;
    }
    if (!status && !cli->json && !d->file && d->slo)
        tell_plain(cli, d, argv[0]);
    json_decref(list);
    return status;
}

const struct cli_cmd cmd_deploy = {
    .name = "deploy", .args = "[NAME]", .summary = "create or change a function", .max_args = 1,
    .detail = "Without GPU options the function runs as a plain process. Examples:\n"
              "  fast deploy digits --image digits --sm 12 --quota 0.3 --slo 50ms\n"
              "  fast deploy mine --image ./server --request 0.2 --limit 0.8 --sm 24 --mem 2Gi\n"
              "  fast deploy -f stack.yml",
    CLI_CMD_OPTS(opts, struct deploy), .run = run};
