/* Decides what changes hands when a function gets a user of its own. It assumes that whoever wrote the environment of
 * the function may have named any file there: only the state directory's own folders are given away. */

#include "cli/become.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wire/page.h"

static int failed(const char *what, const char *name, struct fast_err *err)
{
    return fast_err_set(err, FAST_EPERM, "%s %.150s: %s", what, name, strerror(errno));
}

int become_read(struct become *ret, struct fast_err *err)
{
    const char *text = getenv(FAST_ENV_USER);
    unsigned uid = 0, gid = 0;
    int used = 0;
    *ret = (struct become){0};
    if (text && *text &&
        (sscanf(text, "%9u:%9u%n", &uid, &gid, &used) != 2 || text[used] || !uid || !gid || geteuid() != 0))
        return fast_err_set(err, FAST_EINVAL, FAST_ENV_USER ": \"%.40s\" is no user that this one may become", text);
    *ret = (struct become){uid, gid};
    unsetenv(FAST_ENV_USER);
    return 0;
}

/* The folder of a namespace's secrets belongs to the group of functions: each sees only its own namespace's. What
 * is written into it later does too (set-group-ID). */
static int share_secrets(const struct become *b, const char *path, struct fast_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int above = fd < 0 ? -1 : openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = above < 0 ? NULL : fdopendir(fd);
    bool ok = d && !fchown(above, (uid_t)-1, b->gid) && !fchmod(above, 0710) && !fchown(fd, (uid_t)-1, b->gid) &&
              !fchmod(fd, S_ISGID | 0750);
    for (struct dirent *e; ok && (e = readdir(d));)
        if (e->d_type == DT_REG && !fchownat(fd, e->d_name, (uid_t)-1, b->gid, AT_SYMLINK_NOFOLLOW))
            ok = !fchmodat(fd, e->d_name, 0640, 0) || errno == ENOENT;
    int r = ok ? 0 : failed("cannot share", path, err);
    if (d)
        closedir(d);
    else if (fd >= 0)
        close(fd);
    if (above >= 0)
        close(above);
    return r;
}

/* STATE_DIR/sockets/XXXXXXXXXXXXXXXX/s, as the gateway makes it. */
static int give_socket(const struct become *b, const char *state_dir, struct fast_err *err)
{
    const char *path = getenv("FAST_SOCKET");
    char dir[PATH_MAX], part[32];
    size_t n = state_dir ? strlen(state_dir) : 0;
    int used = 0;
    if (!path || !n || strncmp(path, state_dir, n) != 0 ||
        sscanf(path + n, "/sockets/%16[0-9a-f]/s%n", part, &used) != 1 || !used || path[n + (size_t)used])
        return 0;
    if (snprintf(dir, sizeof(dir), "%s/sockets/%s", state_dir, part) >= (int)sizeof(dir))
        return 0;
    return lchown(dir, b->uid, b->gid) && errno != ENOENT ? failed("cannot give away", dir, err) : 0;
}

/* Programs open /dev/stdout and /dev/stderr by name. */
static int give_output(const struct become *b, struct fast_err *err)
{
    struct stat st;
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        if (!fstat(fd, &st) && (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode)) && fchown(fd, b->uid, (gid_t)-1))
            return failed("cannot give away", "the log", err);
    return 0;
}

int become_share(const struct become *b, const struct isolation *is, struct fast_err *err)
{
    if (!b->uid)
        return 0;
    int r = is->secret->n ? share_secrets(b, is->secrets, err) : 0;
    r = r ? r : give_socket(b, is->hide, err);
    return r ? r : give_output(b, err);
}

int become_self(const struct become *b, struct fast_err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    if (geteuid() != 0)
        return 0;
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EINVAL)
            return failed("cannot give up", "capabilities", err);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (b->uid && (setgroups(0, NULL) || setresgid(b->gid, b->gid, b->gid) || setresuid(b->uid, b->uid, b->uid)))
        return failed("cannot become", "the user of this function", err);
    return syscall(SYS_capset, &head, none) ? failed("cannot give up", "capabilities", err) : 0;
}

/* Of linux/landlock.h, which may be older. */
#define LANDLOCK_CREATE 444
#define LANDLOCK_RESTRICT 446
#define LANDLOCK_ASK_VERSION 1u
#define LANDLOCK_WITH_SCOPES 6
#define LANDLOCK_SIGNALS UINT64_C(2)

bool become_scoped(void)
{
    const struct {
        uint64_t files, network, scoped;
    } rules = {.scoped = LANDLOCK_SIGNALS};
    if (syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_ASK_VERSION) < LANDLOCK_WITH_SCOPES)
        return false;
    int fd = (int)syscall(LANDLOCK_CREATE, &rules, sizeof(rules), 0);
    bool ok = fd >= 0 && !syscall(LANDLOCK_RESTRICT, fd, 0);
    if (fd >= 0)
        close(fd);
    return ok;
}

void become_set_env(const struct become *b)
{
    static const char *const folders[] = {"HOME", "TMPDIR"}, *const names[] = {"USER", "LOGNAME"};
    if (!b->uid)
        return;
    for (size_t i = 0; i < 2; i++) {
        const char *dir = getenv(folders[i]);
        bool closed = geteuid() != b->uid || (dir && access(dir, W_OK | X_OK)); /* not yet: it cannot be asked */
        if (closed || (i == 0 && !dir))
            setenv(folders[i], "/tmp", 1);
        setenv(names[i], "function", 0); /* the number has no name, which some libraries ask for */
    }
}
