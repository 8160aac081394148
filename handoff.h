/* The handoff: a worker sends a descriptor, and what it knows of its connection, to the forwarder's
 * Unix socket, in one datagram. The socket outlives the forwarder, and so does a datagram in it.
 *
 * During an upgrade the worker and the forwarder may be of different versions. So a datagram says
 * its version, the version that a reader needs to understand it, and the sizes of its parts. New
 * fields of struct handoff are only appended, between session_size and session, and the structures
 * in it keep their layout: a reader ignores fields that it does not know, and finds zeros in fields
 * that the writer did not know. The numbers of kinds, codecs and protocols never change; a codec
 * whose session changes gets a new number. A change that an older reader would misunderstand raises
 * HANDOFF_NEEDS. A forwarder says in the table which version it reads (pair_reads()), so that a
 * worker knows before it accepts a client.
 *
 * Since version 3, names may have more than HANDOFF_NAME_MAX bytes; they stand behind the session.
 * Only a datagram with such a name needs a reader of version 3. */
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
    HANDOFF_VERSION = 3,         /* the version that is written */
    HANDOFF_NEEDS = 1,           /* the oldest version that understands it */
    HANDOFF_NEEDS_LONG_NAME = 3, /* the same where the name is long */
    HANDOFF_APPENDED_MAX = 1024, /* bytes of fields that later versions may append */
    HANDOFF_MAGIC = 0x72656c68,
};

/* In front of each datagram; it never changes. */
struct handoff_head {
    uint32_t magic;
    uint16_t version, needs;
    uint32_t fixed_size;   /* bytes of the writer's struct handoff, without session and long_name */
    uint32_t session_size; /* bytes of these two */
};

enum handoff_kind {
    HANDOFF_CONNECTION = 0, /* ref, its session, and one descriptor, which is non-blocking */
    HANDOFF_LOOK = 1,       /* the slot of ref has changed: look at it */
    HANDOFF_RECORD = 2,     /* a connection that ended with its worker */
    HANDOFF_TABLE = 3,      /* the descriptor is the table that is at the path now */
    HANDOFF_ASK = 4,        /* whether a forwarder reads: it closes the descriptor */
    HANDOFF_LEAVE = 5,      /* `server` is stopping, and waits on the socket that comes with this:
                               see forward.h */
};

struct handoff {
    uint32_t kind;
    struct pair_ref ref;
    struct pair_ref dismissed; /* look at this slot, too; PAIR_NONE: none */
    struct usage_record record;
    uint8_t codec;          /* enum codec_kind */
    bool lobby;             /* the client waits for news, and not for a peer */
    bool kernel_tls;        /* the kernel carries TLS on the descriptor: kernel_tls.h */
    struct records records; /* else, if it has a suite: the descriptor carries this TLS */
    uint16_t name_size;
    uint8_t name[HANDOFF_NAME_MAX]; /* see handoff_name() */
    uint64_t table;                 /* pair_id() of the table that ref belongs to; 0: not known */
    struct terms terms;
    uint32_t session_size;
    uint64_t server;         /* the random number of `relay serve`; 0: none */
    uint32_t long_name_size; /* not 0: long_name replaces `name` */
    int64_t since;           /* when the connection was opened (usage.h); 0: not known */
    uint8_t session[HANDOFF_SESSION_MAX]; /* the codec's state */
    uint8_t long_name[HANDOFF_LONG_NAME_MAX];
};

/* The name by which the protocol's rules in the forwarder know the connection. 0, or -EMSGSIZE: the
 * name has more than HANDOFF_LONG_NAME_MAX bytes. */
int handoff_set_name(struct handoff *handoff, const void *name, size_t size);
const uint8_t *handoff_name(const struct handoff *handoff, size_t *size);
/* The version that a reader needs to understand this handoff. */
uint16_t handoff_needs(const struct handoff *handoff);

/* Makes the forwarder's socket at path, mode 0600, in the place of a dead forwarder's. Returns it,
 * or a negative errno. It is close-on-exec, like every descriptor here. */
int handoff_listen(const char *path);
/* Connects to the forwarder: -ECONNREFUSED or -ENOENT when there is none. Sends wait for at most
 * `timeout` milliseconds. */
int handoff_connect(const char *path, int timeout);
/* Whether a send failed because the socket at the other end is gone. */
bool handoff_is_lost(int error);
/* Connects the same descriptor again after such a failure. 0 or a negative errno. */
int handoff_reconnect(int socket, const char *path);

/* Sends one handoff. descriptor: -1: none; the caller still owns it. */
int handoff_send(int socket, const struct handoff *handoff, int descriptor);
/* Receives one handoff, without waiting. -EAGAIN: there is none, or nobody can send any more;
 * -EBADMSG: it is not a well-formed handoff; -EMFILE: its descriptor was lost because this process
 * has too many; -EPROTO: its writer is so new that only `ref` and `table` can be read. After each
 * of the last three, all its descriptors are closed, and `ref` is the slot of the connection that
 * is lost, or PAIR_NONE. *descriptor: owned by the caller; -1: none. */
int handoff_receive(int socket, struct handoff *handoff, int *descriptor);

#endif
