#ifndef FAST_CORE_PLACE_IMPL_H
#define FAST_CORE_PLACE_IMPL_H

/* The inside of a fleet, shared by place.c (changes), place_choose.c (decisions)
 * and their like. */

#include "core/place.h"
#include "core/place_index.h"
#include "core/place_table.h"

#define FLEET_REFUSED 12
#define FLEET_NOBODY UINT64_MAX /* no replica's number, for fleet_split_fits() */

/* Shared weights, and where they are. */
struct fleet_model {
    uint64_t weights;
    int ngpus;                         /* that have them */
    uint64_t least;                    /* no GPU has them smaller */
    struct place_index charged, lying; /* free rectangles of GPUs that count them as used, and that do not */
};

/* Shared weights on a GPU, counted once. */
struct fleet_weights {
    struct fleet_model *model;
    int refs;      /* replicas that use them */
    bool resident; /* the GPU's store has them, as the caller says */
    bool firm;     /* and keeps them whether they are used or not */
    uint64_t bytes;   /* 0: not known */
    uint64_t charged; /* of it, to the GPU */
};

struct fleet_domain {
    uint32_t domain; /* the caller's number */
    int *gpus, n, cap;
    struct place_index index; /* of its GPUs; only when there is more than one domain */
};

struct fleet_gpu {
    struct fast_gpu_conf conf;
    struct fleet_domain *domain;
    struct fleet_weights *weights; /* in no order */
    int nweights, weights_cap;
    struct fast_rects rects;
    uint64_t mem_used; /* with shared weights; above conf.mem_bytes after a forced adoption */
    uint64_t *replicas;
    int nreplicas, cap;
    bool open;
    bool exclusive; /* one replica has it alone */
    bool indexed;   /* its free rectangles are in the index */
    bool area_indexed; /* its free area is in |by_area| */
    int nsplit, split_area; /* replicas that have a schedule and no rectangle; while there are any, the
                             * free rectangles are not all free */
    struct fast_rect refused[FLEET_REFUSED]; /* shapes without a schedule since something left */
    int nrefused, refused_next;
    int ngangs; /* replicas that have other GPUs beside it */
};

#define FLEET_SCOPES (FAST_SCOPE_DOMAIN + 1)

/* Replicas of a group: how many on which GPU, node and domain that has some, by its number. */
struct fleet_group {
    uint64_t group;
    struct fleet_counts {
        struct fleet_count {
            uint32_t key;
            int n;
        } *at;
        int n, cap;
    } by[FLEET_SCOPES];
};

struct fast_fleet {
    struct fast_fleet_conf conf;
    struct fleet_gpu *gpus;
    int ngpus, gpus_cap;
    struct place_index index;
    struct place_index by_area; /* busy GPUs by free area, as rectangles of SM 1; only with conf.split */
    int last; /* GPU of the latest replica */
    struct place_table table;
    struct fleet_model **models; /* by weights */
    int nmodels, models_cap;
    struct fleet_group **groups; /* by group */
    int ngroups, groups_cap;
    struct fleet_domain **domains; /* by number */
    int ndomains, domains_cap;
};

/* NULL: no GPU has them. */
const struct fleet_model *fleet_model_find(const struct fast_fleet *fleet, uint64_t weights);
/* NULL: they are not on that GPU. Valid until the next change of its weights. */
struct fleet_weights *fleet_weights_find(const struct fast_fleet *fleet, uint64_t weights, int gpu);
/* Which of its model's indexes the GPU belongs into. */
struct place_index *fleet_weights_index(const struct fleet_weights *w);
void fleet_models_fini(struct fast_fleet *fleet);

/* Makes sure that holding |weights| on |gpu| does not fail. */
int fleet_weights_reserve(struct fast_fleet *fleet, uint64_t weights, int gpu, struct fast_err *err);
/* One replica more, or fewer, uses them on |gpu|, which is out of the index. */
void fleet_weights_hold(struct fast_fleet *fleet, uint64_t weights, uint64_t bytes, int gpu);
void fleet_weights_drop(struct fast_fleet *fleet, uint64_t weights, int gpu);
/* What |want| takes of |gpu| for weights that are not charged there yet. */
uint64_t fleet_weights_need(const struct fast_fleet *fleet, const struct fast_want *want, int gpu);

