/* Pairs: how two connections are joined, and how their bytes (transfer.c) or messages (messages.c)
 * are moved until the pair is over. */
#include "forward/connections.h"

#include "forward/lobby.h"
#include "forward/messages.h"
#include "protocol.h"

enum {
    SPARES_AT_ONCE = 64,
};

/* ---- moving ---------------------------------------------------------------------- */

/* A pair that has moved as many bytes as it may is not read any more, and ends as if both clients
 * had closed: what was read is delivered. */
static void limit_pair(const struct forwarder *forwarder, struct connection *connection)
{
    if (transfer_is_used_up(&forwarder->transfer, connection))
        connection->ended = connection->peer->ended = true;
}

/* A pair that moves bytes is over when both directions are delivered and both clients were told so
 * by a shutdown, which clients that have both closed do not need; or when one direction is
 * delivered whose sender is broken. A pair that moves messages is over when one direction is
 * delivered, as a client closes both at once. */
static bool is_over(const struct connection *connection)
{
    const struct connection *peer = connection->peer;
    bool delivered = connections_is_delivered(connection),
         peer_delivered = connections_is_delivered(peer);
    if (connection->finished && peer->finished)
        return true;
    if (messages_between(connection))
        return delivered || peer_delivered;
    if ((connection->broken && delivered) || (peer->broken && peer_delivered))
        return true;
    return delivered && peer_delivered && transfer_closes_plainly(connection) &&
           transfer_closes_plainly(peer);
}

/* A client that has hung up counts as ended even while its input cannot be read, because its peer
 * does not read. */
static bool has_ended(const struct connection *connection)
{
    return connection->ended || connection->finished || connection->hung_up;
}

/* Once one direction of a pair has ended, the other may go on as long as bytes move: the
 * connections share one deadline for that, in the `phase` of one of them. */
static void set_deadlines(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    struct deadline *phase = deadline_is_set(&peer->phase) ? &peer->phase : &connection->phase;
    bool moved = connections_watch(forwarder, connection),
         peer_moved = connections_watch(forwarder, peer);
    connections_touch(forwarder, connection);
    connections_touch(forwarder, peer);
    if (!has_ended(connection) && !has_ended(peer))
        return;
    if (moved || peer_moved || !deadline_is_set(phase))
        deadline_set(phase, &forwarder->lingering, forwarder->transfer.now);
}

/* A deaf connection is sent a ping as soon as there is a message for it: with the answer, its
 * client has read all that was sent before. */
static void ask_for_answer(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    if (messages_may_write(connection) || coded->asked || !messages_are_held(connection->peer))
        return;
    coded->asked = true;
    if (coded->codec->silent(coded->state, forwarder->transfer.now, &out) == 0)
        transfer_say(connection, out.iov_base, out.iov_len);
}

static bool move(struct transfer *transfer, struct connection *from)
{
    return messages_between(from) ? messages_move(transfer, from) : transfer_move(transfer, from);
}

void connections_run_pair(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    transfer_flush(connection);
    if (move(&forwarder->transfer, connection))
        connections_queue(forwarder, connection);
    if (move(&forwarder->transfer, peer))
        connections_queue(forwarder, peer);
    ask_for_answer(forwarder, connection);
    ask_for_answer(forwarder, peer);
    limit_pair(forwarder, connection);
    if (!messages_between(connection) && !is_over(connection)) {
        transfer_finish(connection);
        transfer_finish(peer);
    }
    if (is_over(connection)) {
        connections_part(forwarder, connection);
        return;
    }
    set_deadlines(forwarder, connection);
}

/* ---- joining --------------------------------------------------------------------- */

void connections_dismiss_spares(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref spares[SPARES_AT_ONCE];
    size_t count = pair_spares(forwarder->table, connection->ref, spares, SPARES_AT_ONCE);
    connection->crowded = count == SPARES_AT_ONCE;
    for (size_t i = 0; i < count; i++)
        connections_look(forwarder, spares[i]);
    if (connection->crowded)
        connections_queue(forwarder, connection);
}

static void welcome(
    struct forwarder *forwarder, struct connection *connection, struct connection *peer)
{
    const struct coded *coded = connection->coded;
    struct words words = {.size = 0};
    connection->peer = peer;
    connection->state = CONNECTION_JOINED;
    messages_settle(connection);
    deadline_clear(&connection->phase);
    protocols[connection->protocol]->welcome(
        coded == NULL ? NULL : coded->name, coded == NULL ? 0 : coded->name_size, &words);
    (void)messages_speak(&forwarder->transfer, connection, &words, false);
}

void connections_join(
    struct forwarder *forwarder, struct connection *connection, struct connection *peer)
{
    if (pair_join(forwarder->table, connection->ref, peer->ref) != 0)
        return; /* the table has undone the match: the deadline `arriving` looks again */
    connection->bytes = pair_bytes(forwarder->table, connection->ref);
    peer->bytes = pair_bytes(forwarder->table, peer->ref);
    lobby_leave(forwarder, connection);
    lobby_leave(forwarder, peer);
    /* Before the clients are told: a client of the same side that comes after that is no spare. */
    connections_dismiss_spares(forwarder, connection);
    welcome(forwarder, peer, connection);
    welcome(forwarder, connection, peer);
    messages_release(&forwarder->transfer, connection);
    messages_release(&forwarder->transfer, peer);
    connections_run_pair(forwarder, connection);
}
