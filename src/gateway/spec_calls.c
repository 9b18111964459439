/* Decides how requests are handed to a function and what it may use, from its annotations and limits, and from
 * the time-outs that watchdogs of OpenFaaS have in the environment. */

#include "gateway/spec.h"

#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "wire/page.h"

#define NOTE "fastgshare/"
#define INFLIGHT_MAX 100000
#define BATCH_MAX 1024
#define CPU_MILLI_MAX 1024000

/* Go's durations, and bare seconds: "60", "1m30s". 0 is no time-out. */
static int parse_timeout(const char *text, const char *what, fast_ns *ret, struct fast_err *err)
{
    int64_t seconds = 0;
    if (!text[strspn(text, "0123456789")]) {
        int r = fast_parse_int(text, what, 0, 86400, &seconds, err);
        if (!r)
            *ret = seconds * FAST_S(1);
        return r;
    }
    return fast_parse_duration(text, what, 0, FAST_S(86400), ret, err);
}

/* exec_timeout is the function's own limit; without it what the watchdog grants to an answer. */
static int parse_timeouts(struct gw_spec *s, struct fast_err *err)
{
    static const char *const names[] = {"exec_timeout", "write_timeout", "read_timeout"};
    int r = 0;
    for (int i = 0; !r && i < 3 && !s->timeout; i++) {
        const char *text = gw_spec_map(s, "envVars", names[i]);
        if (!text)
            text = gw_spec_map(s, "annotations", names[i]);
        if (text)
            r = parse_timeout(text, names[i], &s->timeout, err);
    }
    return r;
}

/* "N,T": up to N requests, of which the first waits T for others. */
static int parse_batch(struct gw_spec *s, const char *text, struct fast_err *err)
{
    char count[16];
    int64_t n = 0;
    const char *comma = strchr(text, ',');
    if (!comma || (size_t)(comma - text) >= sizeof(count))
        return fast_err_set(err, FAST_EINVAL, NOTE "batch: \"%.40s\" is not such as \"8,5ms\"", text);
    snprintf(count, sizeof(count), "%.*s", (int)(comma - text), text);
    int r = fast_parse_int(count, NOTE "batch", 1, BATCH_MAX, &n, err);
    if (!r)
        r = fast_parse_duration(comma + 1 + strspn(comma + 1, " "), NOTE "batch", 0, FAST_S(60),
                                &s->batch_wait, err);
    s->batch_max = r ? 0 : (int)n;
    return r;
}

/* Kubernetes' quantities of |map|: "64Mi", "1G"; "100m", "0.5" and "2" cores. */
static int parse_quantities(const struct gw_spec *s, const char *map, uint64_t *ret_bytes, uint64_t *ret_milli,
                            struct fast_err *err)
{
    const char *memory = gw_spec_map(s, map, "memory"), *cpu = gw_spec_map(s, map, "cpu");
    size_t n = cpu ? strlen(cpu) : 0;
    char milli[32], what[32];
    int64_t value = 0;
    snprintf(what, sizeof(what), "%s.memory", map);
    int r = memory ? fast_parse_bytes(memory, what, INT64_MAX / 2, ret_bytes, err) : 0;
    snprintf(what, sizeof(what), "%s.cpu", map);
    if (!r && n > 1 && n < sizeof(milli) && cpu[n - 1] == 'm') {
        snprintf(milli, sizeof(milli), "%.*s", (int)n - 1, cpu);
        snprintf(what, sizeof(what), "%s.cpu in m", map);
        r = fast_parse_int(milli, what, 1, CPU_MILLI_MAX, &value, err);
    } else if (!r && cpu) {
        r = fast_parse_milli(cpu, what, 1, CPU_MILLI_MAX, &value, err);
    }
    *ret_milli = (uint64_t)value;
    return r;
}

/* Nothing is reserved for requests, but a typing error in them is told as one in limits is. */
static int parse_limits(struct gw_spec *s, struct fast_err *err)
{
    uint64_t bytes = 0, milli = 0;
    int r = parse_quantities(s, "limits", &s->memory_max, &s->cpu_milli, err);
    return r ? r : parse_quantities(s, "requests", &bytes, &milli, err);
}

int gw_spec_calls(struct gw_spec *s, struct fast_err *err)
{
    const char *inflight = gw_spec_map(s, "annotations", NOTE "max_inflight");
    const char *repeatable = gw_spec_map(s, "annotations", NOTE "repeatable");
    const char *batch = gw_spec_map(s, "annotations", NOTE "batch");
    const char *socket = gw_spec_map(s, "annotations", NOTE "socket");
    const char *wait = gw_spec_map(s, "annotations", NOTE "gpu_mem_wait");
    int64_t n = 0;
    int r = parse_timeouts(s, err);
    r = r ? r : parse_limits(s, err);
    if (!r && inflight)
        r = fast_parse_int(inflight, NOTE "max_inflight", 0, INFLIGHT_MAX, &n, err);
    s->max_inflight = (int)n;
    if (!r && wait)
        r = fast_parse_duration(wait, NOTE "gpu_mem_wait", 0, FAST_MEM_WAIT_MAX, &s->mem_wait, err);
    if (!r && repeatable)
        r = fast_parse_bool(repeatable, NOTE "repeatable", &s->repeatable, err);
    if (!r && batch)
        r = parse_batch(s, batch, err);
    if (!r && socket && strcmp(socket, "unix") && strcmp(socket, "tcp"))
        r = fast_err_set(err, FAST_EINVAL, NOTE "socket: \"%.20s\" is neither unix nor tcp", socket);
    s->local_socket = socket && !strcmp(socket, "unix");
    return r;
}
