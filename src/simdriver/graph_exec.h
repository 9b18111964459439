#ifndef FAST_SIMDRIVER_GRAPH_EXEC_H
#define FAST_SIMDRIVER_GRAPH_EXEC_H

/* Executable graphs. */

#include "simdriver/graph.h"

/* The work that |exec| does for |node| of the graph that it was made of; NULL: it knows neither. */
struct work *exec_work(CUgraphExec exec, const struct node *node);

#endif
