/* The queue of asynchronous calls in SQLite: what is handed out and when, and what the next life finds. */

#include "gateway/queue.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/units.h"
#include "test.h"

static char dir[] = "/tmp/fast-queue-XXXXXX";
static char path[64];

static int make(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/async.db", dir);
    return 0;
}

static int clean(void **state)
{
    char cmd[64];
    (void)state;
    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
    return system(cmd);
}

static int remove_file(void **state)
{
    char more[80];
    (void)state;
    unlink(path);
    snprintf(more, sizeof(more), "%s-wal", path);
    unlink(more);
    return 0;
}

static struct gw_queue *open_at(int64_t now)
{
    struct gw_queue *q = NULL;
    struct fast_err err;
    if (gw_queue_sqlite_open(path, now, &q, &err))
        fail_msg("%s", err.msg);
    return q;
}

static struct gw_queue *reopen_at(struct gw_queue *q, int64_t now)
{
    q->ops->close(q);
    return open_at(now);
}

static void put_at(struct gw_queue *q, const char *id, const char *function, int64_t now)
{
    struct gw_call c = {.call_id = id, .function = function, .method = "POST", .target = "/x?y", .headers = "A: b\r\n",
                        .callback = "http://c/", .body = "one\0two", .body_len = 7, .created_ns = now, .due_ns = now};
    assert_int_equal(q->ops->put(q, &c, NULL), 0);
    assert_int_equal(q->ops->commit(q, NULL), 0);
}

/* A copy of what was told last. */
static struct gw_call got;
static char got_id[80], got_body[64], got_lines[64];
static int told;

static void keep(void *arg, const struct gw_call *c)
{
    (void)arg;
    got = *c;
    snprintf(got_id, sizeof(got_id), "%s", c->call_id);
    snprintf(got_lines, sizeof(got_lines), "%s", c->answer_headers);
    if (c->body_len)
        memcpy(got_body, c->body, c->body_len);
    told++;
}

/* The id of the call that is handed out, "": none. */
static const char *take_but(struct gw_queue *q, int64_t now, json_t *busy)
{
    int n = q->ops->take(q, now, busy, keep, NULL);
    assert_true(n >= 0);
    assert_int_equal(q->ops->commit(q, NULL), 0);
    json_decref(busy);
    return n ? got_id : "";
}

static const char *take(struct gw_queue *q, int64_t now)
{
    return take_but(q, now, NULL);
}

/* The call that was told last is put off. */
static void put_off(struct gw_queue *q, int64_t now, int64_t wait)
{
    struct gw_call c = {.id = got.id, .function = "f.n", .stage = GW_CALL_RUN, .attempts = 1, .status = 500,
                        .due_ns = now + wait, .wait_ns = wait, .why = "so"};
    assert_int_equal(q->ops->renew(q, &c, false, NULL), 0);
    assert_int_equal(q->ops->commit(q, NULL), 0);
}

static void assert_counts(struct gw_queue *q, uint64_t waiting, uint64_t dead)
{
    uint64_t w, d;
    q->ops->count(q, &w, &d);
    assert_int_equal(w, waiting);
    assert_int_equal(d, dead);
}

static void whoever_has_been_due_longest(void **state)
{
    (void)state;
    struct gw_queue *q = open_at(0);
    put_at(q, "a2", "a.n", 20);
    put_at(q, "b3", "b.n", 30);
    put_at(q, "a1", "a.n", 10);
    put_at(q, "c1", "c.n", 10);
    assert_int_equal(q->ops->next_due(q, NULL), 10);
    assert_string_equal(take(q, 9), "");
    assert_string_equal(take_but(q, 100, json_pack("{s:b, s:b}", "a.n", 1, "c.n", 1)), "b3");
    json_t *busy = json_pack("{s:b, s:b}", "a.n", 1, "c.n", 1);
    assert_true(q->ops->next_due(q, busy) == INT64_MAX);
    json_decref(busy);
    assert_string_equal(take(q, 100), "a1");
    assert_string_equal(take(q, 100), "c1");
    assert_string_equal(take(q, 100), "a2");
    assert_string_equal(take(q, 100), "");
    assert_counts(q, 4, 0);
    q->ops->close(q);
}

