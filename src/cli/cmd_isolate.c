/* fast isolate: becomes the program that it is given, with less around it. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/become.h"
#include "cli/crun.h"
#include "cli/isolate.h"

struct isolate {
    const char *root, *cwd, *secrets, *hide;
    const char *memory, *cpu, *pids;
    bool gpu, read_only;
    struct cli_list secret, env;
};

static const struct cli_opt opts[] = {
    {"root", 0, CLI_STR, offsetof(struct isolate, root), "DIR", "the file system that it sees"},
    {"cwd", 0, CLI_STR, offsetof(struct isolate, cwd), "DIR", "where it begins"},
    {"secrets", 0, CLI_STR, offsetof(struct isolate, secrets), "DIR", "folder of secrets"},
    {"secret", 0, CLI_LIST, offsetof(struct isolate, secret), "NAME",
     "one that it sees as /var/openfaas/secrets/NAME"},
    {"hide", 0, CLI_STR, offsetof(struct isolate, hide), "DIR",
     "state directory: without --root it sees only what it needs of it"},
    {"read-only", 0, CLI_FLAG, offsetof(struct isolate, read_only), NULL,
     "all but /tmp, /dev/shm and its sockets is read-only"},
    {"memory", 0, CLI_STR, offsetof(struct isolate, memory), "BYTES", "limit by a control group, else of each process"},
    {"cpu", 0, CLI_STR, offsetof(struct isolate, cpu), "MILLICORES", "limit by a control group"},
    {"pids", 0, CLI_STR, offsetof(struct isolate, pids), "N", "processes and threads, by a control group"},
    {"gpu", 0, CLI_FLAG, offsetof(struct isolate, gpu), NULL, "it uses a GPU: no limit of memory by process"},
    {"env", 'e', CLI_LIST, offsetof(struct isolate, env), "NAME=VALUE",
     "environment, where it is not set already"},
};

/* Of lists of libraries the machine's, for the hook and the driver, are looked into first. */
static bool set_list(const char *name, const char *value)
{
    const char *set = getenv(name);
    fast_autofree char *both = NULL;
    if ((strcmp(name, "LD_LIBRARY_PATH") != 0 && strcmp(name, "LD_PRELOAD") != 0) || !set || !*set)
        return false;
    return asprintf(&both, "%s:%s", set, value) > 0 && !setenv(name, both, 1);
}

static void set_env(const struct cli_list *list)
{
    for (int i = 0; i < list->n; i++) {
        const char *eq = strchr(list->v[i], '=');
        fast_autofree char *name = eq ? strndup(list->v[i], (size_t)(eq - list->v[i])) : NULL;
        /* PATH is the node's unless the image has its own, whose programs lie elsewhere. */
        if (name && !set_list(name, eq + 1))
            setenv(name, eq + 1, !strcmp(name, "PATH"));
    }
}

static int take_limits(const struct isolate *o, uint64_t ret[FAST_CGROUP_KINDS], struct fast_err *err)
{
    const char *const text[] = {[FAST_CGROUP_MEMORY] = o->memory, [FAST_CGROUP_CPU] = o->cpu,
                                [FAST_CGROUP_PIDS] = o->pids};
    static const char *const name[] = {[FAST_CGROUP_MEMORY] = "--memory", [FAST_CGROUP_CPU] = "--cpu",
                                       [FAST_CGROUP_PIDS] = "--pids"};
    for (int i = 0; i < FAST_CGROUP_KINDS; i++) {
        int64_t value = 0;
        if (text[i] && fast_parse_int(text[i], name[i], 1, INT64_MAX / 1000, &value, err))
            return -err->code;
        ret[i] = (uint64_t)value;
    }
    return 0;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct isolate *o = arg;
    struct isolation is = {.root = o->root, .secrets = o->secrets, .secret = &o->secret,
                           .hide = o->hide, .program = argv[0], .read_only = o->read_only, .gpu = o->gpu};
    struct fast_err err;
    struct become user;
    struct crun crun;
    char level[320];
    (void)cli;
    (void)argc;
    if (take_limits(o, is.limit, &err))
        return cli_fail(CLI_USAGE, "isolate: %s", err.msg);
    if (o->secret.n && !o->secrets)
        return cli_fail(CLI_USAGE, "isolate: --secret needs --secrets");
    if (isolate_self(&is, level, sizeof(level), &user, &crun, &err))
        return cli_fail(CLI_FAILED, "isolate: %s", err.msg);
    fprintf(stderr, "fast: isolated: %s\n", level);
    set_env(&o->env);
    if (*crun.program) {
        become_set_env(&user);
        crun_exec(&crun, &is, &user, o->cwd, argv, &err);
        return cli_fail(CLI_FAILED, "isolate: %s", err.msg);
    }
    if (o->cwd && chdir(o->cwd))
        return cli_fail(CLI_FAILED, "isolate: cannot enter %s: %s", o->cwd, strerror(errno));
    execvp(argv[0], argv);
    return cli_fail(CLI_FAILED, "isolate: user %u cannot execute \"%s\": %s%s", (unsigned)geteuid(), argv[0],
                    strerror(errno),
                    errno == EACCES ? "; open it and the folders above it to all users, or start the platform with "
                                      "--function-users none"
                                    : "");
}

const struct cli_cmd cmd_isolate = {
    .name = "isolate", .args = "-- PROGRAM [ARGUMENT...]",
    .summary = "run a program as functions of the image store run", .min_args = 1, .max_args = -1,
    .detail = "It gets no new privileges, no capabilities, no core dumps, and with --root, --secret, --hide or\n"
              "--read-only a file system view of its own where the machine allows. Network and process numbers are\n"
              "the machine's. The gateway starts all functions in this way.",
    CLI_CMD_OPTS(opts, struct isolate), .run = run};
