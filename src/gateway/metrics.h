#ifndef FAST_GATEWAY_METRICS_H
#define FAST_GATEWAY_METRICS_H

/* The metrics page while it is written, in one of two text formats: that of Prometheus (0.0.4), or
 * OpenMetrics 1.0 for who asks for it. Values are named once; the head puts in what the format wants. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fast_http_req;
struct gateway;
struct gw_times;

struct gw_page {
    char *p; /* NULL: nothing written, or no memory */
    size_t len, cap;
    bool open;   /* OpenMetrics */
    bool failed; /* something is missing */
};

void gw_page_add(struct gw_page *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same without a format: a page of 10,000 functions is mostly of these. */
void gw_page_put(struct gw_page *w, const char *text);
void gw_page_count(struct gw_page *w, uint64_t value); /* and the end of the line */
void gw_page_milli(struct gw_page *w, uint64_t milli); /* the same, thousandths */
/* |from| behind |w|; it is empty then, and nothing is left to be freed. */
void gw_page_join(struct gw_page *w, struct gw_page *from);
/* The series of a histogram with |labels|, without braces. */
void gw_page_histogram(struct gw_page *w, const char *name, const char *labels, const struct gw_times *times);
/* Begins a family. A counter's |name| is that of its samples; OpenMetrics knows only those as counters that
 * end in "_total", and the others, which are OpenFaaS' own, are of type unknown there. */
void gw_page_head(struct gw_page *w, const char *name, const char *type, const char *help);
/* |text| as the value of a label, into |ret| of |cap| bytes, GW_LABEL(bytes of |text|) for all of it; cut short
 * between characters where it does not fit. What is not UTF-8 stands there as "\xNN". */
#define GW_LABEL(bytes) (5 * (bytes) + 6)
const char *gw_page_label(const char *text, char *ret, size_t cap);

/* Answers with the whole page. */
void gw_metrics_reply(struct gateway *gw, struct fast_http_req *req);
/* Requests to the API. */
void gw_metrics_api(struct gw_page *w, const struct gateway *gw);
/* CPU time and memory of replicas. */
void gw_metrics_usage(struct gw_page *w, const struct gateway *gw);
/* GPUs, with the names of DCGM beside our own, and replicas. */
void gw_metrics_gpus(struct gw_page *w, const struct gateway *gw);
void gw_metrics_replicas(struct gw_page *w, const struct gateway *gw);

#endif
