#include "base/parse.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define NAME_MAX_LEN 63

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads digits from *|p| into |ret|; false if there are none or they overflow. */
static bool read_digits(const char **p, uint64_t *ret)
{
    uint64_t v = 0;
    if (!is_digit(**p))
        return false;
    for (; is_digit(**p); (*p)++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(**p - '0'), &v))
            return false;
    *ret = v;
    return true;
}

/* Reads "12" or "12.345" at *|p| and returns it times |scale| (a unit), exact or not at all: what
 * would be lost by the division makes it fail. */
static bool read_scaled(const char **p, uint64_t scale, uint64_t *ret)
{
    uint64_t whole = 0, frac = 0, div = 1;
    if (!read_digits(p, &whole))
        return false;
    if (**p == '.') {
        (*p)++;
        if (!is_digit(**p))
            return false;
        const char *end = *p;
        while (is_digit(*end))
            end++;
        const char *last = end;
        while (last > *p && last[-1] == '0')
            last--;
        for (; *p < last; (*p)++) {
            if (__builtin_mul_overflow(frac, 10, &frac) || __builtin_mul_overflow(div, 10, &div))
                return false;
            frac += (uint64_t)(**p - '0');
        }
        *p = end;
    }
    uint64_t part = 0;
    if (__builtin_mul_overflow(whole, scale, &whole) || __builtin_mul_overflow(frac, scale, &part))
        return false;
    if (part % div)
        return false;
    return !__builtin_add_overflow(whole, part / div, ret);
}

int fast_parse_int(const char *text, const char *what, int64_t min, int64_t max, int64_t *ret,
                   struct fast_err *err)
{
    const char *p = text;
    bool neg = *p == '-';
    uint64_t v = 0;
    if (neg)
        p++;
    if (!read_digits(&p, &v) || *p || v > INT64_MAX)
        goto bad;
    int64_t n = neg ? -(int64_t)v : (int64_t)v;
    if (n < min || n > max)
        goto bad;
    *ret = n;
    return 0;
bad:
    return fast_err_set(err, FAST_EINVAL, "%s: \"%.40s\" is not an integer from %" PRId64
                        " to %" PRId64, what, text, min, max);
}

int fast_parse_milli(const char *text, const char *what, int64_t min_milli, int64_t max_milli,
                     int64_t *ret_milli, struct fast_err *err)
{
    const char *p = text;
    uint64_t v = 0;
    if (!read_scaled(&p, 1000, &v) || *p || v > INT64_MAX || (int64_t)v < min_milli ||
        (int64_t)v > max_milli)
        return fast_err_set(err, FAST_EINVAL,
                            "%s: \"%.40s\" is not a number from %" PRId64 ".%03d to %" PRId64
                            ".%03d with at most three decimals",
                            what, text, min_milli / 1000, (int)(min_milli % 1000),
                            max_milli / 1000, (int)(max_milli % 1000));
    *ret_milli = (int64_t)v;
    return 0;
}

struct unit {
    const char *name;
    uint64_t scale;
};

static bool find_unit(const struct unit *units, size_t n, const char *name, size_t len,
                      uint64_t *ret)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(units[i].name) == len && memcmp(units[i].name, name, len) == 0) {
            *ret = units[i].scale;
            return true;
        }
    return false;
}

static size_t letters(const char *p)
{
    size_t n = 0;
    while ((p[n] >= 'a' && p[n] <= 'z') || (p[n] >= 'A' && p[n] <= 'Z'))
        n++;
    return n;
}

/* The unit stands behind the number, so the number is skipped first. */
static const char *skip_number(const char *p)
{
    while (is_digit(*p) || *p == '.')
        p++;
    return p;
}

int fast_parse_bytes(const char *text, const char *what, uint64_t max, uint64_t *ret,
                     struct fast_err *err)
{
    static const struct unit units[] = {
        {"", 1},           {"K", 1000},           {"k", 1000},
        {"M", 1000000},    {"G", 1000000000},     {"T", 1000000000000},
        {"Ki", 1ULL << 10}, {"Mi", 1ULL << 20},   {"Gi", 1ULL << 30},
        {"Ti", 1ULL << 40}, {"P", 1000000000000000}, {"E", 1000000000000000000},
        {"Pi", 1ULL << 50}, {"Ei", 1ULL << 60},
    };
    const char *p = text;
    const char *u = skip_number(text);
    size_t len = letters(u);
    uint64_t scale = 0, v = 0;
    if (u[len])
        goto bad;
    if (len && u[len - 1] == 'B')
        len--;
    if (!find_unit(units, sizeof(units) / sizeof(units[0]), u, len, &scale) ||
        !read_scaled(&p, scale, &v) || p != u)
        goto bad;
    if (v > max)
        return fast_err_set(err, FAST_EINVAL, "%s: \"%.40s\" is more than the most allowed, %" PRIu64
                            " bytes", what, text, max);
    *ret = v;
    return 0;
bad:
    return fast_err_set(err, FAST_EINVAL,
                        "%s: \"%.40s\" is not a size such as 2700000000, 512Mi or 1.5Gi", what,
                        text);
}

