/* The state file. It decides nothing about time or work; it keeps the models in one place and frees
 * what dead processes leave behind.
 *
 * A process lives as long as it holds a record lock on the byte of its slot. The kernel drops that
 * lock when the process dies or calls exec, and a child of fork does not have it, so nothing has to
 * be told. It would also drop it if any descriptor of the file were closed, hence the separate lock
 * file that nothing in here ever closes.
 *
 * The mutexes are robust: the next one to lock after a death repairs. What a process is charged for
 * is kept per process and summed on demand, so that a change that was cut short cannot leave a
 * total that nobody owns. */
#include "simdriver/shared_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"

fast_ns shared_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return FAST_S(ts.tv_sec) + ts.tv_nsec;
}

static size_t round_page(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

static struct sim_gpu *model_of(const struct shared *sh, int dev)
{
    return (struct sim_gpu *)((char *)sh->head + round_page(sizeof(*sh->head)) +
                              round_page(sim_gpu_size()) * (size_t)dev);
}

static int parse_spec(struct shared *sh, struct fast_err *err)
{
    const char *env = getenv("FAST_SIM");
    if (!env || !*env)
        env = "v100-16gb:1";
    const char *colon = strchr(env, ':');
    size_t n = colon ? (size_t)(colon - env) : strlen(env);
    int64_t count = 1;
    if (n >= sizeof(sh->model))
        return fast_err_set(err, FAST_EINVAL, "FAST_SIM: no such device: %s", env);
    if (colon &&
        fast_parse_int(colon + 1, "FAST_SIM: number of devices", 1, SHARED_DEVICES, &count, err))
        return -FAST_EINVAL;
    memcpy(sh->model, env, n);
    sh->model[n] = '\0';
    sh->devices = (int)count;
    snprintf(sh->spec, sizeof(sh->spec), "%s-%d", sh->model, sh->devices);
    return 0;
}

static int make_dir(struct shared *sh, struct fast_err *err)
{
    const char *env = getenv("FAST_SIM_DIR");
    int n;
    if (env && *env)
        n = snprintf(sh->dir, sizeof(sh->dir), "%s", env);
    else
        n = snprintf(sh->dir, sizeof(sh->dir), "/dev/shm/fast-sim-%u", (unsigned)getuid());
    if (n >= (int)sizeof(sh->dir))
        return fast_err_set(err, FAST_EINVAL, "FAST_SIM_DIR: longer than %zu bytes",
                            sizeof(sh->dir) - 1);
    struct stat st;
    if ((mkdir(sh->dir, 0700) && errno != EEXIST) || lstat(sh->dir, &st))
        return fast_err_set(err, FAST_EIO, "%s: %s", sh->dir, strerror(errno));
    /* The default is in a folder that everybody writes to. */
    if (!strncmp(sh->dir, "/dev/shm/", 9) && (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0)))
        return fast_err_set(err, FAST_EPERM, "%s: it belongs to somebody else; set FAST_SIM_DIR",
                            sh->dir);
    sh->mode = st.st_mode & S_ISGID ? 0660 : 0600;
    return 0;
}

int shared_file(const struct shared *sh, const char *path, int flags)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, sh->mode);
    struct stat st;
    if (fd >= 0 && !fstat(fd, &st) && st.st_uid == geteuid() && (st.st_mode & 0777) != sh->mode)
        fchmod(fd, sh->mode); /* the umask took some of it */
    return fd;
}

static void init_mutex(pthread_mutex_t *m)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(m, &attr);
    pthread_mutexattr_destroy(&attr);
}

/* True when another process holds the lock of |slot|. */
static bool slot_locked(int fd, int slot)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    return fcntl(fd, F_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* True when the state is in use: by another process, or by this one through the other library (our
 * own locks do not show, so a slot with our number counts as well). Byte SHARED_SLOTS is locked for
 * reading by those who only look. */
static bool in_use(int fd, const struct shared_head *head)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = SHARED_SLOTS + 1};
    if (fcntl(fd, F_GETLK, &fl) == 0 && fl.l_type != F_UNLCK)
        return true;
    if (head->magic != SHARED_MAGIC || head->version != SHARED_VERSION)
        return false;
    for (int i = 0; i < SHARED_SLOTS; i++)
        if (head->slot_pid[i] == getpid())
            return true;
    return false;
}

static void init_state(struct shared *sh, const struct sim_gpu_conf *conf)
{
    struct shared_head *head = sh->head;
    head->magic = 0;
    head->version = SHARED_VERSION;
    head->gpu_size = sim_gpu_size();
    head->devices = (uint32_t)sh->devices;
    init_mutex(&head->lock);
    memset(head->slot_pid, 0, sizeof(head->slot_pid));
    for (int d = 0; d < sh->devices; d++) {
        struct shared_device *dev = &head->device[d];
        memset(dev, 0, sizeof(*dev));
        init_mutex(&dev->lock);
        memset(dev->client_slot, 0xff, sizeof(dev->client_slot));
        sim_gpu_init(model_of(sh, d), conf, shared_now());
    }
    __atomic_store_n(&head->magic, SHARED_MAGIC, __ATOMIC_RELEASE);
}

