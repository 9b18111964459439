/* The queue of asynchronous calls in SQLite. Decides nothing about when a call is repeated. A call
 * that was handed out is marked so; the marks of an earlier life are taken off when the file is
 * opened, which is what makes each call run at least once. It assumes one program per file, as the
 * lock on gateway.db beside it sees to. */

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/queue.h"

#define COLUMNS                                                                                    \
    "id, call_id, function, method, target, headers, callback, body, created_ns, due_ns, stage,"   \
    " attempts, status, seconds, answer_headers, why"

/* Calls that take may hand out, as both indexes have them, and the functions that these are for: each
 * is found from the one before, whatever the number of calls is. */
#define READY "taken=0 AND stage<2"
#define LANES                                                                                      \
    "WITH RECURSIVE lane(f) AS (SELECT min(function) FROM call WHERE " READY                       \
    " UNION ALL SELECT (SELECT min(function) FROM call WHERE " READY " AND function>lane.f)"       \
    " FROM lane WHERE lane.f IS NOT NULL) "
#define FIRST_OF_LANE(column)                                                                      \
    "(SELECT " column " FROM call WHERE " READY " AND function=lane.f ORDER BY due_ns, id LIMIT 1)"
#define NOT_BUSY " FROM lane WHERE lane.f NOT IN (SELECT value FROM json_each(?1))"

enum { PUT, TAKE, TAKE_OTHER, MARK, RENEW, RENEW_ANSWER, REMOVE, CANCEL, LIST, LIST_DEAD, COUNT, NEXT, NEXT_OTHER,
       RECLAIM, PROVE, STATEMENTS };

