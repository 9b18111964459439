/* fast async: calls that wait to be made, and those that were given up. */

#include <string.h>

#include "cli/api.h"
#include "cli/table.h"

struct async {
    bool dead;
};

static const struct cli_opt opts[] = {
    {"dead", 0, CLI_FLAG, offsetof(struct async, dead), NULL, "calls that were given up"},
};

static void print_calls(const json_t *calls)
{
    static const char *const heads[] = {"CALL", "FUNCTION", "STATE", "ATTEMPTS", "STATUS", "AGE",
                                        "NOTE", NULL};
    struct table *t = table_new(heads);
    json_t *c;
    size_t i;
    json_array_foreach(calls, i, c) {
        table_add(t, "%s", json_text(c, "callId"));
        table_add(t, "%s", json_text(c, "function"));
        table_add(t, "%s", json_text(c, "state"));
        table_add(t, "%.0f", json_num(c, "attempts"));
        table_add(t, "%.0f", json_num(c, "status"));
        table_add(t, "%.0f s", json_num(c, "ageSeconds"));
        table_add(t, "%s", json_text(c, "why"));
    }
    table_print(t, stdout, 0);
}

static int list(struct cli *cli, const struct async *o)
{
    json_t *all = NULL;
    int s = api_json(cli, "GET", o->dead ? "/system/async?dead=true" : "/system/async", NULL, &all);
    if (s)
        return s;
    if (cli->json) {
        api_print(all);
    } else {
        if (json_array_size(json_object_get(all, "calls")))
            print_calls(json_object_get(all, "calls"));
        printf("%.0f waiting (%.0f being made), %.0f given up\n", json_num(all, "waiting"),
               json_num(all, "running"), json_num(all, "dead"));
    }
    json_decref(all);
    return CLI_OK;
}

static int cancel(struct cli *cli, int n, char **ids)
{
    int status = CLI_OK;
    for (int i = 0; i < n; i++) {
        char id[256], path[512];
        snprintf(path, sizeof(path), "/async-function/%s", api_escape(ids[i], id, sizeof(id)));
        int s = api_json(cli, "DELETE", path, NULL, NULL);
        if (!s)
            printf(cli->json ? "{\"callId\": \"%s\", \"removed\": true}\n" : "%s is removed.\n",
                   ids[i]);
        status = s ? s : status;
    }
    return status;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    if (!strcmp(argv[0], "ls") && argc == 1)
        return list(cli, arg);
    if (!strcmp(argv[0], "rm") && argc > 1)
        return cancel(cli, argc - 1, argv + 1);
    return cli_fail(CLI_USAGE, "async: use `fast async ls` or `fast async rm CALL...`");
}

const struct cli_cmd cmd_async = {
    .name = "async", .args = "ls | rm CALL...", .summary = "asynchronous calls that are not done",
    .min_args = 1, .max_args = -1,
    .detail = "A call to /async-function/NAME is stored, answered with 202 and made later, again and\n"
              "again when it fails (annotations com.openfaas.retry.*). `fast async ls --dead` shows\n"
              "those that were given up; `rm` removes one of them, one that still waits, or\n"
              "one that is being made, whose function sees its caller go.",
    CLI_CMD_OPTS(opts, struct async), .run = run};
