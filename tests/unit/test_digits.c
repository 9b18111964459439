/* The digits function without a driver: what it reads, what its network answers, and that its kernels
 * compute the same numbers as its plain CPU code. Also the HTTP framing that functions share.
 * Arguments: HELDOUT_FILE SIM_MODULE. */
#include "common/http_parse.h"
#include "digits/input.h"
#include "digits/net.h"
#include "simdriver/module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "test.h"

enum { RECORDS = 1000, RECORD = NET_PIXELS + 1 };

static const char *heldout_path, *module_path;
static unsigned char heldout[RECORDS * RECORD + 1];

static const unsigned char *record(int i)
{
    return heldout + (ptrdiff_t)i * RECORD;
}

static struct net load_net(void)
{
    struct net net;
    char msg[256];
    assert_int_equal(net_load(digits_weights, digits_weights_size, &net, msg, sizeof(msg)), 0);
    return net;
}

static int read_heldout(void **state)
{
    (void)state;
    FILE *f = fopen(heldout_path, "rb");
    if (!f)
        return -1;
    size_t got = fread(heldout, 1, sizeof(heldout), f);
    fclose(f);
    return got == sizeof(heldout) - 1 ? 0 : -1;
}

static void accuracy(void **state)
{
    (void)state;
    struct net net = load_net();
    int right = 0, of_digit[NET_CLASSES] = {0};
    for (int i = 0; i < RECORDS; i++) {
        float pixels[NET_PIXELS], logits[NET_CLASSES];
        char msg[256];
        double p;
        assert_int_equal(input_parse(record(i), NET_PIXELS, pixels, msg, sizeof(msg)), 0);
        net_cpu(&net, pixels, logits);
        int label = record(i)[NET_PIXELS];
        assert_in_range(label, 0, 9);
        of_digit[label]++;
        right += net_answer(logits, &p) == label;
        assert_true(p > 0.1 && p <= 1.0);
    }
    assert_true(right >= 970);
    for (int d = 0; d < NET_CLASSES; d++)
        assert_in_range(of_digit[d], 80, 120);
}

/* Damaged weights are refused. */
static void bad_weights(void **state)
{
    (void)state;
    struct net net;
    char msg[256];
    unsigned char *blob = malloc(digits_weights_size);
    for (size_t len = 0; len < 24; len++)
        assert_int_equal(net_load(digits_weights, len, &net, msg, sizeof(msg)), -1);
    assert_int_equal(net_load(digits_weights, digits_weights_size - 4, &net, msg, sizeof(msg)), -1);
    for (int i = 0; i < 20; i++) {
        memcpy(blob, digits_weights, digits_weights_size);
        blob[i] ^= 0x40;
        assert_int_equal(net_load(blob, digits_weights_size, &net, msg, sizeof(msg)), -1);
    }
    free(blob);
}

/* One launch as the simulated driver makes it. */
static void launch(const struct fast_sim_module *m, const char *name, unsigned grid, unsigned bx,
                   unsigned by, void **params)
{
    struct fast_sim_launch l = {.grid = {grid, 1, 1}, .block = {bx, by, 1}, .params = params};
    struct fast_sim_cost cost = {0};
    for (uint32_t k = 0; k < m->kernel_count; k++)
        if (!strcmp(m->kernels[k].name, name)) {
            m->kernels[k].run(&l);
            m->kernels[k].cost(&l, &cost);
            assert_in_range(cost.block_ns, 100, 1000000);
            assert_in_range(cost.occupancy_milli, 1, 1000);
            return;
        }
    fail_msg("no kernel %s", name);
}

static void kernels_infer(const struct fast_sim_module *m, const struct net *net,
                          const float *pixels, float *logits)
{
    static float map1[NET_CHANNELS_MAX * NET_PIXELS], map2[NET_CHANNELS_MAX * NET_PIXELS];
    static float features[NET_CHANNELS_MAX * 16];
    const float *in = pixels;
    float *p1 = map1, *p2 = map2, *pf = features;
    struct net n = *net;
    int one = 1, channels = (int)n.channels1, inputs = (int)net_features(net);
    void *conv1[] = {&in, &n.conv1, &n.bias1, &p1, &one};
    void *conv2[] = {&p1, &n.conv2, &n.bias2, &p2, &channels};
    void *pool[] = {&p2, &pf}, *fc[] = {&pf, &n.fc, &n.bias3, &logits, &inputs};
    launch(m, "digits_conv_relu", (unsigned)n.channels1, NET_SIDE, NET_SIDE, conv1);
    launch(m, "digits_conv_relu", (unsigned)n.channels2, NET_SIDE, NET_SIDE, conv2);
    launch(m, "digits_maxpool", (unsigned)n.channels2, NET_SIDE / 2, NET_SIDE / 2, pool);
    launch(m, "digits_fc", 1, NET_CLASSES, 1, fc);
}

