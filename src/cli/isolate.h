#ifndef FAST_CLI_ISOLATE_H
#define FAST_CLI_ISOLATE_H

/* A process gives up what a function does not need, and gets the view of files that its image and
 * its secrets ask for, before it becomes the function. */

#include "base/err.h"
#include "cli/cli.h"
#include "io/cgroup.h"

struct isolation {
    const char *root;        /* file system of an image; NULL: the machine's */
    const char *secrets;     /* folder of the namespace's secrets; NULL: none */
    const struct cli_list *secret; /* names that the function may see */
    const char *hide;    /* the state directory, of which it sees only what it needs; NULL: none */
    const char *program; /* what it becomes; NULL: not known */
    bool read_only;      /* it can write to nothing but /tmp, /dev/shm and the sockets that it needs */
    uint64_t limit[FAST_CGROUP_KINDS]; /* as fast_cgroup_join() has them */
    bool gpu; /* its memory is not bounded by process */
};

struct become;
struct crun;

/* What holds from now on, in words: |ret| of |cap| bytes. A view that the machine does not allow is
 * an error with |root|; secrets are then found through $SECRETS_PATH alone. Where |ret_crun| names a program, an
 * image is run by it as |ret_user|, and the rest is done by crun_exec(). */
int isolate_self(const struct isolation *is, char *ret, size_t cap, struct become *ret_user, struct crun *ret_crun,
                 struct fast_err *err);

/* Calls |fn| for each folder or file of the machine that the environment names and a function needs: its path there
 * and without links; in an image also the watchdog, where it runs behind it. */
typedef void isolate_needed_fn(void *arg, const char *path, const char *real, bool writable);
void isolate_needed(const struct isolation *is, isolate_needed_fn *fn, void *arg);

#endif
