/* A greeting: what a worker reads from a connection until it knows what the client wants. It reads
 * against one deadline, inside TLS or not, and consumes nothing behind the handshake. */
#ifndef RELAY_GREETING_H
#define RELAY_GREETING_H

#include "codec/codec.h"
#include "handoff.h"
#include "pair.h"
#include "protocol.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct identity;
struct records;
struct tls;

/* For how long a greeting keeps its worker, where the porch (worker/porch.h) can wait for the
 * client instead. While nothing is consumed, a greeting can be given up, and started again when
 * more bytes have come. Times are milliseconds, CLOCK_MONOTONIC. */
struct hearing {
    int64_t until; /* the worker waits until then for a client that has begun to go on */
    /* Asks for a share of the workers, for a greeting that cannot be given up from now on. 0, or
     * -EAGAIN: there is none just now. */
    int (*hold)(void *context);
    void *context;
    bool returned; /* the greeting has been given up before */
    bool held;     /* it has that share */
    bool taken;    /* something is consumed, so it cannot be given up */
    bool resumes;  /* what is consumed is settled: the protocol's resume() continues */
    bool given_up; /* the worker is not to wait any longer */
    bool crowded;  /* because it got no share */
    size_t enough; /* do not try again before this many bytes are there */
};

struct greeting {
    int fd;
    struct hearing *hearing; /* NULL: there is no porch */
    int64_t deadline;        /* milliseconds, CLOCK_MONOTONIC */
    struct pair_table *table;
    const struct identity *identity;     /* this relay's, for Offset; NULL: none */
    struct tls *tls;                     /* its certificate; NULL: none */
    bool in_tls;                         /* what is read and said is inside TLS */
    struct records *records;             /* of that TLS; NULL: none, or the kernel's */
    bool full;                           /* the relay takes no more connections: only say so */
    bool (*serves)(const void *context); /* whether new clients are served now; NULL: they are */
    const void *context;
    uint8_t protocol;      /* number of the protocol that was recognised */
    enum codec_kind codec; /* in which words are sent to the client by now */
    struct words refusal;  /* used instead of farewell() when it has a code */
};

/* Returns the protocol whose connections begin like this one, and sets greeting->protocol; nothing
 * is consumed. NULL: the client closed, or said nothing until the deadline. */
const struct protocol *protocol_sniff(struct greeting *greeting);

/* Peeks at up to `size` bytes of input, once there are more than `known` bytes. Returns how many, 0
 * at end of file, or a negative errno: -ECONNRESET when no more than the known bytes will come,
 * -ETIMEDOUT at the deadline. */
ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size, size_t known);
/* Waits until `size` bytes of input can be peeked at, outside of TLS, and fills `buffer` with them.
 * 0 or a negative errno: -ECONNRESET when no more will come. */
int greeting_await(const struct greeting *greeting, void *buffer, size_t size);
/* From here on, input is consumed as it comes, and the greeting keeps its worker. 0, or -EAGAIN:
 * not possible now, and the greeting is given up for the time being. */
int greeting_hold(const struct greeting *greeting);
/* What is consumed so far is not needed again. If the greeting is given up from here on, its
 * protocol's resume() continues. */
void greeting_settle(const struct greeting *greeting);
/* Waits for POLLIN or POLLOUT; the greeting keeps its worker. 0 or a negative errno: -ETIMEDOUT at
 * the deadline. */
int greeting_wait(const struct greeting *greeting, short events);
/* Reads exactly `size` bytes, as they come. 0 or a negative errno. */
int greeting_read(const struct greeting *greeting, void *buffer, size_t size);
/* Sends bytes to the client, and waits until the deadline at most. */
void greeting_say(const struct greeting *greeting, const void *words, size_t size);
/* Sends TLS's notice that nothing more follows. */
void greeting_say_end(const struct greeting *greeting);

/* A signal handler: lets the greeting in progress reach its deadline at once; and what makes the
 * next greeting wait again. */
void greeting_interrupt(int signal);
void greeting_resume(void);

#endif
