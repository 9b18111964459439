/* The database of profiles: rows are there whole or not at all, whoever else has the file open and whatever fails
 * in the middle. */

#include "test.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/trials.h"

static char dir[64], path[128];

static void sql(const char *text)
{
    sqlite3 *db = NULL;
    char *why = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
    sqlite3_close(db);
}

static int number(const char *text)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int v = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return v;
}

static int begin(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/fast-trials-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/p.db", dir);
    return 0;
}

static int over(void **state)
{
    char other[160];
    (void)state;
    unlink(path);
    snprintf(other, sizeof(other), "%s-journal", path);
    unlink(other);
    return rmdir(dir);
}

static struct fast_trials *open_db(void)
{
    struct fast_trials *t = NULL;
    struct fast_err err;
    if (fast_trials_open(path, 0, &t, &err))
        fail_msg("%s", err.msg);
    return t;
}

static struct fast_trial row_of(int sm, const char *state)
{
    struct fast_trial t = {.sm_pct = sm, .quota_milli = 200, .batch = 1, .rps = sm, .p50_ms = 1, .p95_ms = 2,
                           .p99_ms = 3, .gpu_ms = 4};
    snprintf(t.state, sizeof(t.state), "%s", state);
    return t;
}

static int count_of(struct fast_trials *t)
{
    static struct fast_trial got[FAST_TRIALS_MAX];
    struct fast_err err;
    int n = 0;
    assert_int_equal(fast_trials_get(t, "f", "v", 1, got, &n, &err), 0);
    return n;
}

/* What was there stays when the last row of what was to replace it does not go in. */
static void replaced_whole_or_not_at_all(void **state)
{
    (void)state;
    struct fast_trials *t = open_db();
    struct fast_err err;
    struct fast_trial old[] = {row_of(6, "ok"), row_of(12, "ok")},
                      more[] = {row_of(24, "ok"), row_of(50, "ok"), row_of(100, "ok")};
    const struct fast_trial_live live = {.sm_pct = 6, .quota_milli = 200, .rps = 7, .spans = 3};
    const struct fast_trial_drift drift = {700, 5};
    assert_int_equal(fast_trials_replace(t, "f", "v", old, 2, &err), 0);
    assert_int_equal(fast_trials_live_put(t, "f", "v", &live, 1, &drift, &err), 0);
    sql("CREATE TRIGGER bad BEFORE INSERT ON trial WHEN new.sm_pct=100 BEGIN SELECT RAISE(ABORT, 'told to'); END");
    assert_int_equal(fast_trials_replace(t, "f", "v", more, 3, &err), -FAST_EIO);
    assert_non_null(strstr(err.msg, "told to"));
    assert_int_equal(number("SELECT sum(sm_pct) FROM trial"), 18);
    assert_int_equal(number("SELECT count(*) FROM live"), 1);
    assert_int_equal(number("SELECT milli FROM drift"), 700);
    /* And nothing of it is left open: the next one goes in, with what live requests said gone. */
    assert_int_equal(fast_trials_replace(t, "f", "v", more, 2, &err), 0);
    assert_int_equal(number("SELECT sum(sm_pct) FROM trial"), 74);
    assert_int_equal(number("SELECT count(*) FROM live"), 0);
    assert_int_equal(number("SELECT count(*) FROM drift"), 0);
    fast_trials_close(t);
}

static void live_whole_or_not_at_all(void **state)
{
    (void)state;
    struct fast_trials *t = open_db();
    struct fast_err err;
    const struct fast_trial_live one = {.sm_pct = 6, .quota_milli = 200, .rps = 7, .spans = 3},
                                 two[] = {{.sm_pct = 12, .quota_milli = 200, .rps = 7, .spans = 3},
                                          {.sm_pct = 100, .quota_milli = 200, .rps = 7, .spans = 3}};
    const struct fast_trial_drift drift = {700, 5}, none = {0};
    assert_int_equal(fast_trials_live_put(t, "f", "v", &one, 1, &drift, &err), 0);
    sql("CREATE TRIGGER bad BEFORE INSERT ON live WHEN new.sm_pct=100 BEGIN SELECT RAISE(ABORT, 'told to'); END");
    assert_int_equal(fast_trials_live_put(t, "f", "v", two, 2, &none, &err), -FAST_EIO);
    assert_int_equal(number("SELECT sum(sm_pct) FROM live"), 6);
    assert_int_equal(number("SELECT milli FROM drift"), 700);
    /* Another version, and a drift that is over. */
    assert_int_equal(fast_trials_live_put(t, "f", "w", &one, 1, &drift, &err), 0);
    assert_int_equal(fast_trials_live_put(t, "f", "v", &two[0], 1, &none, &err), 0);
    assert_int_equal(number("SELECT sum(sm_pct) FROM live"), 18);
    assert_int_equal(number("SELECT count(*) FROM drift"), 1);
    fast_trials_close(t);
}

