/* What calls cost, in host time and in time of the stream. A kernel of some microseconds on few
 * blocks stands for those of a small model; every figure is the median of ROUNDS rounds. */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define ROUNDS 7
#define CALLS 1000
#define KERNEL_NS 4000

enum marker { MARK_NONE, MARK_EVENT, MARK_TIMED, MARK_WRITE };

struct marks {
    CUevent event, timed;
    CUdeviceptr page;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), compare);
    return v[n / 2];
}

static bool set_up(struct probe *p, struct marks *m)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || p->cuEventCreate(&m->event, CU_EVENT_DISABLE_TIMING) ||
        p->cuEventCreate(&m->timed, CU_EVENT_DEFAULT))
        return false;
    if (!p->cuMemHostRegister_v2 || !p->cuMemHostGetDevicePointer_v2 || !p->cuStreamWriteValue32_v2)
        return true;
    if (probe_result(p, "marker.register",
                     p->cuMemHostRegister_v2(page, 4096, CU_MEMHOSTALLOC_PORTABLE |
                                                             CU_MEMHOSTALLOC_DEVICEMAP)) &&
        p->cuMemHostGetDevicePointer_v2(&m->page, page, 0))
        m->page = 0;
    if (m->page && !probe_result(p, "marker.write_value",
                                 p->cuStreamWriteValue32_v2(p->stream, m->page, 1, 0)))
        m->page = 0;
    p->cuStreamSynchronize(p->stream);
    if (m->page)
        probe_text("marker.write_arrives", *(volatile uint32_t *)page == 1 ? "yes" : "no");
    return true;
}

static CUresult mark(struct probe *p, const struct marks *m, enum marker kind, unsigned value)
{
    if (kind == MARK_EVENT)
        return p->cuEventRecord(m->event, p->stream);
    if (kind == MARK_TIMED)
        return p->cuEventRecord(m->timed, p->stream);
    if (kind == MARK_WRITE)
        return p->cuStreamWriteValue32_v2(p->stream, m->page, value, 0);
    return CUDA_SUCCESS;
}

/* CALLS kernels with a marker behind every |every|: microseconds per kernel, of the host until all
 * are submitted, and of the whole until all are done. */
static void run(struct probe *p, const struct marks *m, enum marker kind, int every, double *ret_host,
                double *ret_all)
{
    double host[ROUNDS], all[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        double start = probe_now_us();
        for (int i = 0; i < CALLS; i++) {
            probe_spin(p, p->stream, 8, KERNEL_NS);
            if (kind != MARK_NONE && i % every == every - 1)
                mark(p, m, kind, (unsigned)i);
        }
        host[r] = (probe_now_us() - start) / CALLS;
        p->cuStreamSynchronize(p->stream);
        all[r] = (probe_now_us() - start) / CALLS;
    }
    *ret_host = median(host, ROUNDS);
    *ret_all = median(all, ROUNDS);
}

static void markers(struct probe *p, const struct marks *m)
{
    static const int every[] = {1, 8, 32};
    static const char *const kinds[] = {"none", "event", "timed_event", "write"};
    double host0, all0, host, all;
    char name[64];
    run(p, m, MARK_NONE, 1, &host0, &all0);
    probe_number("launch.host_us", host0, "us per launch");
    probe_number("launch.stream_us", all0, "us per kernel of 4 us");
    for (int kind = MARK_EVENT; kind <= MARK_WRITE; kind++) {
        if (kind == MARK_WRITE && !m->page)
            continue;
        for (size_t i = 0; i < sizeof(every) / sizeof(every[0]); i++) {
            run(p, m, (enum marker)kind, every[i], &host, &all);
            snprintf(name, sizeof(name), "marker.%s_k%d_host_us", kinds[kind], every[i]);
            probe_number(name, host - host0, "us per kernel more");
            snprintf(name, sizeof(name), "marker.%s_k%d_stream_us", kinds[kind], every[i]);
            probe_number(name, all - all0, "us per kernel more");
        }
    }
}

static void round_trip(struct probe *p)
{
    double v[101];
    int n = (int)(sizeof(v) / sizeof(v[0]));
    for (int i = 0; i < n; i++) {
        double start = probe_now_us();
        probe_spin(p, p->stream, 1, 0);
        p->cuStreamSynchronize(p->stream);
        v[i] = probe_now_us() - start;
    }
    probe_number("launch.round_trip_us", median(v, n), "us, launch and wait");
}

/* Fifty kernels as one graph, as a small model is one. */
static void graph(struct probe *p)
{
    CUgraph graph;
    CUgraphExec exec;
    double host[51], all[51];
    int n = (int)(sizeof(host) / sizeof(host[0]));
    if (!p->cuStreamBeginCapture_v2 || !p->cuGraphInstantiateWithFlags ||
        p->cuStreamBeginCapture_v2(p->stream, CU_STREAM_CAPTURE_MODE_GLOBAL))
        return;
    for (int i = 0; i < 50; i++)
        probe_spin(p, p->stream, 8, KERNEL_NS);
    if (!probe_result(p, "graph.capture", p->cuStreamEndCapture(p->stream, &graph)) ||
        !probe_result(p, "graph.instantiate", p->cuGraphInstantiateWithFlags(&exec, graph, 0)))
        return;
    for (int i = 0; i < n; i++) {
        double start = probe_now_us();
        p->cuGraphLaunch(exec, p->stream);
        host[i] = probe_now_us() - start;
        p->cuStreamSynchronize(p->stream);
        all[i] = probe_now_us() - start;
    }
    probe_number("graph.launch_host_us", median(host, n), "us, 50 kernels of 4 us");
    probe_number("graph.round_trip_us", median(all, n), "us, 50 kernels of 4 us");
}

int probe_costs(struct probe *p)
{
    struct marks m = {0};
    if (!probe_open(p) || !set_up(p, &m))
        return 1;
    probe_spin(p, p->stream, 8, KERNEL_NS); /* the first launch loads the kernel */
    p->cuStreamSynchronize(p->stream);
    markers(p, &m);
    round_trip(p);
    graph(p);
    return 0;
}
