/* HTTP heads and bodies: the offsets of a head lie inside it, and a message that arrives in pieces
 * is read as the same message that arrives whole. The first byte chooses request or response and
 * how long the pieces are. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "io/http_parse.h"

static void check_head(const struct fast_http_head *h, size_t len)
{
    FUZZ_CHECK(h->len <= len && h->fields <= FAST_HTTP_FIELDS_MAX);
    FUZZ_CHECK((size_t)h->target + h->target_len <= h->len);
    FUZZ_CHECK((size_t)h->method + h->method_len <= h->len);
    for (uint32_t i = 0; i < h->fields; i++) {
        FUZZ_CHECK((size_t)h->field[i].name + h->field[i].name_len <= h->len);
        FUZZ_CHECK((size_t)h->field[i].value + h->field[i].value_len <= h->len);
    }
}

/* Reads a body in pieces of |step| bytes; returns how many bytes of data there were, -1 if it is
 * broken. */
static long long read_body(struct fast_http_body body, const char *p, size_t len, size_t step)
{
    long long sum = 0;
    for (size_t at = 0; at < len && !body.done;) {
        size_t n = len - at < step ? len - at : step, used = 0, data_len = 0;
        const char *data = NULL;
        if (fast_http_body_next(&body, p + at, n, &used, &data, &data_len))
            return -1;
        FUZZ_CHECK(used <= n && (used > 0 || body.done || data_len > 0));
        FUZZ_CHECK(data_len == 0 || (data >= p + at && data + data_len <= p + at + used));
        sum += (long long)data_len;
        at += used;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fast_http_head whole, parts;
    if (size < 1 || size > FAST_HTTP_HEAD_MAX)
        return 0;
    bool response = data[0] & 1;
    size_t step = 1 + (data[0] >> 1) % 16, len = size - 1;
    char *buf = malloc(len + 1); /* its own block, so that a read too far is seen */
    memcpy(buf, data + 1, len);
    fast_http_head_init(&whole, response);
    int r = fast_http_head_parse(&whole, buf, len), r2 = 0;
    fast_http_head_init(&parts, response);
    for (size_t n = step; r2 == 0; n += step) {
        r2 = fast_http_head_parse(&parts, buf, n < len ? n : len);
        if (n >= len)
            break;
    }
    FUZZ_CHECK(r == r2);
    if (r == 1) {
        struct fast_http_body body;
        check_head(&whole, len);
        FUZZ_CHECK(parts.len == whole.len && parts.fields == whole.fields);
        FUZZ_CHECK(parts.length == whole.length && parts.chunked == whole.chunked);
        for (uint32_t i = 0; i < whole.fields; i++)
            fast_http_is_hop(&whole, buf, &whole.field[i]);
        if (response)
            fast_http_body_response(&body, &whole, false);
        else
            fast_http_body_request(&body, &whole);
        long long all = read_body(body, buf + whole.len, len - whole.len, len);
        FUZZ_CHECK(all == read_body(body, buf + whole.len, len - whole.len, step));
    }
    free(buf);
    return 0;
}
