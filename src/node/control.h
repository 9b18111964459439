#ifndef FAST_NODE_CONTROL_H
#define FAST_NODE_CONTROL_H

/* control.sock: the sessions of the gateway and the command line. */

#include "node/agent.h"

int node_control_new(struct node_agent *agent, struct node_control **ret, struct fast_err *err);
void node_control_free(struct node_control *control); /* NULL is fine */

/* Tells every session that watches that |r| has changed. */
void node_control_tell(struct node_control *control, const struct agent_replica *r);

#endif
