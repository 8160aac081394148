/* The lobby: connections that are not half of a pair, but wait for news: Offset's listeners,
 * localfirst's introductions. They live in the forwarder; what the news is, their protocol says,
 * in rules of its own. */
#ifndef RELAY_LOBBY_H
#define RELAY_LOBBY_H

#include "pair.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct lobby;
struct end; /* a connection */

enum {
    LOBBY_MESSAGE_MAX = 1 << 18, /* longer ones end their connection */
};

/* What a protocol does in the lobby. All of it runs in the forwarder, and never waits. */
struct lobby_rules {
    /* One has entered. False: there is no memory for it. NULL: nothing to do. */
    bool (*enter)(struct lobby *lobby, struct end *end);
    /* One has gone: forget it. */
    void (*leave)(struct lobby *lobby, struct end *end);
    /* A whole message from one. False: it ends the connection. */
    bool (*hear)(struct lobby *lobby, struct end *end, const uint8_t *message, size_t size);
    /* All that came at once has been heard. NULL: nothing to do. */
    void (*heard)(struct lobby *lobby, struct end *end);
    /* `caller` waits to be accepted by `listener`. False: the listener cannot be told. */
    bool (*announce)(struct lobby *lobby, struct end *listener, struct end *caller);
};

/* For rules: */

/* Tells one in the lobby something, as one message. False: it is too far behind, and was told
 * nothing. */
bool lobby_tell(struct lobby *lobby, struct end *end, const uint8_t *message, size_t size);
/* The one who waits to be accepted under a key made of these parts, by this listener; NULL:
 * nobody. */
struct end *lobby_caller(
    struct lobby *lobby, struct end *listener, const struct iovec *parts, size_t count);
void lobby_dismiss(struct lobby *lobby, struct end *end);
/* The name that its handoff gave. */
const uint8_t *lobby_name(const struct end *end, size_t *size);
/* What the protocol keeps about it. */
void *lobby_member(const struct end *end);
void lobby_set_member(struct end *end, void *member);

#endif
