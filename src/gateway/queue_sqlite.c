/* The queue of asynchronous calls in SQLite. Decides nothing about when a call is repeated. A call
 * that was handed out is marked so; the marks of an earlier life are taken off when the file is
 * opened, which is what makes each call run at least once. When the first call of each function is due is kept
 * in memory, so that finding the next one costs the same however many wait. It assumes one program per file,
 * as the lock on gateway.db beside it sees to. */

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/queue.h"

#define OPEN_WAIT_MS 5000 /* for another program that has the file locked, such as a backup */

#define COLUMNS(body)                                                                              \
    "id, call_id, function, method, target, headers, callback, " body ", created_ns, due_ns, stage,"   \
    " attempts, status, seconds, answer_headers, why"

/* Calls that take may hand out, as the index of lanes has them. */
#define READY "taken=0 AND stage<2"

enum { PUT_BODY, PUT, TAKE, FIRST_DUE, LANES, MARK, RENEW, RENEW_BODY, REMOVE, FIND, CANCEL, LIST, LIST_DEAD, COUNT,
       RECLAIM, PROVE, STATEMENTS };

static const char *const statements[STATEMENTS] = {
    [PUT_BODY] = "INSERT INTO body(body) VALUES(?)",
    [PUT] = ("INSERT INTO call(id, call_id, function, method, target, headers, callback, created_ns, due_ns,"
             " wait_ns, stage, attempts, status, seconds, answer_headers, why, taken)"
             " VALUES(last_insert_rowid(),?,?,?,?,?,?,?,?,?,0,0,0,0,'','',0)"),
    [TAKE] = ("SELECT " COLUMNS("(SELECT body FROM body WHERE body.id=call.id)")
              " FROM call WHERE " READY " AND function=? ORDER BY due_ns, id LIMIT 1"),
    [FIRST_DUE] = "SELECT due_ns FROM call WHERE " READY " AND function=? ORDER BY due_ns, id LIMIT 1",
    [LANES] = "SELECT function, min(due_ns) FROM call WHERE " READY " GROUP BY function",
    [MARK] = "UPDATE call SET taken=1 WHERE id=?",
    [RENEW] = ("UPDATE call SET taken=0, stage=?, attempts=?, due_ns=?, wait_ns=?, status=?, why=?, seconds=?,"
               " answer_headers=coalesce(?, answer_headers) WHERE id=?"),
    [RENEW_BODY] = "UPDATE body SET body=? WHERE id=?",
    [REMOVE] = "DELETE FROM call WHERE id=?",
    [FIND] = "SELECT function, stage FROM call WHERE call_id=? AND (taken=0 OR stage=2)",
    [CANCEL] = "DELETE FROM call WHERE call_id=? AND (taken=0 OR stage=2)",
    [LIST] = "SELECT " COLUMNS("NULL") " FROM call INDEXED BY call_live WHERE stage<2 ORDER BY id LIMIT ?",
    [LIST_DEAD] = "SELECT " COLUMNS("NULL") " FROM call INDEXED BY call_dead WHERE stage=2 ORDER BY id LIMIT ?",
    [COUNT] = ("SELECT (SELECT count(*) FROM call INDEXED BY call_live WHERE stage<2),"
               " (SELECT count(*) FROM call INDEXED BY call_dead WHERE stage=2)"),
    [RECLAIM] = ("UPDATE call SET taken=NOT taken WHERE stage<2 AND"
                 " taken<>(id IN (SELECT value FROM json_each(?)))"),
    [PROVE] = "UPDATE sqlite_sequence SET seq=seq+1 WHERE name='body'",
};

