/* The protocols' interface. A protocol is one file, and one line in protocols[].
 *
 * Its greeting runs in a worker: blocking, against one deadline, on a connection of which
 * nothing has been consumed. It consumes exactly its handshake, and ends in a request. Its
 * words, and its rules for those who wait for news, are used by the forwarder. */
#ifndef RELAY_PROTO_H
#define RELAY_PROTO_H

#include "../handoff.h"
#include "../pair.h"
#include "codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct identity;
struct tls;
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

/* In the table, in counts and between versions: a number keeps its meaning for ever. */
enum protocol_number {
    PROTOCOL_TLS = 0,
    PROTOCOL_WEB = 1,
    PROTOCOL_OFFSET = 2,
    PROTOCOL_P2PCOPY = 3,
    PROTOCOL_LOCALFIRST = 4,
    PROTOCOL_TRANSIT = 5,
};

/* How a greeting keeps its worker, where others can wait for the client in the worker's place: as
 * long as nothing of it is consumed it can be given up, and begun anew when more of it has come. */
struct hearing {
    int64_t
        until; /* the worker waits for what a client goes on with: milliseconds, CLOCK_MONOTONIC */
    /* Asks for a share of the workers, to be kept by what comes: 0, or -EAGAIN: there is none now.
     */
    int (*hold)(void *context);
    void *context;
    bool returned; /* it has been given up before */
    bool held;     /* it has that share */
    bool taken;    /* something was consumed, so that it cannot be given up */
    bool resumes;  /* what was consumed is settled: the protocol's resume() goes on */
    bool given_up; /* its worker is not to wait for it any longer */
    bool crowded;  /* as it has no share */
    size_t enough; /* bytes that are to be there before another look is worth while */
};

struct greeting {
    int fd;
    struct hearing *hearing; /* NULL: nobody else waits for it */
    int64_t deadline;        /* milliseconds, CLOCK_MONOTONIC */
    struct pair_table *table;
    const struct identity *identity;     /* this relay's: Offset */
    struct tls *tls;                     /* its certificate; NULL: none */
    bool in_tls;                         /* what is read and said is inside */
    struct records *records;             /* of this TLS; NULL: there is none, or the kernel's */
    bool full;                           /* this relay takes no more connections: only say so */
    bool (*serves)(const void *context); /* whether newcomers are served just now; NULL: they are */
    const void *context;
    uint8_t protocol;      /* index of the one that was recognised */
    enum codec_kind codec; /* what carries words to the client by now */
    struct words refusal;  /* said in the place of farewell() when it has a code */
};

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

    /* The same for a WebSocket: by the path that it asks for (percent-encoded, and without a
     * query; greet_path() refuses one that is not as it has to be), */
    bool (*claims_path)(const char *path, size_t size);
    bool (*greet_path)(struct greeting *greeting, const char *path, size_t size,
        struct pair_request *request, struct handoff *handoff);
    bool takes_subprotocol; /* the first that a client offers */
    /* or else by its first message. One protocol takes text, another takes binary. */
    bool text_first;
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

extern const struct protocol *const protocols[];
extern const size_t protocol_count;
extern const struct codec *const codecs[CODEC_KINDS];

/* The protocol that begins like a connection, of which nothing is consumed; greeting->protocol is
 * set, too. NULL when it closed or stayed silent before that could be told. */
const struct protocol *protocol_sniff(struct greeting *greeting);

/* Puts words into the form of a codec (NULL: plain) with this state: the message, and when
 * `closing` what ends the connection. Returns how many bytes that is. */
size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX]);

/* greeting.c: reading in a greeting, in TLS or not: against the deadline, and never past what was
 * understood. */

/* Peeks at up to `size` bytes of input, and waits for it if there is none yet. Returns how many,
 * 0 at end of file, or a negative errno: -ETIMEDOUT at the deadline. */
ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size);
/* The same, once there are more than `known` bytes: -ECONNRESET when no more will come. */
ssize_t greeting_peek_more(
    const struct greeting *greeting, void *buffer, size_t size, size_t known);
/* Waits until `size` bytes of input can be peeked at, outside of TLS; `buffer` has room for them,
 * and is filled. 0 or a negative errno: -ECONNRESET when no more will come. */
int greeting_await(const struct greeting *greeting, void *buffer, size_t size);
/* Reads a text up to where `find_end` finds its end among bytes[from..size), which returns the size
 * with its end or 0; and consumes nothing behind it, nor anything before it is whole, except in
 * TLS. Returns that size, with *more: there was something behind it; or a negative errno:
 * -ECONNRESET when the client closed before its end, -EMSGSIZE when that was not among the first
 * `size` bytes, which are consumed. */
ssize_t greeting_read_text(const struct greeting *greeting, char *buffer, size_t size,
    size_t (*find_end)(const char *bytes, size_t from, size_t size), bool *more);
/* What comes from here on is consumed as it comes, and keeps its worker. 0, or -EAGAIN: not now, so
 * the greeting is given up for the time being. */
int greeting_hold(const struct greeting *greeting);
/* What was consumed so far is not needed again: if the greeting is given up from here on, its
 * protocol's resume() goes on. */
void greeting_settle(const struct greeting *greeting);
/* Waits for POLLIN or POLLOUT, in its worker. 0 or a negative errno: -ETIMEDOUT at the deadline. */
int greeting_wait(const struct greeting *greeting, short events);
/* Reads exactly `size` bytes, as they come. 0 or a negative errno. */
int greeting_read(const struct greeting *greeting, void *buffer, size_t size);
/* Tells the client something, without waiting for longer than the deadline. */
void greeting_say(const struct greeting *greeting, const void *words, size_t size);
/* Tells it in TLS that nothing more will be said. */
void greeting_say_end(const struct greeting *greeting);

/* A signal handler that brings the greeting in progress to its deadline, and what makes the
 * next one patient again. */
void greeting_interrupt(int signal);
void greeting_resume(void);

extern const struct protocol tls_protocol;
extern const struct protocol web_protocol;
extern const struct protocol offset_protocol;
extern const struct protocol p2pcopy_protocol;
extern const struct protocol localfirst_protocol;
extern const struct protocol transit_protocol;

#endif
