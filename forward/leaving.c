/* How connections end: the record of their outcome, the farewell of their protocol, and the wait
 * until the client has read it. */
#include "forward/connections.h"

#include "base/log.h"
#include "codec/websocket.h"
#include "forward/liveness.h"
#include "forward/lobby.h"
#include "forward/messages.h"
#include "protocol.h"
#include "usage/usage.h"

enum {
    DISCARDS_AT_ONCE = 4,    /* reads of discarded input, before others have their turn */
    DISCARDED_MAX = 1 << 24, /* bytes: more than can be on the way when the client is told to go */
};

/* ---- while a connection leaves --------------------------------------------------- */

static bool discard(void *context, struct connection *from, struct piece *piece)
{
    (void)context;
    (void)from;
    (void)piece;
    return true;
}

/* Whether the client is to answer the farewell, so that its input is decoded until it does. Input
 * that breaks the protocol, or is not allowed, cannot be decoded any further; and a connection that
 * is cut was sent no farewell. */
static bool is_to_answer(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    return coded != NULL && coded->codec->mutual_close && coded->verdict == CODEC_MORE &&
           !coded->unwelcome && !connection->cut && !transfer_broke_tls(connection);
}

/* Returns whether there is more to discard right now. */
static bool discard_once(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->discarded > DISCARDED_MAX)
        return false;
    if (is_to_answer(connection))
        return messages_read(&forwarder->transfer, connection, discard, NULL);
    if (connection->readable && !connection->gone)
        (void)transfer_read(&forwarder->transfer, connection, TRANSFER_CHUNK);
    return connection->readable && !connection->gone;
}

/* Once everything is written, the connection is shut down for writing; but not while the client is
 * to answer a farewell. */
static void shut_down(struct connection *connection)
{
    if (connection->finished || connection->gone || connection->cut || is_to_answer(connection))
        return;
    transfer_shut(connection);
}

static bool has_left(const struct connection *connection)
{
    return connection->gone ||
           (connection->coded != NULL && connection->coded->verdict == CODEC_CLOSED);
}

/* A reset drops the bytes that are on their way. So a connection that is cut is reset only once it
 * has acknowledged all; for each step of that it has FORWARDER_LEAVE_TIME. */
void connections_check_delivery(struct forwarder *forwarder, struct connection *connection)
{
    if (liveness_progresses(connection->fd, &connection->acknowledged))
        deadline_set(&connection->phase, &forwarder->leaving, forwarder->transfer.now);
    if (!transfer_pending(connection) && liveness_check(connection->fd) != LIVENESS_WAITING)
        connections_close(forwarder, connection);
    else
        deadline_set(&connection->watch, &forwarder->delivering, forwarder->transfer.now);
}

/* Whether a connection ends because the relay stops, or the server that accepted it. */
static bool is_stopped(const struct forwarder *forwarder, const struct connection *connection)
{
    return forwarder->stopping || connection->departure != NULL;
}

/* Input is discarded until the client closes: a close with unread input resets the connection, and
 * the client might not get what was written last. A relay that stops waits only until no input is
 * left. */
void connections_go_on_leaving(struct forwarder *forwarder, struct connection *connection)
{
    bool more = true;
    transfer_flush(connection);
    bool written = connection->finished || !transfer_pending(connection);
    if (written)
        shut_down(connection);
    for (int i = 0; more && i < DISCARDS_AT_ONCE; i++)
        more = discard_once(forwarder, connection);
    if (written && !connection->cut &&
        (has_left(connection) || (is_stopped(forwarder, connection) && !more)))
        connections_close(forwarder, connection);
    else if (more)
        connections_queue(forwarder, connection);
}

static void start_leaving(struct forwarder *forwarder, struct connection *connection)
{
    connections_clear_deadlines(connection);
    connection->state = CONNECTION_LEAVING;
    connection->peer = NULL;
    connection->ended = connection->gone;
    messages_forget(connection);
    deadline_set(&connection->phase, &forwarder->leaving, forwarder->transfer.now);
    if (connection->cut)
        connections_check_delivery(forwarder, connection);
    if (connection->fd >= 0)
        connections_go_on_leaving(forwarder, connection);
}

/* ---- connections without a peer -------------------------------------------------- */

static void record_single(
    struct forwarder *forwarder, const struct connection *connection, enum pair_outcome outcome)
{
    struct usage_record entry = usage_single(connection->start, outcome);
    pair_count(forwarder->table, connection->protocol, outcome);
    if (outcome == PAIR_SERVED || connection->state == CONNECTION_LOBBY)
        return; /* not a client that waited for a peer: usage records are of those */
    connections_record(forwarder, &entry);
}

/* Leaves its place in the table, and looks after the connection that was to be its peer. Its slot
 * is in use until it is closed. */
static void leave_place(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref stranded;
    connection->bytes = NULL;
    if (pair_start_leaving(forwarder->table, connection->ref, &stranded) == 0 &&
        !pair_is_none(stranded))
        connections_look(forwarder, stranded);
}

