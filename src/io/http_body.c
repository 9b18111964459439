/* Decides where a body ends and which of its bytes are data. The chunked decoder is a byte machine
 * without a buffer; extensions and trailers are checked and dropped, and both are bounded. */

#include "io/http_parse.h"

#include <string.h>

#define SIZE_DIGITS_MAX 16
#define EXTENSION_MAX 1024 /* bytes of extensions per chunk */
#define TRAILER_MAX 8192   /* bytes of the trailer section */

enum {
    SIZE_FIRST, /* at the first digit of a chunk size */
    SIZE,
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_FIRST, /* at the first byte of a trailer line, or at the CR of the end */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF
};

void fast_http_body_request(struct fast_http_body *b, const struct fast_http_head *h)
{
    *b = (struct fast_http_body){.framing = FAST_HTTP_BODY_NONE, .done = true};
    if (h->chunked)
        *b = (struct fast_http_body){.framing = FAST_HTTP_BODY_CHUNKED, .state = SIZE_FIRST};
    else if (h->length > 0)
        *b = (struct fast_http_body){.framing = FAST_HTTP_BODY_LENGTH, .left = (uint64_t)h->length};
}

void fast_http_body_response(struct fast_http_body *b, const struct fast_http_head *h, bool to_head)
{
    if (to_head || h->status < 200 || h->status == 204 || h->status == 304) {
        *b = (struct fast_http_body){.framing = FAST_HTTP_BODY_NONE, .done = true};
        return;
    }
    fast_http_body_request(b, h);
    if (!h->chunked && h->length < 0)
        *b = (struct fast_http_body){.framing = FAST_HTTP_BODY_CLOSE};
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_name_char(char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

static bool is_text(char c)
{
    return (unsigned char)c >= ' ' ? c != 0x7f : c == '\t';
}

static int size_byte(struct fast_http_body *b, char c)
{
    int v = hex_value(c);
    if (v >= 0) {
        if (b->count++ == SIZE_DIGITS_MAX || b->left >> 59)
            return -400;
        b->left = b->left * 16 + (uint64_t)v;
        b->state = SIZE;
        return 0;
    }
    if (b->state == SIZE_FIRST)
        return -400;
    b->count = 0;
    if (c == ';')
        b->state = EXTENSION;
    else if (c == '\r')
        b->state = SIZE_LF;
    else
        return -400;
    return 0;
}

static int trailer_byte(struct fast_http_body *b, char c)
{
    if (b->count++ == TRAILER_MAX)
        return -400;
    switch (b->state) {
    case TRAILER_FIRST:
        if (c == '\r') {
            b->state = END_LF;
            return 0;
        }
        b->state = TRAILER_NAME;
        return is_name_char(c) ? 0 : -400;
    case TRAILER_NAME:
        if (c == ':')
            b->state = TRAILER_VALUE;
        return c == ':' || is_name_char(c) ? 0 : -400;
    case TRAILER_VALUE:
        if (c == '\r')
            b->state = TRAILER_LF;
        return c == '\r' || is_text(c) ? 0 : -400;
    case TRAILER_LF:
        b->state = TRAILER_FIRST;
        return c == '\n' ? 0 : -400;
    default:
        b->done = true;
        return c == '\n' ? 0 : -400;
    }
}

static int framing_byte(struct fast_http_body *b, char c)
{
    switch (b->state) {
    case SIZE_FIRST:
    case SIZE:
        return size_byte(b, c);
    case EXTENSION:
        if (c == '\r')
            b->state = SIZE_LF;
        return c == '\r' || (is_text(c) && b->count++ < EXTENSION_MAX) ? 0 : -400;
    case SIZE_LF:
        b->count = 0;
        b->state = b->left ? DATA : TRAILER_FIRST;
        return c == '\n' ? 0 : -400;
    case DATA_CR:
        b->state = DATA_LF;
        return c == '\r' ? 0 : -400;
    case DATA_LF:
        b->state = SIZE_FIRST;
        return c == '\n' ? 0 : -400;
    default:
        return trailer_byte(b, c);
    }
}

static void take_data(struct fast_http_body *b, const char *p, size_t len, const char **ret_data,
                      size_t *ret_data_len)
{
    *ret_data = p;
    *ret_data_len = len < b->left ? len : (size_t)b->left;
    b->left -= *ret_data_len;
}

int fast_http_body_next(struct fast_http_body *b, const char *p, size_t len, size_t *ret_used,
                        const char **ret_data, size_t *ret_data_len)
{
    size_t i = 0;
    *ret_used = *ret_data_len = 0;
    *ret_data = NULL;
    if (b->done)
        return 0;
    switch (b->framing) {
    case FAST_HTTP_BODY_NONE:
        b->done = true;
        return 0;
    case FAST_HTTP_BODY_LENGTH:
        take_data(b, p, len, ret_data, ret_data_len);
        *ret_used = *ret_data_len;
        b->done = !b->left;
        return 0;
    case FAST_HTTP_BODY_CLOSE:
        *ret_data = p;
        *ret_data_len = *ret_used = len;
        return 0;
    case FAST_HTTP_BODY_CHUNKED:
        break;
    }
    for (; i < len && b->state != DATA && !b->done; i++)
        if (framing_byte(b, p[i]))
            return -400;
    if (b->state == DATA && i < len) {
        take_data(b, p + i, len - i, ret_data, ret_data_len);
        i += *ret_data_len;
        if (!b->left)
            b->state = DATA_CR;
    }
    *ret_used = i;
    return 0;
}

const char *fast_http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } table[] = {
        {100, "Continue"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {203, "Non-Authoritative Information"},
        {204, "No Content"},
        {205, "Reset Content"},
        {206, "Partial Content"},
        {207, "Multi-Status"},
        {208, "Already Reported"},
        {226, "IM Used"},
        {300, "Multiple Choices"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {305, "Use Proxy"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {407, "Proxy Authentication Required"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {423, "Locked"},
        {424, "Failed Dependency"},
        {425, "Too Early"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {451, "Unavailable For Legal Reasons"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {506, "Variant Also Negotiates"},
        {507, "Insufficient Storage"},
        {508, "Loop Detected"},
        {511, "Network Authentication Required"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].status == status)
            return table[i].reason;
    return "Unknown";
}
