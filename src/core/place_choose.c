/* The decision of place.h: which GPU and which rectangle, and if none, why not. It changes nothing. */

#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/place_impl.h"
#include "core/sched_plan.h"

#define LOOKS_MAX 64 /* by the index of the whole fleet, before that of each domain is asked */

uint64_t fleet_mem_need(const struct fast_fleet *fleet, int gpu, const struct fast_want *want)
{
    uint64_t need = fleet_mem_own(&fleet->gpus[gpu], want);
    if (__builtin_add_overflow(need, fleet_weights_need(fleet, want, gpu), &need))
        return UINT64_MAX;
    return need;
}

/* Open, of the right node, and not somebody's alone: what is wrong otherwise is not for lack of room. */
static bool eligible(const struct fast_fleet *fleet, int g, const struct fast_want *want)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    return gpu->open && (!want->type || want->type == gpu->conf.type) &&
           (want->node == FAST_ANY || want->node == gpu->conf.node) &&
           (want->gpu == FAST_ANY || want->gpu == g);
}

static bool has_memory(const struct fast_fleet *fleet, int gpu, const struct fast_want *want)
{
    return fleet_mem_need(fleet, gpu, want) <= fleet_mem_free(&fleet->gpus[gpu]);
}

/* Together with whom it has to be, and apart from whom it must not. */
static bool is_company_right(const struct fast_fleet *fleet, int g, const struct fast_want *want)
{
    return (!want->avoid || !fleet_group_near(fleet, want->avoid, g, want->avoid_scope)) &&
           (!want->near || fleet_group_near(fleet, want->near, g, want->near_scope));
}

static enum fleet_joint joint_fits(const struct fast_fleet *fleet, int g, const struct fast_want *want)
{
    const struct fast_rect rect = fleet_rect(want);
    return fleet_joint_fits(fleet, g, FLEET_NOBODY, want->gang, &rect);
}

bool fleet_gpu_may(const struct fast_fleet *fleet, int g, const struct fast_want *want)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    return eligible(fleet, g, want) && !gpu->exclusive && (!want->exclusive || !gpu->nreplicas) &&
           has_memory(fleet, g, want) && is_company_right(fleet, g, want) && !joint_fits(fleet, g, want);
}

bool fleet_fits_on(const struct fast_fleet *fleet, const struct fast_want *want, int g)
{
    struct fast_want here = *want;
    here.gpu = g;
    return fleet_choose_gpu(fleet, &here) == g;
}

/* The best so far while GPUs are looked at one by one. */
struct best {
    int gpu;
    int area_left; /* of the free rectangle; without a rectangle: minus the free area */
    uint64_t mem_free;
};

/* Whether |g| is in a failure domain that has |level| of the group; below 0: any. */
static bool is_level(const struct fast_fleet *fleet, int g, const struct fast_want *want, int level)
{
    return level < 0 ||
           fleet_group_in_domain(fleet, want->group, fleet->gpus[g].conf.domain) == level;
}

static bool is_better(const struct best *a, const struct best *b)
{
    if (a->area_left != b->area_left)
        return a->area_left < b->area_left;
    return a->mem_free != b->mem_free ? a->mem_free < b->mem_free : a->gpu < b->gpu;
}

static void consider(const struct fast_fleet *fleet, int g, const struct fast_want *want, int level,
                     struct best *best)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    struct fast_rect rect = fleet_rect(want), from;
    if (!fleet_gpu_may(fleet, g, want) || !is_level(fleet, g, want, level))
        return;
    struct best it = {g, -fleet_area_free(gpu), fleet_mem_free(gpu)};
    if (rect.quota) {
        if (gpu->nsplit || gpu->rects.nused == FAST_RECTS_USED_MAX ||
            !fast_rects_find(&gpu->rects, rect.quota, rect.sm, fleet->conf.fit, &rect, &from))
            return;
        it.area_left = fast_rect_area(&from) - fast_rect_area(&rect);
    }
    if (best->gpu < 0 || is_better(&it, best))
        *best = it;
}

/* The index has answered for shape and memory; this looks at the rest, at |looks| GPUs in all. */
struct accept {
    const struct fast_fleet *fleet;
    const struct fast_want *want;
    int level;
    int looks;
    bool ended; /* the answer of the index is not one */
};

static bool accept(const void *arg, int gpu)
{
    struct accept *a = *(struct accept *const *)arg;
    a->ended |= a->looks-- <= 0;
    return a->ended || (fleet_gpu_may(a->fleet, gpu, a->want) && is_level(a->fleet, gpu, a->want, a->level));
}

