/* The least that can stand between a client and a function: one connection's bytes go to the other one and back,
 * unread. What it adds is what this machine takes for one more process on the way, and no gateway adds less.
 *
 * Usage: relay UPSTREAM-PORT; it says which port it listens on. */

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void watch(int epfd, int fd, int other)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)fd << 32 | (uint32_t)other};
    epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
}

static void serve(int client, int port)
{
    static char buf[65536];
    struct sockaddr_in to = loopback(port);
    int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), epfd = epoll_create1(EPOLL_CLOEXEC);
    if (up >= 0 && epfd >= 0 && !connect(up, (struct sockaddr *)&to, sizeof(to))) {
        watch(epfd, client, up);
        watch(epfd, up, client);
        for (struct epoll_event ev; epoll_wait(epfd, &ev, 1, -1) == 1;) {
            ssize_t n = read((int)(ev.data.u64 >> 32), buf, sizeof(buf));
            if (n <= 0 || write((int)(ev.data.u64 & UINT32_MAX), buf, (size_t)n) != n)
                break;
        }
    }
    close(epfd);
    close(up);
    close(client);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = loopback(0);
    socklen_t len = sizeof(at);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (argc != 2 || door < 0 || bind(door, (struct sockaddr *)&at, sizeof(at)) || listen(door, 16) ||
        getsockname(door, (struct sockaddr *)&at, &len))
        return 1;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (int fd; (fd = accept(door, NULL, NULL)) >= 0;)
        serve(fd, atoi(argv[1]));
    return 0;
}
