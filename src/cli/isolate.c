/* Decides what view of the machine a function gets when no container runtime is there: a mount
 * namespace of its own (with a user namespace where this is not root), in which /var/openfaas/secrets
 * holds its secrets and, for an image with files, "/" is the image. Network and process numbers are
 * shared with the machine: a replica is reached by its port. It assumes that nobody else runs in this
 * process yet. */

#include "cli/isolate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/become.h"
#include "cli/crun.h"
#include "io/file.h"
#include "wire/page.h"

#define PLACE "openfaas/secrets"

/* Of linux/mount.h, which cannot be included beside sys/mount.h. */
struct mount_bits {
    uint64_t set, clear, propagation, userns_fd;
};
#define READ_ONLY UINT64_C(1)
#define NO_RIGHTS UINT64_C(6) /* neither set-user-ID nor devices */
#define RECURSIVE 0x8000
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static int set_read_only(const char *path, bool on, unsigned flags)
{
    struct mount_bits bits = {.set = on ? READ_ONLY : 0, .clear = on ? 0 : READ_ONLY};
    return (int)syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &bits, sizeof(bits));
}

static int failed(const char *what, const char *name, struct fast_err *err)
{
    return fast_err_set(err, FAST_EPERM, "%s %.150s: %s", what, name, strerror(errno));
}

/* A mount namespace. Without root it needs a user namespace, in which this user stays itself. */
static int own_mounts(struct fast_err *err)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (unshare(CLONE_NEWNS)) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
            return failed("cannot get", "a mount namespace", err);
        fast_file_put("/proc/self/setgroups", "deny");
        snprintf(map, sizeof(map), "%u %u 1", uid, uid);
        if (fast_file_put("/proc/self/uid_map", map))
            return failed("cannot write", "uid_map", err);
        snprintf(map, sizeof(map), "%u %u 1", gid, gid);
        if (fast_file_put("/proc/self/gid_map", map))
            return failed("cannot write", "gid_map", err);
    }
    /* What is mounted here stays here. In a chroot the root is no mount, and there is nothing to make private. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        if (errno == EINVAL)
            return fast_err_set(err, FAST_EPERM,
                                "cannot get a mount namespace in a chroot: run the node in a container, or outside");
        return failed("cannot make private", "/", err);
    }
    return 0;
}

/* Makes |to| what |from| is: a folder, a file or a symbolic link. */
static int show(const char *from, const char *to, struct fast_err *err)
{
    struct stat st;
    char link[PATH_MAX];
    if (lstat(from, &st))
        return failed("cannot look at", from, err);
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(from, link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = 0;
        return symlink(link, to) && errno != EEXIST ? failed("cannot link", to, err) : 0;
    }
    if (S_ISDIR(st.st_mode)) {
        if (mkdir(to, 0755) && errno != EEXIST)
            return failed("cannot make", to, err);
    } else {
        int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return failed("cannot make", to, err);
        close(fd);
    }
    return mount(from, to, NULL, MS_BIND | MS_REC, NULL) ? failed("cannot show", from, err) : 0;
}

/* Links lead to where the secrets are, so that a changed one is seen by who runs already. */
static int link_secrets(const struct isolation *is, const char *dir, struct fast_err *err)
{
    int r = fast_dir_make(dir, 0755, err);
    for (int i = 0; !r && i < is->secret->n; i++) {
        char from[PATH_MAX], to[PATH_MAX];
        if (snprintf(from, sizeof(from), "%s/%s", is->secrets, is->secret->v[i]) >= PATH_MAX ||
            snprintf(to, sizeof(to), "%s/%s", dir, is->secret->v[i]) >= PATH_MAX)
            return fast_err_set(err, FAST_EINVAL, "the path of a secret is too long");
        if (symlink(from, to) && errno != EEXIST)
            r = failed("cannot link", to, err);
    }
    return r;
}

/* /var becomes a folder in memory that shows all that was in it, and the secrets beside it: nothing
 * is written to the machine's own /var. */
