/* Decides how trials lie in SQLite. It assumes that several `fast profile` may have the file open: each
 * statement is a transaction of its own, and waits for the others. */

#include "cli/trials.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA_VERSION 1
#define BUSY_TIMEOUT_MS 5000

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS trial(id INTEGER PRIMARY KEY, function TEXT NOT NULL,"
    " version TEXT NOT NULL, sm_pct INTEGER NOT NULL, quota_milli INTEGER NOT NULL,"
    " state TEXT NOT NULL, text TEXT NOT NULL, rps REAL, p50_ms REAL, p95_ms REAL, p99_ms REAL,"
    " utilization REAL, sm_activity REAL, occupancy REAL, dram REAL, memory_bytes INTEGER,"
    " error_rate REAL, seconds REAL, UNIQUE(function, version, sm_pct, quota_milli));"
    "PRAGMA user_version=1;"
    "COMMIT;";

#define COLUMNS                                                                                    \
    "sm_pct, quota_milli, state, text, rps, p50_ms, p95_ms, p99_ms, utilization, sm_activity,"     \
    " occupancy, dram, memory_bytes, error_rate, seconds"

struct trials {
    sqlite3 *db;
};

static int broken(struct trials *t, struct fast_err *err)
{
    return fast_err_set(err, FAST_EIO, "profile database: %s", sqlite3_errmsg(t->db));
}

static int prepare(struct trials *t, const char *sql, sqlite3_stmt **ret, struct fast_err *err)
{
    return sqlite3_prepare_v2(t->db, sql, -1, ret, NULL) == SQLITE_OK ? 0 : broken(t, err);
}

static int set_up(struct trials *t, const char *path, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    sqlite3_busy_timeout(t->db, BUSY_TIMEOUT_MS);
    if (prepare(t, "PRAGMA user_version", &st, err))
        return -err->code;
    int version = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int(st, 0) : -1;
    sqlite3_finalize(st);
    if (version < 0)
        return broken(t, err);
    if (version > SCHEMA_VERSION)
        return fast_err_set(err, FAST_EPROTO, "%s was written by a newer version (schema %d, not %d)",
                            path, version, SCHEMA_VERSION);
    if (version == 0 && sqlite3_exec(t->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return broken(t, err);
    return 0;
}

int trials_open(const char *path, struct trials **ret, struct fast_err *err)
{
    struct trials *t = calloc(1, sizeof(*t));
    int r = 0;
    if (!t)
        return fast_err_set(err, FAST_ENOMEM, "out of memory");
    if (sqlite3_open_v2(path, &t->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        r = fast_err_set(err, FAST_EIO, "cannot open %s: %s", path,
                         t->db ? sqlite3_errmsg(t->db) : "out of memory");
    if (!r)
        r = set_up(t, path, err);
    if (r) {
        trials_close(t);
        return r;
    }
    *ret = t;
    return 0;
}

void trials_close(struct trials *t)
{
    if (!t)
        return;
    sqlite3_close(t->db);
    free(t);
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
    sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

static int finish(struct trials *t, sqlite3_stmt *st, struct fast_err *err)
{
    int r = sqlite3_step(st) == SQLITE_DONE ? 0 : broken(t, err);
    sqlite3_finalize(st);
    return r;
}

int trials_put(struct trials *t, const char *function, const char *version, const struct trial *trial,
               struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    if (prepare(t, "INSERT OR REPLACE INTO trial(function, version, " COLUMNS ")"
                   " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &st, err))
        return -err->code;
    const double number[] = {trial->rps, trial->p50_ms, trial->p95_ms, trial->p99_ms,
                             trial->utilization, trial->sm_activity, trial->occupancy, trial->dram};
    bind_text(st, 1, function);
    bind_text(st, 2, version);
    sqlite3_bind_int(st, 3, trial->sm_pct);
    sqlite3_bind_int(st, 4, trial->quota_milli);
    bind_text(st, 5, trial->state);
    bind_text(st, 6, trial->text);
    /* What a trial that failed has measured is no number: NULL. */
    for (int i = 0; i < 8 && !strcmp(trial->state, "ok"); i++)
        sqlite3_bind_double(st, 7 + i, number[i]);
    sqlite3_bind_int64(st, 15, trial->memory_bytes);
    sqlite3_bind_double(st, 16, trial->error_rate);
    sqlite3_bind_double(st, 17, trial->seconds);
    return finish(t, st, err);
}

static void row(sqlite3_stmt *st, struct trial *ret)
{
    *ret = (struct trial){
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
        .memory_bytes = sqlite3_column_int64(st, 12),
        .error_rate = sqlite3_column_double(st, 13),
        .seconds = sqlite3_column_double(st, 14),
    };
    snprintf(ret->state, sizeof(ret->state), "%s", (const char *)sqlite3_column_text(st, 2));
    snprintf(ret->text, sizeof(ret->text), "%s", (const char *)sqlite3_column_text(st, 3));
}

int trials_get(struct trials *t, const char *function, const char *version, struct trial *ret,
               int *ret_count, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    int n = 0, r;
    if (prepare(t, "SELECT " COLUMNS " FROM trial WHERE function=? AND version=?"
                   " ORDER BY sm_pct, quota_milli", &st, err))
        return -err->code;
    bind_text(st, 1, function);
    bind_text(st, 2, version);
    while ((r = sqlite3_step(st)) == SQLITE_ROW && n < TRIALS_MAX)
        row(st, &ret[n++]);
    sqlite3_finalize(st);
    if (r != SQLITE_DONE && r != SQLITE_ROW)
        return broken(t, err);
    *ret_count = n;
    return 0;
}

int trials_latest(struct trials *t, const char *function, char ret[TRIAL_VERSION_MAX],
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
        snprintf(ret, TRIAL_VERSION_MAX, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return r;
}

int trials_forget(struct trials *t, const char *function, const char *version, struct fast_err *err)
{
    sqlite3_stmt *st = NULL;
    if (prepare(t, "DELETE FROM trial WHERE function=? AND version=?", &st, err))
        return -err->code;
    bind_text(st, 1, function);
    bind_text(st, 2, version);
    return finish(t, st, err);
}
