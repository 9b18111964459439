/* Decides what a head means and refuses what could be read in two ways. A head is parsed line by
 * line, each line once it is complete, so that feeding it byte by byte costs one scan in all. It
 * assumes that the caller keeps the bytes of the head until it is done with the offsets. */

#include "io/http_parse.h"

#include <string.h>

enum { START_LINE, FIELD_LINE, COMPLETE };

static int fail(struct fast_http_head *h, int status, const char *why)
{
    h->why = why;
    return -status;
}

void fast_http_head_init(struct fast_http_head *h, bool response)
{
    /* The table of fields is large and is read up to |fields| only. */
    memset(h, 0, offsetof(struct fast_http_head, field));
    h->response = response;
    h->length = -1;
    h->line = h->scan = 0;
    h->state = START_LINE;
    h->te = h->hosts = h->authority = false;
    h->connection = 0;
    h->why = "";
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool fast_http_same(const char *p, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (lower(p[i]) != lower(text[i]))
            return false;
    return true;
}

/* tchar of RFC 9110: what names and methods are made of. A bit for each of the 128 characters of ASCII. */
static bool is_token_char(unsigned char c)
{
    static const uint32_t token[4] = {
        0x00000000,
        0x03ff6cfa, /* !#$%&'*+-. 0-9 */
        0xc7fffffe, /* A-Z ^_ */
        0x57ffffff, /* ` a-z | ~ */
    };
    return c < 128 && (token[c / 32] >> (c % 32) & 1);
}

static bool is_token(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!is_token_char((unsigned char)p[i]))
            return false;
    return len > 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What may stand in a host and its port (RFC 3986, 3.2.2), but for the comma: it makes lists. */
static bool is_host(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = lower(p[i]);
        if (!is_digit(c) && !(c >= 'a' && c <= 'z') && (!c || !strchr("-._~%:[]!$&'()*+;=", c)))
            return false;
    }
    return true;
}

