/* The table's memory: see table.h for what is in it and who may touch what. */
#include "table.h"

#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "relaytbl";

enum {
    CAPACITY_MAX = 1 << 22,
    SLOTS_PER_BUCKET = 16, /* when the table is full */
    RESERVED_AHEAD = 1024, /* slots */
    STALL_SECONDS = 1,
    ORPHAN_STALLS = 5, /* of a lock that no living process holds, before it is not believed */
};

/* ---- who we are ------------------------------------------------------------------ */

static pid_t own_process;

static void forget_own_process(void)
{
    own_process = 0;
}

/* getpid() is a system call each time, and every lock names its holder. */
static int32_t this_process(void)
{
    if (own_process == 0)
        own_process = getpid();
    return (int32_t)own_process;
}

static int watch_forks(void)
{
    static bool watching;
    if (!watching && pthread_atfork(NULL, NULL, forget_own_process) != 0)
        return -ENOMEM;
    watching = true;
    return 0;
}

/* ---- slots and references -------------------------------------------------------- */

struct slot *table_slot(const struct pair_table *table, uint32_t index)
{
    return index < table->capacity ? &table->slots[index] : NULL;
}

struct slot *table_follow(const struct pair_table *table, slot_link link)
{
    return link == 0 ? NULL : table_slot(table, link - 1);
}

slot_link table_link(const struct pair_table *table, const struct slot *slot)
{
    return slot == NULL ? 0 : (slot_link)(slot - table->slots) + 1;
}

uint32_t table_end(const struct pair_table *table)
{
    uint32_t fresh = atomic_load_explicit(&table->header->fresh, memory_order_acquire);
    return fresh < table->capacity ? fresh : table->capacity;
}

struct pair_ref table_ref(const struct pair_table *table, const struct slot *slot)
{
    return (struct pair_ref){(uint32_t)(slot - table->slots), slot->generation};
}

struct slot *table_find(const struct pair_table *table, struct pair_ref ref)
{
    struct slot *slot = table_slot(table, ref.slot);
    if (slot == NULL || slot->generation != ref.generation || slot->state == PAIR_FREE)
        return NULL;
    return slot;
}

/* ---- the keys' buckets ----------------------------------------------------------- */

static uint64_t key_hash(const struct pair_key *key)
{
    uint64_t hash;
    memcpy(&hash, key->bytes, sizeof hash); /* a keyed hash already */
    return hash;
}

static struct stripe *key_stripe(const struct pair_table *table, const struct pair_key *key)
{
    return &table->header->stripes[key_hash(key) % TABLE_STRIPES];
}

/* Buckets and stripes are both chosen by the low bits, so a bucket has one stripe. */
static slot_link *key_bucket(const struct pair_table *table, const struct pair_key *key)
{
    return &table->key_buckets[key_hash(key) & table->bucket_mask];
}

