#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void bench_init(struct bench *b, const struct bench_figure *figures, int count, int argc,
                char **argv)
{
    *b = (struct bench){.figures = figures, .count = count, .argc = argc, .argv = argv};
    if (argc != 2 || strcmp(argv[1], "--list") != 0)
        return;
    for (int i = 0; i < count; i++)
        puts(figures[i].name);
    exit(0);
}

bool bench_wants(const struct bench *b, const char *name)
{
    for (int i = 1; i < b->argc; i++)
        if (strcmp(b->argv[i], name) == 0)
            return true;
    return b->argc <= 1;
}

static const struct bench_figure *find(const struct bench *b, const char *name)
{
    for (int i = 0; i < b->count; i++)
        if (strcmp(b->figures[i].name, name) == 0)
            return &b->figures[i];
    fprintf(stderr, "bench: the figure %s is not in the list\n", name);
    abort();
}

static const char *verdict(const char *target, double value)
{
    if (!target)
        return "null";
    double bound = strtod(target + 2, NULL);
    bool pass = target[0] == '<' ? value <= bound : value >= bound;
    return pass ? "true" : "false";
}

void bench_print(const struct bench *b, const char *name, double value, long n, double spread)
{
    const struct bench_figure *f = find(b, name);
    printf("{\"name\": \"%s\", \"value\": ", f->name);
    if (isfinite(value))
        printf("%.6g", value);
    else
        printf("null");
    printf(", \"unit\": \"%s\", \"n\": %ld, \"spread\": %.4g, \"target\": ", f->unit, n, spread);
    if (f->target)
        printf("\"%s\", \"pass\": %s}\n", f->target, verdict(f->target, value));
    else
        printf("null, \"pass\": null}\n");
    fflush(stdout);
}

void bench_skip(const struct bench *b, const char *name, const char *why)
{
    const struct bench_figure *f = find(b, name);
    printf("{\"name\": \"%s\", \"value\": null, \"unit\": \"%s\", \"n\": 0, \"spread\": 0, "
           "\"target\": %s%s%s, \"pass\": null, \"skipped\": \"%s\"}\n",
           f->name, f->unit, f->target ? "\"" : "", f->target ? f->target : "null",
           f->target ? "\"" : "", why);
    fflush(stdout);
}

double bench_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
