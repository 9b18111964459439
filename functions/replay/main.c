/* replay: a function that does to the GPU what an inference model does. POST /, answer in JSON. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/httpd.h"
#include "replay/replay.h"

static const char usage[] =
    "usage: replay --model NAME|FILE [--batch N] [--memory-scale X] [--listen HOST:PORT]\n"
    "              [--module PATH]\n"
    "\n"
    "Serves POST /: each request replays the kernels of one inference of the model and answers\n"
    "with its times. NAME is a file NAME.model beside the program, in models/ beside it, or in\n"
    "../models or ../../models from it; without --model, $MODEL says it, and without --batch\n"
    "$HAS_GPU_BATCH_SIZE how many inputs a request has. --memory-scale 0.1\n"
    "allocates a tenth of the model's device memory ($MEMORY_SCALE). Without --listen it listens\n"
    "on 127.0.0.1, port $PORT, $port or 8080.\n";

enum { BODY_MAX = 4 << 20, BATCH_MAX = 1024 };

struct options {
    const char *listen, *model, *batch, *scale;
    struct replay_conf conf;
};

struct server {
    struct replay *replay;
    const struct replay_conf *conf;
    bool broken; /* the device failed: the process must be started anew */
};

static void handle(void *ctx, const struct httpd_request *q, struct httpd_response *r)
{
    struct server *s = ctx;
    struct replay_times t;
    char msg[256];
    if (strcmp(q->path, "/") != 0) {
        httpd_fail(r, 404, "there is no %s here: POST to /", q->path);
    } else if (strcmp(q->method, "POST") != 0) {
        httpd_fail(r, 405, "POST to / for one inference");
    } else if (replay_request(s->replay, &t, msg, sizeof(msg))) {
        httpd_fail(r, 500, "%s", msg);
        fprintf(stderr, "replay: %s\n", msg);
        s->broken = true;
        raise(SIGTERM); /* answers this request, then ends */
    } else {
        double host_ms = t.total_ms > t.gpu_ms ? t.total_ms - t.gpu_ms : 0;
        r->content_type = "application/json";
        httpd_printf(r, "{\"model\":");
        httpd_json_string(r, s->conf->model.name);
        httpd_printf(r, ",\"batch\":%d,\"gpu_ms\":%.3f,\"host_ms\":%.3f,\"device\":",
                     s->conf->batch, t.gpu_ms, host_ms);
        httpd_json_string(r, replay_device(s->replay));
        httpd_printf(r, "}\n");
    }
}

/* Opens the file of model |name|; |path| gets which one, or where it was looked for. */
static FILE *open_model(const char *name, char *path, size_t size)
{
    static const char *const places[] = {"", "models/", "../models/", "../../models/"};
    char dir[2048];
    if (strchr(name, '/')) {
        snprintf(path, size, "%s", name);
        return fopen(path, "re");
    }
    ssize_t len = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    dir[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[1] = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, size, "%s%s%s.model", dir, places[i], name);
        FILE *f = fopen(path, "re");
        if (f)
            return f;
    }
    snprintf(path, size, "%s.model in %s, its models/, ../models/ and ../../models/", name, dir);
    return NULL;
}

static int read_model(const char *name, struct sim_model *ret)
{
    char path[4096], text[SIM_MODEL_BYTES_MAX + 1];
    struct fast_err err;
    FILE *f = open_model(name, path, sizeof(path));
    if (!f) {
        fprintf(stderr, "replay: no model %s: %s\n", path, strerror(errno));
        return -1;
    }
    size_t len = fread(text, 1, sizeof(text), f);
    bool failed = ferror(f);
    fclose(f);
    if (failed) {
        fprintf(stderr, "replay: cannot read %s\n", path);
        return -1;
    }
    if (sim_model_parse(text, len, ret, &err)) {
        fprintf(stderr, "replay: %s: %s\n", path, err.msg);
        return -1;
    }
    return 0;
}

static int usage_error(const char *problem, const char *what)
{
    fprintf(stderr, "replay: %s%s\n%s", problem, what, usage);
    return 2;
}

/* Returns -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},        {"batch", required_argument, NULL, 'b'},
        {"memory-scale", required_argument, NULL, 's'}, {"listen", required_argument, NULL, 'l'},
        {"module", required_argument, NULL, 'i'},       {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    const char **const strings[] = {['m'] = &o->model,  ['b'] = &o->batch, ['s'] = &o->scale,
                                    ['l'] = &o->listen, ['i'] = &o->conf.module};
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'h')
            return fputs(usage, stdout) < 0;
        if (c == '?')
            return fputs(usage, stderr), 2;
        *strings[c] = optarg;
    }
    if (optind != argc)
        return usage_error("unexpected argument ", argv[optind]);
    if (!*o->model)
        return usage_error("no model is given", "");
    return -1;
}

/* A plain decimal number min..max, nothing before or behind it. */
static int parse_number(const char *text, const char *what, double min, double max, double *ret)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (!*text || *end || strspn(text, "0123456789.") != strlen(text) ||
        !(value >= min && value <= max)) {
        fprintf(stderr, "replay: %s '%s' is not a number %g..%g\n", what, text, min, max);
        return -1;
    }
    *ret = value;
    return 0;
}

static int check_numbers(struct options *o)
{
    double batch = 1;
    if (parse_number(o->batch, "batch", 1, BATCH_MAX, &batch) ||
        parse_number(o->scale, "memory scale", 0, 1, &o->conf.memory_scale))
        return -1;
    o->conf.batch = (int)batch;
    if (o->conf.batch != batch) {
        fprintf(stderr, "replay: batch '%s' is not a whole number\n", o->batch);
        return -1;
    }
    return 0;
}

/* An environment variable; one that is empty counts as not set. */
static const char *env_or(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

int main(int argc, char **argv)
{
    struct options o = {.model = env_or("MODEL", ""), .batch = env_or("HAS_GPU_BATCH_SIZE", "1"),
                        .scale = env_or("MEMORY_SCALE", "1")};
    struct server s = {.conf = &o.conf};
    char msg[1536];
    int rc = parse_options(argc, argv, &o);
    if (rc >= 0)
        return rc;
    if (check_numbers(&o))
        return 2;
    if (read_model(o.model, &o.conf.model))
        return 1;
    if (!(s.replay = replay_open(&o.conf, msg, sizeof(msg)))) {
        fprintf(stderr, "replay: %s\n", msg);
        return 1;
    }
    printf("replay of %s, batch %d, on %s, module %s\n", o.conf.model.name, o.conf.batch,
           replay_device(s.replay), replay_module(s.replay));
    struct httpd_conf conf = {
        .listen = o.listen, .body_max = BODY_MAX, .handler = handle, .ctx = &s};
    rc = httpd_run(&conf, msg, sizeof(msg));
    if (rc)
        fprintf(stderr, "replay: %s\n", msg);
    replay_close(s.replay);
    return rc || s.broken;
}
