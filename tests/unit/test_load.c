#include "cli/load.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/http_server.h"
#include "io/loop.h"
#include "sim/arrivals.h"
#include "test.h"

/* ---- a server in a process of its own, whose answer depends on the path ---- */

static struct fast_loop *server_loop;

struct later {
    struct fast_http_req *req;
    struct fast_timer *timer;
};

static void answer_later(void *arg)
{
    struct later *l = arg;
    fast_http_req_reply(l->req, 200, NULL, "text/plain", "late\n", 5);
    fast_timer_free(l->timer);
    free(l);
}

static void collected(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    (void)arg;
    const struct fast_http_head *head = fast_http_req_head(req);
    const char *target = fast_http_req_text(req) + head->target;
    int status = atoi(target + 1);
    if (status) {
        fast_http_req_text_reply(req, status, "%s", "told to");
    } else if (target[1] == 'e') { /* echo */
        fast_http_req_reply(req, 200, NULL, "text/plain", body, len);
    } else if (target[1] == 'l') { /* late, by 100 ms */
        struct later *l = calloc(1, sizeof(*l));
        l->req = req;
        l->timer = fast_timer_new(server_loop, answer_later, l);
        fast_timer_set(l->timer, fast_clock_now() + FAST_MS(100));
    } else if (target[1] == 'a') { /* abort */
        fast_http_req_abort(req);
    } /* else never */
}

static void handle(void *arg, struct fast_http_req *req)
{
    fast_http_req_collect(req, 1 << 20, collected, arg);
}

static void serve(int to_parent)
{
    struct fast_http_server *server = NULL;
    struct fast_err err;
    const struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = handle};
    if (fast_loop_new(&server_loop, &err) ||
        fast_http_server_new(server_loop, &conf, &server, &err))
        _exit(1);
    int port = fast_http_server_port(server);
    if (write(to_parent, &port, sizeof(port)) != sizeof(port))
        _exit(1);
    fast_loop_run(server_loop, &err);
    _exit(0);
}

static pid_t server_pid;
static int server_port;

static int start_server(void **state)
{
    (void)state;
    int fds[2];
    if (pipe(fds))
        return -1;
    server_pid = fork();
    if (server_pid == 0)
        serve(fds[1]);
    close(fds[1]);
    ssize_t n = read(fds[0], &server_port, sizeof(server_port));
    close(fds[0]);
    return server_pid > 0 && n == sizeof(server_port) ? 0 : -1;
}

static int stop_server(void **state)
{
    (void)state;
    kill(server_pid, SIGKILL);
    waitpid(server_pid, NULL, 0);
    return 0;
}

/* ---- the tests ---- */

static fast_ns schedule[200];

static struct fast_load_spec spec_of(const char *path, size_t n, fast_ns gap)
{
    for (size_t i = 0; i < n; i++)
        schedule[i] = gap * (fast_ns)i;
    return (struct fast_load_spec){.host = "127.0.0.1", .port = server_port, .path = path,
                                   .due = schedule, .due_count = n, .timeout = FAST_S(20),
                                   .connections_max = 8};
}

static struct fast_load_result *run(const struct fast_load_spec *spec)
{
    static struct fast_load_result result;
    struct fast_err err;
    if (fast_load_run(spec, 1, NULL, NULL, &result, &err))
        fail_msg("%s", err.msg);
    return &result;
}

static bool check_echo(void *arg, size_t request, const char *body, size_t len)
{
    const char *const *bodies = arg;
    return request % 5 != 4 && len == strlen(bodies[request % 3]) &&
           !memcmp(body, bodies[request % 3], len);
}

/* Bodies go out in turn and come back; what check() refuses is wrong. A body above what is gathered
 * into one write is among them. */
static void echoes(void **state)
{
    (void)state;
    static char large[100001];
    memset(large, 'x', 100000);
    const char *bodies[] = {"one", "", large};
    const size_t lens[] = {3, 0, 100000};
    struct fast_load_spec spec = spec_of("/echo", 100, FAST_MS(2));
    spec.bodies = bodies;
    spec.body_lens = lens;
    spec.body_count = 3;
    static fast_ns answered[100];
    spec.answered = answered;
    spec.check = check_echo;
    spec.check_arg = (void *)bodies;
    const struct fast_load_result *r = run(&spec);
    assert_int_equal(r->sent, 100);
    assert_int_equal(r->ok, 80);
    assert_int_equal(r->wrong, 20);
    assert_int_equal(r->violations, 20);
    assert_int_equal(r->latency.count, 100);
    assert_true(r->span >= FAST_MS(198));
    for (int i = 1; i < 80; i++)
        assert_true(answered[i - 1] > 0 && answered[i - 1] <= answered[i]);
    assert_int_equal(answered[79], r->last_ok);
    assert_int_equal(answered[80], 0);
}