static bool same_key(const struct pair_key *a, const struct pair_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

struct slot *table_waiting(struct pair_table *table, const struct pair_key *key)
{
    struct slot *slot = table_follow(table, *key_bucket(table, key));
    for (uint32_t steps = 0; slot != NULL && steps < table->capacity; steps++) {
        if (same_key(&slot->key, key))
            return slot;
        slot = table_follow(table, slot->chain);
    }
    return NULL;
}

void table_add_waiting(struct pair_table *table, struct slot *slot)
{
    struct slot *first = table_waiting(table, &slot->key);
    slot->chain = 0;
    if (first == NULL) {
        slot_link *bucket = key_bucket(table, &slot->key);
        slot->next_waiting = slot->prev_waiting = 0;
        slot->chain = *bucket;
        *bucket = table_link(table, slot);
        key_stripe(table, &slot->key)->tokens++;
        return;
    }
    struct slot *second = table_follow(table, first->next_waiting);
    slot->prev_waiting = table_link(table, first);
    slot->next_waiting = first->next_waiting;
    first->next_waiting = table_link(table, slot);
    if (second != NULL)
        second->prev_waiting = table_link(table, slot);
}

/* Puts `heir`, or the rest of the chain, in the place of a key's first slot. */
static void replace_first(struct pair_table *table, struct slot *slot, struct slot *heir)
{
    slot_link *link = key_bucket(table, &slot->key);
    for (uint32_t steps = 0; steps < table->capacity; steps++) {
        struct slot *at = table_follow(table, *link);
        if (at == NULL)
            return;
        if (at == slot)
            break;
        link = &at->chain;
    }
    if (heir == NULL) {
        *link = slot->chain;
        key_stripe(table, &slot->key)->tokens--;
        return;
    }
    heir->chain = slot->chain;
    heir->prev_waiting = 0;
    *link = table_link(table, heir);
}

void table_remove_waiting(struct pair_table *table, struct slot *slot)
{
    struct slot *next = table_follow(table, slot->next_waiting);
    struct slot *prev = table_follow(table, slot->prev_waiting);
    if (prev == NULL) {
        replace_first(table, slot, next);
    } else {
        prev->next_waiting = slot->next_waiting;
        if (next != NULL)
            next->prev_waiting = slot->prev_waiting;
    }
    slot->chain = slot->next_waiting = slot->prev_waiting = 0;
}

/* ---- free, unclaimed and per source ---------------------------------------------- */

static slot_link *source_bucket(const struct pair_table *table, uint64_t source)
{
    return &table->source_buckets[source & table->bucket_mask];
}

static void add_source(struct pair_table *table, struct slot *slot)
{
    slot_link *bucket = source_bucket(table, slot->source);
    struct slot *first = table_follow(table, *bucket);
    slot->prev_source = 0;
    slot->next_source = *bucket;
    if (first != NULL)
        first->prev_source = table_link(table, slot);
    *bucket = table_link(table, slot);
}

static void remove_source(struct pair_table *table, struct slot *slot)
{
    struct slot *next = table_follow(table, slot->next_source);
    struct slot *prev = table_follow(table, slot->prev_source);
    if (next != NULL)
        next->prev_source = slot->prev_source;
    if (prev != NULL)
        prev->next_source = slot->next_source;
    else
        *source_bucket(table, slot->source) = slot->next_source;
    slot->next_source = slot->prev_source = 0;
}

bool table_source_reached(struct pair_table *table, uint64_t source, uint32_t limit)
{
    uint32_t count = 0;
    struct slot *slot = table_follow(table, *source_bucket(table, source));
    for (uint32_t steps = 0; slot != NULL && steps < table->capacity; steps++) {
        if (slot->source == source && ++count >= limit)
            return true;
        slot = table_follow(table, slot->next_source);
    }
    return false;
}

static void add_unclaimed(struct pair_table *table, struct slot *slot)
{
    struct table_header *header = table->header;
    struct slot *last = table_follow(table, header->last_unclaimed);
    slot->next_entry = 0;
    slot->prev_entry = header->last_unclaimed;
    if (last != NULL)
        last->next_entry = table_link(table, slot);
    else
        header->first_unclaimed = table_link(table, slot);
    header->last_unclaimed = table_link(table, slot);
    header->unclaimed++;
}

static void remove_unclaimed(struct pair_table *table, struct slot *slot)
{
    struct table_header *header = table->header;
    struct slot *next = table_follow(table, slot->next_entry);
    struct slot *prev = table_follow(table, slot->prev_entry);
    if (next != NULL)
        next->prev_entry = slot->prev_entry;
    else
        header->last_unclaimed = slot->prev_entry;
    if (prev != NULL)
        prev->next_entry = slot->next_entry;
    else
        header->first_unclaimed = slot->next_entry;
    slot->next_entry = slot->prev_entry = 0;
    header->unclaimed--;
}

static void add_free(struct pair_table *table, struct slot *slot)
{
    slot->next_entry = table->header->free;
    slot->prev_entry = 0;
    table->header->free = table_link(table, slot);
}

/* Makes the entry lists anew from the slots' states. */
static void repair_entry(struct pair_table *table)
{
    struct table_header *header = table->header;
    uint32_t end = table_end(table);
    header->fresh = end;
    header->free = header->first_unclaimed = header->last_unclaimed = 0;
    header->used = header->unclaimed = 0;
    if (header->reserved > table->capacity)
        header->reserved = table->capacity;
    memset(table->source_buckets, 0, sizeof(slot_link) * ((size_t)table->bucket_mask + 1));
    for (uint32_t index = 0; index < end; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state == PAIR_FREE) {
            add_free(table, slot);
            continue;
        }
        header->used++;
        add_source(table, slot);
        if (slot->place != PAIR_WITH_FORWARDER)
            add_unclaimed(table, slot);
    }
}

