/* A greeting: what a worker reads of a connection until it knows what the client wants, against one
 * deadline, in TLS or not, and never past what was understood. */
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

/* The protocol that begins like a connection, of which nothing is consumed; greeting->protocol is
 * set, too. NULL when it closed or stayed silent before that could be told. */
const struct protocol *protocol_sniff(struct greeting *greeting);

/* Peeks at up to `size` bytes of input, and waits for it if there is none yet. Returns how many,
 * 0 at end of file, or a negative errno: -ETIMEDOUT at the deadline. */
ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size);
/* The same, once there are more than `known` bytes: -ECONNRESET when no more will come. */
ssize_t greeting_peek_more(
    const struct greeting *greeting, void *buffer, size_t size, size_t known);
/* Waits until `size` bytes of input can be peeked at, outside of TLS; `buffer` has room for them,
 * and is filled. 0 or a negative errno: -ECONNRESET when no more will come. */
int greeting_await(const struct greeting *greeting, void *buffer, size_t size);
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

#endif
