/* The handoff: a descriptor and what is known of its connection, in one datagram to the
 * forwarder's Unix socket. The socket outlives the forwarder, so a datagram in flight does
 * too.
 *
 * While relay is upgraded, a worker and a forwarder may be of different versions. So a datagram
 * says which version it is of, which one a reader must have to understand it, and how long its
 * parts are. Fields are only ever appended to struct handoff, between session_size and session: a
 * reader ignores those that it does not know, and finds zeros in those that its writer did not
 * know. Numbers of kinds, codecs and protocols keep their meaning for ever; a codec whose session
 * changes gets a new number. What an older reader would misunderstand raises HANDOFF_NEEDS; and a
 * forwarder says in the table which version it reads (pair_reads()), so that a worker knows before
 * it takes a client.
 *
 * Version 3 has names of more than HANDOFF_NAME_MAX bytes, behind the session; only a datagram with
 * such a name needs a reader of it. */
#ifndef RELAY_HANDOFF_H
#define RELAY_HANDOFF_H

#include "pair.h"
#include "setup/terms.h"
#include "tls/records.h"
#include "usage/usage.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HANDOFF_NAME_MAX = 256,
    HANDOFF_LONG_NAME_MAX = 1 << 15,
    HANDOFF_SESSION_MAX = 512,
    HANDOFF_VERSION = 3,         /* that is written here */
    HANDOFF_NEEDS = 1,           /* the oldest reader that understands it */
    HANDOFF_NEEDS_LONG_NAME = 3, /* and where the name is a long one */
    HANDOFF_APPENDED_MAX = 1024, /* bytes of fields that later versions may have */
    HANDOFF_MAGIC = 0x72656c68,
};

/* In front of each datagram; it never changes. */
struct handoff_head {
    uint32_t magic;
    uint16_t version, needs;
    uint32_t fixed_size;   /* of the writer's struct handoff, less its session and what follows */
    uint32_t session_size; /* of these two */
};

enum handoff_kind {
    HANDOFF_CONNECTION = 0, /* ref, its session, and one descriptor, which is non-blocking */
    HANDOFF_LOOK = 1,       /* ref: its slot has changed, look at it */
    HANDOFF_RECORD = 2,     /* a connection that ended with its worker */
    HANDOFF_TABLE = 3,      /* the descriptor is of the table that is at its path by now */
    HANDOFF_ASK = 4,        /* whether anybody reads this: that the descriptor is closed says so */
    HANDOFF_LEAVE = 5,      /* `server` was told to stop, and waits on the socket that this brings:
                               see forward.h */
};

struct handoff {
    uint32_t kind;
    struct pair_ref ref;
    struct pair_ref dismissed; /* look at this one, too; PAIR_NONE: nobody */
    struct usage_record record;
    uint8_t codec;          /* enum codec_kind */
    bool lobby;             /* it waits for news, and never for a peer */
    bool kernel_tls;        /* the kernel carries TLS on the descriptor: kernel_tls.h */
    struct records records; /* else, if it has a suite: what the descriptor carries is in TLS */
    uint16_t name_size;
    uint8_t name[HANDOFF_NAME_MAX]; /* see handoff_name() */
    uint64_t table;                 /* pair_id() of the one that ref is of; 0: not said */
    struct terms terms;
    uint32_t session_size;
    uint64_t server;                      /* `relay serve`: a number that it drew; 0: none */
    uint32_t long_name_size;              /* not 0: it is in the place of `name` */
    int64_t since;                        /* when it was opened: usage.h; 0: not said */
    uint8_t session[HANDOFF_SESSION_MAX]; /* the codec's state */
    uint8_t long_name[HANDOFF_LONG_NAME_MAX];
};

/* Whom the protocol's forwarding side knows the connection as. -EMSGSIZE: the name has more than
 * HANDOFF_LONG_NAME_MAX bytes. */
int handoff_set_name(struct handoff *handoff, const void *name, size_t size);
const uint8_t *handoff_name(const struct handoff *handoff, size_t *size);
/* The oldest reader that understands it. */
uint16_t handoff_needs(const struct handoff *handoff);

/* Binds the forwarder's socket at path, mode 0600, replacing a dead one. Returns it, or a
 * negative errno. Close-on-exec, as every descriptor here. */
int handoff_listen(const char *path);
/* Connects to it: -ECONNREFUSED or -ENOENT when no forwarder answers. Sends wait for at
 * most `timeout` milliseconds. */
int handoff_connect(const char *path, int timeout);
/* Whether a send has failed because the socket that it was connected to is gone. */
bool handoff_is_lost(int error);
/* Connects the same descriptor anew, after a send failed because the socket it was connected to
 * is gone. 0 or a negative errno. */
int handoff_reconnect(int socket, const char *path);

/* Sends one handoff; descriptor: -1 for none. The caller keeps its own copy. */
int handoff_send(int socket, const struct handoff *handoff, int descriptor);
/* Receives one, without waiting: -EAGAIN when there is none, or nobody can send any more; -EBADMSG
 * for anything but a well-formed handoff; -EMFILE when the descriptor was lost because this process
 * is short of them; -EPROTO when its writer is so new that only `ref` and `table` can be read.
 * After each of the last three all its descriptors are closed, and `ref` is the slot of the
 * connection that is lost with it: PAIR_NONE if it does not say so. *descriptor: owned by the
 * caller, -1 if none. */
int handoff_receive(int socket, struct handoff *handoff, int *descriptor);

#endif
