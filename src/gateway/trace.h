#ifndef FAST_GATEWAY_TRACE_H
#define FAST_GATEWAY_TRACE_H

/* Tracing by W3C Trace Context: a request to a function becomes a span, child of the caller's when the
 * caller sent a traceparent, and the function is told the span as its parent. Spans go out as OTLP in
 * JSON: to a file, one ExportTraceServiceRequest a line, or to an http URL. */

#include <stdbool.h>
#include <stddef.h>

#include "io/loop.h"

struct gw_tracer;

/* Of one request. Identifiers are in hex. */
struct gw_trace {
    bool on;      /* this program traces: the fields below are set */
    bool sampled; /* the span is exported */
    char id[33], span[17], parent[17]; /* parent "": it is the first one */
};

struct gw_trace_end {
    const char *name, *ns, *method, *replica, *call_id; /* replica "": none */
    int status;         /* 0: the caller went away */
    fast_ns from, to;   /* wall clock */
    fast_ns waited;     /* before it was sent to a replica */
    int attempts;
};

/* Whether |text| is a traceparent: id, parent and sampled are set. Versions above 00 may have more. */
bool gw_traceparent_parse(const char *text, size_t len, struct gw_trace *ret);
/* "traceparent: 00-...\r\n" for the function. */
void gw_trace_line(const struct gw_trace *t, char ret[80]);
/* The span as JSON of OTLP into |buf|; its length. */
size_t gw_trace_json(const struct gw_trace *t, const struct gw_trace_end *e, char *buf, size_t cap);

/* |where|: a path, or an http URL such as http://127.0.0.1:4318/v1/traces. */
int gw_tracer_new(struct fast_loop *loop, const char *where, struct gw_tracer **ret,
                  struct fast_err *err);
/* At the end, again and again: sends what is left; whether nothing is on its way any more, or it has been waited for
 * for long enough. NULL is fine. */
bool gw_tracer_is_done(struct gw_tracer *t);
void gw_tracer_free(struct gw_tracer *t); /* writes what is left to the file; NULL is fine */
/* Begins the span of a request. |parent|: its traceparent, NULL: none. |random|: 24 bytes. */
void gw_trace_begin(struct gw_trace *t, const char *parent, size_t len, const unsigned char *random);
void gw_trace_finish(struct gw_tracer *t, const struct gw_trace *trace, const struct gw_trace_end *e);

#endif
