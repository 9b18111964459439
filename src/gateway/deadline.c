/* Tells the node until when what a replica is at should be done: the earliest moment that a request in it is
 * due by its SLO. The node's tokens go by that among replicas that miss something of their request. Told is
 * only a change, and nothing where no slice or no SLO is. */
#include "gateway/job.h"
#include "gateway/link.h"

/* Of the few that are in flight at it. */
static fast_ns earliest_due(const struct gw_replica *r)
{
    fast_ns due = FAST_NEVER;
    for (const struct gw_job *j = r->jobs; j; j = j->at_next)
        if (j->due && j->due < due)
            due = j->due;
    return due;
}

void gw_job_arrives(struct gw_job *j, struct gw_replica *r)
{
    j->replica = r;
    j->at_prev = NULL;
    j->at_next = r->jobs;
    if (r->jobs)
        r->jobs->at_prev = j;
    r->jobs = j;
}

struct gw_replica *gw_job_departs(struct gw_job *j)
{
    struct gw_replica *r = j->replica;
    if (!r)
        return NULL;
    if (j->at_prev)
        j->at_prev->at_next = j->at_next;
    else
        r->jobs = j->at_next;
    if (j->at_next)
        j->at_next->at_prev = j->at_prev;
    j->replica = NULL;
    j->at_next = j->at_prev = NULL;
    return r;
}

void gw_replica_tell_due(struct gateway *gw, struct gw_replica *r)
{
    if (r->gpu < 0 || r->phase == GW_GONE || !r->fn->spec->slo)
        return;
    fast_ns due = earliest_due(r);
    if (due == r->due)
        return;
    struct fast_msg m = {.type = FAST_MSG_T_replica_deadline,
                         .replica_deadline = {.replica = fast_str(r->id), .deadline_ns = due}};
    if (!gw_link_request(gw->link, &m, NULL, NULL, 0, NULL)) /* without a node there are no tokens */
        r->due = due;
}
