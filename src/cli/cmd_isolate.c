/* fast isolate: becomes the program that it is given, with less around it. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/isolate.h"

struct isolate {
    const char *root, *cwd, *secrets;
    struct cli_list secret, env;
};

static const struct cli_opt opts[] = {
    {"root", 0, CLI_STR, offsetof(struct isolate, root), "DIR", "the file system that it sees"},
    {"cwd", 0, CLI_STR, offsetof(struct isolate, cwd), "DIR", "where it begins"},
    {"secrets", 0, CLI_STR, offsetof(struct isolate, secrets), "DIR", "folder of secrets"},
    {"secret", 0, CLI_LIST, offsetof(struct isolate, secret), "NAME",
     "one that it sees as /var/openfaas/secrets/NAME"},
    {"env", 'e', CLI_LIST, offsetof(struct isolate, env), "NAME=VALUE",
     "environment, where it is not set already"},
};

static void set_env(const struct cli_list *list)
{
    for (int i = 0; i < list->n; i++) {
        const char *eq = strchr(list->v[i], '=');
        fast_autofree char *name = eq ? strndup(list->v[i], (size_t)(eq - list->v[i])) : NULL;
        /* PATH is the node's unless the image has its own, whose programs lie elsewhere. */
        if (name)
            setenv(name, eq + 1, !strcmp(name, "PATH"));
    }
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct isolate *o = arg;
    struct isolation is = {o->root, o->secrets, &o->secret};
    struct fast_err err;
    char level[128];
    (void)cli;
    (void)argc;
    if (o->secret.n && !o->secrets)
        return cli_fail(CLI_USAGE, "isolate: --secret needs --secrets");
    if (isolate_self(&is, level, sizeof(level), &err))
        return cli_fail(CLI_FAILED, "isolate: %s", err.msg);
    fprintf(stderr, "fast: isolated: %s\n", level);
    set_env(&o->env);
    if (o->cwd && chdir(o->cwd))
        return cli_fail(CLI_FAILED, "isolate: cannot enter %s: %s", o->cwd, strerror(errno));
    execvp(argv[0], argv);
    return cli_fail(CLI_FAILED, "isolate: cannot execute \"%s\": %s", argv[0], strerror(errno));
}

const struct cli_cmd cmd_isolate = {
    .name = "isolate", .args = "-- PROGRAM [ARGUMENT...]",
    .summary = "run a program as functions of the image store run", .min_args = 1, .max_args = -1,
    .detail = "It gets no new privileges, no core dumps, and with --root or --secret a file system\n"
              "view of its own. Network and process numbers are the machine's. The gateway starts\n"
              "functions with secrets and those of the image store in this way.",
    CLI_CMD_OPTS(opts, struct isolate), .run = run};
