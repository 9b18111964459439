/* Decides whether a buffer holds a whole request and where its parts are. It looks at the buffer from
 * its start each time: requests to functions are small, and no state between reads means no state
 * that can be wrong. */
#include "common/http_parse.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

static bool is_token(unsigned char c)
{
    return c > ' ' && c < 127 && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool span_is(const char *buf, struct http_span span, const char *word)
{
    return span.len == strlen(word) && !strncasecmp(buf + span.at, word, span.len);
}

/* Digits only, no sign, no spaces, and no more than fits. */
static bool parse_length(const char *text, size_t len, size_t *ret)
{
    size_t value = 0;
    if (!len || len > 15)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (size_t)(text[i] - '0');
    }
    *ret = value;
    return true;
}

/* "METHOD /path?query HTTP/1.1" in buf[0..len). */
static int request_line(const char *buf, size_t len, struct http_head *head)
{
    size_t at = 0;
    while (at < len && is_token((unsigned char)buf[at]))
        at++;
    head->method = (struct http_span){0, at};
    if (!at || at >= len || buf[at] != ' ' || ++at >= len || buf[at] != '/')
        return -400;
    size_t start = at, mark = 0;
    for (; at < len && buf[at] != ' '; at++) {
        if ((unsigned char)buf[at] <= ' ' || (unsigned char)buf[at] >= 127)
            return -400;
        if (buf[at] == '?' && !mark)
            mark = at;
    }
    size_t path_end = mark ? mark : at;
    head->path = (struct http_span){start, path_end - start};
    head->query = mark ? (struct http_span){mark + 1, at - mark - 1} : (struct http_span){at, 0};
    if (len - at != strlen(" HTTP/1.1") || strncmp(buf + at, " HTTP/", 6) != 0)
        return -400;
    if (buf[at + 6] != '1' || buf[at + 7] != '.' || (buf[at + 8] != '0' && buf[at + 8] != '1'))
        return -505;
    head->minor1 = buf[at + 8] == '1';
    head->close = !head->minor1;
    return 1;
}

/* Looks for |word| in a comma-separated list. */
static bool list_has(const char *text, size_t len, const char *word)
{
    size_t at = 0;
    while (at < len) {
        size_t end = at;
        while (end < len && text[end] != ',')
            end++;
        size_t from = at, to = end;
        while (from < to && (text[from] == ' ' || text[from] == '\t'))
            from++;
        while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
            to--;
        if (to - from == strlen(word) && !strncasecmp(text + from, word, to - from))
            return true;
        at = end + 1;
    }
    return false;
}

struct header_seen {
    int host, length, encoding;
};

static int header_value(const char *buf, struct http_span name, struct http_span value,
                        struct http_head *head, struct header_seen *seen)
{
    const char *text = buf + value.at;
    if (span_is(buf, name, "host"))
        return ++seen->host > 1 ? -400 : 1;
    if (span_is(buf, name, "content-length")) {
        size_t length;
        if (!parse_length(text, value.len, &length))
            return -400;
        if (seen->length++ && length != head->content_length)
            return -400;
        head->content_length = length;
    } else if (span_is(buf, name, "transfer-encoding")) {
        if (seen->encoding++)
            return -400;
        head->chunked = span_is(buf, value, "chunked");
        return head->chunked ? 1 : -501;
    } else if (span_is(buf, name, "connection")) {
        if (list_has(text, value.len, "close"))
            head->close = true;
        else if (!head->minor1 && list_has(text, value.len, "keep-alive"))
            head->close = false;
    } else if (span_is(buf, name, "expect")) {
        if (!span_is(buf, value, "100-continue"))
            return -417;
        head->expects = head->minor1;
    } else if (span_is(buf, name, "content-type")) {
        head->content_type = value;
    }
    return 1;
}

/* "Name: value" in buf[at..end). */
static int header_line(const char *buf, size_t at, size_t end, struct http_head *head,
                       struct header_seen *seen)
{
    struct http_span name = {at, 0};
    while (at < end && is_token((unsigned char)buf[at]))
        at++;
    name.len = at - name.at;
    if (!name.len || at >= end || buf[at] != ':')
        return -400;
    at++;
    while (at < end && (buf[at] == ' ' || buf[at] == '\t'))
        at++;
    while (end > at && (buf[end - 1] == ' ' || buf[end - 1] == '\t'))
        end--;
    for (size_t i = at; i < end; i++) {
        unsigned char c = (unsigned char)buf[i];
        if ((c < ' ' && c != '\t') || c == 127)
            return -400;
    }
    return header_value(buf, name, (struct http_span){at, end - at}, head, seen);
}

