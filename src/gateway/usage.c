/* Decides what CPU time and memory a replica uses: it and all processes of its session, as the node starts
 * each replica in one of its own. Asked for by itself, CPU is the mean since somebody asked last, or since the start.
 * Reading all of /proc takes milliseconds, so it is done when it is asked for, not by the clock. */

#include "gateway/gateway.h"
#include "gateway/metrics.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

#define ASKED_AGAIN FAST_MS(100) /* a mean over less says nothing */

struct sum {
    uint32_t session;
    fast_ns cpu;
    uint64_t resident;
};

/* Reads a process; false: it has gone. Fields of proc(5), behind the name: 6 session, 14 to 17 times of user and
 * system, its own and those of children that are over (a watchdog has one for each request), 24 resident pages. */
static bool read_process(uint32_t pid, uint32_t *ret_session, struct sum *ret)
{
    char buf[FAST_PROC_STAT_MAX];
    unsigned session = 0;
    unsigned long long t[4] = {0};
    long pages = 0;
    const char *at = fast_proc_stat(pid, buf);
    if (!at || sscanf(at, " %*c %*d %*d %u %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu %*d %*d "
                              "%*d %*d %*u %*u %ld", &session, &t[0], &t[1], &t[2], &t[3], &pages) != 6)
        return false;
    *ret_session = session;
    ret->cpu = (fast_ns)(t[0] + t[1] + t[2] + t[3]) * (FAST_S(1) / sysconf(_SC_CLK_TCK));
    ret->resident = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
    return true;
}

static struct sum *sum_of(struct sum *sums, int n, uint32_t session)
{
    for (int i = 0; i < n; i++)
        if (sums[i].session == session)
            return &sums[i];
    return NULL;
}

/* Fills in what is used in each session of |sums|. */
static void add_all(struct sum *sums, int n)
{
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        struct sum one = {0}, *sum;
        if (!isdigit((unsigned char)e->d_name[0]) ||
            !read_process((uint32_t)strtoul(e->d_name, NULL, 10), &one.session, &one) ||
            !(sum = sum_of(sums, n, one.session)))
            continue;
        sum->cpu += one.cpu;
        sum->resident += one.resident;
    }
    if (proc)
        closedir(proc);
}

void gw_usage(struct gateway *gw, struct gw_replica *r, double *ret_millicores, uint64_t *ret_bytes)
{
    fast_ns now = fast_loop_now(gw->loop), cpu, span;
    struct sum sum = {.session = r->pid ? fast_proc_inner(r->pid) : 0};
    if (r->pid)
        add_all(&sum, 1);
    bool known = r->usage.pid == r->pid, again = known && now - r->usage.at >= ASKED_AGAIN;
    cpu = again ? sum.cpu - r->usage.cpu : sum.cpu;
    span = again ? now - r->usage.at : fast_clock_wall() - (fast_ns)r->started_ms * FAST_MS(1);
    if (again || !known)
        r->usage = (struct gw_usage){r->pid, now, sum.cpu};
    *ret_bytes = sum.resident;
    *ret_millicores = span > 0 && cpu > 0 ? 1000.0 * (double)cpu / (double)span : 0;
}

void gw_metrics_usage(struct gw_page *w, const struct gateway *gw)
{
    static const char cpu[] = "pod_cpu_usage_seconds_total", memory[] = "pod_memory_working_set_bytes";
    struct sum *sums;
    int n = 0, i = 0;
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        n += r->pid != 0;
    fast_autofree void *mine = calloc((size_t)n + 1, sizeof(*sums));
    w->failed = w->failed || !mine;
    if (!mine)
        return;
    sums = mine;
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->pid)
            sums[i++].session = fast_proc_inner(r->pid);
    if (n)
        add_all(sums, n);
    for (int what = 0; what < 2; what++) {
        gw_page_head(w, what ? memory : cpu, what ? "gauge" : "counter",
                     what ? "Memory of all processes of a replica" : "CPU time of all processes of a replica");
        i = 0;
        for (const struct gw_replica *r = gw->replicas; r; r = r->next) {
            if (!r->pid)
                continue;
            const struct sum *sum = &sums[i++];
            gw_page_add(w, "%s{function_name=\"%s.%s\",namespace=\"%s\",pod=\"%s\"} %.15g\n", what ? memory : cpu,
                        r->fn->spec->name, r->fn->spec->ns, r->fn->spec->ns, r->id,
                        what ? (double)sum->resident : (double)sum->cpu / 1e9);
        }
    }
}
