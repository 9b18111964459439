/* fast: the command line. Finds the command in a table and runs it. */

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"

/* --json was given: also for errors, those of the command line itself included. */
static bool json_errors;

static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--json"))
            return true;
    return false;
}

int cli_fail(int status, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    size_t n = strlen(text);
    while (n && text[n - 1] == '\n')
        text[--n] = 0;
    json_t *o = json_errors ? json_pack("{s:s, s:i}", "error", text, "status", status) : NULL;
    if (o) {
        json_dumpf(o, stderr, 0);
        fputc('\n', stderr);
        json_decref(o);
    } else { /* also when the text is no UTF-8 */
        fprintf(stderr, "fast: %s\n", text);
    }
    return status;
}

static const struct cli_cmd *find(const char *name)
{
    for (size_t i = 0; i < cli_cmd_count; i++)
        if (!strcmp(cli_cmds[i]->name, name))
            return cli_cmds[i];
    return NULL;
}

/* The command whose name differs least, to be proposed after a typing error. */
static const char *nearest(const char *name)
{
    for (size_t i = 0; i < cli_cmd_count; i++) {
        const char *c = cli_cmds[i]->name;
        size_t same = 0;
        while (c[same] && c[same] == name[same])
            same++;
        if (same >= 2 || (strlen(c) == strlen(name) && same + 1 >= strlen(c)))
            return c;
    }
    return NULL;
}

/* Without one of the three the next file or socket would get its number, and what is printed would go there. */
static void open_standard_files(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* What was printed may have gone nowhere: the disk is full. Who reads no further (a closed pipe) has what it wanted. */
static int check_output(int status)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
    errno = 0;
    bool failed = fflush(stdout) || ferror(stdout);
    if (!failed || status != CLI_OK || (poll(&p, 1, 0) > 0 && p.revents & POLLERR))
        return status;
    return cli_fail(CLI_FAILED, "cannot write to standard output%s%s", errno ? ": " : "",
                    errno ? strerror(errno) : "");
}

static void init(struct cli *cli)
{
    const char *url = getenv("OPENFAAS_URL");
    cli->gateway = url && *url ? url : "http://127.0.0.1:8080";
    cli->gateway_unasked = cli->gateway;
    cli->tty = isatty(STDOUT_FILENO);
    cli->color = cli->tty && !getenv("NO_COLOR");
    ssize_t n = readlink("/proc/self/exe", cli->self_dir, sizeof(cli->self_dir) - 1);
    cli->self_dir[n > 0 ? n : 0] = 0;
    char *slash = strrchr(cli->self_dir, '/');
    if (slash)
        *slash = 0;
    signal(SIGPIPE, SIG_IGN);
}

static int run(struct cli *cli, const struct cli_cmd *cmd, int argc, char **argv)
{
    struct fast_err err;
    bool help = false;
    int rest_count = 0;
    char **rest = NULL;
    fast_autofree void *opts = calloc(1, cmd->opt_bytes ? cmd->opt_bytes : 1);
    if (!opts)
        return cli_fail(CLI_FAILED, "out of memory");
    if (cli_opts_parse(cmd, cli, opts, argc, argv, &rest_count, &rest, &help, &err))
        return cli_fail(CLI_USAGE, "%s: %s", cmd->name, err.msg);
    if (help) {
        cli_cmd_help(cmd, stdout);
        return CLI_OK;
    }
    return cmd->run(cli, opts, rest_count, rest);
}

static int command(int argc, char **argv)
{
    struct cli cli = {0};
    init(&cli);
    json_errors = wants_json(argc, argv);
    if (argc < 2) {
        cli_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--version") || !strcmp(name, "version")) {
        puts("fast " FAST_VERSION);
        return CLI_OK;
    }
    bool help = !strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h");
    if (help && argc == 2) {
        cli_help(stdout);
        return CLI_OK;
    }
    const struct cli_cmd *cmd = find(help ? argv[2] : name);
    if (!cmd && !help && *name == '-')
        return cli_fail(CLI_USAGE, "%s: options stand behind the command, as in `fast ls --json`; `fast help` "
                        "lists the commands", name);
    if (!cmd) {
        const char *near = nearest(help ? argv[2] : name);
        return cli_fail(CLI_USAGE, "no command \"%s\"%s%s%s; `fast help` lists them",
                        help ? argv[2] : name, near ? "; did you mean \"" : "", near ? near : "",
                        near ? "\"" : "");
    }
    if (help) {
        cli_cmd_help(cmd, stdout);
        return CLI_OK;
    }
    return run(&cli, cmd, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    open_standard_files();
    return check_output(command(argc, argv));
}