/* The end of the line that starts at |at| (the position of its CRLF). 0: not there yet; -400: a
 * bare LF, a bare CR or a NUL. */
static int line_end(const char *buf, size_t len, size_t at, size_t *ret_end)
{
    for (; at < len; at++) {
        if (buf[at] == '\n' || buf[at] == '\0')
            return -400;
        if (buf[at] != '\r')
            continue;
        if (at + 1 == len)
            return 0;
        if (buf[at + 1] != '\n')
            return -400;
        *ret_end = at;
        return 1;
    }
    return 0;
}

int http_head_parse(const char *buf, size_t len, struct http_head *ret)
{
    struct header_seen seen = {0};
    size_t at = 0, end = 0, window = len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX;
    *ret = (struct http_head){0};
    for (bool first = true;; first = false) {
        int rc = line_end(buf, window, at, &end);
        if (!rc)
            return len >= HTTP_HEAD_MAX ? -431 : 0;
        if (rc > 0 && end == at && !first)
            break;
        if (rc > 0)
            rc = first ? request_line(buf, end, ret) : header_line(buf, at, end, ret, &seen);
        if (rc < 0)
            return rc;
        at = end + 2;
    }
    if ((ret->chunked && seen.length) || (ret->minor1 && !seen.host))
        return -400;
    if (ret->chunked && !ret->minor1)
        return -400;
    ret->len = end + 2;
    return 1;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The size line of a chunk at |*at|, which moves behind it. An extension is skipped. */
static int chunk_size(const char *buf, size_t len, size_t *at, size_t *ret_size)
{
    size_t end, size = 0, pos = *at;
    int rc = line_end(buf, len, pos, &end);
    if (rc <= 0)
        return rc < 0 || len - pos > 256 ? -400 : 0;
    for (; pos < end && hex_digit(buf[pos]) >= 0; pos++) {
        if (pos - *at == 8)
            return -413;
        size = size * 16 + (size_t)hex_digit(buf[pos]);
    }
    if (pos == *at || (pos < end && buf[pos] != ';' && buf[pos] != ' '))
        return -400;
    *at = end + 2;
    *ret_size = size;
    return 1;
}

/* Trailer lines up to the empty one; their content is nobody's business here. */
static int trailers(const char *buf, size_t len, size_t at, size_t *ret_used)
{
    size_t start = at, end;
    for (;;) {
        int rc = line_end(buf, len, at, &end);
        if (rc <= 0)
            return rc < 0 ? rc : len - start > HTTP_HEAD_MAX ? -431 : 0;
        bool empty = end == at;
        at = end + 2;
        if (empty)
            break;
    }
    *ret_used = at;
    return 1;
}

int http_body_scan(const char *buf, size_t len, const struct http_head *head, size_t body_max,
                   size_t *ret_used)
{
    if (!head->chunked) {
        if (head->content_length > body_max)
            return -413;
        *ret_used = head->content_length;
        return len >= head->content_length;
    }
    size_t at = 0, total = 0, size;
    /* Chunks of one byte take six; whoever sends many of those is not served. */
    if (len > 8 * body_max + HTTP_HEAD_MAX)
        return -413;
    for (;;) {
        int rc = chunk_size(buf, len, &at, &size);
        if (rc <= 0)
            return rc;
        total += size;
        if (total > body_max)
            return -413;
        if (!size)
            return trailers(buf, len, at, ret_used);
        if (len - at < size + 2)
            return 0;
        if (buf[at + size] != '\r' || buf[at + size + 1] != '\n')
            return -400;
        at += size + 2;
    }
}

size_t http_chunks_join(char *buf)
{
    size_t at = 0, out = 0, size;
    while (chunk_size(buf, SIZE_MAX, &at, &size) > 0 && size) {
        memmove(buf + out, buf + at, size);
        out += size;
        at += size + 2;
    }
    return out;
}