/* Under the file lock of |fd|: nobody else opens at the same time. A file that nobody uses is set up
 * anew, so that neither a crash nor an older build of this library shows in it. */
static int map_state(struct shared *sh, int fd, const struct sim_gpu_conf *conf,
                     struct fast_err *err)
{
    off_t size = (off_t)(round_page(sizeof(struct shared_head)) +
                         round_page(sim_gpu_size()) * (size_t)sh->devices);
    struct flock look = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = SHARED_SLOTS, .l_len = 1};
    struct stat st;
    if (fstat(fd, &st) || (st.st_size < size && ftruncate(fd, size)))
        return fast_err_set(err, FAST_EIO, "%s: %s", sh->dir, strerror(errno));
    void *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return fast_err_set(err, FAST_EIO, "%s: %s", sh->dir, strerror(errno));
    sh->head = p;
    if (!in_use(sh->fd, sh->head))
        init_state(sh, conf);
    if (sh->head->magic != SHARED_MAGIC || sh->head->version != SHARED_VERSION ||
        sh->head->gpu_size != sim_gpu_size()) {
        munmap(p, (size_t)size);
        sh->head = NULL;
        return fast_err_set(err, FAST_EBUSY,
                            "%s: in use by another build of the simulated driver", sh->dir);
    }
    fcntl(sh->fd, F_SETLK, &look);
    return 0;
}

static int take_slot(struct shared *sh, struct fast_err *err);

/* Opens the state, and joins while the file lock is held if |join|: in between nobody may find the
 * file without users and set it up anew. */
static int open_state(struct shared *sh, bool join, struct fast_err *err)
{
    struct sim_gpu_conf conf;
    char path[300];
    int rc = parse_spec(sh, err);
    if (rc || (rc = sim_gpu_conf_named(sh->model, &conf, err)) || (rc = make_dir(sh, err)))
        return rc;
    snprintf(path, sizeof(path), "%s/%s.lock", sh->dir, sh->spec);
    if (sh->fd < 0)
        sh->fd = shared_file(sh, path, 0);
    if (sh->fd < 0)
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    snprintf(path, sizeof(path), "%s/%s.state", sh->dir, sh->spec);
    int fd = shared_file(sh, path, 0);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    while (flock(fd, LOCK_EX) && errno == EINTR)
        ;
    if (!sh->head)
        rc = map_state(sh, fd, &conf, err);
    if (!rc && join)
        rc = take_slot(sh, err);
    flock(fd, LOCK_UN); /* the mapping keeps the open file, and with it the lock */
    close(fd);
    return rc;
}

int shared_open(struct shared *sh, struct fast_err *err)
{
    sh->slot = -1;
    sh->fd = -1;
    sh->head = NULL;
    return open_state(sh, false, err);
}

static void lock_robust(pthread_mutex_t *m, bool *ret_died)
{
    *ret_died = pthread_mutex_lock(m) == EOWNERDEAD;
    if (*ret_died)
        pthread_mutex_consistent(m);
}

struct sim_gpu *shared_lock(struct shared *sh, int dev)
{
    struct shared_device *d = &sh->head->device[dev];
    struct sim_gpu *gpu = model_of(sh, dev);
    bool died;
    lock_robust(&d->lock, &died);
    if (died && !sim_gpu_valid(gpu)) {
        struct sim_gpu_conf conf = *sim_gpu_conf(gpu);
        sim_gpu_init(gpu, &conf, shared_now());
        memset(d->client_slot, 0xff, sizeof(d->client_slot));
        d->generation++;
    }
    return gpu;
}

void shared_unlock(struct shared *sh, int dev)
{
    pthread_mutex_unlock(&sh->head->device[dev].lock);
}

uint64_t shared_generation(struct shared *sh, int dev)
{
    return sh->head->device[dev].generation;
}

void shared_fault(struct shared *sh, int dev, uint32_t error)
{
    shared_lock(sh, dev);
    uint64_t number = (sh->head->device[dev].fault >> 32) + 1;
    __atomic_store_n(&sh->head->device[dev].fault, number << 32 | error, __ATOMIC_RELEASE);
    shared_unlock(sh, dev);
}

uint64_t shared_fault_mark(const struct shared *sh, int dev)
{
    return __atomic_load_n(&sh->head->device[dev].fault, __ATOMIC_ACQUIRE);
}

