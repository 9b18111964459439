/* When requests arrive. It decides with integers alone, logarithm included, so that a seed gives the
 * same moments on every machine. A rate is thousandths of a request per second, so that one request
 * at that rate takes 10^12 / rate nanoseconds. */

#include "sim/arrivals.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

#define COUNT_MAX ((size_t)100000000)
#define NS_MILLI INT64_C(1000000000000) /* ns per second, for rates in thousandths */
#define LENGTH_MAX FAST_S(INT64_C(100000000))
#define RPS_MILLI_MAX INT64_C(1000000000) /* a million a second */

/* splitmix64: a state of one word, and every seed is as good as another. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* -ln(x / 2^64) in units of 2^-32, for x > 0: the binary logarithm bit by bit, by squaring. */
static uint64_t minus_ln(uint64_t x)
{
    int zeros = __builtin_clzll(x);
    uint64_t m = x << zeros, log2 = 0; /* m is in [1, 2) with 63 bits behind the point */
    for (int i = 0; i < 32; i++) {
        unsigned __int128 square = (unsigned __int128)m * m;
        log2 <<= 1;
        if (square >> 127) {
            log2 |= 1;
            m = (uint64_t)(square >> 64);
        } else {
            m = (uint64_t)(square >> 63);
        }
    }
    uint64_t minus_log2 = ((uint64_t)(zeros + 1) << 32) - log2;
    return (uint64_t)((unsigned __int128)minus_log2 * UINT64_C(2977044472) >> 32); /* ln 2 */
}

/* An exponentially distributed gap with mean 1 / rate. */
static fast_ns random_gap(uint64_t *state, int64_t rps_milli)
{
    uint64_t x = next_random(state);
    unsigned __int128 gap = (unsigned __int128)minus_ln(x ? x : 1) * (uint64_t)NS_MILLI;
    return (fast_ns)((gap / (uint64_t)rps_milli) >> 32);
}

static int add(struct fast_arrivals *a, fast_ns at, struct fast_err *err)
{
    if (a->count == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 256;
        fast_ns *moments = a->count < COUNT_MAX ? realloc(a->at, cap * sizeof(*moments)) : NULL;
        if (!moments)
            return fast_err_set(err, FAST_ENOMEM, "no memory for %zu arrivals", a->count + 1);
        a->at = moments;
        a->cap = cap;
    }
    a->at[a->count++] = at;
    return 0;
}

void fast_arrivals_fini(struct fast_arrivals *a)
{
    free(a->at);
    *a = (struct fast_arrivals){0};
}

static int check_rate(int64_t rps_milli, fast_ns length, struct fast_err *err)
{
    if (rps_milli < 0 || rps_milli > RPS_MILLI_MAX)
        return fast_err_set(err, FAST_EINVAL, "rate: it is not from 0 to 1000000 requests/s");
    if (length < 0 || length > LENGTH_MAX)
        return fast_err_set(err, FAST_EINVAL, "length: it is not from 0 s to 3 years");
    return 0;
}

/* An error leaves |a| as it was. */
static int done(struct fast_arrivals *a, size_t before, int rc)
{
    if (rc)
        a->count = before;
    return rc;
}

int fast_arrivals_constant(struct fast_arrivals *a, int64_t rps_milli, fast_ns length,
                           struct fast_err *err)
{
    size_t before = a->count;
    int rc = check_rate(rps_milli, length, err);
    for (int64_t i = 0; !rc && rps_milli; i++) {
        fast_ns at = (fast_ns)((__int128)i * NS_MILLI / rps_milli);
        if (at >= length)
            break;
        rc = add(a, at, err);
    }
    return done(a, before, rc);
}

int fast_arrivals_poisson(struct fast_arrivals *a, int64_t rps_milli, fast_ns length, uint64_t seed,
                          struct fast_err *err)
{
    size_t before = a->count;
    int rc = check_rate(rps_milli, length, err);
    if (rc || !rps_milli)
        return rc;
    for (fast_ns at = random_gap(&seed, rps_milli); !rc && at < length;
         at += random_gap(&seed, rps_milli))
        rc = add(a, at, err);
    return done(a, before, rc);
}

