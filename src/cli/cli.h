#ifndef FAST_CLI_CLI_H
#define FAST_CLI_CLI_H

/* What every command of `fast` shares: the table row of a command, its options, the context it runs
 * in, and how it ends. A command is one row in cli/main.c and one file cmd_NAME.c. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/* Exit status, documented in fast(1). */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,  /* the request was understood and did not succeed */
    CLI_USAGE = 2,   /* the command line is wrong; nothing was done */
    CLI_NOREACH = 3, /* nobody answers at the gateway's address */
};

struct cli {
    const char *gateway; /* URL without a slash at its end */
    const char *gateway_unasked; /* the same, while --gateway was not given */
    char gateway_of_stack[256];
    bool foreign; /* the stack's gateway is another one than the user's: it gets no password */
    bool json;           /* print JSON instead of text */
    bool color;          /* stdout is a terminal and NO_COLOR is not set */
    bool tty;            /* stdout is a terminal */
    char self_dir[2048]; /* folder of this executable */
};

enum cli_opt_type {
    CLI_FLAG, /* bool */
    CLI_STR,  /* const char * */
    CLI_ONE,  /* the same, one of |values| */
    CLI_NAME, /* the same, as functions and namespaces are named */
    CLI_ADDR, /* the same, to listen on; with |values| "" for nowhere */
    CLI_URL,  /* the same, of a gateway */
    CLI_LIST, /* struct cli_list: may be given several times */
};

#define CLI_LIST_MAX 64

struct cli_list {
    const char *v[CLI_LIST_MAX];
    int n;
};

struct cli_opt {
    const char *name; /* without "--" */
    char letter;      /* 0: none */
    enum cli_opt_type type;
    size_t at;        /* offset in the option struct of the command */
    const char *arg;  /* "NAME" in the help; NULL for a flag */
    const char *help; /* one line */
    const char *values; /* what completion offers, by blanks; NULL: names of files */
};

struct cli_cmd {
    const char *name;
    const char *args;    /* "NAME [FILE]" */
    const char *summary; /* one line, for `fast --help` */
    const char *detail;  /* paragraphs and examples for `fast help NAME`; may be NULL */
    int min_args, max_args; /* max_args < 0: any number */
    const struct cli_opt *opts;
    size_t opt_count, opt_bytes; /* rows, and the size of the option struct */
    int (*run)(struct cli *cli, void *opts, int argc, char **argv);
};

/* The commands, in the order of the help. */
extern const struct cli_cmd *const cli_cmds[];
extern const size_t cli_cmd_count;
extern const struct cli_opt cli_common_opts[];
extern const size_t cli_common_opt_count;

extern const struct cli_cmd cmd_up, cmd_deploy, cmd_ls, cmd_describe, cmd_rm, cmd_scale, cmd_explain, cmd_defrag,
    cmd_invoke, cmd_logs, cmd_top, cmd_gpu, cmd_load, cmd_profile, cmd_simulate, cmd_demo, cmd_policy, cmd_completion,
    cmd_watchdog, cmd_isolate, cmd_async, cmd_apply, cmd_image,
    cmd_model, cmd_bench;

/* Parses |argv| (argv[0] is the command) into the common and the command's options; what is left are
 * the arguments. |ret_help|: --help was asked for. */
int cli_opts_parse(const struct cli_cmd *cmd, struct cli *cli, void *opts, int argc, char **argv,
                   int *ret_argc, char ***ret_argv, bool *ret_help, struct fast_err *err);

void cli_help(FILE *out);
void cli_cmd_help(const struct cli_cmd *cmd, FILE *out);

/* Prints "fast: message" to stderr, or {"error": message, "status": N} with --json, and returns |status|. */
int cli_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define CLI_CMD_OPTS(array, type)                                                                  \
    .opts = (array), .opt_count = sizeof(array) / sizeof((array)[0]), .opt_bytes = sizeof(type)

#endif
