/* Decides where the Unix socket of a replica is. A function that asks for one (annotation
 * fastgshare/socket: unix) gets its path in FAST_SOCKET beside PORT, listens on both, and saves the
 * cost of TCP over the loopback: a fifth of the CPU of a small request, most of that of a large one.
 * The path follows from the replica's id, so that a restarted gateway finds it again without having stored
 * it; it is short, since the address of such a socket has 107 bytes. Each has a folder of its own, so that
 * functions do not see those of others. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/file.h"

/* FNV-1a: spreads ids over names; two functions cannot choose theirs so that they meet unless they
 * mean to, and who may deploy may read every request of the other anyway. */
static uint64_t hash(const char *text)
{
    uint64_t h = 14695981039346656037u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

static bool path_of(const struct gateway *gw, const struct gw_replica *r, char *ret, size_t cap)
{
    int n = snprintf(ret, cap, "%s/sockets/%016llx/s", gw->conf->state_dir,
                     (unsigned long long)hash(r->id));
    return n > 0 && (size_t)n < cap && (size_t)n < sizeof(((struct sockaddr_un *)NULL)->sun_path);
}

bool gw_socket_path(const struct gateway *gw, const struct gw_replica *r, char *ret, size_t cap)
{
    return r->fn->spec->local_socket && path_of(gw, r, ret, cap);
}

bool gw_socket_prepare(const struct gateway *gw, const struct gw_replica *r, char *ret, size_t cap)
{
    char *slash = gw_socket_path(gw, r, ret, cap) ? strrchr(ret, '/') : NULL;
    if (!slash)
        return false;
    *slash = 0;
    int rc = fast_dir_make(ret, 0700, NULL);
    char *above = strrchr(ret, '/');
    *above = 0;
    chmod(ret, 0711); /* of the folders in it each may become another user's, who has to get there */
    *above = *slash = '/';
    if (rc)
        return false;
    unlink(ret); /* of a replica that had this id in an earlier life of the function */
    return true;
}

void gw_socket_remove(const struct gateway *gw, const struct gw_replica *r)
{
    char path[128];
    if (!path_of(gw, r, path, sizeof(path))) /* the function may not want one any more */
        return;
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
}
