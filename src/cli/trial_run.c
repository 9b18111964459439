/* Runs one trial. It decides how a slice is measured and when a trial has failed. It assumes that the
 * gateway places by guaranteed quota, so that a trial gets free slices only and takes nothing that a
 * running function was promised. */

#include "cli/trial_run.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/load.h"
#include "cli/view.h"
#include "core/steady.h"
#include "io/file.h"
#include "io/loop.h"

#define READY_TIMEOUT FAST_S(60)
#define ROOM_TIMEOUT FAST_S(3)  /* a replica that has not been placed by then will not be */
#define GONE_TIMEOUT FAST_S(30)
#define DEATH_TIMEOUT FAST_S(1)
#define POLL_US 50000
#define DEFAULT_NS "openfaas-fn"
#define LOCK_TIMEOUT FAST_S(3)
#define FAILURES_MAX 0.05       /* above this share of wrong answers a trial has failed */
#define SILENCE_PART 0.5        /* of the time, at its end, without an answer: it has stalled, */
#define SILENCE_TURNS 4         /* if it has answered all users so often in a time as long */
#define LATENCY_LOAD 0.6        /* of the saturated rate, at even gaps: no queue */
#define PRESSURE_MAX 0.3        /* of the time some task waits for a CPU: throughput may be too low */
#define REQUESTS_MAX 200000     /* of one phase */
#define SAMPLE_EVERY FAST_MS(500)
#define CHARGE_MIN 0.3
#define CHARGE_MAX 1.3
#define ANSWERS_MIN 20          /* for the GPU time of one */

/* ---- the guard ---- */

static void remove_function(struct cli *cli, const char *name)
{
    api_autoreply r = {0};
    fast_autofree char *text = NULL;
    json_t *d = json_pack("{s:s}", "functionName", name);
    text = json_dumps(d, JSON_COMPACT);
    json_decref(d);
    if (text)
        api_call(cli, "DELETE", "/system/functions", text, strlen(text), NULL, &r);
}

int trial_lock(const char *path, const char *function, int *ret_fd, struct fast_err *err)
{
    uint32_t h = 2166136261u; /* FNV-1a: the byte of this function */
    for (const char *c = function; *c; c++)
        h = (h ^ (unsigned char)*c) * 16777619u;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)h, .l_len = 1};
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "cannot open %s", path);
    /* The guard of a run that was just interrupted still removes its trial. */
    int r = fcntl(fd, F_OFD_SETLK, &lock);
    for (int i = 0; r && i < LOCK_TIMEOUT / FAST_US(POLL_US); i++) {
        usleep(POLL_US);
        r = fcntl(fd, F_OFD_SETLK, &lock);
    }
    if (r) {
        close(fd);
        return fast_err_set(err, FAST_EBUSY, "another `fast profile %s` is running; wait for it, or stop "
                            "it", function);
    }
    *ret_fd = fd;
    return 0;
}

void trial_name(const char *function, char ret[TRIAL_NAME_MAX])
{
    size_t len = strcspn(function, ".");
    snprintf(ret, TRIAL_NAME_MAX, "%.*s-profile%s", (int)len, function, function + len);
}

int trial_prepare(struct cli *cli, const char *function, struct fast_err *err)
{
    api_autoreply a = {0};
    char name[TRIAL_NAME_MAX], path[TRIAL_NAME_MAX + 32];
    trial_name(function, name);
    snprintf(path, sizeof(path), "/system/function/%s", name);
    if (api_call(cli, "GET", path, NULL, 0, NULL, &a))
        return fast_err_set(err, FAST_EPEER, "no gateway at %s", cli->gateway);
    if (a.status == 404)
        return 0;
    json_t *f = json_loadb(a.body, a.len, 0, NULL);
    bool ours = !strcmp(json_text(json_object_get(f, "labels"), "fastgshare/trial"), function);
    json_decref(f);
    if (!ours)
        return fast_err_set(err, FAST_EEXIST, "there is a function %s, and a trial of %s would have this "
                            "name; remove or rename it", name, function);
    remove_function(cli, name);
    for (int i = 0; i < GONE_TIMEOUT / FAST_US(POLL_US); i++) {
        api_reply_free(&a);
        if (!api_call(cli, "GET", path, NULL, 0, NULL, &a) && a.status == 404)
            return 0;
        usleep(POLL_US);
    }
    return fast_err_set(err, FAST_ETIME, "%s of an earlier run does not go away", name);
}