/* A body has a row of its own: what is changed, listed and counted all the time stays small. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS body(id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB);"
    "CREATE TABLE IF NOT EXISTS call(id INTEGER PRIMARY KEY, call_id TEXT NOT NULL,"
    " function TEXT NOT NULL, method TEXT NOT NULL, target TEXT NOT NULL, headers TEXT NOT NULL,"
    " callback TEXT NOT NULL, created_ns INTEGER NOT NULL, due_ns INTEGER NOT NULL, wait_ns INTEGER NOT NULL,"
    " stage INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER NOT NULL,"
    " seconds REAL NOT NULL, answer_headers TEXT NOT NULL, why TEXT NOT NULL,"
    " taken INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS call_lane ON call(function, due_ns, id) WHERE " READY ";"
    "CREATE INDEX IF NOT EXISTS call_name ON call(call_id);"
    "CREATE INDEX IF NOT EXISTS call_live ON call(id) WHERE stage<2;"
    "CREATE INDEX IF NOT EXISTS call_dead ON call(id) WHERE stage=2;"
    "CREATE TRIGGER IF NOT EXISTS call_gone AFTER DELETE ON call BEGIN DELETE FROM body WHERE id=old.id; END;";

/* Earlier versions had the body beside the rest. */
static const char set_aside[] =
    "ALTER TABLE call RENAME TO earlier;"
    "DROP INDEX IF EXISTS call_due; DROP INDEX IF EXISTS call_ready; DROP INDEX IF EXISTS call_lane;"
    "DROP INDEX IF EXISTS call_name;";
static const char take_over[] =
    "INSERT INTO body SELECT id, body FROM earlier;"
    "INSERT INTO call SELECT id, call_id, function, method, target, headers, callback, created_ns, due_ns, 0,"
    " stage, attempts, status, seconds, answer_headers, why, taken FROM earlier;"
    "DROP TABLE earlier;";

