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

struct user_object;

struct object_ref {
    struct user_object *object;
    uint64_t count;
};

struct object_refs {
    struct object_ref *v;
    size_t n;
};

struct graph {
    struct handle handle;
    struct object_refs objects; /* memory of the program that its nodes use */
    struct node *first, **last;
    size_t count;
};

struct graph *graph_new(void);
void graph_free(struct graph *g);
struct graph *graph_copy(const struct graph *g);
struct graph *graph_get(CUgraph handle);
struct node *node_get(CUgraphNode handle);

/* user_object.c */
bool object_refs_copy(struct object_refs *dst, const struct object_refs *src); /* false: out of memory */
void object_refs_drop(struct object_refs *r);
void object_refs_drop_behind(struct object_refs *r, struct stream *s); /* when |s| has done its work */

/* Adds a node that takes over |work|. NULL: out of memory, and |work| is freed. */
struct node *graph_add(struct graph *g, CUgraphNodeType type, struct work *work,
                       struct node *const *deps, size_t count);
CUresult node_depend(struct node *node, struct node *on); /* an edge, once */
CUgraphNodeType graph_type_of(const struct work *work);

#endif
