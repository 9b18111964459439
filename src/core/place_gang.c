/* Replicas that need several GPUs of a node at once. It decides whether GPUs that such gangs link have a schedule
 * together, and which GPUs a new gang goes to. It assumes that the GPUs of a node stand beside each other in the
 * fleet, and that a node has at most NODE_GPUS. */

#include <string.h>

#include "core/place_impl.h"
#include "core/sched_plan.h"

#define NODE_GPUS 64

/* Lengths are in units of a millionth of the window. */
#define WINDOW (FAST_MILLI * INT64_C(1000))

/* GPUs that have a schedule together. */
struct linked {
    int gpu[FAST_PLAN_GPUS];
    int n;
    bool too_many;
};

static void link_gpu(struct linked *l, int g)
{
    for (int i = 0; i < l->n; i++)
        if (l->gpu[i] == g)
            return;
    l->too_many |= l->n == FAST_PLAN_GPUS;
    if (!l->too_many)
        l->gpu[l->n++] = g;
}

static const struct fast_placed *at(const struct fast_fleet *fleet, int g, int i)
{
    return place_table_find(&fleet->table, fleet->gpus[g].replicas[i]);
}

static bool has_part(const struct fast_fleet *fleet, int g, uint64_t gang)
{
    bool has = false;
    for (int i = 0; i < fleet->gpus[g].nreplicas && !has; i++)
        has = at(fleet, g, i)->gang == gang;
    return has;
}

/* The other GPUs of |gang|, of which one is on |g| or is to be. */
static void link_gang(const struct fast_fleet *fleet, struct linked *l, int g, uint64_t gang)
{
    int first = g < NODE_GPUS ? 0 : g - NODE_GPUS + 1;
    for (int k = first; k < fleet->ngpus && k < g + NODE_GPUS; k++)
        if (fleet->gpus[k].ngangs && fleet->gpus[k].conf.node == fleet->gpus[g].conf.node && has_part(fleet, k, gang))
            link_gpu(l, k);
}

static struct linked linked_to(const struct fast_fleet *fleet, int g, uint64_t gang)
{
    struct linked l = {.gpu = {g}, .n = 1};
    if (gang)
        link_gang(fleet, &l, g, gang);
    for (int k = 0; k < l.n && !l.too_many; k++) /* grows meanwhile */
        for (int i = 0; fleet->gpus[l.gpu[k]].ngangs && i < fleet->gpus[l.gpu[k]].nreplicas; i++) {
            uint64_t other = at(fleet, l.gpu[k], i)->gang;
            if (other && other != gang)
                link_gang(fleet, &l, l.gpu[k], other);
        }
    return l;
}

bool fast_fleet_linked(const struct fast_fleet *fleet, int gpu, int other)
{
    const struct linked l = linked_to(fleet, gpu, 0);
    bool is = l.too_many;
    for (int i = 0; i < l.n; i++)
        is |= l.gpu[i] == other;
    return is;
}

/* Everybody once, on all of his GPUs. */
struct items {
    struct fast_plan_item item[FAST_PLAN_CLIENTS];
    uint64_t gang[FAST_PLAN_CLIENTS];
    int n;
    bool too_many;
};

static void add(struct items *t, uint64_t gang, const struct fast_rect *rect, int bit)
{
    const fast_ns request = (fast_ns)rect->quota * 1000;
    int i = gang ? 0 : t->n;
    while (i < t->n && t->gang[i] != gang)
        i++;
    if (i == FAST_PLAN_CLIENTS) {
        t->too_many = true;
        return;
    }
    struct fast_plan_item *it = &t->item[i];
    if (i == t->n) {
        *it = (struct fast_plan_item){rect->sm, request, 0};
        t->gang[t->n++] = gang;
    }
    /* While the parts of a gang get another slice one by one, the larger one counts. */
    it->sm_pct = rect->sm > it->sm_pct ? rect->sm : it->sm_pct;
    it->request_ns = request > it->request_ns ? request : it->request_ns;
    it->gpus |= UINT32_C(1) << bit;
}

enum fleet_joint fleet_joint_fits(const struct fast_fleet *fleet, int g, uint64_t except, uint64_t gang,
                                  const struct fast_rect *rect)
{
    struct items t = {.n = 0};
    if (!rect->quota || (!gang && !fleet->gpus[g].ngangs))
        return FLEET_JOINT_FITS;
    const struct linked l = linked_to(fleet, g, gang);
    for (int k = 0; k < l.n && !l.too_many; k++)
        for (int i = 0; i < fleet->gpus[l.gpu[k]].nreplicas; i++) {
            const struct fast_placed *p = at(fleet, l.gpu[k], i);
            if ((p->rect.quota || p->gang) && fleet->gpus[l.gpu[k]].replicas[i] != except)
                add(&t, p->gang, &p->rect, k);
        }
    add(&t, gang, rect, 0);
    if (t.too_many || l.too_many)
        return FLEET_JOINT_TOO_MANY;
    if (l.n == 1)
        return FLEET_JOINT_FITS; /* a rectangle is enough */
    return fast_plan_fits(t.item, t.n, WINDOW) ? FLEET_JOINT_FITS : FLEET_JOINT_NO_SCHEDULE;
}

