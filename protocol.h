/* A protocol, as all of relay knows it: one file in proto/, and one line in PROTOCOLS.
 *
 * Its greeting runs in a worker: blocking, against one deadline, on a connection of which nothing
 * has been consumed. It consumes exactly its handshake, and ends in a request. Its words, and its
 * rules for clients that wait for news, are used by the forwarder. */
#ifndef RELAY_PROTOCOL_H
#define RELAY_PROTOCOL_H

#include "codec/codec.h"
#include "pair.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct greeting;
struct handoff;
struct lobby_rules;

enum {
    PROTOCOL_PREFIX_MAX = 8,
    PROTOCOL_BEGINNING_MAX = 32, /* bytes by which protocols are told apart */
    PROTOCOL_WORDS_MAX = 64,
    PROTOCOL_SPEECH_MAX = CODEC_HEAD + PROTOCOL_WORDS_MAX + CODEC_FAREWELL_MAX,
};

/* What a protocol says to a client of its own accord. */
struct words {
    uint8_t message[PROTOCOL_WORDS_MAX];
    size_t size; /* 0: no message */
    bool text;   /* else binary, where the codec tells them apart */
    /* With what a codec that has such a thing ends the connection. 0: with what befits it. */
    uint16_t code;
    const char *reason;
};

/* Sets the message: at most PROTOCOL_WORDS_MAX characters. */
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
    PROTOCOL_UNKNOWN = PROTOCOL_TRANSIT, /* until it is recognised: the one that takes all others */
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

/* What the first bytes of a connection say of whether it is of a protocol. */
enum beginning {
    BEGINNING_OTHER,
    BEGINNING_UNDECIDED, /* more bytes will tell */
    BEGINNING_OURS,
};

struct protocol {
    const char *name;
    /* How a bare connection of this kind begins: with one of these, or as begins() judges up to
     * PROTOCOL_BEGINNING_MAX bytes. With neither, it takes whatever no other does. */
    const struct prefix *prefixes;
    size_t prefix_count;
    enum beginning (*begins)(const uint8_t *head, size_t size);
    /* From the first byte to a request, and what the forwarder needs. Returns PAIR_HAPPY, or
     * what became of the connection, which the worker then tells the client in the words of
     * farewell(). NULL: there are no bare connections of this kind. */
    enum pair_outcome (*greet)(
        struct greeting *greeting, struct pair_request *request, struct handoff *handoff);

    /* Goes on where it had called greeting_settle(). NULL: it never does. */
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

    /* What a client says before its peer has come is kept for that; else it is impatient. */
    bool binary_only; /* a text message is refused (WEBSOCKET_UNSUPPORTED) */
    bool patient;
    /* A client loses what it reads together with the answer to its upgrade: it is sent nothing
     * before it has been heard, or some time has passed. */
    bool deaf_at_first;
    int64_t wait_time; /* for a peer: milliseconds; 0: --wait-timeout */
    /* What an end is told when it is joined to its peer, and when it is closed. name: the
     * handoff's. Words are zeroed before. */
    void (*welcome)(const uint8_t *name, size_t name_size, struct words *words);
    void (*farewell)(enum pair_outcome outcome, enum pair_reason reason, struct words *words);
    const struct lobby_rules *lobby; /* NULL: nobody waits for news */
};

/* By number. */
extern const struct protocol *const protocols[PROTOCOL_COUNT];
/* Their numbers, in the order of PROTOCOLS. */
extern const uint8_t protocols_in_order[PROTOCOL_COUNT];

/* Puts words into the form of a codec (NULL: plain) with this state: the message, and when
 * `closing` what ends the connection. Returns how many bytes that is. */
size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX]);

#endif
