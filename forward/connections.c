/* The connections that the forwarder holds: found, run by their state, watched, closed.
 *
 * Whatever a client does or does not do, something leads out of each state: an event or a deadline
 * (expiry.c). "Silent" is the deadline of a codec; a connection without a codec has the kernel's
 * keepalive, as long as nothing waits to be acknowledged. tests/check_connections.c walks these
 * states.
 *
 *      state                       events                          deadlines
 *      parked                      bytes, end of file, its peer    waiting; silent
 *        all is held that may be   EPOLLRDHUP                      waiting; silent, then watching
 *        matched                   the peer's descriptor           arriving, then waiting
 *      in the lobby                messages, end of file, a peer   silent
 *        in debt                   EPOLLRDHUP                      resting
 *      joined                      bytes, end of file of both      silent; watching after a write
 *        one has ended or hung up  the other's end of file         lingering, while nothing moves
 *        both have ended or lost   none: it is over at once
 *      leaving                     end of file                     leaving
 *        not all is written        EPOLLOUT                        leaving
 *        cut                       acknowledgements                delivering, leaving
 */
#include "forward/connections.h"

#include "base/log.h"
#include "codec/codec.h"
#include "forward/depart.h"
#include "forward/lobby.h"
#include "forward/messages.h"
#include "tls/tls_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- finding and running --------------------------------------------------------- */

struct connection *connections_held(const struct forwarder *forwarder, struct pair_ref ref)
{
    struct connection *connection =
        ref.slot < pair_capacity(forwarder->table) ? forwarder->slots[ref.slot] : NULL;
    return connection != NULL && pair_same(connection->ref, ref) ? connection : NULL;
}

void connections_run(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->fd < 0)
        return; /* closed earlier in this round */
    switch ((enum connection_state)connection->state) {
    case CONNECTION_PARKED:
        transfer_flush(connection);
        connections_run_parked(forwarder, connection);
        break;
    case CONNECTION_LOBBY:
        transfer_flush(connection);
        lobby_wake(forwarder, connection);
        connections_touch(forwarder, connection);
        break;
    case CONNECTION_JOINED:
        if (connection->crowded)
            connections_dismiss_spares(forwarder, connection);
        connections_run_pair(forwarder, connection);
        break;
    case CONNECTION_LEAVING:
        connections_go_on_leaving(forwarder, connection);
        break;
    }
}

void connections_queue(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->queued)
        return;
    connection->queued = true;
    connection->next = forwarder->work;
    forwarder->work = connection;
}

/* ---- deadlines of a connection --------------------------------------------------- */

/* Each message that is sent puts off the next ping of the relay, and each one that is received puts
 * off the end of its patience. */
void connections_touch(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded == NULL || connection->fd < 0 || connection->state == CONNECTION_LEAVING)
        return;
    const struct codec *codec = coded->codec;
    size_t kind = codec == codecs[CODEC_CHANNEL] ? CODEC_CHANNEL : CODEC_WEBSOCKET;
    size_t jitter = connection->ref.slot % FORWARDER_JITTERS;
    if (codec->quiet_time > 0 && (coded->sent || !deadline_is_set(&coded->quiet)))
        deadline_set(&coded->quiet, &forwarder->quiet[kind], forwarder->transfer.now);
    if (codec->silent_time > 0 && (coded->heard || !deadline_is_set(&coded->silent)))
        deadline_set(&coded->silent, &forwarder->silent[kind][jitter], forwarder->transfer.now);
    coded->sent = coded->heard = false;
}

bool connections_watch(struct forwarder *forwarder, struct connection *connection)
{
    bool moved = connection->moved;
    connection->moved = false;
    if (moved && !deadline_is_set(&connection->watch))
        deadline_set(&connection->watch, &forwarder->watching, forwarder->transfer.now);
    return moved;
}

void connections_clear_deadlines(struct connection *connection)
{
    deadline_clear(&connection->phase);
    deadline_clear(&connection->watch);
    if (connection->coded == NULL)
        return;
    deadline_clear(&connection->coded->quiet);
    deadline_clear(&connection->coded->silent);
    deadline_clear(&connection->coded->deaf_until);
}

/* ---- closing --------------------------------------------------------------------- */

/* A worker may still hold a copy of the descriptor; without EPOLL_CTL_DEL the kernel would go on to
 * report its events. */
static void close_descriptor(struct forwarder *forwarder, struct connection *connection)
{
    (void)epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
    close(connection->fd);
    connection->fd = -1;
}

/* If this fails, the client sees an ordinary end. */
static void reset_at_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
        log_debug("cannot have a connection reset: %s", strerror(errno));
}

static void leave_slot(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref stranded;
    if (pair_is_none(connection->ref))
        return; /* its slot was lost with its table */
    forwarder->slots[connection->ref.slot] = NULL;
    (void)pair_leave(
        forwarder->table, connection->ref, &stranded); /* none: it has left its place before */
    connection->ref = PAIR_NONE;
}

/* All connections are closed here. The slot is free before the client can know. */
void connections_close(struct forwarder *forwarder, struct connection *connection)
{
    connections_clear_deadlines(connection);
    leave_slot(forwarder, connection);
    transfer_part(connection);
    if (connection->cut)
        reset_at_close(connection->fd);
    transfer_break(&forwarder->transfer, connection);
    messages_close(connection);
    close_descriptor(forwarder, connection);
    tls_stream_close(connection->tls);
    depart_lose(connection);
    forwarder->held--;
    if (connection->queued)
        return; /* the list of work passes it on to the dead */
    connection->next = forwarder->dead;
    forwarder->dead = connection;
}

void connections_bury(struct forwarder *forwarder)
{
    while (forwarder->dead != NULL) {
        struct connection *connection = forwarder->dead;
        forwarder->dead = connection->next;
        free(connection);
    }
}

/* ---- records --------------------------------------------------------------------- */

void connections_record(struct forwarder *forwarder, const struct usage_record *entry)
{
    if (forwarder->recorder < 0)
        return;
    int error = usage_send(forwarder->recorder, entry);
    if (error == 0)
        return;
    errno = -error;
    log_repeated_errno(LOG_ERR, "cannot record a connection");
    if (error == -EAGAIN)
        return;
    close(forwarder->recorder);
    forwarder->recorder = -1;
    forwarder->recorder_lost = forwarder->outdated = true;
    log_error("the recorder is gone: another forwarder, with a recorder, takes this forwarder's "
              "place once it has no connection, or when it is ended");
}
