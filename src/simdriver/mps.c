/* Whether this process is an MPS client: it is when the control daemon can be reached at cuInit, and
 * silently is not when it cannot, as on a real driver. The connection stays open for as long as the
 * process lives; that is how the daemon knows its clients. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "simdriver/drv.h"

#define REPLY_MS 1000

/* The daemon answers "CLIENT" with the percentage that it gives to new clients, 100 if it does not, or
 * with "FAULT": 0. */
static double ask(int fd)
{
    char buf[64];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (send(fd, "CLIENT\n", 7, MSG_NOSIGNAL) != 7 || poll(&p, 1, REPLY_MS) != 1)
        return 100;
    ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);
    if (n <= 0)
        return 100;
    buf[n] = '\0';
    if (!strncmp(buf, "FAULT", 5))
        return 0;
    double pct = strtod(buf, NULL);
    return pct > 0 && pct <= 100 ? pct : 100;
}

void mps_connect(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *dir = getenv("CUDA_MPS_PIPE_DIRECTORY");
    const char *own = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    drv.mps = false;
    drv.sm_pct = 100;
    if (!dir || !*dir)
        dir = "/tmp/nvidia-mps";
    int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (n >= (int)sizeof(addr.sun_path) ||
        connect(fd, (const struct sockaddr *)&addr, sizeof(addr))) {
        close(fd);
        return;
    }
    double pct = ask(fd);
    double want = own ? strtod(own, NULL) : 0;
    /* A client can only tighten what the daemon gives. */
    if (want > 0 && want < pct)
        pct = want;
    drv.mps = true;
    drv.sm_pct = pct < 1 ? 1 : (int)pct;
    drv.mps_fd = fd;
    if (pct > 0)
        return;
    close(fd);
    drv.mps_fd = -1;
}

bool mps_not_ready(void)
{
    if (drv.mps && drv.mps_fd < 0)
        mps_connect();
    return drv.mps && drv.mps_fd < 0;
}

/* What the hardware tells the server. */
void mps_tell_fault(void)
{
    if (drv.mps_fd >= 0)
        (void)!send(drv.mps_fd, "FAULT\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT);
}
