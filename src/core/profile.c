/* The profile table of a function. It decides what throughput and latency a configuration has, from
 * the measured ones. It assumes that throughput per quota does not grow with the quota, which makes
 * the proportional values below the smallest measured configuration the cautious ones. */

#include "core/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"

#define LATENCY_MAX_MS INT64_C(3600000) /* an hour */

struct fast_profile {
    int n;
    struct fast_profile_point points[];
};

static int by_place(const void *a, const void *b)
{
    const struct fast_profile_point *x = a, *y = b;
    if (x->sm_pct != y->sm_pct)
        return x->sm_pct < y->sm_pct ? -1 : 1;
    return (x->quota_milli > y->quota_milli) - (x->quota_milli < y->quota_milli);
}

static int check_point(const struct fast_profile_point *p, struct fast_err *err)
{
    if (p->sm_pct < 1 || p->sm_pct > FAST_SM_PCT_MAX)
        return fast_err_set(err, FAST_EINVAL, "sm: %d is not from 1 to 100 %%", p->sm_pct);
    if (p->quota_milli < 1 || p->quota_milli > FAST_MILLI)
        return fast_err_set(err, FAST_EINVAL, "quota: %d thousandths is not from 1 to 1000",
                            p->quota_milli);
    if (p->rps_milli < 0 || p->rps_milli > FAST_PROFILE_RPS_MAX)
        return fast_err_set(err, FAST_EINVAL, "rps: %lld thousandths is not from 0 to %lld",
                            (long long)p->rps_milli, (long long)FAST_PROFILE_RPS_MAX);
    if (p->p95_ns < 0 || p->p95_ns > FAST_MS(LATENCY_MAX_MS) || p->p99_ns < p->p95_ns ||
        p->p99_ns > FAST_MS(LATENCY_MAX_MS))
        return fast_err_set(err, FAST_EINVAL,
                            "latency: p95 %lld ns and p99 %lld ns are not 0 <= p95 <= p99 <= 1 h",
                            (long long)p->p95_ns, (long long)p->p99_ns);
    return 0;
}

int fast_profile_new(const struct fast_profile_point *points, int n, struct fast_profile **ret,
                     struct fast_err *err)
{
    if (n < 1 || n > FAST_PROFILE_POINTS_MAX)
        return fast_err_set(err, FAST_EINVAL, "a profile has 1 to %d configurations, not %d",
                            FAST_PROFILE_POINTS_MAX, n);
    for (int i = 0; i < n; i++)
        if (check_point(&points[i], err))
            return -FAST_EINVAL;
    struct fast_profile *profile = malloc(sizeof(*profile) + sizeof(points[0]) * (size_t)n);
    if (!profile)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a profile");
    profile->n = n;
    memcpy(profile->points, points, sizeof(points[0]) * (size_t)n);
    qsort(profile->points, (size_t)n, sizeof(points[0]), by_place);
    for (int i = 1; i < n; i++)
        if (!by_place(&profile->points[i - 1], &profile->points[i])) {
            fast_err_set(err, FAST_EINVAL, "configuration SM %d %% x quota %d thousandths is there "
                         "twice", profile->points[i].sm_pct, profile->points[i].quota_milli);
            free(profile);
            return -FAST_EINVAL;
        }
    *ret = profile;
    return 0;
}

void fast_profile_free(struct fast_profile *profile)
{
    free(profile);
}

int fast_profile_count(const struct fast_profile *profile)
{
    return profile->n;
}

const struct fast_profile_point *fast_profile_at(const struct fast_profile *profile, int i)
{
    return &profile->points[i];
}

/* The columns of the table. */
enum column { COL_SM, COL_QUOTA, COL_RPS, COL_P95, COL_P99, COLUMNS };
static const char *const column_names[COLUMNS] = {"sm", "quota", "rps", "p95_ms", "p99_ms"};

#define FIELD_MAX 32

/* Copies the field at |*at| without blanks around it and moves |*at| behind its comma, or to the end
 * of the line. False: it is too long. */
static bool next_field(const char **at, const char *end, char ret[FIELD_MAX])
{
    const char *stop = memchr(*at, ',', (size_t)(end - *at));
    const char *last = stop ? stop : end, *first = *at;
    *at = stop ? stop + 1 : end;
    while (first < last && (*first == ' ' || *first == '\t'))
        first++;
    while (first < last && (last[-1] == ' ' || last[-1] == '\t' || last[-1] == '\r'))
        last--;
    if (last - first >= FIELD_MAX)
        return false;
    memcpy(ret, first, (size_t)(last - first));
    ret[last - first] = '\0';
    return true;
}

