/* A protocol: one file in proto/, and one line in PROTOCOLS (CONTRIBUTING.md adds one as an
 * example).
 *
 * Its greeting runs in a worker. It reads a connection of which nothing is consumed yet, blocking,
 * against one deadline; it consumes exactly the client's handshake, and makes a request to the
 * table. The forwarder uses the protocol's words, and its rules for clients that wait for news. */
#ifndef RELAY_PROTOCOL_H
#define RELAY_PROTOCOL_H

#include "codec/codec.h"
#include "pair.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct greeting;
struct handoff;
struct lobby_rules;

enum {
    PROTOCOL_PREFIX_MAX = 8,
    PROTOCOL_BEGINNING_MAX = 32, /* bytes by which a protocol is recognised */
    PROTOCOL_WORDS_MAX = 64,
    PROTOCOL_SPEECH_MAX = CODEC_HEAD + PROTOCOL_WORDS_MAX + CODEC_FAREWELL_MAX,
};

/* What the relay itself says to a client. */
struct words {
    uint8_t message[PROTOCOL_WORDS_MAX];
    size_t size; /* 0: no message */
    bool text;   /* else binary, where the codec has both */
    /* With these a codec that has them ends the connection. 0: with the code that fits. */
    uint16_t code;
    const char *reason;
};

/* Sets the message: the first PROTOCOL_WORDS_MAX characters of this. */
void words_set(struct words *words, const char *message);

/* All protocols, in the order in which a connection is compared with them; the last protocol takes
 * every connection that no other takes. The number stands in the table, and in what an old and a
 * new version of relay tell each other, so it never changes; a new protocol takes the next number,
 * wherever its line is. name: there is a NAME_protocol in proto/. */
#define PROTOCOLS(PROTOCOL)                                                                        \
    PROTOCOL(0, TLS, tls)                                                                          \
    PROTOCOL(1, WEB, web)                                                                          \
    PROTOCOL(2, OFFSET, offset)                                                                    \
    PROTOCOL(3, P2PCOPY, p2pcopy)                                                                  \
    PROTOCOL(4, LOCALFIRST, localfirst)                                                            \
    PROTOCOL(5, TRANSIT, transit)

enum protocol_number {
#define NUMBER(number, constant, name) PROTOCOL_##constant = (number),
    PROTOCOLS(NUMBER)
#undef NUMBER
    PROTOCOL_UNKNOWN = PROTOCOL_TRANSIT, /* of a connection that is not recognised yet */
};

#define ONE(number, constant, name) +1
enum {
    PROTOCOL_COUNT = PROTOCOLS(ONE),
};
#undef ONE
_Static_assert((int)PROTOCOL_COUNT <= (int)PAIR_PROTOCOLS_MAX, "the table counts by protocol");

struct prefix {
    size_t size;
    uint8_t bytes[PROTOCOL_PREFIX_MAX];
};

/* What the first bytes of a connection say of its protocol. */
enum beginning {
    BEGINNING_OTHER,
    BEGINNING_UNDECIDED, /* more bytes will tell */
    BEGINNING_OURS,
};

struct protocol {
    const char *name;
    /* How a connection without WebSocket begins: with one of these prefixes, or as begins() says of
     * up to PROTOCOL_BEGINNING_MAX bytes. A protocol with neither takes every connection. */
    const struct prefix *prefixes;
    size_t prefix_count;
    enum beginning (*begins)(const uint8_t *head, size_t size);
    /* Reads the handshake, and fills in the request and what the forwarder needs besides. Returns
     * PAIR_HAPPY, or the outcome of the connection, which the worker then tells the client in the
     * words of farewell(). NULL: the protocol needs a WebSocket. */
    enum pair_outcome (*greet)(
        struct greeting *greeting, struct pair_request *request, struct handoff *handoff);

    /* The same from where greet() called greeting_settle(). NULL: it does not. */
    enum pair_outcome (*resume)(
        struct greeting *greeting, struct pair_request *request, struct handoff *handoff);

    /* The same for a WebSocket. A protocol recognises its clients by the path that they ask for
     * (percent-encoded, without the query); greet_path() returns false for a path that the
     * protocol claims and refuses: 404. NULL: it claims no path. */
    bool (*claims_path)(const char *path, size_t size);
    bool (*greet_path)(struct greeting *greeting, const char *path, size_t size,
        struct pair_request *request, struct handoff *handoff);
    bool takes_subprotocol; /* the first that a client offers */
    /* Where no protocol claims the path, a protocol recognises its clients by their first message.
     * NULL: it claims no message. */
    bool (*claims_message)(const uint8_t *message, size_t size, bool text);
    enum pair_outcome (*greet_message)(struct greeting *greeting, const uint8_t *message,
        size_t size, struct pair_request *request, struct handoff *handoff);

    bool binary_only; /* a text message is refused (WEBSOCKET_UNSUPPORTED) */
    bool patient;     /* messages before the peer has come are kept; else the client is impatient */
    /* Clients lose messages that arrive together with the answer to their upgrade. So nothing is
     * sent to a client before it has sent something, or some time has passed. */
    bool deaf_at_first;
    int64_t wait_time; /* for a peer: milliseconds; 0: --wait-timeout */
    /* What a client is told when it is joined to its peer, and when it is closed. name: the
     * handoff's. The words are zeroed before. */
    void (*welcome)(const uint8_t *name, size_t name_size, struct words *words);
    void (*farewell)(enum pair_outcome outcome, enum pair_reason reason, struct words *words);
    const struct lobby_rules *lobby; /* NULL: no client waits for news */
};

/* By number. */
extern const struct protocol *const protocols[PROTOCOL_COUNT];
/* Their numbers, in the order of PROTOCOLS. */
extern const uint8_t protocols_in_order[PROTOCOL_COUNT];

/* Writes words in the form of a codec (NULL: plain) with this state: the message, and if `closing`
 * the bytes that end the connection. A message is left out where the codec does not encode in
 * place: it may make more bytes of it than a speech has. Returns how many bytes. */
size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX]);

#endif
