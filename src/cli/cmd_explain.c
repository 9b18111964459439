/* fast explain: why a function has the replicas that it has. */

#include <string.h>

#include "cli/api.h"
#include "cli/view.h"

struct explain {
    const char *ns;
};

static const struct cli_opt opts[] = {
    {"namespace", 'n', CLI_NAME, offsetof(struct explain, ns), "NAME", "default: openfaas-fn"},
};

/* "12 % x 0.40" */
static void print_slice(const json_t *o)
{
    if (json_num(o, "sm_pct") > 0)
        printf(" %.0f %% SM x %.2f", json_num(o, "sm_pct"), json_num(o, "quota"));
}

/* |unit|: of loads. */
static void print_inputs(const json_t *r, const char *unit)
{
    printf("  load %.1f %s", json_num(r, "load"), unit);
    if (json_num(r, "expected") > 0)
        printf(", %.1f expected when a start is done (%.1f s)", json_num(r, "expected"),
               json_num(r, "start_ms") / 1e3);
    if (json_num(r, "burst") > 0)
        printf(", bursts of %.0f", json_num(r, "burst"));
    printf("; %.0f wait; %.0f of %.0f replicas serve", json_num(r, "waiting"), json_num(r, "serving"),
           json_num(r, "replicas"));
    if (json_object_get(r, "late"))
        printf("\n  at %.1f/s about %.1f %% would be late, at most %.1f %% may", json_num(r, "decided_by"),
               100 * json_num(r, "late"), 100 * json_num(r, "late_most"));
    puts("");
}

static void print_weighed(const json_t *r)
{
    json_t *o;
    size_t i;
    json_array_foreach(json_object_get(r, "weighed"), i, o) {
        printf("  weighed: %s", json_text(o, "do"));
        if (json_num(o, "count") > 1)
            printf(" %.0f x", json_num(o, "count"));
        print_slice(o);
        printf(": %s", json_text(o, "why"));
        if (json_object_get(o, "late"))
            printf(" (about %.1f %% late)", 100 * json_num(o, "late"));
        puts("");
    }
}

static void print_record(struct cli *cli, const json_t *r, const char *unit)
{
    json_t *d;
    size_t i;
    printf("%s%s%s  cause: %s, policy: %s", view_color(cli, "bold"), json_text(r, "time"),
           view_color(cli, "off"), json_text(r, "cause"), json_text(r, "policy"));
    if (json_num(r, "times") > 1)
        printf(", %.0f times in a row", json_num(r, "times"));
    puts("");
    json_array_foreach(json_object_get(r, "did"), i, d) {
        printf("  %s", json_text(d, "do"));
        if (*json_text(d, "replica"))
            printf(" %s", json_text(d, "replica"));
        print_slice(d);
        printf(": %s\n", json_text(d, "why"));
        if (*json_text(d, "refused"))
            printf("    not done: %s\n", json_text(d, "refused"));
    }
    if (!strcmp(json_text(r, "cause"), "load")) {
        print_inputs(r, unit);
        print_weighed(r);
    }
}

static void print_all(struct cli *cli, const json_t *f)
{
    json_t *r;
    size_t i;
    printf("%s.%s: %.0f of %.0f replicas ready, %.0f to %.0f allowed, policy %s, priority %.0f\n",
           json_text(f, "name"), json_text(f, "namespace"), json_num(f, "ready"),
           json_num(f, "replicas"), json_num(f, "min"), json_num(f, "max"), json_text(f, "policy"),
           json_num(f, "priority"));
    if (*json_text(f, "trouble"))
        printf("Trouble: %s\n", json_text(f, "trouble"));
    if (!json_is_true(json_object_get(f, "scaled")))
        puts("It is not scaled: com.openfaas.scale.min and .max are equal, and it does not go to zero.");
    const json_t *now = json_object_get(f, "now");
    if (now) {
        puts("\nNow:");
        print_inputs(now, json_text(f, "load_is"));
        print_weighed(now);
    }
    puts(json_array_size(json_object_get(f, "decisions")) ? "\nDecisions, the latest first:"
                                                          : "\nNo decision yet.");
    json_array_foreach(json_object_get(f, "decisions"), i, r)
        print_record(cli, r, json_text(f, "load_is"));
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct explain *o = arg;
    char name[256], ns[256], path[1024];
    json_t *f = NULL;
    (void)argc;
    snprintf(path, sizeof(path), "/system/explain/%s%s%s", api_escape(argv[0], name, sizeof(name)),
             o->ns ? "?namespace=" : "", o->ns ? api_escape(o->ns, ns, sizeof(ns)) : "");
    int s = api_json(cli, "GET", path, NULL, &f);
    if (s)
        return s;
    if (cli->json)
        api_print(f);
    else
        print_all(cli, f);
    json_decref(f);
    return CLI_OK;
}

const struct cli_cmd cmd_explain = {
    .name = "explain", .args = "NAME", .summary = "why a function has the replicas that it has",
    .detail = "The latest decisions about its replicas: what they went by, what was weighed, what was\n"
              "done and why. docs/scheduler.md says how to read them.",
    .min_args = 1, .max_args = 1, CLI_CMD_OPTS(opts, struct explain), .run = run};
