#include "openb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS 11
#define MODELS 32

static FILE *open_file(const char *name)
{
    char path[1024];
    const char *data = getenv("FAST_BENCH_DATA");
    if (data)
        snprintf(path, sizeof(path), "%s/%s", data, name);
    else
        snprintf(path, sizeof(path), "%s/../shared/data/%s", BENCH_SOURCE_ROOT, name);
    return fopen(path, "r");
}

/* Cuts |line| at its commas; empty fields stay. */
static int split(char *line, char *field[FIELDS])
{
    int n = 0;
    line[strcspn(line, "\r\n")] = 0;
    for (char *at = line; at && n < FIELDS;) {
        field[n++] = at;
        at = strchr(at, ',');
        if (at)
            *at++ = 0;
    }
    return n;
}

struct models {
    char name[MODELS][16];
    int n;
};

static int model_of(struct models *m, const char *name)
{
    int i = 0;
    while (i < m->n && strcmp(m->name[i], name) != 0)
        i++;
    if (i == m->n && i < MODELS - 1)
        snprintf(m->name[m->n++], sizeof(m->name[0]), "%s", name);
    return i;
}

static void *more(void *at, int n, size_t size)
{
    if (n & (n - 1))
        return at;
    at = realloc(at, size * (n ? 2 * (size_t)n : 1));
    if (!at)
        abort();
    return at;
}

static void read_nodes(struct openb *t, FILE *f, struct models *models)
{
    char line[512], *field[FIELDS];
    while (fgets(line, sizeof(line), f)) {
        if (split(line, field) < 5 || !strcmp(field[0], "sn"))
            continue;
        t->nodes = more(t->nodes, t->nnodes, sizeof(*t->nodes));
        t->nodes[t->nnodes++] = (struct openb_node){atoi(field[1]), atoi(field[2]), atoi(field[3]),
                                                    model_of(models, field[4])};
        t->ngpus += atoi(field[3]);
    }
}

static void read_pods(struct openb *t, FILE *f, struct models *models)
{
    char line[512], *field[FIELDS], *save;
    while (fgets(line, sizeof(line), f)) {
        if (split(line, field) < 6 || !strcmp(field[0], "name"))
            continue;
        struct openb_pod pod = {atoi(field[1]), atoi(field[2]), atoi(field[3]), atoi(field[4]), 0};
        for (char *s = strtok_r(field[5], "|", &save); s; s = strtok_r(NULL, "|", &save))
            pod.spec |= 1u << model_of(models, s);
        t->pods = more(t->pods, t->npods, sizeof(*t->pods));
        t->pods[t->npods++] = pod;
        if (pod.gpus != 1 || pod.milli >= 1000)
            continue;
        t->share = more(t->share, t->sharing, sizeof(*t->share));
        t->share[t->sharing++] = pod.milli;
    }
}

bool openb_read(struct openb *ret, char why[200])
{
    struct models models = {0};
    FILE *nodes = open_file("openb_gpu_nodes.csv"), *pods = open_file("openb_pods_default.csv");
    *ret = (struct openb){0};
    if (nodes && pods) {
        read_nodes(ret, nodes, &models);
        read_pods(ret, pods, &models);
    }
    if (nodes)
        fclose(nodes);
    if (pods)
        fclose(pods);
    bool ok = ret->npods && ret->nnodes;
    for (int i = 0; i < ret->nnodes; i++)
        ok = ok && ret->nodes[i].gpus <= OPENB_GPUS;
    if (!ok) {
        openb_fini(ret);
        snprintf(why, 200, "the openb trace is not there (../shared/data, or FAST_BENCH_DATA)");
    }
    return ok;
}

void openb_fini(struct openb *trace)
{
    free(trace->pods);
    free(trace->nodes);
    free(trace->share);
    *trace = (struct openb){0};
}