static int show_secrets(const struct isolation *is, struct fast_err *err)
{
    char top[] = "/tmp/fast-var-XXXXXX", to[PATH_MAX], from[PATH_MAX];
    if (!mkdtemp(top))
        return failed("cannot make", top, err);
    int r = mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
                ? failed("cannot mount", top, err)
                : 0;
    DIR *d = r ? NULL : opendir("/var");
    for (struct dirent *e; !r && d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, "openfaas"))
            continue;
        snprintf(from, sizeof(from), "/var/%s", e->d_name);
        snprintf(to, sizeof(to), "%s/%s", top, e->d_name);
        r = show(from, to, err);
    }
    if (d)
        closedir(d);
    snprintf(to, sizeof(to), "%s/" PLACE, top);
    r = r ? r : link_secrets(is, to, err);
    if (!r && mount(top, "/var", NULL, MS_BIND | MS_REC, NULL))
        r = failed("cannot show", "/var", err);
    umount2(top, MNT_DETACH);
    rmdir(top);
    return r;
}

/* ---- an image with files ---- */

/* What the environment names that a function needs: folders, or files in them. */
static const struct {
    const char *name;
    bool folders, writable;
} needed[] = {{"LD_PRELOAD", false, false},      {"LD_LIBRARY_PATH", true, false}, {"FAST_NODE_SOCKET", false, false},
              {"FAST_SOCKET", false, true},      {"FAST_SIM_DIR", true, true},
              {"CUDA_MPS_PIPE_DIRECTORY", true, true}};

/* A link in an image could lead out of it while its root is not "/" yet. */
static int check_links(const char *root, const char *path, struct fast_err *err)
{
    char at[PATH_MAX];
    struct stat st;
    for (const char *p = path; *p;) {
        p += 1 + strcspn(p + 1, "/");
        if (snprintf(at, sizeof(at), "%s%.*s", root, (int)(p - path), path) >= (int)sizeof(at))
            return fast_err_set(err, FAST_EINVAL, "%.100s: the path is too long", path);
        if (!lstat(at, &st) && S_ISLNK(st.st_mode))
            return fast_err_set(err, FAST_EINVAL, "the image has a link at %.*s", (int)(p - path), path);
    }
    return 0;
}

/* Shows |from| as |path| of the image. */
static int show_in(const char *root, const char *from, const char *path, struct fast_err *err)
{
    char to[PATH_MAX], parent[PATH_MAX];
    struct stat st;
    if (stat(from, &st))
        return 0; /* the machine has none */
    if (check_links(root, path, err))
        return -FAST_EINVAL;
    snprintf(to, sizeof(to), "%s%s", root, path);
    snprintf(parent, sizeof(parent), "%s", to);
    char *slash = strrchr(parent, '/');
    if (slash)
        *slash = 0;
    int r = fast_dir_make(parent, 0755, err);
    return r ? r : show(from, to, err);
}

static bool is_below(const char *path, const char *dir)
{
    size_t n = dir ? strlen(dir) : 0;
    return n && !strncmp(path, dir, n) && path[n] == '/';
}

/* An environment could name any folder of the state directory: only those that are for functions count. */
static bool may_see(const char *path, const char *hide)
{
    static const char *const parts[] = {"run", "sockets", "mps", "no-mps", "sim"};
    if (!hide)
        return true;
    if (!strcmp(path, hide) || is_below(hide, path))
        return false;
    if (!is_below(path, hide))
        return true;
    const char *part = path + strlen(hide) + 1;
    size_t n = strcspn(part, "/");
    for (size_t i = 0; i < FAST_COUNT_OF(parts); i++)
        if (strlen(parts[i]) == n && !strncmp(part, parts[i], n))
            return true;
    return false;
}

/* The watchdog lies beside this program. */
static void need_watchdog(isolate_needed_fn *fn, void *arg)
{
    char self[PATH_MAX], path[PATH_MAX + 16];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    snprintf(path, sizeof(path), "%.*s/fast-watchdog", slash ? (int)(slash - self) : 0, self);
    if (slash && !access(path, X_OK))
        fn(arg, FAST_WATCHDOG_IN_IMAGE, path, false);
}

void isolate_needed(const struct isolation *is, isolate_needed_fn *fn, void *arg)
{
    if (is->root && is->program && !strcmp(is->program, FAST_WATCHDOG_IN_IMAGE))
        need_watchdog(fn, arg);
    for (size_t i = 0; i < FAST_COUNT_OF(needed); i++)
        for (const char *list = getenv(needed[i].name); list && *list;) {
            char path[PATH_MAX], real[PATH_MAX];
            size_t n = strcspn(list, ":");
            snprintf(path, sizeof(path), "%.*s", (int)(n < PATH_MAX - 1 ? n : 0), list);
            char *slash = needed[i].folders ? NULL : strrchr(path, '/');
            if (slash && slash != path)
                *slash = 0;
            if (path[0] == '/' && realpath(path, real) && strcmp(real, "/") && strcmp(real, "/tmp") &&
                may_see(real, is->hide))
                fn(arg, path, real, needed[i].writable);
            list += n + (list[n] == ':');
        }
}

