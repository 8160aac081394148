/* The table's memory: see table.h for what is in it and who may touch what. */
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "relaytbl";

enum {
    CAPACITY_MAX = 1 << 22,
    STALL_SECONDS = 1,
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

struct slot *table_take_slot(struct pair_table *table, uint64_t source)
{
    struct table_header *header = table->header;
    struct slot *slot = table_follow(table, header->free);
    if (slot != NULL)
        header->free = slot->next_entry;
    else if ((slot = table_slot(table, header->fresh)) != NULL)
        header->fresh++;
    else
        return NULL;

    uint32_t generation = slot->generation;
    *slot = (struct slot){.generation = generation, .source = source, .peer = PAIR_NONE};
    slot->owner = this_process();
    slot->place = PAIR_WITH_WORKER;
    atomic_signal_fence(memory_order_seq_cst);
    slot->state = PAIR_GREETING;
    add_unclaimed(table, slot);
    add_source(table, slot);
    header->used++;
    return slot;
}

void table_free_slot(struct pair_table *table, struct slot *slot)
{
    bool unclaimed = slot->place != PAIR_WITH_FORWARDER;
    slot->generation++;
    atomic_signal_fence(memory_order_seq_cst);
    slot->state = PAIR_FREE;
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

/* Makes the entry lists anew from the slots' states. */
static void repair_entry(struct pair_table *table)
{
    struct table_header *header = table->header;
    if (header->fresh > table->capacity)
        header->fresh = table->capacity;
    header->free = header->first_unclaimed = header->last_unclaimed = 0;
    header->used = header->unclaimed = 0;
    memset(table->source_buckets, 0, sizeof(slot_link) * ((size_t)table->bucket_mask + 1));
    for (uint32_t index = 0; index < header->fresh; index++) {
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
    uint32_t end = table->header->fresh;
    for (uint32_t index = 0; index < end && index < table->capacity; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state < PAIR_WAITING || key_stripe(table, &slot->key) != stripe)
            continue;
        if (slot->state == PAIR_MATCHED && !match_holds(table, slot)) {
            slot->peer = PAIR_NONE;
            slot->state = PAIR_WAITING;
        }
        if (slot->state == PAIR_WAITING)
            table_add_waiting(table, slot);
    }
}

/* ---- locks ----------------------------------------------------------------------- */

/* Waits for a lock. A worker that keeps it for STALL_SECONDS has been stopped in the middle
 * of a few microseconds' work, and would stop everybody: it is killed, as it may be at any
 * time, and the lock comes free. The forwarder is waited for. Returns the mutex's error. */
static int wait_for_lock(struct pair_table *table, struct table_lock *lock)
{
    for (;;) {
        struct timespec until;
        uint32_t turn = atomic_load(&lock->turn);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += STALL_SECONDS;
        int error = pthread_mutex_clocklock(&lock->mutex, CLOCK_MONOTONIC, &until);
        if (error != ETIMEDOUT)
            return error;
        int32_t holder = atomic_load(&lock->holder);
        if (atomic_load(&lock->turn) == turn && holder > 1 &&
            holder != atomic_load(&table->header->forwarder))
            kill(holder, SIGKILL);
    }
}

/* Returns 0, -EOWNERDEAD when the caller has to repair and call lock_repaired(), or another
 * negative errno. */
static int take_lock(struct pair_table *table, struct table_lock *lock)
{
    int error = pthread_mutex_trylock(&lock->mutex);
    if (error == EBUSY)
        error = wait_for_lock(table, lock);
    if (error != 0 && error != EOWNERDEAD)
        return -error;
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

int table_lock_key(struct pair_table *table, const struct pair_key *key)
{
    struct stripe *stripe = key_stripe(table, key);
    int error = take_lock(table, &stripe->lock);
    if (error == -EOWNERDEAD) {
        repair_stripe(table, stripe);
        error = lock_repaired(table, &stripe->lock);
    }
    return error;
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
    while (layout.buckets < capacity)
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
    char temporary[256];
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
        error = map_file(fd, layout.size, PROT_READ | PROT_WRITE, &memory);
    if (memory != NULL) {
        error = init_header(memory, capacity, &layout);
        munmap(memory, layout.size);
    }
    if (error == 0 && link(temporary, path) < 0 && errno != EEXIST)
        error = -errno;
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
    if (header->file_size != size || layout.size != size || layout.buckets != header->buckets)
        return -EBADMSG;
    return 0;
}

/* The memory is the table's from here on, or is unmapped. */
static int use_memory(void *memory, size_t size, struct pair_table **ret)
{
    struct table_header *header = memory;
    struct pair_table *table = NULL;
    int error = check_header(header, size);
    if (error == 0 && (table = calloc(1, sizeof *table)) == NULL)
        error = -ENOMEM;
    if (table == NULL) {
        munmap(memory, size);
        return error;
    }
    table->header = header;
    table->capacity = header->capacity;
    struct layout layout = layout_for(table->capacity);
    table->key_buckets = (slot_link *)((char *)memory + layout.key_buckets);
    table->source_buckets = (slot_link *)((char *)memory + layout.source_buckets);
    table->slots = (struct slot *)((char *)memory + layout.slots);
    table->size = size;
    table->bucket_mask = layout.buckets - 1;
    *ret = table;
    return 0;
}

static int open_file(const char *path, struct pair_table **ret)
{
    struct stat status;
    void *memory = NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int error = watch_forks();
    if (error == 0 && fstat(fd, &status) < 0)
        error = -errno;
    size_t size = error == 0 ? (size_t)status.st_size : 0;
    if (error == 0 && size < sizeof(struct table_header))
        error = -EBADMSG;
    if (error == 0)
        error = map_file(fd, size, PROT_READ | PROT_WRITE, &memory);
    close(fd);
    return memory == NULL ? error : use_memory(memory, size, ret);
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

void pair_close(struct pair_table *table)
{
    if (table == NULL)
        return;
    munmap(table->header, table->size);
    free(table);
}

uint32_t pair_capacity(const struct pair_table *table)
{
    return table->capacity;
}
