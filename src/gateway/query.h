#ifndef FAST_GATEWAY_QUERY_H
#define FAST_GATEWAY_QUERY_H

/* Parameters of a URL, "a=1&b=x%20y". */

#include <stdbool.h>
#include <stddef.h>

/* A query parameter, percent-decoded; false: it is not there, malformed, longer than |cap| allows, or has
 * a NUL byte. The last one wins. |ret| ends with a NUL when true is returned. */
bool gw_query_get(const char *query, const char *name, char *ret, size_t cap);

#endif
