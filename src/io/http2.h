#ifndef FAST_IO_HTTP2_H
#define FAST_IO_HTTP2_H

/* HTTP/2 for clients, by nghttp2. A connection that begins with HTTP/2's preface is taken over; each of its
 * streams becomes a request of HTTP/1.1 on a connection within this process, which the same server serves:
 * what a request means, and what is refused, is decided in one place. */

#include "io/http_server.h"

struct fast_http_upgrade;

/* NULL: this program was built without nghttp2. */
const struct fast_http_upgrade *fast_http2(void);

#endif