int trial_guard_begin(struct trial_guard *g, struct cli *cli, const char *name, struct fast_err *err)
{
    int fd[2];
    if (pipe(fd))
        return fast_err_set(err, FAST_EIO, "cannot make a pipe");
    g->pid = fork();
    if (g->pid < 0) {
        close(fd[0]);
        close(fd[1]);
        return fast_err_set(err, FAST_EIO, "cannot make a process");
    }
    if (g->pid == 0) {
        char c;
        /* Out of reach of what is sent to the terminal's foreground processes. */
        setsid();
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        close(fd[1]);
        while (read(fd[0], &c, 1) > 0) {
        }
        remove_function(cli, name);
        _exit(0);
    }
    close(fd[0]);
    g->fd = fd[1];
    return 0;
}

void trial_guard_end(struct trial_guard *g)
{
    close(g->fd);
    waitpid(g->pid, NULL, 0);
}

/* ---- the replica ---- */

struct run {
    const struct trial_conf *conf;
    struct fast_trial *ret;
    char name[TRIAL_NAME_MAX]; /* with the namespace, if it is another one than the default */
    fast_ns sampled;
    struct json_mean utilization, sm, occupancy, dram;
    int gpu;
    bool saturating; /* GPU figures are taken */
    struct {
        double busy_ms; /* charged to the replica, as the node told last */
        uint64_t done;  /* requests then */
    } first, last;      /* news of that while saturated; busy_ms 0: none yet */
    fast_ns alone;  /* what its first request took */
    bool late;      /* conf->until has passed */
    bool unwatched; /* the gateway has been without its node for a while, or without an answer */
};

static bool failed(struct run *r, const char *state, const char *text)
{
    snprintf(r->ret->state, sizeof(r->ret->state), "%s", state);
    snprintf(r->ret->text, sizeof(r->ret->text), "%.190s", text);
    r->ret->text[strcspn(r->ret->text, "\r\n")] = '\0';
    return false;
}

static bool is_of(const json_t *row, const struct run *r)
{
    size_t len = strcspn(r->name, ".");
    const char *ns = r->name[len] ? r->name + len + 1 : DEFAULT_NS, *function = json_text(row, "function");
    return strlen(function) == len && !strncmp(function, r->name, len) &&
           !strcmp(json_text(row, "namespace"), ns);
}

/* The row of the trial's replica in /system/replicas; NULL: there is none, or no answer (|ret_down|). */
static json_t *replica(struct run *r, bool *ret_down)
{
    json_t *list = NULL, *row, *found = NULL;
    size_t i;
    *ret_down = api_json(r->conf->cli, "GET", "/system/replicas", NULL, &list) != CLI_OK;
    json_array_foreach(list, i, row) {
        if (is_of(row, r))
            found = json_incref(row);
    }
    json_decref(list);
    return found;
}

