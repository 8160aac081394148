/* Which forwarder this server uses: see forwarding.h. */
#include "worker/forwarding.h"

#include "base/clock.h"
#include "base/log.h"
#include "forward/launch.h"
#include "handoff.h"
#include "pair.h"
#include "setup/runtime.h"
#include "worker/attendants.h"
#include "worker/link.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ANSWER_LOOK = 1000, /* milliseconds between two looks for the forwarder's answer */
    ANSWER_LOOKS = 3,   /* looks without an answer, after which its silence is logged */
    QUESTION_TIME = 50, /* milliseconds for the forwarder's socket to take a question */
};

/* ---- finding --------------------------------------------------------------------- */

int forwarding_find(struct server *server)
{
    struct worker *worker = &server->worker;
    int timeout = server->options->handshake_timeout * 1000;
    worker->forwarder = handoff_connect(server->runtime.socket, timeout);
    if (worker->forwarder >= 0) {
        log_info("using the forwarder that runs in %s", server->options->runtime_directory);
        link_offer_table(worker);
        return 0;
    }
    server->handoff_socket = launch_socket(&server->runtime, true, &server->forward_lock);
    if (server->handoff_socket < 0) {
        errno = -server->handoff_socket;
        log_error_errno("cannot make the forwarder's socket %s", server->runtime.socket);
        return -1;
    }
    worker->forwarder = handoff_connect(server->runtime.socket, timeout);
    if (worker->forwarder < 0) {
        errno = -worker->forwarder;
        log_error_errno("cannot connect to %s", server->runtime.socket);
        return -1;
    }
    return 0;
}

/* The lock is taken while another server starts a forwarder, or while a forwarder ends. */
int forwarding_replace(struct server *server)
{
    struct runtime *runtime = &server->runtime;
    if (server->handoff_socket < 0 &&
        handoff_reconnect(server->worker.forwarder, runtime->socket) < 0) {
        int socket = launch_socket(runtime, false, &server->forward_lock);
        if (socket == -EWOULDBLOCK)
            return -1;
        if (socket < 0) {
            errno = -socket;
            log_error_errno("cannot make the forwarder's socket %s", runtime->socket);
            server_pause_starting(server);
            return -1;
        }
        server->handoff_socket = socket;
        if (handoff_reconnect(server->worker.forwarder, runtime->socket) < 0)
            log_warning_errno("cannot connect to %s", runtime->socket);
        log_info("the forwarder that ran in %s is gone: running another",
            server->options->runtime_directory);
    }
    atomic_store(&server->board->forwarder_sought, false);
    return 0;
}

void forwarding_drop(struct server *server)
{
    close(server->handoff_socket);
    close(server->forward_lock);
    server->handoff_socket = server->forward_lock = -1;
}

/* Whether the forwarder runs. A handoff to a socket of systemd's would start it, so this is asked
 * first. */
static bool is_running(const struct server *server)
{
    return server->handoff_socket >= 0 ? server->forwarder > 0
                                       : runtime_has_forwarder(&server->runtime);
}

/* ---- whether it answers ---------------------------------------------------------- */

void forwarding_close_answer(struct server *server)
{
    if (server->inquiry.answer >= 0)
        close(server->inquiry.answer);
    server->inquiry.answer = -1;
}

/* Through a socket of its own, as a send on the workers' socket may block. If the forwarder's
 * socket is full, the question is sent again at the next look. False: no forwarder runs. */
static bool ask_forwarder(struct server *server)
{
    struct handoff question = {.kind = HANDOFF_ASK, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    int ends[2];
    if (!is_running(server))
        return false;
    int socket = handoff_connect(server->runtime.socket, QUESTION_TIME);
    if (socket < 0)
        return false;
    bool asked = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0;
    if (asked) {
        server->inquiry.answer = ends[0];
        if (handoff_send(socket, &question, ends[1]) != 0)
            forwarding_close_answer(server);
        close(ends[1]);
    }
    close(socket);
    return true;
}

static bool has_answered(const struct server *server)
{
    struct pollfd answer = {.fd = server->inquiry.answer, .events = POLLRDHUP};
    return poll(&answer, 1, 0) > 0;
}

static void end_inquiry(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    if (inquiry->silent)
        log_info("the forwarder answers again");
    forwarding_close_answer(server);
    inquiry->silent = false;
    inquiry->looks = 0;
}

/* A forwarder that is short of memory or descriptors has logged that itself. */
static void note_silence(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    if (inquiry->silent || inquiry->looks < ANSWER_LOOKS ||
        pair_forwarder_is_full(server->worker.table))
        return;
    inquiry->silent = true;
    link_log_silence(&server->worker);
}

int forwarding_watch(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    uint64_t accepts = atomic_load(&server->board->accepts);
    int64_t now = clock_now();
    if (inquiry->looks == 0 && inquiry->accepts == accepts)
        return -1;
    if (now < inquiry->next_look)
        return (int)(inquiry->next_look - now);
    inquiry->next_look = now + ANSWER_LOOK;
    inquiry->accepts = accepts;
    if (has_answered(server) || (inquiry->answer < 0 && !ask_forwarder(server))) {
        end_inquiry(server);
        return -1;
    }
    note_silence(server);
    inquiry->looks++;
    return ANSWER_LOOK;
}

/* ---- leaving --------------------------------------------------------------------- */

/* The last message of this server, once its workers have handed over their last connection. */
static int announce_leaving(struct server *server, int socket)
{
    const struct worker *worker = &server->worker;
    struct handoff handoff = {
        .kind = HANDOFF_LEAVE, .ref = PAIR_NONE, .dismissed = PAIR_NONE, .server = worker->server};
    if (flock(worker->users_lock, LOCK_UN) < 0)
        return -errno;
    int error = handoff_send(worker->forwarder, &handoff, socket);
    if (!handoff_is_lost(error))
        return error;
    error = handoff_reconnect(worker->forwarder, server->runtime.socket);
    return error == 0 ? handoff_send(worker->forwarder, &handoff, socket) : error;
}

/* Waits until the forwarder has ended this server's pairs and closes its side of the socket.
 * Returns whether it goes on, which it says by a byte. */
static bool wait_for_departure(struct server *server, int socket)
{
    char byte;
    bool goes_on = false;
    int64_t until = clock_now() + FORWARDER_END_TIME;
    for (;;) {
        ssize_t size = recv(socket, &byte, 1, MSG_DONTWAIT);
        goes_on = goes_on || size > 0;
        if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR) || clock_now() >= until)
            return goes_on;
        server_wait(server, BUSY_CHECK / 10);
    }
}

/* Has the connections that came by this server end. Returns whether the forwarder goes on, for
 * other servers. */
static bool leave_forwarder(struct server *server)
{
    int ends[2];
    if (!is_running(server))
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        log_error_errno("cannot tell the forwarder that this server stops");
        return false;
    }
    int error = announce_leaving(server, ends[1]);
    close(ends[1]);
    bool goes_on = error == 0 && wait_for_departure(server, ends[0]);
    close(ends[0]);
    if (error != 0 && error != -ECONNREFUSED && error != -ENOENT) {
        errno = -error;
        log_error_errno("cannot tell the forwarder that this server stops");
    }
    return goes_on;
}

void forwarding_stop(struct server *server)
{
    bool goes_on = leave_forwarder(server);
    if (server->handoff_socket < 0)
        return;
    if (!goes_on) {
        launch_abandon(&server->runtime, server->handoff_socket);
        attendants_end_forwarder(server);
    }
    forwarding_drop(server); /* the next forwarder needs its lock */
}
