/* Decides how bytes get through OpenSSL without ever waiting. A session looks like a socket to
 * http_stream.c: what cannot be done now is EAGAIN. The handshake happens inside the first read. */

#include "io/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/http_stream.h"

#ifdef FAST_WITH_OPENSSL

#include <openssl/err.h>
#include <openssl/ssl.h>

struct fast_tls {
    SSL_CTX *ctx;
    char *cert, *key;
    bool http2;
    struct fast_http_secure secure;
};

static int ssl_error(struct fast_err *err, const char *what, const char *path)
{
    char text[160];
    unsigned long e = ERR_peek_last_error();
    ERR_error_string_n(e, text, sizeof(text));
    ERR_clear_error();
    return fast_err_set(err, FAST_EINVAL, "%s %.100s: %s", what, path, e ? text : "it cannot be used");
}

/* HTTP/2 goes before HTTP/1.1; a client that insists on something else is refused. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned int in_len, void *arg)
{
    static const unsigned char ours[] = "\x02h2\x08http/1.1";
    const struct fast_tls *tls = arg;
    unsigned skip = tls->http2 ? 0 : 3;
    (void)ssl;
    if (SSL_select_next_proto((unsigned char **)out, out_len, ours + skip,
                              (unsigned)sizeof(ours) - 1 - skip, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    return SSL_TLSEXT_ERR_OK;
}

static int context_new(const struct fast_tls *tls, SSL_CTX **ret, struct fast_err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    int r = 0;
    if (!ctx)
        return fast_err_set(err, FAST_ENOMEM, "no memory for TLS");
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, (void *)tls);
    if (SSL_CTX_use_certificate_chain_file(ctx, tls->cert) != 1)
        r = ssl_error(err, "the certificate", tls->cert);
    else if (SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) != 1)
        r = ssl_error(err, "the key", tls->key);
    else if (SSL_CTX_check_private_key(ctx) != 1)
        r = ssl_error(err, "the key does not belong to the certificate:", tls->key);
    if (r) {
        SSL_CTX_free(ctx);
        return r;
    }
    *ret = ctx;
    return 0;
}

/* ---- a session ---- */

static void *session_new(void *arg, int fd)
{
    struct fast_tls *tls = arg;
    SSL *ssl = SSL_new(tls->ctx);
    if (!ssl || SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_accept_state(ssl);
    return ssl;
}

static ssize_t outcome(SSL *ssl, int n)
{
    if (n > 0)
        return n;
    int e = SSL_get_error(ssl, n);
    ERR_clear_error();
    if (e == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}

static ssize_t session_recv(void *session, char *buf, size_t len)
{
    ERR_clear_error();
    return outcome(session, SSL_read(session, buf, len > INT32_MAX ? INT32_MAX : (int)len));
}

static ssize_t session_send(void *session, const char *buf, size_t len)
{
    ERR_clear_error();
    ssize_t n = outcome(session, SSL_write(session, buf, len > INT32_MAX ? INT32_MAX : (int)len));
    if (n == 0) { /* the other side has said that it is done */
        errno = EPIPE;
        return -1;
    }
    return n;
}

static bool session_pending(void *session)
{
    return SSL_pending(session) > 0;
}

static bool session_wants_write(void *session)
{
    return SSL_want_write((SSL *)session);
}

static void session_shutdown(void *session)
{
    ERR_clear_error();
    SSL_shutdown(session);
    ERR_clear_error();
}

static void session_free(void *session)
{
    SSL_free(session);
}

/* ---- the whole ---- */

int fast_tls_new(const char *cert, const char *key, bool http2, struct fast_tls **ret,
                 struct fast_err *err)
{
    struct fast_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return fast_err_set(err, FAST_ENOMEM, "no memory for TLS");
    tls->http2 = http2;
    tls->cert = strdup(cert);
    tls->key = strdup(key);
    tls->secure = (struct fast_http_secure){session_new,     session_recv,        session_send,
                                            session_pending, session_wants_write, session_shutdown,
                                            session_free,    tls};
    int r = tls->cert && tls->key ? fast_tls_reload(tls, err)
                                  : fast_err_set(err, FAST_ENOMEM, "no memory for TLS");
    if (r) {
        fast_tls_free(tls);
        return r;
    }
    *ret = tls;
    return 0;
}

int fast_tls_reload(struct fast_tls *tls, struct fast_err *err)
{
    SSL_CTX *ctx = NULL;
    int r = context_new(tls, &ctx, err);
    if (r)
        return r;
    SSL_CTX_free(tls->ctx);
    tls->ctx = ctx;
    return 0;
}

void fast_tls_free(struct fast_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->ctx);
    free(tls->cert);
    free(tls->key);
    free(tls);
}

const struct fast_http_secure *fast_tls_secure(const struct fast_tls *tls)
{
    return &tls->secure;
}

#else

int fast_tls_new(const char *cert, const char *key, bool http2, struct fast_tls **ret,
                 struct fast_err *err)
{
    (void)cert;
    (void)key;
    (void)http2;
    (void)ret;
    return fast_err_set(err, FAST_ENOSYS, "this program was built without OpenSSL");
}

int fast_tls_reload(struct fast_tls *tls, struct fast_err *err)
{
    (void)tls;
    return fast_err_set(err, FAST_ENOSYS, "this program was built without OpenSSL");
}

void fast_tls_free(struct fast_tls *tls)
{
    (void)tls;
}

const struct fast_http_secure *fast_tls_secure(const struct fast_tls *tls)
{
    (void)tls;
    return NULL;
}

#endif
