/* The wire decoder: whatever a peer sends is refused or encodes to the same bytes again, and no
 * string or list in it reaches beyond its packet. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "wire/msg.h"

static void touch_str(struct fast_str s)
{
    FUZZ_CHECK(s.p[s.len] == 0 && strlen(s.p) == s.len);
}

static void touch_strv(struct fast_str s)
{
    size_t n = fast_strv_count(s), bytes = 0;
    for (size_t i = 0; i < n && i < 64; i++)
        bytes += strlen(fast_strv_get(s, i)) + 1;
    FUZZ_CHECK(n > 64 || bytes == s.len);
    FUZZ_CHECK(!fast_strv_get(s, n));
}

#define TOUCH_u32(v) ((void)(v))
#define TOUCH_u64(v) ((void)(v))
#define TOUCH_i64(v) ((void)(v))
#define TOUCH_str(v) touch_str(v)
#define TOUCH_strv(v) touch_strv(v)

static void touch(const struct fast_msg *m)
{
    switch (m->type) {
#define F(type, field) TOUCH_##type(x->field);
#define X(name, number)                                                                            \
    case number: {                                                                                 \
        const struct fast_msg_##name *x = &m->name;                                                \
        FAST_MSG_##name(F)                                                                         \
        break;                                                                                     \
    }
        FAST_MSG_LIST(X)
#undef X
#undef F
    default:
        FUZZ_CHECK(0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned char again[FAST_MSG_MAX];
    struct fast_msg msg;
    struct fast_err err;
    size_t len = 0;
    if (size > FAST_MSG_MAX || fast_msg_decode(data, size, &msg, &err))
        return 0;
    touch(&msg);
    FUZZ_CHECK(!fast_msg_encode(&msg, again, sizeof(again), &len, &err));
    FUZZ_CHECK(len == size && !memcmp(again, data, size));
    return 0;
}
