/* The lobby: its connections, their callers, and the messages of both. */
#include "forward/lobby.h"

#include "base/clock.h"
#include "forward/connections.h"
#include "forward/messages.h"
#include "protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOLD_MAX = 1 << 20, /* bytes that wait to be written, past which no news are sent */
    TOLD_MIN = 1 << 14, /* the same, when connections hold too much memory */
    READ_MAX = 1 << 12, /* bytes of one connection, before others have their turn */
    TURN = 500000,      /* nanoseconds, before pairs have theirs */
    CREDIT = 100000,    /* microseconds that a connection may owe while it is read */
    /* Prices in microseconds. They come to 500 messages sent a second, or 250 kB. */
    COST_HEARD = 50,
    COST_TOLD = 2000,
    COST_TOLD_BYTE = 4,
};

struct lobby {
    struct forwarder *forwarder;
    lobby_dismisser *dismiss;
    struct connection *early;        /* callers whose listener's descriptor is on its way */
    struct connection *first, *last; /* the queue */
    struct connection *served;       /* pays for what is done now; NULL: nobody does */
    bool untidy;                     /* connections that have left leave work to do */
};

static const struct lobby_rules *rules_of(const struct connection *connection)
{
    return protocols[connection->protocol]->lobby;
}

int lobby_open(struct forwarder *forwarder, lobby_dismisser *dismiss)
{
    forwarder->lobby = calloc(1, sizeof *forwarder->lobby);
    if (forwarder->lobby == NULL)
        return -ENOMEM;
    forwarder->lobby->forwarder = forwarder;
    forwarder->lobby->dismiss = dismiss;
    return 0;
}

void lobby_close(struct forwarder *forwarder)
{
    free(forwarder->lobby);
    forwarder->lobby = NULL;
}

/* ---- the queue ------------------------------------------------------------------- */

static void enqueue(struct lobby *lobby, struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded->in_turn)
        return;
    coded->in_turn = true;
    coded->next_turn = NULL;
    coded->prev_turn = lobby->last;
    if (lobby->last != NULL)
        lobby->last->coded->next_turn = connection;
    else
        lobby->first = connection;
    lobby->last = connection;
}

static void dequeue(struct lobby *lobby, struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (!coded->in_turn)
        return;
    coded->in_turn = false;
    if (coded->next_turn != NULL)
        coded->next_turn->coded->prev_turn = coded->prev_turn;
    else
        lobby->last = coded->prev_turn;
    if (coded->prev_turn != NULL)
        coded->prev_turn->coded->next_turn = coded->next_turn;
    else
        lobby->first = coded->next_turn;
}

/* ---- callers --------------------------------------------------------------------- */

static void add_caller(struct connection **list, struct connection *caller)
{
    struct coded *coded = caller->coded;
    coded->calls = list;
    coded->prev_caller = NULL;
    coded->next_caller = *list;
    if (*list != NULL)
        (*list)->coded->prev_caller = caller;
    *list = caller;
}

static void remove_caller(struct connection *caller)
{
    struct coded *coded = caller->coded;
    if (coded->calls == NULL)
        return;
    if (coded->next_caller != NULL)
        coded->next_caller->coded->prev_caller = coded->prev_caller;
    if (coded->prev_caller != NULL)
        coded->prev_caller->coded->next_caller = coded->next_caller;
    else
        *coded->calls = coded->next_caller;
    coded->calls = NULL;
}

static bool announce(struct lobby *lobby, struct connection *listener, struct connection *caller)
{
    add_caller(&listener->coded->callers, caller);
    return rules_of(listener)->announce(lobby, listener, caller);
}

bool lobby_call(
    struct forwarder *forwarder, struct connection *caller, struct pair_ref listener_ref)
{
    struct lobby *lobby = forwarder->lobby;
    struct connection *listener = connections_held(forwarder, listener_ref);
    struct pair_view view;
    caller->coded->called = listener_ref;
    if (listener != NULL)
        return listener->state == CONNECTION_LOBBY && announce(lobby, listener, caller);
    if (pair_look(forwarder->table, listener_ref, &view) != 0)
        return false;
    add_caller(&lobby->early, caller);
    return true;
}

