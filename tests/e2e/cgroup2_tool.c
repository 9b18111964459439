/* What test_cgroup2.py runs within a machine that has control groups of version 2 alone: the parts of fast-node and
 * `fast up` that deal with groups, by the same functions.
 *
 *   as UID PROGRAM...      becomes a user and the program
 *   node SCRIPT            settles as `fast up` does, and has /bin/sh run the script
 *   end PID, sweep         as the node does when a replica has ended, and at its start
 *   grow MIB               writes to so much memory */

#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/cgroup.h"

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "as") && argc > 3) {
        uid_t uid = (uid_t)atoi(argv[2]);
        if (setgroups(0, NULL) || setgid(uid) || setuid(uid))
            return 1;
        execv(argv[3], argv + 3);
    } else if (!strcmp(what, "node") && argc > 2) {
        fast_cgroup_settle(&fast_cgroup_here, getpid());
        return system(argv[2]) != 0; /* NOLINT(cert-env33-c): the script of the test */
    } else if (!strcmp(what, "end") && argc > 2) {
        fast_cgroup_end(&fast_cgroup_here, (pid_t)atoi(argv[2]));
        return 0;
    } else if (!strcmp(what, "sweep")) {
        fast_cgroup_sweep(&fast_cgroup_here);
        return 0;
    } else if (!strcmp(what, "grow") && argc > 2) {
        for (int i = 0; i < atoi(argv[2]); i++)
            memset(malloc(1 << 20), 1, 1 << 20);
        return 0;
    }
    return 1;
}