/* Writes the farewell of the protocol, or one that answers what the client did last. Returns
 * whether anything was written. */
static bool say_farewell(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason)
{
    const struct coded *coded = connection->coded;
    struct words words = {.size = 0};
    if (coded == NULL || coded->verdict == CODEC_MORE)
        protocols[connection->protocol]->farewell(outcome, reason, &words);
    if (coded != NULL && coded->close_code != 0)
        words = (struct words){.code = coded->close_code, .reason = coded->close_reason};
    else if (coded != NULL && coded->verdict == CODEC_MORE && is_stopped(forwarder, connection))
        words = (struct words){.code = WEBSOCKET_GOING_AWAY, .reason = "the relay stops"};
    else if (coded != NULL && coded->verdict == CODEC_MORE && connection->cut)
        words = (struct words){.code = WEBSOCKET_UNEXPECTED, .reason = "the other side was lost"};
    return messages_speak(&forwarder->transfer, connection, &words, true);
}

/* Logs why a connection ends, if the reason is a lack of memory or what the client sent. */
static void log_reason(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    if (connection->starved)
        log_repeated(LOG_WARNING,
            "closed a connection (%s): there is no memory for what it sent, or was to be sent",
            protocols[connection->protocol]->name);
    else if (coded != NULL && (coded->verdict == CODEC_FAILED || coded->unwelcome))
        log_repeated(LOG_INFO, "closed a connection (%s): what it sent breaks the protocol",
            protocols[connection->protocol]->name);
}

void connections_dismiss(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason)
{
    log_reason(connection);
    lobby_leave(forwarder, connection);
    leave_place(forwarder, connection);
    record_single(forwarder, connection, outcome);
    if (say_farewell(forwarder, connection, outcome, reason) || transfer_broke_tls(connection))
        start_leaving(forwarder, connection);
    else
        connections_close(forwarder, connection);
}

/* ---- pairs ----------------------------------------------------------------------- */

static void record_pair(
    struct forwarder *forwarder, uint8_t protocol, const struct usage_record *entry)
{
    pair_count(forwarder->table, protocol, PAIR_HAPPY);
    pair_count_bytes(forwarder->table, entry->total_bytes);
    connections_record(forwarder, entry);
}

bool connections_is_delivered(const struct connection *connection)
{
    return connection->ended &&
           (connection->peer->finished ||
               (!transfer_pending(connection->peer) && !messages_are_held(connection)));
}

/* Whether the input of a connection is incomplete: the connection has failed, was closed without
 * the farewell that its protocol wants, or its client has broken the protocol. */
static bool is_broken(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    if (coded == NULL || coded->verdict == CODEC_CLOSED)
        return coded == NULL && connection->broken;
    return connection->broken || connection->starved || coded->unwelcome ||
           coded->verdict == CODEC_FAILED || (connection->gone && coded->codec->mutual_close);
}

/* Whether a connection of a pair that ends gets less than its peer has sent, or may have sent.
 * Where messages are moved, a client that closes ends both directions: its peer's last messages are
 * no reason to cut it. */
static bool is_cut(const struct forwarder *forwarder, const struct connection *connection)
{
    if (transfer_broke_tls(connection))
        return false; /* it was sent an alert */
    if (is_broken(connection->peer))
        return connection->coded == NULL || connection->coded->codec->mutual_close;
    return !messages_between(connection) && !is_stopped(forwarder, connection) &&
           !connections_is_delivered(connection->peer);
}

/* In the middle of a message a client cannot be sent a farewell: it is cut. */
static void part_in_words(struct forwarder *forwarder, struct connection *connection)
{
    const struct coded *coded = connection->coded;
    bool in_message = coded != NULL && coded->speaking && coded->verdict == CODEC_MORE &&
                      !transfer_broke_tls(connection);
    if (in_message && coded->close_code == 0)
        connection->cut = true;
    else if (say_farewell(forwarder, connection, PAIR_HAPPY, PAIR_NO_REASON))
        connection->cut = false;
}

void connections_part(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    struct usage_record entry =
        usage_pair(connection->start, peer->start, transfer_total(connection));
    log_reason(connection);
    log_reason(peer);
    leave_place(forwarder, connection);
    leave_place(forwarder, peer);
    connection->cut = is_cut(forwarder, connection);
    peer->cut = is_cut(forwarder, peer);
    if (messages_between(connection)) {
        part_in_words(forwarder, connection);
        part_in_words(forwarder, peer);
    }
    start_leaving(forwarder, connection);
    start_leaving(forwarder, peer);
    record_pair(forwarder, connection->protocol, &entry); /* once the slots are free */
}

void connections_stop(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->state == CONNECTION_JOINED)
        connections_part(forwarder, connection);
    else if (connection->state != CONNECTION_LEAVING)
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
}
