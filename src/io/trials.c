/* Decides how trials lie in SQLite. It assumes that several programs may have the file open: each
 * statement is a transaction of its own, and waits for the others. */

#include "io/trials.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define SCHEMA_VERSION 2

#define TRIAL_TABLE                                                                                \
    "CREATE TABLE trial(id INTEGER PRIMARY KEY, function TEXT NOT NULL,"                           \
    " version TEXT NOT NULL, sm_pct INTEGER NOT NULL, quota_milli INTEGER NOT NULL,"               \
    " state TEXT NOT NULL, text TEXT NOT NULL, rps REAL, p50_ms REAL, p95_ms REAL, p99_ms REAL,"   \
    " utilization REAL, sm_activity REAL, occupancy REAL, dram REAL, gpu_ms REAL,"                 \
    " memory_bytes INTEGER, error_rate REAL, seconds REAL, batch INTEGER NOT NULL,"                \
    " UNIQUE(function, version, sm_pct, quota_milli, batch));"

#define LIVE_TABLES                                                                                \
    "CREATE TABLE live(function TEXT NOT NULL, version TEXT NOT NULL, sm_pct INTEGER NOT NULL,"    \
    " quota_milli INTEGER NOT NULL, rps REAL NOT NULL, p95_ms REAL, p99_ms REAL,"                  \
    " spans INTEGER NOT NULL, latency_spans INTEGER NOT NULL, seen_s INTEGER NOT NULL,"           \
    " PRIMARY KEY(function, version, sm_pct, quota_milli));"                                       \
    "CREATE TABLE drift(function TEXT NOT NULL, version TEXT NOT NULL, milli INTEGER NOT NULL,"    \
    " since_s INTEGER NOT NULL, PRIMARY KEY(function, version));"

/* From the version that is its index to the next one. */
static const char *const steps[SCHEMA_VERSION] = {
    TRIAL_TABLE LIVE_TABLES "PRAGMA user_version=2;",
    "ALTER TABLE trial RENAME TO trial_1;" TRIAL_TABLE LIVE_TABLES
    "INSERT INTO trial SELECT id, function, version, sm_pct, quota_milli, state, text, rps, p50_ms,"
    " p95_ms, p99_ms, utilization, sm_activity, occupancy, dram, NULL, memory_bytes, error_rate,"
    " seconds, 1 FROM trial_1; DROP TABLE trial_1; PRAGMA user_version=2;",
};

#define COLUMNS                                                                                    \
    "sm_pct, quota_milli, state, text, rps, p50_ms, p95_ms, p99_ms, utilization, sm_activity,"     \
    " occupancy, dram, gpu_ms, memory_bytes, error_rate, seconds, batch"
#define NUMBERS 9 /* from rps to gpu_ms */

struct fast_trials {
    sqlite3 *db;
    int64_t seen; /* SQLite's count of what others have written; -1: not read yet */
};

static int broken(struct fast_trials *t, struct fast_err *err)
{
    return fast_err_set(err, FAST_EIO, "profile database: %s", sqlite3_errmsg(t->db));
}

static int prepare(struct fast_trials *t, const char *sql, sqlite3_stmt **ret, struct fast_err *err)
{
    return sqlite3_prepare_v2(t->db, sql, -1, ret, NULL) == SQLITE_OK ? 0 : broken(t, err);
}

