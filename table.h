/* The table's memory: its slots and lists and their repair (table.c), its locks (table_lock.c) and
 * its file (table_file.c). Private to them and to pair.c, which holds the rules.
 *
 * Locks. There are two kinds. A *stripe* guards the buckets of its keys, and the state and peer of
 * every slot that has met under one of these keys. The *entry* lock guards the lists of free slots,
 * of unclaimed slots (not yet with the forwarder), and of slots by source. Where both are needed,
 * the stripe is locked first.
 *
 * Repair. A slot's state is the truth, and is written last; every list can be made again from the
 * states. A process does that when it gets a lock whose holder died. Lists link slots by index plus
 * one, so that zeroed memory is an empty list.
 *
 * Order of stores. The process that repairs sees all stores of the dead process, in program order:
 * the kernel marks a robust lock after the dead thread's last instruction, and taking the lock
 * acquires that mark. So for a repair only the compiler has to be kept from moving stores. A slot's
 * generation and state are also read without a lock, by processors that may see stores in another
 * order. They are atomic; the state is stored with release after all fields that it vouches for
 * (the key, the peer), and is loaded before any of these is read. A value that was read in this way
 * is only a hint, and is checked again under the lock.
 *
 * The file. It may be removed, replaced, truncated or overwritten while it is mapped. Each locking
 * first checks that the memory is still the table's (-EIDRM if not). Where the file was truncated,
 * a handler of SIGBUS puts zeroed memory in the place of the lost pages, and the table counts as
 * lost. File space for slots is reserved before they are used, so that a full file system leads to
 * a refused connection and nothing worse. A number in shared memory is copied, the copy is checked,
 * and only the copy is used. */
#ifndef RELAY_TABLE_H
#define RELAY_TABLE_H

#include "pair.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum {
    TABLE_VERSION = 2,
    TABLE_STRIPES = 64,
    TABLE_SECRET_SIZE = 32,
    TABLE_BOOT_SIZE = 40, /* of the kernel's boot_id, with its NUL */
    TABLE_PATH_MAX = 256,
};

typedef uint32_t slot_link; /* index + 1; 0: none */

struct slot {
    _Atomic uint32_t generation;
    _Atomic uint8_t state; /* enum pair_state; table_set_state() */
    uint8_t place;         /* enum pair_place */
    uint8_t rule;
    uint8_t reason;
    uint8_t protocol;
    uint8_t padding[3];
    struct pair_key key;
    struct pair_ref peer; /* MATCHED, JOINED; WAITING by PAIR_CONNECT: its listener */
    int32_t owner;        /* process id of the worker, or of the porch */
    uint64_t side;
    uint64_t source;
    int64_t opened;
    int64_t deadline;        /* of the worker: milliseconds, CLOCK_MONOTONIC */
    _Atomic int64_t changed; /* when it began to wait, or was matched: the same clock; stored before
                                the state */
    _Atomic uint64_t bytes;
    slot_link chain; /* of the first slot under a key: the first slot under the bucket's next key */
    slot_link next_waiting, prev_waiting; /* under the same key */
    slot_link next_source, prev_source;   /* in the same source bucket */
    slot_link next_entry, prev_entry;     /* free, or unclaimed */
} __attribute__((aligned(64)));

struct table_lock {
    pthread_mutex_t mutex;
    _Atomic int32_t holder; /* process id */
    _Atomic uint32_t turn;  /* counts how often it was taken */
};

struct stripe {
    struct table_lock lock;
    uint32_t tokens; /* keys under which a connection waits */
} __attribute__((aligned(64)));

struct table_header {
    char magic[8];
    uint32_t version;
    uint32_t capacity;
    uint32_t buckets; /* of keys, a power of two; there are as many of sources */
    uint32_t slot_size;
    uint64_t file_size;
    uint64_t id;              /* a random number of this table */
    _Atomic uint32_t retired; /* not 0: another table has taken its place, or will */
    int64_t created;
    int64_t uptime;             /* when it was made: milliseconds, CLOCK_BOOTTIME */
    char boot[TABLE_BOOT_SIZE]; /* the boot in which it was made; empty: not known */
    uint8_t secret[TABLE_SECRET_SIZE];

    struct table_lock entry;
    slot_link free;
    _Atomic uint32_t fresh; /* the first slot that was never used */
    uint32_t reserved;      /* slots that the file has space for */
    _Atomic uint32_t used;
    uint32_t unclaimed;
    slot_link first_unclaimed, last_unclaimed; /* the oldest first */

