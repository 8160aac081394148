/* The lobby: connections that are not half of a pair, but wait for news: Offset's listeners,
 * localfirst's introductions. They live in the forwarder; what the news is, their protocol says,
 * in rules of its own.
 *
 * A few bytes of one can be news to many, and pairs share the thread with them. So whatever is to
 * be done in the lobby waits in one queue, and is done in turns of half a millisecond; and everyone
 * in it pays in time for the work that it makes: who owes some is not read until it has paid. */
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
    LOBBY_MESSAGE_MAX = 1 << 18, /* longer ones end their connection */
};

/* What a protocol does in the lobby. All of it runs in the forwarder, never waits, and takes a
 * small part of a turn. */
struct lobby_rules {
    /* One has entered. False: there is no memory for it. NULL: nothing to do. */
    bool (*enter)(struct lobby *lobby, struct connection *connection);
    /* One has gone: forget it. */
    void (*leave)(struct lobby *lobby, struct connection *connection);
    /* A whole message from one, text or binary. False: it ends the connection. */
    bool (*hear)(struct lobby *lobby, struct connection *connection, const uint8_t *message,
        size_t size, bool text);
    /* Takes one step of what the messages heard from one have made necessary, if there is any to
     * take. Returns whether there are more; no other takes a step before that. NULL: never any. */
    bool (*work)(struct lobby *lobby, struct connection *connection);
    /* Takes one step of what is left to do of those who have gone. Returns whether there are more.
     * NULL: never any. */
    bool (*tidy)(void);
    /* `caller` waits to be accepted by `listener`. False: the listener cannot be told. */
    bool (*announce)(struct lobby *lobby, struct connection *listener, struct connection *caller);
};

/* For a protocol's rules: */

/* Tells one in the lobby something, as one message; it is paid for by whose message or step this
 * comes of. False: it is too far behind, and was told nothing. */
bool lobby_tell(
    struct lobby *lobby, struct connection *connection, const uint8_t *message, size_t size);
/* The same end pays so many microseconds more. */
void lobby_charge(struct lobby *lobby, int64_t cost);
/* The one who waits to be accepted under a key made of these parts, by this listener; NULL:
 * nobody. */
struct connection *lobby_caller(
    struct lobby *lobby, struct connection *listener, const struct iovec *parts, size_t count);
void lobby_dismiss(struct lobby *lobby, struct connection *connection);
/* What one whose message ends its connection is told in the place of farewell()'s words. */
void lobby_say_why(struct connection *connection, uint16_t code, const char *reason);
/* A message that ends its connection does so for lack of memory. */
void lobby_starve(struct connection *connection);
/* The name that its handoff gave. */
const uint8_t *lobby_name(const struct connection *connection, size_t *size);
/* What the protocol keeps about it. */
void *lobby_member(const struct connection *connection);
void lobby_set_member(struct connection *connection, void *member);

/* For the forwarder: */

/* Ends a connection that has no peer: all that the lobby asks of the file that has it. */
typedef void lobby_dismisser(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason);

/* 0 or -ENOMEM. */
int lobby_open(struct forwarder *forwarder, lobby_dismisser *dismiss);
void lobby_close(struct forwarder *forwarder);
/* One came who waits for news. False: there is no memory for it. */
bool lobby_enter(struct forwarder *forwarder, struct connection *connection);
/* One came, and waits to be accepted by who listens in the slot `listener`. False: nobody does
 * any more. */
bool lobby_call(struct forwarder *forwarder, struct connection *caller, struct pair_ref listener);
/* One of either kind goes, or was accepted. */
void lobby_leave(struct forwarder *forwarder, struct connection *connection);
/* One in the lobby has something to say, or is to be looked at: in one of the next turns. */
void lobby_wake(struct forwarder *forwarder, struct connection *connection);
/* Does what there is to do in the lobby, for half a millisecond at most. */
void lobby_turn(struct forwarder *forwarder);
/* Whether there is something to do. */
bool lobby_is_busy(const struct forwarder *forwarder);

#endif