static void all_of_it_comes_back_in_the_next_life(void **state)
{
    (void)state;
    struct gw_queue *q = open_at(0);
    put_at(q, "a", "f.n", 1);
    for (int life = 0; life < 3; life++) {
        assert_string_equal(take(q, 5), "a");
        assert_string_equal(take(q, 5), "");
        assert_int_equal(got.body_len, 7);
        assert_memory_equal(got_body, "one\0two", 7);
        q = reopen_at(q, 5);
        assert_counts(q, 1, 0);
    }
    assert_string_equal(take(q, 5), "a");
    struct gw_call c = got;
    c.function = "f.n";
    c.stage = GW_CALL_CALLBACK;
    c.why = "";
    c.body = "answer";
    c.body_len = 6;
    c.answer_headers = "X: y\r\n";
    assert_int_equal(q->ops->renew(q, &c, true, NULL), 0);
    q = reopen_at(q, 5);
    assert_string_equal(take(q, 5), "a");
    assert_int_equal(got.stage, GW_CALL_CALLBACK);
    assert_string_equal(got_lines, "X: y\r\n");
    assert_int_equal(got.body_len, 6);
    assert_memory_equal(got_body, "answer", 6);
    c.stage = GW_CALL_DEAD;
    assert_int_equal(q->ops->renew(q, &c, false, NULL), 0);
    q = reopen_at(q, 5);
    assert_counts(q, 0, 1);
    assert_string_equal(take(q, 5), "");
    assert_int_equal(q->ops->remove(q, c.id, NULL), 0);
    q->ops->close(q);
}

/* Written down is wall clock, and that may have been wrong by years when it was. */
static void nothing_waits_for_longer_than_it_was_put_off(void **state)
{
    (void)state;
    const int64_t year = FAST_S(86400) * 365, wait = FAST_S(60);
    struct gw_queue *q = open_at(year);
    put_at(q, "put off", "f.n", year);
    assert_string_equal(take(q, year), "put off");
    put_off(q, year, wait);
    put_at(q, "new", "g.n", year);
    q = reopen_at(q, year + FAST_S(20)); /* a clock that is right changes nothing */
    assert_string_equal(take(q, year + FAST_S(20)), "new");
    assert_int_equal(q->ops->next_due(q, NULL), year + wait);
    q = reopen_at(q, year - FAST_S(30));
    assert_string_equal(take(q, year - FAST_S(30)), "new");
    assert_int_equal(q->ops->next_due(q, NULL), year - FAST_S(30) + wait);
    q = reopen_at(q, FAST_S(7));
    assert_string_equal(take(q, FAST_S(7)), "new");
    assert_string_equal(take(q, FAST_S(7)), "");
    assert_int_equal(q->ops->next_due(q, NULL), FAST_S(7) + wait);
    assert_string_equal(take(q, FAST_S(7) + wait), "put off");
    put_off(q, FAST_S(7) + wait, wait);
    q = reopen_at(q, 2 * year); /* and one that was behind hastens it, once */
    assert_string_equal(take(q, 2 * year), "new");
    assert_string_equal(take(q, 2 * year), "put off");
    q->ops->close(q);
}

/* A change was lost: who is not held any more is handed out again. */
static void reclaimed(void **state)
{
    (void)state;
    char held[32];
    struct gw_queue *q = open_at(0);
    put_at(q, "lost", "f.n", 1);
    put_at(q, "held", "f.n", 2);
    assert_string_equal(take(q, 5), "lost");
    assert_string_equal(take(q, 5), "held");
    snprintf(held, sizeof(held), "[%lld]", (long long)got.id);
    assert_int_equal(q->ops->reclaim(q, held, NULL), 0);
    assert_string_equal(take(q, 5), "lost");
    assert_string_equal(take(q, 5), "");
    q->ops->close(q);
}

static void taken_back(void **state)
{
    (void)state;
    struct fast_err err;
    struct gw_queue *q = open_at(0);
    put_at(q, "twice", "f.n", 1);
    put_at(q, "twice", "g.n", 2);
    put_at(q, "runs", "h.n", 0);
    assert_string_equal(take(q, 5), "runs");
    assert_int_equal(q->ops->cancel(q, "runs", &err), -FAST_ENOENT);
    put_at(q, "runs", "h.n", 3);
    assert_int_equal(q->ops->cancel(q, "runs", &err), 0); /* the one that does not */
    assert_counts(q, 3, 0);
    assert_int_equal(q->ops->cancel(q, "nobody", &err), -FAST_ENOENT);
    assert_int_equal(q->ops->cancel(q, "twice", &err), 0);
    assert_counts(q, 1, 0);
    assert_true(q->ops->next_due(q, NULL) == INT64_MAX);
    struct gw_call c = {.id = got.id, .function = "h.n", .stage = GW_CALL_DEAD, .why = ""};
    assert_int_equal(q->ops->renew(q, &c, false, NULL), 0);
    assert_counts(q, 0, 1);
    assert_int_equal(q->ops->cancel(q, "runs", &err), 0);
    assert_counts(q, 0, 0);
    q->ops->close(q);
}

