/* Decides what a container of crun sees: the image, what the environment names of the node's (hook, sockets), the
 * GPU's devices, and nothing else of the machine. Process numbers are the machine's, since MPS and the node know
 * processes by them, and so is the network: a replica is reached by its port. */

#include "cli/crun.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

#define PROBE_MAX 512

extern char **environ;

/* ---- configuration ---- */

static void add_mount(json_t *to, const char *type, const char *source, const char *at, const char *options)
{
    json_t *words = json_array();
    char text[128], *save = NULL;
    snprintf(text, sizeof(text), "%s", options);
    for (char *w = strtok_r(text, ",", &save); w; w = strtok_r(NULL, ",", &save))
        json_array_append_new(words, json_string(w));
    json_array_append_new(to, json_pack("{s:s, s:s, s:s, s:o}", "destination", at, "type", type, "source", source,
                                        "options", words));
}

static void add_needed(void *arg, const char *path, const char *real, bool writable)
{
    add_mount(arg, "bind", real, path, writable ? "rbind,nosuid,nodev" : "rbind,ro,nosuid,nodev");
}

/* A plain /dev, and what drivers of GPUs put into it. */
static void add_devices(json_t *to)
{
    static const char *const kept[] = {"nvidia", "dri"};
    char path[PATH_MAX];
    DIR *d = opendir("/dev");
    for (struct dirent *e; d && (e = readdir(d));)
        for (size_t i = 0; i < FAST_COUNT_OF(kept); i++)
            if (!strncmp(e->d_name, kept[i], strlen(kept[i]))) {
                snprintf(path, sizeof(path), "/dev/%s", e->d_name);
                add_mount(to, "bind", path, path, "rbind,nosuid");
            }
    if (d)
        closedir(d);
}

static json_t *mounts_of(const struct isolation *is)
{
    static const char *const files[] = {"/etc/resolv.conf", "/etc/hosts"};
    json_t *to = json_array();
    add_mount(to, "proc", "proc", "/proc", "nosuid,noexec,nodev");
    add_mount(to, "tmpfs", "tmpfs", "/dev", "nosuid,strictatime,mode=755,size=65536k");
    if (is->gpu)
        add_mount(to, "bind", "/dev/shm", "/dev/shm", "rbind,nosuid,nodev");
    else
        add_mount(to, "tmpfs", "tmpfs", "/dev/shm", "nosuid,nodev,mode=1777");
    add_mount(to, "bind", "/sys", "/sys", "bind,ro,nosuid,noexec,nodev");
    add_mount(to, "tmpfs", "tmpfs", "/tmp", "nosuid,nodev,mode=1777");
    if (is->gpu)
        add_devices(to);
    for (size_t i = 0; i < FAST_COUNT_OF(files); i++)
        if (!access(files[i], R_OK))
            add_mount(to, "bind", files[i], files[i], "bind,ro");
    isolate_needed(is, add_needed, to);
    if (is->secret->n)
        add_mount(to, "bind", is->secrets, "/var/openfaas/secrets", "bind,ro,nosuid,nodev");
    return to;
}

/* What no function needs, and what made holes in kernels. */
static json_t *seccomp(void)
{
    return json_pack("{s:s, s:[{s:s, s:i, s:[s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s]}]}", "defaultAction",
                     "SCMP_ACT_ALLOW", "syscalls", "action", "SCMP_ACT_ERRNO", "errnoRet", EPERM, "names", "acct",
                     "add_key", "bpf", "delete_module", "finit_module", "init_module", "kexec_load", "keyctl",
                     "mount", "open_by_handle_at", "perf_event_open", "pivot_root", "request_key", "swapon", "umount2",
                     "unshare", "userfaultfd");
}

