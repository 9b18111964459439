#ifndef FAST_CLI_ISOLATE_H
#define FAST_CLI_ISOLATE_H

/* A process gives up what a function does not need, and gets the view of files that its image and
 * its secrets ask for, before it becomes the function. */

#include "base/err.h"
#include "cli/cli.h"

struct isolation {
    const char *root;        /* file system of an image; NULL: the machine's */
    const char *secrets;     /* folder of the namespace's secrets; NULL: none */
    const struct cli_list *secret; /* names that the function may see */
};

/* What holds from now on, in words: |ret| of |cap| bytes. A view that the machine does not allow is
 * an error with |root|; secrets are then found through $SECRETS_PATH alone. */
int isolate_self(const struct isolation *is, char *ret, size_t cap, struct fast_err *err);

#endif