static json_t *deployment(struct run *r)
{
    static const char *const taken[] = {"image", "envProcess", "envVars", "constraints", "secrets",
                                        "limits", "requests", "readOnlyRootFilesystem", "namespace"};
    /* A trial is not scaled, gives way to everybody, and its requests are nobody's to be recorded. */
    static const char *const left_out[] = {"fastgshare/slo", "fastgshare/profile", "fastgshare/record",
                                           "fastgshare/sample", "fastgshare/profile_batches"};
    const json_t *f = r->conf->function;
    json_t *d = json_object(), *notes = json_object_get(f, "annotations");
    char text[32];
    for (size_t i = 0; i < FAST_COUNT_OF(taken); i++)
        if (json_object_get(f, taken[i]))
            json_object_set(d, taken[i], json_object_get(f, taken[i]));
    json_object_set_new(d, "service", json_stringn(r->name, strcspn(r->name, ".")));
    json_object_set_new(d, "labels", json_pack("{s:s, s:s, s:s}", "com.openfaas.scale.min", "1",
                                               "com.openfaas.scale.max", "1", "fastgshare/trial",
                                               r->conf->key));
    notes = notes ? json_copy(notes) : json_object();
    for (size_t i = 0; i < FAST_COUNT_OF(left_out); i++)
        json_object_del(notes, left_out[i]);
    json_object_set_new(notes, "fastgshare/priority", json_string("-100"));
    snprintf(text, sizeof(text), "%d", r->ret->sm_pct);
    json_object_set_new(notes, "fastgshare/gpu_sm_partition", json_string(text));
    snprintf(text, sizeof(text), "%.3f", r->ret->quota_milli * 1e-3);
    json_object_set_new(notes, "fastgshare/gpu_quota_request", json_string(text));
    json_object_set_new(notes, "fastgshare/gpu_quota_limit", json_string(text));
    if (r->conf->batch > 1 || json_object_get(notes, "has-gpu/batch_size")) {
        snprintf(text, sizeof(text), "%d", r->conf->batch);
        json_object_set_new(notes, "has-gpu/batch_size", json_string(text));
    }
    if (r->conf->mem_bytes && !json_object_get(notes, "fastgshare/gpu_mem")) {
        snprintf(text, sizeof(text), "%llu", (unsigned long long)r->conf->mem_bytes);
        json_object_set_new(notes, "fastgshare/gpu_mem", json_string(text));
    }
    json_object_set_new(d, "annotations", notes);
    return d;
}

/* TRIAL_DONE: it is being started. */
static enum trial_outcome deploy(struct run *r)
{
    json_t *d = deployment(r);
    fast_autofree char *text = json_dumps(d, JSON_COMPACT);
    api_autoreply a = {0};
    json_decref(d);
    int rc = api_call(r->conf->cli, "POST", "/system/functions", text, strlen(text), NULL, &a);
    if (!rc && a.status >= 200 && a.status < 300)
        return TRIAL_DONE;
    /* That the name is free was seen before: a conflict is one about room. */
    if (!rc && a.status == 409)
        return TRIAL_NO_ROOM;
    cli_fail(CLI_FAILED, "the trial %s was not deployed: %s", r->name, a.body ? a.body : "no answer");
    return TRIAL_ABORT;
}

static bool wait_gone(struct run *r)
{
    fast_ns start = fast_clock_now();
    bool down = false;
    json_t *row;
    while ((row = replica(r, &down)) && fast_clock_now() - start < GONE_TIMEOUT) {
        json_decref(row);
        usleep(POLL_US);
    }
    if (row)
        json_decref(row);
    return !row && !down;
}

/* Whether the gateway has taken the trial away for a live function. */
static bool has_yielded(struct run *r)
{
    api_autoreply a = {0};
    char path[TRIAL_NAME_MAX + 32];
    snprintf(path, sizeof(path), "/system/function/%s", r->name);
    return !api_call(r->conf->cli, "GET", path, NULL, 0, NULL, &a) && a.status == 404;
}

/* True: ready. Else |ret_outcome| says whether that is a row. */
static bool wait_ready(struct run *r, enum trial_outcome *ret_outcome)
{
    fast_ns start = fast_clock_now();
    bool seen = false, down = false;
    for (;;) {
        json_t *row = replica(r, &down);
        fast_ns waited = fast_clock_now() - start;
        const char *state = row ? json_text(row, "state") : "";
        char text[200];
        snprintf(text, sizeof(text), "%s", row ? json_text(row, "text") : "");
        bool ready = !strcmp(state, "ready"), restarted = row && json_num(row, "restarts") > 0;
        bool missing = !row && !down;
        seen = seen || (row && strcmp(state, "placed") != 0);
        r->gpu = row ? (int)json_num(row, "gpu") : 0;
        json_decref(row);
        *ret_outcome = down ? TRIAL_ABORT : TRIAL_DONE;
        if (down || ready)
            return ready;
        if (fast_clock_now() >= r->conf->until) {
            *ret_outcome = TRIAL_LATE;
            return false;
        }
        if (missing && has_yielded(r)) {
            *ret_outcome = TRIAL_YIELDED;
            return false;
        }
        if (!seen && waited > ROOM_TIMEOUT) {
            *ret_outcome = TRIAL_NO_ROOM;
            return false;
        }
        if (restarted)
            return failed(r, "crashed", *text ? text : "it ended before it was ready");
        if (waited > READY_TIMEOUT)
            return failed(r, "unready", *text ? text : "not ready after 60 s");
        usleep(POLL_US);
    }
}