static json_t *process_of(const struct become *b, const char *cwd, char **argv)
{
    json_t *args = json_array(), *env = json_array();
    for (char **v = argv; *v; v++)
        json_array_append_new(args, json_string(*v));
    for (char **v = environ; *v; v++)
        json_array_append_new(env, json_string(*v)); /* what is not UTF-8 cannot be told, and is left out */
    return json_pack("{s:b, s:{s:i, s:i}, s:o, s:o, s:s, s:{s:[], s:[], s:[], s:[], s:[]}, s:b}", "terminal", 0,
                     "user", "uid", (int)b->uid, "gid", (int)b->gid, "args", args, "env", env, "cwd",
                     cwd ? cwd : "/", "capabilities", "bounding", "effective", "inheritable", "permitted", "ambient",
                     "noNewPrivileges", 1);
}

static json_t *linux_of(bool gpu)
{
    json_t *spaces = json_pack("[{s:s}]", "type", "mount");
    if (!gpu)
        json_array_append_new(spaces, json_pack("{s:s}", "type", "ipc"));
    return json_pack("{s:o, s:o, s:[s,s,s,s], s:[s,s,s,s,s]}", "namespaces", spaces, "seccomp", seccomp(),
                     "maskedPaths", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "readonlyPaths",
                     "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");
}

static int write_config(const char *dir, json_t *process, const char *root, json_t *mounts, bool gpu,
                        struct fast_err *err)
{
    char path[PATH_MAX];
    json_t *o = json_pack("{s:s, s:o, s:{s:s, s:b}, s:o, s:o}", "ociVersion", "1.0.0", "process", process, "root",
                          "path", root, "readonly", 1, "mounts", mounts, "linux", linux_of(gpu));
    fast_autofree char *text = o ? json_dumps(o, 0) : NULL;
    json_decref(o);
    if (!text || snprintf(path, sizeof(path), "%s/config.json", dir) >= (int)sizeof(path))
        return fast_err_set(err, FAST_ENOMEM, "no memory for a container, or its path is too long");
    return fast_file_replace(path, text, strlen(text), 0600, err);
}

/* ---- running ---- */

/* crun refuses machines with control groups of both versions; without its mount version 2 is not there. */
static void hide_version_2(void)
{
    struct statfs fs;
    if (!statfs("/sys/fs/cgroup", &fs) && fs.f_type == TMPFS_MAGIC &&
        !statfs("/sys/fs/cgroup/unified", &fs) && fs.f_type == CGROUP2_SUPER_MAGIC)
        umount2("/sys/fs/cgroup/unified", MNT_DETACH);
}

