/* Decides what CPU time and memory a replica uses: it and all processes of its session, as the node starts
 * each replica in one of its own. CPU is the mean since somebody asked last, or since the start. Reading
 * all of /proc takes milliseconds, so it is done when it is asked for, not by the clock. */

#include "gateway/gateway.h"

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
    fast_ns cpu;
    uint64_t resident;
};

/* Adds a process if it is of session |session|. Fields of proc(5), behind the name: 6 session, 14 to 17 times of user
 * and system, its own and those of children that are over (a watchdog has one for each request), 24 resident pages. */
static void add_process(uint32_t pid, uint32_t session, struct sum *sum)
{
    char buf[FAST_PROC_STAT_MAX];
    unsigned of = 0;
    unsigned long long t[4] = {0};
    long pages = 0;
    const char *at = fast_proc_stat(pid, buf);
    if (!at || sscanf(at, " %*c %*d %*d %u %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu %*d %*d "
                              "%*d %*d %*u %*u %ld", &of, &t[0], &t[1], &t[2], &t[3], &pages) != 6 || of != session)
        return;
    sum->cpu += (fast_ns)(t[0] + t[1] + t[2] + t[3]) * (FAST_S(1) / sysconf(_SC_CLK_TCK));
    sum->resident += (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct sum sum_of(uint32_t session)
{
    struct sum sum = {0};
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));)
        if (isdigit((unsigned char)e->d_name[0]))
            add_process((uint32_t)strtoul(e->d_name, NULL, 10), session, &sum);
    if (proc)
        closedir(proc);
    return sum;
}

void gw_usage(struct gateway *gw, struct gw_replica *r, double *ret_millicores, uint64_t *ret_bytes)
{
    fast_ns now = fast_loop_now(gw->loop), cpu, span;
    struct sum sum = r->pid ? sum_of(fast_proc_inner(r->pid)) : (struct sum){0};
    bool known = r->usage.pid == r->pid, again = known && now - r->usage.at >= ASKED_AGAIN;
    cpu = again ? sum.cpu - r->usage.cpu : sum.cpu;
    span = again ? now - r->usage.at : fast_clock_wall() - (fast_ns)r->started_ms * FAST_MS(1);
    if (again || !known)
        r->usage = (struct gw_usage){r->pid, now, sum.cpu};
    *ret_bytes = sum.resident;
    *ret_millicores = span > 0 && cpu > 0 ? 1000.0 * (double)cpu / (double)span : 0;
}
