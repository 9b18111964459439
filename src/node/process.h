#ifndef FAST_NODE_PROCESS_H
#define FAST_NODE_PROCESS_H

/* Processes of replicas: start one, know it again after a restart of the node, end its group. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* A process that was started or adopted. A pid alone may come to name another process; pid and
 * start time together do not. */
struct node_process {
    pid_t pid;      /* also its session and process group; 0: none */
    int pidfd;      /* readable when it has exited; -1: none */
    uint64_t ticks; /* start time, field 22 of /proc/PID/stat */
    bool child;     /* false: adopted, its exit status is nobody's to know */
};

#define NODE_PROCESS_NONE ((struct node_process){.pid = 0, .pidfd = -1})

#define NODE_PROCESS_FD 3 /* of what it inherits */

struct node_process_spec {
    const char *const *argv; /* argv[0] without a slash is looked up in PATH of the node */
    const char *const *envp;
    const char *cwd; /* NULL or "": / */
    int output_fd;   /* becomes stdout and stderr */
    int inherit_fd;  /* becomes descriptor 3; 0 or less: none */
    uint64_t descriptors; /* soft limit of its own; 0: as this process has */
};

/* Starts a session of its own with /dev/null as stdin, default signals and no further descriptor.
 * FAST_ENOENT when the directory or the program is missing, FAST_EINVAL or FAST_EPERM when it cannot
 * be executed; nothing remains then. */
int node_process_spawn(const struct node_process_spec *spec, struct node_process *ret,
                       struct fast_err *err);

/* Finds a process of an earlier life of the node. FAST_ENOENT when |pid| is gone, is a zombie or is
 * another process than the one that began at |ticks|. */
int node_process_adopt(pid_t pid, uint64_t ticks, struct node_process *ret, struct fast_err *err);

/* To be called when the pidfd is readable: kills what is left of the group, then takes the exit
 * status as waitpid() has it, -1 for an adopted process. Returns false while the process lives. */
bool node_process_reap(struct node_process *process, int *ret_status);

/* Sends |signal| to the group, if it is still the one of this process. */
void node_process_signal(const struct node_process *process, int signal);

/* Kills the group and waits for a child's end, which SIGKILL makes short. NODE_PROCESS_NONE is fine. */
void node_process_end(struct node_process *process);

/* Closes the pidfd; the process goes on. */
void node_process_fini(struct node_process *process);

/* "exit status 3", "killed by signal 9 (Killed)", "ended while the node was away". */
void node_process_status_text(int status, char *buf, int size);

/* As a shell has it: the exit status, or 128 + signal; 0 when it is not known. */
uint32_t node_process_status_code(int status);

/* Start time and state letter of a process; false if there is none. */
bool node_process_stat(pid_t pid, uint64_t *ret_ticks, char *ret_state);

/* Processor time that it has used, in hundredths of a second; 0 if there is no such process. */
uint64_t node_process_cpu(pid_t pid);

/* A TCP port on 127.0.0.1 that nobody listens on now. */
int node_process_free_port(uint32_t *ret, struct fast_err *err);

/* Kills every process that has |socket_path| as its FAST_NODE_SOCKET and a ticket that |is_live|
 * does not know: what an earlier life of the node started and has no record of. Returns how many. */
typedef bool node_ticket_fn(void *arg, const char *ticket_hex);
int node_process_kill_strays(const char *socket_path, node_ticket_fn *is_live, void *arg);

#endif
