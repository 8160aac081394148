/* Pairs: how two connections are joined, and what moves between them until the pair is over. How
 * bytes move is transfer.c's, how messages do is messages.c's. */
#include "forward/connections.h"

#include "forward/lobby.h"
#include "forward/messages.h"
#include "protocol.h"

enum {
    SPARES_AT_ONCE = 64,
};

/* ---- moving ---------------------------------------------------------------------- */

/* A pair that has had its share is not read any more, and ends as if both had closed: what was read
 * is delivered. */
static void limit_pair(const struct forwarder *forwarder, struct connection *connection)
{
    if (transfer_is_used_up(&forwarder->transfer, connection))
        connection->ended = connection->peer->ended = true;
}

/* Bytes flow until both directions have ended, or one end is broken; messages, which know no half
 * of a connection, until one has ended. To two ends that nothing more is written to, nothing more
 * can come of either. Two ends that have both closed need not be shut down before they are closed.
 */
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

/* It has, too, when its end is behind what cannot be read while its peer does not read. */
static bool has_ended(const struct connection *connection)
{
    return connection->ended || connection->finished || connection->hung_up;
}

/* What is left of a pair of which one direction has ended goes on as long as it moves: one deadline
 * for both ends. */
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

/* As soon as there is something for an end that is deaf, it is asked to let itself be heard: with a
 * sign of life it has read what was before that. */
static void ask(struct forwarder *forwarder, struct connection *connection)
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
    ask(forwarder, connection);
    ask(forwarder, peer);
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

/* Those of the same side who waited beside the one that was taken. */
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
        return; /* undone meanwhile: the arrival's deadline looks again */
    connection->bytes = pair_bytes(forwarder->table, connection->ref);
    peer->bytes = pair_bytes(forwarder->table, peer->ref);
    lobby_leave(forwarder, connection);
    lobby_leave(forwarder, peer);
    /* Before the two are told: who comes after that is no spare of theirs. */
    connections_dismiss_spares(forwarder, connection);
    welcome(forwarder, peer, connection);
    welcome(forwarder, connection, peer);
    messages_release(&forwarder->transfer, connection);
    messages_release(&forwarder->transfer, peer);
    connections_run_pair(forwarder, connection);
}
