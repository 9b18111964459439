#include "base/log.h"

#include <stdio.h>

#define LINE_MAX_LEN 1024

enum fast_log_level fast_log_max = FAST_LOG_INFO;
static fast_log_sink *log_sink;

void fast_log_set(enum fast_log_level max, fast_log_sink *sink)
{
    fast_log_max = max;
    log_sink = sink;
}

void fast_log_write(enum fast_log_level level, const char *event, const char *fmt, ...)
{
    if (!log_sink)
        return;
    char pairs[LINE_MAX_LEN];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(pairs, sizeof(pairs), fmt, ap);
    va_end(ap);
    for (char *p = pairs; *p; p++) /* a hostile name must not forge a line */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    log_sink(level, event, pairs);
}

const char *fast_log_level_name(enum fast_log_level level)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    return names[level];
}
