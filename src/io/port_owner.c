/* Decides whose program takes connections to a port: the kernel is asked for the socket that it would choose, by
 * sock_diag(7), which costs one message and depends neither on how many sockets there are nor on /proc. */

#include "io/port_owner.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct question {
    struct nlmsghdr head;
    struct inet_diag_req_v2 body;
};

static int ask(int fd, uint32_t port, void *answer, size_t cap)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct question q = {
        .head = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = UINT32_MAX}};
    q.body.id.idiag_sport = htons((uint16_t)port);
    q.body.id.idiag_src[0] = htonl(INADDR_LOOPBACK);
    q.body.id.idiag_cookie[0] = q.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (sendto(fd, &q, sizeof(q), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) != sizeof(q))
        return -1;
    return (int)recv(fd, answer, cap, 0); /* it is there by now: the kernel answers within sendto() */
}

/* 0: |ret| is the user; -ENOENT: nobody listens, or this kernel does not tell; others: it does not. */
static int find_owner(int fd, uint32_t port, uid_t *ret)
{
    union {
        struct nlmsghdr head;
        char bytes[4096];
    } answer;
    struct inet_diag_msg found;
    struct nlmsgerr error;
    int n = ask(fd, port, &answer, sizeof(answer));
    if (n >= (int)NLMSG_LENGTH(sizeof(found)) && answer.head.nlmsg_type == SOCK_DIAG_BY_FAMILY) {
        memcpy(&found, NLMSG_DATA(&answer.head), sizeof(found));
        *ret = found.idiag_uid;
        return 0;
    }
    if (n < (int)NLMSG_LENGTH(sizeof(error)) || answer.head.nlmsg_type != NLMSG_ERROR)
        return -EIO;
    memcpy(&error, NLMSG_DATA(&answer.head), sizeof(error));
    return error.error ? error.error : -EIO;
}

/* Whether this kernel tells of sockets at all: it is asked for one that is there. */
static bool tells(int fd)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    uid_t uid = 0;
    int own = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ret = own >= 0 && !bind(own, (struct sockaddr *)&a, sizeof(a)) && !listen(own, 1) &&
               !getsockname(own, (struct sockaddr *)&a, &len) && !find_owner(fd, ntohs(a.sin_port), &uid);
    if (own >= 0)
        close(own);
    return ret;
}

enum fast_port_owner fast_port_owner(uint32_t port, uid_t uid)
{
    uid_t owner = 0;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    int r = fd < 0 ? -EIO : find_owner(fd, port, &owner);
    bool nobody = r == -ENOENT && tells(fd);
    if (fd >= 0)
        close(fd);
    return nobody ? FAST_PORT_NOBODY : r ? FAST_PORT_UNKNOWN : owner == uid ? FAST_PORT_OWN : FAST_PORT_OTHER;
}
