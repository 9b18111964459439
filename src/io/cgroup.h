#ifndef FAST_IO_CGROUP_H
#define FAST_IO_CGROUP_H

/* Control groups of replicas: one below the group of this process in each hierarchy that has a controller for a
 * limit and that this process may write to, version 1 or 2. A group has the name of the process that
 * leads the replica ("fast-PID"), so that whoever started it finds it again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum fast_cgroup_kind { FAST_CGROUP_MEMORY, FAST_CGROUP_CPU, FAST_CGROUP_PIDS, FAST_CGROUP_KINDS };

/* Where the machine tells of groups: "/proc/self/cgroup", "/proc/self/mountinfo". Tests have their own. */
struct fast_cgroup_host {
    const char *groups, *mounts;
};
extern const struct fast_cgroup_host fast_cgroup_here;

/* Puts this process into groups "fast-|pid|" with these limits: bytes, thousandths of a core, processes and
 * threads; 0: none. Sets |ret[kind]| where one holds from now on. */
void fast_cgroup_join(const struct fast_cgroup_host *host, pid_t pid,
                      const uint64_t limit[FAST_CGROUP_KINDS], bool ret[FAST_CGROUP_KINDS]);

/* Kills what is still in the groups of |pid| and removes them; there may be none. Takes some milliseconds at
 * worst. */
void fast_cgroup_end(const struct fast_cgroup_host *host, pid_t pid);

/* Does so with the groups of processes that are gone: an earlier life of the caller may have left them. */
void fast_cgroup_sweep(const struct fast_cgroup_host *host);

/* Version 2 gives limits only to groups beside which no process stands. A process that is alone in its group
 * goes one level down, into "fast-main", and hands the controllers to what is started beside it. Nothing
 * changes where others are in the group, or it is not this process's to write. */
void fast_cgroup_settle(const struct fast_cgroup_host *host, pid_t pid);

#endif
