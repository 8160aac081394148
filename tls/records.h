/* The record layer of TLS (RFC 8446, section 5; RFC 5246, section 6.2) for a connection whose
 * handshake is done: keys and counters, and functions that seal and open whole records. It reads no
 * descriptor and keeps no bytes. What it knows of a connection is flat, so that it travels in a
 * handoff.
 *
 * TLS 1.3, and TLS 1.2 with the same ciphers. All of the cryptography is OpenSSL's. */
#ifndef RELAY_RECORDS_H
#define RELAY_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    RECORDS_HEADER = 5,
    RECORDS_DATA_MAX = 1 << 14,                                      /* in one record */
    RECORDS_RECORD_MAX = RECORDS_HEADER + RECORDS_DATA_MAX + 256,    /* that may come */
    RECORDS_SEALED_MAX = RECORDS_HEADER + 8 + RECORDS_DATA_MAX + 16, /* that we make */
    RECORDS_CONTROL_MAX = 64,   /* an alert or a KeyUpdate, sealed */
    RECORDS_FRAGMENT_MIN = 512, /* the least that a client may ask for, as its maximum */
    RECORDS_MESSAGE_SIZE = 5,   /* a KeyUpdate */
    RECORDS_UPDATES_MAX = 128,  /* KeyUpdates that are not forgiven */

    RECORDS_MASTER_SIZE = 48,
    RECORDS_RANDOM_SIZE = 32,
    RECORDS_SECRET_MAX = 48,
    RECORDS_KEY_MAX = 32,
    RECORDS_IV_SIZE = 12,

    /* Under one key of AES-GCM: far below the 2^24.5 of RFC 8446, section 5.5. */
    RECORDS_KEY_LIFE = 1 << 23,
};

enum records_suite {
    RECORDS_AES_128_GCM = 1,
    RECORDS_AES_256_GCM,
    RECORDS_CHACHA20_POLY1305,
};

enum records_alert {
    RECORDS_CLOSE_NOTIFY = 0,
    RECORDS_UNEXPECTED_MESSAGE = 10,
    RECORDS_BAD_RECORD_MAC = 20,
    RECORDS_RECORD_OVERFLOW = 22,
    RECORDS_ILLEGAL_PARAMETER = 47,
    RECORDS_DECODE_ERROR = 50,
    RECORDS_INTERNAL_ERROR = 80,
    RECORDS_USER_CANCELED = 90,
    RECORDS_NOTHING_TO_SAY = 255,
};

/* One direction. */
struct records_key {
    uint64_t sequence;
    uint8_t key[RECORDS_KEY_MAX];
    uint8_t iv[RECORDS_IV_SIZE];
    uint8_t secret[RECORDS_SECRET_MAX]; /* TLS 1.3: the next key comes of it */
};

struct records {
    uint8_t suite; /* enum records_suite */
    bool tls_1_3;
    bool answer_due;   /* the other side wants our next key, too */
    uint8_t alert;     /* after RECORDS_FAILED: what the other side is to be told */
    uint16_t skip;     /* bytes of the next data that were taken already */
    uint16_t data_max; /* of ours in one record: what the client asked for (RFC 6066, section 4) */
    uint8_t updates;   /* KeyUpdates that came, less those that are forgiven */
    uint8_t message_size; /* bytes of a KeyUpdate that is not whole */
    uint8_t message[RECORDS_MESSAGE_SIZE];
    struct records_key in, out;
};

enum records_event {
    RECORDS_DATA,    /* there may be none in it */
    RECORDS_NEW_KEY, /* nothing to pass on; it costs as much as some ten other records */
    RECORDS_CLOSED,  /* the other side will say nothing more */
    RECORDS_FAILED,  /* nothing more makes sense, in either direction */
};

/* Fetches what is needed of OpenSSL, which reads files: once, before a sandbox. 0 or -ENOSYS. */
int records_prepare(void);

/* Make the state after the handshake of a server. TLS 1.3: from the application traffic secrets;
 * 1.2: from the master secret, what both have said at random, and how many records came and went
 * under these keys in the handshake. 0 or a negative errno. */
int records_start_1_3(struct records *records, enum records_suite suite, const uint8_t *in_secret,
    const uint8_t *out_secret);
int records_start_1_2(struct records *records, enum records_suite suite,
    const uint8_t master[static RECORDS_MASTER_SIZE],
    const uint8_t client_random[static RECORDS_RANDOM_SIZE],
    const uint8_t server_random[static RECORDS_RANDOM_SIZE], uint64_t in_records,
    uint64_t out_records);
/* Whether it can be one of ours. */
bool records_are_sound(const struct records *records);
/* Forgets the keys, also those that OpenSSL works with. */
void records_wipe(struct records *records);

/* Forgives up to `count` of the KeyUpdates that came. A client may change its key as often as it
 * has data for it, and every now and then without; more than that ends the connection. */
void records_forgive(struct records *records, uint64_t count);

/* The size of the record that begins here, header and all; 0: as yet it cannot be told. One that is
 * too large is of RECORDS_HEADER bytes, and records_open() refuses it. */
size_t records_measure(const uint8_t *bytes, size_t size);
/* Opens a whole record. Data is written to `out`, with room for as many bytes as the record has. */
enum records_event records_open(
    struct records *records, const uint8_t *record, size_t size, uint8_t *out, size_t *out_size);

/* Bytes in parts, on their way into records. */
struct records_source {
    const struct iovec *parts;
    size_t count;
    size_t taken; /* of the first part */
};

/* Seals as much as there is and as fits; room: RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX at least.
 * Returns how many bytes are to be sent, 0 when the source is empty, or -EOVERFLOW when this
 * connection has had all that its key is good for. */
ssize_t records_seal(
    struct records *records, struct records_source *source, uint8_t *out, size_t room);
/* The same for an alert. */
ssize_t records_seal_alert(
    struct records *records, enum records_alert alert, uint8_t out[static RECORDS_CONTROL_MAX]);

#endif
