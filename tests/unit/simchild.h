#ifndef FAST_TESTS_SIMCHILD_H
#define FAST_TESTS_SIMCHILD_H

/* For tests of the simulated driver with several processes: children that are the test program again,
 * with a role in argv[2]. */

#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "simcuda.h"

extern char **environ;
static char *sim_program;

/* A child says something with one byte or a blob on descriptor 3, and waits for one byte there. */
enum { LINK = 3 };

static inline void say(int fd, const void *p, size_t n)
{
    assert_int_equal(write(fd, p, n), n);
}

static inline void hear(int fd, void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = read(fd, (char *)p + at, n - at);
        assert_true(k > 0);
        at += (size_t)k;
    }
}

static inline pid_t child(const char *role, int *ret_fd)
{
    int fds[2];
    pid_t pid = -1;
    char *argv[] = {sim_program, (char *)(uintptr_t)sim_kernels, (char *)(uintptr_t)role, NULL};
    posix_spawn_file_actions_t actions;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], LINK);
    assert_int_equal(posix_spawn(&pid, sim_program, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    *ret_fd = fds[0];
    return pid;
}

static inline void end_well(pid_t pid, int fd)
{
    int status = -1;
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

struct sim_role {
    const char *name;
    void (*fn)(void);
};

static bool sim_role_needs_context;

static inline void sim_role_test(void **state)
{
    if (sim_role_needs_context)
        sim_context();
    ((const struct sim_role *)*state)->fn();
}

/* Plays the role |name|, with a context if |context|. Returns the exit status. */
static inline int sim_role_run(const char *kernels, const char *name, const struct sim_role *roles,
                               size_t count, bool context)
{
    sim_kernels = kernels;
    sim_role_needs_context = context;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(roles[i].name, name))
            continue;
        const struct CMUnitTest tests[] = {
            {.name = name, .test_func = sim_role_test, .initial_state = (void *)(uintptr_t)&roles[i]}};
        return cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return 2;
}

#endif
