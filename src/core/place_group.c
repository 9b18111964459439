/* Which replicas belong together, and where they are: for spreading over failure domains, affinity and
 * anti-affinity. A group counts its replicas for each GPU, node and domain that has some, in order. */

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

static int group_at(const struct fast_fleet *fleet, uint64_t group)
{
    int lo = 0, hi = fleet->ngroups;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (fleet->groups[mid]->group < group)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct fleet_group *fleet_group_find(const struct fast_fleet *fleet, uint64_t group)
{
    int at = group_at(fleet, group);
    return at < fleet->ngroups && fleet->groups[at]->group == group ? fleet->groups[at] : NULL;
}

static int count_at(const struct fleet_counts *counts, uint32_t key)
{
    int lo = 0, hi = counts->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (counts->at[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void count_up(struct fleet_counts *counts, uint32_t key)
{
    int at = count_at(counts, key);
    struct fleet_count *c = &counts->at[at];
    if (at == counts->n || c->key != key) {
        memmove(c + 1, c, sizeof(*c) * (size_t)(counts->n - at));
        *c = (struct fleet_count){key, 0};
        counts->n++;
    }
    c->n++;
}

static void count_down(struct fleet_counts *counts, uint32_t key)
{
    int at = count_at(counts, key);
    struct fleet_count *c = &counts->at[at];
    if (at == counts->n || c->key != key || --c->n)
        return;
    memmove(c, c + 1, sizeof(*c) * (size_t)(counts->n - at - 1));
    counts->n--;
}

static uint32_t key_of(const struct fast_fleet *fleet, int gpu, enum fast_scope scope)
{
    const struct fast_gpu_conf *conf = &fleet->gpus[gpu].conf;
    return scope == FAST_SCOPE_GPU ? (uint32_t)gpu : scope == FAST_SCOPE_NODE ? conf->node : conf->domain;
}

static void group_free(struct fleet_group *group)
{
    for (int scope = 0; scope < FLEET_SCOPES; scope++)
        free(group->by[scope].at);
    free(group);
}

void fleet_groups_fini(struct fast_fleet *fleet)
{
    for (int i = 0; i < fleet->ngroups; i++)
        group_free(fleet->groups[i]);
    free(fleet->groups);
    for (int i = 0; i < fleet->ndomains; i++) {
        place_index_fini(&fleet->domains[i]->index);
        free(fleet->domains[i]->gpus);
        free(fleet->domains[i]);
    }
    free(fleet->domains);
}

/* The group, which is made when there is none; NULL: no memory. */
static struct fleet_group *group_obtain(struct fast_fleet *fleet, uint64_t group)
{
    int at = group_at(fleet, group);
    if (at < fleet->ngroups && fleet->groups[at]->group == group)
        return fleet->groups[at];
    struct fleet_group *it = calloc(1, sizeof(*it));
    if (!it || place_insert((void **)&fleet->groups, &fleet->ngroups, &fleet->groups_cap, at, it)) {
        free(it);
        return NULL;
    }
    it->group = group;
    return it;
}

int fleet_groups_reserve(struct fast_fleet *fleet, uint64_t group, struct fast_err *err)
{
    struct fleet_group *it = group ? group_obtain(fleet, group) : NULL;
    for (int scope = 0; it && scope < FLEET_SCOPES; scope++) {
        struct fleet_counts *counts = &it->by[scope];
        if (place_grow((void **)&counts->at, counts->n, &counts->cap, sizeof(*counts->at)))
            it = NULL;
    }
    return group && !it ? fast_err_set(err, FAST_ENOMEM, "no memory for one more group") : 0;
}

void fleet_group_hold(struct fast_fleet *fleet, uint64_t group, int gpu)
{
    struct fleet_group *it = fleet->groups[group_at(fleet, group)];
    for (int scope = 0; scope < FLEET_SCOPES; scope++)
        count_up(&it->by[scope], key_of(fleet, gpu, (enum fast_scope)scope));
}

void fleet_group_drop(struct fast_fleet *fleet, uint64_t group, int gpu)
{
    int at = group_at(fleet, group);
    struct fleet_group *it = fleet->groups[at];
    for (int scope = 0; scope < FLEET_SCOPES; scope++)
        count_down(&it->by[scope], key_of(fleet, gpu, (enum fast_scope)scope));
    if (it->by[FAST_SCOPE_GPU].n)
        return;
    memmove(&fleet->groups[at], &fleet->groups[at + 1],
            sizeof(struct fleet_group *) * (size_t)(fleet->ngroups - at - 1));
    fleet->ngroups--;
    group_free(it);
}

/* ---- failure domains ---- */

/* The domain of the fleet, which is made when there is none; NULL: no memory. */
static struct fleet_domain *domain_obtain(struct fast_fleet *fleet, uint32_t domain)
{
    int lo = 0, hi = fleet->ndomains;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (fleet->domains[mid]->domain < domain)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < fleet->ndomains && fleet->domains[lo]->domain == domain)
        return fleet->domains[lo];
    struct fleet_domain *it = calloc(1, sizeof(*it));
    if (!it || place_insert((void **)&fleet->domains, &fleet->ndomains, &fleet->domains_cap, lo, it)) {
        free(it);
        return NULL;
    }
    it->domain = domain;
    return it;
}

int fleet_domain_add(struct fast_fleet *fleet, int gpu, struct fast_err *err)
{
    struct fleet_domain *it = domain_obtain(fleet, fleet->gpus[gpu].conf.domain);
    if (!it || place_grow((void **)&it->gpus, it->n, &it->cap, sizeof(int)))
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more failure domain");
    it->gpus[it->n++] = gpu;
    fleet->gpus[gpu].domain = it;
    /* A single domain needs no index of its own: those that were there before get theirs now. */
    if (fleet->ndomains == 2 && it->n == 1)
        for (int g = 0; g < gpu; g++)
            fleet_reindex(fleet, g);
    return 0;
}

int fleet_group_count(const struct fleet_group *group, enum fast_scope scope, uint32_t key)
{
    const struct fleet_counts *counts = group ? &group->by[scope] : NULL;
    int at = counts ? count_at(counts, key) : 0;
    return counts && at < counts->n && counts->at[at].key == key ? counts->at[at].n : 0;
}

bool fleet_group_near(const struct fast_fleet *fleet, uint64_t group, int gpu, enum fast_scope scope)
{
    return fleet_group_count(fleet_group_find(fleet, group), scope, key_of(fleet, gpu, scope)) > 0;
}

int fleet_group_in_domain(const struct fast_fleet *fleet, uint64_t group, uint32_t domain)
{
    return fleet_group_count(fleet_group_find(fleet, group), FAST_SCOPE_DOMAIN, domain);
}

int fleet_group_level(const struct fast_fleet *fleet, uint64_t group, int above)
{
    const struct fleet_group *it = fleet_group_find(fleet, group);
    const struct fleet_counts *counts = it ? &it->by[FAST_SCOPE_DOMAIN] : NULL;
    int n = counts ? counts->n : 0, least = INT_MAX;
    if (above < 0 && n < fleet->ndomains)
        return 0;
    for (int i = 0; i < n; i++)
        if (counts->at[i].n > above && counts->at[i].n < least)
            least = counts->at[i].n;
    return least == INT_MAX ? -1 : least;
}
