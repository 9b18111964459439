#ifndef FAST_GATEWAY_GATEWAY_H
#define FAST_GATEWAY_GATEWAY_H

/* What the parts of fast-gateway know of each other: the whole program, its functions, and their
 * replicas. Everything runs in the one thread of the loop. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "core/balance.h"
#include "core/due.h"
#include "core/fair.h"
#include "core/place.h"
#include "gateway/link.h"
#include "gateway/move.h"
#include "gateway/profiles.h"
#include "gateway/query.h"
#include "gateway/spec.h"
#include "gateway/stats.h"
#include "gateway/store.h"
#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"

#define GW_ID_MAX 200 /* bytes of a replica id, with its NUL */
#define GW_BUCKETS 16384 /* few share one when there are 10,000 functions */
#define GW_CREDENTIAL_MAX 4096 /* bytes of the user, and of the password */

/* Settings; nothing in here changes after the start. */
struct gw_conf {
    const char *listen, *metrics; /* addresses; metrics may be "" */
    const char *state_dir;
    struct gw_paths paths;
    bool auth;
    char *user, *password;     /* with |auth| */
    fast_ns timeout;           /* of one request at a function */
    fast_ns queue_timeout;     /* how long a request waits for a replica */
    fast_ns busy_poll;         /* how long the loop looks before it sleeps */
    int queue_max;             /* requests that wait for one function */
    size_t max_conns;
    const char *tls_listen, *tls_cert, *tls_key; /* NULL: no TLS */
    const char *access_log, *traces; /* a file, a file or URL; NULL: none */
    enum fast_scaler scaler;
    int moves_max; /* replicas that are moved so that another one has room; 0: none */
};

struct gw_function;
struct gw_job;
struct gw_model;
struct gw_scaling;

enum gw_phase {
    GW_PLACED,   /* it has a place and a number, the node has not been told */
    GW_TOLD,     /* the node was told to start it; |state| is what the node says */
    GW_DRAINING, /* it gets no new requests; stopped when none is in flight */
    GW_STOPPING, /* the node was told to stop it */
    GW_GONE      /* it is not there any more; the last request in flight frees it */
};

/* What a replica had counted when a span of time began that its profile learns from. */
struct gw_span {
    fast_ns began, waiting_ns;
    int64_t answers;
    fast_ns gpu_ns;
    uint64_t failures;
    uint32_t restarts;
};

/* What a replica had used when somebody asked. */
struct gw_usage {
    uint32_t pid;
    fast_ns at, cpu;
};

struct gw_replica {
    struct gw_replica *next; /* of the gateway */
    struct gw_function *fn;
    uint64_t key;
    char id[GW_ID_MAX];
    uint32_t generation;
    enum gw_phase phase;
    uint32_t state; /* enum fast_replica_state */
    int gpu;        /* on the node; -1: none */
    uint32_t more_gpus; /* bits: further ones, of one that needs several at once */
    bool in_fleet;
    bool parked;     /* its quota is not guaranteed, elastic.c */
    bool lingers;    /* it is about to be parked: in the gateway's list */
    struct gw_replica *linger_next, *linger_prev;
    fast_ns idle_at;
    int told_milli;  /* the quota that the node guarantees; -1: not known */
    uint64_t copy_of; /* the key of the replica that it will take over from; 0: it is no copy */
    bool gives_way; /* it goes for a function of a higher priority */
    struct fast_slice slice; /* its configuration; what is guaranteed now: gw_elastic_slice() */
    int64_t rps_milli; /* what the scaler expects of it; 0: as the profile says */
    int port;
    uint32_t pid, restarts, up_ms;
    uint64_t started_ms;
    char *log_path, *text;
    uint64_t session; /* of the link, when it was last told of */
    struct fast_balance_item item;
    int in_flight; /* changed by gw_replica_count_flight() only */
    struct gw_job *jobs; /* that it is at */
    fast_ns due;   /* as told to the node; FAST_NEVER: none */
    fast_ns waiting_since, waiting_ns; /* with two or more in flight; since 0: not now */
    struct gw_span span;
    struct gw_usage usage;
    fast_ns drain_until, suspect_until;
    struct fast_http_pool *pool;
    struct gw_stats stats;
    struct fast_msg_replica_stats node_stats;  /* on |gpu|; |replica| is not valid */
    struct fast_msg_replica_stats *more_stats; /* on |more_gpus|, from the lowest on; NULL: nothing was told yet */
};