struct shown {
    const char *root;
    int result;
    struct fast_err *err;
};

static void show_needed(void *arg, const char *path, const char *real, bool writable)
{
    struct shown *s = arg;
    char to[PATH_MAX];
    if (!s->result)
        s->result = show_in(s->root, real, path, s->err);
    if (!s->result && !writable && snprintf(to, sizeof(to), "%s%s", s->root, path) < (int)sizeof(to))
        set_read_only(to, true, 0);
}

/* The image's folder as a mount of its own, which gives no rights. */
static int isolate_root(const struct isolation *is, struct fast_err *err)
{
    const struct mount_bits bits = {.set = NO_RIGHTS};
    if (mount(is->root, is->root, NULL, MS_BIND | MS_REC, NULL))
        return failed("cannot show", is->root, err);
    syscall(SYS_mount_setattr, AT_FDCWD, is->root, 0, &bits, sizeof(bits)); /* `fast image` lets neither in */
    return 0;
}

static int enter_root(const struct isolation *is, struct fast_err *err)
{
    static const char *const always[] = {"/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts"};
    char dir[PATH_MAX];
    int r = isolate_root(is, err);
    for (size_t i = 0; !r && i < FAST_COUNT_OF(always); i++)
        r = show_in(is->root, always[i], always[i], err);
    snprintf(dir, sizeof(dir), "%s/tmp", is->root);
    r = r ? r : check_links(is->root, "/tmp", err);
    r = r ? r : fast_dir_make(dir, 01777, err);
    if (!r && mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
        r = failed("cannot mount", dir, err);
    struct shown shown = {is->root, r, err}; /* some of it may lie in /tmp */
    isolate_needed(is, show_needed, &shown);
    r = shown.result;
    if (!r && is->secret->n) {
        snprintf(dir, sizeof(dir), "%s/var/" PLACE, is->root);
        r = check_links(is->root, "/var/" PLACE, err);
        r = r ? r : fast_dir_make(dir, 0755, err);
        if (!r && mount(is->secrets, dir, NULL, MS_BIND, NULL))
            r = failed("cannot show", is->secrets, err);
    }
    /* The old root is put over the new one and taken away: no folder is needed to keep it in. */
    if (!r && (chdir(is->root) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
               chdir("/")))
        r = failed("cannot enter", is->root, err);
    return r;
}

/* ---- the whole ---- */

/* Of each process by itself: less than a group's, and the best where there are no groups. Not RLIMIT_AS:
 * CUDA, Go and ASan reserve far more addresses than they use. Not with a GPU, whose driver maps much. */
static void set_rlimits(const struct isolation *is)
{
    const struct rlimit none = {0, 0};
    uint64_t bytes = is->limit[FAST_CGROUP_MEMORY];
    setrlimit(RLIMIT_CORE, &none);
    if (bytes && !is->gpu)
        setrlimit(RLIMIT_DATA, &(struct rlimit){bytes, bytes});
}

/* The words that tell of become_scoped(). */
static void add_scoped(char *text, size_t cap)
{
    size_t n = strlen(text);
    if (become_scoped())
        snprintf(text + n, cap - n, ", signals");
}

static int give_up(const struct isolation *is, const struct become *b, bool counted, struct fast_err *err)
{
    uint64_t pids = is->limit[FAST_CGROUP_PIDS];
    set_rlimits(is);
    if (pids && !counted && b->uid && !is->gpu) /* of its user, so of all its replicas together */
        setrlimit(RLIMIT_NPROC, &(struct rlimit){pids, pids});
    int r = become_self(b, err);
    if (r)
        return r;
    become_set_env(b);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? failed("cannot set", "no_new_privs", err) : 0;
}

/* ---- what a function sees of the machine ---- */

/* What stays as it is: held by a descriptor while something is laid over it. */
struct kept {
    struct kept_path {
        char path[PATH_MAX];
        int fd;
        bool writable;
    } *v;
    size_t n;
};

static void keep(struct kept *k, const char *path, bool writable)
{
    char real[PATH_MAX];
    struct kept_path *v;
    int fd = realpath(path, real) ? open(real, O_PATH | O_CLOEXEC) : -1;
    if (fd < 0)
        return; /* the machine has none */
    v = realloc(k->v, (k->n + 1) * sizeof(*v));
    if (!v) {
        close(fd);
        return;
    }
    k->v = v;
    v += k->n++;
    snprintf(v->path, sizeof(v->path), "%s", real);
    v->fd = fd;
    v->writable = writable;
}

static void keep_needed(void *arg, const char *path, const char *real, bool writable)
{
    (void)path;
    keep(arg, real, writable);
}

static void keep_lists(struct kept *k, const struct isolation *is)
{
    isolate_needed(is, keep_needed, k);
    if (is->program && is->program[0] == '/' && !is->root)
        keep(k, is->program, false);
    if (is->secret->n && !is->root)
        keep(k, is->secrets, false);
}

/* Shows |p| where it was. */
static int put_back(const struct kept_path *p, struct fast_err *err)
{
    char from[32], parent[PATH_MAX];
    struct stat st;
    snprintf(from, sizeof(from), "/proc/self/fd/%d", p->fd);
    snprintf(parent, sizeof(parent), "%s", p->path);
    *strrchr(parent, '/') = 0;
    if (access(p->path, F_OK)) {
        int r = *parent ? fast_dir_make(parent, 0755, err) : 0;
        if (r)
            return r;
        if (fstat(p->fd, &st))
            return failed("cannot look at", p->path, err);
        int fd = S_ISDIR(st.st_mode) ? mkdir(p->path, 0755)
                                     : open(p->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return failed("cannot make", p->path, err);
        if (!S_ISDIR(st.st_mode))
            close(fd);
    }
    if (mount(from, p->path, NULL, MS_BIND | MS_REC, NULL))
        return failed("cannot show", p->path, err);
    set_read_only(p->path, !p->writable, 0); /* a socket can be connected to all the same */
    return 0;
}

/* With root's user, files of the kernel can be written to without any capability: a control group's, which would
 * let a function leave its own, and the settings of the machine. */
static void close_kernel(void)
{
    static const char *const files[] = {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"};
    set_read_only("/sys", true, RECURSIVE);
    for (size_t i = 0; i < FAST_COUNT_OF(files); i++)
        if (!mount(files[i], files[i], NULL, MS_BIND | MS_REC, NULL))
            set_read_only(files[i], true, RECURSIVE);
}

/* Root's user may read the disks, and so all that is hidden. */
static int close_disks(struct fast_err *err)
{
    char path[PATH_MAX];
    int r = 0;
    DIR *d = geteuid() == 0 ? opendir("/dev") : NULL;
    for (struct dirent *e; !r && d && (e = readdir(d));) {
        if (e->d_type != DT_BLK)
            continue;
        snprintf(path, sizeof(path), "/dev/%s", e->d_name);
        if (mount("/dev/null", path, NULL, MS_BIND, NULL))
            r = failed("cannot hide", path, err);
    }
    if (d)
        closedir(d);
    return r;
}

/* Linux before 5.12 cannot do it: then nothing is changed. */
static bool make_read_only(bool image, struct fast_err *err)
{
    if (set_read_only("/", true, RECURSIVE)) {
        failed("cannot make read-only", "/", err);
        return false;
    }
    set_read_only("/proc", false, 0);
    set_read_only("/dev/shm", false, 0);
    if (image)
        set_read_only("/tmp", false, 0);
    return true;
}

/* Takes away what the function does not need of the files that it sees. */
static int narrow(const struct isolation *is, bool *ret_read_only, struct fast_err *err)
{
    struct kept k = {0};
    char cwd[PATH_MAX];
    const char *hide = is->root ? NULL : is->hide;
    int r = 0;
    if (hide && access(hide, F_OK))
        hide = NULL;
    keep_lists(&k, is);
    /* An image is one for all functions of it: what the one wrote another would run. */
    *ret_read_only = (is->read_only || is->root) && make_read_only(is->root, err);
    if (is->root && !*ret_read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL))
        r = failed("cannot make read-only", is->root, err);
    bool fresh_tmp = *ret_read_only && !is->root;
    if (fresh_tmp && mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
        r = failed("cannot mount", "/tmp", err);
    if (fresh_tmp && hide && is_below(hide, "/tmp"))
        hide = NULL; /* nothing of it is there any more */
    if (!r && hide && mount("tmpfs", hide, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k"))
        r = failed("cannot hide", hide, err);
    for (size_t i = 0; i < k.n; i++) {
        const struct kept_path *p = &k.v[i];
        if (!r && ((hide && is_below(p->path, hide)) || (fresh_tmp && is_below(p->path, "/tmp")) ||
                   (*ret_read_only && p->writable)))
            r = put_back(p, err);
        close(p->fd);
    }
    free(k.v);
    if (!r && hide && set_read_only(hide, true, 0) &&
        mount(NULL, hide, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
        r = failed("cannot make read-only", hide, err);
    close_kernel();
    /* What it leaves there would be others', and stay in memory when it has gone. MPS's clients have it in common. */
    if (!r && !is->gpu && !access("/dev/shm", F_OK) &&
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
        r = failed("cannot mount", "/dev/shm", err);
    r = r ? r : close_disks(err);
    /* The folder that it is in could be below what lies over it now. */
    if (!r && (!getcwd(cwd, sizeof(cwd)) || chdir(cwd)) && chdir("/"))
        r = failed("cannot enter", "/", err);
    return r;
}

/* crun's containers leave the session of the replica: a control group has to hold them together. */
static int choose_crun(const struct isolation *is, bool grouped, struct crun *ret, char *why, size_t cap,
                       struct fast_err *err)
{
    *ret = (struct crun){0};
    *why = 0;
    if (!is->root || !is->hide)
        return 0;
    if (grouped)
        crun_find(ret, is->hide, why, cap);
    else
        snprintf(why, cap, "no control group here to end its processes by");
    if (!*ret->program)
        return 0;
    set_rlimits(is);
    int r = own_mounts(err);
    r = r ? r : isolate_root(is, err);
    return r ? r : crun_prepare(ret, err);
}

static int view_self(const struct isolation *is, const struct become *b, const bool held[FAST_CGROUP_KINDS], char *ret,
                     size_t cap, struct fast_err *err)
{
    bool read_only = false;
    /* Whether CUDA and MPS work in a user namespace has been tried on no machine: not with a GPU. */
    bool narrows = (is->hide || is->read_only) && (geteuid() == 0 || !is->gpu || is->root || is->secret->n);
    bool view = is->root || is->secret->n || narrows;
    int r = view ? own_mounts(err) : 0;
    if (!r && is->root)
        r = enter_root(is, err);
    if (r && is->root)
        return r;
    bool owns = view && !r;
    if (owns && (r = narrow(is, &read_only, err)))
        return r; /* half a view is none */
    if (owns && !is->root && is->secret->n && !show_secrets(is, err) && read_only)
        set_read_only("/var", true, 0);
    snprintf(ret, cap, "%s%s%sno_new_privs, rlimits%s%s%s", b->uid ? "own user, " : "",
             !owns ? "" : is->root ? "file system of the image, " : "own mounts, ",
             read_only ? "read-only files, " : "", held[FAST_CGROUP_MEMORY] ? ", memory" : "",
             held[FAST_CGROUP_CPU] ? ", cpu" : "", held[FAST_CGROUP_PIDS] ? ", processes" : "");
    int rc = give_up(is, b, held[FAST_CGROUP_PIDS], err);
    if (!rc)
        add_scoped(ret, cap);
    return rc;
}

int isolate_self(const struct isolation *is, char *ret, size_t cap, struct become *ret_user, struct crun *ret_crun,
                 struct fast_err *err)
{
    bool held[FAST_CGROUP_KINDS];
    char why[160];
    int r = become_read(ret_user, err);
    r = r ? r : become_share(ret_user, is, err);
    if (r)
        return r;
    fast_cgroup_join(&fast_cgroup_here, getpid(), is->limit, held);
    bool grouped = held[FAST_CGROUP_MEMORY] || held[FAST_CGROUP_CPU] || held[FAST_CGROUP_PIDS];
    r = choose_crun(is, grouped, ret_crun, why, sizeof(why), err);
    if (r || *ret_crun->program) {
        snprintf(ret, cap, "crun%s", ret_user->uid ? ", own user" : "");
        add_scoped(ret, cap);
        return r;
    }
    r = view_self(is, ret_user, held, ret, cap, err);
    size_t n = strlen(ret);
    if (!r && *why)
        snprintf(ret + n, cap - n, "; without crun: %s", why);
    return r;
}