static int count_fields(const char *at, const char *end)
{
    int n = 1;
    for (; at < end; at++)
        n += *at == ',';
    return n;
}

/* Reads the header into |ret| (which column each field is) and returns how many there are. */
static int parse_header(const char *at, const char *end, enum column ret[COLUMNS],
                        struct fast_err *err)
{
    int n = count_fields(at, end);
    unsigned seen = 0;
    for (int i = 0; i < n && n <= COLUMNS; i++) {
        char field[FIELD_MAX];
        int c = 0;
        bool ok = next_field(&at, end, field);
        while (ok && c < COLUMNS && strcmp(field, column_names[c]))
            c++;
        if (!ok || c == COLUMNS || seen & 1u << c)
            return fast_err_set(err, FAST_EINVAL,
                                "header: field %d is not one of sm, quota, rps, p95_ms, p99_ms, "
                                "each once", i + 1);
        seen |= 1u << c;
        ret[i] = (enum column)c;
    }
    if (n > COLUMNS || (seen & 0xf) != 0xf)
        return fast_err_set(err, FAST_EINVAL,
                            "header: the columns are sm, quota, rps, p95_ms and perhaps p99_ms");
    return n;
}

static int parse_value(enum column column, const char *text, struct fast_profile_point *ret,
                       struct fast_err *err)
{
    int64_t v = 0;
    int rc = -FAST_EBUG;
    switch (column) {
    case COL_SM:
        rc = fast_parse_int(text, "sm", 1, FAST_SM_PCT_MAX, &v, err);
        ret->sm_pct = (int)v;
        break;
    case COL_QUOTA:
        rc = fast_parse_milli(text, "quota", 1, FAST_MILLI, &v, err);
        ret->quota_milli = (int)v;
        break;
    case COL_RPS:
        rc = fast_parse_milli(text, "rps", 0, FAST_PROFILE_RPS_MAX, &ret->rps_milli, err);
        break;
    case COL_P95:
    case COL_P99:
        rc = fast_parse_milli(text, column_names[column], 0, LATENCY_MAX_MS * 1000, &v, err);
        *(column == COL_P95 ? &ret->p95_ns : &ret->p99_ns) = FAST_US(v);
        break;
    case COLUMNS:
        break;
    }
    return rc;
}

static int parse_row(const char *at, const char *end, const enum column *columns, int n,
                     struct fast_profile_point *ret, struct fast_err *err)
{
    int fields = count_fields(at, end);
    if (fields != n)
        return fast_err_set(err, FAST_EINVAL, "%d fields, the header has %d", fields, n);
    *ret = (struct fast_profile_point){.p99_ns = -1};
    for (int i = 0; i < n; i++) {
        char field[FIELD_MAX];
        if (!next_field(&at, end, field))
            return fast_err_set(err, FAST_EINVAL, "%s: more than %d characters",
                                column_names[columns[i]], FIELD_MAX - 1);
        if (parse_value(columns[i], field, ret, err))
            return -FAST_EINVAL;
    }
    if (ret->p99_ns < 0)
        ret->p99_ns = ret->p95_ns;
    return check_point(ret, err);
}

int fast_profile_parse(const char *text, struct fast_profile **ret, struct fast_err *err)
{
    enum column columns[COLUMNS];
    int ncolumns = 0, n = 0, line = 0;
    fast_autofree struct fast_profile_point *points =
        malloc(sizeof(*points) * FAST_PROFILE_POINTS_MAX);
    if (!points)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a profile");
    while (*text) {
        const char *at = text, *end = at + strcspn(at, "\n");
        text = *end ? end + 1 : end;
        line++;
        if (*at == '#' || strspn(at, " \t\r") >= (size_t)(end - at))
            continue;
        if (n == FAST_PROFILE_POINTS_MAX)
            return fast_err_set(err, FAST_EINVAL, "line %d: a profile has at most %d configurations",
                                line, FAST_PROFILE_POINTS_MAX);
        int rc;
        if (!ncolumns)
            rc = ncolumns = parse_header(at, end, columns, err);
        else
            rc = parse_row(at, end, columns, ncolumns, &points[n++], err);
        if (rc < 0)
            return fast_err_wrap(err, "line %d", line);
    }
    if (!n)
        return fast_err_set(err, FAST_EINVAL, "the profile has no configuration");
    return fast_profile_new(points, n, ret, err);
}

