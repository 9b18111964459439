#include "node/health.h"
#include "node/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#define WAIT_MS 20000

/* ---- processes ---- */

static struct node_process spawn(const char *script, const char *const *envp)
{
    const char *argv[] = {"sh", "-c", script, NULL};
    const char *none[] = {NULL};
    struct node_process p = NODE_PROCESS_NONE;
    struct fast_err err;
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct node_process_spec spec = {argv, envp ? envp : none, "", fd};
    assert_int_equal(node_process_spawn(&spec, &p, &err), 0);
    close(fd);
    return p;
}

static int end_of(struct node_process *p)
{
    struct pollfd w = {.fd = p->pidfd, .events = POLLIN};
    int status = 0;
    assert_int_equal(poll(&w, 1, WAIT_MS), 1);
    assert_true(node_process_reap(p, &status));
    assert_int_equal(p->pid, 0);
    return status;
}

static void exit_statuses(void **state)
{
    (void)state;
    char text[96];
    struct node_process p = spawn("exit 7", NULL);
    int status = end_of(&p);
    node_process_status_text(status, text, sizeof(text));
    assert_string_equal(text, "exit status 7");
    assert_int_equal(node_process_status_code(status), 7);
    p = spawn("sleep 600", NULL);
    assert_false(node_process_reap(&p, &status)); /* it lives */
    node_process_signal(&p, SIGTERM);
    status = end_of(&p);
    node_process_status_text(status, text, sizeof(text));
    assert_string_equal(text, "killed by signal 15 (Terminated)");
    assert_int_equal(node_process_status_code(status), 143);
    assert_int_equal(node_process_status_code(-1), 0);
}

/* A child has the soft limit that it is to have, and this process keeps its own. */
static void descriptors_of_a_child(void **state)
{
    (void)state;
    const char *argv[] = {"sh", "-c", "test $(ulimit -Sn) = 77", NULL}, *envp[] = {NULL};
    struct node_process_spec spec = {argv, envp, "", STDERR_FILENO, -1, 77};
    struct node_process p = NODE_PROCESS_NONE;
    struct rlimit before, after;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(before.rlim_cur > 77);
    assert_int_equal(node_process_spawn(&spec, &p, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
    assert_int_equal(after.rlim_cur, before.rlim_cur);
    assert_int_equal(end_of(&p), 0);
}

static void what_cannot_run(void **state)
{
    (void)state;
    const char *envp[] = {NULL};
    static const struct {
        const char *program;
        const char *cwd;
        int code;
    } rows[] = {
        {"/nonexistent", "/", FAST_ENOENT},     {"/etc/passwd", "/", FAST_EPERM},
        {"true", "/nonexistent", FAST_ENOENT},  {"true", "/etc/passwd", FAST_ENOENT},
        {"/etc/passwd/x", "/", FAST_ENOENT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *argv[] = {rows[i].program, NULL};
        struct fast_err err;
        struct node_process p;
        struct node_process_spec spec = {argv, envp, rows[i].cwd, STDERR_FILENO};
        assert_int_equal(node_process_spawn(&spec, &p, &err), -rows[i].code);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
    }
}

/* The same pid with another start time, and a zombie, are not the process of the record. */
static void adoption(void **state)
{
    (void)state;
    struct node_process p = spawn("sleep 600", NULL), again;
    assert_int_equal(node_process_adopt(p.pid, p.ticks + 1, &again, NULL), -FAST_ENOENT);
    assert_int_equal(node_process_adopt(0, p.ticks, &again, NULL), -FAST_ENOENT);
    assert_int_equal(node_process_adopt(p.pid, p.ticks, &again, NULL), 0);
    assert_int_equal(again.pid, p.pid);
    int status = 0;
    assert_false(node_process_reap(&again, &status));
    node_process_signal(&again, SIGKILL);
    struct pollfd w = {.fd = again.pidfd, .events = POLLIN};
    assert_int_equal(poll(&w, 1, WAIT_MS), 1);
    struct node_process zombie; /* |p| has not been reaped yet */
    assert_int_equal(node_process_adopt(p.pid, p.ticks, &zombie, NULL), -FAST_ENOENT);
    assert_int_equal(end_of(&again), -1);
    assert_int_equal(end_of(&p), SIGKILL);
}

/* Once the leader is reaped and another process could have its pid, its group is left alone. */
static void signals_only_its_own(void **state)
{
    (void)state;
    struct node_process p = spawn("sleep 600", NULL), wrong = p;
    wrong.ticks++;
    node_process_signal(&wrong, SIGKILL);
    struct pollfd w = {.fd = p.pidfd, .events = POLLIN};
    assert_int_equal(poll(&w, 1, 50), 0);
    node_process_signal(&(struct node_process){.pid = 0}, SIGKILL); /* not our own group */
    node_process_end(&p);
    assert_int_equal(p.pidfd, -1);
}

static bool is_good(void *arg, const char *ticket)
{
    return !strcmp(ticket, arg);
}

/* While a program takes another's place it has no environment to be known by. */
static void wait_for_sleep(const struct node_process *p)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)p->pid);
    for (int i = 0; i < WAIT_MS && strcmp(name, "sleep\n") != 0; i++) {
        usleep(1000);
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(name, sizeof(name), f));
        fclose(f);
    }
    assert_string_equal(name, "sleep\n");
}