/* Reserves space in the file, from a place on. One that cannot do so has it, as far as we know. */
static int reserve(int fd, size_t from, size_t size)
{
    while (fallocate(fd, 0, (off_t)from, (off_t)size) < 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return 0;
        if (errno != EINTR)
            return errno == ENOSPC || errno == EDQUOT ? -ENOMEM : -errno;
    }
    return 0;
}

/* Has space for the next slot that was never used, and for some more if there is any. */
static int reserve_slots(struct pair_table *table, uint32_t fresh)
{
    struct table_header *header = table->header;
    uint32_t reserved = header->reserved, end = table->capacity;
    if (reserved >= end || (reserved > fresh && reserved - fresh >= RESERVED_AHEAD / 2))
        return 0;
    if (end - reserved > RESERVED_AHEAD)
        end = reserved + RESERVED_AHEAD;
    size_t start = (size_t)((char *)&table->slots[reserved] - (char *)header);
    int error = reserve(table->fd, start, (end - reserved) * sizeof(struct slot));
    if (error == 0)
        header->reserved = end;
    return reserved > fresh ? 0 : error;
}

static int take_fresh(struct pair_table *table, struct slot **ret)
{
    uint32_t fresh = table->header->fresh;
    *ret = table_slot(table, fresh);
    if (*ret == NULL)
        return -ENOSPC;
    int error = reserve_slots(table, fresh);
    if (error == 0)
        table->header->fresh = fresh + 1;
    return error;
}

/* One that was used before, else one that was not. What the free list names is not believed
 * before it is seen to be free. */
static int take_any(struct pair_table *table, struct slot **ret)
{
    *ret = table_follow(table, table->header->free);
    if (*ret == NULL)
        return take_fresh(table, ret);
    if ((*ret)->state != PAIR_FREE) {
        repair_entry(table);
        *ret = table_follow(table, table->header->free);
        if (*ret == NULL)
            return take_fresh(table, ret);
    }
    table->header->free = (*ret)->next_entry;
    return 0;
}

/* The generation and the state stay as they are meanwhile: they are read without a lock, and
 * whoever takes a slot from the dead goes on from its generation. */
static void clear_slot(struct slot *slot)
{
    size_t start = offsetof(struct slot, place);
    memset((char *)slot + start, 0, sizeof *slot - start);
}

int table_take_slot(struct pair_table *table, uint64_t source, struct slot **ret)
{
    int error = take_any(table, ret);
    if (error != 0)
        return error;
    struct slot *slot = *ret;
    clear_slot(slot);
    slot->source = source;
    slot->peer = PAIR_NONE;
    slot->owner = this_process();
    slot->place = PAIR_WITH_WORKER;
    table_set_state(slot, PAIR_GREETING);
    add_unclaimed(table, slot);
    add_source(table, slot);
    table->header->used++;
    return 0;
}

void table_free_slot(struct pair_table *table, struct slot *slot)
{
    bool unclaimed = slot->place != PAIR_WITH_FORWARDER;
    slot->generation++;
    table_set_state(slot, PAIR_FREE);
    if (unclaimed)
        remove_unclaimed(table, slot);
    remove_source(table, slot);
    add_free(table, slot);
    table->header->used--;
}

void table_claim_slot(struct pair_table *table, struct slot *slot)
{
    slot->place = PAIR_WITH_FORWARDER;
    remove_unclaimed(table, slot);
}