static int check_points(const struct fast_rate_point *points, size_t count, struct fast_err *err)
{
    if (count < 2)
        return fast_err_set(err, FAST_EINVAL, "ramp: it has fewer than two points");
    for (size_t i = 0; i < count; i++) {
        if (check_rate(points[i].rps_milli, points[i].at, err))
            return fast_err_wrap(err, "ramp: point %zu", i + 1);
        if (i && points[i].at <= points[i - 1].at)
            return fast_err_set(err, FAST_EINVAL,
                                "ramp: point %zu is not later than the one before it", i + 1);
    }
    return 0;
}

int fast_arrivals_ramp(struct fast_arrivals *a, const struct fast_rate_point *points, size_t count,
                       uint64_t seed, struct fast_err *err)
{
    size_t before = a->count;
    int rc = check_points(points, count, err);
    /* Segment by segment: gaps have no memory, so each may begin afresh at its start. */
    for (size_t i = 0; !rc && i + 1 < count; i++) {
        const struct fast_rate_point *from = &points[i], *to = &points[i + 1];
        int64_t most = from->rps_milli > to->rps_milli ? from->rps_milli : to->rps_milli;
        fast_ns at = from->at;
        while (!rc && most && (at += random_gap(&seed, most)) < to->at) {
            int64_t rate = from->rps_milli +
                           (int64_t)((__int128)(to->rps_milli - from->rps_milli) *
                                     (at - from->at) / (to->at - from->at));
            /* One in |most| arrivals is kept in |rate| of the cases. */
            uint64_t dice = next_random(&seed) >> 32;
            if ((int64_t)(dice * (uint64_t)most >> 32) < rate)
                rc = add(a, at, err);
        }
    }
    return done(a, before, rc);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads exactly |digits| digits. */
static bool read_fixed(const char **p, int digits, int *ret)
{
    int v = 0;
    for (int i = 0; i < digits; i++, (*p)++) {
        if (!is_digit(**p))
            return false;
        v = v * 10 + (**p - '0');
    }
    *ret = v;
    return true;
}

/* Reads ".123456789" if there is a point; up to nine digits. */
static bool read_fraction(const char **p, fast_ns *ret)
{
    fast_ns v = 0;
    int digits = 0;
    if (**p == '.') {
        for ((*p)++; is_digit(**p) && digits < 9; (*p)++, digits++)
            v = v * 10 + (**p - '0');
        if (!digits || is_digit(**p))
            return false;
        for (; digits < 9; digits++)
            v *= 10;
    }
    *ret = v;
    return true;
}

/* Days since 1970-01-01 of a date of the Gregorian calendar. */
static int64_t days_of(int year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = y / 400, of_era = y % 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* "2023-11-16 18:15:46.6805900" */
static bool read_date(const char **p, fast_ns *ret)
{
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
    fast_ns fraction = 0;
    const char *at = *p;
    if (!read_fixed(&at, 4, &year) || *at++ != '-' || !read_fixed(&at, 2, &month) ||
        *at++ != '-' || !read_fixed(&at, 2, &day) || (*at != ' ' && *at != 'T'))
        return false;
    at++;
    if (!read_fixed(&at, 2, &hour) || *at++ != ':' || !read_fixed(&at, 2, &minute) ||
        *at++ != ':' || !read_fixed(&at, 2, &second) || !read_fraction(&at, &fraction))
        return false;
    /* Before 2200, so that nanoseconds fit. */
    if (year < 1970 || year > 2199 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 ||
        minute > 59 || second > 60)
        return false;
    int64_t minutes = (days_of(year, month, day) * 24 + hour) * 60 + minute;
    *ret = FAST_S(minutes * 60 + second) + fraction;
    *p = at;
    return true;
}

/* "12.345", seconds. */
static bool read_seconds(const char **p, fast_ns *ret)
{
    fast_ns whole = 0, fraction = 0;
    const char *at = *p;
    if (!is_digit(*at))
        return false;
    for (; is_digit(*at) && whole <= LENGTH_MAX; at++)
        whole = whole * 10 + (*at - '0');
    if (whole > LENGTH_MAX / FAST_S(1) || !read_fraction(&at, &fraction))
        return false;
    *ret = FAST_S(whole) + fraction;
    *p = at;
    return true;
}

static const char *line_end(const char *p)
{
    return p + strcspn(p, "\n");
}

/* The column of a head line that tells when, by its name; the first one when none does. */
static int column_of(const char *head)
{
    static const char *const names[] = {"timestamp", "creation_time", "arrival", "time", "seconds"};
    const size_t whole = strcspn(head, "\r\n");
    for (int k = 0; k < (int)FAST_COUNT_OF(names); k++) {
        int column = 0;
        for (size_t at = 0; at <= whole; column++) {
            size_t len = strcspn(head + at, ",\r\n");
            if (len == strlen(names[k]) && strncasecmp(head + at, names[k], len) == 0)
                return column;
            at += len + 1;
        }
    }
    return 0;
}

/* Where column |column| of the line |p| begins; at its end when it has fewer. */
static const char *column_at(const char *p, int column)
{
    for (; column > 0; column--) {
        p += strcspn(p, ",\n");
        if (*p != ',')
            break;
        p++;
    }
    return p;
}

static bool is_head(const char *p)
{
    return (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_';
}

int fast_arrivals_parse(struct fast_arrivals *a, const char *text, const char *name,
                        struct fast_err *err)
{
    size_t before = a->count;
    fast_ns first = 0;
    int line = 0, column = 0, rc = 0;
    for (const char *p = text; *p && !rc; p = *line_end(p) ? line_end(p) + 1 : line_end(p)) {
        fast_ns at = 0;
        line++;
        if (line == 1 && is_head(p)) {
            column = column_of(p);
            continue;
        }
        if (*p == '#' || *p == '\n' || *p == '\r')
            continue; /* a comment, an empty line */
        const char *q = column_at(p, column);
        if ((!read_date(&q, &at) && !read_seconds(&q, &at)) ||
            (*q && *q != ',' && *q != '\n' && *q != '\r'))
            rc = fast_err_set(err, FAST_EINVAL,
                              "%s: line %d, column %d: \"%.*s\" is neither seconds such as 12.5 (up to "
                              "100000000) nor a date such as 2023-11-16 18:15:46.68; a head line may "
                              "name the column: timestamp, creation_time, arrival, time or seconds",
                              name, line, column + 1, (int)strcspn(q, ",\r\n") < 24 ? (int)strcspn(q, ",\r\n") : 24, q);
        else if (a->count > before && at - first < a->at[a->count - 1])
            rc = fast_err_set(err, FAST_EINVAL, "%s: line %d: it is earlier than the one before it",
                              name, line);
        else if (a->count == before)
            first = at;
        if (!rc)
            rc = add(a, at - first, err);
    }
    if (!rc && a->count == before)
        rc = fast_err_set(err, FAST_EINVAL, "%s: there is no arrival in it", name);
    return done(a, before, rc);
}

void fast_arrivals_scale(struct fast_arrivals *a, int64_t num, int64_t den)
{
    for (size_t i = 0; i < a->count; i++) {
        __int128 at = (__int128)a->at[i] * num / den;
        a->at[i] = at > INT64_MAX / 2 ? INT64_MAX / 2 : (fast_ns)at;
    }
}

void fast_arrivals_cut(struct fast_arrivals *a, fast_ns from, fast_ns to)
{
    size_t kept = 0;
    for (size_t i = 0; i < a->count; i++)
        if (a->at[i] >= from && a->at[i] < to)
            a->at[kept++] = a->at[i] - from;
    a->count = kept;
}