/* Puts the best of |index| up against |best|. */
static void consider_best(struct accept *a, const struct place_index *index, uint64_t mem, struct best *best)
{
    struct fast_rect rect = fleet_rect(a->want);
    int g = place_index_find(index, rect.quota, rect.sm, mem, accept, &a);
    if (g >= 0 && !a->ended)
        consider(a->fleet, g, a->want, a->level, best);
}

/* The memory that a GPU has free at least when it takes |want| and |weights| bytes. */
static uint64_t mem_least(const struct fast_want *want, uint64_t weights)
{
    uint64_t mem;
    return __builtin_add_overflow(want->slice.mem_bytes, weights, &mem) ? UINT64_MAX : mem;
}

/* Among the GPUs that have the weights, or among all, as seen from the whole fleet. */
static void choose_in_fleet(struct accept *a, bool with_weights, struct best *best)
{
    const struct fleet_model *model = fleet_model_find(a->fleet, a->want->weights);
    if (!with_weights) {
        /* On every GPU that has the weights there was no room, so they are needed in addition. */
        consider_best(a, &a->fleet->index, mem_least(a->want, a->want->weights ? a->want->weights_bytes : 0),
                      best);
    } else if (model) {
        consider_best(a, &model->charged, mem_least(a->want, 0), best);
        if (!a->ended)
            consider_best(a, &model->lying, mem_least(a->want, model->least), best);
    }
}

/* Likewise, domain by domain: when nearly all others are ruled out. */
static void choose_in_domains(struct accept *a, bool with_weights, struct best *best)
{
    const struct fast_want *want = a->want;
    const struct fleet_group *group = fleet_group_find(a->fleet, want->group);
    const struct fleet_group *avoid = fleet_group_find(a->fleet, want->avoid);
    const struct fleet_counts none = {0}, *counts = group ? &group->by[FAST_SCOPE_DOMAIN] : &none;
    for (int i = 0, at = 0; i < a->fleet->ndomains; i++) {
        const struct fleet_domain *d = a->fleet->domains[i];
        bool has = at < counts->n && counts->at[at].key == d->domain;
        int level = has ? counts->at[at++].n : 0;
        if ((a->level >= 0 && level != a->level) ||
            (want->avoid && want->avoid_scope == FAST_SCOPE_DOMAIN &&
             fleet_group_count(avoid, FAST_SCOPE_DOMAIN, d->domain)))
            continue;
        if (!with_weights)
            consider_best(a, &d->index, mem_least(want, want->weights ? want->weights_bytes : 0), best);
        for (int k = 0; with_weights && k < d->n; k++)
            if (fleet_weights_find(a->fleet, want->weights, d->gpus[k]))
                consider(a->fleet, d->gpus[k], want, a->level, best);
    }
}

/* By the index. Where domains may be ruled out, and so most of the GPUs that would do, the search through
 * the whole fleet ends after some looks, and goes on in those that are not. */
static int choose_by_index(const struct fast_fleet *fleet, const struct fast_want *want, int level,
                           bool with_weights)
{
    bool by_domain = fleet->ndomains > 1 &&
                     (level >= 0 || (want->avoid && want->avoid_scope == FAST_SCOPE_DOMAIN));
    struct accept a = {fleet, want, level, by_domain ? LOOKS_MAX : INT_MAX, false};
    struct best best = {-1, 0, 0};
    choose_in_fleet(&a, with_weights, &best);
    if (a.ended) {
        a.looks = INT_MAX;
        a.ended = false;
        best.gpu = -1;
        choose_in_domains(&a, with_weights, &best);
    }
    return best.gpu;
}

/* By a look at every GPU. */
static int choose_by_look(const struct fast_fleet *fleet, const struct fast_want *want, int level,
                          bool with_weights)
{
    struct best best = {-1, 0, 0};
    for (int g = 0; g < fleet->ngpus; g++)
        if (!with_weights || fleet_weights_find(fleet, want->weights, g))
            consider(fleet, g, want, level, &best);
    return best.gpu;
}

static int choose_on_level(const struct fast_fleet *fleet, const struct fast_want *want, int level)
{
    bool index = want->node == FAST_ANY && fleet_rect(want).quota && fleet->conf.fit == FAST_FIT_AREA;
    int g = -1;
    /* A GPU that has the weights goes first. */
    for (int with = fleet_model_find(fleet, want->weights) ? 1 : 0; with >= 0 && g < 0; with--)
        g = index ? choose_by_index(fleet, want, level, with) : choose_by_look(fleet, want, level, with);
    return g;
}

