/* The record layer of TLS (RFC 8446, section 5; RFC 5246, section 6.2) for a connection whose
 * handshake is done: keys and counters, and functions that seal and open whole records. It reads no
 * descriptor and buffers no bytes. struct records has no pointers, so that it can be sent in a
 * handoff.
 *
 * TLS 1.3, and TLS 1.2 with the same ciphers. All cryptography is OpenSSL's. */
#ifndef RELAY_RECORDS_H
#define RELAY_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    RECORDS_HEADER = 5,
    RECORDS_DATA_MAX = 1 << 14, /* plain bytes in one record */
    RECORDS_RECORD_MAX =
        RECORDS_HEADER + RECORDS_DATA_MAX + 256, /* the largest that a client may send */
    RECORDS_SEALED_MAX = RECORDS_HEADER + 8 + RECORDS_DATA_MAX + 16, /* the largest that we make */
    RECORDS_CONTROL_MAX = 64,   /* an alert or a KeyUpdate, sealed */
    RECORDS_FRAGMENT_MIN = 512, /* the least maximum that a client may ask for */
    RECORDS_MESSAGE_SIZE = 5,   /* a KeyUpdate */
    RECORDS_UPDATES_MAX = 128,  /* KeyUpdates, less the forgiven ones, that a client may send */

    RECORDS_MASTER_SIZE = 48,
    RECORDS_RANDOM_SIZE = 32,
    RECORDS_SECRET_MAX = 48,
    RECORDS_KEY_MAX = 32,
    RECORDS_IV_SIZE = 12,

    /* Records under one key of AES-GCM: far below the 2^24.5 of RFC 8446, section 5.5. */
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
    RECORDS_NO_ALERT = 255, /* none of TLS: there is no alert to send */
};

/* The keys of one direction. */
struct records_key {
    uint64_t sequence;
    uint8_t key[RECORDS_KEY_MAX];
    uint8_t iv[RECORDS_IV_SIZE];
    uint8_t secret[RECORDS_SECRET_MAX]; /* TLS 1.3: the next key is derived from it */
};

struct records {
    uint8_t suite; /* enum records_suite */
    bool tls_1_3;
    bool answer_due;   /* the client asked for a KeyUpdate of ours */
    uint8_t alert;     /* after RECORDS_FAILED: enum records_alert, to be sent */
    uint16_t skip;     /* bytes at the front of the next data that were used before the handoff */
    uint16_t data_max; /* plain bytes in a record of ours: what the client asked for (RFC 6066,
                          section 4) */
    uint8_t updates;   /* KeyUpdates received, less the forgiven ones */
    uint8_t message_size; /* bytes received of a KeyUpdate that is not whole */
    uint8_t message[RECORDS_MESSAGE_SIZE];
    struct records_key in, out;
};

enum records_event {
    RECORDS_DATA,    /* plain bytes, or none */
    RECORDS_NEW_KEY, /* a KeyUpdate: no data; it takes the time of about ten other records */
    RECORDS_CLOSED,  /* close_notify: the client sends no more */
    RECORDS_FAILED,  /* TLS was broken: end both directions */
};

/* Fetches the algorithms of OpenSSL, which reads files: called once, before the sandbox. 0 or
 * -ENOSYS. */
int records_prepare(void);

/* Make a server's state after the handshake. TLS 1.3: from the application traffic secrets;
 * TLS 1.2: from the master secret, both random values, and how many records of the handshake were
 * received and sent under these keys. 0 or a negative errno. */
int records_start_1_3(struct records *records, enum records_suite suite, const uint8_t *in_secret,
    const uint8_t *out_secret);
int records_start_1_2(struct records *records, enum records_suite suite,
    const uint8_t master[static RECORDS_MASTER_SIZE],
    const uint8_t client_random[static RECORDS_RANDOM_SIZE],
    const uint8_t server_random[static RECORDS_RANDOM_SIZE], uint64_t in_records,
    uint64_t out_records);
/* Whether the values, received in a handoff, are within their bounds. */
bool records_are_sound(const struct records *records);
/* Wipes the keys, also those that OpenSSL works with. */
void records_wipe(struct records *records);

/* Forgives up to `count` of the KeyUpdates received. A client may change its key once for some
 * amount of data, and now and then without data; more KeyUpdates end the connection. */
void records_forgive(struct records *records, uint64_t count);

/* The size of the record that begins at `bytes`, with its header; 0: it is not whole yet. For a
 * record that is too large it returns RECORDS_HEADER, and records_open() refuses that. */
size_t records_measure(const uint8_t *bytes, size_t size);
/* Opens a whole record. Data is written to `out`, which has room for `size` bytes. */
enum records_event records_open(
    struct records *records, const uint8_t *record, size_t size, uint8_t *out, size_t *out_size);

/* Bytes to be sealed, in parts. */
struct records_source {
    const struct iovec *parts;
    size_t count;
    size_t taken; /* bytes of the first part that are sealed already */
};

/* Seals as many bytes of the source as fit into `room`, which is at least RECORDS_SEALED_MAX +
 * RECORDS_CONTROL_MAX. Returns how many bytes are to be sent, 0 when the source is empty;
 * -EOVERFLOW when the sequence numbers of this key are used up; or another negative errno. */
ssize_t records_seal(
    struct records *records, struct records_source *source, uint8_t *out, size_t room);
/* The same for an alert. */
ssize_t records_seal_alert(
    struct records *records, enum records_alert alert, uint8_t out[static RECORDS_CONTROL_MAX]);

#endif
