/* What a function may try to get around the hook or to change its limits, run by test_escape.py in the environment of
 * a replica.
 *
 * Usage: escape pointer WAY    gets cuLaunchKernel in some way and launches LAUNCHES kernels through it
 *        escape page           tries to write to the pages that it shares with the node
 *        escape into PID       tries to look into another process of its user
 *
 * Prints "name=value" pairs. */
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cuda_min.h"

#define LAUNCHES 10
#define PAGE 4096

typedef CUresult launch_fn(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                           CUstream, void **, void **);
typedef CUresult lookup_fn(const char *, void **, int, unsigned long long, void *);

static const char image[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                            ".visible .entry work()\n{\n    ret;\n}\n";

static void die(const char *what)
{
    fprintf(stderr, "escape: %s\n", what);
    exit(3);
}

/* In the driver's own table of symbols, as the dynamic linker has it. */
static void *in_symbols(void *lib, const char *name)
{
    struct link_map *map = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    if (dlinfo(lib, RTLD_DI_LINKMAP, &map))
        return NULL;
    for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        symbols = d->d_tag == DT_SYMTAB ? (const ElfW(Sym) *)d->d_un.d_ptr : symbols;
        names = d->d_tag == DT_STRTAB ? (const char *)d->d_un.d_ptr : names;
    }
    /* Its names come behind the symbols. */
    for (const ElfW(Sym) *s = symbols; s && (const char *)s < names; s++)
        if (s->st_value && !strcmp(names + s->st_name, name))
            return (void *)(map->l_addr + s->st_value);
    return NULL;
}

static void *find(const char *way, void *lib, const char *path)
{
    const char *name = "cuLaunchKernel";
    void *p = NULL;
    if (!strcmp(way, "dlsym"))
        return dlsym(lib, name);
    if (!strcmp(way, "next"))
        return dlsym(RTLD_NEXT, name);
    if (!strcmp(way, "path"))
        return dlsym(dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND), name);
    if (!strcmp(way, "lookup")) {
        lookup_fn *fn = (lookup_fn *)dlsym(lib, "cuGetProcAddress_v2");
        return fn && !fn(name, &p, 4000, 0, NULL) ? p : NULL;
    }
    if (!strcmp(way, "namespace"))
        return dlsym(dlmopen(LM_ID_NEWLM, path, RTLD_NOW), name);
    return !strcmp(way, "symbols") ? in_symbols(lib, name) : NULL;
}

/* Returns a handle of the driver, of which the process uses the first GPU. */
static void *begin(CUfunction *ret)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    CUcontext ctx;
    CUmodule module;
    if (!lib)
        die(dlerror());
#define CALL(symbol, types, ...) ((CUresult(*) types)dlsym(lib, symbol))(__VA_ARGS__)
    if (CALL("cuInit", (unsigned), 0) || CALL("cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice), &ctx, 0) ||
        CALL("cuCtxSetCurrent", (CUcontext), ctx) ||
        CALL("cuModuleLoadData", (CUmodule *, const void *), &module, image) ||
        CALL("cuModuleGetFunction", (CUfunction *, CUmodule, const char *), ret, module, "work"))
        die("the driver");
    return lib;
}

static int pointer(const char *way)
{
    CUfunction work;
    Dl_info info;
    struct link_map *map = NULL;
    void *lib = begin(&work);
    dlinfo(lib, RTLD_DI_LINKMAP, &map);
    launch_fn *launch = (launch_fn *)find(way, lib, map->l_name);
    int launched = 0;
    if (!launch || !dladdr((void *)launch, &info))
        die("no pointer");
    for (int i = 0; i < LAUNCHES; i++)
        launched += !launch(work, 80, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL);
    printf("drivers_own=%d launched=%d\n", strstr(info.dli_fname, "libcuda") != NULL, launched);
    return CALL("cuCtxSynchronize", (void));
}

/* ---- pages ---- */

static void *page_of(const char *name, char *ret_range)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    void *page = NULL;
    while (f && !page && fgets(line, sizeof(line), f))
        if (strstr(line, name) && sscanf(line, "%63s", ret_range) == 1)
            page = (void *)(uintptr_t)strtoull(line, NULL, 16);
    if (f)
        fclose(f);
    if (!page)
        die(name);
    return page;
}

static const char lie[8] = "\xff\xff\xff\xff\xff\xff\xff";

static int by_file(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int done = pwrite(fd, lie, sizeof(lie), at) > 0;
    void *again = at ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return done || again != MAP_FAILED;
}

/* How many of the ways to write to |page| work. */
static int write_to(void *page, const char *range)
{
    char path[128];
    struct iovec from = {(void *)(uintptr_t)lie, sizeof(lie)}, to = {page, sizeof(lie)};
    int done = mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0;
    void *twice = mremap(page, 0, PAGE, MREMAP_MAYMOVE);
    done += twice != MAP_FAILED && mprotect(twice, PAGE, PROT_READ | PROT_WRITE) == 0;
    done += process_vm_writev(getpid(), &from, 1, &to, 1, 0) > 0;
    done += by_file("/proc/self/mem", (off_t)(uintptr_t)page);
    snprintf(path, sizeof(path), "/proc/self/map_files/%s", range);
    return done + by_file(path, 0);
}

static int pages(void)
{
    CUfunction work;
    char range[64];
    begin(&work);
    char *limits = page_of("memfd:fast-limits", range);
    int written = write_to(limits, range);
    /* The counters are the client's to write: so the ways do work. */
    printf("written=%d changed=%d", written, !memcmp(limits, lie, sizeof(lie)));
    printf(" counters_written=%d\n", write_to(page_of("memfd:fast-counters", range), range));
    return 0;
}

/* ---- other processes ---- */

static int opens(int pid, const char *what, int flags)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int attaches(int pid)
{
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL))
        return 0;
    waitpid(pid, NULL, __WALL);
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return 1;
}

/* Takes a descriptor of the other one. */
static int takes(int pid)
{
    int of = (int)syscall(SYS_pidfd_open, pid, 0);
    return of >= 0 && syscall(SYS_pidfd_getfd, of, 0, 0) >= 0;
}

static int into(int pid)
{
    printf("environment=%d memory=%d trace=%d descriptor=%d\n", opens(pid, "environ", O_RDONLY),
           opens(pid, "mem", O_RDWR), attaches(pid), takes(pid));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "pointer"))
        return pointer(argv[2]);
    if (argc > 2 && !strcmp(argv[1], "into"))
        return into(atoi(argv[2]));
    return argc > 1 && !strcmp(argv[1], "page") ? pages() : 2;
}
