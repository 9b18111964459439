/* digits: a function that reads handwritten digits. POST / with an image, answer in JSON. */
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/httpd.h"
#include "digits/gpu.h"
#include "digits/input.h"
#include "digits/net.h"

static const char usage[] =
    "usage: digits [--listen HOST:PORT] [--module PATH] [--device cuda|cpu]\n"
    "       digits --cpu FILE      answers of the plain CPU code for a file of labelled images\n"
    "       digits --self-test     compare a few answers of the device with the CPU's\n"
    "\n"
    "Serves POST / with an 8x8 image: 64 bytes 0..16, a PGM of 8x8 or 28x28, or JSON\n"
    "{\"pixels\":[...]}. Without --listen it listens on 127.0.0.1, port $PORT, $port or 8080.\n"
    "FILE has records of 65 bytes: 64 pixels and the label (functions/digits/heldout.bin).\n";

enum { RECORD = NET_PIXELS + 1, BODY_MAX = 64 * 1024 };

struct digits {
    struct net net;
    struct gpu *gpu; /* NULL: the plain CPU code answers */
    bool broken;     /* the device failed: the process must be started anew */
};

static const char *device_name(const struct digits *d)
{
    return d->gpu ? gpu_name(d->gpu) : "cpu";
}

static int infer(struct digits *d, const float *pixels, float *logits, char *msg, size_t msg_size)
{
    if (d->gpu)
        return gpu_infer(d->gpu, pixels, logits, msg, msg_size);
    net_cpu(&d->net, pixels, logits);
    return 0;
}

static void handle(void *ctx, const struct httpd_request *q, struct httpd_response *r)
{
    struct digits *d = ctx;
    float pixels[NET_PIXELS], logits[NET_CLASSES];
    char msg[256];
    double probability;
    if (strcmp(q->path, "/") != 0) {
        httpd_fail(r, 404, "there is no %s here: POST an image to /", q->path);
    } else if (strcmp(q->method, "POST") != 0) {
        httpd_fail(r, 405, "POST an image to /");
    } else if (input_parse(q->body, q->body_len, pixels, msg, sizeof(msg))) {
        httpd_fail(r, 400, "%s", msg);
    } else if (infer(d, pixels, logits, msg, sizeof(msg))) {
        httpd_fail(r, 500, "%s", msg);
        fprintf(stderr, "digits: %s\n", msg);
        d->broken = true;
        raise(SIGTERM); /* answers this request, then ends */
    } else {
        int digit = net_answer(logits, &probability);
        r->content_type = "application/json";
        httpd_printf(r, "{\"digit\":%d,\"probability\":%.7f,\"device\":", digit, probability);
        httpd_json_string(r, device_name(d));
        httpd_printf(r, "}\n");
    }
}

/* Answers for every record of |path|: "index label digit probability", then the accuracy. */
static int run_file(const struct digits *d, const char *path)
{
    unsigned char record[RECORD];
    int count = 0, right = 0;
    size_t got = 0;
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    while ((got = fread(record, 1, RECORD, f)) == RECORD) {
        float pixels[NET_PIXELS], logits[NET_CLASSES];
        char msg[256];
        double probability;
        if (input_parse(record, NET_PIXELS, pixels, msg, sizeof(msg)) || record[64] > 9) {
            got = 1; /* not a record */
            break;
        }
        net_cpu(&d->net, pixels, logits);
        int digit = net_answer(logits, &probability);
        printf("%d %d %d %.7f\n", count++, record[64], digit, probability);
        right += digit == record[64];
    }
    fclose(f);
    if (got || !count) {
        fprintf(stderr, "digits: %s is not a file of %d-byte records (record %d)\n", path, RECORD,
                count);
        return 1;
    }
    printf("accuracy %.2f %% (%d of %d)\n", 100.0 * right / count, right, count);
    return 0;
}

/* Images of noise from a fixed generator: the device must answer as the CPU does. */
static int self_test(struct digits *d)
{
    unsigned state = 1;
    for (int n = 0; n < 32; n++) {
        float pixels[NET_PIXELS], logits[NET_CLASSES], want[NET_CLASSES];
        char msg[256];
        double p, want_p;
        for (int i = 0; i < NET_PIXELS; i++) {
            state = state * 1103515245u + 12345u;
            pixels[i] = (float)(state >> 16 & 15) / 16;
        }
        net_cpu(&d->net, pixels, want);
        if (infer(d, pixels, logits, msg, sizeof(msg))) {
            fprintf(stderr, "digits: %s\n", msg);
            return 1;
        }
        int digit = net_answer(logits, &p), want_digit = net_answer(want, &want_p);
        if (digit != want_digit || !(p - want_p < 1e-6 && want_p - p < 1e-6)) {
            fprintf(stderr, "digits: image %d: %d (%.7f) on %s, %d (%.7f) on the CPU\n", n, digit,
                    p, device_name(d), want_digit, want_p);
            return 1;
        }
    }
    printf("self-test passed on %s%s%s\n", device_name(d), d->gpu ? " with " : "",
           d->gpu ? gpu_module(d->gpu) : "");
    return 0;
}

struct options {
    const char *listen, *module, *file;
    bool cpu, self_test;
};

/* Returns -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"listen", required_argument, NULL, 'l'}, {"module", required_argument, NULL, 'm'},
        {"device", required_argument, NULL, 'd'}, {"cpu", required_argument, NULL, 'c'},
        {"self-test", no_argument, NULL, 't'},    {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'l')
            o->listen = optarg;
        else if (c == 'm')
            o->module = optarg;
        else if (c == 'c')
            o->file = optarg;
        else if (c == 't')
            o->self_test = true;
        else if (c == 'd' && (!strcmp(optarg, "cpu") || !strcmp(optarg, "cuda")))
            o->cpu = !strcmp(optarg, "cpu");
        else if (c == 'h')
            return fputs(usage, stdout) < 0;
        else
            return fputs(usage, stderr), 2;
    }
    if (optind != argc) {
        fprintf(stderr, "digits: unexpected argument '%s'\n%s", argv[optind], usage);
        return 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct digits d = {0};
    char msg[1536];
    int rc = parse_options(argc, argv, &o);
    if (rc >= 0)
        return rc;
    if (net_load(digits_weights, digits_weights_size, &d.net, msg, sizeof(msg))) {
        fprintf(stderr, "digits: %s\n", msg);
        return 1;
    }
    if (o.file)
        return run_file(&d, o.file);
    if (!o.cpu && !(d.gpu = gpu_open(&d.net, o.module, msg, sizeof(msg)))) {
        fprintf(stderr, "digits: %s\n", msg);
        return 1;
    }
    if (o.self_test) {
        rc = self_test(&d);
        gpu_close(d.gpu);
        return rc;
    }
    printf("digits on %s%s%s\n", device_name(&d), d.gpu ? ", module " : "",
           d.gpu ? gpu_module(d.gpu) : "");
    struct httpd_conf conf = {
        .listen = o.listen, .body_max = BODY_MAX, .handler = handle, .ctx = &d};
    rc = httpd_run(&conf, msg, sizeof(msg));
    if (rc)
        fprintf(stderr, "digits: %s\n", msg);
    gpu_close(d.gpu);
    return rc || d.broken;
}