static void lists_have_no_bodies(void **state)
{
    (void)state;
    struct gw_queue *q = open_at(0);
    for (int i = 0; i < 5; i++)
        put_at(q, i < 3 ? "lives" : "dies", i < 3 ? "f.n" : "g.n", i);
    for (int i = 0; i < 2; i++) {
        take_but(q, 9, json_pack("{s:b}", "f.n", 1));
        struct gw_call c = {.id = got.id, .function = "g.n", .stage = GW_CALL_DEAD, .why = "gone"};
        assert_int_equal(q->ops->renew(q, &c, false, NULL), 0);
    }
    told = 0;
    assert_int_equal(q->ops->list(q, false, 2, keep, NULL), 2);
    assert_string_equal(got_id, "lives");
    assert_int_equal(got.body_len, 0);
    assert_int_equal(q->ops->list(q, true, 100, keep, NULL), 2);
    assert_string_equal(got_id, "dies");
    assert_int_equal(told, 4);
    q->ops->close(q);
}

static void run_sql(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
}

/* Nobody waits for the lock: calls are refused while another program has it. */
static void locked_by_another_program(void **state)
{
    (void)state;
    struct fast_err err;
    struct gw_call c = {.call_id = "a", .function = "f.n", .method = "POST", .due_ns = 1};
    struct gw_queue *q = open_at(0);
    put_at(q, "first", "f.n", 0);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    run_sql(db, "BEGIN IMMEDIATE");
    assert_int_equal(q->ops->put(q, &c, &err), -FAST_EIO);
    assert_int_equal(q->ops->take(q, 5, NULL, keep, NULL), -FAST_EIO);
    assert_int_equal(q->ops->reclaim(q, "[]", &err), -FAST_EIO);
    run_sql(db, "COMMIT");
    sqlite3_close(db);
    assert_int_equal(q->ops->reclaim(q, "[]", &err), 0);
    assert_string_equal(take(q, 5), "first");
    assert_string_equal(take(q, 5), "");
    q->ops->close(q);
}

/* What cannot be read is told, and not the same as that there is nothing. */
static void a_file_that_is_broken(void **state)
{
    (void)state;
    struct gw_queue *q = open_at(0);
    put_at(q, "first", "f.n", 0);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    run_sql(db, "DROP TABLE body");
    assert_int_equal(q->ops->take(q, 5, NULL, keep, NULL), -FAST_EIO);
    q->ops->commit(q, NULL);
    run_sql(db, "DROP TABLE call");
    assert_int_equal(q->ops->take(q, 5, NULL, keep, NULL), -FAST_EIO);
    assert_int_equal(q->ops->put(q, &got, NULL), -FAST_EIO);
    sqlite3_close(db);
    q->ops->close(q);
}

/* As version 0.1.0 wrote it. */
static void what_an_earlier_version_left(void **state)
{
    (void)state;
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    run_sql(db, "CREATE TABLE call(id INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, function TEXT NOT NULL,"
            " method TEXT NOT NULL, target TEXT NOT NULL, headers TEXT NOT NULL, callback TEXT NOT NULL, body BLOB,"
            " created_ns INTEGER NOT NULL, due_ns INTEGER NOT NULL, stage INTEGER NOT NULL, attempts INTEGER NOT NULL,"
            " status INTEGER NOT NULL, seconds REAL NOT NULL, answer_headers TEXT NOT NULL, why TEXT NOT NULL,"
            " taken INTEGER NOT NULL);"
            "CREATE INDEX call_ready ON call(due_ns, id) WHERE taken=0 AND stage<2;"
            "CREATE INDEX call_lane ON call(function, due_ns, id) WHERE taken=0 AND stage<2;"
            "CREATE INDEX call_name ON call(call_id);"
            "INSERT INTO call VALUES(3,'a','f.n','POST','/t','H: i\r\n','','body',5,6,0,2,500,0.5,'','why',1);"
            "INSERT INTO call VALUES(8,'dead','f.n','POST','','','',x'',5,6,2,10,500,0.5,'','why',0);");
    sqlite3_close(db);
    struct gw_queue *q = open_at(10);
    assert_counts(q, 1, 1);
    assert_string_equal(take(q, 10), "a");
    assert_int_equal(got.attempts, 2);
    assert_int_equal(got.body_len, 4);
    assert_memory_equal(got_body, "body", 4);
    put_at(q, "new", "f.n", 10);
    assert_string_equal(take(q, 10), "new");
    q = reopen_at(q, 10);
    assert_counts(q, 2, 1);
    q->ops->close(q);
}

/* ---- against a model ---- */

enum { NONE, READY, TAKEN, DEAD, CALLS = 40, FUNCTIONS = 5, STEPS = 1500 };

struct model {
    int state[CALLS], function[CALLS];
    int64_t due[CALLS], id[CALLS];
    struct gw_queue *q;
    int64_t now;
    uint32_t seed;
};

