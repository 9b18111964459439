/* Decides how well a function is bounded, level by level, from what the kernel says of a running process of it
 * and not from what was asked for. hard: the kernel keeps it. soft: kept, but not over all of the function.
 * advisory: nothing keeps it. */

#include "gateway/gateway.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

#define TEXT_MAX (1u << 16)

static char *of_process(uint32_t pid, const char *file)
{
    char path[64], *text = NULL;
    snprintf(path, sizeof(path), "/proc/%u/%s", pid, file);
    return fast_file_read(path, TEXT_MAX, &text, NULL, NULL) ? NULL : text;
}

/* The number behind |key| at the beginning of a line, in |base|; UINT64_MAX: it is not there. */
static uint64_t number_of(const char *text, const char *key, int base)
{
    const char *at = text ? strstr(text, key) : NULL;
    char *end = NULL;
    if (!at)
        return UINT64_MAX;
    uint64_t v = strtoull(at + strlen(key), &end, base);
    return end == at + strlen(key) ? UINT64_MAX : v;
}

static void tell(json_t *to, const char *what, const char *level, const char *by)
{
    json_array_append_new(to, json_pack("{s:s, s:s, s:s}", "what", what, "level", level, "by", by));
}

/* Whether the process is in a group of its own for |controller|: lines N:LIST:PATH. */
static bool in_group(const char *groups, const char *controller, uint32_t pid)
{
    char own[32];
    int n = snprintf(own, sizeof(own), "/fast-%u", pid);
    for (const char *line = groups; line && *line;) {
        size_t len = strcspn(line, "\n");
        const char *list = memchr(line, ':', len);
        const char *path = list ? memchr(list + 1, ':', len - (size_t)(list + 1 - line)) : NULL;
        bool named = path && (path == list + 1 || memmem(list, (size_t)(path - list), controller, strlen(controller)));
        if (named && len >= (size_t)n && !memcmp(line + len - n, own, (size_t)n) &&
            (path != list + 1 || !strstr(groups, controller))) /* version 2 names none: where no other has it */
            return true;
        line += len + (line[len] != 0);
    }
    return false;
}

static void tell_limits(json_t *to, const struct gw_spec *s, const char *groups, const char *limits, uint32_t pid)
{
    char by[160];
    if (s->memory_max && in_group(groups, "memory", pid))
        tell(to, "memory", "hard", "control group of the replica, without swap");
    else if (s->memory_max && number_of(limits, "Max data size", 10) == s->memory_max)
        tell(to, "memory", "soft", "RLIMIT_DATA of each process: control groups cannot be written to here");
    else
        tell(to, "memory", "advisory", !s->memory_max ? "limits.memory is not given"
                                       : s->gpu ? "no control group here, and a limit by process would break CUDA"
                                                : "no control group here");
    if (s->cpu_milli && in_group(groups, "cpu", pid))
        tell(to, "cpu", "hard", "quota of the control group");
    else
        tell(to, "cpu", "advisory", s->cpu_milli ? "no control group here" : "limits.cpu is not given");
    bool counted = in_group(groups, "pids", pid);
    bool by_user = number_of(limits, "Max processes", 10) == GW_PIDS_MAX;
    snprintf(by, sizeof(by), counted   ? "control group: at most %d processes and threads"
                             : by_user ? "RLIMIT_NPROC of its user: at most %d processes and threads for all replicas"
                                       : "no control group here: a fork bomb takes what this user has", GW_PIDS_MAX);
    tell(to, "processes", counted ? "hard" : by_user ? "soft" : "advisory", by);
}

static void tell_user(json_t *to, const struct gw_spec *s, const char *status)
{
    char by[200];
    bool own = number_of(status, "Uid:\t", 10) != geteuid();
    snprintf(by, sizeof(by), "%s%s%s%s",
             own        ? s->gpu ? "that of all functions with a GPU: MPS and the model store know one" : "its own"
             : geteuid() ? "the platform's: it takes root to give functions others"
                         : "the platform's: fast-node says why when it starts (--function-users)",
             *s->image_user ? "; in place of the image's, \"" : "", s->image_user, *s->image_user ? "\"" : "");
    tell(to, "user", !own ? "advisory" : s->gpu ? "soft" : "hard", by);
}

static void tell_rights(json_t *to, const struct gw_spec *s, const char *status)
{
    bool locked = number_of(status, "NoNewPrivs:\t", 10) == 1;
    bool none = number_of(status, "CapEff:\t", 16) == 0 && number_of(status, "CapPrm:\t", 16) == 0;
    tell(to, "privileges", locked ? "hard" : "advisory",
         locked ? "no_new_privs: set-user-id programs give nothing" : "not set: it is not started by `fast isolate`");
    tell(to, "capabilities", none ? "hard" : "advisory", none ? "none" : "those of the platform's user");
    tell_user(to, s, status);
}