int crun_prepare(const struct crun *c, struct fast_err *err)
{
    int r = fast_dir_make(c->dir, 0700, err);
    if (!r && mount("tmpfs", c->dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=4m"))
        r = fast_err_set(err, FAST_EPERM, "cannot mount %.150s: %s", c->dir, strerror(errno));
    hide_version_2();
    return r;
}

static void become_crun(const struct crun *c)
{
    char state[PATH_MAX + 16];
    snprintf(state, sizeof(state), "--root=%s/state", c->dir);
    execl(c->program, "crun", state, "--cgroup-manager=disabled", "run", "--bundle", c->dir, "function", (char *)NULL);
}

int crun_exec(const struct crun *c, const struct isolation *is, const struct become *b, const char *cwd, char **argv,
              struct fast_err *err)
{
    int r = write_config(c->dir, process_of(b, cwd, argv), is->root, mounts_of(is), is->gpu, err);
    if (r)
        return r;
    become_crun(c);
    return fast_err_set(err, FAST_ENOENT, "cannot execute %.150s: %s", c->program, strerror(errno));
}

/* ---- whether it works ---- */

static bool find_program(char *ret, size_t cap)
{
    const char *list = getenv("PATH");
    while (list && *list) {
        size_t n = strcspn(list, ":");
        if (snprintf(ret, cap, "%.*s/crun", (int)n, list) < (int)cap && *ret == '/' && !access(ret, X_OK))
            return true;
        list += n + (list[n] == ':');
    }
    *ret = 0;
    return false;
}

/* In a process of its own: a container without an image, with the machine's programs. */
static void try_it(const struct crun *c, int out)
{
    static const char *const folders[] = {"/usr", "/lib", "/lib64", "/bin"};
    char *argv[] = {(char[]){"/usr/bin/true"}, NULL}, root[PATH_MAX + 16];
    const struct become nobody = {65534, 65534};
    struct fast_err err;
    json_t *mounts = json_array();
    add_mount(mounts, "proc", "proc", "/proc", "nosuid,noexec,nodev");
    add_mount(mounts, "tmpfs", "tmpfs", "/dev", "nosuid,mode=755,size=65536k");
    for (size_t i = 0; i < FAST_COUNT_OF(folders); i++)
        if (!access(folders[i], F_OK))
            add_mount(mounts, "bind", folders[i], folders[i], "rbind,ro");
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    snprintf(root, sizeof(root), "%s/root", c->dir);
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || crun_prepare(c, &err) ||
        mkdir(root, 0755) || write_config(c->dir, process_of(&nobody, "/", argv), root, mounts, false, &err))
        dprintf(out, "no mount namespace for it\n");
    else
        become_crun(c);
    _exit(127);
}

static void probe(const struct crun *c, char *why, size_t cap)
{
    int status = -1, out[2];
    *why = 0;
    if (pipe2(out, O_CLOEXEC)) {
        snprintf(why, cap, "%s", strerror(errno));
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        try_it(c, out[1]);
    close(out[1]);
    ssize_t n = 0;
    for (ssize_t got; (size_t)n < cap - 1 && (got = read(out[0], why + n, cap - 1 - (size_t)n)) > 0;)
        n += got;
    close(out[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    why[n] = 0;
    why[strcspn(why, "\n")] = 0;
    if (status == 0)
        *why = 0;
    else if (!*why)
        snprintf(why, cap, "a container of it ends with %d", status);
}

/* What a probe is good for: this crun, since this start of the machine. */
static void stamp_of(const struct crun *c, char *ret, size_t cap)
{
    fast_autofree char *boot = NULL;
    struct stat st = {0};
    int r = fast_file_read("/proc/sys/kernel/random/boot_id", 64, &boot, NULL, NULL) || stat(c->program, &st);
    snprintf(ret, cap, "%.*s %lld", boot && !r ? (int)strcspn(boot, "\n") : 0, boot ? boot : "",
             (long long)st.st_mtim.tv_sec);
}

void crun_find(struct crun *ret, const char *state_dir, char *why, size_t cap)
{
    char path[PATH_MAX], stamp[96], text[PROBE_MAX];
    fast_autofree char *kept = NULL;
    *ret = (struct crun){0};
    *why = 0;
    if (geteuid() != 0 || !state_dir || !find_program(ret->program, sizeof(ret->program)) ||
        snprintf(ret->dir, sizeof(ret->dir), "%s/crun", state_dir) >= (int)sizeof(ret->dir) ||
        snprintf(path, sizeof(path), "%s/crun.probe", state_dir) >= (int)sizeof(path)) {
        snprintf(why, cap, "%s", geteuid() ? "it is used by root alone" : "it is not installed");
        ret->program[0] = 0;
        return;
    }
    stamp_of(ret, stamp, sizeof(stamp));
    size_t n = strlen(stamp);
    if (!fast_file_read(path, PROBE_MAX, &kept, NULL, NULL) && !strncmp(kept, stamp, n) && kept[n] == '\n') {
        snprintf(why, cap, "%s", kept + n + 1);
    } else {
        probe(ret, why, cap < 200 ? cap : 200);
        int len = snprintf(text, sizeof(text), "%s\n%s", stamp, why);
        fast_file_replace(path, text, (size_t)len, 0644, NULL);
    }
    if (*why)
        ret->program[0] = 0;
}
