/* The formats that a store and its clients agree on: manifest, pass, hash. */
#include "core/manifest.h"

#include <stdlib.h>

#include "base/hash.h"
#include "core/pass.h"
#include "test.h"

static const struct fast_tensor two[] = {
    {.name = "conv.weight", .dtype = FAST_DTYPE_BF16, .ndim = 4, .shape = {16, 1, 3, 3}, .bytes = 288,
     .hash = 5},
    {.name = "scale", .dtype = FAST_DTYPE_F32, .ndim = 0, .bytes = 4}};

static struct fast_manifest *make(size_t *ret_len, uint64_t *ret_bytes)
{
    struct fast_tensor t[2];
    struct fast_manifest *m = NULL;
    memcpy(t, two, sizeof(t));
    assert_int_equal(fast_manifest_lay_out(t, 2, ret_bytes, NULL), 0);
    assert_int_equal(fast_manifest_new(t, 2, &m, ret_len, NULL), 0);
    return m;
}

static void it_says_what_it_was_told(void **state)
{
    (void)state;
    size_t len;
    uint64_t bytes;
    struct fast_manifest *m = make(&len, &bytes);
    struct fast_tensor t;
    assert_int_equal(bytes, 512 + 4);
    assert_int_equal(fast_manifest_check(m, len, bytes, NULL), 0);
    assert_int_equal(fast_manifest_count(m), 2);
    fast_manifest_get(m, 0, &t);
    assert_string_equal(t.name, "conv.weight");
    assert_int_equal(t.dtype, FAST_DTYPE_BF16);
    assert_int_equal(t.shape[0], 16);
    assert_int_equal(t.hash, 5);
    fast_manifest_get(m, 1, &t);
    assert_string_equal(t.name, "scale");
    assert_int_equal(t.offset, 512);
    free(m);
}

/* Every byte of it changed in turn, and every shorter length: it is refused, or all that it says still
 * lies inside the block and the model. */
static void no_change_leads_outside(void **state)
{
    (void)state;
    size_t len;
    uint64_t bytes;
    struct fast_manifest *good = make(&len, &bytes);
    unsigned char *m = malloc(len);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(fast_manifest_check(good, cut, bytes, NULL), -FAST_EPROTO);
    for (size_t at = 0; at < len; at++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(m, good, len);
            m[at] ^= (unsigned char)(1 << bit);
            if (fast_manifest_check((const void *)m, len, bytes, NULL))
                continue;
            for (size_t i = 0; i < fast_manifest_count((const void *)m); i++) {
                struct fast_tensor t;
                fast_manifest_get((const void *)m, i, &t);
                assert_true(t.offset + t.bytes <= bytes);
                const unsigned char *name = (const unsigned char *)t.name;
                assert_true(name >= m && name + strlen(t.name) < m + len);
            }
        }
    free(m);
    free(good);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct fast_tensor t[2];
    struct fast_err err;
    uint64_t bytes;
    memcpy(t, two, sizeof(t));
    t[0].bytes = 287;
    assert_int_equal(fast_manifest_lay_out(t, 2, &bytes, &err), -FAST_EINVAL);
    memcpy(t, two, sizeof(t));
    t[1].name = "conv.weight";
    assert_int_equal(fast_manifest_lay_out(t, 2, &bytes, &err), -FAST_EINVAL);
    memcpy(t, two, sizeof(t));
    t[0].shape[0] = UINT64_MAX;
    assert_int_equal(fast_manifest_lay_out(t, 2, &bytes, &err), -FAST_EINVAL);
}

static void the_digest_sees_everything(void **state)
{
    (void)state;
    uint64_t before[2], after[2];
    for (int change = 0; change < 6; change++) {
        struct fast_tensor t[2];
        memcpy(t, two, sizeof(t));
        fast_manifest_digest(t, 2, 0, before);
        if (change == 0)
            t[0].name = "conv.bias";
        else if (change == 1)
            t[0].dtype = FAST_DTYPE_F16;
        else if (change == 2)
            t[0].shape[3] = 2;
        else if (change == 3)
            t[0].hash = 6;
        else if (change == 4)
            t[1].ndim = 1;
        fast_manifest_digest(t, 2, change == 5, after);
        assert_true(before[0] != after[0] && before[1] != after[1]);
    }
}

static void a_hash_does_not_depend_on_the_pieces(void **state)
{
    (void)state;
    unsigned char data[1000];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 31 + i / 7);
    uint64_t whole = fast_hash_of(data, sizeof(data), 0);
    for (size_t piece = 1; piece < 200; piece++) {
        struct fast_hash h;
        fast_hash_init(&h, 0);
        for (size_t at = 0; at < sizeof(data); at += piece)
            fast_hash_add(&h, data + at, at + piece < sizeof(data) ? piece : sizeof(data) - at);
        assert_true(fast_hash_value(&h) == whole);
    }
    assert_true(fast_hash_of(data, 999, 0) != whole);
    assert_true(fast_hash_of(data, 1000, 1) != whole);
    for (size_t i = 0; i < sizeof(data) * 8; i++) {
        data[i / 8] ^= (unsigned char)(1 << i % 8);
        assert_true(fast_hash_of(data, sizeof(data), 0) != whole);
        data[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    unsigned char zeros[130] = {0}; /* lengths of the same zeros differ */
    for (size_t n = 1; n < sizeof(zeros); n++)
        assert_true(fast_hash_of(zeros, n, 0) != fast_hash_of(zeros, n - 1, 0));
}

/* The example of the authors of SipHash: key 00..0f, message 00..0e. */
static void the_code_is_siphash(void **state)
{
    (void)state;
    unsigned char key[16], message[15];
    for (unsigned i = 0; i < 16; i++)
        key[i] = (unsigned char)i;
    memcpy(message, key, sizeof(message));
    assert_true(fast_pass_code(key, message, sizeof(message)) == 0xa129ca6149be45e5ull);
}

static void a_pass_cannot_be_changed(void **state)
{
    (void)state;
    const unsigned char key[16] = "0123456789abcde", other[16] = "0123456789abcdf";
    struct fast_pass p = {.ns = "openfaas-fn", .who = "digits.openfaas-fn.1"}, read;
    char text[FAST_PASS_MAX], bad[FAST_PASS_MAX];
    assert_true(fast_pass_make(key, &p, text));
    assert_true(fast_pass_read(key, text, &read));
    assert_string_equal(read.ns, "openfaas-fn");
    assert_string_equal(read.who, "digits.openfaas-fn.1");
    assert_false(read.admin);
    assert_false(fast_pass_read(other, text, &read));
    for (size_t i = 0; i < strlen(text); i++) {
        strcpy(bad, text);
        bad[i]++;
        assert_false(fast_pass_read(key, bad, &read));
        strcpy(bad, text);
        bad[i] = 0;
        assert_false(fast_pass_read(key, bad, &read));
    }
    strcpy(p.ns, "a:b");
    assert_false(fast_pass_make(key, &p, text));
    assert_false(fast_pass_read(key, "", &read));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_what_it_was_told),
        cmocka_unit_test(no_change_leads_outside),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(the_digest_sees_everything),
        cmocka_unit_test(a_hash_does_not_depend_on_the_pieces),
        cmocka_unit_test(the_code_is_siphash),
        cmocka_unit_test(a_pass_cannot_be_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
