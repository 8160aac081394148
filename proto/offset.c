/* Offset's relay. A node listens under its key. Another node connects to that key, is announced to
 * the listener, and waits. The listener accepts it with a second connection, and the relay joins
 * the two to a tunnel. All messages go through a secure channel (codec/channel.c). The relay's only
 * answer to a fault is to close. */
#include "codec/capnp.h"
#include "codec/channel.h"
#include "proto/greeting.h"

#include "base/clock.h"
#include "forward/lobby.h"
#include "ident.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST_SIZE = 8 + 4,        /* bytes of a client's first frame: its version */
    FIRST_FRAME_MAX = 1 << 17, /* bytes of an InitConnection, with up to 64 KiB of padding */
    HALF_TUNNEL_TIME = 32000,  /* milliseconds for a connector to be accepted */
    SCRATCH_SIZE = 1024,
    NAME_SIZE = 2 * CAPNP_KEY_SIZE, /* of a connection: the node's key, and the relay's */
};

enum side {
    SIDE_LISTENER = 1, /* also of a node that connects */
    SIDE_ACCEPTOR,
};

/* ---- keys ------------------------------------------------------------------------ */

static struct iovec key_part(const void *bytes, size_t size)
{
    return (struct iovec){(void *)(uintptr_t)bytes, size};
}

/* Nodes connect to a relay of a certain identity. So the relay's public key is part of every key,
 * and relays of several identities can share a table. */
static struct pair_key listener_key(const struct greeting *greeting, const uint8_t *node)
{
    struct iovec parts[] = {
        key_part(node, CAPNP_KEY_SIZE), key_part(greeting->identity->public_key, CAPNP_KEY_SIZE)};
    return pair_key(greeting->table, greeting->protocol, parts, 2);
}

static struct pair_key tunnel_key(
    const struct greeting *greeting, const uint8_t *connector, const uint8_t *listener)
{
    struct iovec parts[] = {key_part(connector, CAPNP_KEY_SIZE), key_part(listener, CAPNP_KEY_SIZE),
        key_part(greeting->identity->public_key, CAPNP_KEY_SIZE)};
    return pair_key(greeting->table, greeting->protocol, parts, 3);
}

/* ---- the greeting ---------------------------------------------------------------- */

/* Reads one frame, with its header. Returns its size, or a negative errno: -EMSGSIZE if its payload
 * is larger than `max`. */
static ssize_t read_frame(const struct greeting *greeting, uint8_t *frame, size_t max)
{
    int error = greeting_read(greeting, frame, CHANNEL_HEADER);
    if (error != 0)
        return error;
    int size = channel_payload_size(frame, max);
    if (size < 0)
        return size;
    error = greeting_read(greeting, frame + CHANNEL_HEADER, (size_t)size);
    return error != 0 ? error : CHANNEL_HEADER + size;
}

static enum pair_outcome outcome_of(ssize_t error)
{
    return error == -EMSGSIZE || error == -EBADMSG ? PAIR_ERRORY : PAIR_EMPTY;
}

static enum pair_outcome open_channel(
    const struct greeting *greeting, struct channel_handshake *handshake)
{
    uint8_t frame[CHANNEL_HEADER + CHANNEL_GREETING_MAX], send[CHANNEL_SEND_MAX];
    size_t count = channel_begin(
        handshake, greeting->identity->public_key, greeting->identity->secret_key, send);
    greeting_say(greeting, send, count);
    while (handshake->stage != CHANNEL_READY) {
        ssize_t size = read_frame(greeting, frame, CHANNEL_GREETING_MAX);
        if (size < 0)
            return outcome_of(size);
        int error = channel_proceed(
            handshake, frame + CHANNEL_HEADER, (size_t)size - CHANNEL_HEADER, send, &count);
        if (error != 0)
            return outcome_of(error);
        greeting_say(greeting, send, count);
    }
    return PAIR_HAPPY;
}

/* Decodes one whole frame. PAIR_HAPPY: it was an InitConnection; PAIR_LONELY: something that may
 * come before it. */
static enum pair_outcome decode_frame(const struct greeting *greeting, void *state, uint8_t *frame,
    size_t size, struct init_connection *init)
{
    uint8_t memory[SCRATCH_SIZE];
    struct capnp_scratch scratch = {memory, sizeof memory};
    struct piece piece;
    for (;;) {
        switch (channel_codec.decode(state, &frame, &size, clock_now(), &piece)) {
        case CODEC_MORE:
            return PAIR_LONELY;
        case CODEC_PIECE:
            return capnp_read_init_connection(scratch, piece.bytes, piece.size, init) == 0
                       ? PAIR_HAPPY
                       : PAIR_ERRORY;
        case CODEC_REPLY:
            greeting_say(greeting, piece.bytes, piece.size);
            break;
        case CODEC_LIFE:
            break;
        case CODEC_CLOSED:
        case CODEC_FAILED:
            return PAIR_ERRORY;
        case CODEC_STARVED:
            return PAIR_FULL;
        }
    }
}

/* Reads up to the InitConnection, and nothing behind it. */
static enum pair_outcome read_init(
    const struct greeting *greeting, struct channel_session *session, struct init_connection *init)
{
    enum pair_outcome outcome = PAIR_FULL;
    struct budget_account account = {.held = 0};
    uint8_t *buffer = malloc(CODEC_HEAD + CHANNEL_HEADER + FIRST_FRAME_MAX);
    void *state = calloc(1, channel_codec.state_size);
    if (buffer != NULL && state != NULL &&
        channel_codec.open(
            state, (const uint8_t *)session, sizeof *session, clock_now(), &account) == 0)
        outcome = PAIR_LONELY;
    while (outcome == PAIR_LONELY) {
        ssize_t size = read_frame(greeting, buffer + CODEC_HEAD, FIRST_FRAME_MAX);
        outcome = size < 0 ? outcome_of(size)
                           : decode_frame(greeting, state, buffer + CODEC_HEAD, (size_t)size, init);
    }
    if (outcome == PAIR_HAPPY && channel_suspend(state, session) != 0)
        outcome = PAIR_ERRORY;
    if (state != NULL)
        channel_codec.close(state);
    free(state);
    free(buffer);
    return outcome;
}

