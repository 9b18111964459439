#ifndef FAST_NODE_USERS_H
#define FAST_NODE_USERS_H

/* Which user a function runs as, where the node is root: one for all functions with a GPU and for the stores, since
 * MPS serves one user at a time, and one for each of the others. All of them have the group of the first. */

#include "node/node.h"

struct node_users;

/* Never fails for a machine that has no other users, or where they could not reach what functions need: that is
 * logged, and functions keep the node's user. */
int node_users_new(const struct node_conf *conf, struct node_users **ret, struct fast_err *err);
void node_users_free(struct node_users *u);

/* The user of functions with a GPU, which is everybody's group too; 0: functions have the node's user. */
uint32_t node_users_shared(const struct node_users *u);
/* The user of a function without a GPU, the same one at each start, also of a later node. */
int node_users_own(struct node_users *u, const char *ns, const char *function, uint32_t *ret, struct fast_err *err);

#endif
