#ifndef FAST_BENCH_H
#define FAST_BENCH_H

/* What every bench program shares: its list of figures, and how one is printed. A figure is one line
 * of JSON on stdout:
 *   {"name": "sim.x", "value": 1.5, "unit": "%", "n": 35, "spread": 0.2, "target": "<= 10",
 *    "pass": true}
 * |target| is "<= N", ">= N" or absent (then |pass| is null). A program called with --list prints
 * the names of its figures instead; arguments are the names that are wanted, none means all. */

#include <stdbool.h>

struct bench_figure {
    const char *name, *unit;
    const char *target; /* NULL: only reported */
};

struct bench {
    const struct bench_figure *figures;
    int count;
    int argc;
    char **argv;
};

/* Handles --list (then it does not return). */
void bench_init(struct bench *b, const struct bench_figure *figures, int count, int argc,
                char **argv);

/* True when figure |name| is wanted. */
bool bench_wants(const struct bench *b, const char *name);

/* |n|: measurements behind it; |spread|: their standard deviation or range, as the unit. */
void bench_print(const struct bench *b, const char *name, double value, long n, double spread);

/* The figure could not be measured here; |why| is printed with it. */
void bench_skip(const struct bench *b, const char *name, const char *why);

double bench_now_s(void);

#endif