int fleet_choose_gpu(const struct fast_fleet *fleet, const struct fast_want *want)
{
    struct best best = {-1, 0, 0};
    int g = -1;
    if (want->gpu != FAST_ANY) {
        if (want->gpu >= 0 && want->gpu < fleet->ngpus)
            consider(fleet, want->gpu, want, -1, &best);
        return best.gpu;
    }
    if (!want->spread || !want->group)
        return choose_on_level(fleet, want, -1);
    for (int level = fleet_group_level(fleet, want->group, -1); level >= 0 && g < 0;
         level = fleet_group_level(fleet, want->group, level))
        g = choose_on_level(fleet, want, level);
    return g;
}

/* What there is at best, over the GPUs that could have taken the replica. */
struct survey {
    int eligible, idle, with_memory;
    uint64_t mem_free, mem_need; /* of the GPU with the most free memory */
    uint64_t mem_with_rect;      /* the most free memory where the rectangle fits */
    bool rect_fits;              /* somewhere */
    int sm_at_quota, quota_at_sm; /* the widest free where memory suffices */
    bool full;                    /* some GPU has no place for one more rectangle */
    bool company;                 /* some GPU has the wrong neighbours */
    enum fleet_joint joint;       /* what is wrong with the GPUs that some GPU is linked to */
};

static void survey_gpu(const struct fast_fleet *fleet, int g, const struct fast_want *want,
                       struct survey *s)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    const struct fast_rect rect = fleet_rect(want);
    uint64_t mem_free = fleet_mem_free(gpu);
    bool memory = has_memory(fleet, g, want);
    if (!eligible(fleet, g, want))
        return;
    if (!s->eligible || mem_free > s->mem_free) {
        s->mem_free = mem_free;
        s->mem_need = fleet_mem_need(fleet, g, want);
    }
    s->eligible++;
    s->idle += gpu->nreplicas == 0;
    s->with_memory += memory;
    s->company |= !is_company_right(fleet, g, want);
    if (memory && s->joint == FLEET_JOINT_FITS)
        s->joint = joint_fits(fleet, g, want);
    s->full |= fleet_gpu_rects(gpu) == FAST_RECTS_USED_MAX;
    for (int i = 0; !gpu->nsplit && i < gpu->rects.nfree; i++) {
        const struct fast_rect *f = &gpu->rects.free[i];
        if (f->quota >= rect.quota && f->sm >= rect.sm) {
            s->rect_fits = true;
            if (mem_free > s->mem_with_rect)
                s->mem_with_rect = mem_free;
        }
        if (memory && f->quota >= rect.quota && f->sm > s->sm_at_quota)
            s->sm_at_quota = f->sm;
        if (memory && f->sm >= rect.sm && f->quota > s->quota_at_sm)
            s->quota_at_sm = f->quota;
    }
}

#define MIB(bytes) ((bytes) >> 20)
#define LISTED 4 /* GPUs whose room a refusal names, as far as the message has room */

/* Appends what each GPU has free, the largest rectangle and memory, as far as there is room for it. */
static void list_free(const struct fast_fleet *fleet, struct fast_err *err)
{
    for (int g = 0, listed = 0; err && g < fleet->ngpus && listed < LISTED; g++) {
        const struct fleet_gpu *gpu = &fleet->gpus[g];
        struct fast_rect largest = {0};
        char part[64];
        for (int i = 0; !gpu->nsplit && i < gpu->rects.nfree; i++)
            if (fast_rect_area(&gpu->rects.free[i]) > fast_rect_area(&largest))
                largest = gpu->rects.free[i];
        int n = snprintf(part, sizeof(part), "%s GPU %d %d %% x %d.%03d and %" PRIu64 " MiB",
                         listed ? "," : "; free:", g, largest.sm, largest.quota / 1000,
                         largest.quota % 1000, MIB(fleet_mem_free(gpu)));
        size_t at = strlen(err->msg);
        if (!gpu->open || n < 0 || at + (size_t)n >= sizeof(err->msg))
            continue;
        snprintf(err->msg + at, sizeof(err->msg) - at, "%s", part);
        listed++;
    }
}

