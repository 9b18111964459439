#ifndef FAST_BASE_LOG_H
#define FAST_BASE_LOG_H

/* One log line: level, event, key=value pairs. Only main.c and the session files of a daemon log;
 * libraries return errors. The level is tested before the arguments are evaluated. The sink that
 * writes lives in io/; without one nothing is written. */

#include <stdarg.h>

enum fast_log_level { FAST_LOG_ERROR, FAST_LOG_WARN, FAST_LOG_INFO, FAST_LOG_DEBUG };

/* |event| and the formatted pairs belong to the caller and end with the call. */
typedef void fast_log_sink(enum fast_log_level level, const char *event, const char *pairs);

extern enum fast_log_level fast_log_max;

void fast_log_set(enum fast_log_level max, fast_log_sink *sink);
void fast_log_write(enum fast_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* fast_log(WARN, "grant late", "client=%d over_us=%d", id, us); a call without pairs passes "%s",
 * "" as its format. */
#define fast_log(level, event, ...)                                                                \
    do {                                                                                           \
        if (FAST_LOG_##level <= fast_log_max)                                                      \
            fast_log_write(FAST_LOG_##level, event, __VA_ARGS__);                                  \
    } while (0)

const char *fast_log_level_name(enum fast_log_level level);

#endif