void shared_own(struct shared *sh, int dev, int client, bool mine)
{
    sh->head->device[dev].client_slot[client] = (int16_t)(mine ? sh->slot : -1);
}

void shared_phys_path(const struct shared *sh, uint64_t key, char *ret, size_t size)
{
    snprintf(ret, size, "%s/ipc-%016llx", sh->dir, (unsigned long long)key);
}

/* |slot| does not hold |p| any more; the last one frees it. */
static void phys_leave(const struct shared *sh, struct shared_phys *p, int slot)
{
    char path[256];
    uint64_t left = 0;
    p->holders[slot / 64] &= ~(1ull << (slot % 64));
    for (int k = 0; k < SHARED_SLOTS / 64; k++)
        left |= p->holders[k];
    if (left)
        return;
    shared_phys_path(sh, p->key, path, sizeof(path));
    unlink(path);
    p->key = 0;
}

/* Frees what |slot| holds on every device. Under the lock of the slots. */
static void clear_slot(struct shared *sh, int slot)
{
    for (int i = 0; i < sh->devices; i++) {
        struct sim_gpu *gpu = shared_lock(sh, i);
        struct shared_device *d = &sh->head->device[i];
        for (int c = 0; c < SIM_CLIENTS; c++) {
            if (d->client_slot[c] != slot)
                continue;
            sim_gpu_client_remove(gpu, c, shared_now());
            d->client_slot[c] = -1;
        }
        d->charged[slot] = 0;
        for (int p = 0; p < SHARED_PHYS; p++)
            if (d->phys[p].key)
                phys_leave(sh, &d->phys[p], slot);
        shared_events_clear(d, slot);
        shared_unlock(sh, i);
    }
    sh->head->slot_pid[slot] = 0;
}

static int reap_locked(struct shared *sh)
{
    int n = 0;
    for (int i = 0; i < SHARED_SLOTS; i++) {
        /* Our own locks do not show: NVML in a process that also uses CUDA has no slot itself. */
        bool ours = sh->slot < 0 && sh->head->slot_pid[i] == getpid();
        if (i == sh->slot || ours || !sh->head->slot_pid[i] || slot_locked(sh->fd, i))
            continue;
        clear_slot(sh, i);
        n++;
    }
    return n;
}

int shared_reap(struct shared *sh)
{
    bool died;
    lock_robust(&sh->head->lock, &died);
    int n = reap_locked(sh);
    pthread_mutex_unlock(&sh->head->lock);
    return n;
}

static int take_slot(struct shared *sh, struct fast_err *err)
{
    bool died;
    lock_robust(&sh->head->lock, &died);
    reap_locked(sh);
    int slot = 0;
    while (slot < SHARED_SLOTS && sh->head->slot_pid[slot])
        slot++;
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    int rc = 0;
    if (slot == SHARED_SLOTS)
        rc = fast_err_set(err, FAST_ENOROOM, "more than %d processes", SHARED_SLOTS);
    else if (fcntl(sh->fd, F_SETLK, &fl))
        rc = fast_err_set(err, FAST_EIO, "%s: %s", sh->dir, strerror(errno));
    else
        sh->head->slot_pid[slot] = getpid();
    if (!rc)
        sh->slot = slot;
    pthread_mutex_unlock(&sh->head->lock);
    return rc;
}

int shared_join(struct shared *sh, struct fast_err *err)
{
    return open_state(sh, true, err);
}

void shared_leave(struct shared *sh)
{
    bool died;
    int slot = sh->slot;
    if (slot < 0)
        return;
    lock_robust(&sh->head->lock, &died);
    sh->slot = -1;
    clear_slot(sh, slot);
    pthread_mutex_unlock(&sh->head->lock);
    struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    fcntl(sh->fd, F_SETLK, &fl);
}

/* ---- memory ---- */

static uint64_t used_locked(const struct shared_device *d)
{
    uint64_t sum = 0;
    for (int i = 0; i < SHARED_SLOTS; i++)
        sum += d->charged[i];
    for (int i = 0; i < SHARED_PHYS; i++)
        sum += d->phys[i].key ? d->phys[i].bytes : 0;
    return sum;
}

const struct sim_gpu_conf *shared_conf(const struct shared *sh, int dev)
{
    return sim_gpu_conf(model_of(sh, dev));
}

uint64_t shared_total(const struct shared *sh, int dev)
{
    return shared_conf(sh, dev)->mem_bytes;
}

uint64_t shared_used(struct shared *sh, int dev)
{
    shared_lock(sh, dev);
    uint64_t used = used_locked(&sh->head->device[dev]);
    shared_unlock(sh, dev);
    return used;
}

static bool fits_locked(struct shared *sh, int dev, uint64_t bytes)
{
    uint64_t total = shared_total(sh, dev), used = used_locked(&sh->head->device[dev]);
    return used <= total && bytes <= total - used;
}

