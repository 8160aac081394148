/* The lobby: who is in it, who calls whom, and the messages they say. */
#include "forward/lobby.h"

#include "forward/forwarder.h"
#include "protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TOLD_MAX = 1 << 20, /* bytes of news not yet written, past which there is no more */
    TOLD_MIN = 1 << 14, /* the same, when there is too much that others hold */
    READ_MAX = 1 << 12, /* bytes of one, before others have their turn */
    TURN = 500000,      /* nanoseconds, before pairs have theirs */
    CREDIT = 100000,    /* microseconds that one may owe while it is read */
    /* What is paid: microseconds. So it is 500 messages told a second, or 256 KiB. */
    COST_HEARD = 50,
    COST_TOLD = 2000,
    COST_TOLD_BYTE = 4,
};

struct lobby {
    struct forwarder *forwarder;
    struct end *early;        /* callers whose listener's descriptor is on its way */
    struct end *first, *last; /* the queue */
    struct end *served;       /* who pays for what is done; NULL: nobody */
    bool untidy;              /* something is left to do of those who have gone */
};

static const struct lobby_rules *rules_of(const struct end *end)
{
    return protocols[end->protocol]->lobby;
}

int lobby_open(struct forwarder *forwarder)
{
    forwarder->lobby = calloc(1, sizeof *forwarder->lobby);
    if (forwarder->lobby == NULL)
        return -ENOMEM;
    forwarder->lobby->forwarder = forwarder;
    return 0;
}

void lobby_close(struct forwarder *forwarder)
{
    free(forwarder->lobby);
    forwarder->lobby = NULL;
}

/* ---- the queue ------------------------------------------------------------------- */

static void enqueue(struct lobby *lobby, struct end *end)
{
    struct coded *coded = end->coded;
    if (coded->in_turn)
        return;
    coded->in_turn = true;
    coded->next_turn = NULL;
    coded->prev_turn = lobby->last;
    if (lobby->last != NULL)
        lobby->last->coded->next_turn = end;
    else
        lobby->first = end;
    lobby->last = end;
}

static void dequeue(struct lobby *lobby, struct end *end)
{
    struct coded *coded = end->coded;
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

static void add_caller(struct end **list, struct end *caller)
{
    struct coded *coded = caller->coded;
    coded->calls = list;
    coded->prev_caller = NULL;
    coded->next_caller = *list;
    if (*list != NULL)
        (*list)->coded->prev_caller = caller;
    *list = caller;
}

static void remove_caller(struct end *caller)
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

static bool announce(struct lobby *lobby, struct end *listener, struct end *caller)
{
    add_caller(&listener->coded->callers, caller);
    return rules_of(listener)->announce(lobby, listener, caller);
}

bool lobby_call(struct forwarder *forwarder, struct end *caller, struct pair_ref listener_ref)
{
    struct lobby *lobby = forwarder->lobby;
    struct end *listener = ends_held(forwarder, listener_ref);
    struct pair_view view;
    caller->coded->called = listener_ref;
    if (listener != NULL)
        return listener->state == END_LOBBY && announce(lobby, listener, caller);
    if (pair_look(forwarder->table, listener_ref, &view) != 0)
        return false;
    add_caller(&lobby->early, caller);
    return true;
}

/* Those who called before the listener's descriptor had come. */
static void announce_early(struct lobby *lobby, struct end *listener)
{
    struct end *next;
    for (struct end *caller = lobby->early; caller != NULL; caller = next) {
        next = caller->coded->next_caller;
        if (!pair_same(caller->coded->called, listener->ref))
            continue;
        remove_caller(caller);
        if (!announce(lobby, listener, caller))
            ends_dismiss(lobby->forwarder, caller, PAIR_LONELY, PAIR_NO_LISTENER);
    }
}

/* ---- coming and going ------------------------------------------------------------ */

bool lobby_enter(struct forwarder *forwarder, struct end *end)
{
    const struct lobby_rules *rules = rules_of(end);
    end->state = END_LOBBY;
    if (rules->enter != NULL && !rules->enter(forwarder->lobby, end))
        return false;
    if (rules->announce != NULL)
        announce_early(forwarder->lobby, end);
    return true;
}

/* Its listener is gone. One that was accepted just now needs none any more. */
static void send_away(struct forwarder *forwarder, struct end *caller)
{
    struct pair_view view;
    if (pair_look(forwarder->table, caller->ref, &view) == 0 && view.state == PAIR_MATCHED)
        remove_caller(caller);
    else
        ends_dismiss(forwarder, caller, PAIR_LONELY, PAIR_NO_LISTENER);
}

void lobby_leave(struct forwarder *forwarder, struct end *end)
{
    if (end->coded == NULL)
        return;
    remove_caller(end);
    if (end->state != END_LOBBY)
        return;
    dequeue(forwarder->lobby, end);
    if (forwarder->lobby->served == end)
        forwarder->lobby->served = NULL;
    while (end->coded->callers != NULL)
        send_away(forwarder, end->coded->callers);
    if (rules_of(end)->leave != NULL)
        rules_of(end)->leave(forwarder->lobby, end);
    forwarder->lobby->untidy = true;
}

/* ---- what they say --------------------------------------------------------------- */

static bool hear(void *context, struct end *from, struct piece *piece)
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
    enqueue(forwarder->lobby, from); /* there may be something to do now */
    return !coded->unwelcome;
}

