#ifndef FAST_TESTS_UNIT_SERVER_CHILD_H
#define FAST_TESTS_UNIT_SERVER_CHILD_H

/* A server under test in a process of its own, so that its loop and the test's blocking client do not wait for each
 * other. It writes its ports to a pipe once it listens. */

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t server_child;

/* |serve| does not return. 0, or -1 when it did not tell |size| bytes of ports. */
static int server_child_start(void (*serve)(int ready), void *ret_ports, size_t size)
{
    int p[2];
    if (pipe(p))
        return -1;
    server_child = fork();
    if (server_child == 0)
        serve(p[1]);
    return read(p[0], ret_ports, size) == (ssize_t)size ? 0 : -1;
}

static int server_child_stop(void **state)
{
    int status;
    (void)state;
    kill(server_child, SIGKILL);
    waitpid(server_child, &status, 0);
    return WIFSIGNALED(status) ? 0 : -1; /* it must not have ended by itself */
}

#endif
