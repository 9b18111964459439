/* What could be different about replicas that have a place: larger where they are, or elsewhere. Plans are
 * tried out on the fleet itself and taken back, so that they hold to all of its rules; a plan assumes that it
 * is carried out before anything else changes. */

#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

#define RAISE_STEP 100
#define SOURCES_MAX 64 /* GPUs that a plan tries to empty */
/* Numbers of copies that are only tried: from the top down, where no caller's are. */
#define TRIAL(i) (UINT64_MAX - 1 - (uint64_t)(i))

int fast_fleet_raise_room(struct fast_fleet *fleet, uint64_t replica, int most_milli)
{
    const struct fast_placed *at = fast_fleet_find(fleet, replica);
    struct fast_placed placed;
    if (!at || !at->rect.quota)
        return 0;
    const int had = at->rect.quota;
    struct fast_slice slice = {at->rect.sm, had, had, at->mem_bytes};
    int now = had;
    while (now < most_milli) {
        int to = now + RAISE_STEP < most_milli ? now + RAISE_STEP : most_milli;
        slice.request_milli = slice.limit_milli = to;
        if (fast_fleet_resize(fleet, replica, &slice, &placed, NULL))
            break;
        now = to;
    }
    slice.request_milli = slice.limit_milli = had;
    if (now > had)
        fast_fleet_resize(fleet, replica, &slice, &placed, NULL);
    return now - had;
}

/* ---- elsewhere ---- */

/* The want that |p| was placed by, as far as the fleet knows it. */
static struct fast_want want_of(const struct fast_fleet *fleet, const struct fast_placed *p)
{
    int quota = p->rect.quota, sm = p->rect.sm ? p->rect.sm : FAST_SM_PCT_MAX;
    struct fast_want w = {.slice = {sm, quota, quota ? quota : FAST_MILLI, p->mem_bytes},
                          .exclusive = p->exclusive, .node = FAST_ANY, .gpu = FAST_ANY,
                          .weights = p->weights, .group = p->group};
    const struct fleet_weights *shared =
        p->weights ? fleet_weights_find(fleet, p->weights, p->gpu) : NULL;
    w.weights_bytes = shared ? shared->bytes : 0;
    w.type = fleet->gpus[p->gpu].conf.type;
    return w;
}

/* A plan that is being made: copies that are placed to try, and what they cost. */
struct plan {
    struct fast_fleet *fleet;
    struct fast_move *moves;
    int n, max;
    uint64_t bytes, bytes_max;
};

static void take_back(struct plan *p, int to)
{
    while (p->n > to) {
        p->n--;
        fast_fleet_remove(p->fleet, TRIAL(p->n), NULL);
    }
}

/* Finds a place on another GPU that is busy already. */
static bool move_away(struct plan *p, uint64_t replica)
{
    struct fast_fleet *fleet = p->fleet;
    const struct fast_placed from = *fast_fleet_find(fleet, replica);
    struct fast_want want = want_of(fleet, &from);
    struct fast_placed at;
    if (p->n == p->max || from.forced || from.exclusive || from.tied)
        return false;
    bool open = fleet->gpus[from.gpu].open;
    fast_fleet_gpu_open(fleet, from.gpu, false);
    int rc = fast_fleet_place(fleet, TRIAL(p->n), &want, &at, NULL);
    fast_fleet_gpu_open(fleet, from.gpu, open);
    if (rc)
        return false;
    want.gpu = at.gpu;
    p->moves[p->n++] = (struct fast_move){replica, from.gpu, at.gpu, want};
    p->bytes += at.mem_bytes;
    bool busy = fleet->gpus[at.gpu].nreplicas > 1;
    return busy && p->bytes <= p->bytes_max;
}

