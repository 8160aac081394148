/* Offset's secure channel: frames, handshake, keys, rekeying, keepalive. In the forwarder,
 * channel_codec (codec.h) carries its data. This header has what a worker needs before that: the
 * handshake.
 *
 * The handshake reads no descriptor: the caller hands in frames, and sends what comes out. The
 * caller reads CHANNEL_HEADER bytes, which say how long the payload is, and then exactly the
 * payload. So it never consumes a byte that the forwarder is to read. */
#ifndef RELAY_CHANNEL_H
#define RELAY_CHANNEL_H

#include "codec/capnp.h"
#include "codec/codec.h"

#include <sodium.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CHANNEL_HEADER = 8,            /* bytes in front of the payload: its size */
    CHANNEL_MESSAGE_MAX = 1 << 26, /* bytes of an unpacked message: Cap'n Proto's own limit */
    CHANNEL_FRAME_MAX = CAPNP_DATA_MAX(CHANNEL_MESSAGE_MAX + 4096), /* bytes of a payload */
    CHANNEL_GREETING_MAX = 4096, /* bytes of a payload in the handshake, where messages are small */
    CHANNEL_SEND_MAX = 1024,     /* bytes that one step of the handshake sends */

    CHANNEL_REKEY_TIME =
        3600000, /* milliseconds from one rekey to the next that the relay begins */
};

struct channel_key {
    uint8_t key[crypto_aead_chacha20poly1305_ietf_KEYBYTES];
    uint64_t counter; /* of frames under this key */
};

/* The relay's half of a key exchange that the other side has not completed yet. */
struct channel_exchange {
    uint8_t secret[crypto_scalarmult_SCALARBYTES];
    uint8_t salt[CAPNP_KEY_SIZE];
};

/* The state of a connection between two frames. It has no pointers, so it can be part of a handoff.
 * Secret. */
struct channel_session {
    uint8_t peer[crypto_sign_PUBLICKEYBYTES]; /* the key that the other side has proved to own */
    struct channel_key sender, receiver;
    struct channel_key old_receiver; /* until a frame comes under the new key */
    struct channel_exchange pending; /* of the handshake, later of a Rekey that was sent */
    uint8_t has_old_receiver, has_pending;
};

/* What the handshake expects next from the other side. */
enum channel_stage {
    CHANNEL_VERSION,
    CHANNEL_NONCE,
    CHANNEL_DH,
    CHANNEL_READY, /* nothing: the session is ready for channel_codec.open() */
};

struct channel_handshake {
    enum channel_stage stage;
    const uint8_t *secret_key;
    uint8_t nonce[CAPNP_NONCE_SIZE];
    struct channel_session session;
};

/* The size of the payload behind a header; -EMSGSIZE if it is larger than `max`. */
int channel_payload_size(const uint8_t *header, size_t max);

/* Begins a handshake for an Ed25519 identity; the secret key must stay where it is. Writes the
 * first bytes to send, at most CHANNEL_SEND_MAX, and returns how many. They may be sent after the
 * other side's first two frames have come, but not later: the other side waits for them. */
size_t channel_begin(struct channel_handshake *handshake, const uint8_t *public_key,
    const uint8_t *secret_key, uint8_t *send);
/* Takes the payload of the next frame, and writes *sent bytes to send, at most CHANNEL_SEND_MAX. 0,
 * and `stage` says what comes next; or -EBADMSG. */
int channel_proceed(struct channel_handshake *handshake, const uint8_t *payload, size_t size,
    uint8_t *send, size_t *sent);
/* Wipes the handshake. */
void channel_end(struct channel_handshake *handshake);

/* Copies the session out of a state of channel_codec that has read or written frames, for a
 * handoff. 0, or -EBUSY while the state has part of a frame. */
int channel_suspend(const void *state, struct channel_session *session);

/* The key of one direction: HKDF-SHA-512/256 of the X25519 secret with the sender's salt. 0 or a
 * negative errno. */
int channel_derive(const uint8_t *salt, const uint8_t *secret, uint8_t *key);

#endif
