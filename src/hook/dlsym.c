#include "hook/hook.h"

#include <dlfcn.h>

/* dlsym and dlopen in front of the C library's. glibc finds the caller by the return address (for
 * RTLD_NEXT, RTLD_DEFAULT, RUNPATH and namespaces), so both wrappers must end in a jump to the real
 * function and not in a call: this file is compiled with -O2 and no instrumentation whatever the
 * build type is, and a test looks at the disassembly.
 *
 * The real functions are found with dlvsym, which nobody wraps, and lazily: constructors of other
 * libraries may look something up before ours has run. */

typedef void *dlsym_fn(void *handle, const char *name);
typedef void *dlopen_fn(const char *path, int flags);

static struct {
    _Atomic(dlsym_fn *) dlsym;
    _Atomic(dlopen_fn *) dlopen;
} real_fns;

/* Newest version first; then what x86-64 and 64-bit ARM began with. */
static void *next_version(const char *name)
{
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
        void *p = dlvsym(RTLD_NEXT, name, versions[i]);
        if (p)
            return p;
    }
    return NULL;
}

static dlsym_fn *find_dlsym(void)
{
    dlsym_fn *fn = atomic_load_explicit(&real_fns.dlsym, memory_order_relaxed);
    if (!fn) {
        fn = (dlsym_fn *)next_version("dlsym");
        atomic_store_explicit(&real_fns.dlsym, fn, memory_order_relaxed);
    }
    return fn;
}

static dlopen_fn *find_dlopen(void)
{
    dlopen_fn *fn = atomic_load_explicit(&real_fns.dlopen, memory_order_relaxed);
    if (!fn) {
        fn = (dlopen_fn *)next_version("dlopen");
        atomic_store_explicit(&real_fns.dlopen, fn, memory_order_relaxed);
    }
    return fn;
}

void *fast_real_dlsym(void *handle, const char *name)
{
    return find_dlsym()(handle, name);
}

void *fast_real_dlopen(const char *path, int flags)
{
    return find_dlopen()(path, flags);
}

/* Nearly all lookups are not for CUDA. They must also not run any other code of the hook: sanitizers
 * look their own functions up here before they can run instrumented code. */
static bool may_be_cuda(const char *name)
{
    return name && ((name[0] == 'c' && name[1] == 'u') || (name[0] == 'n' && name[1] == 'v'));
}

FAST_EXPORT void *dlsym(void *handle, const char *name)
{
    dlsym_fn *real = find_dlsym();
    void *wrapper = may_be_cuda(name) ? fast_hook_wrapper(name) : NULL;
    if (wrapper)
        return wrapper;
    return real(handle, name);
}

/* A library that is opened with RTLD_DEEPBIND would bind to the driver's symbols past the hook. */
FAST_EXPORT void *dlopen(const char *path, int flags)
{
    dlopen_fn *real = find_dlopen();
    if ((flags & RTLD_DEEPBIND) && fast_hook_enabled())
        flags &= ~RTLD_DEEPBIND;
    return real(path, flags);
}