static void statuses(void **state)
{
    (void)state;
    static const int status[] = {204, 429, 404, 500, 502, 302};
    for (size_t i = 0; i < 6; i++) {
        char path[8];
        snprintf(path, sizeof(path), "/%d", status[i]);
        struct fast_load_spec spec = spec_of(path, 10, FAST_MS(1));
        const struct fast_load_result *r = run(&spec);
        assert_int_equal(r->sent, 10);
        assert_int_equal(r->ok, status[i] == 204 ? 10 : 0);
        assert_int_equal(r->throttled, status[i] == 429 ? 10 : 0);
        assert_int_equal(r->client_errors, status[i] == 404 || status[i] == 302 ? 10 : 0);
        assert_int_equal(r->server_errors, status[i] >= 500 ? 10 : 0);
        assert_int_equal(r->violations, status[i] == 204 ? 0 : 10);
        assert_int_equal(r->latency.count, status[i] == 204 ? 10 : 0);
    }
}

/* Two connections for ten requests that are due at once and take 100 ms: the clock of the last two
 * runs from when they were due, 500 ms before their answer. */
static void counts_from_when_it_was_due(void **state)
{
    (void)state;
    struct fast_load_spec spec = spec_of("/late", 10, 0);
    spec.connections_max = 2;
    spec.slo = FAST_MS(250);
    const struct fast_load_result *r = run(&spec);
    assert_int_equal(r->ok, 10);
    assert_true(r->latency.max >= FAST_MS(490));
    assert_true(r->latency.min >= FAST_MS(95));
    assert_true(r->violations >= 6); /* those of the third round and later */
}

static void timeouts(void **state)
{
    (void)state;
    struct fast_load_spec spec = spec_of("/never", 10, FAST_MS(5));
    spec.timeout = FAST_MS(200);
    spec.connections_max = 3; /* seven wait for a connection until their time is over */
    const struct fast_load_result *r = run(&spec);
    assert_int_equal(r->sent, 10);
    assert_int_equal(r->timeouts, 10);
    assert_int_equal(r->violations, 10);
    assert_int_equal(r->latency.count, 0);
    assert_true(r->span >= FAST_MS(245));
}

static void lost(void **state)
{
    (void)state;
    struct fast_load_spec spec = spec_of("/abort", 20, FAST_MS(1));
    assert_int_equal(run(&spec)->lost, 20);
    /* A port where nobody listens: bound, so that nobody else gets it. */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    spec = spec_of("/echo", 20, FAST_MS(1));
    spec.port = ntohs(a.sin_port);
    const struct fast_load_result *r = run(&spec);
    close(fd);
    assert_int_equal(r->lost, 20);
    assert_int_equal(r->violations, 20);
}

static int calls;
static uint64_t last_done, last_all;

static bool on_progress(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    assert_ptr_equal(arg, &calls);
    assert_true(elapsed <= total && done <= all && done >= last_done);
    last_done = done;
    last_all = all;
    calls++;
    return true;
}

static bool stop_at_once(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    (void)arg;
    (void)elapsed;
    (void)total;
    (void)done;
    (void)all;
    return false;
}

/* Who looks at the progress may end it, long before all requests are due. */
static void stopped(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_load_result r;
    assert_int_equal(fast_arrivals_constant(&a, 100000, FAST_S(600), NULL), 0);
    struct fast_load_spec spec = spec_of("/echo", 0, 0);
    spec.due = a.at;
    spec.due_count = a.count;
    assert_int_equal(fast_load_run(&spec, 1, stop_at_once, NULL, &r, NULL), 0);
    assert_true(r.sent < a.count / 2);
    fast_arrivals_fini(&a);
}

