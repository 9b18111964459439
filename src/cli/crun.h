#ifndef FAST_CLI_CRUN_H
#define FAST_CLI_CRUN_H

/* crun, the container runtime, for images with a file system. It stays as the leader of the replica; what it
 * starts is ended with it by the replica's control group. */

#include <limits.h>

#include "cli/become.h"
#include "cli/isolate.h"

struct crun {
    char program[PATH_MAX]; /* "": it is not used */
    char dir[PATH_MAX];     /* for its configuration, in memory */
};

/* Whether crun can be used here, as root: found out once and kept in STATE_DIR/crun.probe until crun or the machine
 * has started anew. |ret|->program is "" where it cannot, and |why| of |cap| bytes says why. */
void crun_find(struct crun *ret, const char *state_dir, char *why, size_t cap);
/* In the mount namespace that this process has for itself. */
int crun_prepare(const struct crun *c, struct fast_err *err);
/* Becomes crun with |argv| in a container; returns only on an error. */
int crun_exec(const struct crun *c, const struct isolation *is, const struct become *b, const char *cwd, char **argv,
              struct fast_err *err);

#endif
