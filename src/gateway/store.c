/* Decides how state lies in SQLite. It assumes one gateway per file and makes sure of it: the
 * database is locked for as long as it is open. */

#include "gateway/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCHEMA_VERSION 1

enum { PUT, REMOVE, EACH, REPLICA_PUT, REPLICA_REMOVE, REPLICA_GET, NS_PUT, NS_REMOVE, NS_EACH,
       STATEMENTS };

static const char *const statements[STATEMENTS] = {
    [PUT] = ("INSERT INTO function(name, ns, json, desired, next_number, generation, created_ns)"
             " VALUES(?,?,?,?,?,?,?) ON CONFLICT(name, ns) DO UPDATE SET json=excluded.json,"
             " desired=excluded.desired, next_number=excluded.next_number,"
             " generation=excluded.generation, created_ns=excluded.created_ns"),
    [REMOVE] = "DELETE FROM function WHERE name=? AND ns=?",
    [EACH] = ("SELECT name, ns, json, desired, next_number, generation, created_ns FROM function"
              " ORDER BY ns, name"),
    [REPLICA_PUT] = "INSERT OR REPLACE INTO replica(id, generation) VALUES(?,?)",
    [REPLICA_REMOVE] = "DELETE FROM replica WHERE id=?",
    [REPLICA_GET] = "SELECT generation FROM replica WHERE id=?",
    [NS_PUT] = "INSERT OR REPLACE INTO namespace(name, json) VALUES(?,?)",
    [NS_REMOVE] = "DELETE FROM namespace WHERE name=?",
    [NS_EACH] = "SELECT name, json FROM namespace ORDER BY name",
};

static const char schema[] =
    "CREATE TABLE function(name TEXT NOT NULL, ns TEXT NOT NULL, json TEXT NOT NULL,"
    " desired INTEGER NOT NULL, next_number INTEGER NOT NULL, generation INTEGER NOT NULL,"
    " created_ns INTEGER NOT NULL, PRIMARY KEY(name, ns));"
    "CREATE TABLE replica(id TEXT PRIMARY KEY, generation INTEGER NOT NULL);"
    "PRAGMA user_version=1;";

struct gw_store {
    sqlite3 *db;
    sqlite3_stmt *st[STATEMENTS];
};

static int broken(struct gw_store *s, struct fast_err *err)
{
    return fast_err_set(err, FAST_EIO, "state: %s", sqlite3_errmsg(s->db));
}

static int run_sql(struct gw_store *s, const char *sql, struct fast_err *err)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : broken(s, err);
}

static int schema_version(struct gw_store *s)
{
    sqlite3_stmt *st = NULL;
    int v = -1;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        v = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return v;
}

static int prepare(struct gw_store *s, const char *path, struct fast_err *err)
{
    int r = run_sql(s, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                       "PRAGMA synchronous=FULL; BEGIN IMMEDIATE; COMMIT;", err);
    if (r && (sqlite3_errcode(s->db) & 0xff) == SQLITE_BUSY)
        return fast_err_set(err, FAST_EBUSY, "%s is in use by another gateway", path);
    if (r)
        return fast_err_wrap(err, "%s (move it away to begin without functions)", path);
    int version = schema_version(s);
    if (version < 0)
        return broken(s, err);
    if (version > SCHEMA_VERSION)
        return fast_err_set(err, FAST_EPROTO,
                            "%s was written by a newer version (schema %d, not %d): use that one, or move "
                            "the file away to begin without functions",
                            path, version, SCHEMA_VERSION);
    if (version == 0) {
        r = run_sql(s, "BEGIN", err);
        r = r ? r : run_sql(s, schema, err);
        r = r ? r : run_sql(s, "COMMIT", err);
    }
    /* Came later; a program that knows nothing of it is not disturbed. */
    r = r ? r : run_sql(s, "CREATE TABLE IF NOT EXISTS namespace(name TEXT PRIMARY KEY,"
                           " json TEXT NOT NULL)", err);
    for (int i = 0; !r && i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(s->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &s->st[i],
                               NULL) != SQLITE_OK)
            r = broken(s, err);
    return r;
}