/* Several targets at once, Poisson arrivals; their results do not mix. */
static void many_targets(void **state)
{
    (void)state;
    struct fast_arrivals a[3] = {0};
    struct fast_load_spec specs[4];
    static struct fast_load_result r[4];
    static const char *const paths[] = {"/echo", "/429", "/late", "/echo"};
    uint64_t all = 0;
    for (int i = 0; i < 4; i++) {
        if (i < 3)
            assert_int_equal(fast_arrivals_poisson(&a[i], 100000, FAST_MS(500), 1 + (uint64_t)i,
                                                   NULL), 0);
        specs[i] = spec_of(paths[i], 0, 0); /* the last one has no requests */
        specs[i].due = i < 3 ? a[i].at : NULL;
        specs[i].due_count = i < 3 ? a[i].count : 0;
        all += specs[i].due_count;
    }
    assert_int_equal(fast_load_run(specs, 4, on_progress, &calls, r, NULL), 0);
    assert_int_equal(r[0].ok, a[0].count);
    assert_int_equal(r[1].throttled, a[1].count);
    assert_int_equal(r[2].ok, a[2].count);
    assert_int_equal(r[3].sent, 0);
    assert_true(calls >= 4);
    assert_true(last_done == all && last_all == all);
    for (int i = 0; i < 3; i++)
        fast_arrivals_fini(&a[i]);
}

/* Connections of a closed loop send their next request when the last one is answered: what they waited
 * for answers cannot add up to more than the time that they had, and a schedule's load beside it ends. */
static void closed_loop(void **state)
{
    (void)state;
    static struct fast_load_result r[2];
    struct fast_load_spec specs[2] = {spec_of("/late", 0, 0), spec_of("/echo", 10, FAST_MS(1))};
    specs[0].due = NULL;
    specs[0].connections_max = 2;
    specs[0].closed_until = FAST_MS(450);
    assert_int_equal(fast_load_run(specs, 2, NULL, NULL, r, NULL), 0);
    assert_int_equal(r[0].ok, r[0].sent);
    assert_true(r[0].sent >= 2 && r[0].sent <= 10); /* 5 rounds of 100 ms */
    assert_true(r[0].latency.min >= FAST_MS(95));
    assert_true(r[0].latency.sum <= 2 * (uint64_t)r[0].span);
    assert_int_equal(r[1].ok, 10);
}

/* Where nobody answers, or only with errors, a closed loop does not spin. */
static void closed_loop_pauses(void **state)
{
    (void)state;
    static const char *const paths[] = {"/abort", "/500", "/429"};
    for (size_t i = 0; i < 3; i++) {
        struct fast_load_spec spec = spec_of(paths[i], 0, 0);
        spec.due = NULL;
        spec.connections_max = 2;
        spec.closed_until = FAST_MS(250);
        const struct fast_load_result *r = run(&spec);
        assert_int_equal(r->ok, 0);
        assert_true(r->sent >= 2 && r->sent <= 6); /* both connections, three times */
        assert_int_equal(r->violations, r->sent);
    }
}

static void refuses(void **state)
{
    (void)state;
    static struct fast_load_result r;
    struct fast_err err;
    for (int i = 0; i < 9; i++) {
        struct fast_load_spec spec = spec_of("/echo", 2, 1);
        static const fast_ns back[] = {2, 1};
        switch (i) {
        case 0: spec.host = "localhost"; break;
        case 1: spec.port = 0; break;
        case 2: spec.path = "echo"; break;
        case 3: spec.path = "/a b"; break;
        case 4: spec.connections_max = 0; break;
        case 5: spec.timeout = 0; break;
        case 6: spec.closed_until = -1; break;
        case 7: spec.closed_until = FAST_MS(1); break; /* and a schedule */
        default: spec.due = back; break;
        }
        assert_int_equal(fast_load_run(&spec, 1, NULL, NULL, &r, &err), -FAST_EINVAL);
        assert_non_null(strstr(err.msg, "target 1: "));
    }
    assert_int_equal(fast_load_run(NULL, 0, NULL, NULL, &r, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echoes),       cmocka_unit_test(statuses),
        cmocka_unit_test(counts_from_when_it_was_due),
        cmocka_unit_test(timeouts),     cmocka_unit_test(lost),
        cmocka_unit_test(closed_loop),  cmocka_unit_test(closed_loop_pauses),
        cmocka_unit_test(many_targets), cmocka_unit_test(stopped), cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("load", tests, start_server, stop_server);
}