/* ---- load ---- */

/* The node tells of the GPU time twice a second: what lies between two such moments is divided by the
 * requests between them. */
static void watch_charge(struct run *r, uint64_t done)
{
    bool down = false;
    json_t *row = replica(r, &down);
    double busy = json_num(row, "busy_ms");
    json_decref(row);
    if (busy <= 0 || busy == r->last.busy_ms)
        return;
    if (r->last.busy_ms > 0 && r->first.busy_ms <= 0) {
        r->first.busy_ms = busy;
        r->first.done = done;
    }
    r->last.busy_ms = busy;
    r->last.done = done;
}

/* 0: not known. A hook that is never idle for long tells late; then the share of the GPU that comes out is
 * far from the quota, and nothing is said rather than that. */
static double charge_ms(const struct run *r)
{
    uint64_t n = r->last.done - r->first.done;
    if (r->first.busy_ms <= 0 || n < ANSWERS_MIN)
        return 0;
    double each = (r->last.busy_ms - r->first.busy_ms) / (double)n;
    double share = each * r->ret->rps, quota = r->ret->quota_milli; /* thousandths */
    return share > CHARGE_MIN * quota && share < CHARGE_MAX * quota ? each : 0;
}

static bool sample(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    struct run *r = arg;
    json_t *gpus = NULL, *g;
    (void)elapsed; /* of the schedule, and requests of a closed loop are all due at its start */
    (void)total;
    (void)all;
    if (r->saturating)
        watch_charge(r, done);
    r->late = r->late || fast_clock_now() >= r->conf->until;
    if (r->late)
        return false;
    if (fast_clock_now() < r->sampled + SAMPLE_EVERY)
        return true;
    r->sampled = fast_clock_now();
    api_autoreply a = {0};
    if (api_call(r->conf->cli, "GET", "/system/policy", NULL, 0, NULL, &a) || a.status != 200) {
        r->unwatched = true;
        return true;
    }
    if (!r->saturating)
        return true;
    api_json(r->conf->cli, "GET", "/system/gpus", NULL, &gpus);
    size_t i;
    json_array_foreach(gpus, i, g) {
        if ((int)json_num(g, "gpu") != r->gpu)
            continue;
        json_mean_add(&r->utilization, g, "utilization");
        json_mean_add(&r->sm, g, "sm_activity");
        json_mean_add(&r->occupancy, g, "sm_occupancy");
        json_mean_add(&r->dram, g, "dram_activity");
    }
    json_decref(gpus);
    return true;
}

/* |answered|: |n| moments of good answers; NULL: not wanted. */
static bool play(struct run *r, const fast_ns *due, size_t n, int connections, fast_ns timeout, fast_ns *answered,
                 struct fast_load_result *ret)
{
    struct fast_err err;
    char path[300], name[256];
    const struct trial_conf *c = r->conf;
    snprintf(path, sizeof(path), "/function/%s", api_escape(r->name, name, sizeof(name)));
    struct fast_load_spec spec = {.host = c->host, .port = c->port, .path = path,
                                  .bodies = c->bodies->count ? (const char *const *)c->bodies->data : NULL,
                                  .body_lens = c->bodies->len,
                                  .body_count = (size_t)c->bodies->count, .due = due, .due_count = n,
                                  .timeout = timeout, .connections_max = connections,
                                  .answered = answered};
    memset(ret, 0, sizeof(*ret));
    r->sampled = fast_clock_now();
    if (!fast_load_run(&spec, 1, sample, r, ret, &err))
        return !r->late;
    return failed(r, "errors", err.msg);
}