/* Likewise for groups; |gpu| is the next of the fleet in fleet_domain_add(). */
int fleet_groups_reserve(struct fast_fleet *fleet, uint64_t group, struct fast_err *err);
void fleet_group_hold(struct fast_fleet *fleet, uint64_t group, int gpu);
void fleet_group_drop(struct fast_fleet *fleet, uint64_t group, int gpu);
int fleet_domain_add(struct fast_fleet *fleet, int gpu, struct fast_err *err);
void fleet_groups_fini(struct fast_fleet *fleet); /* and domains */
const struct fleet_group *fleet_group_find(const struct fast_fleet *fleet, uint64_t group);
/* |group| may be NULL: nobody. */
int fleet_group_count(const struct fleet_group *group, enum fast_scope scope, uint32_t key);
/* Whether a replica of |group| is together with |gpu|. */
bool fleet_group_near(const struct fast_fleet *fleet, uint64_t group, int gpu, enum fast_scope scope);
int fleet_group_in_domain(const struct fast_fleet *fleet, uint64_t group, uint32_t domain);
/* The fewest replicas of |group| in a domain that has more than |above|; -1: no domain has more. */
int fleet_group_level(const struct fast_fleet *fleet, uint64_t group, int above);

/* Takes |gpu| out of the index before a change of it, and puts it back. */
void fleet_unindex(struct fast_fleet *fleet, int gpu);
void fleet_reindex(struct fast_fleet *fleet, int gpu);

static inline uint64_t fleet_mem_free(const struct fleet_gpu *gpu)
{
    return gpu->mem_used < gpu->conf.mem_bytes ? gpu->conf.mem_bytes - gpu->mem_used : 0;
}

/* What |want| takes of GPU |gpu|: its own memory, and with weights that are not there yet. */
static inline uint64_t fleet_mem_own(const struct fleet_gpu *gpu, const struct fast_want *want)
{
    return want->slice.mem_bytes ? want->slice.mem_bytes : gpu->conf.mem_bytes;
}
uint64_t fleet_mem_need(const struct fast_fleet *fleet, int gpu, const struct fast_want *want);

/* The rectangle that |want| takes; quota 0: none. */
static inline struct fast_rect fleet_rect(const struct fast_want *want)
{
    if (want->exclusive)
        return (struct fast_rect){0, 0, FAST_MILLI, FAST_SM_PCT_MAX};
    return (struct fast_rect){0, 0, want->slice.request_milli, want->slice.sm_pct};
}

/* Replicas on |gpu| that take a part of its plane, and the area that they leave. */
static inline int fleet_gpu_rects(const struct fleet_gpu *gpu)
{
    return gpu->rects.nused + gpu->nsplit;
}

static inline int fleet_area_free(const struct fleet_gpu *gpu)
{
    return fast_rects_free_area(&gpu->rects) - gpu->split_area;
}

/* The number of the GPU whose free rectangle |want| goes to; -1: none. */
int fleet_choose_gpu(const struct fast_fleet *fleet, const struct fast_want *want);
/* What |want| gets there. */
int fleet_place_on(const struct fast_fleet *fleet, int g, const struct fast_want *want,
                   struct fast_placed *ret, struct fast_err *err);

/* Whether everybody on |g| but |except|, and |rect|, have a schedule together. */
bool fleet_split_fits(const struct fast_fleet *fleet, int g, uint64_t except,
                      const struct fast_rect *rect);
/* The fullest busy GPU where |want| has a schedule, among those that the search's bounds allow to look
 * at, more of them when |pressing|: the want has no place else; -1: none. */
int fleet_split_find(struct fast_fleet *fleet, const struct fast_want *want, bool pressing);
struct fast_placed fleet_split_on(const struct fast_fleet *fleet, int g,
                                  const struct fast_want *want);
/* Gives replicas on |g| without a rectangle one, where one is free now. |g| is out of the index. */
void fleet_split_settle(struct fast_fleet *fleet, int g);
/* Takes it from |replica| again. */
void fleet_split_unsettle(struct fast_fleet *fleet, uint64_t replica);
/* Puts a replica that has been removed back to |was|, which is free. */
int fleet_put_back(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                   const struct fast_placed *was, struct fast_err *err);

/* Everything but the rectangle: open, node, memory, not taken by somebody alone. */
bool fleet_gpu_may(const struct fast_fleet *fleet, int gpu, const struct fast_want *want);

/* Whether |want| has a place on |g| alone. */
bool fleet_fits_on(const struct fast_fleet *fleet, const struct fast_want *want, int g);

/* Whether the GPUs that gangs link to |g|, and |gang|'s (0: none), have a schedule together for everybody on them but
 * |except|, and |rect| on |g|. True where there is no gang. */
enum fleet_joint { FLEET_JOINT_FITS, FLEET_JOINT_NO_SCHEDULE, FLEET_JOINT_TOO_MANY };
enum fleet_joint fleet_joint_fits(const struct fast_fleet *fleet, int g, uint64_t except, uint64_t gang,
                                  const struct fast_rect *rect);

#endif