/* ---- placing ---- */

/* |split|: a schedule beyond rectangles will do. */
static bool fits_on(struct fast_fleet *fleet, const struct fast_want *want, int g, bool split)
{
    struct fast_want here = *want;
    here.gpu = g;
    return fleet_fits_on(fleet, want, g) || (split && fleet_split_find(fleet, &here, true) == g);
}

/* The node with the fewest GPUs that fit, but at least |n|; FAST_ANY: none. */
static int64_t choose_node(struct fast_fleet *fleet, const struct fast_want *want, int n, bool split,
                           int *ret_most)
{
    int64_t best = FAST_ANY;
    int fewest = 0;
    *ret_most = 0;
    for (int g = 0; g < fleet->ngpus; g++) {
        uint32_t node = fleet->gpus[g].conf.node;
        int count = 0;
        if (g && fleet->gpus[g - 1].conf.node == node)
            continue; /* GPUs of a node are beside each other, or counted more than once */
        for (int k = g; k < fleet->ngpus; k++) {
            if (fleet->gpus[k].conf.node == node)
                count += fits_on(fleet, want, k, split);
            else if (k - g >= NODE_GPUS)
                break;
        }
        *ret_most = count > *ret_most ? count : *ret_most;
        if (count >= n && (best == FAST_ANY || count < fewest)) {
            best = node;
            fewest = count;
        }
    }
    return best;
}

/* A gang that is being placed. */
struct parts {
    struct fast_fleet *fleet;
    const uint64_t *replicas;
    int n;
    struct fast_want want;
    struct fast_placed *ret;
    bool split;
    int tries; /* that are left */
};

/* Part |i| and those after it, from |g| on; where two GPUs cannot be linked, others are tried. */
static bool place_from(struct parts *p, int i, int g)
{
    if (i == p->n)
        return true;
    for (; g < p->fleet->ngpus && p->tries > 0; g++) {
        struct fast_want here = p->want;
        here.gpu = g;
        if (p->fleet->gpus[g].conf.node != p->want.node || !fits_on(p->fleet, &here, g, p->split))
            continue;
        p->tries--;
        if (fast_fleet_place(p->fleet, p->replicas[i], &here, &p->ret[i], NULL))
            continue;
        if (place_from(p, i + 1, g + 1))
            return true;
        fast_fleet_remove(p->fleet, p->replicas[i], NULL);
    }
    return false;
}

#define TRIES_MAX 1000 /* all choices of four of eight GPUs are 70 */

/* On |only|; FAST_ANY: on the best. */
static bool place_all(struct parts *p, int64_t only, int *ret_most)
{
    p->want.node = only;
    const int64_t node = choose_node(p->fleet, &p->want, p->n, p->split, ret_most);
    p->want.node = node; /* what moves a part must not take it from the others */
    p->tries = TRIES_MAX;
    return node != FAST_ANY && place_from(p, 0, 0);
}

int fast_fleet_place_gang(struct fast_fleet *fleet, const uint64_t *replicas, int n,
                          const struct fast_want *want, struct fast_placed *ret, struct fast_err *err)
{
    int most = 0, rc = fast_slice_check(&want->slice, err);
    struct parts p = {fleet, replicas, n, *want, ret, false, TRIES_MAX};
    if (rc)
        return rc;
    if (n < 1 || n > FAST_PLAN_GPUS)
        return fast_err_set(err, FAST_EINVAL, "a replica has 1 to %d GPUs of a node, not %d", FAST_PLAN_GPUS, n);
    p.want.gang = n > 1 ? replicas[0] : 0;
    p.want.spread = false;
    if (place_all(&p, want->node, &most))
        return 0;
    p.split = fleet->conf.split; /* costs programs, so only when there is nothing else */
    if (p.split && place_all(&p, want->node, &most))
        return 0;
    if (most < n)
        return fast_err_set(err, FAST_ENOROOM, "%d GPUs of one node are wanted: at most %d of a node fit", n,
                            most);
    return fast_err_set(err, FAST_ENOROOM, "%d GPUs of one node are wanted: the parts do not fit beside each other; "
                        "GPUs that replicas of several GPUs have in common need a schedule together, of at most %d "
                        "replicas", n, FAST_PLAN_CLIENTS);
}