/* The kernels, compiled as the image for the simulated GPU, and the CPU code: bit for bit. */
static void kernels_equal_cpu(void **state)
{
    (void)state;
    struct net net = load_net();
    void *library = dlopen(module_path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    const struct fast_sim_module *m = dlsym(library, FAST_SIM_MODULE_SYMBOL);
    assert_non_null(m);
    assert_int_equal(m->magic, FAST_SIM_MODULE_MAGIC);
    for (int i = 0; i < RECORDS; i++) {
        float pixels[NET_PIXELS], want[NET_CLASSES], have[NET_CLASSES];
        char msg[256];
        assert_int_equal(input_parse(record(i), NET_PIXELS, pixels, msg, sizeof(msg)), 0);
        net_cpu(&net, pixels, want);
        kernels_infer(m, &net, pixels, have);
        assert_memory_equal(want, have, sizeof(want));
    }
    dlclose(library);
}

/* |text| from the heap, exactly as long as it is plus its NUL: ASan sees any byte read beyond. */
static int parse_text(const char *text, size_t len, float *pixels)
{
    char msg[256] = "";
    unsigned char *body = malloc(len + 1);
    memcpy(body, text, len);
    body[len] = '\0';
    int rc = input_parse(body, len, pixels, msg, sizeof(msg));
    assert_true(rc == 0 || strlen(msg) > 5);
    free(body);
    return rc;
}

/* The image of record 0 in each of the forms gives the same pixels. */
static void forms(void **state)
{
    (void)state;
    float raw[NET_PIXELS], other[NET_PIXELS];
    const unsigned char *r = record(0);
    char json[1024] = " {\n \"pixels\" : [", p2[1024] = "P2\n# a comment\n8 8\n16\n";
    char p5[256] = "P5 8 8 16\n", inverted[256] = "P5 8 8 16\n";
    size_t head = strlen(p5);
    for (int i = 0; i < NET_PIXELS; i++) {
        sprintf(json + strlen(json), "%s%d", i ? ", " : "", r[i]);
        sprintf(p2 + strlen(p2), "%d%c", r[i], i % 8 == 7 ? '\n' : ' ');
        p5[head + (size_t)i] = (char)r[i];
        inverted[head + (size_t)i] = (char)(16 - r[i]);
    }
    sprintf(json + strlen(json), "]} ");
    assert_int_equal(parse_text((const char *)r, NET_PIXELS, raw), 0);
    assert_int_equal(parse_text(json, strlen(json), other), 0);
    assert_memory_equal(raw, other, sizeof(raw));
    assert_int_equal(parse_text(p2, strlen(p2), other), 0);
    assert_memory_equal(raw, other, sizeof(raw));
    assert_int_equal(parse_text(p5, head + NET_PIXELS, other), 0);
    assert_memory_equal(raw, other, sizeof(raw));
    assert_int_equal(parse_text(inverted, head + NET_PIXELS, other), 0);
    assert_memory_equal(raw, other, sizeof(raw));
    /* Every prefix of each form is refused. */
    for (size_t len = 0; len + 2 < strlen(json); len++)
        assert_int_equal(parse_text(json, len, other), -1);
    for (size_t len = 0; len < head + NET_PIXELS; len++)
        if (len != NET_PIXELS)
            assert_int_equal(parse_text(p5, len, other), -1);
}

/* Held-out digits, drawn 2.5 times as large somewhere in a 28x28 image, are still read. */
static void big_images(void **state)
{
    (void)state;
    struct net net = load_net();
    int right = 0;
    for (int i = 0; i < 200; i++) {
        char image[900] = "P5 28 28 255\n", *at = image + strlen(image);
        float pixels[NET_PIXELS], logits[NET_CLASSES];
        double p;
        memset(at, 0, 784);
        for (int k = 0; k < 400; k++)
            at[(k / 20 + 3 + i % 3) * 28 + k % 20 + 3 + i % 4] =
                (char)(record(i)[k / 20 * 8 / 20 * 8 + k % 20 * 8 / 20] * 15);
        assert_int_equal(parse_text(image, (size_t)(at - image) + 784, pixels), 0);
        net_cpu(&net, pixels, logits);
        right += net_answer(logits, &p) == record(i)[NET_PIXELS];
    }
    assert_true(right >= 170);
}

static void bad_inputs(void **state)
{
    (void)state;
    static const char *const table[] = {
        "", "x", "{", "{}", "[]", "{\"pixels\":[]}", "{\"pixels\":[1,2,3]}", "{\"pixels\":[17]}",
        "{\"pixels\":[-1]}", "{\"pixels\":[nan]}", "{\"pixels\":[1,]}", "{\"pixels\":[1 2]}",
        "{\"pixels\":[0x1]}", "{\"pixels\":\"1\"}", "{\"pixel\":[1]}", "{\"pixels\":[\"1\"]}",
        "P", "P5", "P5 8 8 16", "P5 8 8 16\n", "P5 0 0 16\n", "P5 8 9 16\n", "P5 -8 8 16\n",
        "P5 8 8 0\n", "P5 8 8 65535\n", "P5 99999999999 8 16\n", "P2 8 8 16\n1 2 3\n",
        "P2 8 8 16\nx\n", "P6 8 8 16\n", "P5 # no end"};
    float pixels[NET_PIXELS];
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (parse_text(table[i], strlen(table[i]), pixels) != -1)
            fail_msg("accepted: %s", table[i]);
    char raw[NET_PIXELS] = {0};
    raw[63] = 17;
    assert_int_equal(parse_text(raw, sizeof(raw), pixels), -1);
    raw[63] = 16;
    assert_int_equal(parse_text(raw, sizeof(raw), pixels), 0);
    assert_true(pixels[63] == 1.0f);
}

static int whole(const char *text, size_t len, struct http_head *head, size_t *used)
{
    char *exact = malloc(len + !len);
    memcpy(exact, text, len);
    int rc = http_head_parse(exact, len, head);
    if (rc > 0)
        rc = http_body_scan(exact + head->len, len - head->len, head, 100, used);
    free(exact);
    return rc;
}

#define CHUNKED_HEAD "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

static void http_accepts(void **state)
{
    (void)state;
    static const char *const table[] = {
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b=c HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost:a\r\nContent-Length: 3\r\n\r\nabc",
        CHUNKED_HEAD "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"};
    struct http_head head = {0};
    size_t used = 0;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        size_t len = strlen(table[i]);
        assert_int_equal(whole(table[i], len, &head, &used), 1);
        assert_int_equal(head.len + used, len);
        for (size_t n = 0; n < len; n++)
            assert_int_equal(whole(table[i], n, &head, &used), 0);
    }
    assert_true(head.chunked && !head.close);
    char body[] = "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
    assert_int_equal(http_chunks_join(body), 13);
    assert_memory_equal(body, "abc0123456789", 13);
}