static const char *const statements[STATEMENTS] = {
    [PUT] = ("INSERT INTO call(call_id, function, method, target, headers, callback, body,"
             " created_ns, due_ns, stage, attempts, status, seconds, answer_headers, why, taken)"
             " VALUES(?,?,?,?,?,?,?,?,?,0,0,0,0,'','',0)"),
    [TAKE] = ("SELECT " COLUMNS " FROM call WHERE " READY " AND due_ns<=?2"
              " ORDER BY due_ns, id LIMIT 1"),
    [TAKE_OTHER] = (LANES "SELECT " COLUMNS " FROM call WHERE id IN (SELECT " FIRST_OF_LANE("id")
                    NOT_BUSY ") AND due_ns<=?2 ORDER BY due_ns, id LIMIT 1"),
    [MARK] = "UPDATE call SET taken=1 WHERE id=?",
    [RENEW] = ("UPDATE call SET taken=0, stage=?, attempts=?, due_ns=?, status=?, why=?, seconds=?"
               " WHERE id=?"),
    [RENEW_ANSWER] = ("UPDATE call SET taken=0, stage=?, attempts=?, due_ns=?, status=?, why=?,"
                      " seconds=?, body=?, answer_headers=? WHERE id=?"),
    [REMOVE] = "DELETE FROM call WHERE id=?",
    [CANCEL] = "DELETE FROM call WHERE call_id=? AND (taken=0 OR stage=2)",
    [LIST] = ("SELECT " COLUMNS " FROM call WHERE stage<2 ORDER BY id LIMIT ?"),
    [LIST_DEAD] = ("SELECT " COLUMNS " FROM call WHERE stage=2 ORDER BY id LIMIT ?"),
    [COUNT] = "SELECT count(*), coalesce(sum(stage=2), 0) FROM call",
    [NEXT] = ("SELECT due_ns FROM call WHERE " READY " ORDER BY due_ns LIMIT 1"),
    [NEXT_OTHER] = (LANES "SELECT min(" FIRST_OF_LANE("due_ns") ")" NOT_BUSY),
    [RECLAIM] = ("UPDATE call SET taken=NOT taken WHERE stage<2 AND"
                 " taken<>(id IN (SELECT value FROM json_each(?)))"),
    [PROVE] = "UPDATE sqlite_sequence SET seq=seq+1 WHERE name='call'",
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS call(id INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL,"
    " function TEXT NOT NULL, method TEXT NOT NULL, target TEXT NOT NULL, headers TEXT NOT NULL,"
    " callback TEXT NOT NULL, body BLOB, created_ns INTEGER NOT NULL, due_ns INTEGER NOT NULL,"
    " stage INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER NOT NULL,"
    " seconds REAL NOT NULL, answer_headers TEXT NOT NULL, why TEXT NOT NULL,"
    " taken INTEGER NOT NULL);"
    "DROP INDEX IF EXISTS call_due;" /* of earlier versions */
    "CREATE INDEX IF NOT EXISTS call_ready ON call(due_ns, id) WHERE " READY ";"
    "CREATE INDEX IF NOT EXISTS call_lane ON call(function, due_ns, id) WHERE " READY ";"
    "CREATE INDEX IF NOT EXISTS call_name ON call(call_id);"
    "UPDATE call SET taken=0 WHERE taken=1;";

struct sqlite_queue {
    struct gw_queue head;
    sqlite3 *db;
    sqlite3_stmt *st[STATEMENTS];
    bool open; /* a transaction is */
    uint64_t waiting, dead;
};

static struct sqlite_queue *of(struct gw_queue *q)
{
    return (struct sqlite_queue *)q;
}

static int broken(struct sqlite_queue *q, struct fast_err *err)
{
    return fast_err_set(err, FAST_EIO, "queue: %s", sqlite3_errmsg(q->db));
}

static int run_sql(struct sqlite_queue *q, const char *sql, struct fast_err *err)
{
    return sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : broken(q, err);
}

/* Changes gather in one transaction until commit. */
static int begin(struct sqlite_queue *q, struct fast_err *err)
{
    if (q->open && sqlite3_get_autocommit(q->db)) /* SQLite has taken all of it back */
        return fast_err_set(err, FAST_EIO, "queue: an earlier change failed");
    int r = q->open ? 0 : run_sql(q, "BEGIN IMMEDIATE", err);
    q->open = q->open || !r;
    return r;
}

static void text(sqlite3_stmt *st, int i, const char *value)
{
    sqlite3_bind_text(st, i, value ? value : "", -1, SQLITE_STATIC);
}

static int finish(struct sqlite_queue *q, sqlite3_stmt *st, struct fast_err *err)
{
    int r = sqlite3_step(st) == SQLITE_DONE ? 0 : broken(q, err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

static int put(struct gw_queue *base, const struct gw_call *c, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[PUT];
    int r = begin(q, err);
    if (r)
        return r;
    text(st, 1, c->call_id);
    text(st, 2, c->function);
    text(st, 3, c->method);
    text(st, 4, c->target);
    text(st, 5, c->headers);
    text(st, 6, c->callback);
    sqlite3_bind_blob64(st, 7, c->body, c->body_len, SQLITE_STATIC);
    sqlite3_bind_int64(st, 8, c->created_ns);
    sqlite3_bind_int64(st, 9, c->due_ns);
    r = finish(q, st, err);
    q->waiting += !r;
    return r;
}

static const char *column(sqlite3_stmt *st, int i)
{
    const char *t = (const char *)sqlite3_column_text(st, i);
    return t ? t : "";
}

static void read_row(sqlite3_stmt *st, struct gw_call *c)
{
    *c = (struct gw_call){.id = sqlite3_column_int64(st, 0),
                          .call_id = column(st, 1),
                          .function = column(st, 2),
                          .method = column(st, 3),
                          .target = column(st, 4),
                          .headers = column(st, 5),
                          .callback = column(st, 6),
                          .body = sqlite3_column_blob(st, 7),
                          .body_len = (size_t)sqlite3_column_bytes(st, 7),
                          .created_ns = sqlite3_column_int64(st, 8),
                          .due_ns = sqlite3_column_int64(st, 9),
                          .stage = sqlite3_column_int(st, 10),
                          .attempts = sqlite3_column_int(st, 11),
                          .status = sqlite3_column_int(st, 12),
                          .seconds = sqlite3_column_double(st, 13),
                          .answer_headers = column(st, 14),
                          .why = column(st, 15)};
}

/* It is marked before it is told, so that |fn| may change the queue. */
static int take(struct gw_queue *base, int64_t now, const char *busy, gw_call_fn *fn, void *arg)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[busy ? TAKE_OTHER : TAKE];
    struct gw_call c;
    int n = 0;
    if (begin(q, NULL))
        return -FAST_EIO;
    if (busy)
        text(st, 1, busy);
    sqlite3_bind_int64(st, 2, now);
    if (sqlite3_step(st) == SQLITE_ROW) {
        read_row(st, &c);
        sqlite3_bind_int64(q->st[MARK], 1, c.id);
        n = !finish(q, q->st[MARK], NULL);
        if (n)
            fn(arg, &c);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return n;
}

static int renew(struct gw_queue *base, const struct gw_call *c, bool answer, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[answer ? RENEW_ANSWER : RENEW];
    int i = 7, r = begin(q, err);
    if (r)
        return r;
    sqlite3_bind_int(st, 1, c->stage);
    sqlite3_bind_int(st, 2, c->attempts);
    sqlite3_bind_int64(st, 3, c->due_ns);
    sqlite3_bind_int(st, 4, c->status);
    text(st, 5, c->why);
    sqlite3_bind_double(st, 6, c->seconds);
    if (answer) {
        sqlite3_bind_blob64(st, i++, c->body, c->body_len, SQLITE_STATIC);
        text(st, i++, c->answer_headers);
    }
    sqlite3_bind_int64(st, i, c->id);
    r = finish(q, st, err);
    if (!r && c->stage == GW_CALL_DEAD) {
        q->waiting--;
        q->dead++;
    }
    return r;
}

static int remove_call(struct gw_queue *base, int64_t id, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    int r = begin(q, err);
    if (r)
        return r;
    sqlite3_bind_int64(q->st[REMOVE], 1, id);
    r = finish(q, q->st[REMOVE], err);
    q->waiting -= !r;
    return r;
}

static void read_counts(struct sqlite_queue *q)
{
    sqlite3_stmt *st = q->st[COUNT];
    if (sqlite3_step(st) == SQLITE_ROW) {
        q->dead = (uint64_t)sqlite3_column_int64(st, 1);
        q->waiting = (uint64_t)sqlite3_column_int64(st, 0) - q->dead;
    }
    sqlite3_reset(st);
}

static int cancel(struct gw_queue *base, const char *call_id, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    int r = begin(q, err);
    if (r)
        return r;
    text(q->st[CANCEL], 1, call_id);
    r = finish(q, q->st[CANCEL], err);
    if (r)
        return r;
    if (!sqlite3_changes(q->db))
        return fast_err_set(err, FAST_ENOENT, "no call %.80s waits", call_id);
    read_counts(q);
    return 0;
}

static int commit(struct gw_queue *base, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    if (!q->open)
        return 0;
    int r = run_sql(q, "COMMIT", err);
    if (r)
        run_sql(q, "ROLLBACK", NULL);
    q->open = false;
    if (r)
        read_counts(q);
    return r;
}

static int reclaim(struct gw_queue *base, const char *held, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    int r = begin(q, err);
    if (!r) {
        text(q->st[RECLAIM], 1, held);
        r = finish(q, q->st[RECLAIM], err);
    }
    r = r ? r : finish(q, q->st[PROVE], err);
    int wrong = commit(base, r ? NULL : err);
    return r ? r : wrong;
}

static int list(struct gw_queue *base, bool dead, int max, gw_call_fn *fn, void *arg)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[dead ? LIST_DEAD : LIST];
    struct gw_call c;
    int n = 0;
    sqlite3_bind_int(st, 1, max);
    while (sqlite3_step(st) == SQLITE_ROW) {
        read_row(st, &c);
        fn(arg, &c);
        n++;
    }
    sqlite3_reset(st);
    return n;
}

static void count(struct gw_queue *base, uint64_t *ret_waiting, uint64_t *ret_dead)
{
    *ret_waiting = of(base)->waiting;
    *ret_dead = of(base)->dead;
}

static int64_t next_due(struct gw_queue *base, const char *busy)
{
    sqlite3_stmt *st = of(base)->st[busy ? NEXT_OTHER : NEXT];
    int64_t due = INT64_MAX;
    if (busy)
        text(st, 1, busy);
    if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL)
        due = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return due;
}

static void close_queue(struct gw_queue *base)
{
    struct sqlite_queue *q = of(base);
    commit(base, NULL);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(q->st[i]);
    sqlite3_close(q->db);
    free(q);
}

static const struct gw_queue_ops ops = {put,     take, renew, remove_call, cancel,     commit,
                                        reclaim, list, count, next_due,    close_queue};

int gw_queue_sqlite_open(const char *path, struct gw_queue **ret, struct fast_err *err)
{
    struct sqlite_queue *q = calloc(1, sizeof(*q));
    int r = 0;
    if (!q)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the queue");
    q->head.ops = &ops;
    /* Bodies of calls are nobody else's business; SQLite gives its other files the same mode. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    if (sqlite3_open_v2(path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        r = fast_err_set(err, FAST_EIO, "cannot open %.150s: %s", path,
                         q->db ? sqlite3_errmsg(q->db) : "no memory");
    r = r ? r : run_sql(q, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", err);
    r = r ? r : run_sql(q, schema, err);
    if (r)
        fast_err_wrap(err, "%.150s (move it away to begin without asynchronous calls)", path);
    for (int i = 0; !r && i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(q->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &q->st[i],
                               NULL) != SQLITE_OK)
            r = broken(q, err);
    if (r) {
        close_queue(&q->head);
        return r;
    }
    read_counts(q);
    *ret = &q->head;
    return 0;
}
