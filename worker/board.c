/* The board: see board.h. */
#include "worker/board.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum {
    HURRY_AFTER = 500, /* milliseconds that a connection has before it gives way to another */
    HOLDERS_PART = 2,  /* unfinished greetings hold at most one worker in so many */
    CROWDS = 1024,     /* counters for the sources of those greetings */
};

struct board *board_make(size_t size)
{
    size_t bytes = sizeof(struct board) + size * sizeof(struct board_entry);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    struct board *board = memory;
    board->size = size;
    return board;
}

size_t board_count(const struct board *board, enum worker_state state)
{
    size_t count = 0;
    for (size_t i = 0; i < board->size; i++)
        count += atomic_load_explicit(&board->workers[i].state, memory_order_relaxed) == state;
    return count;
}

/* A worker asks this for each connection, so it stops counting at `count`. */
bool board_has_idle(const struct board *board, size_t count)
{
    size_t idle = 0;
    for (size_t i = 0; i < board->size && idle < count; i++)
        idle += atomic_load_explicit(&board->workers[i].state, memory_order_relaxed) == WORKER_IDLE;
    return idle >= count;
}

struct board_entry *board_find(struct board *board, pid_t pid)
{
    for (size_t i = 0; i < board->size; i++)
        if (atomic_load(&board->workers[i].pid) == pid)
            return &board->workers[i];
    return NULL;
}

bool board_is_busy_since(const struct board *board, int64_t since)
{
    for (size_t i = 0; i < board->size; i++) {
        const struct board_entry *entry = &board->workers[i];
        if (atomic_load(&entry->state) == WORKER_BUSY && atomic_load(&entry->since) <= since)
            return true;
    }
    return false;
}

void board_set_state(struct board_entry *entry, enum worker_state state)
{
    atomic_store(&entry->since, clock_now());
    atomic_store(&entry->crowd, 0);
    atomic_store(&entry->state, state);
}

/* ---- a connection gives way ------------------------------------------------------ */

/* Has this connection give way, but no later connection of the same worker. It may be told twice.
 * Returns whether it had not been told before. */
static bool hurry_connection(struct board_entry *entry, uint32_t visit)
{
    uint32_t last = atomic_load(&entry->hurried);
    bool first = last != visit && atomic_compare_exchange_strong(&entry->hurried, &last, visit);
    int32_t pid = atomic_load(&entry->pid);
    if (pid > 0)
        (void)kill(pid, SIGUSR1); /* on failure the worker is gone, which serves as well */
    return first;
}

void board_hurry_all(struct board *board)
{
    for (size_t i = 0; i < board->size; i++) {
        struct board_entry *entry = &board->workers[i];
        uint32_t visit = atomic_load(&entry->visit);
        if (atomic_load(&entry->pid) > 0 && atomic_load(&entry->state) == WORKER_BUSY)
            (void)hurry_connection(entry, visit);
    }
}

/* An honest client needs two round trips, so it is hardly ever the slowest. */
void board_hurry_slowest(struct board *board)
{
    struct board_entry *slowest = NULL;
    uint32_t visit = 0;
    for (size_t i = 0; i < board->size; i++) {
        struct board_entry *entry = &board->workers[i];
        uint32_t number = atomic_load(&entry->visit);
        if (atomic_load(&entry->state) != WORKER_BUSY ||
            (slowest != NULL && atomic_load(&entry->since) >= atomic_load(&slowest->since)))
            continue;
        slowest = entry;
        visit = number;
    }
    if (slowest != NULL && clock_now() - atomic_load(&slowest->since) >= HURRY_AFTER)
        (void)hurry_connection(slowest, visit);
}

/* ---- unfinished greetings that hold a worker ------------------------------------- */

struct holders {
    size_t count;
    uint16_t crowds[CROWDS]; /* how many by source; a few sources may share a counter */
    uint16_t largest;
};

static uint16_t *crowd_size(struct holders *holders, uint64_t crowd)
{
    return &holders->crowds[crowd % CROWDS];
}

static void count_holders(const struct board *board, struct holders *holders)
{
    *holders = (struct holders){.count = 0};
    for (size_t i = 0; i < board->size; i++) {
        uint64_t crowd = atomic_load(&board->workers[i].crowd);
        if (crowd == 0)
            continue;
        holders->count++;
        uint16_t size = ++*crowd_size(holders, crowd);
        holders->largest = size > holders->largest ? size : holders->largest;
    }
}

/* Among the sources that hold most workers: the greeting that has held its worker longest, and has
 * not been told to give way yet. */
static struct board_entry *find_holder(
    struct board *board, struct holders *holders, uint32_t *ret_visit)
{
    struct board_entry *oldest = NULL;
    for (size_t i = 0; i < board->size; i++) {
        struct board_entry *entry = &board->workers[i];
        uint32_t visit = atomic_load(&entry->visit); /* read before what is true of this visit */
        uint64_t crowd = atomic_load(&entry->crowd);
        if (crowd == 0 || atomic_load(&entry->hurried) == visit ||
            *crowd_size(holders, crowd) != holders->largest ||
            (oldest != NULL && atomic_load(&entry->since) >= atomic_load(&oldest->since)))
            continue;
        oldest = entry;
        *ret_visit = visit;
    }
    return oldest;
}

/* Unfinished greetings may hold half of the workers; the others serve whole greetings. Beyond that,
 * another greeting has to give way: at once if its source holds more workers than this one, else
 * after HURRY_AFTER, as an honest client needs two round trips. */
int board_hold(struct board *board, struct board_entry *entry, uint64_t source)
{
    struct holders holders;
    uint64_t crowd = source == 0 ? 1 : source;
    size_t share = board->size / HOLDERS_PART;
    count_holders(board, &holders);
    if (holders.count >= (share == 0 ? 1 : share)) {
        uint32_t visit;
        struct board_entry *other = find_holder(board, &holders, &visit);
        if (other == NULL)
            return -EAGAIN;
        bool smaller = *crowd_size(&holders, crowd) + 1 < holders.largest;
        if (!smaller && clock_now() - atomic_load(&other->since) < HURRY_AFTER)
            return -EAGAIN;
        if (!hurry_connection(other, visit))
            return -EAGAIN; /* another greeting has taken its place just now */
    }
    atomic_store(&entry->crowd, crowd);
    return 0;
}
