/* The table's locks: see table.h. When the holder of a lock died, the lists are repaired. A worker
 * that holds a lock for too long is killed. A lock that stays taken while no living process holds
 * it was overwritten, and the table is retired. */
#include "table.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum {
    STALL_SECONDS = 1, /* without progress, before the holder is killed */
    ORPHAN_STALLS = 5, /* times of it, with no living holder, before the table is retired */
};

/* ---- this process ---------------------------------------------------------------- */

static pid_t own_process;

static void forget_own_process(void)
{
    own_process = 0;
}

int32_t table_own_process(void)
{
    if (own_process == 0)
        own_process = getpid();
    return (int32_t)own_process;
}

int table_watch_forks(void)
{
    static bool watching;
    if (!watching && pthread_atfork(NULL, NULL, forget_own_process) != 0)
        return -ENOMEM;
    watching = true;
    return 0;
}

/* ---- locks ----------------------------------------------------------------------- */

/* A lock is held for microseconds. A worker that holds it for long was stopped in the middle, and
 * would stop all other processes: it is killed, which a repair makes good. The forwarder is not
 * killed. Returns whether a living process holds the lock. */
static bool kill_stalled(const struct pair_table *table, int32_t holder)
{
    if (holder <= 1)
        return false;
    if (holder == atomic_load(&table->header->forwarder))
        return kill(holder, 0) == 0 || errno != ESRCH;
    return kill(holder, SIGKILL) == 0 || errno != ESRCH;
}

/* Waits for a lock. When it was not passed on for STALL_SECONDS, its holder is looked at. Returns
 * the mutex's error; EIDRM when the memory holds no table any more, or when no living process held
 * the lock for so long that it must have been overwritten. */
static int wait_for_lock(struct pair_table *table, struct table_lock *lock)
{
    unsigned int orphaned = 0;
    while (table_is_usable(table)) {
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

/* Returns 0; -EOWNERDEAD when the caller has to repair and call finish_repair(); or another
 * negative errno. */
static int acquire_lock(struct pair_table *table, struct table_lock *lock)
{
    if (!table_is_usable(table))
        return -EIDRM;
    int error = pthread_mutex_trylock(&lock->mutex);
    if (error == EBUSY)
        error = wait_for_lock(table, lock);
    if (error != 0 && error != EOWNERDEAD)
        return -error;
    if (error == 0 && !table_is_usable(table)) {
        pthread_mutex_unlock(&lock->mutex);
        return -EIDRM;
    }
    atomic_store(&lock->holder, table_own_process());
    atomic_fetch_add(&lock->turn, 1);
    return -error;
}

static int finish_repair(struct pair_table *table, struct table_lock *lock)
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
    int error = acquire_lock(table, &table->header->entry);
    if (error == -EOWNERDEAD) {
        table_repair_entry(table);
        error = finish_repair(table, &table->header->entry);
    }
    return error;
}

void table_unlock_entry(struct pair_table *table)
{
    release_lock(&table->header->entry);
}

/* Repairs a stripe, under the entry lock, so that no slot is taken, freed or given a key meanwhile.
 * If that fails, the stripe's lock is released and stays unusable. */
static int lock_and_repair_stripe(struct pair_table *table, struct stripe *stripe)
{
    int error = table_lock_entry(table);
    if (error == 0) {
        table_repair_stripe(table, stripe);
        table_unlock_entry(table);
        return finish_repair(table, &stripe->lock);
    }
    release_lock(&stripe->lock);
    return error;
}

int table_lock_key(struct pair_table *table, const struct pair_key *key)
{
    struct stripe *stripe = table_key_stripe(table, key);
    int error = acquire_lock(table, &stripe->lock);
    return error == -EOWNERDEAD ? lock_and_repair_stripe(table, stripe) : error;
}

void table_unlock_key(struct pair_table *table, const struct pair_key *key)
{
    release_lock(&table_key_stripe(table, key)->lock);
}

int table_init_lock(struct table_lock *lock)
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
