#include <link.h>
#include <stddef.h>
#include <string.h>

/* An auditor of the dynamic linker (LD_AUDIT) that keeps the hook out of its process. */

#define EXPORT __attribute__((visibility("default")))

EXPORT unsigned int la_version(unsigned int version)
{
    return version < LAV_CURRENT ? version : LAV_CURRENT;
}

EXPORT char *la_objsearch(const char *name, uintptr_t *cookie, unsigned int flag)
{
    (void)cookie, (void)flag;
    return strstr(name, "fast-hook") ? NULL : (char *)(uintptr_t)name;
}