/* What the node does to its own timers is not handed on. */
static void timers_are_as_given(void **state)
{
    (void)state;
    int given = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    char script[96];
    snprintf(script, sizeof(script), "test \"$(cat /proc/$$/timerslack_ns)\" = %d", given);
    assert_true(given > 1000);
    assert_int_equal(prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0), 0);
    struct node_process p = spawn(script, NULL);
    assert_int_equal(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), 1000);
    prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0);
    assert_int_equal(end_of(&p), 0);
}

static void strays(void **state)
{
    (void)state;
    char path[64], sock[96], other[100], live[] = "good";
    snprintf(path, sizeof(path), "/nonexistent/%d/node.sock", (int)getpid());
    snprintf(sock, sizeof(sock), "FAST_NODE_SOCKET=%s", path);
    snprintf(other, sizeof(other), "%s2", sock);
    const char *good[] = {sock, "FAST_TICKET=good", NULL};
    const char *bad[] = {"A=b", sock, "FAST_TICKET=bad", NULL};
    const char *foreign[] = {other, "FAST_TICKET=bad", NULL};
    struct node_process p[3] = {spawn("exec sleep 600", good), spawn("exec sleep 600", bad),
                                spawn("exec sleep 600", foreign)};
    for (int i = 0; i < 3; i++)
        wait_for_sleep(&p[i]);
    assert_int_equal(node_process_kill_strays(path, is_good, live), 1);
    assert_int_equal(end_of(&p[1]), SIGKILL);
    for (int i = 0; i < 3; i += 2) {
        struct pollfd w = {.fd = p[i].pidfd, .events = POLLIN};
        assert_int_equal(poll(&w, 1, 20), 0);
        node_process_end(&p[i]);
    }
}

/* ---- health ---- */

static void status_line(void **state)
{
    (void)state;
    assert_int_equal(node_health_status("HTTP/1.1 200 OK", 15), 200);
    assert_int_equal(node_health_status("HTTP/1.0 404", 12), 404);
    assert_int_equal(node_health_status("HTTP/1.1 20", 11), 0);
    assert_int_equal(node_health_status("", 0), 0);
    assert_int_equal(node_health_status("HTTP/2 200 OK", 13), -1);
    assert_int_equal(node_health_status("HTTP/1.1 2x0 OK", 15), -1);
    assert_int_equal(node_health_status("SSH-2.0", 7), -1);
}

struct answer {
    struct fast_loop *loop;
    bool told, ok;
    char reason[128];
};

