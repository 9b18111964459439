/* Decides what a query parameter says: names are compared as they are written, values are decoded, and
 * what is malformed counts as not there. */

#include "gateway/query.h"

#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes "a%20b+c"; false: malformed, too long, or with a NUL. */
static bool decode(const char *p, size_t len, char *ret, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = p[i] == '+' ? ' ' : (unsigned char)p[i];
        if (p[i] == '%') {
            if (len - i < 3)
                return false;
            int a = hex_value(p[i + 1]), b = hex_value(p[i + 2]);
            if (a < 0 || b < 0)
                return false;
            c = a * 16 + b;
            i += 2;
        }
        if (c == 0 || n + 1 >= cap)
            return false;
        ret[n++] = (char)c;
    }
    ret[n] = 0;
    return true;
}

bool gw_query_get(const char *query, const char *name, char *ret, size_t cap)
{
    bool found = false;
    size_t n = strlen(name);
    while (*query) {
        size_t len = strcspn(query, "&");
        if (len >= n && !strncmp(query, name, n) && (len == n || query[n] == '=')) {
            size_t from = len == n ? n : n + 1;
            found = decode(query + from, len - from, ret, cap);
        }
        query += len + (query[len] == '&');
    }
    return found;
}