struct gw_function {
    struct gw_function *next, *prev, *hash_next;
    struct gw_function *awake_next, *awake_prev;
    uint32_t hash;
    struct gw_spec *spec;
    bool awake;   /* in the list of those that the scaler looks at */
    bool slept;   /* it was not, for a while */
    bool removed; /* its last replicas are going */
    bool trial;   /* of `fast profile`, as |spec| says */
    bool yielded; /* a trial that made room: trials.c holds one of |jobs| */
    int desired;
    int nreplicas; /* that are not gone */
    int jobs;
    uint32_t next_number, generation;
    int64_t created_ns;
    struct fast_balance balance;
    struct fast_fair queue; /* requests that wait for a replica */
    bool handing_out;       /* invoke_queue.c is at it */
    fast_ns service_ns;     /* what an answer takes at a replica, mean of the last ones; 0: not known */
    uint64_t shed;          /* requests that were answered 429 or found no room to wait */
    struct gw_batch *batch; /* that is open for more requests; NULL: none */
    struct gw_stats stats;
    fast_ns last_up, last_down;
    fast_ns wanted_at; /* when it came to this gateway or was scaled by hand: it has not been idle before */
    fast_ns retry_at, retry_after; /* starting failed: when again */
    struct gw_records *records; /* NULL: none were kept yet */
    struct gw_live *live; /* NULL: no measured profile */
    struct gw_scaling *scaling; /* NULL: it has not been scaled yet */
    char trouble[256];             /* why there are fewer replicas than wanted; "" */
    char decided[160];             /* what the scaler did last, and why */
};

struct gw_gpu {
    int fleet; /* its number there */
    char uuid[64], name[96];
    struct fast_msg_gpu_row row; /* strings are not valid */
};

/* The |i|-th replica of |fn| that is not gone, of fn->balance.n; the order changes when one goes. */
static inline struct gw_replica *gw_replica_of(const struct gw_function *fn, int i)
{
    return FAST_CONTAINER_OF(fn->balance.items[i], struct gw_replica, item);
}

#define GW_CALL_ID_SIZE 37 /* a UUID and its 0 */
#define GW_CALL_ID_MAX 80  /* that of a caller, and its 0 */

/* Randomness that was fetched and not used yet. */
struct gw_random {
    unsigned char bytes[256];
    size_t left;
};

struct gateway {
    const struct gw_conf *conf;
    struct fast_loop *loop;
    struct fast_http_server *server, *metrics;
    struct fast_http_server *secure; /* the same as |server| over TLS; NULL: none */
    struct fast_tls *tls;
    struct gw_store *store;
    struct gw_profiles *profiles;
    struct gw_link *link;
    uint64_t session; /* goes up when the node is lost */
    bool welcomed, loaded, stopping;
    fast_ns stop_asked;
    char node[64], driver[64];
    bool simulated;
    uint32_t policy, charge;
    int64_t window_ns;
    struct fast_fleet *fleet;
    struct gw_gpu gpus[FAST_NODE_GPUS_MAX];
    int ngpus;
    struct gw_model *models; /* on them */
    struct gw_function *functions, *last_function; /* in the order of their deployment */
    /* Of them, those that the scaler looks at: most of very many have no replica. */
    struct gw_function *awake, *last_awake;
    int nremoved, ntrials;     /* of them */
    bool specs_changed; /* since profiles.c has looked */
    struct gw_function *hash[GW_BUCKETS];
    struct gw_replica *replicas;
    json_t *namespaces; /* that were created, by name */
    struct gw_async *async;
    struct gw_tracer *tracer;   /* NULL: nothing is traced */
    struct gw_sink *access_log; /* NULL: none */
    struct gw_api_stats *api_stats; /* NULL: the API was not used yet */
    uint64_t next_key;
    struct gw_random random; /* for the identifiers of calls */
    char *head;              /* room for the head that is being written */
    size_t head_cap;
    size_t replay_bytes;     /* of bodies that are kept while they may be needed again */
    struct gw_job *jobs;
    struct fast_due waiting; /* requests that wait for a replica, by when they have waited out */
    struct fast_timer *tick, *job_timer, *wait_timer, *stop_timer, *linger_timer;
    struct gw_replica *linger_first, *linger_last; /* idle, quota still held; the longest idle first */
    bool unheld;       /* somebody may be at work without a guarantee */
    uint64_t unraised; /* requests that began so */
    struct gw_moves moves;
    fast_ns started_ns; /* wall clock */
};

