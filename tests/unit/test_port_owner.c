/* Whose socket takes connections to a port: on addresses of both kinds, nobody's, another user's. */

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/port_owner.h"
#include "test.h"

static int listen_on(const char *address, int family, uint32_t *ret_port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = {0};
    socklen_t len = family == AF_INET ? sizeof(a.v4) : sizeof(a.v6);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.any.sa_family = (sa_family_t)family;
    inet_pton(family, address, family == AF_INET ? (void *)&a.v4.sin_addr : (void *)&a.v6.sin6_addr);
    if (bind(fd, &a.any, len) || listen(fd, 5) || getsockname(fd, &a.any, &len)) {
        close(fd);
        return -1;
    }
    *ret_port = ntohs(family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
    return fd;
}

static void test_whose(void **state)
{
    static const struct {
        const char *address;
        int family;
    } doors[] = {{"127.0.0.1", AF_INET}, {"0.0.0.0", AF_INET}, {"::", AF_INET6}};
    uint32_t port = 0;
    (void)state;
    for (size_t i = 0; i < sizeof(doors) / sizeof(doors[0]); i++) {
        int fd = listen_on(doors[i].address, doors[i].family, &port);
        if (fd < 0)
            continue; /* without IPv6 */
        enum fast_port_owner own = fast_port_owner(port, geteuid());
        if (own == FAST_PORT_UNKNOWN)
            skip();
        assert_int_equal(own, FAST_PORT_OWN);
        assert_int_equal(fast_port_owner(port, geteuid() + 1), FAST_PORT_OTHER);
        close(fd);
        assert_int_equal(fast_port_owner(port, geteuid()), FAST_PORT_NOBODY);
    }
}

/* Who is connected from the port, or listens at another address, is not who takes connections to it. */
static void test_others_at_the_port(void **state)
{
    uint32_t port = 0;
    (void)state;
    int fd = listen_on("127.0.0.9", AF_INET, &port);
    assert_true(fd >= 0);
    enum fast_port_owner owner = fast_port_owner(port, geteuid());
    close(fd);
    assert_true(owner == FAST_PORT_NOBODY || owner == FAST_PORT_UNKNOWN);
}

static void test_of_another_user(void **state)
{
    int pair[2], status = 0;
    uint32_t port = 0;
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(pipe(pair), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int r = setresuid(65534, 65534, 65534);
        int fd = r ? -1 : listen_on("127.0.0.1", AF_INET, &port);
        _exit(write(pair[1], &port, sizeof(port)) == sizeof(port) && fd >= 0 ? (pause(), 0) : 1);
    }
    assert_int_equal(read(pair[0], &port, sizeof(port)), sizeof(port));
    enum fast_port_owner its = fast_port_owner(port, 65534), of_root = fast_port_owner(port, 0);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    close(pair[0]);
    close(pair[1]);
    if (its == FAST_PORT_UNKNOWN)
        skip();
    assert_int_equal(its, FAST_PORT_OWN);
    assert_int_equal(of_root, FAST_PORT_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whose), cmocka_unit_test(test_others_at_the_port),
                                       cmocka_unit_test(test_of_another_user)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
