/* The protocols' interface. A protocol is one file, and one line in protocols[].
 *
 * Its greeting runs in a worker: blocking, against one deadline, on a connection of which
 * nothing has been consumed. It consumes exactly its handshake, and ends in a request. Its
 * words (welcome, farewell) are said by the forwarder. */
#ifndef RELAY_PROTO_H
#define RELAY_PROTO_H

#include "../handoff.h"
#include "../pair.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PROTOCOL_WORDS_MAX = 64
};

struct greeting {
    int fd;
    int64_t deadline; /* milliseconds, CLOCK_MONOTONIC */
    struct pair_table *table;
    uint8_t protocol; /* index of the one that was recognised */
};

struct protocol {
    const char *name;
    /* How a connection of this kind begins; an empty one takes whatever no other does. */
    const uint8_t *prefix;
    size_t prefix_size;
    /* From the first byte to a request and the session that the forwarder needs. Returns
     * PAIR_HAPPY, or what became of the connection, which the worker then tells the client
     * in the words of farewell(). */
    enum pair_outcome (*greet)(
        struct greeting *greeting, struct pair_request *request, struct handoff *handoff);
    /* What an end is told when it is joined to its peer, and when it is closed before that.
     * Writes at most PROTOCOL_WORDS_MAX bytes, and returns how many. */
    size_t (*welcome)(uint8_t *words);
    size_t (*farewell)(enum pair_outcome outcome, uint8_t *words);
};

extern const struct protocol *const protocols[];
extern const size_t protocol_count;

/* The protocol that begins like the connection at fd, of which nothing is consumed. NULL
 * when it closed or stayed silent before that could be told. */
const struct protocol *protocol_sniff(int fd, int64_t deadline, uint8_t *index);

/* Reading in a greeting: against the deadline, and never past what was understood. */

/* Peeks at up to `size` bytes of input, and waits for it if there is none yet. Returns how many, 0 at end of file,
 * or a negative errno: -ETIMEDOUT at the deadline. */
ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size);
/* Consumes `size` bytes that were peeked at before. 0 or a negative errno. */
int greeting_consume(const struct greeting *greeting, void *buffer, size_t size);
/* Tells the client something, without waiting for longer than the deadline. */
void greeting_say(const struct greeting *greeting, const void *words, size_t size);

/* A signal handler that brings the greeting in progress to its deadline, and what makes the
 * next one patient again. */
void greeting_interrupt(int signal);
void greeting_resume(void);

extern const struct protocol transit_protocol;

#endif