/* a + (b - a) * num / den, for 0 <= num <= den: between a and b. */
static int64_t between(int64_t a, int64_t b, int num, int den)
{
    return a + (b - a) * num / den;
}

static struct fast_profile_point mix(const struct fast_profile_point *a,
                                     const struct fast_profile_point *b, int num, int den)
{
    struct fast_profile_point p = *a;
    p.rps_milli = between(a->rps_milli, b->rps_milli, num, den);
    p.p95_ns = between(a->p95_ns, b->p95_ns, num, den);
    p.p99_ns = between(a->p99_ns, b->p99_ns, num, den);
    return p;
}

/* What is left of |p| with num / den (at most 1) of the resource. */
static struct fast_profile_point shrink(const struct fast_profile_point *p, int num, int den)
{
    struct fast_profile_point s = *p;
    s.rps_milli = p->rps_milli * num / den;
    s.p95_ns = p->p95_ns * den / num;
    s.p99_ns = p->p99_ns * den / num;
    return s;
}

/* The value at |quota| among the points [first, last] of one SM partition. */
static struct fast_profile_point look_row(const struct fast_profile *profile, int first, int last,
                                          int quota)
{
    const struct fast_profile_point *p = profile->points;
    if (quota < p[first].quota_milli)
        return shrink(&p[first], quota, p[first].quota_milli);
    while (first < last && p[first + 1].quota_milli <= quota)
        first++;
    if (first == last)
        return p[last];
    return mix(&p[first], &p[first + 1], quota - p[first].quota_milli,
               p[first + 1].quota_milli - p[first].quota_milli);
}

/* The last point of the SM partition that point |first| is the first of. */
static int row_last(const struct fast_profile *profile, int first)
{
    int last = first;
    while (last + 1 < profile->n && profile->points[last + 1].sm_pct == profile->points[first].sm_pct)
        last++;
    return last;
}

struct fast_profile_point fast_profile_look(const struct fast_profile *profile, int sm_pct,
                                            int quota_milli)
{
    int sm = sm_pct < 1 ? 1 : sm_pct, quota = quota_milli < 1 ? 1 : quota_milli;
    const struct fast_profile_point *p = profile->points;
    int first = 0, last = row_last(profile, 0);
    struct fast_profile_point ret = look_row(profile, first, last, quota);
    if (sm < p[0].sm_pct) {
        ret = shrink(&ret, sm, p[0].sm_pct);
    } else {
        while (last + 1 < profile->n && p[last + 1].sm_pct <= sm) {
            first = last + 1;
            last = row_last(profile, first);
        }
        ret = look_row(profile, first, last, quota);
        if (last + 1 < profile->n && sm > p[first].sm_pct) {
            int next = last + 1;
            struct fast_profile_point above =
                look_row(profile, next, row_last(profile, next), quota);
            ret = mix(&ret, &above, sm - p[first].sm_pct, p[next].sm_pct - p[first].sm_pct);
        }
    }
    ret.sm_pct = sm;
    ret.quota_milli = quota;
    return ret;
}

int64_t fast_profile_rpr_milli(const struct fast_profile_point *point)
{
    return point->rps_milli * FAST_MILLI * FAST_SM_PCT_MAX / ((int64_t)point->sm_pct * point->quota_milli);
}

int fast_profile_rpr_cmp(const struct fast_profile_point *a, const struct fast_profile_point *b)
{
    int64_t x = a->rps_milli * b->sm_pct * b->quota_milli;
    int64_t y = b->rps_milli * a->sm_pct * a->quota_milli;
    return (x > y) - (x < y);
}

size_t fast_profile_print(const struct fast_profile *profile, char *buf, size_t len)
{
    size_t used = 0;
    for (int i = -1; i < profile->n; i++) {
        const struct fast_profile_point *p = &profile->points[i < 0 ? 0 : i];
        char *to = used < len ? buf + used : NULL;
        size_t room = used < len ? len - used : 0;
        long long p95 = (long long)p->p95_ns / 1000, p99 = (long long)p->p99_ns / 1000;
        int n = i < 0 ? snprintf(to, room, "sm,quota,rps,p95_ms,p99_ms\n")
                      : snprintf(to, room, "%d,%d.%03d,%lld.%03lld,%lld.%03lld,%lld.%03lld\n",
                                 p->sm_pct, p->quota_milli / 1000, p->quota_milli % 1000,
                                 (long long)p->rps_milli / 1000, (long long)p->rps_milli % 1000,
                                 p95 / 1000, p95 % 1000, p99 / 1000, p99 % 1000);
        used += (size_t)n;
    }
    return used;
}