static int say_refused(const struct fast_fleet *fleet, const struct fast_want *want,
                  struct fast_err *err)
{
    struct survey s = {0};
    const struct fast_rect rect = fleet_rect(want);
    for (int g = 0; g < fleet->ngpus; g++)
        survey_gpu(fleet, g, want, &s);
    if (!s.eligible && want->type)
        return fast_err_set(err, FAST_ENOROOM,
                            "no GPU: of %d GPUs none is of the type that is wanted, where it has to be, and "
                            "takes new replicas", fleet->ngpus);
    if (!s.eligible)
        return fast_err_set(err, FAST_ENOROOM, "no GPU: of %d GPUs none %s", fleet->ngpus,
                            want->node != FAST_ANY || want->gpu != FAST_ANY
                                ? "is where the replica has to be and takes new ones"
                                : "takes new replicas");
    if (want->exclusive && !s.idle)
        return fast_err_set(err, FAST_ENOROOM,
                            "a whole GPU is wanted: each of the %d GPUs has replicas", s.eligible);
    if (!s.with_memory)
        return fast_err_set(err, FAST_ENOROOM,
                            "memory: %" PRIu64 " MiB wanted, the most free on a GPU is %" PRIu64
                            " MiB",
                            MIB(s.mem_need), MIB(s.mem_free));
    if (rect.quota && s.sm_at_quota < rect.sm && !s.rect_fits)
        return fast_err_set(err, FAST_ENOROOM,
                            "SM x quota: %d %% x %d.%03d wanted; at this quota the most SMs free on "
                            "a GPU are %d %%, at these SMs the most quota free is %d.%03d",
                            rect.sm, rect.quota / 1000, rect.quota % 1000, s.sm_at_quota,
                            s.quota_at_sm / 1000, s.quota_at_sm % 1000);
    if (rect.quota && s.sm_at_quota < rect.sm)
        return fast_err_set(err, FAST_ENOROOM,
                            "memory: %" PRIu64 " MiB wanted; where %d %% SMs x quota %d.%03d are "
                            "free, at most %" PRIu64 " MiB are",
                            MIB(want->slice.mem_bytes), rect.sm, rect.quota / 1000,
                            rect.quota % 1000, MIB(s.mem_with_rect));
    if (s.joint == FLEET_JOINT_TOO_MANY)
        return fast_err_set(err, FAST_ENOROOM, "replicas: GPUs that replicas of several GPUs have in common take at "
                                               "most %d replicas together", FAST_PLAN_CLIENTS);
    if (s.joint)
        return fast_err_set(err, FAST_ENOROOM, "SM x quota: %d %% x %d.%03d wanted; GPUs that replicas of several GPUs "
                            "have in common have room each by itself, but no schedule together",
                            rect.sm, rect.quota / 1000, rect.quota % 1000);
    if (s.company)
        return fast_err_set(err, FAST_ENOROOM, "neighbours: each GPU with room has replicas that it must "
                                               "not be with, or none that it has to be with");
    return fast_err_set(err, FAST_ENOROOM, "replicas: %s",
                        s.full ? "the GPUs with room have as many replicas as a GPU can have"
                               : "each GPU with room is one replica's alone");
}

static int refuse(const struct fast_fleet *fleet, const struct fast_want *want, struct fast_err *err)
{
    int rc = say_refused(fleet, want, err);
    list_free(fleet, err);
    return rc;
}

int fleet_place_on(const struct fast_fleet *fleet, int g, const struct fast_want *want,
                   struct fast_placed *ret, struct fast_err *err)
{
    struct fast_rect rect = fleet_rect(want);
    if (rect.quota &&
        !fast_rects_find(&fleet->gpus[g].rects, rect.quota, rect.sm, fleet->conf.fit, &rect, NULL))
        return fast_err_set(err, FAST_EBUG, "GPU %d is in the index with a rectangle it lacks", g);
    *ret = (struct fast_placed){.gpu = g,
                                .rect = rect,
                                .mem_bytes = fleet_mem_own(&fleet->gpus[g], want),
                                .weights = want->weights,
                                .group = want->group,
                                .exclusive = want->exclusive};
    return 0;
}

int fast_fleet_choose(const struct fast_fleet *fleet, const struct fast_want *want,
                      struct fast_placed *ret, struct fast_err *err)
{
    if (fast_slice_check(&want->slice, err))
        return -FAST_EINVAL;
    int g = fleet_choose_gpu(fleet, want);
    if (g < 0)
        return refuse(fleet, want, err);
    return fleet_place_on(fleet, g, want, ret, err);
}
