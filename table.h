/* The table's memory: its slots and lists and their repair (table.c), its locks (table_lock.c) and
 * its file (table_file.c). Private to them and to pair.c, which holds the rules.
 *
 * Two kinds of lock. A *stripe* guards the buckets of its keys, and the state and peer of
 * every slot that has met under one of them. The *entry* lock guards which slots are free,
 * which are unclaimed (not yet with the forwarder), and who has how many. Where both are
 * needed, the stripe comes first.
 *
 * A slot's state is the truth, and is written last; every list can be made anew from it.
 * That is what a process does that gets a lock from a dead one. Lists link slots by index
 * plus one, so that zeroed memory is an empty list.
 *
 * Order of stores. Who repairs sees all that the dead one stored, in the order of its program:
 * the kernel marks a lock as a dead thread's after the thread's last instruction, and who takes
 * the lock acquires that mark. Nothing else has to be ordered for a repair but what the compiler
 * might move. A slot's generation and state are also read without any lock, by processors that may
 * see stores in another order: they are atomic, the state is stored with release after all that it
 * speaks for (the key, the peer), and loaded before any of that is read. What was read in this
 * way is only a hint, and is looked at again under the lock.
 *
 * The file is as good as its last user. It may be removed, replaced, cut or written over while it
 * is mapped; every lock looks first whether the memory is still the table's (-EIDRM if not). Where
 * the file was cut, memory that is not there any more is replaced by zeros (a handler of SIGBUS),
 * and the table counts as lost. File space for slots is reserved before they are used, so that a
 * full file system refuses a connection, and does nothing worse. No number that is read from
 * shared memory is used before it was checked, and then the very copy that was checked is used. */
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
    TABLE_BOOT_SIZE = 40, /* of the kernel's text for a boot */
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
    struct pair_ref peer; /* MATCHED, JOINED; of a waiting connector: its listener */
    int32_t owner;        /* process id of the worker */
    uint64_t side;
    uint64_t source;
    int64_t opened;
    int64_t deadline;        /* of the worker: milliseconds, CLOCK_MONOTONIC */
    _Atomic int64_t changed; /* when it met, or was matched: the same clock; before its state */
    _Atomic uint64_t bytes;
    slot_link chain;                      /* the next key in the bucket, of a key's first slot */
    slot_link next_waiting, prev_waiting; /* under the same key */
    slot_link next_source, prev_source;   /* in the same source bucket */
    slot_link next_entry, prev_entry;     /* free, or unclaimed */
} __attribute__((aligned(64)));

struct table_lock {
    pthread_mutex_t mutex;
    _Atomic int32_t holder; /* process id */
    _Atomic uint32_t turn;  /* counts its takings */
};

struct stripe {
    struct table_lock lock;
    uint32_t tokens; /* keys under which somebody waits */
} __attribute__((aligned(64)));

struct table_header {
    char magic[8];
    uint32_t version;
    uint32_t capacity;
    uint32_t buckets; /* a power of two; as many for sources */
    uint32_t slot_size;
    uint64_t file_size;
    uint64_t id;              /* drawn when it is made */
    _Atomic uint32_t retired; /* another has taken its place, or will */
    int64_t created;
    int64_t uptime;             /* when it was made: milliseconds, CLOCK_BOOTTIME */
    char boot[TABLE_BOOT_SIZE]; /* and in which boot; empty: nobody knows */
    uint8_t secret[TABLE_SECRET_SIZE];

    struct table_lock entry;
    slot_link free;
    _Atomic uint32_t fresh; /* slots from here on were never used */
    uint32_t reserved;      /* slots that the file has space for */
    _Atomic uint32_t used;
    uint32_t unclaimed;
    slot_link first_unclaimed, last_unclaimed; /* the oldest first */

    _Atomic int32_t forwarder;
    _Atomic uint32_t reads;   /* the version of handoffs that it reads; 0: not said */
    _Atomic uint32_t crammed; /* it takes no more connections for now: pair_set_crammed() */
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
    uint32_t capacity; /* as checked when the file was mapped */
    uint32_t bucket_mask;
    uint64_t id;
    uint64_t device, inode;
    int fd; /* to reserve space in the file */
    volatile sig_atomic_t lost;
    char path[TABLE_PATH_MAX];
    struct pair_table *next; /* of those that this process has mapped */
};

/* What a program stores after this, it does not store earlier either: a signal would see it, and so
 * would a repair. */
static inline void table_set_state(struct slot *slot, enum pair_state state)
{
    atomic_store_explicit(&slot->state, (uint8_t)state, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

/* The slot that a link or an index names, NULL if there is no such slot. */
struct slot *table_slot(const struct pair_table *table, uint32_t index);
struct slot *table_follow(const struct pair_table *table, slot_link link);
slot_link table_link(const struct pair_table *table, const struct slot *slot);
struct pair_ref table_ref(const struct pair_table *table, const struct slot *slot);
/* The slot of a reference that is not stale, else NULL. */
struct slot *table_find(const struct pair_table *table, struct pair_ref ref);

/* How many slots have ever been used, and so may be looked at: never more than there are. */
uint32_t table_end(const struct pair_table *table);
/* Whether the memory is still that of this table, retired or not. */
bool table_is_ours(const struct pair_table *table);

/* Locks are repaired when their holder died; a worker that holds one for a second has
 * stalled, and is killed. 0 or a negative errno: -EIDRM when the memory is no table any more, or
 * another table has taken its place. */
int table_lock_entry(struct pair_table *table);
void table_unlock_entry(struct pair_table *table);
int table_lock_key(struct pair_table *table, const struct pair_key *key);
void table_unlock_key(struct pair_table *table, const struct pair_key *key);

/* Under the key's stripe lock: the first who waits under a key, and its neighbours. */
struct slot *table_waiting(struct pair_table *table, const struct pair_key *key);
void table_add_waiting(struct pair_table *table, struct slot *slot);
void table_remove_waiting(struct pair_table *table, struct slot *slot);

/* Under the entry lock. Taking a slot counts it, under its source as well, as unclaimed. 0,
 * -ENOSPC when there is none, -ENOMEM when the file system has no space for it. */
int table_take_slot(struct pair_table *table, uint64_t source, struct slot **ret);
void table_free_slot(struct pair_table *table, struct slot *slot);
void table_claim_slot(struct pair_table *table, struct slot *slot);
/* Whether at least `limit` slots are taken by this source. */
bool table_source_reached(struct pair_table *table, uint64_t source, uint32_t limit);

/* -- between table.c, table_lock.c and table_file.c -------------------------------- */

/* The stripe that a key belongs to. */
struct stripe *table_key_stripe(const struct pair_table *table, const struct pair_key *key);
/* Make the lists anew from the slots, under the lock that guards them: those of the entry lock; of
 * a stripe, for which the entry lock is needed as well. */
void table_repair_entry(struct pair_table *table);
void table_repair_stripe(struct pair_table *table, struct stripe *stripe);

/* Makes a lock in a new table. 0 or a negative errno. */
int table_init_lock(struct table_lock *lock);
/* This process's id, without a system call each time; table_watch_forks() is called before: 0 or
 * -ENOMEM. */
int32_t table_own_process(void);
int table_watch_forks(void);

/* Whether the memory is still that of this table, and no other table has taken its place. */
bool table_is_whole(const struct pair_table *table);
/* Reserves `size` bytes of space in the file, from byte `from` on. 0, also where the file system
 * cannot do that; -ENOMEM when it is full; or another negative errno. */
int table_reserve(int fd, size_t from, size_t size);

#endif
