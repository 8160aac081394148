/* Offset's secure channel: frames, handshake, keys, rekeying, keepalive. Its data flow through
 * channel_codec (codec.h) in the forwarder; here is what a worker needs before that.
 *
 * Neither end of the handshake waits for a descriptor here: frames are fed in, and what is to
 * be sent comes out. A caller reads CHANNEL_HEADER bytes, which say how many more belong to the
 * frame, then exactly those, and so never takes a byte of what the handoff's receiver is to read.
 */
#ifndef RELAY_CHANNEL_H
#define RELAY_CHANNEL_H

#include "codec/capnp.h"
#include "codec/codec.h"

#include <sodium.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CHANNEL_HEADER = 8, /* the payload's size, in front of it */
    CHANNEL_MESSAGE_MAX =
        1 << 26, /* a message unpacked, of either layer: Cap'n Proto's own limit */
    CHANNEL_FRAME_MAX = CAPNP_DATA_MAX(CHANNEL_MESSAGE_MAX + 4096), /* so, a payload at most */
    CHANNEL_GREETING_MAX = 4096, /* and one in the handshake, where messages are small */
    CHANNEL_SEND_MAX = 1024,     /* what one step of the handshake has to send at most */

    CHANNEL_REKEY_TIME = 3600000, /* from one rekey to the next that is begun here */
};

struct channel_key {
    uint8_t key[crypto_aead_chacha20poly1305_ietf_KEYBYTES];
    uint64_t counter; /* of frames under this key */
};

/* One's own half of an exchange that the other side has yet to complete. */
struct channel_exchange {
    uint8_t secret[crypto_scalarmult_SCALARBYTES];
    uint8_t salt[CAPNP_KEY_SIZE];
};

/* A connection's state between frames: flat, so that it travels in a handoff. Secret. */
struct channel_session {
    uint8_t peer[crypto_sign_PUBLICKEYBYTES]; /* who the other side has shown to be */
    struct channel_key sender, receiver;
    struct channel_key old_receiver; /* until a frame comes under the one that replaced it */
    struct channel_exchange pending; /* of the handshake, then of a Rekey that was sent */
    uint8_t has_old_receiver, has_pending;
};

/* What the handshake expects next of the other side. */
enum channel_stage {
    CHANNEL_VERSION,
    CHANNEL_NONCE,
    CHANNEL_DH,
    CHANNEL_READY, /* nothing: the session is complete, for channel_codec.open() */
};

struct channel_handshake {
    enum channel_stage stage;
    const uint8_t *secret_key;
    uint8_t nonce[CAPNP_NONCE_SIZE];
    struct channel_session session;
};

/* The size of the payload behind a header; -EMSGSIZE if it is more than `max`. */
int channel_payload_size(const uint8_t *header, size_t max);

/* Begins a handshake for an Ed25519 identity, whose secret key must stay where it is. Writes what
 * to send first, at most CHANNEL_SEND_MAX bytes, and returns how many. It may wait for the other
 * side's first two frames, and for no more. */
size_t channel_begin(struct channel_handshake *handshake, const uint8_t *public_key,
    const uint8_t *secret_key, uint8_t *send);
/* Takes the next frame's payload. *sent: how many bytes to send were written, at most
 * CHANNEL_SEND_MAX. 0, whereupon `stage` says whether it is done, or -EBADMSG. */
int channel_proceed(struct channel_handshake *handshake, const uint8_t *payload, size_t size,
    uint8_t *send, size_t *sent);
/* Wipes it. */
void channel_end(struct channel_handshake *handshake);

/* The session in a state of channel_codec, for a handoff after some frames have been read and
 * written; -EBUSY while the state holds part of a frame. */
int channel_suspend(const void *state, struct channel_session *session);

/* The key of one direction: HKDF-SHA-512/256 of the X25519 secret with the sender's salt. 0 or a
 * negative errno. */
int channel_derive(const uint8_t *salt, const uint8_t *secret, uint8_t *key);

#endif
