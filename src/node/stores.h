#ifndef FAST_NODE_STORES_H
#define FAST_NODE_STORES_H

/* The model storage servers of this node, one for each GPU (docs/store.md). The node listens on
 * state_dir/store-GPU.sock itself and starts fast-store with that socket when the first client comes, so
 * that a GPU without shared models costs nothing. A store ends by itself when it holds nothing and nobody
 * is connected; one that dies is started again by its next client. It outlives the node, and the next
 * life finds it by its socket. */

#include "node/node.h"

#define NODE_STORE_IDLE FAST_S(2) /* a store without models and clients ends after that */

/* How a request ended. |code|: enum fast_err_code. Called from the loop, never from within. */
typedef void node_stores_done_fn(void *arg, uint64_t key, int code, const char *text);

/* Listens for every GPU, and adopts the stores of an earlier life. Needs loop, GPUs and manager. */
int node_stores_new(struct node *node, struct node_stores **ret, struct fast_err *err);
/* Ends every store. For an orderly end of the node, when no replica is left. NULL is fine. */
void node_stores_quit(struct node_stores *stores);
/* Stores that still run are left alone. Requests are dropped. NULL is fine. */
void node_stores_free(struct node_stores *stores);

/* Whether the program fast-store is there. */
bool node_stores_ready(const struct node_stores *stores);

/* What a process needs to reach the store of its GPU as one of namespace |ns|: FAST_STORE_SOCKET,
 * FAST_STORE_PASS, FAST_STORE_LIB. */
void node_stores_env(const struct node_stores *stores, const struct node_replica *replica,
                     const char *ns, node_env_fn *add, void *arg);

/* Called for each model on each GPU; the row is valid for the call. */
typedef void node_stores_model_fn(void *arg, const struct fast_msg_model_row *row);
void node_stores_models(const struct node_stores *stores, node_stores_model_fn *fn, void *arg);
/* |fn| is called at each change of a model. One listener. NULL is fine. */
void node_stores_on_model(struct node_stores *stores, node_stores_model_fn *fn, void *arg);

/* The shared part of a gpu_row. */
void node_stores_row(const struct node_stores *stores, uint32_t gpu, struct fast_msg_gpu_row *ret);

/* model_remove and model_pin, on every GPU that has the model; model_push on one. */
int node_stores_request(struct node_stores *stores, const struct fast_msg *msg,
                        node_stores_done_fn *done, void *arg, uint64_t key, struct fast_err *err);

/* Bytes of models of |gpu| that nobody uses. */
uint64_t node_stores_cached(const struct node_stores *stores, uint32_t gpu);
/* Drops cached models of |gpu| until |bytes| are free. False: they are not worth that much, and |done|
 * is not called. */
bool node_stores_make_room(struct node_stores *stores, uint32_t gpu, uint64_t bytes,
                           node_stores_done_fn *done, void *arg);
/* |arg| of requests is gone: they are not told. NULL is fine. */
void node_stores_cancel(struct node_stores *stores, const void *arg);

#endif
