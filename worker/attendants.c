/* The attendants: see attendants.h. */
#include "worker/attendants.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "forward/launch.h"
#include "ident.h"
#include "pair.h"
#include "proto/tls.h"
#include "usage/recorder.h"
#include "usage/usage.h"
#include "worker/forwarding.h"
#include "worker/pool.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PORCH_PART = 2,          /* of all connections at most one in so many stands on the porch, */
    PORCH_SOURCE_PART = 4,   /* and of those at most one in so many is from one source */
    PORCH_STALL_TIME = 2000, /* milliseconds without a move, before the porch is replaced */
    PORCH_LOOK = 500,        /* milliseconds between two looks at a porch that is in use */
};

/* ---- the porch ------------------------------------------------------------------- */

static _Noreturn void run_porch(struct server *server)
{
    int64_t places = server->options->limits.connections / PORCH_PART + 1;
    notify_close();
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    process_name("relay-porch", "porch", server->options->runtime_directory);
    _exit(porch_run(&server->porch, (size_t)places, (size_t)(places / PORCH_SOURCE_PART + 1),
        &server->board->porch_pulse));
}

static int start_porch(struct server *server)
{
    atomic_store(&server->board->porch_pulse.due, INT64_MAX);
    pid_t pid = fork();
    if (pid == 0)
        run_porch(server);
    if (pid > 0) {
        atomic_store(&server->board->porch, pid);
        return 0;
    }
    log_error_errno("cannot start the porch");
    server_pause_starting(server);
    return -1;
}

void attendants_forsake_porch(struct server *server, pid_t porch)
{
    pair_free_greetings(server->worker.table, porch);
    pair_free_greetings(server->worker.table, server->pid);
}

/* A porch that has something to do, and has not moved for PORCH_STALL_TIME, is stalled. If the
 * parent has not looked for long either, all processes stood still: the porch is not to blame. */
static void kill_stalled_porch(struct server *server)
{
    int64_t now = clock_now();
    int32_t porch = atomic_load(&server->board->porch);
    uint32_t turns = atomic_load(&server->board->porch_pulse.turns);
    bool is_due = atomic_load(&server->board->porch_pulse.due) <= now;
    bool looked = now - server->porch_looked < PORCH_STALL_TIME / 2;
    server->porch_looked = now;
    if (turns != server->porch_turns || !looked || !(is_due || porch_is_wanted(&server->porch))) {
        server->porch_turns = turns;
        server->porch_moved = now;
    } else if (porch > 0 && now - server->porch_moved >= PORCH_STALL_TIME) {
        log_warning("the porch has not moved for %d s: replacing it", PORCH_STALL_TIME / 1000);
        (void)kill(porch, SIGKILL); /* on failure it is gone, and reaped next */
        server->porch_moved = now;
    }
}

int attendants_watch_porch(struct server *server)
{
    struct board *board = server->board;
    if (atomic_load(&board->porch_used) == 0)
        return -1;
    /* Cleared before the look, as a worker may be sending a connection there just now. */
    atomic_store(&board->porch_used, 0);
    bool empty =
        atomic_load(&board->porch_pulse.due) == INT64_MAX && !porch_is_wanted(&server->porch);
    if (empty)
        return -1;
    atomic_store(&board->porch_used, 1);
    kill_stalled_porch(server);
    return PORCH_LOOK;
}

/* ---- the certificate's keeper ---------------------------------------------------- */

int attendants_start_certificate_keeper(struct server *server)
{
    server->certificate_keeper = tls_keep(server->worker.tls);
    if (server->certificate_keeper >= 0)
        return 0;
    server_pause_starting(server);
    return -1;
}

/* Earlier workers would ask the keeper that is dead, so idle ones give way to new ones. */
static int replace_certificate_keeper(struct server *server)
{
    if (attendants_start_certificate_keeper(server) < 0)
        return -1;
    pool_dismiss_idle(server, server->board->size);
    return 0;
}

/* ---- the forwarder and its recorder ---------------------------------------------- */