    _Atomic int32_t forwarder;
    _Atomic uint32_t reads; /* the version of handoffs that the forwarder reads; 0: not known */
    _Atomic uint32_t forwarder_full; /* pair_set_forwarder_full() */
    _Atomic uint64_t repairs;
    _Atomic uint64_t total_bytes;
    _Atomic uint64_t outcomes[PAIR_PROTOCOLS_MAX][PAIR_OUTCOMES];

    struct stripe stripes[TABLE_STRIPES];
};

struct pair_table {
    struct table_header *header;
    slot_link *key_buckets;
    slot_link *source_buckets;
    struct slot *slots;
    size_t size;
    uint32_t capacity; /* a copy, checked when the file was mapped */
    uint32_t bucket_mask;
    uint64_t id;
    uint64_t device, inode;
    int fd;                     /* to reserve space in the file */
    volatile sig_atomic_t lost; /* set by the handler of SIGBUS */
    char path[TABLE_PATH_MAX];
    struct pair_table *next; /* the next table that this process has mapped */
};

/* The fence keeps the compiler from moving later stores before this one; a repair would see them in
 * that order. */
static inline void table_set_state(struct slot *slot, enum pair_state state)
{
    atomic_store_explicit(&slot->state, (uint8_t)state, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

/* The slot of an index or a link, NULL if there is no such slot. */
struct slot *table_slot(const struct pair_table *table, uint32_t index);
struct slot *table_follow(const struct pair_table *table, slot_link link);
slot_link table_link(const struct pair_table *table, const struct slot *slot);
struct pair_ref table_ref(const struct pair_table *table, const struct slot *slot);
/* The slot of a reference that is not stale, else NULL. */
struct slot *table_find(const struct pair_table *table, struct pair_ref ref);

/* How many slots were ever used: those before this index may be read. Never more than the capacity.
 */
uint32_t table_end(const struct pair_table *table);
/* Whether the memory still holds this table, retired or not. */
bool table_is_intact(const struct pair_table *table);

/* Lock, and repair if the holder died; a worker that holds a lock for a second has stalled, and is
 * killed. 0 or a negative errno: -EIDRM when the memory holds no table any more, or the table was
 * retired. */
int table_lock_entry(struct pair_table *table);
void table_unlock_entry(struct pair_table *table);
int table_lock_key(struct pair_table *table, const struct pair_key *key);
void table_unlock_key(struct pair_table *table, const struct pair_key *key);

/* Under the key's lock: the first slot that waits under a key; adding one; removing one. */
struct slot *table_waiting(struct pair_table *table, const struct pair_key *key);
void table_add_waiting(struct pair_table *table, struct slot *slot);
void table_remove_waiting(struct pair_table *table, struct slot *slot);

/* Under the entry lock: taking a free slot, which is then unclaimed; freeing it; and claiming it
 * for the forwarder. Taking returns 0, -ENOSPC when no slot is free, or -ENOMEM when the file
 * system has no space for it. */
int table_take_slot(struct pair_table *table, uint64_t source, struct slot **ret);
void table_free_slot(struct pair_table *table, struct slot *slot);
void table_claim_slot(struct pair_table *table, struct slot *slot);
/* Whether this source has at least `limit` slots. */
bool table_source_reached(struct pair_table *table, uint64_t source, uint32_t limit);

/* -- between table.c, table_lock.c and table_file.c -------------------------------- */

/* The stripe that a key belongs to. */
struct stripe *table_key_stripe(const struct pair_table *table, const struct pair_key *key);
/* Make lists again from the slots: those that the entry lock guards, under it; those of a stripe,
 * under both locks. */
void table_repair_entry(struct pair_table *table);
void table_repair_stripe(struct pair_table *table, struct stripe *stripe);

/* Makes a lock in a new table. 0 or a negative errno. */
int table_init_lock(struct table_lock *lock);
/* This process's id, without a system call each time. table_watch_forks() is called once before,
 * and returns 0 or -ENOMEM. */
int32_t table_own_process(void);
int table_watch_forks(void);

/* Whether the memory still holds this table, and it was not retired. */
bool table_is_usable(const struct pair_table *table);
/* Reserves `size` bytes of space in the file, from byte `from` on. 0, also where the file system
 * cannot do that; -ENOMEM when it is full; or another negative errno. */
int table_reserve(int fd, size_t from, size_t size);

#endif
