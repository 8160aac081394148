/* The lobby: connections that wait for news, and not for one peer: Offset's listeners, peers of
 * localfirst that are introduced to each other. A *caller* is a parked connection that waits until
 * a listener in the lobby accepts it. What the news are is up to the protocol, which has rules
 * here.
 *
 * A few bytes from one client can be news for many, and pairs share the thread with the lobby. So
 * all work of the lobby waits in one queue, and is done in turns of half a millisecond; and a
 * client pays in time for the work that it causes: while it is in debt it is not read. */
#ifndef RELAY_LOBBY_H
#define RELAY_LOBBY_H

#include "pair.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct connection;
struct forwarder;
struct lobby;

enum {
    LOBBY_MESSAGE_MAX = 1 << 18, /* bytes: a longer message ends its connection */
};

/* What a protocol does in the lobby. These functions run in the forwarder, never wait, and take a
 * small part of a turn each. */
struct lobby_rules {
    /* A connection has entered. False: there is no memory for it. NULL: nothing to do. */
    bool (*enter)(struct lobby *lobby, struct connection *connection);
    /* A connection has left: forget it. */
    void (*leave)(struct lobby *lobby, struct connection *connection);
    /* A whole message from a connection, text or binary. False: the connection is to end. */
    bool (*hear)(struct lobby *lobby, struct connection *connection, const uint8_t *message,
        size_t size, bool text);
    /* Takes one step, if there is any, of the work that the messages of a connection have caused.
     * Returns whether there are more steps; no other connection's are taken before those. NULL:
     * there is never any work. */
    bool (*work)(struct lobby *lobby, struct connection *connection);
    /* Takes one step of the work that connections which have left make necessary. Returns whether
     * there are more steps. NULL: there is never any. */
    bool (*tidy)(void);
    /* Tells `listener` that `caller` waits to be accepted. False: it cannot be told. */
    bool (*announce)(struct lobby *lobby, struct connection *listener, struct connection *caller);
};

/* For a protocol's rules: */

/* Sends a message to a connection in the lobby; the connection whose message or step causes this
 * pays for it. False: nothing was sent, as too much waits to be written already. */
bool lobby_tell(
    struct lobby *lobby, struct connection *connection, const uint8_t *message, size_t size);
/* The connection whose message or step is being worked on pays so many microseconds more. */
void lobby_charge(struct lobby *lobby, int64_t cost);
/* The caller that waits to be accepted by this listener, under a key made of these parts; NULL:
 * none. */
struct connection *lobby_caller(
    struct lobby *lobby, struct connection *listener, const struct iovec *parts, size_t count);
/* Ends the connection of a caller. */
void lobby_dismiss(struct lobby *lobby, struct connection *caller);
/* What a client whose message ends its connection is told, in the place of farewell()'s words. */
void lobby_say_why(struct connection *connection, uint16_t code, const char *reason);
/* A message ends its connection because there is no memory for it. */
void lobby_starve(struct connection *connection);
/* The name that a connection's handoff gave. */
const uint8_t *lobby_name(const struct connection *connection, size_t *size);
/* What the protocol keeps about a connection. */
void *lobby_member(const struct connection *connection);
void lobby_set_member(struct connection *connection, void *member);

/* For the forwarder: */

/* Ends a connection that has no peer. This is the lobby's only call to what is above it. */
typedef void lobby_dismisser(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason);

/* 0 or -ENOMEM. */
int lobby_open(struct forwarder *forwarder, lobby_dismisser *dismiss);
void lobby_close(struct forwarder *forwarder);
/* Lets a connection in. False: there is no memory for it. */
bool lobby_enter(struct forwarder *forwarder, struct connection *connection);
/* A caller came, and waits to be accepted by the listener in this slot. False: the listener is
 * gone. */
bool lobby_call(struct forwarder *forwarder, struct connection *caller, struct pair_ref listener);
/* A connection in the lobby, or a caller, ends or was accepted. */
void lobby_leave(struct forwarder *forwarder, struct connection *connection);
/* Queues a connection in the lobby that has events: it is served in one of the next turns. */
void lobby_wake(struct forwarder *forwarder, struct connection *connection);
/* Works on the queue, for half a millisecond at most. */
void lobby_turn(struct forwarder *forwarder);
/* Whether there is work. */
bool lobby_is_busy(const struct forwarder *forwarder);

#endif