static uint32_t any(struct model *m, uint32_t n)
{
    m->seed = m->seed * 1664525u + 1013904223u;
    return (m->seed >> 8) % n;
}

static char *name_of(int function, char *buf)
{
    sprintf(buf, "f%d.n", function);
    return buf;
}

static int first_of(const struct model *m, uint32_t busy)
{
    int first = -1;
    for (int i = 0; i < CALLS; i++)
        if (m->state[i] == READY && !(busy >> m->function[i] & 1) && (first < 0 || m->due[i] < m->due[first]))
            first = i;
    return first;
}

static void take_one(struct model *m)
{
    char name[16];
    uint32_t bits = any(m, 1 << FUNCTIONS);
    json_t *busy = json_object();
    for (int f = 0; f < FUNCTIONS; f++)
        if (bits >> f & 1)
            json_object_set_new(busy, name_of(f, name), json_true());
    int want = first_of(m, bits);
    assert_true(m->q->ops->next_due(m->q, busy) == (want < 0 ? INT64_MAX : m->due[want]));
    const char *id = take_but(m->q, m->now, busy);
    if (want < 0 || m->due[want] > m->now) {
        assert_string_equal(id, "");
        return;
    }
    assert_int_equal(atoi(id), want);
    m->state[want] = TAKEN;
    m->id[want] = got.id;
}

static void change(struct model *m, int i)
{
    char id[16], name[16];
    struct gw_queue *q = m->q;
    sprintf(id, "%d", i);
    name_of(m->function[i], name);
    if (m->state[i] == NONE) {
        m->function[i] = (int)any(m, FUNCTIONS);
        m->due[i] = m->now += 1; /* no two are equal */
        put_at(q, id, name_of(m->function[i], name), m->now);
        m->state[i] = READY;
    } else if (m->state[i] != TAKEN) {
        assert_int_equal(q->ops->cancel(q, id, NULL), 0);
        m->state[i] = NONE;
    } else if (any(m, 3) == 0) {
        assert_int_equal(q->ops->remove(q, m->id[i], NULL), 0);
        m->state[i] = NONE;
    } else {
        m->state[i] = any(m, 4) ? READY : DEAD;
        m->due[i] = 1000 * (m->now += 1) + i; /* later than what is put next, and unlike any other */
        struct gw_call c = {.id = m->id[i], .function = name, .stage = m->state[i] == DEAD ? GW_CALL_DEAD : GW_CALL_RUN,
                            .due_ns = m->due[i], .wait_ns = INT64_MAX / 4, .why = ""};
        assert_int_equal(q->ops->renew(q, &c, false, NULL), 0);
    }
}

/* Of calls that are not there any more nothing is left. */
static void assert_rows(int want, const char *table)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    char sql[64];
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), want);
    sqlite3_finalize(st);
    sqlite3_close(db);
}

static void as_the_model_says(void **state)
{
    (void)state;
    static struct model m = {.seed = 7};
    m.q = open_at(0);
    for (int step = 0; step < STEPS; step++) {
        uint64_t waiting = 0, dead = 0;
        if (any(&m, 3))
            change(&m, (int)any(&m, CALLS));
        else
            take_one(&m);
        if (any(&m, 200) == 0) {
            m.q = reopen_at(m.q, m.now);
            for (int i = 0; i < CALLS; i++)
                m.state[i] = m.state[i] == TAKEN ? READY : m.state[i];
        }
        m.now += any(&m, 20) ? 0 : 1000000;
        for (int i = 0; i < CALLS; i++) {
            waiting += m.state[i] == READY || m.state[i] == TAKEN;
            dead += m.state[i] == DEAD;
        }
        assert_counts(m.q, waiting, dead);
        if (step == STEPS - 1) {
            m.q->ops->close(m.q);
            assert_rows((int)(waiting + dead), "call");
            assert_rows((int)(waiting + dead), "body");
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(whoever_has_been_due_longest, remove_file),
        cmocka_unit_test_teardown(all_of_it_comes_back_in_the_next_life, remove_file),
        cmocka_unit_test_teardown(nothing_waits_for_longer_than_it_was_put_off, remove_file),
        cmocka_unit_test_teardown(reclaimed, remove_file),
        cmocka_unit_test_teardown(taken_back, remove_file),
        cmocka_unit_test_teardown(lists_have_no_bodies, remove_file),
        cmocka_unit_test_teardown(locked_by_another_program, remove_file),
        cmocka_unit_test_teardown(a_file_that_is_broken, remove_file),
        cmocka_unit_test_teardown(what_an_earlier_version_left, remove_file),
        cmocka_unit_test_teardown(as_the_model_says, remove_file),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
