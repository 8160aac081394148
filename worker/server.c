/* The running server: see server.h. */
#include "worker/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "pair.h"
#include "setup/runtime.h"
#include "worker/attendants.h"
#include "worker/forwarding.h"
#include "worker/link.h"
#include "worker/pool.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SEEK_PAUSE = 10, /* milliseconds between two looks for a forwarder that is starting or ending */
};

void server_pause_starting(struct server *server)
{
    server->paused_until = clock_now() + FAILURE_PAUSE;
}

/* ---- events ---------------------------------------------------------------------- */

void server_log_death(const char *name, pid_t pid, int status)
{
    if (WIFSIGNALED(status))
        log_warning("%s %d was killed by signal %d", name, (int)pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_warning("%s %d failed with status %d", name, (int)pid, WEXITSTATUS(status));
}

void server_reap(struct server *server)
{
    int status;
    pid_t pid;
    /* Other children are orphans, which the first process of a container is given. */
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (!attendants_note_end(server, pid, status))
            pool_note_end(server, pid, status);
}

static void take_signals(struct server *server)
{
    struct signalfd_siginfo info;
    while (read(server->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD)
            server->stopping = true;
    }
    server_reap(server);
}

/* A new connection is for the workers. The parent only notes when it came, and looks after
 * STALL_CHECK whether a worker has taken one. */
void server_wait(struct server *server, int timeout)
{
    uint64_t nudges;
    struct pollfd entries[3 + SOCKETS_MAX] = {
        {.fd = server->signals, .events = POLLIN},
        {.fd = server->nudge, .events = POLLIN},
    };
    size_t count = 2;
    if (server->stall_check == 0)
        entries[count++] = (struct pollfd){.fd = server->porch.leave[1], .events = POLLIN};
    for (size_t i = 0; server->stall_check == 0 && i < server->socket_count; i++)
        entries[count++] = (struct pollfd){.fd = server->sockets[i], .events = POLLIN};
    int ready = poll(entries, count, timeout);
    if (ready <= 0)
        return;
    int others = (entries[0].revents != 0) + (entries[1].revents != 0);
    if (ready > others) {
        server->accepts_before = atomic_load(&server->board->accepts);
        server->stall_check = clock_now() + STALL_CHECK;
    }
    if (entries[1].revents != 0)
        (void)!read(server->nudge, &nudges, sizeof nudges);
    if (entries[0].revents != 0)
        take_signals(server);
}

bool server_has_waiting(const struct server *server)
{
    struct pollfd entries[1 + SOCKETS_MAX] = {{.fd = server->porch.leave[1], .events = POLLIN}};
    for (size_t i = 0; i < server->socket_count; i++)
        entries[1 + i] = (struct pollfd){.fd = server->sockets[i], .events = POLLIN};
    return poll(entries, 1 + server->socket_count, 0) > 0;
}

void server_close_sockets(struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++)
        close(server->sockets[i]);
    server->socket_count = 0;
}

/* ---- everything in its place ----------------------------------------------------- */

/* Makes a runtime directory that was removed anew, and this server's locks in it. Our own forwarder
 * goes on there. Another server's forwarder stays with the directory that was removed; and so does
 * our own, if another server has made a forwarder in the new directory by now. -1: this user may
 * not make the directory, so the server has to be started anew. */
static int renew_directory(struct server *server)
{
    struct runtime *runtime = &server->runtime;
    const char *directory = server->options->runtime_directory;
    if (runtime_holds(runtime->users_lock, server->worker.users_lock))
        return 0;
    log_warning("the runtime directory %s was removed or replaced", directory);
    if (runtime_prepare(server->options, runtime) < 0)
        return -1;
    int lock = runtime_lock(runtime->users_lock, true, true);
    if (lock < 0) {
        errno = -lock;
        log_error_errno("cannot lock %s", runtime->users_lock);
        return -1;
    }
    close(server->worker.users_lock);
    server->worker.users_lock = lock;
    lock = server->handoff_socket < 0 ? -1 : runtime_lock(runtime->forward_lock, false, false);
    if (lock >= 0) {
        close(server->forward_lock);
        server->forward_lock = lock;
        return 0;
    }
    if (server->handoff_socket >= 0)
        forwarding_drop(server);
    atomic_store(&server->board->forwarder_sought, true);
    return 0;
}

/* If the table was removed, replaced or damaged, opens the table that is at its path now, for all
 * workers that start from now on. Earlier workers notice it themselves, and end. */
static int renew_table(struct server *server)
{
    struct pair_table *last = server->worker.table;
    if (pair_check(last) == 0)
        return 0;
    if (server->failed || renew_directory(server) < 0) {
        server->failed = server->stopping = true;
        return -1;
    }
    if (runtime_open_table(server->options, &server->runtime, false, &server->worker.table) < 0) {
        server->worker.table = last;
        server_pause_starting(server);
        return -1;
    }
    log_warning("the table %s had been removed, replaced or damaged: new clients meet in the "
                "table that is there now",
        server->runtime.table);
    pair_close(last);
    if (!atomic_load(&server->board->forwarder_sought))
        link_offer_table(&server->worker);
    pool_dismiss_idle(server, server->board->size);
    return 0;
}

int server_keep(struct server *server)
{
    int64_t now = clock_now();
    if (now < server->paused_until)
        return (int)(server->paused_until - now);
    if (atomic_load(&server->board->forwarder_sought) && forwarding_replace(server) < 0)
        return SEEK_PAUSE;
    if (attendants_keep(server) < 0 || renew_table(server) < 0)
        return FAILURE_PAUSE;
    return pool_keep(server);
}