static void on_answer(void *arg, bool ok, const char *reason)
{
    struct answer *a = arg;
    assert_false(a->told);
    a->told = true;
    a->ok = ok;
    snprintf(a->reason, sizeof(a->reason), "%s", reason);
    fast_loop_stop(a->loop);
}

static int listen_any(uint32_t *ret_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len) | listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *ret_port = ntohs(a.sin_port);
    return fd;
}

/* A server in a child process that answers one connection with |text|; NULL: never. */
static struct answer ask(const char *text, const char *path)
{
    struct answer a = {0};
    struct node_health *h = NULL;
    uint32_t port = 0;
    int fd = listen_any(&port);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char request[1024];
        int c = accept(fd, NULL, NULL);
        if (text && read(c, request, sizeof(request)) > 0)
            while (*text && write(c, text, 1) == 1) /* as slowly as can be */
                text++;
        if (!text)
            pause();
        _exit(0);
    }
    assert_int_equal(fast_loop_new(&a.loop, NULL), 0);
    fast_ns timeout = text ? FAST_S(20) : FAST_MS(100);
    assert_int_equal(node_health_new(a.loop, port, path, timeout, on_answer, &a, &h, NULL), 0);
    assert_int_equal(fast_loop_run(a.loop, NULL), 0);
    fast_loop_free(a.loop);
    close(fd);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return a;
}

static void answers(void **state)
{
    (void)state;
    static const struct {
        const char *text, *path;
        bool ok;
    } rows[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", true},
        {"HTTP/1.1 204 No Content\r\n\r\n", "/ready", true},
        {"HTTP/1.1 404 Not Found\r\n\r\n", "", true},
        {"HTTP/1.1 404 Not Found\r\n\r\n", "/ready", false},
        {"HTTP/1.1 503 Busy\r\n\r\n", "", false},
        {"HTTP/1.1 301 Moved\r\n\r\n", "", false},
        {"+OK POP3 ready\r\n", "", false},
        {"HTTP/1.1", "", false},
        {"", "", false},
        {NULL, "", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a = ask(rows[i].text, rows[i].path);
        assert_true(a.told);
        if (a.ok != rows[i].ok)
            fail_msg("\"%s\" gives %d: %s", rows[i].text, a.ok, a.reason);
    }
}

static void nobody_listens(void **state)
{
    (void)state;
    struct answer a = {0};
    struct node_health *h = NULL;
    uint32_t port = 0;
    assert_int_equal(node_process_free_port(&port, NULL), 0);
    assert_int_equal(fast_loop_new(&a.loop, NULL), 0);
    assert_int_equal(node_health_new(a.loop, port, "", FAST_S(20), on_answer, &a, &h, NULL), 0);
    assert_false(a.told); /* never from within */
    assert_int_equal(fast_loop_run(a.loop, NULL), 0);
    assert_false(a.ok);
    assert_string_equal(a.reason, "nothing listens on its port");
    fast_loop_free(a.loop);
}

static void given_up(void **state)
{
    (void)state;
    struct answer a = {0};
    struct node_health *h = NULL;
    uint32_t port = 0;
    int fd = listen_any(&port);
    assert_int_equal(fast_loop_new(&a.loop, NULL), 0);
    assert_int_equal(node_health_new(a.loop, port, "", FAST_S(20), on_answer, &a, &h, NULL), 0);
    node_health_free(h);
    node_health_free(NULL);
    fast_loop_free(a.loop);
    assert_false(a.told);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_statuses), cmocka_unit_test(descriptors_of_a_child), cmocka_unit_test(what_cannot_run),
        cmocka_unit_test(adoption),      cmocka_unit_test(signals_only_its_own),
        cmocka_unit_test(strays),        cmocka_unit_test(status_line),
        cmocka_unit_test(answers),       cmocka_unit_test(nobody_listens),
        cmocka_unit_test(given_up),      cmocka_unit_test(timers_are_as_given),
    };
    return cmocka_run_group_tests_name("agent_process", tests, NULL, NULL);
}