/* Another program is in the middle of writing: an error after the wait, and nothing changed. */
static void another_one_writes(void **state)
{
    (void)state;
    struct fast_trials *t = open_db();
    struct fast_err err;
    struct fast_trial one = row_of(6, "ok");
    sqlite3 *db = NULL;
    assert_int_equal(fast_trials_put(t, "f", "v", &one, &err), 0);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(fast_trials_forget(t, "f", "v", &err), -FAST_EIO);
    assert_non_null(strstr(err.msg, "locked"));
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(count_of(t), 1);
    assert_int_equal(fast_trials_forget(t, "f", "v", &err), 0);
    assert_int_equal(count_of(t), 0);
    fast_trials_close(t);
}

/* And it has finished before the wait is over. */
static void another_one_has_written(void **state)
{
    (void)state;
    struct fast_trials *t = NULL;
    struct fast_err err;
    struct fast_trial one = row_of(6, "ok");
    int fd[2];
    char c = 0;
    fast_trials_close(open_db());
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    if (child == 0) {
        sqlite3 *db = NULL;
        sqlite3_open(path, &db);
        sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL);
        if (write(fd[1], &c, 1) != 1)
            _exit(1);
        usleep(50000);
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
        sqlite3_close(db);
        _exit(0);
    }
    assert_int_equal(read(fd[0], &c, 1), 1);
    assert_int_equal(fast_trials_open(path, 30000, &t, &err), 0);
    assert_int_equal(fast_trials_put(t, "f", "v", &one, &err), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    fast_trials_close(t);
    close(fd[0]);
    close(fd[1]);
}

/* One that failed has no numbers, whatever it had measured; a slice has one row. */
static void failures_have_no_numbers(void **state)
{
    (void)state;
    struct fast_trials *t = open_db();
    struct fast_err err;
    struct fast_trial ok = row_of(6, "ok"), bad = row_of(6, "crashed");
    assert_int_equal(fast_trials_put(t, "f", "v", &ok, &err), 0);
    assert_int_equal(number("SELECT rps=6 AND gpu_ms=4 FROM trial"), 1);
    assert_int_equal(fast_trials_put(t, "f", "v", &bad, &err), 0);
    assert_int_equal(number("SELECT count(*)=1 AND max(rps IS NULL AND p50_ms IS NULL AND p95_ms IS NULL"
                            " AND p99_ms IS NULL AND gpu_ms IS NULL) FROM trial"), 1);
    fast_trials_close(t);
}

#define OLD_TABLE                                                                                                    \
    "CREATE TABLE trial(id INTEGER PRIMARY KEY, function TEXT NOT NULL, version TEXT NOT NULL, sm_pct INTEGER NOT"   \
    " NULL, quota_milli INTEGER NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL, rps REAL, p50_ms REAL, p95_ms"    \
    " REAL, p99_ms REAL, utilization REAL, sm_activity REAL, occupancy REAL, dram REAL, memory_bytes INTEGER,"       \
    " error_rate REAL, seconds REAL, UNIQUE(function, version, sm_pct, quota_milli));"                               \
    "INSERT INTO trial VALUES(1, 'f', 'v', 6, 200, 'ok', '', 3, 1, 2, 3, .1, .2, .3, .4, 5, 0, 10);"                 \
    "PRAGMA user_version=1;"

static void an_old_database_is_upgraded_or_left_alone(void **state)
{
    (void)state;
    struct fast_trials *t = NULL;
    struct fast_err err;
    sql(OLD_TABLE "CREATE TABLE live(x)"); /* in the way of the upgrade */
    assert_int_equal(fast_trials_open(path, 0, &t, &err), -FAST_EIO);
    assert_int_equal(number("PRAGMA user_version"), 1);
    assert_int_equal(number("SELECT count(*) FROM trial"), 1);
    sql("DROP TABLE live");
    t = open_db();
    assert_int_equal(count_of(t), 1);
    assert_int_equal(number("SELECT rps=3 AND memory_bytes=5 AND seconds=10 AND gpu_ms IS NULL FROM trial"), 1);
    fast_trials_close(t);
}

static void what_is_not_ours(void **state)
{
    (void)state;
    struct fast_trials *t = NULL;
    struct fast_err err;
    sql("PRAGMA user_version=99");
    assert_int_equal(fast_trials_open(path, 0, &t, &err), -FAST_EPROTO);
    assert_non_null(strstr(err.msg, "newer version"));
    sql("PRAGMA user_version=-1");
    assert_int_equal(fast_trials_open(path, 0, &t, &err), -FAST_EPROTO);
    assert_null(t);
}

static void who_has_written(void **state)
{
    (void)state;
    struct fast_trials *a = open_db(), *b = open_db();
    struct fast_err err;
    struct fast_trial one = row_of(6, "ok");
    assert_true(fast_trials_changed(a));
    assert_false(fast_trials_changed(a));
    assert_int_equal(fast_trials_put(a, "f", "v", &one, &err), 0);
    assert_false(fast_trials_changed(a));
    assert_int_equal(fast_trials_put(b, "f", "v", &one, &err), 0);
    assert_true(fast_trials_changed(a));
    fast_trials_close(a);
    fast_trials_close(b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, over)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(replaced_whole_or_not_at_all),
        TEST(live_whole_or_not_at_all),
        TEST(another_one_writes),
        TEST(another_one_has_written),
        TEST(failures_have_no_numbers),
        TEST(an_old_database_is_upgraded_or_left_alone),
        TEST(what_is_not_ours),
        TEST(who_has_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
