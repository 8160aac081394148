/* Connections that were handed over: how they are taken, and how they wait for a peer. Which
 * clients meet is decided in the table. */
#include "forward/connections.h"

#include "base/log.h"
#include "codec/websocket.h"
#include "forward/intake.h"
#include "forward/lobby.h"
#include "forward/messages.h"
#include "protocol.h"
#include "tls/tls_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

/* ---- what the table says --------------------------------------------------------- */

static enum pair_outcome outcome_of(enum pair_reason reason)
{
    switch (reason) {
    case PAIR_SPARE:
        return PAIR_REDUNDANT;
    case PAIR_DUPLICATE:
        return PAIR_ERRORY;
    case PAIR_REPLACED:
        return PAIR_REDUNDANT;
    case PAIR_NO_LISTENER:
    case PAIR_NO_REASON:
        break;
    }
    return PAIR_LONELY;
}

/* Does what the table says of a connection without a peer. */
static void follow_table(
    struct forwarder *forwarder, struct connection *connection, const struct pair_view *view)
{
    if (view->state == PAIR_DISMISSED) {
        connections_dismiss(forwarder, connection, outcome_of(view->reason), view->reason);
    } else if (view->state == PAIR_MATCHED) {
        struct connection *peer = connections_held(forwarder, view->peer);
        deadline_set(&connection->phase, &forwarder->arriving, forwarder->transfer.now);
        if (peer != NULL)
            connections_join(forwarder, connection, peer);
    } else if (connection->state == CONNECTION_PARKED &&
               (!deadline_is_set(&connection->phase) ||
                   connection->phase.list == &forwarder->arriving)) {
        deadline_set(
            &connection->phase, &forwarder->waiting[connection->protocol], forwarder->transfer.now);
    }
}

void connections_look(struct forwarder *forwarder, struct pair_ref ref)
{
    struct pair_view view;
    struct connection *connection = connections_held(forwarder, ref);
    if (connection != NULL &&
        (connection->state == CONNECTION_PARKED || connection->state == CONNECTION_LOBBY) &&
        pair_look(forwarder->table, ref, &view) == 0)
        follow_table(forwarder, connection, &view);
}

/* ---- parked ---------------------------------------------------------------------- */

