/* What work does to memory. It runs without the lock, one piece at a time. An access to an address
 * of the window of device pointers that is not mapped (a kernel with a bad pointer, memory that was
 * freed too early) is caught and becomes CUDA_ERROR_ILLEGAL_ADDRESS, as on a GPU; any other fault
 * belongs to the program and goes where it would have gone. */
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "simdriver/drv.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* linux/mman.h, 5.14 */
#endif
#define TOUCH_MIN (256u << 10)

static _Thread_local sigjmp_buf trap_jump;
static _Thread_local volatile sig_atomic_t trap_armed;
static struct sigaction before_segv, before_bus;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    struct sigaction *before = sig == SIGSEGV ? &before_segv : &before_bus;
    if (trap_armed && area_in_window((uintptr_t)info->si_addr)) {
        trap_armed = 0;
        siglongjmp(trap_jump, 1);
    }
    if (before->sa_flags & SA_SIGINFO) {
        before->sa_sigaction(sig, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(sig);
    } else {
        /* The access happens again on return and then ends the process as it should. */
        signal(sig, SIG_DFL);
    }
}

/* A program may have put its own handler in front since the last time; then ours goes in front again
 * and passes on what is not for it. */
static void trap_install(int sig, struct sigaction *before)
{
    struct sigaction sa = {.sa_sigaction = on_fault,
                           .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction now;
    if (sigaction(sig, NULL, &now) || now.sa_sigaction == on_fault)
        return;
    *before = now;
    sigemptyset(&sa.sa_mask);
    sigaction(sig, &sa, NULL);
}

static void run_kernel(const struct work_kernel *k)
{
    struct fast_sim_launch launch = {.shared_bytes = k->shared_bytes, .params = k->params};
    if (!k->fn->kernel || !k->fn->kernel->run)
        return;
    memcpy(launch.grid, k->grid, sizeof(launch.grid));
    memcpy(launch.block, k->block, sizeof(launch.block));
    k->fn->kernel->run(&launch);
}

/* A GPU's memory is there; here a page comes into being at its first use. All of a large copy's at once
 * cost a quarter less of a CPU than one fault each; a kernel before 5.14 makes them one by one. */
static void touch(uintptr_t at, size_t bytes)
{
    uintptr_t page = 4096, from = (at + page - 1) & ~(page - 1), to = (at + bytes) & ~(page - 1);
    if (bytes >= TOUCH_MIN)
        madvise((void *)from, to - from, MADV_POPULATE_WRITE);
}

static void run_copy(const struct work_copy *c)
{
    if (c->dst_device && c->height == 1 && c->depth == 1)
        touch(c->dst, c->width);
    for (size_t z = 0; z < c->depth; z++)
        for (size_t y = 0; y < c->height; y++)
            memmove((void *)(c->dst + z * c->dst_slice + y * c->dst_pitch),
                    (const void *)(c->src + z * c->src_slice + y * c->src_pitch), c->width);
}

static void run_memset(const struct work_memset *m)
{
    for (size_t y = 0; y < m->height; y++) {
        unsigned char *row = (unsigned char *)(m->dst + y * m->pitch);
        if (m->size == 1)
            memset(row, (int)m->value, m->width);
        else if (m->size == 2)
            for (size_t x = 0; x < m->width; x++)
                ((uint16_t *)row)[x] = (uint16_t)m->value;
        else
            for (size_t x = 0; x < m->width; x++)
                ((uint32_t *)row)[x] = m->value;
    }
}

static void run_write(const struct work_memop *m)
{
    if (m->wide)
        __atomic_store_n((uint64_t *)m->addr, m->value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)m->addr, (uint32_t)m->value, __ATOMIC_RELEASE);
}

CUresult work_apply(const struct work *work)
{
    trap_install(SIGSEGV, &before_segv);
    trap_install(SIGBUS, &before_bus);
    if (sigsetjmp(trap_jump, 0))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    trap_armed = 1;
    switch (work->kind) {
    case WORK_KERNEL:
        run_kernel(&work->kernel);
        break;
    case WORK_COPY:
        run_copy(&work->copy);
        break;
    case WORK_MEMSET:
        run_memset(&work->memset);
        break;
    case WORK_WRITE:
        run_write(&work->memop);
        break;
    case WORK_EMPTY:
    case WORK_WAIT:
    case WORK_RECORD:
    case WORK_HOST:
    case WORK_ALLOC:
    case WORK_FREE:
    case WORK_DEPEND:
    case WORK_AWAIT:
        break;
    }
    trap_armed = 0;
    return CUDA_SUCCESS;
}

bool work_memop_true(const struct work_memop *op)
{
    if (!area_covers(op->addr, op->wide ? 8 : 4, false))
        return true; /* the stream goes on; whoever uses what it waited for will find out */
    uint64_t v = op->wide ? __atomic_load_n((const uint64_t *)op->addr, __ATOMIC_ACQUIRE)
                          : __atomic_load_n((const uint32_t *)op->addr, __ATOMIC_ACQUIRE);
    switch (op->flags & 3u) {
    case CU_STREAM_WAIT_VALUE_GEQ:
        return op->wide ? (int64_t)(v - op->value) >= 0 : (int32_t)((uint32_t)v - (uint32_t)op->value) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
        return v == op->value;
    case CU_STREAM_WAIT_VALUE_AND:
        return (v & op->value) != 0;
    default:
        return op->wide ? ~(v | op->value) != 0 : (uint32_t) ~(v | op->value) != 0;
    }
}

CUresult work_copy(struct work *dst, const struct work *src)
{
    *dst = *src;
    if (src->kind == WORK_ALLOC)
        graph_memory_ref(src->free.ptr, 1);
    if (src->kind != WORK_KERNEL || !src->kernel.params)
        return CUDA_SUCCESS;
    const struct function *fn = src->kernel.fn;
    dst->kernel.params = launch_copy_params(fn, src->kernel.params);
    return dst->kernel.params ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void work_free(struct work *work)
{
    if (work->kind == WORK_KERNEL)
        free(work->kernel.params);
    if (work->kind == WORK_COPY)
        free(work->copy.owned);
    if (work->kind == WORK_ALLOC)
        graph_memory_ref(work->free.ptr, -1);
    work->kind = WORK_EMPTY;
}
