/* The lobby: who is in it, who calls whom, and the messages they say. */
#include "lobby.h"

#include "budget.h"
#include "forwarder.h"
#include "proto/proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOLD_MAX = 1 << 20, /* bytes of news not yet written, past which there is no more */
    TOLD_MIN = 1 << 14, /* the same, when there is too much that others hold */
    TOLD_AT_ONCE = 64,  /* messages that one's words may cause before it has to rest */
};

struct lobby {
    struct forwarder *forwarder;
    struct end *early; /* callers whose listener's descriptor is on its way */
    uint64_t told;     /* messages in all */
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
    if (listener != NULL && listener->state == END_LOBBY)
        return announce(lobby, listener, caller);
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
    while (end->coded->callers != NULL)
        send_away(forwarder, end->coded->callers);
    if (rules_of(end)->leave != NULL)
        rules_of(end)->leave(forwarder->lobby, end);
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
    coded->unwelcome = !rules_of(from)->hear(forwarder->lobby, from, message, size);
    messages_drop_held(from);
    return !coded->unwelcome;
}

/* Who has others told much rests for a while, so that it cannot do so all the time. */
static bool tires(struct lobby *lobby, struct end *end)
{
    uint64_t before = lobby->told;
    if (rules_of(end)->heard != NULL)
        rules_of(end)->heard(lobby, end);
    return lobby->told - before > TOLD_AT_ONCE;
}

void lobby_read(struct forwarder *forwarder, struct end *end)
{
    if (deadline_is_set(&end->phase))
        return; /* it rests */
    bool more = messages_read(&forwarder->flow, end, hear, forwarder);
    if (end->coded->unwelcome || end->coded->verdict == CODEC_FAILED)
        ends_dismiss(forwarder, end, PAIR_ERRORY, PAIR_NO_REASON);
    else if (end->ended)
        ends_dismiss(forwarder, end, PAIR_SERVED, PAIR_NO_REASON);
    else if (tires(forwarder->lobby, end))
        deadline_set(&end->phase, &forwarder->resting, forwarder->flow.now);
    else if (more)
        ends_queue(forwarder, end);
}

/* ---- for rules ------------------------------------------------------------------- */

bool lobby_tell(struct lobby *lobby, struct end *end, const uint8_t *message, size_t size)
{
    struct forwarder *forwarder = lobby->forwarder;
    if (end->outlet.size - end->outlet.start > budget_share(TOLD_MIN, TOLD_MAX) ||
        !messages_say(&forwarder->flow, end, message, size))
        return false;
    lobby->told++;
    ends_touch(forwarder, end);
    return true;
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
