/* Decides where groups of replicas are made. Version 1 has a hierarchy for each controller, version 2 one for
 * all; a machine may have both. Every failure means "no such limit here", which is then told by what the
 * kernel says of the process, not by what was tried. */

#include "io/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

#define TEXT_MAX (1u << 20)
#define MAIN "/fast-main"
#define DIR_MAX 2100
#define GROUP_MAX (DIR_MAX + 32)
#define PERIOD_US 100000
#define CPU_MIN_US 1000 /* the kernel's least quota */
#define END_TRIES 20    /* of a millisecond */

const struct fast_cgroup_host fast_cgroup_here = {"/proc/self/cgroup", "/proc/self/mountinfo"};

static const char *const controllers[] = {"memory", "cpu", "pids"};

struct place {
    char dir[DIR_MAX]; /* of this process, or where groups are made */
    bool v2;
};

static int put(const char *dir, const char *file, const char *text)
{
    char path[GROUP_MAX + 64];
    if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
        return -1;
    return fast_file_put(path, text);
}

static char *get(const char *dir, const char *file)
{
    char path[GROUP_MAX + 64], *text = NULL;
    if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
        return NULL;
    return fast_file_read(path, TEXT_MAX, &text, NULL, NULL) ? NULL : text;
}

static bool lists(const char *list, const char *word)
{
    size_t n = strlen(word);
    while (list && *list) {
        size_t len = strcspn(list, ", \n");
        if (len == n && !strncmp(list, word, n))
            return true;
        list += len + (list[len] != 0);
    }
    return false;
}

/* The path of this process in the hierarchy of |controller| (NULL: version 2's), from lines N:LIST:PATH. */
static bool own_path(const char *groups, const char *controller, char *ret, size_t cap)
{
    fast_autofree char *text = NULL;
    char *save = NULL;
    if (fast_file_read(groups, TEXT_MAX, &text, NULL, NULL))
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path = 0;
        if (controller ? lists(list + 1, controller) : !list[1])
            return snprintf(ret, cap, "%s", path + 1) < (int)cap;
    }
    return false;
}

/* Where that hierarchy is mounted, and what of it: ID PARENT DEV ROOT POINT ... - TYPE SOURCE OPTIONS. */
static bool mount_of(const char *mounts, const char *controller, char *root, char *point)
{
    fast_autofree char *text = NULL;
    char *save = NULL, type[32], options[512];
    if (fast_file_read(mounts, TEXT_MAX, &text, NULL, NULL))
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const char *rest = strstr(line, " - ");
        if (rest && sscanf(rest, " - %31s %*s %511s", type, options) == 2 &&
            sscanf(line, "%*s %*s %*s %1023s %1023s", root, point) == 2 &&
            (controller ? !strcmp(type, "cgroup") && lists(options, controller) : !strcmp(type, "cgroup2")))
            return true;
    }
    return false;
}

static bool own_dir(const struct fast_cgroup_host *host, const char *controller, char *ret, size_t cap)
{
    char root[1024], point[1024], path[1024];
    if (!own_path(host->groups, controller, path, sizeof(path)) ||
        !mount_of(host->mounts, controller, root, point))
        return false;
    size_t n = strcmp(root, "/") ? strlen(root) : 0; /* a part of the hierarchy is mounted */
    const char *below = strncmp(path, root, n) ? "" : path + n;
    return snprintf(ret, cap, "%s%s", point, strcmp(below, "/") ? below : "") < (int)cap;
}

static bool find_place(const struct fast_cgroup_host *host, const char *controller, struct place *ret)
{
    *ret = (struct place){.v2 = false};
    if (own_dir(host, controller, ret->dir, sizeof(ret->dir)))
        return true;
    ret->v2 = true;
    if (!own_dir(host, NULL, ret->dir, sizeof(ret->dir)))
        return false;
    size_t n = strlen(ret->dir), tail = strlen(MAIN);
    if (n > tail && !strcmp(ret->dir + n - tail, MAIN))
        ret->dir[n - tail] = 0;
    fast_autofree char *given = get(ret->dir, "cgroup.subtree_control");
    return lists(given, controller);
}

