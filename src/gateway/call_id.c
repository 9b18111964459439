/* Makes the identifiers of calls, UUIDs of version 4, and answers calls that go no further. One system call fetches
 * the randomness of many: one for each and a printf for each byte were a tenth of what a small request costs. */

#include "gateway/job.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define UUID_BYTES 16

unsigned char *gw_random_bytes(struct gateway *gw, size_t n)
{
    struct gw_random *r = &gw->random;
    if (r->left < n) {
        if (getrandom(r->bytes, sizeof(r->bytes), 0) != (ssize_t)sizeof(r->bytes))
            memset(r->bytes, 0, sizeof(r->bytes)); /* up to 256 bytes always come whole */
        r->left = sizeof(r->bytes);
    }
    r->left -= n;
    return r->bytes + r->left;
}

void gw_call_id(struct gateway *gw, char ret[GW_CALL_ID_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char *b = gw_random_bytes(gw, UUID_BYTES);
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    char *p = ret;
    for (int i = 0; i < UUID_BYTES; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[b[i] >> 4];
        *p++ = hex[b[i] & 15];
    }
    *p = 0;
}

void gw_call_id_of(struct gateway *gw, struct fast_http_req *req, char ret[GW_CALL_ID_MAX])
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, "x-call-id");
    if (f && f->value_len && f->value_len < GW_CALL_ID_MAX)
        snprintf(ret, GW_CALL_ID_MAX, "%.*s", (int)f->value_len, text + f->value);
    else
        gw_call_id(gw, ret);
    fast_http_req_note(req, ret);
}

void gw_call_refuse(struct gateway *gw, struct fast_http_req *req, int status, const char *more, const char *fmt, ...)
{
    char id[GW_CALL_ID_MAX], lines[512], why[512];
    va_list ap;
    gw_call_id_of(gw, req, id);
    size_t at = gw_own_lines(id, fast_clock_wall(), lines, sizeof(lines));
    snprintf(lines + at, sizeof(lines) - at, "X-OpenFaaS-Internal: proxy\r\n%s", more);
    va_start(ap, fmt);
    int n = vsnprintf(why, sizeof(why) - 1, fmt, ap);
    va_end(ap);
    n = n < (int)sizeof(why) - 1 ? n : (int)sizeof(why) - 2;
    why[n++] = '\n';
    fast_http_req_reply(req, status, lines, "text/plain; charset=utf-8", why, (size_t)n);
}