/* ---- functions.c ---- */

/* NULL: there is none of that name. Lengths, since names come out of URLs. */
struct gw_function *gw_function_find(struct gateway *gw, const char *name, size_t name_len,
                                     const char *ns, size_t ns_len);
/* Creates a function or changes the one that is there; takes |spec| over when it succeeds. On an
 * error nothing has changed. FAST_EINVAL: it fits nowhere. FAST_ENOROOM: there is no room now. */
/* Whether |spec| could ever be deployed here; that there is room for it now is not asked. */
int gw_function_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err);
int gw_function_deploy(struct gateway *gw, struct gw_spec *spec, struct fast_err *err);
int gw_function_remove(struct gateway *gw, struct gw_function *fn, struct fast_err *err);
/* Sets how many replicas there shall be. On an error nothing has changed. */
int gw_function_scale(struct gateway *gw, struct gw_function *fn, int replicas,
                      struct fast_err *err);
/* A request has come for a function that has no replica. */
void gw_function_wake(struct gateway *gw, struct gw_function *fn);
int gw_function_save(struct gateway *gw, struct gw_function *fn, struct fast_err *err);
/* Reads what an earlier life has stored. */
int gw_functions_load(struct gateway *gw, struct fast_err *err);
/* Makes what runs equal to what is wanted, as far as that is possible now. */
void gw_function_reconcile(struct gateway *gw, struct gw_function *fn);
/* Whether |count| more replicas have a place now: places them all and takes them back. */
int gw_function_try_places(struct gateway *gw, const struct gw_spec *spec, int count,
                           struct fast_err *err);
/* It has or shall have replicas: the scaler looks after it until gw_function_sleep(). */
void gw_function_awake(struct gateway *gw, struct gw_function *fn);
void gw_function_sleep(struct gateway *gw, struct gw_function *fn);
/* Frees a removed function that nothing holds any more. */
void gw_function_release(struct gateway *gw, struct gw_function *fn);
void gw_functions_free(struct gateway *gw);

/* ---- replicas.c ---- */

extern const struct gw_link_ops gw_replica_link_ops;

/* Places a replica, numbers it, and tells the node. */
int gw_replica_new(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice,
                   int64_t rps_milli, struct fast_err *err);
/* Another one like |of|, on GPU |gpu| of the fleet, that counts for nothing until it takes over (move.c). */
int gw_replica_copy(struct gateway *gw, const struct gw_replica *of, int gpu, struct gw_replica **ret,
                    struct fast_err *err);
/* It gets no more requests and is stopped as soon as those in flight are done. */
void gw_replica_drain(struct gateway *gw, struct gw_replica *r);
/* The same at once, whatever is in flight. */
void gw_replica_cut(struct gateway *gw, struct gw_replica *r);
/* Changes quota and memory in place. On an error nothing has changed. */
int gw_replica_resize(struct gateway *gw, struct gw_replica *r, const struct fast_slice *slice,
                      struct fast_err *err);
