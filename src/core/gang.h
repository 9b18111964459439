#ifndef FAST_CORE_GANG_H
#define FAST_CORE_GANG_H

/* The token schedulers of the GPUs of one node, and clients that need several of these GPUs at once: gangs. A
 * gang is a client of the scheduler of each of its GPUs, there called its part; what happens to it is told to
 * these schedulers as of any client (core/sched.h), and they tell what becomes of it, each for its own GPU.
 *
 *  1. All or none: the parts of a gang get tokens in one decision, or none does. When one part gives its token back,
 *     the tokens of the others are revoked. No part holds while another waits, so that no two gangs can wait for
 *     each other.
 *  2. Rules 1 to 3 of core/sched.h hold on each GPU, also for those who share it with a gang. GPUs that gangs have in
 *     common are planned together (core/sched_plan.h); such a plan has room for FAST_PLAN_CLIENTS, a gang counted
 *     once.
 *  3. Beyond its slots a gang is in the order of every GPU of it by what it used where it used most.
 *  4. A part whose token was revoked longer than drain_ns ago has its SMs still. It may wait for work of another
 *     part that may not begin any more (a collective operation of which one half was launched), so the others
 *     get tokens beside it.
 *
 * A gang has work while a part wants a token; the others get theirs along with it. */

#include "core/sched.h"
#include "core/sched_plan.h"

#define FAST_GANGS_MAX 64

struct fast_gangs;

/* Schedulers for |n| GPUs (at most FAST_PLAN_GPUS), whose windows begin together and always will:
 * fast_sched_conf_set() at one of them sets it at all. */
int fast_gangs_new(const struct fast_sched_conf *conf, int n, fast_ns now, struct fast_gangs **ret,
                   struct fast_err *err);
void fast_gangs_free(struct fast_gangs *gangs); /* NULL is fine; with the schedulers */
struct fast_sched *fast_gangs_sched(const struct fast_gangs *gangs, int gpu);

/* A client that has |slice| on each of |gpus| (bits, at least two). |ret_clients|, one for each GPU of the node: its
 * number at these schedulers. fast_sched_resize() and fast_sched_remove() of one part are of all of them. */
int fast_gangs_add(struct fast_gangs *gangs, uint32_t gpus, const struct fast_slice *slice, fast_ns now,
                   int *ret_clients, struct fast_err *err);

/* The GPUs (bits) whose schedulers may have something to tell, or another expiry, after an event of |gpu|; of itself at
 * least. */
uint32_t fast_gangs_linked(const struct fast_gangs *gangs, int gpu);

/* Invariants, those of the schedulers included. */
bool fast_gangs_valid(const struct fast_gangs *gangs);

#endif
