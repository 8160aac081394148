/* The pool of workers: see pool.h. */
#include "worker/pool.h"

#include "base/clock.h"
#include "base/log.h"
#include "worker/accept.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    MOVING_CHECK = 5,    /* milliseconds in which busy workers take another connection each */
    RETIRE_PAUSE = 1000, /* milliseconds between two retirements of idle workers */
    LEAVE_TIME = 1000,   /* milliseconds for an idle worker to end, before it is killed */
    OVERTIME = 5000, /* milliseconds after a handshake's deadline, before its worker is killed */
};

bool pool_start_worker(struct server *server)
{
    for (size_t i = 0; i < server->board->size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        if (atomic_load(&entry->state) != WORKER_NONE)
            continue;
        board_set_state(entry, WORKER_IDLE);
        pid_t pid = fork();
        if (pid == 0)
            accept_run(server, entry);
        if (pid < 0) {
            log_error_errno("cannot start a worker");
            atomic_store(&entry->state, WORKER_NONE);
            server_pause_starting(server);
            return false;
        }
        atomic_store(&entry->pid, pid);
        return true;
    }
    return false;
}

void pool_dismiss_idle(struct server *server, size_t count)
{
    for (size_t i = server->board->size; i-- > 0 && count > 0;) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t idle = WORKER_IDLE;
        if (!atomic_compare_exchange_strong(&entry->state, &idle, WORKER_LEAVING))
            continue;
        atomic_store(&entry->since, clock_now());
        (void)kill(atomic_load(&entry->pid), SIGTERM);
        count--;
    }
}

/* Retires half of the workers beyond SPARE_MAX at a time, as the next flood may be near. */
static void retire_idle(struct server *server, size_t idle)
{
    int64_t now = clock_now();
    if (idle <= SPARE_MAX || now < server->next_retirement)
        return;
    pool_dismiss_idle(server, (idle - SPARE_MAX + 1) / 2);
    server->next_retirement = now + RETIRE_PAUSE;
}

/* A connection waits, and no worker has taken any since it came: the idle workers that the kernel
 * woke for it are stalled, so new workers take their place. */
static void replace_stalled(struct server *server)
{
    if (server->stall_check == 0 || clock_now() < server->stall_check)
        return;
    server->stall_check = 0;
    if (atomic_load(&server->board->accepts) == server->accepts_before &&
        server_has_waiting(server))
        pool_dismiss_idle(server, server->board->size);
}

void pool_kill_overdue(struct server *server)
{
    int64_t now = clock_now();
    int64_t handshake = (int64_t)server->options->handshake_timeout * 1000 + OVERTIME;
    for (size_t i = 0; i < server->board->size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t state = atomic_load(&entry->state);
        int64_t time = now - atomic_load(&entry->since);
        if ((state == WORKER_BUSY && time > handshake) ||
            (state == WORKER_LEAVING && time > LEAVE_TIME))
            (void)kill(atomic_load(&entry->pid), SIGKILL);
    }
}

/* Whether busy workers take one connection after another. Then a new client is served sooner than a
 * new worker starts, and more workers would only compete for the processors. */
static bool is_moving(struct server *server, size_t idle, int64_t now)
{
    if (now - server->moving_check >= MOVING_CHECK) {
        uint64_t accepts = atomic_load(&server->board->accepts);
        size_t busy = server->board->size - board_count(server->board, WORKER_NONE) - idle;
        server->moving = busy > 0 && now - server->moving_check < 2L * MOVING_CHECK &&
                         accepts - server->moving_accepts >= busy;
        server->moving_accepts = accepts;
        server->moving_check = now;
    }
    return server->moving;
}

int pool_keep(struct server *server)
{
    const struct board *board = server->board;
    replace_stalled(server);
    pool_kill_overdue(server);
    size_t idle = board_count(board, WORKER_IDLE);
    bool moving = idle < SPARE_MIN && is_moving(server, idle, clock_now());
    while (idle < SPARE_MIN && !moving && pool_start_worker(server))
        idle++;
    if (moving)
        return MOVING_CHECK;
    if (idle == 0) {
        if (server_has_waiting(server))
            board_hurry_slowest(server->board);
        return BUSY_CHECK;
    }
    retire_idle(server, idle);
    if (server->stall_check != 0)
        return STALL_CHECK;
    /* Busy workers become idle without telling the parent. */
    bool settled = idle <= SPARE_MAX && idle + board_count(board, WORKER_NONE) == board->size;
    return settled ? -1 : RETIRE_PAUSE;
}

bool pool_note_end(struct server *server, pid_t pid, int status)
{
    struct board_entry *entry = board_find(server->board, pid);
    if (entry == NULL)
        return false;
    server_log_death("worker", pid, status);
    bool failed = WIFEXITED(status) && WEXITSTATUS(status) != 0;
    if (failed && clock_now() - atomic_load(&entry->since) < FAILURE_PAUSE)
        server_pause_starting(server);
    atomic_store(&entry->pid, 0);
    board_set_state(entry, WORKER_NONE);
    return true;
}

static void stop_busy(const struct board *board)
{
    for (size_t i = 0; i < board->size; i++) {
        pid_t pid = atomic_load(&board->workers[i].pid);
        if (pid > 0 && atomic_load(&board->workers[i].state) == WORKER_BUSY)
            (void)kill(pid, SIGTERM); /* on failure it is gone, and reaped next */
    }
}

void pool_stop(struct server *server)
{
    while (board_count(server->board, WORKER_NONE) < server->board->size) {
        pool_dismiss_idle(server, server->board->size);
        stop_busy(server->board);
        board_hurry_all(server->board);
        pool_kill_overdue(server);
        server_wait(server, BUSY_CHECK);
        server_reap(server);
    }
}
