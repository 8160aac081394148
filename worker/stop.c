/* How the server comes to its end: see stop.h. */
#include "worker/stop.h"

#include "base/clock.h"
#include "base/notify.h"
#include "worker/attendants.h"
#include "worker/forwarding.h"
#include "worker/listen.h"
#include "worker/pool.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
    PORCH_END_TIME = 2000, /* milliseconds for the porch to end, before it is killed */
};

/* Waits until the handshakes in progress have ended. New clients are told that the server stops. */
static void finish_handshakes(struct server *server)
{
    int64_t now = clock_now();
    atomic_store(&server->board->closing, true);
    board_hurry_all(server->board);
    while (board_is_busy_since(server->board, now)) {
        pool_kill_overdue(server);
        server_wait(server, BUSY_CHECK);
    }
}

static bool connections_return(const struct server *server)
{
    struct pollfd entry = {.fd = server->porch.leave[1], .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

/* Has the porch send all connections back to the workers, which end them. Meanwhile the workers
 * serve new clients. */
static void empty_porch(struct server *server)
{
    pid_t porch = atomic_exchange(&server->board->porch, PORCH_CLOSED);
    int64_t until = clock_now() + PORCH_END_TIME;
    if (porch <= 0)
        return;
    (void)kill(porch, SIGTERM); /* fails if the porch has ended */
    while (kill(porch, 0) == 0 || (connections_return(server) && clock_now() < until)) {
        if (clock_now() >= until)
            (void)kill(porch, SIGKILL); /* fails if the porch has ended */
        (void)server_keep(server);
        server_wait(server, BUSY_CHECK / 10);
        server_reap(server);
    }
    attendants_forsake_porch(server, porch);
}

/* On passed sockets, new clients wait for the next server; on our own, they are told that this one
 * stops. */
void stop_server(struct server *server)
{
    notify_send("STOPPING=1\nSTATUS=Handshakes come to their end");
    server->stopping = true;
    empty_porch(server);
    if (server->sockets_passed) {
        server_close_sockets(server); /* another service may be about to bind their addresses */
        pool_stop(server);
    } else {
        finish_handshakes(server);
    }
    if (!server->failed)
        forwarding_stop(server);
    pool_stop(server);
    if (!server->sockets_passed)
        listen_remove(server->options);
    server_close_sockets(server);
}
