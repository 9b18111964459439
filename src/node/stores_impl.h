#ifndef FAST_NODE_STORES_IMPL_H
#define FAST_NODE_STORES_IMPL_H

/* What the files of the node's stores know of each other. stores.c: the processes. stores_talk.c: the
 * connection to each, what they tell and what they are asked. stores_push.c: files put into one. */

#include "core/catalog.h"
#include "core/pass.h"
#include "node/process.h"
#include "node/stores.h"

/* A model on a GPU. */
struct node_model {
    struct node_model *next;
    struct fast_msg_model_row row; /* its strings are those below */
    char ns[FAST_CATALOG_NS], name[FAST_CATALOG_NAME], version[FAST_CATALOG_VERSION];
    char loader[FAST_PASS_NAME];
};

/* What somebody asked for; it may take several stores to do it. */
struct node_job {
    struct node_job *next;
    struct node_stores *all;
    node_stores_done_fn *done; /* NULL: nobody wants to know any more */
    void *arg;
    uint64_t key;
    int waiting; /* answers that are missing */
    int did;     /* stores that could */
    int code;    /* of the answer that counts most so far */
    char text[256];
    struct node_process process; /* of a push */
    struct fast_watch *exited;
    int output_fd;
};

/* A request that a store has not answered. */
struct node_asked {
    struct node_asked *next;
    uint32_t id;
    struct node_job *job;
};

struct node_store {
    struct node_stores *all;
    uint32_t gpu;
    char socket[108];
    int listen_fd; /* -1: it belongs to a store of an earlier life */
    struct fast_watch *listen_watch;
    struct node_process process;
    struct fast_watch *exited;
    struct fast_timer *timer; /* when it may be started, or is connected to, again */
    int deaths;               /* in a row, without having worked */
    int fd;                   /* the connection; -1 */
    struct fast_watch *watch;
    bool greeted; /* on this connection */
    bool worked; /* this process of it has greeted us */
    uint32_t next_id;
    uint64_t bytes, cached;
    uint32_t via, clients;
    struct node_model *models;
    struct node_asked *asked;
};

struct node_stores {
    struct node *node;
    unsigned char key[FAST_PASS_KEY];
    char key_path[4096 + 16], admin[FAST_PASS_MAX];
    int count;
    struct node_store store[FAST_NODE_GPUS_MAX];
    struct node_job *jobs;
    node_stores_model_fn *on_model;
    void *on_model_arg;
    char buf[FAST_MSG_MAX];
};

/* ---- stores.c ---- */

/* The connection has ended: so has the store, or it will. */
void node_store_lost(struct node_store *s);
/* It is |pid|, of an earlier life of the node. */
int node_store_adopt(struct node_store *s, pid_t pid);
/* The environment of a program that is to see |s|'s GPU and nothing else. NULL-ended, to be freed. */
char **node_store_environment(const struct node_store *s, const char *pass);
void node_store_environment_free(char **env);

/* ---- stores_talk.c ---- */

int node_store_connect(struct node_store *s, struct fast_err *err);
/* Closes the connection; requests fail, models are forgotten. */
void node_store_hang_up(struct node_store *s);
/* A job whose last answer has come. */
void node_job_answer(struct node_stores *all, struct node_job *job, int code, const char *text);
struct node_job *node_job_new(struct node_stores *all, node_stores_done_fn *done, void *arg,
                              uint64_t key);

/* ---- stores_push.c ---- */

int node_store_push(struct node_store *s, const struct fast_msg_model_push *msg, struct node_job *job,
                    struct fast_err *err);
void node_job_end_process(struct node_job *job);

#endif
