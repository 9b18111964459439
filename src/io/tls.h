#ifndef FAST_IO_TLS_H
#define FAST_IO_TLS_H

/* TLS 1.2 and 1.3 under the serving end of HTTP, by OpenSSL. Certificate and key come from files and can be
 * read again while connections go on. */

#include <stdbool.h>

#include "base/err.h"

struct fast_http_secure; /* http_stream.h */

struct fast_tls;

/* |cert|: PEM, the server's own first and then its chain. |key|: PEM without a password. |http2|: the server
 * speaks it, and clients may choose it. FAST_ENOSYS: this program was built without OpenSSL. */
int fast_tls_new(const char *cert, const char *key, bool http2, struct fast_tls **ret,
                 struct fast_err *err);
void fast_tls_free(struct fast_tls *tls); /* connections keep what they use; NULL is fine */
/* Reads the files again: for connections that come from now on. On an error nothing has changed. */
int fast_tls_reload(struct fast_tls *tls, struct fast_err *err);
/* What a server needs to speak TLS; it belongs to |tls|. */
const struct fast_http_secure *fast_tls_secure(const struct fast_tls *tls);

#endif