/* Announces the callers that came before the listener's descriptor. */
static void announce_early(struct lobby *lobby, struct connection *listener)
{
    struct connection *next;
    for (struct connection *caller = lobby->early; caller != NULL; caller = next) {
        next = caller->coded->next_caller;
        if (!pair_same(caller->coded->called, listener->ref))
            continue;
        remove_caller(caller);
        if (!announce(lobby, listener, caller))
            lobby->dismiss(lobby->forwarder, caller, PAIR_LONELY, PAIR_NO_LISTENER);
    }
}

/* ---- coming and going ------------------------------------------------------------ */

bool lobby_enter(struct forwarder *forwarder, struct connection *connection)
{
    const struct lobby_rules *rules = rules_of(connection);
    connection->state = CONNECTION_LOBBY;
    if (rules->enter != NULL && !rules->enter(forwarder->lobby, connection))
        return false;
    if (rules->announce != NULL)
        announce_early(forwarder->lobby, connection);
    return true;
}

/* The listener of a caller is gone. A caller that was accepted just now needs it no longer. */
static void send_away(struct forwarder *forwarder, struct connection *caller)
{
    struct pair_view view;
    if (pair_look(forwarder->table, caller->ref, &view) == 0 && view.state == PAIR_MATCHED)
        remove_caller(caller);
    else
        forwarder->lobby->dismiss(forwarder, caller, PAIR_LONELY, PAIR_NO_LISTENER);
}

void lobby_leave(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->coded == NULL)
        return;
    remove_caller(connection);
    if (connection->state != CONNECTION_LOBBY)
        return;
    dequeue(forwarder->lobby, connection);
    if (forwarder->lobby->served == connection)
        forwarder->lobby->served = NULL;
    while (connection->coded->callers != NULL)
        send_away(forwarder, connection->coded->callers);
    if (rules_of(connection)->leave != NULL)
        rules_of(connection)->leave(forwarder->lobby, connection);
    forwarder->lobby->untidy = true;
}

/* ---- messages --------------------------------------------------------------- */

static bool hear_piece(void *context, struct connection *from, struct piece *piece)
{
    struct forwarder *forwarder = context;
    struct coded *coded = from->coded;
    const uint8_t *message = piece->bytes;
    size_t size = piece->size;
    bool whole = piece->first && piece->last;
    if (!whole && !messages_assemble(from, piece, LOBBY_MESSAGE_MAX)) {
        coded->unwelcome = true;
        return false;
    }
    if (!piece->last)
        return true;
    if (!whole) {
        message = coded->held;
        size = coded->held_size;
    }
    lobby_charge(forwarder->lobby, COST_HEARD);
    coded->unwelcome = !rules_of(from)->hear(forwarder->lobby, from, message, size, piece->text);
    messages_drop_held(from);
    enqueue(forwarder->lobby, from); /* the message may have caused work */
    return !coded->unwelcome;
}

static bool is_in_debt(const struct forwarder *forwarder, const struct connection *connection)
{
    return connection->coded->paid > forwarder->transfer.now * 1000 + CREDIT;
}

static void read_first(struct forwarder *forwarder, struct connection *connection)
{
    connection->chunk = READ_MAX;
    bool more = messages_read(&forwarder->transfer, connection, hear_piece, forwarder);
    if (connection->starved)
        forwarder->lobby->dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    else if (connection->coded->unwelcome || connection->coded->verdict == CODEC_FAILED)
        forwarder->lobby->dismiss(forwarder, connection, PAIR_ERRORY, PAIR_NO_REASON);
    else if (connection->ended)
        forwarder->lobby->dismiss(forwarder, connection, PAIR_SERVED, PAIR_NO_REASON);
    else if (more)
        enqueue(forwarder->lobby, connection);
    if (connection->state == CONNECTION_LOBBY)
        connections_touch(forwarder, connection);
}

/* Takes a step for the first connection in the queue, or reads it when it has no work left. A
 * client that has hung up gets no more steps; if it is in debt, and so not read, it ends here. */