/* One request by itself: does it work at all? It may take as long as ten trials, being the first. */
static bool probe(struct run *r, struct fast_load_result *res)
{
    const fast_ns now = 0;
    char text[120];
    if (!play(r, &now, 1, 1, (fast_ns)(r->conf->seconds * 1e10), NULL, res))
        return false;
    r->alone = res->last_ok;
    if (res->ok)
        return true;
    if (res->timeouts) {
        snprintf(text, sizeof(text), "no answer to its first request in %.0f s", r->conf->seconds * 10);
        return failed(r, "timeout", text);
    }
    r->ret->error_rate = 1;
    snprintf(text, sizeof(text), "its first request was %s",
             res->server_errors ? "answered 5xx" : res->lost ? "not answered" : "answered other than 2xx");
    return failed(r, "errors", text);
}

/* How long so far some task of this machine has waited for a CPU, microseconds; 0: the kernel does not say. */
static double cpu_pressure_us(void)
{
    fast_autofree char *text = NULL;
    double us = 0;
    const char *total = fast_file_read("/proc/pressure/cpu", 4096, &text, NULL, NULL)
                            ? NULL
                            : strstr(text, "total=");
    return total && sscanf(total, "total=%lf", &us) == 1 ? us : 0;
}

/* Whether enough requests were answered well. |timeouts|: those of which no answer came in time. */
static bool judge(struct run *r, const struct fast_load_result *res, uint64_t timeouts)
{
    uint64_t other = res->client_errors + res->throttled;
    uint64_t bad = res->server_errors + other + res->lost + res->wrong + timeouts, all = res->ok + bad;
    double rate = all ? (double)bad / (double)all : 0;
    char text[200];
    r->ret->error_rate = rate > r->ret->error_rate ? rate : r->ret->error_rate;
    if (!res->ok && timeouts == all) {
        snprintf(text, sizeof(text), "no answer in the time of the trial; its first request took %.1f s: more "
                 "--seconds give it more time", (double)r->alone * 1e-9);
        return failed(r, "timeout", text);
    }
    if (rate <= FAILURES_MAX)
        return true;
    snprintf(text, sizeof(text), "of %llu requests under load %llu were answered 5xx, %llu other than "
             "2xx, %llu not at all, %llu not in time", (unsigned long long)all,
             (unsigned long long)res->server_errors, (unsigned long long)other,
             (unsigned long long)res->lost, (unsigned long long)timeouts);
    return failed(r, 2 * timeouts > bad ? "timeout" : "errors", text);
}

/* All requests are due at once and |users| connections take one after the other: a closed loop. Those
 * left when the time is over were never sent; the load counts them as timed out. */
static bool saturate(struct run *r, fast_ns *due, fast_ns *answered, struct fast_load_result *res)
{
    fast_ns length = (fast_ns)(r->conf->seconds * TRIAL_SATURATES * 1e9);
    memset(due, 0, sizeof(*due) * REQUESTS_MAX);
    double pressure = cpu_pressure_us();
    r->saturating = true;
    r->first.busy_ms = r->last.busy_ms = 0;
    bool played = play(r, due, REQUESTS_MAX, r->conf->users, length, answered, res);
    r->saturating = false;
    if (!played)
        return false;
    if (!judge(r, res, 0))
        return false;
    double quiet = (double)(length - res->last_ok), turn = (double)res->last_ok * r->conf->users / (double)res->ok;
    if (quiet > SILENCE_PART * (double)length && quiet > SILENCE_TURNS * turn) {
        char text[120];
        snprintf(text, sizeof(text), "no answer in the last %.1f s under load, after %llu answers", quiet * 1e-9,
                 (unsigned long long)res->ok);
        return failed(r, "timeout", text);
    }
    r->ret->rps = (double)fast_steady_rate_milli(answered, res->ok, r->conf->window_ns) * 1e-3;
    r->ret->gpu_ms = charge_ms(r);
    double share = (cpu_pressure_us() - pressure) * 1e3 / (double)length;
    if (share > PRESSURE_MAX)
        snprintf(r->ret->text, sizeof(r->ret->text), "CPUs were short %.0f %% of the time",
                 100 * (share < 1 ? share : 1));
    return true;
}

