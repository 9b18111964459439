#include "wire/msg.h"
#include "wire/page.h"

#include <stdlib.h>

#include "test.h"

static struct fast_msg start_message(void)
{
    return (struct fast_msg){
        .type = FAST_MSG_T_replica_start,
        .id = 77,
        .replica_start = {
            .replica = fast_str("digits.openfaas-fn.1"), .function = fast_str("digits"),
            .ns = fast_str("openfaas-fn"), .gpu = 1, .sm_pct = 24, .request_milli = 400,
            .limit_milli = 800, .mem_bytes = 2700000000ULL,
            .argv = {"./digits\0--port\0", 16}, .env = {"", 0}, .cwd = fast_str(NULL),
            .health_path = fast_str("/"), .start_timeout_ms = 1000, .stop_grace_ms = 500}};
}

static void round_trip(void **state)
{
    (void)state;
    unsigned char buf[FAST_MSG_MAX];
    struct fast_err err;
    size_t len = 0;
    struct fast_msg in = start_message(), out;
    assert_int_equal(fast_msg_encode(&in, buf, sizeof(buf), &len, &err), 0);
    assert_int_equal(fast_msg_decode(buf, len, &out, &err), 0);
    assert_int_equal(out.type, FAST_MSG_T_replica_start);
    assert_int_equal(out.id, 77);
    assert_string_equal(out.replica_start.replica.p, "digits.openfaas-fn.1");
    assert_true(out.replica_start.mem_bytes == 2700000000ULL);
    assert_int_equal(fast_strv_count(out.replica_start.argv), 2);
    assert_string_equal(fast_strv_get(out.replica_start.argv, 1), "--port");
    assert_null(fast_strv_get(out.replica_start.argv, 2));
    assert_int_equal(out.replica_start.cwd.len, 0);
}

/* Every shorter packet, and every packet with one more byte, is refused. */
static void wrong_lengths(void **state)
{
    (void)state;
    unsigned char buf[FAST_MSG_MAX];
    struct fast_err err;
    size_t len = 0;
    struct fast_msg in = start_message(), out;
    assert_int_equal(fast_msg_encode(&in, buf, sizeof(buf), &len, &err), 0);
    for (size_t n = 0; n < len; n++)
        assert_int_equal(fast_msg_decode(buf, n, &out, &err), -FAST_EPROTO);
    assert_int_equal(fast_msg_decode(buf, len + 1, &out, &err), -FAST_EPROTO);
    for (size_t cap = 0; cap < len; cap++)
        assert_int_equal(fast_msg_encode(&in, buf, cap, &len, &err), -FAST_EINVAL);
}

/* A str with a NUL in the middle is refused; so is a strv whose last string has no end. */
static void hidden_nul(void **state)
{
    (void)state;
    unsigned char buf[FAST_MSG_MAX];
    struct fast_err err;
    size_t len = 0;
    struct fast_msg out, in = {.type = FAST_MSG_T_refused,
                               .refused = {.code = 1, .text = {"a\0b", 3}}};
    assert_int_equal(fast_msg_encode(&in, buf, sizeof(buf), &len, &err), 0);
    assert_int_equal(fast_msg_decode(buf, len, &out, &err), -FAST_EPROTO);
    in = start_message();
    in.replica_start.argv = (struct fast_str){"a\0b", 3};
    assert_int_equal(fast_msg_encode(&in, buf, sizeof(buf), &len, &err), -FAST_EINVAL);
}

/* Random bytes and flipped bits never read out of bounds (run under ASan), and what decodes encodes
 * to the same bytes again. */
static void noise(void **state)
{
    (void)state;
    unsigned char buf[FAST_MSG_MAX], again[FAST_MSG_MAX];
    struct fast_err err;
    struct fast_msg in = start_message(), out;
    unsigned seed = 1;
    for (int i = 0; i < 200000; i++) {
        size_t len = 0, len2 = 0;
        assert_int_equal(fast_msg_encode(&in, buf, sizeof(buf), &len, &err), 0);
        unsigned char *exact = malloc(len);
        memcpy(exact, buf, len);
        for (int k = 0; k < 1 + i % 4; k++)
            exact[(size_t)rand_r(&seed) % len] ^= (unsigned char)(1u << (rand_r(&seed) % 8));
        if (!fast_msg_decode(exact, len, &out, &err)) {
            assert_int_equal(fast_msg_encode(&out, again, sizeof(again), &len2, &err), 0);
            assert_int_equal(len2, len);
            assert_memory_equal(again, exact, len);
        }
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(wrong_lengths),
        cmocka_unit_test(hidden_nul), cmocka_unit_test(noise),
    };
    return cmocka_run_group_tests_name("msg", tests, NULL, NULL);
}
