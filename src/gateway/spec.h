#ifndef FAST_GATEWAY_SPEC_H
#define FAST_GATEWAY_SPEC_H

/* What a user deploys, read from the JSON of POST /system/functions and checked: an error names the
 * field or annotation, the value and what is accepted. The JSON itself is kept, since clients
 * compare what they get back with what they sent. */

#include <jansson.h>
#include <stdbool.h>

#include "core/profile.h"
#include "core/scale_load.h"
#include "core/types.h"

#define GW_NAME_MAX 64
#define GW_PIDS_MAX 4096 /* processes and threads of one replica: no function needs as many, a fork bomb stops there */
#define GW_RECORDS_MAX 16
#define GW_DEFAULT_NS "openfaas-fn"

/* Where executables and profiles are looked for, in order. */
struct gw_paths {
    const char **images;
    int nimages;
    const char **profiles;
    int nprofiles;
    const char *tool;      /* the program `fast-run`, for watchdogs and isolation; NULL: not there */
    const char *state_dir; /* for the image store and secrets; NULL: none */
};

struct gw_spec {
    char name[GW_NAME_MAX], ns[GW_NAME_MAX];
    json_t *json;     /* the deployment as it came */
    char *argv;       /* each argument with its NUL */
    size_t argv_len;
    bool gpu;         /* false: a plain process */
    int gpus;         /* of one node, that each replica has at once, with |slice| on each of them; 1 for a plain one */
    struct fast_slice slice;
    fast_ns slo;      /* 0: none */
    bool slo_p95;     /* the SLO is on the 95th percentile, else on the 99th */
    struct fast_profile *profile; /* NULL: none; of one GPU, so never with several */
    bool profile_measured;        /* it is from the database, and not of a file */
    bool profile_seen;            /* profiles.h has looked for a measured one since */
    int min, max;     /* replicas */
    bool max_given;
    int64_t target_milli; /* load of one replica: requests/s, or in flight */
    bool by_capacity;     /* the latter */
    fast_ns zero_after;   /* FAST_NEVER: not scaled to zero */
    int max_inflight;        /* requests that one replica takes at a time, 0: any number */
    fast_ns mem_wait;        /* an allocation at the memory cap waits so long before it fails */
    bool repeatable;         /* any request may be sent again when a replica dies under it */
    fast_ns timeout;         /* of one request, 0: the gateway's */
    int batch_max;           /* POST requests that are sent as one call, 0: each by itself */
    fast_ns batch_wait;      /* how long the first of them waits for others */
    int priority;         /* those with less give way, down to their |min| */
    int record;       /* bodies of requests that are kept for its profile; 0: none */
    bool local_socket;       /* it wants to be called over a Unix socket */
    const char *health_path; /* "" : the node's defaults */
    const char *runner;      /* how requests reach the program, in words */
    char *listed;            /* what does not change of its status, NULL: not made yet */
    const char *isolation;   /* what is kept from it, in words */
    char image_user[64];     /* "": its image names none */
    uint64_t memory_max, cpu_milli; /* of |limits|: bytes of the machine, thousandths of a core; 0: none */
};

/* |text| need not end with a NUL. The namespace of the body wins over |query_ns| (NULL: none). */
int gw_spec_parse(const char *text, size_t len, const char *query_ns, const struct gw_paths *paths,
                  struct gw_spec **ret, struct fast_err *err);
/* FAST_EINVAL: no name. FAST_EPERM: nobody may have it here. |what|: the field that it is from. */
int gw_spec_check_ns(const char *ns, const char *what, struct fast_err *err);
void gw_spec_free(struct gw_spec *spec); /* NULL is fine */

/* Takes |profile| over in place of the one that there is. |deploying|: a deployment that names no slice
 * gets the one of the best RPR that meets the SLO, or FAST_EINVAL where none does. */
int gw_spec_use_profile(struct gw_spec *spec, struct fast_profile *profile, bool deploying,
                        struct fast_err *err);

/* Whether a running process of |a| has to be replaced to become one of |b|; what can be changed in
 * place (quota, memory cap, labels) does not count. */
bool gw_spec_needs_restart(const struct gw_spec *a, const struct gw_spec *b);

/* The memory cap of a slice that names none: its SM share of |gpu_bytes|, but at least 512 MiB or
 * all there is; a multiple of 2 MiB, as the driver allots memory. */
uint64_t gw_spec_default_mem(int sm_pct, uint64_t gpu_bytes);

/* How |scaler| scales the function. */
void gw_spec_scale(const struct gw_spec *spec, enum fast_scaler scaler, struct fast_scale_conf *ret);
/* The limit of a replica that is guaranteed |quota_milli|: that, or the one that the deployment names. */
int gw_spec_limit(const struct gw_spec *spec, int quota_milli);
/* Relative throughput of a replica of |slice| beside the others of the function: by its profile; without
 * one all are alike. */
int64_t gw_spec_weight(const struct gw_spec *spec, const struct fast_slice *slice);
/* Whether there is anything to scale. */
bool gw_spec_is_scaled(const struct gw_spec *spec);

/* One of `fast profile`, which goes when its profiler does. */
bool gw_spec_is_trial(const struct gw_spec *spec);

/* A value of the map |key| of the deployment; NULL: not there or empty. */
const char *gw_spec_map(const struct gw_spec *spec, const char *key, const char *name);

/* Reads how requests are handed to the function: its annotations and environment. */
int gw_spec_calls(struct gw_spec *spec, struct fast_err *err);

/* Fills argv, |runner| and |isolation|: what a process of the function is, by its image (the image
 * store, then the images that are built in, then the folders) and its envProcess. */
int gw_command_build(struct gw_spec *spec, const struct gw_paths *paths, struct fast_err *err);

/* The executable of an image name; the error says what was looked for and where. */
int gw_image_find(const char *image, const struct gw_paths *paths, char *ret, size_t cap,
                  struct fast_err *err);

#endif
