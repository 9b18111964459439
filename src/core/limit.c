#include "core/limit.h"

#include <stdio.h>
#include <string.h>

#include "base/parse.h"

#define ITEM_MAX 128

static int parse_value(const char *text, const char *what, struct fast_limit *ret, struct fast_err *err)
{
    char digits[16];
    size_t n = strlen(text);
    int64_t percent = 0;
    if (!n || text[n - 1] != '%') {
        ret->percent = 0;
        return fast_parse_bytes(text, what, UINT64_MAX - 1, &ret->bytes, err);
    }
    snprintf(digits, sizeof(digits), "%.*s", (int)n - 1, text);
    int rc = fast_parse_int(digits, what, 0, 100, &percent, err);
    ret->bytes = UINT64_MAX;
    ret->percent = (uint32_t)percent;
    return rc;
}

static const struct fast_limit *find(const struct fast_limits *l, const char *ns)
{
    for (int i = 0; i < l->count; i++)
        if (!strcmp(l->row[i].ns, ns))
            return &l->row[i];
    return NULL;
}

static int add(struct fast_limits *l, const char *item, const char *what, struct fast_err *err)
{
    struct fast_limit *row = &l->row[l->count];
    const char *value = strchr(item, '=');
    if (l->count == FAST_LIMIT_NAMES)
        return fast_err_set(err, FAST_EINVAL, "%s: more than %d namespaces", what, FAST_LIMIT_NAMES);
    *row = (struct fast_limit){0};
    if (value) {
        char ns[ITEM_MAX]; /* whole, or another namespace would get the limit of one whose name is too long */
        snprintf(ns, sizeof(ns), "%.*s", (int)(value - item), item);
        int rc = fast_parse_name(ns, what, err);
        if (rc)
            return rc;
        memcpy(row->ns, ns, strlen(ns) + 1);
    }
    if (find(l, row->ns))
        return fast_err_set(err, FAST_EINVAL, "%s: %s%s is there twice", what,
                            *row->ns ? "namespace " : "a value for all", row->ns);
    int rc = parse_value(value ? value + 1 : item, what, row, err);
    l->count += !rc;
    return rc;
}

static int add_all(struct fast_limits *l, const char *text, const char *what, struct fast_err *err)
{
    for (const char *at = text;; at++) {
        char item[ITEM_MAX];
        size_t n = strcspn(at, ",");
        if (!n || n >= sizeof(item))
            return fast_err_set(err, FAST_EINVAL,
                                "%s: \"%.80s\" is not a list of [NAMESPACE=]SIZE or [NAMESPACE=]PERCENT%%, as in %s",
                                what, text, FAST_LIMIT_DEFAULT);
        memcpy(item, at, n);
        item[n] = 0;
        int rc = add(l, item, what, err);
        if (rc)
            return rc;
        at += n;
        if (!*at)
            return 0;
    }
}

int fast_limits_parse(const char *text, const char *what, struct fast_limits *ret, struct fast_err *err)
{
    struct fast_limits l = {0}, usual = {0};
    int rc = add_all(&l, text, what, err);
    if (!rc && !find(&l, ""))
        rc = add_all(&usual, FAST_LIMIT_DEFAULT, what, err);
    for (int i = 0; i < usual.count && !rc; i++) {
        if (find(&l, usual.row[i].ns))
            continue;
        if (l.count == FAST_LIMIT_NAMES)
            return fast_err_set(err, FAST_EINVAL, "%s: more than %d namespaces", what, FAST_LIMIT_NAMES - 2);
        l.row[l.count++] = usual.row[i];
    }
    if (!rc)
        *ret = l;
    return rc;
}

uint64_t fast_limits_of(const struct fast_limits *limits, const char *ns, uint64_t total)
{
    const struct fast_limit *row = find(limits, ns);
    row = row ? row : find(limits, "");
    if (!row)
        return UINT64_MAX;
    return row->bytes != UINT64_MAX ? row->bytes : total / 100 * row->percent + total % 100 * row->percent / 100;
}
