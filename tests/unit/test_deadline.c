/* What the node is told of when a replica should be done, with a link that only keeps what it is given. */

#include "gateway/job.h"
#include "gateway/link.h"

#include "test.h"

static int told;
static fast_ns told_due;
static bool no_node;

/* In the place of link.c. */
int gw_link_request(struct gw_link *link, struct fast_msg *msg, gw_link_done *done, void *arg, uint64_t key,
                    struct fast_err *err)
{
    (void)link;
    (void)done;
    (void)arg;
    (void)key;
    if (no_node)
        return fast_err_set(err, FAST_EIO, "no node");
    assert_int_equal(msg->type, FAST_MSG_T_replica_deadline);
    told++;
    told_due = msg->replica_deadline.deadline_ns;
    return 0;
}

struct world {
    struct gateway gw;
    struct gw_spec spec;
    struct gw_function fn;
    struct gw_replica r;
    struct gw_job jobs[3];
};

static struct world *world_new(void)
{
    static struct world w;
    memset(&w, 0, sizeof(w));
    told = 0;
    no_node = false;
    w.spec.slo = FAST_MS(100);
    w.fn.spec = &w.spec;
    w.r.fn = &w.fn;
    w.r.due = FAST_NEVER;
    w.jobs[0].due = 300;
    w.jobs[1].due = 100;
    w.jobs[2].due = 200;
    return &w;
}

static void arrive(struct world *w, int i)
{
    gw_job_arrives(&w->jobs[i], &w->r);
    gw_replica_tell_due(&w->gw, &w->r);
}

static void depart(struct world *w, int i)
{
    assert_ptr_equal(gw_job_departs(&w->jobs[i]), &w->r);
    gw_replica_tell_due(&w->gw, &w->r);
}

static void the_earliest_of_those_in_flight(void **state)
{
    (void)state;
    struct world *w = world_new();
    arrive(w, 0);
    assert_int_equal(told_due, 300);
    arrive(w, 1);
    assert_int_equal(told_due, 100);
    assert_int_equal(told, 2);
    arrive(w, 2); /* changes nothing, and is not told */
    assert_int_equal(told, 2);
    depart(w, 0);
    assert_int_equal(told, 2);
    depart(w, 1);
    assert_int_equal(told_due, 200);
    depart(w, 2);
    assert_true(told_due == FAST_NEVER);
    assert_int_equal(told, 4);
    assert_null(gw_job_departs(&w->jobs[2]));
}

static void one_without_a_time_does_not_count(void **state)
{
    (void)state;
    struct world *w = world_new();
    w->jobs[1].due = 0;
    arrive(w, 1);
    assert_int_equal(told, 0);
    arrive(w, 0);
    assert_int_equal(told_due, 300);
}

static void where_there_is_nothing_to_tell(void **state)
{
    (void)state;
    struct world *w = world_new();
    w->r.gpu = -1;
    arrive(w, 0);
    w->r.gpu = 0;
    w->r.phase = GW_GONE;
    arrive(w, 1);
    w->r.phase = GW_TOLD;
    w->spec.slo = 0;
    arrive(w, 2);
    assert_int_equal(told, 0);
}

static void what_did_not_arrive_is_told_again(void **state)
{
    (void)state;
    struct world *w = world_new();
    no_node = true;
    arrive(w, 0);
    no_node = false;
    gw_replica_tell_due(&w->gw, &w->r);
    assert_int_equal(told, 1);
    assert_int_equal(told_due, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_earliest_of_those_in_flight),
        cmocka_unit_test(one_without_a_time_does_not_count),
        cmocka_unit_test(where_there_is_nothing_to_tell),
        cmocka_unit_test(what_did_not_arrive_is_told_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
