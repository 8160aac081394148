/* A worker of the pool: see accept.h. What it does with a connection is worker.c's. */
#include "worker/accept.h"

#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "pair.h"
#include "proto/greeting.h"
#include "worker/forwarding.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TURNS = 16, /* connections taken in a row from one socket */
};

static volatile sig_atomic_t is_told_to_stop;

/* For the signal handlers. */
static struct {
    const struct server *server;
    struct board_entry *entry; /* of this worker */
    int epoll;
} listening = {NULL, NULL, -1};

/* Closes the listening sockets at once, even in the middle of a greeting, so that the next server
 * can bind their addresses. If the signal comes just before epoll_wait() or accept4(), these fail
 * on the closed descriptors. If the parent is dead, the sockets stop listening for all workers, as
 * another worker that is stalled would keep them. */
static void stop_worker(int signal)
{
    const struct server *server = listening.server;
    int error = errno;
    (void)signal;
    if (is_told_to_stop)
        return;
    is_told_to_stop = 1;
    bool orphaned = getppid() != server->pid;
    for (size_t i = 0; i < server->socket_count; i++) {
        if (orphaned && !server->sockets_passed)
            (void)shutdown(server->sockets[i], SHUT_RDWR); /* on failure another worker did it */
        close(server->sockets[i]);
    }
    close(listening.epoll);
    errno = error;
}

/* Interrupts the greeting, unless the connection that had to give way has gone by now. */
static void heed_hurry(int signal)
{
    if (atomic_load(&listening.entry->hurried) == atomic_load(&listening.entry->visit))
        greeting_interrupt(signal);
}

/* Exclusively: the kernel wakes one of the idle workers, not all of them. */
static bool watch_socket(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static int watch_sockets(const struct server *server)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    bool good = epoll >= 0 && watch_socket(epoll, server->porch.leave[1]);
    for (size_t i = 0; good && i < server->socket_count; i++)
        good = watch_socket(epoll, server->sockets[i]);
    if (good)
        return epoll;
    if (epoll >= 0)
        close(epoll);
    return -1;
}

static void nudge_parent(const struct server *server)
{
    uint64_t one = 1;
    (void)!write(
        server->nudge, &one, sizeof one); /* fails if the parent has as many nudges to read */
}

/* visit: NULL, or what the porch says of a connection that comes back from there. */
static void serve_connection(
    struct server *server, struct board_entry *entry, struct visit *visit, int fd)
{
    struct worker *worker = &server->worker;
    atomic_fetch_add(&entry->visit, 1);
    board_set_state(entry, WORKER_BUSY);
    atomic_fetch_add(&server->board->accepts, 1);
    worker->patient = board_has_idle(server->board, SPARE_MIN);
    if (!worker->patient)
        nudge_parent(server);
    greeting_resume();
    worker->closing = atomic_load(&server->board->closing);
    worker->porch_used = false;
    if (visit == NULL)
        worker_greet(worker, fd);
    else
        worker_resume(worker, visit, fd);
    if (worker->porch_used && !atomic_exchange(&server->board->porch_used, 1))
        nudge_parent(server);
    board_set_state(entry, WORKER_IDLE);
}

/* Serves the next connection of a socket. 0, or a negative errno: -EAGAIN: there is none. */
static int accept_connection(struct server *server, struct board_entry *entry, int socket)
{
    struct visit visit;
    int fd = -1, error = 0;
    bool returned = socket == server->porch.leave[1];
    if (returned)
        error = porch_take(&server->porch, &visit, &fd);
    else if ((fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0)
        error = -errno;
    if (error == 0)
        serve_connection(server, entry, returned ? &visit : NULL, fd);
    return error;
}

/* Returns the exit status. */
static int accept_connections(struct server *server, struct board_entry *entry)
{
    int uses = 0, turns = 0;
    bool waiting = true;
    struct epoll_event event;
    while (!is_told_to_stop && uses < server->options->max_use) {
        int ready = waiting ? epoll_wait(listening.epoll, &event, 1, -1) : 1;
        if (ready < 0 && errno != EINTR && !is_told_to_stop)
            return EXIT_RUN_TIME;
        if (ready <= 0)
            continue;
        if (pair_check(server->worker.table) != 0)
            return 0; /* a new worker, with the new table, takes the connection that waits */
        int error = accept_connection(server, entry, event.data.fd);
        uses += error == 0;
        /* More may have come to this socket; but the other sockets have their turns, too. */
        waiting = error != 0 || ++turns % TURNS == 0;
        if (error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM) {
            errno = -error;
            log_repeated_errno(LOG_WARNING, "cannot accept a connection");
            return EXIT_RUN_TIME; /* the parent pauses before it starts another worker */
        }
    }
    return 0;
}

/* Asks the parent to find a forwarder, or to start one. False: the server stops, and will not. */
static bool seek_forwarder(void)
{
    struct board *board = listening.server->board;
    if (atomic_load(&board->closing))
        return false;
    atomic_store(&board->forwarder_sought, true);
    nudge_parent(listening.server);
    return true;
}

static int hold_this_worker(uint64_t source)
{
    return board_hold(listening.server->board, listening.entry, source);
}

static void close_records(const struct server *server)
{
    for (size_t i = 0; i < 2; i++)
        if (server->records[i] >= 0)
            close(server->records[i]);
}

static int handle_signals(void)
{
    struct sigaction stop = {.sa_handler = stop_worker, .sa_flags = SA_RESTART};
    struct sigaction heed = {.sa_handler = heed_hurry};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t none;
    sigemptyset(&none);
    /* SIGINT from the terminal reaches all processes, but only the parent acts on it. */
    if (sigaction(SIGTERM, &stop, NULL) < 0 || sigaction(SIGUSR1, &heed, NULL) < 0 ||
        sigaction(SIGINT, &ignore, NULL) < 0)
        return -1;
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn void accept_run(struct server *server, struct board_entry *entry)
{
    int status = EXIT_RUN_TIME;
    if (!process_end_with_parent(server->pid, SIGTERM))
        _exit(0);
    close(server->signals);
    notify_close();
    if (server->pid_file >= 0)
        close(server->pid_file);
    forwarding_close_answer(server);
    close_records(server);
    if (server->forward_lock >= 0)
        close(server->forward_lock);
    if (server->handoff_socket >= 0)
        close(server->handoff_socket);
    process_name("relay-worker", "worker", server->options->runtime_directory);
    listening.server = server;
    listening.entry = entry;
    server->worker.hold = hold_this_worker;
    server->worker.seek = seek_forwarder;
    listening.epoll = watch_sockets(server);
    if (listening.epoll < 0 || handle_signals() < 0)
        log_error_errno("cannot start a worker");
    else if (sandbox_enter(SANDBOX_WORKER, server->worker.forwarder) == 0)
        status = accept_connections(server, entry);
    _exit(status);
}