/* ---- repair ---------------------------------------------------------------------- */

/* A match holds if both ends say so. */
static bool match_holds(const struct pair_table *table, const struct slot *slot)
{
    const struct slot *peer = table_find(table, slot->peer);
    return peer != NULL && pair_same(peer->peer, table_ref(table, slot)) &&
           (peer->state == PAIR_MATCHED || peer->state == PAIR_JOINED);
}

/* Makes the stripe's lists anew; one who was left in half a match waits again. */
static void repair_stripe(struct pair_table *table, struct stripe *stripe)
{
    size_t number = (size_t)(stripe - table->header->stripes);
    for (size_t bucket = number; bucket <= table->bucket_mask; bucket += TABLE_STRIPES)
        table->key_buckets[bucket] = 0;
    stripe->tokens = 0;
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state < PAIR_WAITING || key_stripe(table, &slot->key) != stripe)
            continue;
        if (slot->state == PAIR_MATCHED && !match_holds(table, slot)) {
            slot->peer = PAIR_NONE;
            table_set_state(slot, PAIR_WAITING);
        }
        if (slot->state == PAIR_WAITING)
            table_add_waiting(table, slot);
    }
}

/* ---- whether it is still the table ----------------------------------------------- */

bool table_is_ours(const struct pair_table *table)
{
    const struct table_header *header = table->header;
    return !table->lost && memcmp(header->magic, magic, sizeof magic) == 0 &&
           header->version == TABLE_VERSION && header->id == table->id &&
           header->capacity == table->capacity;
}

static bool is_whole(const struct pair_table *table)
{
    return table_is_ours(table) &&
           atomic_load_explicit(&table->header->retired, memory_order_relaxed) == 0;
}

