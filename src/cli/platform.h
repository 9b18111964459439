#ifndef FAST_CLI_PLATFORM_H
#define FAST_CLI_PLATFORM_H

/* fast-node and fast-gateway as children of this process: for `fast up` and `fast demo`. */

#include <sys/types.h>

#include "base/err.h"
#include "cli/cli.h"

struct platform_conf {
    const char *state_dir; /* NULL: the default */
    const char *listen;    /* host:port of the gateway; NULL: 127.0.0.1:8080 */
    const char *metrics;   /* host:port of the metrics; NULL: 127.0.0.1:8082 */
    const char *sim;       /* NULL: a real GPU */
    const char *policy, *charge, *window, *model_limit, *users; /* NULL: the node's default */
    const char *scaling;                  /* NULL: the gateway's default */
    const struct cli_list *images;        /* folders of executables; may be NULL */
    const struct cli_list *more;          /* further options of fast-gateway, "--name=value"; may be NULL */
};

enum { PLATFORM_NODE, PLATFORM_GATEWAY, PLATFORM_COUNT };

struct platform {
    struct platform_conf conf;
    struct cli *cli;
    char state_dir[4096];
    char url[300];
    pid_t pid[PLATFORM_COUNT]; /* 0: not running */
    bool node_lived; /* it has been there, and may have left something */
    char log[PLATFORM_COUNT][4200];
};

/* The state directory: |given|, or the default (NULL). */
void platform_state_dir(const char *given, char *ret, size_t cap);

/* Starts both and waits until they answer. On an error nothing is left running and the message
 * holds the last line of the log of the one that failed. */
int platform_start(struct platform *p, struct cli *cli, const struct platform_conf *conf,
                   struct fast_err *err);

/* Starts one of them again after its death, and does not wait until it answers. */
int platform_restart(struct platform *p, int which, struct fast_err *err);

/* SIGTERM to the gateway, then to the node, which stops all replicas; SIGKILL after 15 s. */
void platform_stop(struct platform *p);

const char *platform_name(int which);

#endif
