/* The handoff: a descriptor and what is known of its connection, in one datagram to the
 * forwarder's Unix socket. The socket outlives the forwarder, so a datagram in flight does
 * too. */
#ifndef RELAY_HANDOFF_H
#define RELAY_HANDOFF_H

#include "pair.h"
#include "records.h"
#include "usage.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HANDOFF_NAME_MAX = 256,
    HANDOFF_SESSION_MAX = 512,
};

enum handoff_kind {
    HANDOFF_CONNECTION, /* ref, its session, and exactly one descriptor, which is non-blocking */
    HANDOFF_LOOK,       /* ref: its slot has changed, look at it */
    HANDOFF_RECORD,     /* a connection that ended with its worker */
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
    uint8_t name[HANDOFF_NAME_MAX]; /* whom the protocol's forwarding side knows it as */
    uint32_t session_size;
    uint8_t session[HANDOFF_SESSION_MAX]; /* the codec's state */
};

/* Binds the forwarder's socket at path, mode 0600, replacing a dead one. Returns it, or a
 * negative errno. Close-on-exec, as every descriptor here. */
int handoff_listen(const char *path);
/* Connects to it: -ECONNREFUSED or -ENOENT when no forwarder answers. Sends wait for at
 * most `timeout` milliseconds. */
int handoff_connect(const char *path, int timeout);
/* Connects the same descriptor anew, after a send failed because the socket it was connected to
 * is gone. 0 or a negative errno. */
int handoff_reconnect(int socket, const char *path);

/* Sends one handoff; descriptor: -1 for none. The caller keeps its own copy. */
int handoff_send(int socket, const struct handoff *handoff, int descriptor);
/* Receives one, without waiting: -EAGAIN when there is none; -EBADMSG for anything but a
 * well-formed handoff (its descriptors are closed); -EMFILE when the descriptor was lost
 * because this process is short of them. *descriptor: owned by the caller, -1 if none. */
int handoff_receive(int socket, struct handoff *handoff, int *descriptor);

#endif
