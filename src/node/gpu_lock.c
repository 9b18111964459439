/* One node has a GPU: two that do not know of each other would both give away all of its SMs, time and memory. The
 * state directory is no name for that, the UUID is. The lock is a file that nodes of the same user find, and that of
 * root is seen by all; like that of the state directory it ends with the process. Where no such file can be made the
 * node goes on and says so. */
#include "node/gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "io/file.h"

#define ROOTS_DIR "/run/fast-gshare"
#define TRIES_MAX 100

static void own_dir(char *ret, size_t size)
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0)
        snprintf(ret, size, ROOTS_DIR);
    else if (run && *run == '/')
        snprintf(ret, size, "%s/fast-gshare", run);
    else
        snprintf(ret, size, "/tmp/fast-gshare-%u", (unsigned)geteuid());
}

static struct flock whole(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

#define UNSEEN -1 /* process: it is in a PID namespace that this one does not see */

/* The process that has the lock, 0: none, or it cannot be asked. */
static int holder(int fd)
{
    struct flock lock = whole();
    if (fd < 0 || fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK)
        return 0;
    return lock.l_pid > 0 ? (int)lock.l_pid : UNSEEN;
}

static int in_use(const char *uuid, int pid, struct fast_err *err)
{
    char who[32] = "of another container";
    if (pid != UNSEEN)
        snprintf(who, sizeof(who), "process %d", pid);
    return fast_err_set(err, FAST_EBUSY, "%s is in use by another fast-node (%s); a GPU has one, whatever its "
                        "--state-dir: use that one, or end it first", uuid, who);
}

/* Root's, of which others can only ask. */
static int ask_root(const char *uuid, struct fast_err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), ROOTS_DIR "/%s.lock", uuid);
    int fd = geteuid() ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    int pid = holder(fd);
    if (fd >= 0)
        close(fd);
    return pid ? in_use(uuid, pid, err) : 0;
}

/* Tries again when the node before this one was just about to end, and has removed the file that was opened here.
 * *|ret_pid|: who has the lock instead. Negative: there is no such file, errno says why. */
static int lock(const char *path, int *ret_pid)
{
    *ret_pid = 0;
    for (int tries = 0;; tries++) {
        struct flock all = whole();
        struct stat st = {0};
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
            return fd;
        bool locked = !fcntl(fd, F_SETLK, &all);
        *ret_pid = locked ? 0 : holder(fd);
        if (*ret_pid || (locked && !fstat(fd, &st) && st.st_nlink) || tries == TRIES_MAX)
            return fd;
        close(fd);
    }
}

int node_gpu_lock(const char *uuid, struct node_gpu_lock *ret, struct fast_err *err)
{
    char dir[PATH_MAX - NODE_UUID_MAX - 8];
    struct fast_err why = {0};
    *ret = (struct node_gpu_lock){.fd = -1};
    int r = ask_root(uuid, err);
    if (r)
        return r;
    own_dir(dir, sizeof(dir));
    fast_dir_make(dir, geteuid() ? 0700 : 0755, &why);
    snprintf(ret->path, sizeof(ret->path), "%s/%s.lock", dir, uuid);
    int pid, fd = lock(ret->path, &pid);
    if (pid) {
        close(fd);
        return in_use(uuid, pid, err);
    }
    if (fd < 0)
        fast_log(WARN, "gpu not locked", "uuid=%s file=\"%s\" error=%d another fast-node would not be noticed", uuid,
                 ret->path, errno);
    ret->fd = fd;
    return 0;
}

void node_gpu_unlock(struct node_gpu_lock *lock)
{
    if (lock->fd < 0)
        return;
    unlink(lock->path); /* while it is held: who opened it before looks again */
    close(lock->fd);
    lock->fd = -1;
}
