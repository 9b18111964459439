/* The doubling stops at the longest wait; a list of codes may have commas or blanks between them. */

#include "gateway/retry.h"

#include <stdio.h>
#include <string.h>

#include "base/parse.h"

#define ATTEMPTS 10
#define WAIT_MIN FAST_S(1)
#define WAIT_MAX FAST_S(120)

struct gw_retry gw_retry_of(const struct gw_spec *spec)
{
    struct gw_retry r = {ATTEMPTS, WAIT_MIN, WAIT_MAX, NULL};
    if (!spec)
        return r;
    const char *n = gw_spec_map(spec, "annotations", "com.openfaas.retry.attempts");
    const char *min = gw_spec_map(spec, "annotations", "com.openfaas.retry.min_wait");
    const char *max = gw_spec_map(spec, "annotations", "com.openfaas.retry.max_wait");
    r.codes = gw_spec_map(spec, "annotations", "com.openfaas.retry.codes");
    if (n)
        fast_parse_int(n, "attempts", 1, 1000, &r.attempts, NULL);
    if (min)
        fast_parse_duration(min, "min_wait", FAST_MS(1), FAST_S(86400), &r.min, NULL);
    if (max)
        fast_parse_duration(max, "max_wait", FAST_MS(1), FAST_S(86400), &r.max, NULL);
    return r;
}

static bool is_listed(const char *list, int code)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", code);
    size_t n = strlen(text);
    for (const char *p = list; (p = strstr(p, text)); p += n)
        if ((p == list || strchr(", ", p[-1])) && (!p[n] || strchr(", ", p[n])))
            return true;
    return false;
}

/* 503 is what the gateway says while replicas are being started. */
bool gw_retry_passes(const struct gw_retry *r, int status)
{
    static const char by_default[] = "408,429,500,502,503,504";
    return status == 0 || is_listed(r->codes ? r->codes : by_default, status);
}

fast_ns gw_retry_wait(const struct gw_retry *r, int attempts)
{
    fast_ns wait = r->min;
    for (int i = 1; i < attempts && wait < r->max; i++)
        wait *= 2;
    return wait < r->max ? wait : r->max;
}