/* The largest unit that |t| is a whole number of, in ns. */
static fast_ns unit_of(fast_ns t)
{
    return t % FAST_S(1) == 0 && t ? FAST_S(1) : t % FAST_MS(1) == 0 && t ? FAST_MS(1) : 1000;
}

static const char *name_of(fast_ns t)
{
    return unit_of(t) == FAST_S(1) ? "s" : unit_of(t) == FAST_MS(1) ? "ms" : "us";
}

int fast_parse_duration(const char *text, const char *what, fast_ns min, fast_ns max, fast_ns *ret,
                        struct fast_err *err)
{
    static const struct unit units[] = {
        {"ns", 1},          {"us", 1000},          {"ms", 1000000},
        {"s", 1000000000},  {"m", 60000000000ULL}, {"h", 3600000000000ULL},
    };
    const char *p = text;
    uint64_t sum = 0;
    do {
        const char *u = skip_number(p);
        size_t len = letters(u);
        uint64_t scale = 0, v = 0;
        if (!find_unit(units, sizeof(units) / sizeof(units[0]), u, len, &scale) ||
            !read_scaled(&p, scale, &v) || p != u || __builtin_add_overflow(sum, v, &sum) ||
            sum > INT64_MAX)
            return fast_err_set(err, FAST_EINVAL,
                                "%s: \"%.40s\" is not a time such as 69ms, 1.5s or 1m30s", what,
                                text);
        p = u + len;
    } while (*p);
    if ((fast_ns)sum < min || (fast_ns)sum > max)
        return fast_err_set(err, FAST_EINVAL,
                            "%s: \"%.40s\" is not from %" PRId64 "%s to %" PRId64 "%s", what, text,
                            min / unit_of(min), name_of(min), max / unit_of(max), name_of(max));
    *ret = (fast_ns)sum;
    return 0;
}

int fast_parse_name(const char *text, const char *what, struct fast_err *err)
{
    size_t n = 0;
    for (; n <= NAME_MAX_LEN && text[n]; n++) {
        char c = text[n];
        bool alnum = (c >= 'a' && c <= 'z') || is_digit(c);
        if (!alnum && !(c == '-' && n > 0 && text[n + 1]))
            break;
    }
    if (n == 0 || n > NAME_MAX_LEN || text[n])
        return fast_err_set(err, FAST_EINVAL,
                            "%s: \"%.80s\" is not a name: lower-case letters, digits and \"-\", "
                            "1 to 63 of them, beginning and ending with a letter or a digit",
                            what, text);
    return 0;
}

int fast_parse_name_of(const char *const *names, int n, const char *text)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(text, names[i]))
            return i;
    return -1;
}

bool fast_is_text(const char *text)
{
    static const uint32_t least[] = {0x20, 0xa0, 0x800, 0x10000}; /* of so many bytes more; below 0xa0 is control */
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int more = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : *p >> 3 == 30 ? 3 : -1;
        if (more < 0)
            return false;
        uint32_t c = more ? *p & (0x3fu >> more) : *p;
        p++;
        for (int i = 0; i < more; i++, p++) {
            if (*p >> 6 != 2)
                return false;
            c = c << 6 | (*p & 0x3f);
        }
        if (c < least[more] || c == 0x7f || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return false;
    }
    return true;
}

int fast_parse_bool(const char *text, const char *what, bool *ret, struct fast_err *err)
{
    static const char *const yes[] = {"on", "true", "yes", "1"};
    static const char *const no[] = {"off", "false", "no", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (!strcmp(text, yes[i]) || !strcmp(text, no[i])) {
            *ret = !strcmp(text, yes[i]);
            return 0;
        }
    }
    return fast_err_set(err, FAST_EINVAL, "%s: \"%.40s\" is not on or off", what, text);
}

/* The driver would only say that it finds no GPU. */
int fast_parse_sim(const char *spec, struct fast_err *err)
{
    static const char *const known[] = {"v100-16gb", "a100-40gb", "h100-80gb"};
    size_t n = strcspn(spec, ":");
    int64_t count;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strlen(known[i]) == n && !strncmp(spec, known[i], n))
            return spec[n] ? fast_parse_int(spec + n + 1, "--sim: number of GPUs", 1, 8, &count, err)
                           : 0;
    return fast_err_set(err, FAST_EINVAL,
                        "--sim: \"%.40s\" is not v100-16gb, a100-40gb or h100-80gb, with :2 to :8 for "
                        "several", spec);
}