/* All replicas of |g|, or none. */
static bool empty_gpu(struct plan *p, int g)
{
    const struct fleet_gpu *gpu = &p->fleet->gpus[g];
    int began = p->n;
    uint64_t bytes = p->bytes;
    for (int i = 0; i < gpu->nreplicas; i++)
        if (!move_away(p, gpu->replicas[i])) {
            take_back(p, began);
            p->bytes = bytes;
            return false;
        }
    return true;
}

struct source {
    int gpu, area;
};

static int by_area(const void *a, const void *b)
{
    const struct source *x = a, *y = b;
    return x->area != y->area ? x->area - y->area : x->gpu - y->gpu;
}

/* A GPU that takes what another one had is not emptied in the same plan. */
static bool is_target(const struct plan *p, int gpu)
{
    for (int i = 0; i < p->n; i++)
        if (p->moves[i].to == gpu)
            return true;
    return false;
}

/* Tries the sources in order. Those that are emptied take nothing of the later ones. */
static void empty_all(struct plan *p, const struct source *list, int n, struct fast_defrag *worth)
{
    int emptied[SOURCES_MAX], count = 0;
    for (int i = 0; i < n && count < SOURCES_MAX; i++) {
        if (!p->fleet->gpus[list[i].gpu].open || is_target(p, list[i].gpu) || !empty_gpu(p, list[i].gpu))
            continue;
        fast_fleet_gpu_open(p->fleet, list[i].gpu, false);
        emptied[count++] = list[i].gpu;
        worth->area += list[i].area;
    }
    worth->gpus = count;
    while (count > 0)
        fast_fleet_gpu_open(p->fleet, emptied[--count], true);
}

int fast_fleet_defrag(struct fast_fleet *fleet, int max, uint64_t bytes_max, struct fast_move *ret,
                      struct fast_defrag *ret_worth, struct fast_err *err)
{
    struct plan p = {fleet, ret, 0, max < FAST_MOVES_MAX ? max : FAST_MOVES_MAX, 0, bytes_max};
    struct source *list = malloc(sizeof(*list) * (size_t)(fleet->ngpus + 1));
    struct fast_defrag worth = {0};
    int n = 0;
    if (!list)
        return fast_err_set(err, FAST_ENOMEM, "no memory to order %d GPUs", fleet->ngpus);
    for (int g = 0; g < fleet->ngpus; g++)
        if (fleet->gpus[g].nreplicas && fleet->gpus[g].nreplicas <= p.max && !fleet->gpus[g].exclusive)
            list[n++] = (struct source){g, FAST_PLANE_AREA - fleet_area_free(&fleet->gpus[g])};
    qsort(list, (size_t)n, sizeof(*list), by_area);
    empty_all(&p, list, n < SOURCES_MAX ? n : SOURCES_MAX, &worth);
    free(list);
    worth.nmoves = p.n;
    worth.bytes = p.bytes;
    take_back(&p, 0);
    *ret_worth = worth;
    return 0;
}

/* ---- making room ---- */

/* Replicas that a trial has taken off their GPU. */
struct taken {
    uint64_t replica[FAST_MOVES_MAX];
    struct fast_want want[FAST_MOVES_MAX];
    struct fast_placed at[FAST_MOVES_MAX];
    int n;
    uint64_t split[FAST_RECTS_USED_MAX]; /* who had no rectangle there before */
    int nsplit;
};

static bool take(struct plan *p, struct taken *t, uint64_t replica)
{
    const struct fast_placed at = *fast_fleet_find(p->fleet, replica);
    if (!move_away(p, replica))
        return false;
    t->want[t->n] = want_of(p->fleet, &at);
    t->want[t->n].gpu = at.gpu;
    t->at[t->n] = at;
    for (int i = 0; i < t->nsplit; i++) /* those taken before it may have left it a rectangle */
        t->at[t->n].split |= t->split[i] == replica;
    t->replica[t->n++] = replica;
    return !fast_fleet_remove(p->fleet, replica, NULL);
}