static bool latency(struct run *r, fast_ns *due, struct fast_load_result *res)
{
    double length = r->conf->seconds * (1 - TRIAL_SATURATES), rate = r->ret->rps * LATENCY_LOAD;
    size_t n = (size_t)(length * rate);
    n = n < 1 ? 1 : n > REQUESTS_MAX ? REQUESTS_MAX : n;
    for (size_t i = 0; i < n; i++)
        due[i] = (fast_ns)((double)i / rate * 1e9);
    if (!play(r, due, n, 64, FAST_S(60), NULL, res))
        return false;
    if (!judge(r, res, res->timeouts))
        return false;
    r->ret->p50_ms = (double)fast_hist_quantile(&res->latency, 500) * 1e-6;
    r->ret->p95_ms = (double)fast_hist_quantile(&res->latency, 950) * 1e-6;
    r->ret->p99_ms = (double)fast_hist_quantile(&res->latency, 990) * 1e-6;
    return true;
}

static enum trial_outcome load(struct run *r)
{
    fast_autofree fast_ns *due = calloc(REQUESTS_MAX, sizeof(*due));
    fast_autofree fast_ns *answered = calloc(REQUESTS_MAX, sizeof(*answered));
    fast_autofree struct fast_load_result *res = calloc(1, sizeof(*res));
    if (!due || !answered || !res)
        return TRIAL_ABORT;
    bool ok = probe(r, res) && saturate(r, due, answered, res) && latency(r, due, res), down = false;
    fast_ns over = fast_clock_now();
    json_t *row = replica(r, &down);
    /* The death of a replica is known a little after the answers that it did not give. */
    while (!ok && !r->late && !r->unwatched && row && json_num(row, "restarts") == 0 &&
           fast_clock_now() - over < DEATH_TIMEOUT) {
        usleep(POLL_US);
        json_decref(row);
        row = replica(r, &down);
    }
    bool without_node = r->unwatched || down;
    r->ret->memory_bytes = row ? (int64_t)json_num(row, "memory_used_bytes") : 0;
    if (row && json_num(row, "restarts") > 0)
        failed(r, "crashed",
               *json_text(row, "text") ? json_text(row, "text") : "the replica died under load");
    json_decref(row);
    r->ret->utilization = json_mean_of(&r->utilization);
    r->ret->sm_activity = json_mean_of(&r->sm);
    r->ret->occupancy = json_mean_of(&r->occupancy);
    r->ret->dram = json_mean_of(&r->dram);
    if (has_yielded(r))
        return TRIAL_YIELDED;
    if (r->late)
        return TRIAL_LATE;
    if (!without_node)
        return TRIAL_DONE;
    cli_fail(CLI_FAILED, "fast-gateway or fast-node went away in the middle of a trial: it counts for "
             "nothing");
    return TRIAL_ABORT;
}

enum trial_outcome trial_run(const struct trial_conf *conf, int sm_pct, int quota_milli,
                             struct fast_trial *ret)
{
    struct run r = {.conf = conf, .ret = ret};
    fast_ns start = fast_clock_now();
    enum trial_outcome outcome = TRIAL_DONE;
    *ret = (struct fast_trial){.sm_pct = sm_pct, .quota_milli = quota_milli, .batch = conf->batch,
                                .state = "ok"};
    trial_name(conf->key, r.name);
    outcome = deploy(&r);
    if (outcome != TRIAL_DONE)
        return outcome;
    if (wait_ready(&r, &outcome))
        outcome = load(&r);
    remove_function(conf->cli, r.name);
    if (!wait_gone(&r))
        return TRIAL_ABORT;
    ret->seconds = (double)(fast_clock_now() - start) * 1e-9;
    return outcome;
}
