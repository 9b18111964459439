#ifndef FAST_CLI_TRIAL_RUN_H
#define FAST_CLI_TRIAL_RUN_H

/* One trial: a hidden function NAME-profile with a copy of the function's deployment on one slice,
 * load until it is saturated, and what came of it. */

#include <jansson.h>
#include <stddef.h>

#include "cli/cli.h"
#include "cli/profile.h"
#include "io/trials.h"

#define TRIAL_SATURATES 0.6 /* of the time of a trial; in the rest latency is measured */

struct trial_conf {
    struct cli *cli;
    const char *host;      /* of the gateway, numeric */
    int port;
    const char *key;       /* NAME, or NAME.NAMESPACE where that is not the default */
    const json_t *function; /* as GET /system/function/NAME has it */
    uint64_t mem_bytes;    /* cap of the trial where the deployment names none; 0: the default */
    const struct profile_bodies *bodies;
    int batch;             /* inputs in a request */
    int users;
    double seconds;        /* of load */
    fast_ns window_ns;     /* of the node's time quota */
    fast_ns until;         /* it is given up then; FAST_NEVER: it takes what it takes */
};

/* What the trial of |function| (NAME, or NAME.NAMESPACE) is called, in the same way. */
#define TRIAL_NAME_MAX 160
void trial_name(const char *function, char ret[TRIAL_NAME_MAX]);

/* Makes sure that the name of the trial function is free: removes one that an earlier run has left, and
 * says FAST_EEXIST when it is a function of somebody else's. */
int trial_prepare(struct cli *cli, const char *function, struct fast_err *err);

/* One run for a function at a time: a second one would remove the trial of the first. The lock is a byte
 * of the file |path|; it is kept until this process and its guard have ended. FAST_EBUSY: another
 * run has it. */
int trial_lock(const char *path, const char *function, int *ret_fd, struct fast_err *err);

/* A process that outlives this one, however it ends, and then removes the trial function. Call
 * before the first trial, and trial_guard_end() after the last. FAST_EIO where there is no process. */
struct trial_guard {
    int fd;
    int pid;
};
int trial_guard_begin(struct trial_guard *g, struct cli *cli, const char *name, struct fast_err *err);
void trial_guard_end(struct trial_guard *g);

enum trial_outcome {
    TRIAL_DONE,    /* |ret| is a row, of a trial that succeeded or of one that failed */
    TRIAL_NO_ROOM, /* no GPU has so large a slice free now: nothing was tried */
    TRIAL_YIELDED, /* the gateway took the trial away, for a live function that needed the room */
    TRIAL_LATE,    /* it was not over at |until| */
    TRIAL_ABORT,   /* the gateway does not answer or refuses; a message is on stderr */
};

enum trial_outcome trial_run(const struct trial_conf *conf, int sm_pct, int quota_milli,
                             struct fast_trial *ret);

#endif
