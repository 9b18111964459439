#ifndef FAST_CORE_SCHED_TREE_H
#define FAST_CORE_SCHED_TREE_H

/* An ordered set of nodes that live in their owners: a treap, which also knows the smallest width
 * below each node, so that "the first in order that is not wider than f" costs O(log n). Nothing is
 * allocated. */

#include <stdbool.h>
#include <stdint.h>

#define FAST_TREE_KEYS 4

struct fast_tree_node {
    struct fast_tree_node *left, *right;
    int64_t key[FAST_TREE_KEYS]; /* order: lexicographic, then by id */
    int32_t id;
    int32_t width, min_width; /* of the node, of its subtree */
    uint32_t prio;
    bool in;
};

struct fast_tree {
    struct fast_tree_node *root;
    int count;
};

/* |node|'s key, id and width are set by the caller and stay as they are while it is in. */
void fast_tree_insert(struct fast_tree *t, struct fast_tree_node *node);
void fast_tree_remove(struct fast_tree *t, struct fast_tree_node *node); /* no harm if not in */
struct fast_tree_node *fast_tree_first(const struct fast_tree *t);
/* The first in order with width <= |width|; NULL: none. */
struct fast_tree_node *fast_tree_first_fit(const struct fast_tree *t, int width);
bool fast_tree_valid(const struct fast_tree *t);

#endif