/* Before the match a client without a codec must not send anything; it may only close. */
static void read_parked_bytes(struct forwarder *forwarder, struct connection *connection)
{
    if (transfer_read(&forwarder->transfer, connection, TRANSFER_CHUNK) > 0)
        connections_dismiss(forwarder, connection, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (connection->ended)
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
    else if (connection->readable)
        connections_queue(forwarder, connection);
}

static bool take_early_piece(void *context, struct connection *from, struct piece *piece)
{
    const struct protocol *protocol = protocols[from->protocol];
    struct coded *coded = from->coded;
    (void)context;
    if (protocol->binary_only && piece->text)
        coded->close_code = WEBSOCKET_UNSUPPORTED;
    coded->unwelcome = coded->close_code != 0 || !protocol->patient || !messages_hold(from, piece);
    return !coded->unwelcome;
}

/* A client that has closed is noticed by its end of file; while its input may not be read, by
 * EPOLLRDHUP. That is safe, as no protocol with messages ends one direction alone. */
static bool has_gone(const struct connection *connection)
{
    return connection->ended || (connection->hung_up && !messages_may_read(connection));
}

static void read_parked_messages(struct forwarder *forwarder, struct connection *connection)
{
    const struct coded *coded = connection->coded;
    bool more = messages_read(&forwarder->transfer, connection, take_early_piece, NULL);
    if (connection->starved)
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    else if (coded->verdict == CODEC_FAILED || coded->close_code != 0)
        connections_dismiss(forwarder, connection, PAIR_ERRORY, PAIR_NO_REASON);
    else if (coded->unwelcome)
        connections_dismiss(forwarder, connection, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (has_gone(connection))
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
    else if (more)
        connections_queue(forwarder, connection);
    if (connection->state == CONNECTION_PARKED)
        connections_touch(forwarder, connection);
}

void connections_run_parked(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->coded != NULL)
        read_parked_messages(forwarder, connection);
    else if (connection->readable)
        read_parked_bytes(forwarder, connection);
}

/* ---- taking ---------------------------------------------------------------------- */

static struct connection *make_connection(struct forwarder *forwarder, const struct pair_view *view,
    const struct handoff *handoff, int fd)
{
    struct epoll_event event = {.events = TRANSFER_EVENTS};
    struct connection *connection = calloc(1, sizeof *connection);
    bool in_tls = handoff->records.suite != 0;
    if (connection == NULL)
        return NULL;
    *connection = (struct connection){
        .fd = fd,
        .epoll = forwarder->epoll,
        .ref = view->ref,
        .protocol = view->protocol,
        .state = CONNECTION_PARKED,
        .writable = true,
        .chunk = TRANSFER_CHUNK,
        .outlet = {.pipe = {-1, -1}},
        .start = usage_start_of(view->opened, handoff->since),
        .server = handoff->server,
        .kernel_tls = handoff->kernel_tls,
        .tls = in_tls ? tls_stream_open(&handoff->records, &connection->account) : NULL,
    };
    event.data.ptr = connection;
    int error = in_tls && connection->tls == NULL ? -ENOMEM : 0;
    if (error == 0 && codecs[handoff->codec] != NULL)
        error = messages_open(connection, handoff, forwarder->transfer.now);
    if (error == 0 && epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        error = -errno;
    if (error != 0) {
        messages_close(connection);
        tls_stream_close(connection->tls);
        free(connection);
        errno = -error;
        return NULL;
    }
    forwarder->slots[view->ref.slot] = connection;
    forwarder->held++;
    return connection;
}

static void refuse_arrival(struct forwarder *forwarder, const struct pair_view *view)
{
    struct pair_ref stranded;
    pair_count(forwarder->table, view->protocol, PAIR_FULL);
    if (pair_leave(forwarder->table, view->ref, &stranded) == 0 && !pair_is_none(stranded))
        connections_look(forwarder, stranded);
}

static void place_connection(struct forwarder *forwarder, struct connection *connection,
    const struct pair_view *view, const struct handoff *handoff)
{
    if (!messages_may_write(connection))
        deadline_set(&connection->coded->deaf_until, &forwarder->deaf, forwarder->transfer.now);
    if (handoff->lobby && !messages_have_room_for_name(connection)) {
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    } else if (handoff->lobby && !lobby_enter(forwarder, connection)) {
        intake_fall_short(forwarder);
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    } else if (view->rule == PAIR_CONNECT && view->state == PAIR_WAITING &&
               !lobby_call(forwarder, connection, view->peer))
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_LISTENER);
    else
        follow_table(forwarder, connection, view);
    if (connection->state == CONNECTION_PARKED || connection->state == CONNECTION_LOBBY)
        connections_touch(forwarder, connection);
}

/* Whether a handoff is one that a worker of this version sends for the protocol. */
static bool is_sound(const struct handoff *handoff, const struct pair_view *view)
{
    if (view->protocol >= PROTOCOL_COUNT || handoff->codec >= CODEC_KINDS)
        return false;
    bool waits = handoff->lobby || view->rule == PAIR_CONNECT;
    return !waits || (codecs[handoff->codec] != NULL && protocols[view->protocol]->lobby != NULL);
}

void connections_take(struct forwarder *forwarder, const struct handoff *handoff, int fd)
{
    struct pair_view view;
    int error = pair_claim(forwarder->table, handoff->ref, &view);
    if (fd < 0) {
        if (error == 0)
            refuse_arrival(forwarder, &view);
        return;
    }
    if (error != 0) {
        close(fd); /* its worker was too late: the slot has another connection by now */
        return;
    }
    if (!is_sound(handoff, &view)) {
        log_repeated(LOG_ERR,
            "cannot take a connection: its worker's version has a protocol or codec that "
            "this forwarder does not know; restart the forwarder");
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    struct connection *connection = make_connection(forwarder, &view, handoff, fd);
    if (connection == NULL) {
        log_repeated_errno(LOG_ERR, "cannot take a connection");
        if (errno == ENOMEM || errno == ENOSPC)
            intake_fall_short(forwarder);
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    place_connection(forwarder, connection, &view, handoff);
}
