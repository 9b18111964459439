/* Which replicas belong together, and where they are: for spreading over failure domains, affinity and
 * anti-affinity. It assumes that the replicas of one group are on few GPUs beside those of the fleet. */

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

static int at_or_above(const struct fast_fleet *fleet, uint64_t group, int gpu)
{
    int lo = 0, hi = fleet->ngroups;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct fleet_group *g = &fleet->groups[mid];
        if (g->group < group || (g->group == group && g->gpu < gpu))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int fleet_groups_reserve(struct fast_fleet *fleet, struct fast_err *err)
{
    if (fleet->ngroups < fleet->groups_cap)
        return 0;
    int cap = fleet->groups_cap ? 2 * fleet->groups_cap : 8;
    struct fleet_group *groups = realloc(fleet->groups, sizeof(*groups) * (size_t)cap);
    if (!groups)
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more group");
    fleet->groups = groups;
    fleet->groups_cap = cap;
    return 0;
}

void fleet_group_hold(struct fast_fleet *fleet, uint64_t group, int gpu)
{
    int at = at_or_above(fleet, group, gpu);
    struct fleet_group *g = &fleet->groups[at];
    if (at == fleet->ngroups || g->group != group || g->gpu != gpu) {
        memmove(g + 1, g, sizeof(*g) * (size_t)(fleet->ngroups - at));
        *g = (struct fleet_group){group, gpu, 0};
        fleet->ngroups++;
    }
    g->n++;
}

void fleet_group_drop(struct fast_fleet *fleet, uint64_t group, int gpu)
{
    int at = at_or_above(fleet, group, gpu);
    struct fleet_group *g = &fleet->groups[at];
    if (at == fleet->ngroups || g->group != group || g->gpu != gpu || --g->n)
        return;
    memmove(g, g + 1, sizeof(*g) * (size_t)(fleet->ngroups - at - 1));
    fleet->ngroups--;
}

int fleet_domain_add(struct fast_fleet *fleet, uint32_t domain, struct fast_err *err)
{
    for (int i = 0; i < fleet->ndomains; i++)
        if (fleet->domains[i] == domain)
            return 0;
    if (fleet->ndomains == fleet->domains_cap) {
        int cap = fleet->domains_cap ? 2 * fleet->domains_cap : 8;
        uint32_t *domains = realloc(fleet->domains, sizeof(*domains) * (size_t)cap);
        if (!domains)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more failure domain");
        fleet->domains = domains;
        fleet->domains_cap = cap;
    }
    fleet->domains[fleet->ndomains++] = domain;
    return 0;
}

static bool together(const struct fast_fleet *fleet, int a, int b, enum fast_scope scope)
{
    const struct fast_gpu_conf *x = &fleet->gpus[a].conf, *y = &fleet->gpus[b].conf;
    return scope == FAST_SCOPE_GPU    ? a == b
           : scope == FAST_SCOPE_NODE ? x->node == y->node
                                      : x->domain == y->domain;
}

bool fleet_group_near(const struct fast_fleet *fleet, uint64_t group, int gpu, enum fast_scope scope)
{
    for (int i = at_or_above(fleet, group, 0); i < fleet->ngroups && fleet->groups[i].group == group; i++)
        if (together(fleet, fleet->groups[i].gpu, gpu, scope))
            return true;
    return false;
}

int fleet_group_in_domain(const struct fast_fleet *fleet, uint64_t group, uint32_t domain)
{
    int n = 0;
    for (int i = at_or_above(fleet, group, 0); i < fleet->ngroups && fleet->groups[i].group == group; i++)
        if (fleet->gpus[fleet->groups[i].gpu].conf.domain == domain)
            n += fleet->groups[i].n;
    return n;
}

int fleet_group_level(const struct fast_fleet *fleet, uint64_t group, int above)
{
    int least = INT_MAX;
    for (int i = 0; i < fleet->ndomains; i++) {
        int n = fleet_group_in_domain(fleet, group, fleet->domains[i]);
        if (n > above && n < least)
            least = n;
    }
    return least == INT_MAX ? -1 : least;
}