static void request_by_keys(const struct greeting *greeting, const uint8_t *node,
    const struct init_connection *init, struct pair_request *request)
{
    request->protocol = greeting->protocol;
    request->side = SIDE_LISTENER;
    switch (init->kind) {
    case INIT_LISTEN:
        request->rule = PAIR_LISTEN;
        request->key = listener_key(greeting, node);
        break;
    case INIT_CONNECT:
        request->rule = PAIR_CONNECT;
        request->key = tunnel_key(greeting, node, init->public_key);
        request->listener = listener_key(greeting, init->public_key);
        break;
    case INIT_ACCEPT:
    case INIT_KINDS:
        request->rule = PAIR_ACCEPT;
        request->side = SIDE_ACCEPTOR;
        request->key = tunnel_key(greeting, init->public_key, node);
        request->listener = listener_key(greeting, node);
        break;
    }
}

/* Waits for the client's first frame, so that the greeting can be given up before. The next steps
 * are all answers to the client, and keep the worker. */
static enum pair_outcome await_first_frame(const struct greeting *greeting)
{
    uint8_t frame[FIRST_SIZE];
    bool peekable = greeting->records == NULL;
    bool begun = (!peekable || greeting_await(greeting, frame, sizeof frame) == 0) &&
                 greeting_hold(greeting) == 0;
    return begun ? PAIR_HAPPY : PAIR_EMPTY;
}

static enum pair_outcome offset_greet(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    struct channel_handshake handshake;
    struct init_connection init;
    if (greeting->identity == NULL)
        return PAIR_ERRORY;
    enum pair_outcome outcome = await_first_frame(greeting);
    if (outcome != PAIR_HAPPY)
        return outcome;
    outcome = open_channel(greeting, &handshake);
    if (outcome == PAIR_HAPPY)
        outcome = read_init(greeting, &handshake.session, &init);
    if (outcome == PAIR_HAPPY) {
        request_by_keys(greeting, handshake.session.peer, &init, request);
        handoff->codec = CODEC_CHANNEL;
        handoff->lobby = init.kind == INIT_LISTEN;
        handoff->name_size = NAME_SIZE;
        memcpy(handoff->name, handshake.session.peer, CAPNP_KEY_SIZE);
        memcpy(handoff->name + CAPNP_KEY_SIZE, greeting->identity->public_key, CAPNP_KEY_SIZE);
        handoff->session_size = sizeof handshake.session;
        memcpy(handoff->session, &handshake.session, sizeof handshake.session);
    }
    channel_end(&handshake);
    return outcome;
}

/* ---- in the lobby ---------------------------------------------------------------- */

/* NULL if a worker has sent a name of another size. */
static const uint8_t *name_of(const struct connection *connection)
{
    size_t size;
    const uint8_t *name = lobby_name(connection, &size);
    return size == NAME_SIZE ? name : NULL;
}

/* Tells the listener: IncomingConnection. */
static bool offset_announce(
    struct lobby *lobby, struct connection *listener, struct connection *caller)
{
    uint8_t message[CAPNP_SMALL_MAX];
    struct connection_key incoming;
    const uint8_t *name = name_of(caller);
    if (name == NULL)
        return false;
    memcpy(incoming.public_key, name, sizeof incoming.public_key);
    return lobby_tell(lobby, listener, message, capnp_write_connection_key(&incoming, message));
}

/* A listener sends nothing but RejectConnection. */
static bool offset_hear(struct lobby *lobby, struct connection *listener, const uint8_t *message,
    size_t size, bool text)
{
    (void)text;
    uint8_t memory[SCRATCH_SIZE];
    struct capnp_scratch scratch = {memory, sizeof memory};
    struct connection_key rejected;
    const uint8_t *name = name_of(listener);
    if (name == NULL || capnp_read_connection_key(scratch, message, size, &rejected) != 0)
        return false;
    struct iovec parts[] = {key_part(rejected.public_key, sizeof rejected.public_key),
        key_part(name, CAPNP_KEY_SIZE), key_part(name + CAPNP_KEY_SIZE, CAPNP_KEY_SIZE)};
    struct connection *caller = lobby_caller(lobby, listener, parts, 3);
    if (caller != NULL)
        lobby_dismiss(lobby, caller);
    return true;
}

static const struct lobby_rules rules = {
    .hear = offset_hear,
    .announce = offset_announce,
};

/* The relay has no words for its clients: it only closes. */
static void offset_welcome(const uint8_t *name, size_t name_size, struct words *words)
{
    (void)name;
    (void)name_size;
    (void)words;
}

static void offset_farewell(enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)outcome;
    (void)reason;
    (void)words;
}

static const struct prefix prefix = {8, {0, 0, 0, 0, 0, 0, 0, 4}};

const struct protocol offset_protocol = {
    .name = "offset",
    .prefixes = &prefix,
    .prefix_count = 1,
    .greet = offset_greet,
    .patient = true,
    .wait_time = HALF_TUNNEL_TIME,
    .welcome = offset_welcome,
    .farewell = offset_farewell,
    .lobby = &rules,
};