static int set_limit(const struct place *p, const char *dir, int kind, uint64_t limit)
{
    char text[64];
    unsigned long long quota = limit * (PERIOD_US / 1000);
    if (quota < CPU_MIN_US)
        quota = CPU_MIN_US;
    if (kind == FAST_CGROUP_CPU)
        snprintf(text, sizeof(text), p->v2 ? "%llu %d" : "%llu", quota, PERIOD_US);
    else
        snprintf(text, sizeof(text), "%llu", (unsigned long long)limit);
    if (kind == FAST_CGROUP_MEMORY) {
        int r = put(dir, p->v2 ? "memory.max" : "memory.limit_in_bytes", text);
        if (p->v2) /* all of a replica or nothing, as Kubernetes has it: half of one may hang for good */
            put(dir, "memory.oom.group", "1");
        put(dir, p->v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes", p->v2 ? "0" : text);
        return r;
    }
    if (kind == FAST_CGROUP_CPU)
        return p->v2 ? put(dir, "cpu.max", text)
                     : put(dir, "cpu.cfs_period_us", "100000") || put(dir, "cpu.cfs_quota_us", text);
    return put(dir, "pids.max", text);
}

void fast_cgroup_join(const struct fast_cgroup_host *host, pid_t pid,
                      const uint64_t limit[FAST_CGROUP_KINDS], bool ret[FAST_CGROUP_KINDS])
{
    struct place at[FAST_CGROUP_KINDS];
    char dir[GROUP_MAX], text[24];
    bool found[FAST_CGROUP_KINDS];
    snprintf(text, sizeof(text), "%d", (int)pid);
    /* All are looked for before the first is entered: then this process's own path is another one. */
    for (int k = 0; k < FAST_CGROUP_KINDS; k++)
        found[k] = limit[k] && find_place(host, controllers[k], &at[k]);
    for (int k = 0; k < FAST_CGROUP_KINDS; k++) {
        ret[k] = false;
        if (!found[k])
            continue;
        if (snprintf(dir, sizeof(dir), "%s/fast-%d", at[k].dir, (int)pid) >= (int)sizeof(dir))
            continue;
        if (mkdir(dir, 0755) && errno != EEXIST)
            continue;
        if (!set_limit(&at[k], dir, k, limit[k]) && !put(dir, "cgroup.procs", text))
            ret[k] = true;
        else
            rmdir(dir);
    }
}

/* False: processes are still in it. */
static bool empty_group(const char *dir)
{
    put(dir, "cgroup.kill", "1");
    fast_autofree char *text = get(dir, "cgroup.procs");
    for (char *p = text, *end; p && *p; p = end) {
        long pid = strtol(p, &end, 10);
        if (end == p)
            break;
        if (pid > 1 && pid != getpid())
            kill((pid_t)pid, SIGKILL);
    }
    return !rmdir(dir) || errno == ENOENT;
}

void fast_cgroup_end(const struct fast_cgroup_host *host, pid_t pid)
{
    struct place p;
    char dir[GROUP_MAX];
    for (int k = 0; k < FAST_CGROUP_KINDS; k++) {
        if (pid <= 1 || !find_place(host, controllers[k], &p))
            continue;
        if (snprintf(dir, sizeof(dir), "%s/fast-%d", p.dir, (int)pid) >= (int)sizeof(dir))
            continue;
        for (int i = 0; i < END_TRIES && !access(dir, F_OK) && !empty_group(dir); i++)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void fast_cgroup_sweep(const struct fast_cgroup_host *host)
{
    struct place p;
    char path[64];
    for (int k = 0; k < FAST_CGROUP_KINDS; k++) {
        DIR *d = find_place(host, controllers[k], &p) ? opendir(p.dir) : NULL;
        for (struct dirent *e; d && (e = readdir(d));) {
            int pid = 0, used = 0;
            if (sscanf(e->d_name, "fast-%d%n", &pid, &used) != 1 || e->d_name[used])
                continue;
            snprintf(path, sizeof(path), "/proc/%d", pid);
            if (access(path, F_OK))
                fast_cgroup_end(host, pid);
        }
        if (d)
            closedir(d);
    }
}

void fast_cgroup_settle(const struct fast_cgroup_host *host, pid_t pid)
{
    char dir[DIR_MAX], main_dir[GROUP_MAX], text[24];
    snprintf(text, sizeof(text), "%d\n", (int)pid);
    if (!own_dir(host, NULL, dir, sizeof(dir)))
        return;
    fast_autofree char *members = get(dir, "cgroup.procs"), *has = get(dir, "cgroup.controllers");
    if (!members || strcmp(members, text) != 0 || !lists(has, "memory"))
        return;
    if (snprintf(main_dir, sizeof(main_dir), "%s" MAIN, dir) >= (int)sizeof(main_dir) ||
        (mkdir(main_dir, 0755) && errno != EEXIST) || put(main_dir, "cgroup.procs", text))
        return;
    if (put(dir, "cgroup.subtree_control", "+memory")) { /* back to where it was */
        put(dir, "cgroup.procs", text);
        rmdir(main_dir);
        return;
    }
    put(dir, "cgroup.subtree_control", "+cpu"); /* each by itself: one that is missing costs no other */
    put(dir, "cgroup.subtree_control", "+pids");
}
