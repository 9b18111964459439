#ifndef FAST_NODE_OPTIONS_H
#define FAST_NODE_OPTIONS_H

/* The command line of fast-node. */

#include <limits.h>

#include "base/log.h"
#include "node/node.h"

struct node_options {
    struct node_conf conf; /* its strings point into here, or into argv */
    enum fast_log_level log_level;
    bool help, version; /* print it and end; nothing else was looked at */
    char name[64], state_dir[PATH_MAX], hook[PATH_MAX], sim_dir[PATH_MAX], sim_libs[PATH_MAX],
        store[PATH_MAX], store_lib[PATH_MAX];
};

/* Reads |argv| and fills in the defaults, some of which depend on the environment and on where the
 * program lies. An error names the option and what it accepts. */
int node_options_read(int argc, char **argv, struct node_options *ret, struct fast_err *err);
void node_options_help(void); /* to stdout */

#endif