/* A request that was in flight on it is over. */
void gw_replica_leave(struct gateway *gw, struct gw_replica *r);
/* It does not accept connections: it gets no requests for a while, unless the node says otherwise. */
void gw_replica_suspect(struct gateway *gw, struct gw_replica *r);
/* A request on it failed without an answer: the same, if its process is dying. */
void gw_replica_check(struct gateway *gw, struct gw_replica *r);
void gw_replicas_free(struct gateway *gw);
void gw_replicas_tick(struct gateway *gw);
/* Counts for scaling: it runs, or is being started, is not outdated, and no copy. */
bool gw_replica_is_live(const struct gw_replica *r);
bool gw_replica_is_ready(const struct gw_replica *r);
int gw_function_ready(const struct gw_function *fn);
/* The slice as placement and node get it: one without a memory cap has the default for the smallest
 * GPU, so that it fits on any of them; with the policy |whole| all of a GPU. */
struct fast_slice gw_replica_slice(const struct gateway *gw, const struct fast_slice *slice);
/* What the placement needs to know of such a slice. */
void gw_replica_want(const struct gateway *gw, const struct fast_slice *slice,
                     struct fast_want *ret);

/* ---- places.c ---- */

/* Takes places on |gpus| GPUs of the node, all or none; |ret_gpus|: on which, as bits. */
int gw_places_take(struct gateway *gw, uint64_t key, int gpus, const struct fast_want *want, uint32_t *ret_gpus,
                   struct fast_err *err);
void gw_places_give(struct gateway *gw, uint64_t key, int gpus);
/* The GPUs of the node that it has or is to have, as bits, and how many. */
uint32_t gw_replica_gpus(const struct gw_replica *r);
int gw_replica_ngpus(const struct gw_replica *r);
void gw_replica_set_gpus(struct gw_replica *r, uint32_t gpus);
/* Its place on a GPU of the fleet; NULL: it has none there. */
const struct fast_placed *gw_replica_place(const struct gateway *gw, const struct gw_replica *r, int fleet);
/* Out of the fleet, and back where it runs, as good as that is possible (fast_fleet_adopt()); false: somebody else has
 * its place. */
void gw_replica_take_out(struct gateway *gw, struct gw_replica *r);
bool gw_replica_put_back(struct gateway *gw, struct gw_replica *r);
/* Its slice in the fleet, on all of its GPUs or on none. */
int gw_replica_resize_place(struct gateway *gw, struct gw_replica *r, const struct fast_slice *slice,
                            struct fast_err *err);
/* What the node has told of it, of all of its GPUs together and of the |i|-th one. */
struct fast_msg_replica_stats gw_replica_used(const struct gw_replica *r);
struct fast_msg_replica_stats gw_replica_used_on(const struct gw_replica *r, int i);
void gw_replica_told_used(struct gw_replica *r, const struct fast_msg_replica_stats *stats);

/* ---- company.c ---- */

/* Checks what |spec| says of GPU types and neighbours. */
int gw_company_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err);
/* Where a new replica of |spec| may be; for one that runs, only whose it is. */
void gw_company_want(const struct gateway *gw, const struct gw_spec *spec, struct fast_want *ret);
void gw_company_group(const struct gw_spec *spec, struct fast_want *ret);
/* The number of a GPU's type by its name. */
uint32_t gw_gpu_type(const char *name);

/* ---- call_id.c ---- */

void gw_call_id(struct gateway *gw, char ret[GW_CALL_ID_SIZE]);
/* The one that |req| brings, else a new one; the access log is told. */
void gw_call_id_of(struct gateway *gw, struct fast_http_req *req, char ret[GW_CALL_ID_MAX]);
/* Answers a request to a function that goes no further: with the identifier of the caller, else one of its own, and
 * the lines that all such answers have. |more|: further lines, "" : none. */