static int run_sql(struct fast_trials *t, const char *sql, struct fast_err *err)
{
    return sqlite3_exec(t->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : broken(t, err);
}

static int pragma(struct fast_trials *t, const char *sql, int64_t *ret)
{
    sqlite3_stmt *st = NULL;
    int r = -1;
    if (sqlite3_prepare_v2(t->db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW) {
        *ret = sqlite3_column_int64(st, 0);
        r = 0;
    }
    sqlite3_finalize(st);
    return r;
}

static int begin(struct fast_trials *t, struct fast_err *err)
{
    return run_sql(t, "BEGIN IMMEDIATE", err);
}

/* Commits, or takes everything back when |r| says that something failed. */
static int end(struct fast_trials *t, int r, struct fast_err *err)
{
    if (!r)
        r = run_sql(t, "COMMIT", err);
    if (r)
        sqlite3_exec(t->db, "ROLLBACK", NULL, NULL, NULL);
    return r;
}

/* The version is read again within the transaction: another program may have been faster. */
static int upgrade(struct fast_trials *t, const char *path, struct fast_err *err)
{
    int64_t version = 0;
    int r = begin(t, err);
    if (r)
        return r;
    if (pragma(t, "PRAGMA user_version", &version))
        r = broken(t, err);
    else if (version < 0 || version > SCHEMA_VERSION)
        r = fast_err_set(err, FAST_EPROTO, "%s was written by a newer version, or by something else (schema %d, "
                         "not 0 to %d)",
                         path, (int)version, SCHEMA_VERSION);
    else if (version < SCHEMA_VERSION)
        r = run_sql(t, steps[version], err);
    return end(t, r, err);
}

static int set_up(struct fast_trials *t, const char *path, int wait_ms, struct fast_err *err)
{
    int64_t version = 0;
    sqlite3_busy_timeout(t->db, wait_ms);
    if (pragma(t, "PRAGMA user_version", &version)) {
        broken(t, err);
        return fast_err_wrap(err, "%s (move it away to begin without measurements)", path);
    }
    if (version != SCHEMA_VERSION)
        return upgrade(t, path, err);
    return 0;
}

int fast_trials_open(const char *path, int wait_ms, struct fast_trials **ret, struct fast_err *err)
{
    struct fast_trials *t = calloc(1, sizeof(*t));
    int r = 0;
    if (!t)
        return fast_err_set(err, FAST_ENOMEM, "out of memory");
    t->seen = -1;
    if (sqlite3_open_v2(path, &t->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        r = fast_err_set(err, FAST_EIO, "cannot open %s: %s", path,
                         t->db ? sqlite3_errmsg(t->db) : "out of memory");
    if (!r)
        r = set_up(t, path, wait_ms, err);
    if (r) {
        fast_trials_close(t);
        return r;
    }
    *ret = t;
    return 0;
}

void fast_trials_close(struct fast_trials *t)
{
    if (!t)
        return;
    sqlite3_close(t->db);
    free(t);
}

bool fast_trials_changed(struct fast_trials *t)
{
    int64_t v = 0;
    if (pragma(t, "PRAGMA data_version", &v) || v == t->seen)
        return false;
    t->seen = v;
    return true;
}

static bool is_empty(const json_t *v)
{
    return !v || json_is_null(v) || (json_is_object(v) && !json_object_size(v)) ||
           (json_is_string(v) && !*json_string_value(v));
}

void fast_trials_version(const json_t *function, char ret[FAST_TRIAL_VERSION_MAX])
{
    static const char *const keys[] = {"image", "envProcess", "envVars"};
    uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
    for (size_t k = 0; k < FAST_COUNT_OF(keys); k++) {
        const json_t *v = json_object_get(function, keys[k]);
        fast_autofree char *text = is_empty(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_SORT_KEYS);
        for (const char *c = text ? text : ""; *c; c++)
            h = (h ^ (unsigned char)*c) * UINT64_C(1099511628211);
        h = (h ^ 0xff) * UINT64_C(1099511628211);
    }
    snprintf(ret, FAST_TRIAL_VERSION_MAX, "%016llx", (unsigned long long)h);
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
    sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

/* Prepares a statement about one version of a function: its first two parameters. */
static int about(struct fast_trials *t, const char *sql, const char *function, const char *version,
                 sqlite3_stmt **ret, struct fast_err *err)
{
    int r = prepare(t, sql, ret, err);
    if (r)
        return r;
    bind_text(*ret, 1, function);
    bind_text(*ret, 2, version);
    return 0;
}

static int finish(struct fast_trials *t, sqlite3_stmt *st, struct fast_err *err)
{
    int r = sqlite3_step(st) == SQLITE_DONE ? 0 : broken(t, err);
    sqlite3_finalize(st);
    return r;
}

int fast_trials_put(struct fast_trials *t, const char *function, const char *version,
                    const struct fast_trial *trial, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    if (about(t, "INSERT OR REPLACE INTO trial(function, version, " COLUMNS ")"
                 " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", function, version, &st, err))
        return -err->code;
    const double number[NUMBERS] = {trial->rps, trial->p50_ms, trial->p95_ms, trial->p99_ms,
                                    trial->utilization, trial->sm_activity, trial->occupancy,
                                    trial->dram, trial->gpu_ms};
    sqlite3_bind_int(st, 3, trial->sm_pct);
    sqlite3_bind_int(st, 4, trial->quota_milli);
    bind_text(st, 5, trial->state);
    bind_text(st, 6, trial->text);
    /* What a trial that failed has measured is no number: NULL. */
    for (int i = 0; i < NUMBERS && !strcmp(trial->state, "ok"); i++)
        sqlite3_bind_double(st, 7 + i, number[i]);
    sqlite3_bind_int64(st, 7 + NUMBERS, trial->memory_bytes);
    sqlite3_bind_double(st, 8 + NUMBERS, trial->error_rate);
    sqlite3_bind_double(st, 9 + NUMBERS, trial->seconds);
    sqlite3_bind_int(st, 10 + NUMBERS, trial->batch > 0 ? trial->batch : 1);
    return finish(t, st, err);
}

static void row(sqlite3_stmt *st, struct fast_trial *ret)
{
    *ret = (struct fast_trial){
        .sm_pct = sqlite3_column_int(st, 0),
        .quota_milli = sqlite3_column_int(st, 1),
        .rps = sqlite3_column_double(st, 4),
        .p50_ms = sqlite3_column_double(st, 5),
        .p95_ms = sqlite3_column_double(st, 6),
        .p99_ms = sqlite3_column_double(st, 7),
        .utilization = sqlite3_column_double(st, 8),
        .sm_activity = sqlite3_column_double(st, 9),
        .occupancy = sqlite3_column_double(st, 10),
        .dram = sqlite3_column_double(st, 11),
        .gpu_ms = sqlite3_column_double(st, 12),
        .memory_bytes = sqlite3_column_int64(st, 13),
        .error_rate = sqlite3_column_double(st, 14),
        .seconds = sqlite3_column_double(st, 15),
        .batch = sqlite3_column_int(st, 16),
    };
    snprintf(ret->state, sizeof(ret->state), "%s", (const char *)sqlite3_column_text(st, 2));
    snprintf(ret->text, sizeof(ret->text), "%s", (const char *)sqlite3_column_text(st, 3));
}

int fast_trials_get(struct fast_trials *t, const char *function, const char *version, int batch,
                    struct fast_trial *ret, int *ret_count, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int n = 0, r;
    if (about(t, "SELECT " COLUMNS " FROM trial WHERE function=? AND version=? AND batch=?"
                 " ORDER BY sm_pct, quota_milli", function, version, &st, err))
        return -err->code;
    sqlite3_bind_int(st, 3, batch);
    while ((r = sqlite3_step(st)) == SQLITE_ROW && n < FAST_TRIALS_MAX)
        row(st, &ret[n++]);
    sqlite3_finalize(st);
    if (r != SQLITE_DONE && r != SQLITE_ROW)
        return broken(t, err);
    *ret_count = n;
    return 0;
}

int fast_trials_batches(struct fast_trials *t, const char *function, const char *version,
                        int ret[FAST_TRIAL_BATCHES_MAX], struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int n = 0, r;
    if (about(t, "SELECT DISTINCT batch FROM trial WHERE function=? AND version=? ORDER BY batch",
              function, version, &st, err))
        return -err->code;
    while ((r = sqlite3_step(st)) == SQLITE_ROW && n < FAST_TRIAL_BATCHES_MAX)
        ret[n++] = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return r == SQLITE_DONE || r == SQLITE_ROW ? n : broken(t, err);
}

int fast_trials_latest(struct fast_trials *t, const char *function, char ret[FAST_TRIAL_VERSION_MAX],
                       struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    if (prepare(t, "SELECT version FROM trial WHERE function=? ORDER BY id DESC LIMIT 1", &st, err))
        return -err->code;
    bind_text(st, 1, function);
    int r = sqlite3_step(st) == SQLITE_ROW
                ? 0
                : fast_err_set(err, FAST_ENOENT, "there is no profile of \"%.64s\"; make one with `fast "
                               "profile %.64s`", function, function);
    if (!r)
        snprintf(ret, FAST_TRIAL_VERSION_MAX, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return r;
}

static int delete(struct fast_trials *t, const char *sql, const char *function, const char *version,
                  struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int r = about(t, sql, function, version, &st, err);
    return r ? r : finish(t, st, err);
}

static int forget_live(struct fast_trials *t, const char *function, const char *version,
                       struct fast_err *err)
{
    int r = delete(t, "DELETE FROM live WHERE function=? AND version=?", function, version, err);
    return r ? r
             : delete(t, "DELETE FROM drift WHERE function=? AND version=?", function, version, err);
}

int fast_trials_replace(struct fast_trials *t, const char *function, const char *version,
                        const struct fast_trial *trial, int n, struct fast_err *err)
{
    int r = begin(t, err);
    if (r)
        return r;
    r = delete(t, "DELETE FROM trial WHERE function=? AND version=?", function, version, err);
    if (!r)
        r = forget_live(t, function, version, err);
    for (int i = 0; !r && i < n; i++)
        r = fast_trials_put(t, function, version, &trial[i], err);
    return end(t, r, err);
}

int fast_trials_forget(struct fast_trials *t, const char *function, const char *version,
                       struct fast_err *err)
{
    return fast_trials_replace(t, function, version, NULL, 0, err);
}

static int put_live(struct fast_trials *t, const char *function, const char *version,
                    const struct fast_trial_live *l, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int r = about(t, "INSERT INTO live(function, version, sm_pct, quota_milli, rps, p95_ms, p99_ms,"
                     " spans, latency_spans, seen_s) VALUES(?,?,?,?,?,?,?,?,?,?)", function, version, &st, err);
    if (r)
        return r;
    sqlite3_bind_int(st, 3, l->sm_pct);
    sqlite3_bind_int(st, 4, l->quota_milli);
    sqlite3_bind_double(st, 5, l->rps);
    sqlite3_bind_double(st, 6, l->p95_ms);
    sqlite3_bind_double(st, 7, l->p99_ms);
    sqlite3_bind_int64(st, 8, l->spans);
    sqlite3_bind_int64(st, 9, l->latency_spans);
    sqlite3_bind_int64(st, 10, l->seen_s);
    return finish(t, st, err);
}

int fast_trials_live_put(struct fast_trials *t, const char *function, const char *version,
                         const struct fast_trial_live *live, int n,
                         const struct fast_trial_drift *drift, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int r = begin(t, err);
    if (r)
        return r;
    r = forget_live(t, function, version, err);
    for (int i = 0; !r && i < n; i++)
        r = put_live(t, function, version, &live[i], err);
    if (!r && drift->milli) {
        r = about(t, "INSERT INTO drift(function, version, milli, since_s) VALUES(?,?,?,?)", function,
                  version, &st, err);
        if (!r) {
            sqlite3_bind_int(st, 3, drift->milli);
            sqlite3_bind_int64(st, 4, drift->since_s);
            r = finish(t, st, err);
        }
    }
    return end(t, r, err);
}

static int get_drift(struct fast_trials *t, const char *function, const char *version,
                     struct fast_trial_drift *ret, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int r = about(t, "SELECT milli, since_s FROM drift WHERE function=? AND version=?", function,
                  version, &st, err);
    *ret = (struct fast_trial_drift){0};
    if (r)
        return r;
    if (sqlite3_step(st) == SQLITE_ROW)
        *ret = (struct fast_trial_drift){sqlite3_column_int(st, 0), sqlite3_column_int64(st, 1)};
    sqlite3_finalize(st);
    return 0;
}

int fast_trials_live_get(struct fast_trials *t, const char *function, const char *version,
                         struct fast_trial_live *ret, int max, int *ret_count,
                         struct fast_trial_drift *ret_drift, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int n = 0, r = about(t, "SELECT sm_pct, quota_milli, rps, p95_ms, p99_ms, spans, latency_spans, seen_s FROM live"
                            " WHERE function=? AND version=? ORDER BY sm_pct, quota_milli",
                         function, version, &st, err);
    if (r)
        return r;
    while ((r = sqlite3_step(st)) == SQLITE_ROW && n < max)
        ret[n++] = (struct fast_trial_live){
            sqlite3_column_int(st, 0),    sqlite3_column_int(st, 1),   sqlite3_column_double(st, 2),
            sqlite3_column_double(st, 3), sqlite3_column_double(st, 4), sqlite3_column_int64(st, 5),
            sqlite3_column_int64(st, 6),  sqlite3_column_int64(st, 7)};
    sqlite3_finalize(st);
    if (r != SQLITE_DONE && r != SQLITE_ROW)
        return broken(t, err);
    *ret_count = n;
    return get_drift(t, function, version, ret_drift, err);
}
