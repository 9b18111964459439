/* Options are rows of a table, so that parsing, help and completion cannot disagree. */

#include "cli/cli.h"

#include <getopt.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/parse.h"
#include "io/http_stream.h"

#define OPTS_MAX 48
#define HELP_COLUMN 30

const struct cli_opt cli_common_opts[] = {
    {"gateway", 'g', CLI_URL, offsetof(struct cli, gateway), "URL",
     "the gateway (default: $OPENFAAS_URL or http://127.0.0.1:8080)"},
    {"json", 0, CLI_FLAG, offsetof(struct cli, json), NULL, "print JSON for programs to read"},
};
const size_t cli_common_opt_count = FAST_COUNT_OF(cli_common_opts);

struct target {
    const struct cli_opt *opt;
    void *base;
};

static int collect(const struct cli_cmd *cmd, struct cli *cli, void *opts, struct target *t)
{
    int n = 0;
    for (size_t i = 0; i < cli_common_opt_count; i++)
        t[n++] = (struct target){&cli_common_opts[i], cli};
    for (size_t i = 0; i < cmd->opt_count && n < OPTS_MAX; i++)
        t[n++] = (struct target){&cmd->opts[i], opts};
    return n;
}

static int check_word(const char *value, const char *words, struct fast_err *err)
{
    size_t n = strlen(value), len;
    for (const char *w = words; *w; w += len + strspn(w + len, " ")) {
        len = strcspn(w, " ");
        if (n == len && !memcmp(value, w, len))
            return 0;
    }
    return fast_err_set(err, FAST_EINVAL, "\"%.40s\" is none of: %s", value, words);
}

#define UNRESERVED "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%"

/* HOST or HOST:PORT behind http:// or https:// and USER:PASSWORD@, which may be left out. */
static int check_url(const char *value, struct fast_err *err)
{
    const char *slashes = strstr(value, "://"), *host = slashes ? slashes + 3 : value;
    size_t scheme = slashes ? (size_t)(slashes - value) : 4, user = strcspn(host, "@/");
    bool ok = (scheme == 4 || scheme == 5) && (!slashes || !strncasecmp(value, "https", scheme));
    if (host[user] == '@') {
        ok = ok && strspn(host, UNRESERVED "!$&'()*+,;=:") == user;
        host += user + 1;
    }
    size_t n = strspn(host, UNRESERVED ":[]");
    if (ok && n && (!host[n] || host[n] == '/'))
        return 0;
    return fast_err_set(err, FAST_EINVAL, "\"%.80s\" is not a URL such as http://127.0.0.1:8080", value);
}

static int check_value(const struct cli_opt *o, const char *value, struct fast_err *err)
{
    char what[64];
    int r = 0;
    snprintf(what, sizeof(what), "--%s", o->name);
    if (o->type == CLI_NAME)
        return fast_parse_name(value, what, err);
    if (o->type == CLI_ONE)
        r = check_word(value, o->values, err);
    else if (o->type == CLI_ADDR && (*value || !o->values))
        r = fast_http_address_check(value, err);
    else if (o->type == CLI_URL)
        r = check_url(value, err);
    return r ? fast_err_wrap(err, "%s", what) : 0;
}

static int store(const struct target *t, char *value, struct fast_err *err)
{
    void *at = (char *)t->base + t->opt->at;
    int r = check_value(t->opt, value, err);
    if (r)
        return r;
    if (t->opt->type == CLI_FLAG) {
        *(bool *)at = true;
    } else if (t->opt->type != CLI_LIST) {
        *(const char **)at = value;
    } else {
        struct cli_list *list = at;
        if (list->n == CLI_LIST_MAX)
            return fast_err_set(err, FAST_EINVAL, "--%s may be given %d times", t->opt->name,
                                CLI_LIST_MAX);
        list->v[list->n++] = value;
    }
    return 0;
}

static int check_count(const struct cli_cmd *cmd, int n, struct fast_err *err)
{
    if (n >= cmd->min_args && (cmd->max_args < 0 || n <= cmd->max_args))
        return 0;
    return fast_err_set(err, FAST_EINVAL, "usage: fast %s%s%s%s (see fast help %s)", cmd->name,
                        *cmd->args ? " " : "", cmd->args, cmd->opt_count ? " [options]" : "",
                        cmd->name);
}

int cli_opts_parse(const struct cli_cmd *cmd, struct cli *cli, void *opts, int argc, char **argv,
                   int *ret_argc, char ***ret_argv, bool *ret_help, struct fast_err *err)
{
    struct target t[OPTS_MAX];
    struct option longs[OPTS_MAX + 2] = {0};
    char shorts[2 * OPTS_MAX + 4] = ":h";
    size_t at = 2;
    int n = collect(cmd, cli, opts, t);
    for (int i = 0; i < n; i++) {
        bool has_arg = t[i].opt->type != CLI_FLAG;
        longs[i] = (struct option){t[i].opt->name, has_arg, NULL, 256 + i};
        if (!t[i].opt->letter)
            continue;
        shorts[at++] = t[i].opt->letter;
        if (has_arg)
            shorts[at++] = ':';
    }
    shorts[at] = 0;
    longs[n] = (struct option){"help", 0, NULL, 'h'};
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
        int i = c - 256;
        for (int k = 0; i < 0 && k < n; k++)
            if (t[k].opt->letter && t[k].opt->letter == c)
                i = k;
        if (c == 'h' && i < 0) {
            *ret_help = true;
            return 0;
        }
        if (c == ':' || c == '?' || i < 0)
            return fast_err_set(err, FAST_EINVAL, "%s: %s (see fast help %s)", argv[optind - 1],
                                c == ':' ? "this option needs a value" : "no such option",
                                cmd->name);
        int r = store(&t[i], optarg, err);
        if (r)
            return r;
    }
    *ret_argc = argc - optind;
    *ret_argv = argv + optind;
    return check_count(cmd, *ret_argc, err);
}

static void print_opt(const struct cli_opt *o, FILE *out)
{
    char left[80];
    snprintf(left, sizeof(left), "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
             o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    fprintf(out, "%-*s %s\n", HELP_COLUMN, left, o->help);
}

void cli_cmd_help(const struct cli_cmd *cmd, FILE *out)
{
    fprintf(out, "Usage: fast %s%s%s [options]\n\n%s\n", cmd->name, *cmd->args ? " " : "", cmd->args,
            cmd->summary);
    if (cmd->detail)
        fprintf(out, "\n%s\n", cmd->detail);
    fputs("\nOptions:\n", out);
    for (size_t i = 0; i < cmd->opt_count; i++)
        print_opt(&cmd->opts[i], out);
    for (size_t i = 0; i < cli_common_opt_count; i++)
        print_opt(&cli_common_opts[i], out);
}

void cli_help(FILE *out)
{
    fputs("Usage: fast COMMAND [options]\n\n"
          "Functions share GPUs in space and time behind an OpenFaaS-compatible gateway.\n\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < cli_cmd_count; i++)
        fprintf(out, "  %-12s %s\n", cli_cmds[i]->name, cli_cmds[i]->summary);
    fputs("\nStart with `fast up --sim=v100-16gb` (no GPU needed) or `fast up` (with one), then\n"
          "`fast deploy digits --image digits --sm 12 --quota 0.3`. `fast help COMMAND` tells more.\n"
          "\nExit status: 0 done; 1 it did not succeed; 2 the command line is wrong; 3 the gateway "
          "cannot be reached.\n",
          out);
}
