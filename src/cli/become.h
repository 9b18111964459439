#ifndef FAST_CLI_BECOME_H
#define FAST_CLI_BECOME_H

/* The user that a function runs as, by number: the node says it (FAST_ENV_USER), where it is root. */

#include <stdbool.h>
#include <sys/types.h>

#include "cli/isolate.h"

struct become {
    uid_t uid; /* 0: it stays who it is */
    gid_t gid;
};

/* From the environment, which loses it. */
int become_read(struct become *ret, struct fast_err *err);
/* Gives to the user what the function has to get at: its secrets, the folder of its socket, its output. Before its
 * view of files is made. */
int become_share(const struct become *b, const struct isolation *is, struct fast_err *err);
/* Becomes the user, if any, and gives up all capabilities. */
int become_self(const struct become *b, struct fast_err *err);
/* From now on this process and those that it starts can neither send signals to others nor look into them (ptrace and
 * most of /proc/PID), whoever their user is. False: Linux before 6.12, or without Landlock. Takes no_new_privs, or
 * root. */
bool become_scoped(void);
/* An environment that names a home or folders of another user is of no use. */
void become_set_env(const struct become *b);

#endif