/* "HTTP/1.1": 0 and the minor version, else the status. */
static int parse_version(struct fast_http_head *h, const char *p, size_t len)
{
    if (len != 8 || memcmp(p, "HTTP/", 5) || !is_digit(p[5]) || p[6] != '.' || !is_digit(p[7]))
        return fail(h, 400, "the HTTP version is malformed");
    if (p[5] != '1' || p[7] > '1')
        return fail(h, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    h->minor = p[7] - '0';
    h->keep_alive = h->minor == 1;
    return 0;
}

/* An absolute URI becomes its path; its authority counts as the host (RFC 9112, 3.2.2). */
static int parse_target(struct fast_http_head *h, const char *buf)
{
    const char *p = buf + h->target;
    for (uint32_t i = 0; i < h->target_len; i++)
        if ((unsigned char)p[i] <= ' ' || (unsigned char)p[i] >= 0x7f || p[i] == '#')
            return fail(h, 400, "the request target has a character that may not stand there");
    if (h->target_len == 1 && p[0] == '*')
        return fast_http_is_exact(buf + h->method, h->method_len, "OPTIONS")
                   ? 0
                   : fail(h, 400, "the target * belongs to OPTIONS");
    if (h->target_len && p[0] == '/')
        return 0;
    if (h->target_len < 7 || !fast_http_is(p, 7, "http://"))
        return fail(h, 400, "the request target is neither a path nor an http URI");
    const char *slash = memchr(p + 7, '/', h->target_len - 7);
    if (!slash)
        return fail(h, 400, "the request target is a URI without a path");
    h->host = h->target + 7;
    h->host_len = (uint32_t)(slash - (p + 7));
    if (!h->host_len || !is_host(p + 7, h->host_len))
        return fail(h, 400, "the authority of the request target is malformed");
    h->authority = true;
    h->target_len -= (uint32_t)(slash - p);
    h->target += (uint32_t)(slash - p);
    return 0;
}

static int parse_request_line(struct fast_http_head *h, const char *buf, uint32_t end)
{
    const char *p = buf + h->line;
    uint32_t len = end - h->line;
    const char *sp = memchr(p, ' ', len);
    if (!sp)
        return fail(h, 400, "the request line has no target");
    h->method = h->line;
    h->method_len = (uint32_t)(sp - p);
    if (!is_token(p, h->method_len) || h->method_len > 32)
        return fail(h, 400, "the method is malformed");
    const char *t = sp + 1;
    const char *sp2 = memchr(t, ' ', (size_t)(p + len - t));
    if (!sp2)
        return fail(h, 400, "the request line has no version");
    h->target = (uint32_t)(t - buf);
    h->target_len = (uint32_t)(sp2 - t);
    int r = parse_version(h, sp2 + 1, (size_t)(p + len - sp2 - 1));
    return r ? r : parse_target(h, buf);
}

static int parse_status_line(struct fast_http_head *h, const char *buf, uint32_t end)
{
    const char *p = buf + h->line;
    uint32_t len = end - h->line;
    if (len < 12 || p[8] != ' ')
        return fail(h, 400, "the status line is malformed");
    int r = parse_version(h, p, 8);
    if (r)
        return r;
    for (int i = 9; i < 12; i++)
        if (!is_digit(p[i]))
            return fail(h, 400, "the status code is malformed");
    h->status = (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
    if (h->status < 100 || (len > 12 && p[12] != ' '))
        return fail(h, 400, "the status line is malformed");
    return 0;
}

static int take_length(struct fast_http_head *h, const char *v, uint32_t len)
{
    int64_t n = 0;
    if (h->length >= 0)
        return fail(h, 400, "there is more than one Content-Length");
    if (len == 0 || len > 18)
        return fail(h, 400, "Content-Length is malformed");
    for (uint32_t i = 0; i < len; i++) {
        if (!is_digit(v[i]))
            return fail(h, 400, "Content-Length is malformed");
        n = n * 10 + (v[i] - '0');
    }
    h->length = n;
    return 0;
}

static int take_encoding(struct fast_http_head *h, const char *v, uint32_t len)
{
    if (h->te)
        return fail(h, 400, "there is more than one Transfer-Encoding");
    h->te = true;
    if (!fast_http_is(v, len, "chunked"))
        return fail(h, 400, "the only Transfer-Encoding that is understood is \"chunked\"");
    h->chunked = true;
    return 0;
}

static int take_host(struct fast_http_head *h, uint32_t at, const char *v, uint32_t len)
{
    if (h->hosts)
        return fail(h, 400, "there is more than one Host");
    h->hosts = true;
    if (!is_host(v, len))
        return fail(h, 400, "Host is malformed");
    if (!h->authority) {
        h->host = at;
        h->host_len = len;
    }
    return 0;
}

static int take_connection(struct fast_http_head *h, uint32_t len)
{
    h->connection += len;
    return h->connection > FAST_HTTP_CONNECTION_MAX ? fail(h, 431, "Connection is longer than 1 KiB") : 0;
}

/* The fields that decide about framing and about the connection. */
static int take_field(struct fast_http_head *h, const char *buf, const struct fast_http_field *f)
{
    const char *n = buf + f->name, *v = buf + f->value;
    switch (f->name_len) {
    case 4:
        if (!h->response && fast_http_is(n, 4, "host"))
            return take_host(h, f->value, v, f->value_len);
        return 0;
    case 6:
        if (!h->response && fast_http_is(n, 6, "expect")) {
            if (!fast_http_is(v, f->value_len, "100-continue"))
                return fail(h, 417, "the only expectation that is met is 100-continue");
            h->expect = true;
        }
        return 0;
    case 10:
        return fast_http_is(n, 10, "connection") ? take_connection(h, f->value_len) : 0;
    case 14:
        return fast_http_is(n, 14, "content-length") ? take_length(h, v, f->value_len) : 0;
    case 17:
        return fast_http_is(n, 17, "transfer-encoding") ? take_encoding(h, v, f->value_len) : 0;
    default:
        return 0;
    }
}

static int parse_field(struct fast_http_head *h, const char *buf, uint32_t end)
{
    const char *p = buf + h->line;
    uint32_t len = end - h->line;
    if (*p == ' ' || *p == '\t')
        return fail(h, 400, "a header line is continued on the next one (obs-fold)");
    const char *colon = memchr(p, ':', len);
    if (!colon)
        return fail(h, 400, "a header line has no colon");
    if (!is_token(p, (size_t)(colon - p)))
        return fail(h, 400, "a header name is empty or has a character that may not stand there");
    if (h->fields == FAST_HTTP_FIELDS_MAX)
        return fail(h, 431, "there are more than 128 header lines");
    uint32_t from = (uint32_t)(colon + 1 - buf), to = end;
    while (from < to && (buf[from] == ' ' || buf[from] == '\t'))
        from++;
    while (to > from && (buf[to - 1] == ' ' || buf[to - 1] == '\t'))
        to--;
    for (uint32_t i = from; i < to; i++) {
        unsigned char c = (unsigned char)buf[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return fail(h, 400, "a header value has a control character");
    }
    struct fast_http_field *f = &h->field[h->fields++];
    *f = (struct fast_http_field){h->line, (uint32_t)(colon - p), from, to - from};
    return take_field(h, buf, f);
}

static int finish(struct fast_http_head *h, const char *buf)
{
    if (h->te && h->length >= 0)
        return fail(h, 400, "there are both Content-Length and Transfer-Encoding");
    if (h->te && h->minor == 0)
        return fail(h, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (!h->response && !h->hosts && h->minor == 1)
        return fail(h, 400, "there is no Host");
    if (h->minor == 0)
        h->expect = false;
    if (h->connection && fast_http_head_lists(h, buf, "connection", "close"))
        h->keep_alive = false;
    else if (h->connection && fast_http_head_lists(h, buf, "connection", "keep-alive"))
        h->keep_alive = true;
    h->len = h->scan;
    h->state = COMPLETE;
    return 1;
}

/* |end| is where the CR of the line stands. */
static int parse_line(struct fast_http_head *h, const char *buf, uint32_t end)
{
    if (h->state == START_LINE) {
        /* A client may send one empty line too many between its requests (RFC 9112, 2.2). */
        if (end == h->line)
            return !h->response && h->line == 0 ? 0 : fail(h, 400, "the first line is empty");
        h->state = FIELD_LINE;
        return h->response ? parse_status_line(h, buf, end) : parse_request_line(h, buf, end);
    }
    return end == h->line ? finish(h, buf) : parse_field(h, buf, end);
}

/* |len|: of what there is of the line, so that it does not matter in how many pieces it comes. */
static bool is_long(const struct fast_http_head *h, uint32_t len)
{
    return h->state == START_LINE && len > FAST_HTTP_LINE_MAX;
}

int fast_http_head_parse(struct fast_http_head *h, const char *buf, size_t len)
{
    static const char too_long[] = "the request line is longer than 16 KiB";
    size_t limit = len < FAST_HTTP_HEAD_MAX ? len : FAST_HTTP_HEAD_MAX;
    if (h->state == COMPLETE)
        return 1;
    while (h->scan < limit) {
        const char *lf = memchr(buf + h->scan, '\n', limit - h->scan);
        if (!lf) {
            h->scan = (uint32_t)limit;
            break;
        }
        uint32_t end = (uint32_t)(lf - buf);
        if (is_long(h, end - h->line))
            return fail(h, 414, too_long);
        if (end == h->line || buf[end - 1] != '\r')
            return fail(h, 400, "a line ends with LF alone");
        if (memchr(buf + h->line, '\r', end - 1 - h->line))
            return fail(h, 400, "there is a CR inside a line");
        if (memchr(buf + h->line, 0, end - h->line))
            return fail(h, 400, "there is a NUL byte in the head");
        h->scan = end + 1;
        int r = parse_line(h, buf, end - 1);
        if (r)
            return r;
        h->line = h->scan;
    }
    if (is_long(h, h->scan - h->line))
        return fail(h, 414, too_long);
    if (len >= FAST_HTTP_HEAD_MAX)
        return fail(h, 431, "the head is longer than 64 KiB");
    return 0;
}

const struct fast_http_field *fast_http_head_find(const struct fast_http_head *h, const char *buf,
                                                  const char *name)
{
    for (uint32_t i = 0; i < h->fields; i++)
        if (fast_http_is(buf + h->field[i].name, h->field[i].name_len, name))
            return &h->field[i];
    return NULL;
}

static bool value_lists(const char *v, uint32_t len, const char *token, size_t token_len)
{
    uint32_t i = 0;
    while (i < len) {
        uint32_t from = i, to;
        while (i < len && v[i] != ',')
            i++;
        to = i++;
        while (from < to && (v[from] == ' ' || v[from] == '\t'))
            from++;
        while (to > from && (v[to - 1] == ' ' || v[to - 1] == '\t'))
            to--;
        if (to - from == token_len && fast_http_same(v + from, token, token_len))
            return true;
    }
    return false;
}

static bool lists(const struct fast_http_head *h, const char *buf, const char *name,
                  const char *token, size_t token_len)
{
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        if (fast_http_is(buf + f->name, f->name_len, name) &&
            value_lists(buf + f->value, f->value_len, token, token_len))
            return true;
    }
    return false;
}

bool fast_http_head_lists(const struct fast_http_head *h, const char *buf, const char *name,
                          const char *token)
{
    return lists(h, buf, name, token, strlen(token));
}

bool fast_http_is_hop(const struct fast_http_head *h, const char *buf,
                      const struct fast_http_field *f)
{
    static const struct {
        uint32_t len;
        const char *name;
    } hop[] = {{10, "connection"},        {10, "keep-alive"},         {18, "proxy-authenticate"},
               {19, "proxy-authorization"}, {16, "proxy-connection"}, {2, "te"},
               {7, "trailer"},            {8, "trailers"},            {17, "transfer-encoding"},
               {7, "upgrade"},            {14, "content-length"}};
    const char *n = buf + f->name;
    for (size_t i = 0; i < sizeof(hop) / sizeof(hop[0]); i++)
        if (f->name_len == hop[i].len && fast_http_same(n, hop[i].name, hop[i].len))
            return true;
    /* Nobody gets rid of the host or of who is calling by naming it in Connection. */
    if (!h->connection || fast_http_is(n, f->name_len, "host") || fast_http_is(n, f->name_len, "authorization"))
        return false;
    return lists(h, buf, "connection", n, f->name_len);
}

bool fast_http_passes(const struct fast_http_head *h, const char *buf, const char *name)
{
    const struct fast_http_field *f = fast_http_head_find(h, buf, name);
    return f && !fast_http_is_hop(h, buf, f);
}