void gw_call_refuse(struct gateway *gw, struct fast_http_req *req, int status, const char *more, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* |n| random bytes, at most 256, which are good until the next call. */
unsigned char *gw_random_bytes(struct gateway *gw, size_t n);

/* ---- usage.c ---- */

/* CPU in thousandths of a core and resident memory, by which shared pages count for each process. */
void gw_usage(struct gateway *gw, struct gw_replica *r, double *ret_millicores, uint64_t *ret_bytes);

/* ---- access_log.c ---- */

/* |finished| of a server: a line of JSON for each request. */
void gw_access_log(void *arg, const struct fast_http_finished *what);

/* ---- socket.c ---- */

/* Where the socket of |r| is; false: it has none. */
bool gw_socket_path(const struct gateway *gw, const struct gw_replica *r, char *ret, size_t cap);
/* The same before a start: the place is there and empty. */
bool gw_socket_prepare(const struct gateway *gw, const struct gw_replica *r, char *ret, size_t cap);
void gw_socket_remove(const struct gateway *gw, const struct gw_replica *r);

/* ---- record.c ---- */

/* Keeps a copy of a whole body, of a function whose spec.record is not 0. */
void gw_record(struct gw_function *fn, const char *data, size_t len);
void gw_records_free(struct gw_records *records); /* NULL is fine */

/* ---- trials.c ---- */

/* Takes a place in the fleet, or says -FAST_ENOROOM and has changed nothing. */
typedef int gw_attempt(struct gateway *gw, void *arg, struct fast_err *err);
/* What |attempt| says. Where there is no room for |spec|, trials of `fast profile` are taken out of the
 * fleet one by one until there is, and stopped; if that does not help they stay. */
int gw_trials_make_room(struct gateway *gw, const struct gw_spec *spec, gw_attempt *attempt, void *arg,
                        struct fast_err *err);
/* Removes trials whose profiler is gone. */
void gw_trials_tick(struct gateway *gw);

/* ---- scaler.c ---- */

/* Every second: scale what is scaled, reconcile everything. */
void gw_scaler_tick(struct gateway *gw);
/* Ten times a second: who has far more requests than replicas is not left to wait for the second. */
void gw_scaler_rush(struct gateway *gw);
void gw_scaling_free(struct gw_scaling *scaling); /* NULL is fine */

/* ---- elastic.c ---- */

/* Whether the quotas of |fn| follow its work. */
bool gw_elastic(const struct gateway *gw, const struct gw_function *fn);
/* What is guaranteed to |r| now. */
struct fast_slice gw_elastic_slice(const struct gw_replica *r);
/* |r| was picked for a request: it, or another one, which holds its quota from now on if that is possible. */
struct gw_replica *gw_elastic_choose(struct gateway *gw, struct gw_replica *r, uint64_t avoid);
/* It has no request any more, or serves from now on. */
void gw_elastic_idle(struct gateway *gw, struct gw_replica *r);
void gw_elastic_forget(struct gateway *gw, struct gw_replica *r);
void gw_elastic_tick(void *gateway); /* of gw->linger_timer */
void gw_elastic_second(struct gateway *gw);
/* The node is in sync again. */
void gw_elastic_synced(struct gateway *gw);
/* Tells the node, if it thinks otherwise. */
void gw_elastic_tell(struct gateway *gw, struct gw_replica *r);
/* By how much its quota could be raised while it is held. */
int gw_elastic_room(struct gateway *gw, struct gw_replica *r);
/* Around the placement of who keeps his guarantee for good: all quotas are held, GPUs where that is not
 * possible closed; and back. */
void gw_elastic_all(struct gateway *gw, bool held);

/* ---- invoke.c, invoke_queue.c ---- */

/* Answers a request to /function/...; |path| is its target behind "/function/". */
void gw_invoke(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len);
/* A replica has become ready, or has room. */
void gw_invoke_queue(struct gateway *gw, struct gw_function *fn);
/* The function is being removed: those that wait are told so. */
void gw_invoke_drop_queue(struct gateway *gw, struct gw_function *fn);
/* Ends what takes too long: requests at replicas, and those that have waited out by now. */
void gw_invoke_tick(struct gateway *gw);
void gw_invoke_wait_out(struct gateway *gw);
/* Whether a call has an end that is worth waiting for: its answer has not begun, or its length is known, and since
 * |since| it has had less time than its time-outs give it. One that is getting on may take longer, but not then. */
bool gw_invoke_has_end(const struct gateway *gw, fast_ns since);

/* ---- isolation.c ---- */

/* What is kept from a running replica of |fn|, one object {what, level, by} each, as the kernel tells it of its
 * process; NULL: none runs. */
json_t *gw_isolation(const struct gateway *gw, const struct gw_function *fn);

/* ---- api_stats.c ---- */

/* |finished| of a server: counts requests to the API, and logs all where that was asked for. */
void gw_api_finished(void *arg, const struct fast_http_finished *what);

/* ---- api.c, api_*.c ---- */

void gw_api_request(void *arg, struct fast_http_req *req);
/* The path of the API that |target| is about, without names, such as "/system/function/"; NULL: it is a call, or a
 * page. */
const char *gw_api_path(const char *target, size_t len);
void gw_api_metrics(void *arg, struct fast_http_req *req);

/* A system request, taken apart. Strings end with a NUL and belong to the call. */
struct gw_request {
    struct gateway *gw;
    struct fast_http_req *req;
    const char *method;
    const char *path;  /* without the query */
    const char *query; /* "" : none */
    const char *body;
    size_t len;
};

void gw_reply_json(struct fast_http_req *req, int status, json_t *json); /* takes |json| over */
void gw_reply_err(struct fast_http_req *req, const struct fast_err *err);
/* The status that an error is told with. */
int gw_status_of(int code);

void gw_api_functions(const struct gw_request *rq);
void gw_api_function(const struct gw_request *rq, const char *name);
void gw_api_recorded(const struct gw_request *rq, const char *name);
/* NAME or NAME.NS, the namespace of |body_ns| (may be NULL) or the query first; NULL: there is none, and
 * the request has been answered. */
struct gw_function *gw_request_function(const struct gw_request *rq, const char *name,
                                        const char *body_ns);
void gw_api_scale(const struct gw_request *rq, const char *name);
void gw_api_secrets(const struct gw_request *rq);
void gw_api_logs(const struct gw_request *rq);
void gw_api_alert(const struct gw_request *rq);
void gw_api_gpus(const struct gw_request *rq);
void gw_api_replicas(const struct gw_request *rq);
void gw_api_policy(const struct gw_request *rq);
void gw_api_models(const struct gw_request *rq);
void gw_api_explain(const struct gw_request *rq, const char *name);
void gw_api_defrag(const struct gw_request *rq);
void gw_api_info(const struct gw_request *rq);

/* ---- models.c ---- */

/* The node tells of a model on one of its GPUs. */
void gw_models_told(void *gateway, const struct fast_msg_model_row *row);
void gw_models_forget(struct gateway *gw);
/* What the placement needs to know of the weights that |spec| shares. */
void gw_models_want(const struct gateway *gw, const struct gw_spec *spec, struct fast_want *ret);
/* What the models of |of|'s namespace take on its GPU. False: |of| is not the first of them. */
bool gw_models_held(const struct gateway *gw, const struct fast_msg_model_row *of, uint64_t *ret);
/* The models, one after the other; |before| NULL: the first. NULL: no more. */
const struct fast_msg_model_row *gw_models_next(const struct gateway *gw,
                                                const struct fast_msg_model_row *before);

/* ---- namespaces.c ---- */

int gw_namespaces_load(struct gateway *gw, struct fast_err *err);
void gw_api_namespaces(const struct gw_request *rq);
/* |name| may be "": then it is in the body. */
void gw_api_namespace(const struct gw_request *rq, const char *name);

/* ---- async_accept.c, async_view.c ---- */

/* Answers a request to /async-function/...; |path| is its target behind that. */
void gw_async_request(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len);
/* Calls that wait, and those that were given up. */
void gw_api_async(const struct gw_request *rq);
/* DELETE of a call by its id. */
void gw_api_async_call(const struct gw_request *rq, const char *call_id);

/* ---- secrets.c ---- */

int gw_secret_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err);
/* The folder of a namespace's secrets. */
int gw_secret_dir(const struct gateway *gw, const char *ns, char *ret, size_t cap);
int gw_secrets_remove(const struct gateway *gw, const char *ns, struct fast_err *err); /* all of them */

#endif