static _Noreturn void run_recorder_keeper(struct server *server)
{
    notify_close();
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    recorder_keep(server->options, &server->runtime, server->records[0]);
}

/* The parent keeps the pipe, so that a new keeper loses no record that is in it. */
static int start_recorder(struct server *server)
{
    int error = server->records[0] >= 0 ? 0 : recorder_open(server->records);
    if (error == 0) {
        server->recorder_keeper = fork();
        if (server->recorder_keeper == 0)
            run_recorder_keeper(server);
        if (server->recorder_keeper > 0)
            return 0;
        error = -errno;
    }
    errno = -error;
    log_error_errno("cannot start the recorder");
    server_pause_starting(server);
    return -1;
}

static _Noreturn void run_own_forwarder(struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++)
        close(server->sockets[i]);
    porch_close(&server->porch);
    forwarding_close_answer(server);
    close(server->signals);
    close(server->nudge);
    notify_close();
    if (server->pid_file >= 0)
        close(server->pid_file);
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    (void)sigprocmask(SIG_SETMASK, &server->inherited_mask, NULL);
    if (server->records[0] >= 0)
        close(server->records[0]);
    _exit(launch_child(server->options, &server->runtime, server->handoff_socket,
        server->records[1], server->pid));
}

static int start_forwarder(struct server *server)
{
    server->forwarder_since = clock_now();
    server->forwarder = fork();
    if (server->forwarder == 0)
        run_own_forwarder(server);
    if (server->forwarder > 0)
        return 0;
    log_error_errno("cannot start the forwarder");
    server_pause_starting(server);
    return -1;
}

void attendants_end_forwarder(struct server *server)
{
    int64_t until = clock_now() + FORWARDER_END_TIME;
    if (server->forwarder > 0)
        (void)kill(server->forwarder, SIGTERM);
    while (server->forwarder > 0) {
        if (clock_now() >= until) {
            log_warning("the forwarder does not end: killing it");
            (void)kill(server->forwarder, SIGKILL);
            until = INT64_MAX;
        }
        server_wait(server, BUSY_CHECK);
    }
}

/* ---- all of them ----------------------------------------------------------------- */

int attendants_keep(struct server *server)
{
    bool has_own_forwarder = server->handoff_socket >= 0;
    bool has_recorder = has_own_forwarder && usage_wanted(&server->options->usage);
    if (has_recorder && server->recorder_keeper < 0 && start_recorder(server) < 0)
        return -1;
    if (has_own_forwarder && server->forwarder < 0 && start_forwarder(server) < 0)
        return -1;
    if (server->certificate_keeper < 0 && replace_certificate_keeper(server) < 0)
        return -1;
    if (atomic_load(&server->board->porch) == 0 && start_porch(server) < 0)
        return -1;
    return 0;
}

static void note_forwarder_end(struct server *server, int status)
{
    if (!server->stopping)
        server_log_death("forwarder", server->forwarder, status);
    if (clock_now() - server->forwarder_since < FAILURE_PAUSE)
        server_pause_starting(server);
    server->forwarder = -1;
}

static void note_porch_end(struct server *server, pid_t porch, int status)
{
    server_log_death("porch", porch, status);
    atomic_store(&server->board->porch, server->stopping ? PORCH_CLOSED : 0);
    attendants_forsake_porch(server, porch);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        server_pause_starting(server);
}

static void note_keeper_end(struct server *server, const char *name, pid_t *keeper, int status)
{
    server_log_death(name, *keeper, status);
    server_pause_starting(server);
    *keeper = -1;
}

bool attendants_note_end(struct server *server, pid_t pid, int status)
{
    if (pid == server->forwarder)
        note_forwarder_end(server, status);
    else if (pid == atomic_load(&server->board->porch))
        note_porch_end(server, pid, status);
    else if (pid == server->recorder_keeper)
        note_keeper_end(server, "recorder's keeper", &server->recorder_keeper, status);
    else if (pid == server->certificate_keeper)
        note_keeper_end(server, "certificate's keeper", &server->certificate_keeper, status);
    else
        return false;
    return true;
}
