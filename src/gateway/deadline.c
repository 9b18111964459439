/* Tells the node until when what a replica is at should be done: the earliest moment that a request in it is
 * due by its SLO. The node's tokens go by that among replicas that miss something of their request. Told is
 * only a change, and nothing where no slice or no SLO is. */
#include "gateway/job.h"
#include "gateway/link.h"

static fast_ns earliest_due(const struct gateway *gw, const struct gw_replica *r)
{
    fast_ns due = FAST_NEVER;
    for (const struct gw_job *j = gw->jobs; j; j = j->next)
        if (j->replica == r && j->due && j->due < due)
            due = j->due;
    return due;
}

void gw_replica_tell_due(struct gateway *gw, struct gw_replica *r)
{
    if (r->gpu < 0 || r->phase == GW_GONE || !r->fn->spec->slo)
        return;
    fast_ns due = r->in_flight ? earliest_due(gw, r) : FAST_NEVER;
    if (due == r->due)
        return;
    struct fast_msg m = {.type = FAST_MSG_T_replica_deadline,
                         .replica_deadline = {.replica = fast_str(r->id), .deadline_ns = due}};
    if (!gw_link_request(gw->link, &m, NULL, NULL, 0, NULL)) /* without a node there are no tokens */
        r->due = due;
}