static bool is_in_debt(const struct forwarder *forwarder, const struct end *end)
{
    return end->coded->paid > forwarder->flow.now * 1000 + CREDIT;
}

static void read_one(struct forwarder *forwarder, struct end *end)
{
    end->chunk = READ_MAX;
    bool more = messages_read(&forwarder->flow, end, hear, forwarder);
    if (end->starved)
        ends_dismiss(forwarder, end, PAIR_FULL, PAIR_NO_REASON);
    else if (end->coded->unwelcome || end->coded->verdict == CODEC_FAILED)
        ends_dismiss(forwarder, end, PAIR_ERRORY, PAIR_NO_REASON);
    else if (end->ended)
        ends_dismiss(forwarder, end, PAIR_SERVED, PAIR_NO_REASON);
    else if (more)
        enqueue(forwarder->lobby, end);
    if (end->state == END_LOBBY)
        ends_touch(forwarder, end);
}

/* Has the first in the queue take a step, or reads it once it has none to take. For who is hanging
 * up no steps are taken; who is not read for its debt is then known to have gone. */
static void serve_first(struct forwarder *forwarder)
{
    struct lobby *lobby = forwarder->lobby;
    struct end *end = lobby->first;
    lobby->served = end;
    if (!end->hung_up && rules_of(end)->work != NULL && rules_of(end)->work(lobby, end))
        return;
    dequeue(lobby, end);
    if (!is_in_debt(forwarder, end) && !messages_are_full(end))
        read_one(forwarder, end);
    else if (end->hung_up)
        ends_dismiss(forwarder, end, PAIR_SERVED, PAIR_NO_REASON);
    else
        deadline_set(&end->phase, &forwarder->resting, forwarder->flow.now);
}

/* Whether there is more to do of those who have gone. */
static bool tidy(void)
{
    bool more = false;
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        if (protocols[i]->lobby != NULL && protocols[i]->lobby->tidy != NULL)
            more = protocols[i]->lobby->tidy() || more;
    return more;
}

static int64_t now_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool lobby_is_busy(const struct forwarder *forwarder)
{
    return forwarder->lobby->first != NULL || forwarder->lobby->untidy;
}

void lobby_turn(struct forwarder *forwarder)
{
    struct lobby *lobby = forwarder->lobby;
    int64_t until = lobby_is_busy(forwarder) ? now_nanoseconds() + TURN : 0;
    while (lobby_is_busy(forwarder) && now_nanoseconds() < until) {
        if (lobby->first != NULL)
            serve_first(forwarder);
        lobby->served = NULL;
        if (lobby->untidy)
            lobby->untidy = tidy();
    }
}

void lobby_wake(struct forwarder *forwarder, struct end *end)
{
    if (!deadline_is_set(&end->phase) || end->hung_up)
        enqueue(forwarder->lobby, end);
}

/* ---- for rules ------------------------------------------------------------------- */

bool lobby_tell(struct lobby *lobby, struct end *end, const uint8_t *message, size_t size)
{
    struct forwarder *forwarder = lobby->forwarder;
    if (end->outlet.size - end->outlet.start >
            budget_allowance(BUDGET_WAITING, TOLD_MIN, TOLD_MAX) ||
        !messages_say(&forwarder->flow, end, message, size))
        return false;
    lobby_charge(lobby, COST_TOLD + (int64_t)size * COST_TOLD_BYTE);
    ends_touch(forwarder, end);
    return true;
}

void lobby_charge(struct lobby *lobby, int64_t cost)
{
    int64_t now = lobby->forwarder->flow.now * 1000;
    if (lobby->served == NULL)
        return;
    struct coded *coded = lobby->served->coded;
    coded->paid = (coded->paid > now ? coded->paid : now) + cost;
}

struct end *lobby_caller(
    struct lobby *lobby, struct end *listener, const struct iovec *parts, size_t count)
{
    struct forwarder *forwarder = lobby->forwarder;
    struct pair_key key = pair_key(forwarder->table, listener->protocol, parts, count);
    struct pair_ref ref;
    if (pair_find(forwarder->table, &key, &ref) != 0)
        return NULL;
    struct end *caller = ends_held(forwarder, ref);
    bool calls = caller != NULL && caller->coded != NULL &&
                 caller->coded->calls == &listener->coded->callers;
    return calls ? caller : NULL;
}

void lobby_dismiss(struct lobby *lobby, struct end *end)
{
    ends_dismiss(lobby->forwarder, end, PAIR_LONELY, PAIR_NO_LISTENER);
}

void lobby_say_why(struct end *end, uint16_t code, const char *reason)
{
    end->coded->close_code = code;
    end->coded->close_reason = reason;
}

void lobby_starve(struct end *end)
{
    end->starved = true;
}

const uint8_t *lobby_name(const struct end *end, size_t *size)
{
    *size = end->coded->name_size;
    return end->coded->name;
}

void *lobby_member(const struct end *end)
{
    return end->coded->member;
}

void lobby_set_member(struct end *end, void *member)
{
    end->coded->member = member;
}