static void http_refuses(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {400, "\r\n"}, {400, "GET\r\n"}, {400, "GET / HTTP/1.1\n"}, {400, "GET  / HTTP/1.1\r\n"},
        {400, "G(T / HTTP/1.1\r\n"}, {400, "GET x HTTP/1.1\r\n"}, {400, "GET / HTTP/1.1 \r\n"},
        {400, "GET / http/1.1\r\n"}, {505, "GET / HTTP/2.0\r\n"}, {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n"},
        {400, "GET / HTTP/1.1\r\nHost : a\r\n"}, {400, "GET / HTTP/1.1\r\n folded\r\n"},
        {400, "POST / HTTP/1.1\r\nContent-Length: -1\r\n"},
        {400, "POST / HTTP/1.1\r\nContent-Length: 1x\r\n"},
        {400, "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n"},
        {400, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n"},
        {400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
              "Transfer-Encoding: chunked\r\n\r\n"},
        {501, "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n"},
        {417, "POST / HTTP/1.1\r\nExpect: tea\r\n"},
        {413, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n"},
        {413, CHUNKED_HEAD "65\r\n"},
        {413, CHUNKED_HEAD "fffffffff\r\n"},
        {400, CHUNKED_HEAD "x\r\n"},
        {400, CHUNKED_HEAD "1\r\nab\r\n"}};
    struct http_head head;
    size_t used;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        int rc = whole(table[i].text, strlen(table[i].text), &head, &used);
        if (rc != -table[i].status)
            fail_msg("%d instead of %d: %s", rc, -table[i].status, table[i].text);
    }
    static char big[HTTP_HEAD_MAX + 100] = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    memset(big + strlen(big), 'x', sizeof(big) - 100);
    assert_int_equal(http_head_parse(big, HTTP_HEAD_MAX, &head), -431);
}

/* Damaged requests and images never make the parsers read out of bounds (ASan). */
static void noise(void **state)
{
    (void)state;
    static const char request[] =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    static const char image[] = "P2 8 8 16\n1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
    unsigned seed = 1;
    float pixels[NET_PIXELS];
    for (int i = 0; i < 100000; i++) {
        char text[sizeof(request)], pgm[sizeof(image)];
        struct http_head head;
        size_t used;
        memcpy(text, request, sizeof(text));
        memcpy(pgm, image, sizeof(pgm));
        for (int k = 0; k < 1 + i % 3; k++) {
            text[(size_t)rand_r(&seed) % (sizeof(text) - 1)] = (char)rand_r(&seed);
            pgm[(size_t)rand_r(&seed) % (sizeof(pgm) - 1)] = (char)rand_r(&seed);
        }
        if (whole(text, sizeof(text) - 1, &head, &used) > 0)
            assert_true(head.len + used <= sizeof(text) - 1);
        parse_text(pgm, sizeof(pgm) - 1, pixels);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accuracy),     cmocka_unit_test(bad_weights),
        cmocka_unit_test(forms),        cmocka_unit_test(kernels_equal_cpu),
        cmocka_unit_test(big_images),   cmocka_unit_test(bad_inputs),
        cmocka_unit_test(http_accepts), cmocka_unit_test(http_refuses),
        cmocka_unit_test(noise),
    };
    if (argc != 3) {
        fprintf(stderr, "usage: test_digits HELDOUT_FILE SIM_MODULE\n");
        return 2;
    }
    heldout_path = argv[1];
    module_path = argv[2];
    return cmocka_run_group_tests_name("digits", tests, read_heldout, NULL);
}