int shared_charge(struct shared *sh, int dev, uint64_t bytes)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        shared_lock(sh, dev);
        bool fits = fits_locked(sh, dev, bytes);
        if (fits)
            sh->head->device[dev].charged[sh->slot] += bytes;
        shared_unlock(sh, dev);
        if (fits)
            return 0;
        if (!attempt && !shared_reap(sh))
            break;
    }
    return -FAST_ENOMEM;
}

void shared_uncharge(struct shared *sh, int dev, uint64_t bytes)
{
    shared_lock(sh, dev);
    uint64_t *mine = &sh->head->device[dev].charged[sh->slot];
    *mine -= bytes < *mine ? bytes : *mine;
    shared_unlock(sh, dev);
}

static struct shared_phys *phys_find(struct shared_device *d, uint64_t key)
{
    for (int i = 0; i < SHARED_PHYS; i++)
        if (d->phys[i].key == key)
            return &d->phys[i];
    return NULL;
}

/* |charged|: the bytes are already charged to this process and move over. */
static int phys_hold(struct shared *sh, int dev, uint64_t key, uint64_t bytes, bool charged)
{
    struct shared_device *d = &sh->head->device[dev];
    int rc = 0;
    shared_lock(sh, dev);
    struct shared_phys *p = phys_find(d, key);
    if (!p && !charged && !fits_locked(sh, dev, bytes))
        rc = -FAST_ENOMEM;
    else if (!p && !(p = phys_find(d, 0)))
        rc = -FAST_ENOROOM;
    if (!rc) {
        if (p->key != key)
            *p = (struct shared_phys){.key = key, .bytes = bytes};
        p->holders[sh->slot / 64] |= 1ull << (sh->slot % 64);
        if (charged)
            d->charged[sh->slot] -= bytes;
    }
    shared_unlock(sh, dev);
    return rc;
}

int shared_phys_hold(struct shared *sh, int dev, uint64_t key, uint64_t bytes)
{
    return phys_hold(sh, dev, key, bytes, false);
}

int shared_phys_convert(struct shared *sh, int dev, uint64_t key, uint64_t bytes)
{
    return phys_hold(sh, dev, key, bytes, true);
}

void shared_phys_drop(struct shared *sh, int dev, uint64_t key)
{
    struct shared_device *d = &sh->head->device[dev];
    shared_lock(sh, dev);
    struct shared_phys *p = phys_find(d, key);
    if (p)
        phys_leave(sh, p, sh->slot);
    shared_unlock(sh, dev);
}

/* ---- for NVML ---- */

int shared_procs(struct shared *sh, int dev, struct shared_proc *ret, int max)
{
    struct sim_gpu *gpu = shared_lock(sh, dev);
    const struct shared_device *d = &sh->head->device[dev];
    int n = 0;
    sim_gpu_advance(gpu, shared_now());
    for (int s = 0; s < SHARED_SLOTS; s++) {
        if (!sh->head->slot_pid[s] || !d->charged[s])
            continue;
        struct shared_proc p = {.pid = sh->head->slot_pid[s], .bytes = d->charged[s]};
        for (int c = 0; c < SIM_CLIENTS; c++)
            if (d->client_slot[c] == s)
                p.busy_ns += sim_gpu_client_busy_ns(gpu, c);
        if (n < max)
            ret[n] = p;
        n++;
    }
    shared_unlock(sh, dev);
    return n;
}

struct sim_gpu_counters shared_counters(struct shared *sh, int dev)
{
    struct sim_gpu *gpu = shared_lock(sh, dev);
    sim_gpu_advance(gpu, shared_now());
    struct sim_gpu_counters c = sim_gpu_counters(gpu);
    shared_unlock(sh, dev);
    return c;
}

/* FNV-1a over the directory, the kind of device and its number, twice with other seeds. */
void shared_uuid(const struct shared *sh, int dev, unsigned char ret[16])
{
    for (unsigned half = 0; half < 2; half++) {
        uint64_t h = 14695981039346656037ull + half;
        const char *parts[] = {sh->dir, sh->model};
        for (size_t i = 0; i < FAST_COUNT_OF(parts); i++)
            for (const char *p = parts[i]; *p; p++)
                h = (h ^ (unsigned char)*p) * 1099511628211ull;
        h = (h ^ (unsigned)(dev + 1)) * 1099511628211ull;
        h = (h ^ (h >> 29)) * 1099511628211ull;
        memcpy(ret + (size_t)half * 8, &h, 8);
    }
}

void shared_uuid_text(const struct shared *sh, int dev, char *ret)
{
    unsigned char u[16];
    char *p = ret + snprintf(ret, 48, "GPU-");
    shared_uuid(sh, dev, u);
    for (int i = 0; i < 16; i++)
        p += snprintf(p, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
}