struct sqlite_queue {
    struct gw_queue head;
    sqlite3 *db;
    sqlite3_stmt *st[STATEMENTS];
    bool open; /* a transaction is */
    json_t *lanes; /* functions with calls that are ready, and when the first of each is due */
    bool stale;    /* they are to be read anew */
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

/* Of a change in several statements one has failed: all that has gathered is given up, as SQLite does by itself
 * when the disk is full. */
static int undo(struct sqlite_queue *q, int r)
{
    if (r && !sqlite3_get_autocommit(q->db))
        run_sql(q, "ROLLBACK", NULL);
    return r;
}

/* ---- lanes ---- */

static void set_lane(struct sqlite_queue *q, const char *function, int64_t due)
{
    if (json_object_set_new(q->lanes, function, json_integer(due)))
        q->stale = true;
}

/* A call of |function| has become ready. */
static void note_ready(struct sqlite_queue *q, const char *function, int64_t due)
{
    const json_t *first = json_object_get(q->lanes, function);
    if (!first || due < json_integer_value(first))
        set_lane(q, function, due);
}

/* One is not ready any more, which may have been the first. */
static void read_lane(struct sqlite_queue *q, const char *function)
{
    sqlite3_stmt *st = q->st[FIRST_DUE];
    text(st, 1, function);
    int r = sqlite3_step(st);
    if (r == SQLITE_ROW)
        set_lane(q, function, sqlite3_column_int64(st, 0));
    else if (r == SQLITE_DONE)
        json_object_del(q->lanes, function);
    else
        q->stale = true;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

static int read_lanes(struct sqlite_queue *q)
{
    sqlite3_stmt *st = q->st[LANES];
    int r;
    if (!q->stale)
        return 0;
    q->stale = false;
    json_object_clear(q->lanes);
    while ((r = sqlite3_step(st)) == SQLITE_ROW)
        set_lane(q, (const char *)sqlite3_column_text(st, 0), sqlite3_column_int64(st, 1));
    sqlite3_reset(st);
    q->stale = q->stale || r != SQLITE_DONE;
    return q->stale ? -FAST_EIO : 0;
}

/* Whose call is to be made first, and when; NULL: nobody's. */
static const char *first_lane(const struct sqlite_queue *q, const json_t *busy, int64_t *ret_due)
{
    const char *function, *first = NULL;
    json_t *due;
    *ret_due = INT64_MAX;
    json_object_foreach(q->lanes, function, due) {
        if (json_integer_value(due) >= *ret_due || json_object_get(busy, function))
            continue;
        *ret_due = json_integer_value(due);
        first = function;
    }
    return first;
}

/* ---- changes ---- */

static int put(struct gw_queue *base, const struct gw_call *c, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[PUT];
    int r = begin(q, err);
    if (r)
        return r;
    sqlite3_bind_blob64(q->st[PUT_BODY], 1, c->body, c->body_len, SQLITE_STATIC);
    r = finish(q, q->st[PUT_BODY], err);
    if (r)
        return undo(q, r);
    text(st, 1, c->call_id);
    text(st, 2, c->function);
    text(st, 3, c->method);
    text(st, 4, c->target);
    text(st, 5, c->headers);
    text(st, 6, c->callback);
    sqlite3_bind_int64(st, 7, c->created_ns);
    sqlite3_bind_int64(st, 8, c->due_ns);
    sqlite3_bind_int64(st, 9, c->wait_ns);
    r = undo(q, finish(q, st, err));
    if (r)
        return r;
    q->waiting++;
    note_ready(q, c->function, c->due_ns);
    return 0;
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
static int take(struct gw_queue *base, int64_t now, const json_t *busy, gw_call_fn *fn, void *arg)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[TAKE];
    struct gw_call c;
    int64_t due;
    if (read_lanes(q))
        return -FAST_EIO;
    const char *function = first_lane(q, busy, &due);
    if (!function || due > now)
        return 0;
    if (begin(q, NULL))
        return -FAST_EIO;
    text(st, 1, function);
    int r = sqlite3_step(st) == SQLITE_ROW ? 0 : -FAST_EIO;
    if (!r) {
        read_row(st, &c);
        sqlite3_bind_int64(q->st[MARK], 1, c.id);
        r = finish(q, q->st[MARK], NULL);
    }
    if (!r) {
        read_lane(q, c.function);
        fn(arg, &c);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r ? r : 1;
}

static int renew(struct gw_queue *base, const struct gw_call *c, bool answer, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[RENEW];
    int r = begin(q, err);
    if (r)
        return r;
    sqlite3_bind_int(st, 1, c->stage);
    sqlite3_bind_int(st, 2, c->attempts);
    sqlite3_bind_int64(st, 3, c->due_ns);
    sqlite3_bind_int64(st, 4, c->wait_ns);
    sqlite3_bind_int(st, 5, c->status);
    text(st, 6, c->why);
    sqlite3_bind_double(st, 7, c->seconds);
    if (answer)
        text(st, 8, c->answer_headers);
    sqlite3_bind_int64(st, 9, c->id);
    r = finish(q, st, err);
    if (!r && answer) {
        sqlite3_bind_blob64(q->st[RENEW_BODY], 1, c->body, c->body_len, SQLITE_STATIC);
        sqlite3_bind_int64(q->st[RENEW_BODY], 2, c->id);
        r = undo(q, finish(q, q->st[RENEW_BODY], err));
    }
    if (r)
        return r;
    if (c->stage == GW_CALL_DEAD) {
        q->waiting--;
        q->dead++;
    } else {
        note_ready(q, c->function, c->due_ns);
    }
    return 0;
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
        q->waiting = (uint64_t)sqlite3_column_int64(st, 0);
        q->dead = (uint64_t)sqlite3_column_int64(st, 1);
    }
    sqlite3_reset(st);
}

static void forget_calls(struct sqlite_queue *q, json_t *ready, uint64_t waiting, uint64_t dead)
{
    const char *function;
    json_t *any;
    q->waiting -= waiting;
    q->dead -= dead;
    json_object_foreach(ready, function, any)
        read_lane(q, function);
}

static int cancel(struct gw_queue *base, const char *call_id, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    sqlite3_stmt *st = q->st[FIND];
    uint64_t waiting = 0, dead = 0;
    int r = begin(q, err);
    if (r)
        return r;
    json_t *ready = json_object(); /* functions of those that are */
    text(st, 1, call_id);
    while ((r = sqlite3_step(st)) == SQLITE_ROW) {
        bool is_dead = sqlite3_column_int(st, 1) == GW_CALL_DEAD;
        dead += is_dead;
        waiting += !is_dead;
        if (!is_dead && json_object_set_new(ready, (const char *)sqlite3_column_text(st, 0), json_true()))
            q->stale = true;
    }
    r = r == SQLITE_DONE ? 0 : broken(q, err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    if (!r && !waiting && !dead)
        r = fast_err_set(err, FAST_ENOENT, "no call %.80s waits", call_id);
    text(q->st[CANCEL], 1, call_id);
    r = r ? r : finish(q, q->st[CANCEL], err);
    if (!r)
        forget_calls(q, ready, waiting, dead);
    json_decref(ready);
    return r;
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
    if (r) {
        read_counts(q);
        q->stale = true;
    }
    return r;
}

static int reclaim(struct gw_queue *base, const char *held, struct fast_err *err)
{
    struct sqlite_queue *q = of(base);
    int r = begin(q, err);
    if (!r) {
        text(q->st[RECLAIM], 1, held);
        r = finish(q, q->st[RECLAIM], err);
        q->stale = true;
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

static int64_t next_due(struct gw_queue *base, const json_t *busy)
{
    int64_t due = 0; /* where nothing can be read: at once, so that take says so */
    if (!read_lanes(of(base)))
        first_lane(of(base), busy, &due);
    return due;
}

static void close_queue(struct gw_queue *base)
{
    struct sqlite_queue *q = of(base);
    commit(base, NULL);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(q->st[i]);
    sqlite3_close(q->db);
    json_decref(q->lanes);
    free(q);
}

static const struct gw_queue_ops ops = {put,     take, renew, remove_call, cancel,     commit,
                                        reclaim, list, count, next_due,    close_queue};

/* Tables as they are now, nothing handed out, nothing put off for longer than its wait. */
static int make_ready(struct sqlite_queue *q, int64_t now, struct fast_err *err)
{
    bool earlier = sqlite3_table_column_metadata(q->db, NULL, "call", "body", NULL, NULL, NULL, NULL, NULL) ==
                   SQLITE_OK;
    char cut[160];
    snprintf(cut, sizeof(cut), "UPDATE call SET due_ns=%lld+wait_ns WHERE " READY " AND due_ns>%lld+wait_ns",
             (long long)now, (long long)now);
    int r = begin(q, err);
    r = r || !earlier ? r : run_sql(q, set_aside, err);
    r = r ? r : run_sql(q, schema, err);
    r = r || !earlier ? r : run_sql(q, take_over, err);
    r = r ? r : run_sql(q, "UPDATE call SET taken=0 WHERE taken=1", err);
    r = undo(q, r ? r : run_sql(q, cut, err));
    return r ? r : commit(&q->head, err);
}

int gw_queue_sqlite_open(const char *path, int64_t now, struct gw_queue **ret, struct fast_err *err)
{
    struct sqlite_queue *q = calloc(1, sizeof(*q));
    int r = 0;
    if (!q)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the queue");
    q->head.ops = &ops;
    q->stale = true;
    q->lanes = json_object();
    /* Bodies of calls are nobody else's business; SQLite gives its other files the same mode. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    if (sqlite3_open_v2(path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        r = fast_err_set(err, FAST_EIO, "cannot open %.150s: %s", path,
                         q->db ? sqlite3_errmsg(q->db) : "no memory");
    sqlite3_busy_timeout(q->db, OPEN_WAIT_MS);
    r = r ? r : run_sql(q, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", err);
    r = r ? r : make_ready(q, now, err);
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
    sqlite3_busy_timeout(q->db, 0); /* from now on others are served meanwhile */
    read_counts(q);
    *ret = &q->head;
    return 0;
}