int pair_check(const struct pair_table *table)
{
    struct stat status;
    if (fstatat(AT_FDCWD, table->path, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || errno == ENOTDIR ? -ENOENT : 0; /* nobody can tell */
    if (status.st_dev != table->device || status.st_ino != table->inode)
        return -ESTALE;
    if (status.st_size < 0 || (uint64_t)status.st_size != table->size)
        return -EBADMSG;
    return is_whole(table) ? 0 : -EBADMSG;
}

void pair_retire(struct pair_table *table)
{
    atomic_store(&table->header->retired, 1);
}

/* The tables that this process has mapped. */
static struct pair_table *mapped;

/* The file was cut, and this memory of it is no more: zeros take its place, so that whoever is at
 * work on it comes to an end, and finds out. */
static void replace_lost_memory(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    (void)context;
    for (struct pair_table *table = mapped; table != NULL; table = table->next) {
        if (at - (uintptr_t)table->header >= table->size)
            continue;
        table->lost = 1;
        if (mmap(table->header, table->size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        errno = error;
        return;
    }
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    (void)sigaction(signal, &fallback, NULL); /* and the fault comes again */
    errno = error;
}

static int watch_memory(void)
{
    static bool watching;
    struct sigaction action = {.sa_sigaction = replace_lost_memory, .sa_flags = SA_SIGINFO};
    if (!watching && sigaction(SIGBUS, &action, NULL) < 0)
        return -errno;
    watching = true;
    return 0;
}

/* ---- locks ----------------------------------------------------------------------- */

/* A worker that keeps a lock for long has been stopped in the middle of a few microseconds' work,
 * and would stop everybody: it is killed, as it may be at any time, and the lock comes free. The
 * forwarder is waited for. Returns whether the lock is any living process's. */
static bool kill_stalled(const struct pair_table *table, int32_t holder)
{
    if (holder <= 1)
        return false;
    if (holder == atomic_load(&table->header->forwarder))
        return kill(holder, 0) == 0 || errno != ESRCH;
    return kill(holder, SIGKILL) == 0 || errno != ESRCH;
}

/* Waits for a lock; what has stood still for STALL_SECONDS is looked at. Returns the mutex's
 * error; EIDRM when the lock is no lock any more, or held by nobody for so long that its memory
 * must have been written over. */
static int wait_for_lock(struct pair_table *table, struct table_lock *lock)
{
    unsigned int orphaned = 0;
    while (is_whole(table)) {
        struct timespec until;
        uint32_t turn = atomic_load(&lock->turn);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += STALL_SECONDS;
        int error = pthread_mutex_clocklock(&lock->mutex, CLOCK_MONOTONIC, &until);
        if (error != ETIMEDOUT)
            return error;
        bool moves = atomic_load(&lock->turn) != turn;
        orphaned = moves || kill_stalled(table, atomic_load(&lock->holder)) ? 0 : orphaned + 1;
        if (orphaned >= ORPHAN_STALLS)
            pair_retire(table);
    }
    return EIDRM;
}

/* Returns 0, -EOWNERDEAD when the caller has to repair and call lock_repaired(), or another
 * negative errno. */
static int take_lock(struct pair_table *table, struct table_lock *lock)
{
    if (!is_whole(table))
        return -EIDRM;
    int error = pthread_mutex_trylock(&lock->mutex);
    if (error == EBUSY)
        error = wait_for_lock(table, lock);
    if (error != 0 && error != EOWNERDEAD)
        return -error;
    if (error == 0 && !is_whole(table)) {
        pthread_mutex_unlock(&lock->mutex);
        return -EIDRM;
    }
    atomic_store(&lock->holder, this_process());
    atomic_fetch_add(&lock->turn, 1);
    return -error;
}

static int lock_repaired(struct pair_table *table, struct table_lock *lock)
{
    atomic_fetch_add(&table->header->repairs, 1);
    return -pthread_mutex_consistent(&lock->mutex);
}

static void release_lock(struct table_lock *lock)
{
    atomic_store(&lock->holder, 0);
    pthread_mutex_unlock(&lock->mutex);
}

int table_lock_entry(struct pair_table *table)
{
    int error = take_lock(table, &table->header->entry);
    if (error == -EOWNERDEAD) {
        repair_entry(table);
        error = lock_repaired(table, &table->header->entry);
    }
    return error;
}

void table_unlock_entry(struct pair_table *table)
{
    release_lock(&table->header->entry);
}

/* While no slot is taken or freed, or gets its key. The lock is nobody's any more if that fails. */
static int repair_stripe_locked(struct pair_table *table, struct stripe *stripe)
{
    int error = table_lock_entry(table);
    if (error == 0) {
        repair_stripe(table, stripe);
        table_unlock_entry(table);
        return lock_repaired(table, &stripe->lock);
    }
    release_lock(&stripe->lock);
    return error;
}

int table_lock_key(struct pair_table *table, const struct pair_key *key)
{
    struct stripe *stripe = key_stripe(table, key);
    int error = take_lock(table, &stripe->lock);
    return error == -EOWNERDEAD ? repair_stripe_locked(table, stripe) : error;
}

void table_unlock_key(struct pair_table *table, const struct pair_key *key)
{
    release_lock(&key_stripe(table, key)->lock);
}

/* ---- the file -------------------------------------------------------------------- */

struct layout {
    size_t key_buckets, source_buckets, slots, size;
    uint32_t buckets;
};

static struct layout layout_for(uint32_t capacity)
{
    struct layout layout = {.buckets = TABLE_STRIPES};
    while (layout.buckets < capacity / SLOTS_PER_BUCKET)
        layout.buckets *= 2;
    size_t align = 4096;
    layout.key_buckets = (sizeof(struct table_header) + align - 1) / align * align;
    layout.source_buckets = layout.key_buckets + layout.buckets * sizeof(slot_link);
    layout.slots = layout.source_buckets + layout.buckets * sizeof(slot_link);
    layout.slots = (layout.slots + align - 1) / align * align;
    layout.size = layout.slots + capacity * sizeof(struct slot);
    return layout;
}

static int init_lock(struct table_lock *lock)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);
    if (error != 0)
        return -error;
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (error == 0)
        error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (error == 0)
        error = pthread_mutex_init(&lock->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return -error;
}

static int64_t uptime(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The kernel's name for this boot, asked once: a sandbox does not let us. Empty where there is no
 * /proc. */
static const char *this_boot(void)
{
    static char boot[TABLE_BOOT_SIZE];
    static bool asked;
    if (asked)
        return boot;
    asked = true;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return boot;
    ssize_t size = read(fd, boot, sizeof boot - 1);
    boot[size > 0 ? size : 0] = '\0';
    close(fd);
    return boot;
}

/* Times and process ids in a table mean something only in the boot that it was made in. */
static bool is_of_another_boot(const struct table_header *header)
{
    const char *boot = this_boot();
    if (header->uptime > uptime())
        return true;
    return boot[0] != '\0' && header->boot[0] != '\0' &&
           memcmp(boot, header->boot, TABLE_BOOT_SIZE) != 0;
}

static int init_header(struct table_header *header, uint32_t capacity, const struct layout *layout)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    header->version = TABLE_VERSION;
    header->capacity = capacity;
    header->buckets = layout->buckets;
    header->slot_size = sizeof(struct slot);
    header->file_size = layout->size;
    header->created = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    header->uptime = uptime();
    memcpy(header->boot, this_boot(), sizeof header->boot);
    randombytes_buf(&header->id, sizeof header->id);
    randombytes_buf(header->secret, sizeof header->secret);
    int error = init_lock(&header->entry);
    for (size_t i = 0; i < TABLE_STRIPES && error == 0; i++)
        error = init_lock(&header->stripes[i].lock);
    memcpy(header->magic, magic, sizeof magic);
    return error;
}

static int map_file(int fd, size_t size, int protection, void **ret)
{
    void *memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    *ret = memory;
    return 0;
}

/* Makes the table under a temporary name and links it in place, so that nobody ever sees half
 * of one. Losing the race to another process is as good. */
static int make_file(const char *path, uint32_t capacity)
{
    struct layout layout = layout_for(capacity);
    char temporary[TABLE_PATH_MAX + 16];
    void *memory = NULL;
    int length = snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof temporary)
        return -ENAMETOOLONG;
    (void)unlink(temporary); /* left by a dead process that had our id */
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int error = ftruncate(fd, (off_t)layout.size) == 0 ? 0 : -errno;
    if (error == 0)
        error = reserve(fd, 0, layout.slots);
    if (error == 0)
        error = map_file(fd, layout.size, PROT_READ | PROT_WRITE, &memory);
    if (memory != NULL) {
        error = init_header(memory, capacity, &layout);
        munmap(memory, layout.size);
    }
    if (error == 0)
        error = create_name(temporary, path);
    if (error == -EEXIST)
        error = 0;
    (void)unlink(temporary);
    close(fd);
    return error;
}

static int check_header(const struct table_header *header, size_t size)
{
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return -EBADMSG;
    if (header->version != TABLE_VERSION || header->slot_size != sizeof(struct slot))
        return -EPROTO;
    if (header->capacity == 0 || header->capacity > CAPACITY_MAX)
        return -EBADMSG;
    struct layout layout = layout_for(header->capacity);
    if (atomic_load(&header->retired) != 0 || is_of_another_boot(header))
        return -ESTALE;
    if (header->file_size != size || layout.size != size || layout.buckets != header->buckets)
        return -EBADMSG;
    return 0;
}

/* What this process knows of a file that it has mapped; header and path are set. */
static void describe(struct pair_table *table, const struct stat *status, int fd)
{
    char *memory = (char *)table->header;
    table->capacity = table->header->capacity;
    struct layout layout = layout_for(table->capacity);
    table->key_buckets = (slot_link *)(memory + layout.key_buckets);
    table->source_buckets = (slot_link *)(memory + layout.source_buckets);
    table->slots = (struct slot *)(memory + layout.slots);
    table->bucket_mask = layout.buckets - 1;
    table->id = table->header->id;
    table->device = status->st_dev;
    table->inode = status->st_ino;
    table->fd = fd;
}

/* In the list while it is looked at, for that it may be cut at any time. */
static int examine(struct pair_table *table, const struct stat *status, int fd)
{
    void *memory = NULL;
    int error = map_file(fd, table->size, PROT_READ | PROT_WRITE, &memory);
    if (memory == NULL)
        return error;
    table->header = memory;
    table->next = mapped;
    mapped = table;
    error = check_header(table->header, table->size);
    if (error == 0) {
        describe(table, status, fd);
        error = is_whole(table) ? 0 : -EBADMSG;
    }
    if (error == 0)
        return 0;
    mapped = table->next;
    munmap(memory, table->size);
    return error;
}

int pair_map(int fd, const char *path, struct pair_table **ret)
{
    struct stat status;
    struct pair_table *table = NULL;
    int error = watch_forks();
    if (error == 0)
        error = watch_memory();
    if (error == 0 && fstat(fd, &status) < 0)
        error = -errno;
    if (error == 0 && (!S_ISREG(status.st_mode) || (uint64_t)status.st_size > SIZE_MAX ||
                          (size_t)status.st_size < sizeof(struct table_header)))
        error = -EBADMSG;
    if (error == 0 && strlen(path) >= TABLE_PATH_MAX)
        error = -ENAMETOOLONG;
    if (error == 0 && (table = calloc(1, sizeof *table)) == NULL)
        error = -ENOMEM;
    if (error == 0) {
        memcpy(table->path, path, strlen(path) + 1);
        table->size = (size_t)status.st_size;
        error = examine(table, &status, fd);
    }
    if (error != 0) {
        free(table);
        close(fd);
        return error;
    }
    *ret = table;
    return 0;
}

/* Opens nothing that would make us wait, whatever has taken the table's place. */
static int open_path(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

static int open_file(const char *path, struct pair_table **ret)
{
    int fd = open_path(path);
    return fd < 0 ? fd : pair_map(fd, path, ret);
}

int pair_open_existing(const char *path, struct pair_table **ret)
{
    return open_file(path, ret);
}

int pair_open(const char *path, uint32_t capacity, struct pair_table **ret)
{
    if (capacity == 0 || capacity > CAPACITY_MAX)
        return -EINVAL;
    if (sodium_init() < 0)
        return -ENOSYS;
    int error = open_file(path, ret);
    if (error != -ENOENT)
        return error;
    error = make_file(path, capacity);
    return error == 0 ? open_file(path, ret) : error;
}

/* Under the lock of the file that is at the path, so that of several who find it unfit one removes
 * it, and nobody what was made after it. */
static int discard_locked(const char *path, int fd)
{
    struct stat opened, named;
    struct pair_table *table;
    if (fstat(fd, &opened) < 0)
        return -errno;
    if (fstatat(AT_FDCWD, path, &named, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (opened.st_ino != named.st_ino || opened.st_dev != named.st_dev)
        return 0;
    if (open_file(path, &table) == 0) {
        pair_close(table);
        return 0;
    }
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int pair_discard(const char *path)
{
    int fd = open_path(path);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    int error = 0;
    while (flock(fd, LOCK_EX) < 0) {
        if (errno != EINTR) {
            error = -errno;
            break;
        }
    }
    if (error == 0)
        error = discard_locked(path, fd);
    close(fd);
    return error;
}

/* Memory that was lost stays: the C library may hold a lock in it. */
void pair_close(struct pair_table *table)
{
    if (table == NULL)
        return;
    for (struct pair_table **at = &mapped; *at != NULL; at = &(*at)->next) {
        if (*at == table) {
            *at = table->next;
            break;
        }
    }
    if (!table->lost)
        munmap(table->header, table->size);
    close(table->fd);
    free(table);
}

uint64_t pair_id(const struct pair_table *table)
{
    return table->id;
}

int pair_descriptor(const struct pair_table *table)
{
    return table->fd;
}

const char *pair_path(const struct pair_table *table)
{
    return table->path;
}

uint32_t pair_capacity(const struct pair_table *table)
{
    return table->capacity;
}