/* Whether "/" is read-only. Lines of mountinfo are ID PARENT DEVICE ROOT POINT OPTIONS...; the last one of a
 * point wins. */
static bool root_is_read_only(const char *mounts)
{
    bool ret = false;
    for (const char *line = mounts; line && *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
        char point[4], options[3];
        if (sscanf(line, "%*s %*s %*s %*s %3s %2s", point, options) == 2 && !strcmp(point, "/"))
            ret = !strcmp(options, "ro");
    }
    return ret;
}

static void tell_disk(json_t *to, const struct gw_spec *s, bool read_only)
{
    if (read_only)
        tell(to, "disk", s->gpu ? "soft" : "hard",
             s->gpu ? "/tmp and /dev/shm are memory; it can write to the folder of MPS, and to its log, which is cut"
                    : "/tmp and /dev/shm are memory, and count as such; its log is cut");
    else
        tell(to, "disk", "advisory", "nothing bounds what it writes where its user may, as in /tmp; its log is cut");
}

static void tell_writes(json_t *to, const struct gw_spec *s, uint32_t pid)
{
    fast_autofree char *mounts = of_process(pid, "mountinfo");
    tell_disk(to, s, root_is_read_only(mounts));
    bool asked = json_is_true(json_object_get(s->json, "readOnlyRootFilesystem"));
    if (root_is_read_only(mounts))
        tell(to, "read-only files", "hard", "all but /tmp, which is its own, /dev/shm and its sockets");
    else
        tell(to, "read-only files", "advisory",
             asked ? "readOnlyRootFilesystem needs Linux 5.12 and a mount namespace: not here"
                   : "readOnlyRootFilesystem is not given");
}

/* Why an image is not run by crun, as fast-run found out and wrote down. */
static void why_not_crun(const char *state_dir, char *ret, size_t cap)
{
    char path[PATH_MAX + 16];
    fast_autofree char *text = NULL;
    snprintf(path, sizeof(path), "%s/crun.probe", state_dir);
    const char *why = fast_file_read(path, 1024, &text, NULL, NULL) ? NULL : strchr(text, '\n');
    snprintf(ret, cap, "the image's file system; crun is not used: %s",
             geteuid() ? "it takes root" : why && why[1] ? why + 1 : "it is not here, or there are no control groups");
}

static void tell_view(json_t *to, const struct gw_spec *s, const char *state_dir, uint32_t leader)
{
    uint32_t pid = fast_proc_inner(leader);
    char image_by[300] = "the image's file system, in a container of crun with a seccomp filter";
    char path[PATH_MAX + 64];
    struct stat its, own, its_root, own_root;
    snprintf(path, sizeof(path), "/proc/%u/ns/mnt", pid);
    bool known = !stat(path, &its) && !stat("/proc/self/ns/mnt", &own);
    snprintf(path, sizeof(path), "/proc/%u/root/", pid);
    bool image = known && !stat(path, &its_root) && !stat("/", &own_root) &&
                 (its_root.st_ino != own_root.st_ino || its_root.st_dev != own_root.st_dev);
    bool mounts = known && its.st_ino != own.st_ino;
    snprintf(path, sizeof(path), "/proc/%u/root%s/replicas", pid, state_dir);
    bool hidden = mounts && stat(path, &its) && errno == ENOENT;
    if (image && pid == leader)
        why_not_crun(state_dir, image_by, sizeof(image_by));
    tell(to, "files", image ? "hard" : hidden ? "soft" : "advisory",
         image      ? image_by
         : !mounts  ? "the machine's, with the rights of its user"
         : hidden   ? "own mounts: of the platform's files it sees its sockets and, if it asks for secrets, its "
                      "namespace's; the rest is as on the machine"
                    : "own mounts, in which it sees the platform's files");
    tell_writes(to, s, pid);
    tell(to, "network", "advisory", "the machine's: a replica is reached by its port");
}

json_t *gw_isolation(const struct gateway *gw, const struct gw_function *fn)
{
    const struct gw_replica *r = gw->replicas;
    while (r && !(r->fn == fn && r->pid && r->phase == GW_TOLD && r->item.ready))
        r = r->next;
    uint32_t inner = r ? fast_proc_inner(r->pid) : 0;
    fast_autofree char *status = r ? of_process(inner, "status") : NULL;
    if (!status)
        return NULL;
    fast_autofree char *groups = of_process(inner, "cgroup"), *limits = of_process(inner, "limits");
    json_t *to = json_array();
    tell_rights(to, fn->spec, status);
    tell_limits(to, fn->spec, groups ? groups : "", limits, r->pid);
    tell_view(to, fn->spec, gw->conf->state_dir, r->pid);
    return to;
}
