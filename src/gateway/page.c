/* The text of the metrics page, whatever is on it. */
#include "gateway/metrics.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digits.h"
#include "gateway/stats.h"

#define ESCAPED 5 /* bytes that one may become, at most */

static bool make_room(struct gw_page *w, size_t bytes)
{
    size_t cap = w->cap ? w->cap : 16384;
    while (cap - w->len < bytes)
        cap *= 2;
    char *p = cap == w->cap ? w->p : realloc(w->p, cap);
    if (!p) {
        w->failed = true;
        return false;
    }
    w->p = p;
    w->cap = cap;
    return true;
}

void gw_page_add(struct gw_page *w, const char *fmt, ...)
{
    va_list ap;
    for (size_t room = 256; make_room(w, room);) {
        size_t have = w->cap - w->len;
        va_start(ap, fmt);
        int n = vsnprintf(w->p + w->len, have, fmt, ap);
        va_end(ap);
        if (n < 0)
            w->failed = true;
        else if ((size_t)n < have)
            w->len += (size_t)n;
        else {
            room = (size_t)n + 1;
            continue;
        }
        return;
    }
}

static void put(struct gw_page *w, const char *text, size_t len)
{
    if (!make_room(w, len))
        return;
    memcpy(w->p + w->len, text, len);
    w->len += len;
}

void gw_page_put(struct gw_page *w, const char *text)
{
    put(w, text, strlen(text));
}

void gw_page_count(struct gw_page *w, uint64_t value)
{
    char line[FAST_DIGITS_MAX + 1];
    size_t len = fast_digits(line, value);
    line[len++] = '\n';
    put(w, line, len);
}

void gw_page_milli(struct gw_page *w, uint64_t milli)
{
    if (milli % 1000)
        gw_page_add(w, "%llu.%03llu\n", (unsigned long long)(milli / 1000), (unsigned long long)(milli % 1000));
    else
        gw_page_count(w, milli / 1000);
}

void gw_page_join(struct gw_page *w, struct gw_page *from)
{
    if (from->p)
        put(w, from->p, from->len);
    w->failed = w->failed || from->failed;
    free(from->p);
    *from = (struct gw_page){0};
}

void gw_page_histogram(struct gw_page *w, const char *name, const char *labels, const struct gw_times *t)
{
    for (int i = 0; i < GW_BOUNDS; i++)
        gw_page_add(w, "%s_bucket{%s,le=\"%s%s\"} %llu\n", name, labels, gw_stats_bound_names[i],
                    w->open && !strchr(gw_stats_bound_names[i], '.') ? ".0" : "", (unsigned long long)t->le[i]);
    gw_page_add(w, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)t->count);
    gw_page_add(w, "%s_sum{%s} %.15g\n%s_count{%s} %llu\n", name, labels, t->sum_s, name, labels,
                (unsigned long long)t->count);
}

void gw_page_head(struct gw_page *w, const char *name, const char *type, const char *help)
{
    size_t len = strlen(name);
    bool counter = !strcmp(type, "counter");
    bool total = len > 6 && !strcmp(name + len - 6, "_total");
    if (w->open && counter && total)
        len -= 6; /* the family is named without it */
    else if (w->open && counter)
        type = "unknown";
    gw_page_add(w, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)len, name, help, (int)len, name, type);
}

/* Bytes of the UTF-8 character at |p|; 0: it is none. */
static size_t character(const unsigned char *p)
{
    size_t n = *p < 0x80 ? 1 : *p >= 0xc2 && *p < 0xe0 ? 2 : *p >= 0xe0 && *p < 0xf0 ? 3
                                                         : *p >= 0xf0 && *p < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool longer = (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xf0 && p[1] < 0x90);
    bool outside = (*p == 0xed && p[1] >= 0xa0) || (*p == 0xf4 && p[1] >= 0x90);
    return longer || outside ? 0 : n;
}

const char *gw_page_label(const char *text, char *ret, size_t cap)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p && n + ESCAPED < cap;) {
        size_t bytes = character(p);
        if (bytes == 0) {
            n += (size_t)snprintf(ret + n, cap - n, "\\\\x%02x", *p++);
            continue;
        }
        if (*p == '\\' || *p == '"' || *p == '\n')
            ret[n++] = '\\';
        for (size_t i = 0; i < bytes; i++, p++)
            ret[n++] = *p == '\n' ? 'n' : (char)*p;
    }
    ret[n] = '\0';
    return ret;
}