int gw_store_open(const char *path, struct gw_store **ret, struct fast_err *err)
{
    struct gw_store *s = calloc(1, sizeof(*s));
    if (!s)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the state");
    int r = 0;
    /* Environments of functions hold what only their owner should read; SQLite gives its other files
     * the mode of this one. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        fchmod(fd, 0600);
        close(fd);
    }
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        r = fast_err_set(err, FAST_EIO, "cannot open %s: %s", path,
                         s->db ? sqlite3_errmsg(s->db) : "no memory");
    if (!r)
        r = prepare(s, path, err);
    if (r) {
        gw_store_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

void gw_store_close(struct gw_store *s)
{
    if (!s)
        return;
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(s->st[i]);
    sqlite3_close(s->db);
    free(s);
}

/* Runs a statement that gives no rows and makes it ready for the next time. */
static int finish(struct gw_store *s, sqlite3_stmt *st, struct fast_err *err)
{
    int r = sqlite3_step(st) == SQLITE_DONE ? 0 : broken(s, err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

int gw_store_put(struct gw_store *s, const struct gw_record *f, struct fast_err *err)
{
    sqlite3_stmt *st = s->st[PUT];
    sqlite3_bind_text(st, 1, f->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, f->ns, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 3, f->json, (int)f->json_len, SQLITE_STATIC);
    sqlite3_bind_int(st, 4, f->desired);
    sqlite3_bind_int64(st, 5, f->next_number);
    sqlite3_bind_int64(st, 6, f->generation);
    sqlite3_bind_int64(st, 7, f->created_ns);
    return finish(s, st, err);
}

int gw_store_remove(struct gw_store *s, const char *name, const char *ns, struct fast_err *err)
{
    sqlite3_stmt *st = s->st[REMOVE];
    sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, ns, -1, SQLITE_STATIC);
    return finish(s, st, err);
}

int gw_store_each(struct gw_store *s, void (*fn)(void *arg, const struct gw_record *record),
                  void *arg, struct fast_err *err)
{
    sqlite3_stmt *st = s->st[EACH];
    int r;
    while ((r = sqlite3_step(st)) == SQLITE_ROW) {
        struct gw_record f = {.name = (const char *)sqlite3_column_text(st, 0),
                              .ns = (const char *)sqlite3_column_text(st, 1),
                              .json = (const char *)sqlite3_column_text(st, 2),
                              .json_len = (size_t)sqlite3_column_bytes(st, 2),
                              .desired = sqlite3_column_int(st, 3),
                              .next_number = (uint32_t)sqlite3_column_int64(st, 4),
                              .generation = (uint32_t)sqlite3_column_int64(st, 5),
                              .created_ns = sqlite3_column_int64(st, 6)};
        fn(arg, &f);
    }
    r = r == SQLITE_DONE ? 0 : broken(s, err);
    sqlite3_reset(st);
    return r;
}

int gw_store_replica_put(struct gw_store *s, const char *replica, uint32_t generation,
                         struct fast_err *err)
{
    sqlite3_stmt *st = s->st[REPLICA_PUT];
    sqlite3_bind_text(st, 1, replica, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, generation);
    return finish(s, st, err);
}

int gw_store_replica_remove(struct gw_store *s, const char *replica, struct fast_err *err)
{
    sqlite3_stmt *st = s->st[REPLICA_REMOVE];
    sqlite3_bind_text(st, 1, replica, -1, SQLITE_STATIC);
    return finish(s, st, err);
}

uint32_t gw_store_replica_generation(struct gw_store *s, const char *replica)
{
    sqlite3_stmt *st = s->st[REPLICA_GET];
    uint32_t g = 0;
    sqlite3_bind_text(st, 1, replica, -1, SQLITE_STATIC);
    if (sqlite3_step(st) == SQLITE_ROW)
        g = (uint32_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return g;
}

int gw_store_ns_put(struct gw_store *s, const char *name, const char *json, struct fast_err *err)
{
    sqlite3_bind_text(s->st[NS_PUT], 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(s->st[NS_PUT], 2, json, -1, SQLITE_STATIC);
    return finish(s, s->st[NS_PUT], err);
}

int gw_store_ns_remove(struct gw_store *s, const char *name, struct fast_err *err)
{
    sqlite3_bind_text(s->st[NS_REMOVE], 1, name, -1, SQLITE_STATIC);
    return finish(s, s->st[NS_REMOVE], err);
}

int gw_store_ns_each(struct gw_store *s, void (*fn)(void *arg, const char *name, const char *json),
                     void *arg, struct fast_err *err)
{
    sqlite3_stmt *st = s->st[NS_EACH];
    int r;
    while ((r = sqlite3_step(st)) == SQLITE_ROW)
        fn(arg, (const char *)sqlite3_column_text(st, 0), (const char *)sqlite3_column_text(st, 1));
    r = r == SQLITE_DONE ? 0 : broken(s, err);
    sqlite3_reset(st);
    return r;
}
