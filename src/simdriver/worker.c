/* The two threads of a process, started with the first operation that has an effect: the worker,
 * which applies effects while no thread of the program waits for them, and the thread of host
 * functions, which may block without holding up other streams. Signals of the program do not come
 * here, but for the faults that apply.c catches. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "simdriver/drv.h"

static void *worker(void *arg)
{
    (void)arg;
    /* The default lets the kernel be 50 us late, half of what a polling program may see. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "sim-worker", 0, 0, 0);
    fast_ns reap = shared_now() + WORK_REAP_EVERY;
    pthread_mutex_lock(&drv.lock);
    while (!drv.exiting) {
        if (!drv.effects || drv.waiters || drv.applying) {
            drv.idle = true;
            pthread_cond_wait(&drv.work, &drv.lock);
            drv.idle = false;
            continue;
        }
        if (work_step(false))
            continue;
        work_sleep(work_deadline());
        fast_ns now = shared_now();
        if (now >= reap) {
            shared_reap(&drv.shared);
            reap = now + WORK_REAP_EVERY;
        }
    }
    pthread_mutex_unlock(&drv.lock);
    return NULL;
}

static void call_host(const struct work_host *h, CUresult status)
{
    if (h->callback)
        h->callback(h->stream, (int)status, h->arg);
    else if (!status)
        h->fn(h->arg);
}

static void *host_thread(void *arg)
{
    (void)arg;
    prctl(PR_SET_NAME, "sim-host", 0, 0, 0);
    pthread_mutex_lock(&drv.lock);
    while (!drv.exiting) {
        struct op *op = drv.host_head;
        if (user_object_bury())
            continue;
        if (!op) {
            pthread_cond_wait(&drv.hosted, &drv.lock);
            continue;
        }
        drv.host_head = op->next_host;
        if (!drv.host_head)
            drv.host_tail = NULL;
        struct work_host host = op->work.host;
        CUresult status = op->stream->ctx->error;
        pthread_mutex_unlock(&drv.lock);
        call_host(&host, status);
        pthread_mutex_lock(&drv.lock);
        work_release(op);
        op->returned = true;
        pthread_cond_broadcast(&drv.cond);
        pthread_cond_signal(&drv.work);
    }
    pthread_mutex_unlock(&drv.lock);
    return NULL;
}

int work_start(void)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, old;
    if (drv.started)
        return 0;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&thread, &attr, worker, NULL);
    if (!rc)
        rc = pthread_create(&thread, &attr, host_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    drv.started = rc == 0;
    return rc;
}