static void serve_first(struct forwarder *forwarder)
{
    struct lobby *lobby = forwarder->lobby;
    struct connection *connection = lobby->first;
    lobby->served = connection;
    if (!connection->hung_up && rules_of(connection)->work != NULL &&
        rules_of(connection)->work(lobby, connection))
        return;
    dequeue(lobby, connection);
    if (!is_in_debt(forwarder, connection) && !messages_are_full(connection))
        read_first(forwarder, connection);
    else if (connection->hung_up)
        forwarder->lobby->dismiss(forwarder, connection, PAIR_SERVED, PAIR_NO_REASON);
    else
        deadline_set(&connection->phase, &forwarder->resting, forwarder->transfer.now);
}

/* Takes a step of the work that is left by connections that are gone. Returns whether there is
 * more.
 */
static bool tidy(void)
{
    bool more = false;
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        if (protocols[i]->lobby != NULL && protocols[i]->lobby->tidy != NULL)
            more = protocols[i]->lobby->tidy() || more;
    return more;
}

bool lobby_is_busy(const struct forwarder *forwarder)
{
    return forwarder->lobby->first != NULL || forwarder->lobby->untidy;
}

void lobby_turn(struct forwarder *forwarder)
{
    struct lobby *lobby = forwarder->lobby;
    int64_t until = lobby_is_busy(forwarder) ? clock_fine() + TURN : 0;
    while (lobby_is_busy(forwarder) && clock_fine() < until) {
        if (lobby->first != NULL)
            serve_first(forwarder);
        lobby->served = NULL;
        if (lobby->untidy)
            lobby->untidy = tidy();
    }
}

void lobby_wake(struct forwarder *forwarder, struct connection *connection)
{
    if (!deadline_is_set(&connection->phase) || connection->hung_up)
        enqueue(forwarder->lobby, connection);
}

/* ---- for rules ------------------------------------------------------------------- */

bool lobby_tell(
    struct lobby *lobby, struct connection *connection, const uint8_t *message, size_t size)
{
    struct forwarder *forwarder = lobby->forwarder;
    if (connection->outlet.size - connection->outlet.start >
            budget_allowance(BUDGET_WAITING, TOLD_MIN, TOLD_MAX) ||
        !messages_say(&forwarder->transfer, connection, message, size))
        return false;
    lobby_charge(lobby, COST_TOLD + (int64_t)size * COST_TOLD_BYTE);
    connections_touch(forwarder, connection);
    return true;
}

void lobby_charge(struct lobby *lobby, int64_t cost)
{
    int64_t now = lobby->forwarder->transfer.now * 1000;
    if (lobby->served == NULL)
        return;
    struct coded *coded = lobby->served->coded;
    coded->paid = (coded->paid > now ? coded->paid : now) + cost;
}

struct connection *lobby_caller(
    struct lobby *lobby, struct connection *listener, const struct iovec *parts, size_t count)
{
    struct forwarder *forwarder = lobby->forwarder;
    struct pair_key key = pair_key(forwarder->table, listener->protocol, parts, count);
    struct pair_ref ref;
    if (pair_find(forwarder->table, &key, &ref) != 0)
        return NULL;
    struct connection *caller = connections_held(forwarder, ref);
    bool calls = caller != NULL && caller->coded != NULL &&
                 caller->coded->calls == &listener->coded->callers;
    return calls ? caller : NULL;
}

void lobby_dismiss(struct lobby *lobby, struct connection *caller)
{
    lobby->dismiss(lobby->forwarder, caller, PAIR_LONELY, PAIR_NO_LISTENER);
}

void lobby_say_why(struct connection *connection, uint16_t code, const char *reason)
{
    connection->coded->close_code = code;
    connection->coded->close_reason = reason;
}

void lobby_starve(struct connection *connection)
{
    connection->starved = true;
}

const uint8_t *lobby_name(const struct connection *connection, size_t *size)
{
    *size = connection->coded->name_size;
    return connection->coded->name;
}

void *lobby_member(const struct connection *connection)
{
    return connection->coded->member;
}

void lobby_set_member(struct connection *connection, void *member)
{
    connection->coded->member = member;
}