/* Copies go, and who was taken comes back, exactly: those who got a rectangle of theirs give it up first. */
static void undo(struct plan *p, struct taken *t)
{
    struct fast_placed placed;
    take_back(p, 0);
    p->bytes = 0;
    for (int i = 0; i < t->nsplit; i++)
        fleet_split_unsettle(p->fleet, t->split[i]);
    while (t->n > 0) {
        t->n--;
        /* Without memory it is entered as it can be: it still runs. */
        if (fleet_put_back(p->fleet, t->replica[t->n], &t->want[t->n], &t->at[t->n], NULL))
            fast_fleet_adopt(p->fleet, t->replica[t->n], &t->want[t->n], &placed, NULL);
    }
}

static int largest_first(const struct fast_fleet *fleet, int g, uint64_t *ret, int max)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    int n = gpu->nreplicas < max ? gpu->nreplicas : max;
    for (int i = 0; i < n; i++) {
        uint64_t replica = gpu->replicas[i];
        int area = fast_rect_area(&fast_fleet_find(fleet, replica)->rect), at = i;
        for (; at > 0 && fast_rect_area(&fast_fleet_find(fleet, ret[at - 1])->rect) < area; at--)
            ret[at] = ret[at - 1];
        ret[at] = replica;
    }
    return n;
}

/* Moves from |g|, in |p| and taken back from the fleet, after which |want| fits there: one replica if one
 * will do, else from the largest down. False: there are none. */
static bool clear(struct plan *p, int g, const struct fast_want *want)
{
    uint64_t order[FAST_RECTS_USED_MAX] = {0};
    struct taken t = {.n = 0};
    int n = largest_first(p->fleet, g, order, FAST_RECTS_USED_MAX);
    for (int i = 0; i < n; i++)
        if (fast_fleet_find(p->fleet, order[i])->split)
            t.split[t.nsplit++] = order[i];
    for (int i = n - 1; i >= 0 && p->max > 0; i--) {
        bool done = take(p, &t, order[i]) && fleet_fits_on(p->fleet, want, g);
        int moves = p->n;
        undo(p, &t);
        if (done) {
            p->n = moves;
            return true;
        }
    }
    bool done = false;
    for (int i = 0; i < n && !done && p->n < p->max; i++)
        if (take(p, &t, order[i]))
            done = fleet_fits_on(p->fleet, want, g);
        else
            break;
    int moves = p->n;
    undo(p, &t);
    p->n = done ? moves : 0;
    return done;
}

int fast_fleet_make_room(struct fast_fleet *fleet, const struct fast_want *want, int max,
                         struct fast_move *ret, struct fast_defrag *ret_worth, struct fast_err *err)
{
    struct fast_move *moves = malloc(sizeof(*moves) * FAST_MOVES_MAX);
    int best = max < FAST_MOVES_MAX ? max + 1 : FAST_MOVES_MAX + 1, tries = 0;
    const int most = best - 1;
    if (!moves)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a plan");
    for (int g = 0; g < fleet->ngpus && best > 1 && tries < SOURCES_MAX; g++) {
        struct plan p = {fleet, moves, 0, best - 1, 0, UINT64_MAX};
        if (!fleet->gpus[g].open || fleet->gpus[g].exclusive ||
            (want->gpu != FAST_ANY && want->gpu != g))
            continue;
        tries++;
        if (!clear(&p, g, want))
            continue;
        best = p.n;
        memcpy(ret, moves, sizeof(*moves) * (size_t)best);
    }
    free(moves);
    if (best > most)
        return fast_err_set(err, FAST_ENOROOM, "no %d moves make room for %d %% x %d.%03d", most,
                            want->slice.sm_pct, want->slice.request_milli / 1000,
                            want->slice.request_milli % 1000);
    *ret_worth = (struct fast_defrag){.nmoves = best};
    for (int i = 0; i < best; i++)
        ret_worth->bytes += ret[i].want.slice.mem_bytes;
    return 0;
}
