#ifndef FAST_SIMDRIVER_GRAPH_H
#define FAST_SIMDRIVER_GRAPH_H

/* Graphs: nodes that hold work, and what capture.c needs to build them. */

#include "simdriver/drv.h"

struct graph;

struct node {
    struct handle handle;
    struct node *next; /* in the graph, in the order of creation */
    struct graph *graph;
    CUgraphNodeType type;
    struct work work;
    struct graph *child; /* CU_GRAPH_NODE_TYPE_GRAPH; owned */
    struct node **deps;
    size_t dep_count;
    size_t mark; /* scratch of whoever walks the graph */
};

struct graph {
    struct handle handle;
    struct node *first, **last;
    size_t count;
};

struct graph *graph_new(void);
void graph_free(struct graph *g);
struct graph *graph_copy(const struct graph *g);
struct graph *graph_get(CUgraph handle);
struct node *node_get(CUgraphNode handle);

/* Adds a node that takes over |work|. NULL: out of memory, and |work| is freed. */
struct node *graph_add(struct graph *g, CUgraphNodeType type, struct work *work,
                       struct node *const *deps, size_t count);
CUresult node_depend(struct node *node, struct node *on); /* an edge, once */
CUgraphNodeType graph_type_of(const struct work *work);

#endif
