/* Offset's messages, in Cap'n Proto's packed stream form: one structure and two functions for each.
 *
 * Readers unpack into a scratch that the caller owns. They accept every encoding of a message (more
 * segments, other layouts). They return -EBADMSG for a message that is malformed, has an unknown
 * member of a union, or would unpack to more than the scratch has room for. Fields are copied,
 * except data, which lies in the scratch. A field that the message lacks is zeros, or no data.
 *
 * Writers make one segment, and return how many bytes they have written. */
#ifndef RELAY_CAPNP_H
#define RELAY_CAPNP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    CAPNP_KEY_SIZE = 32, /* bytes of a key or a salt */
    CAPNP_NONCE_SIZE = 16,
    CAPNP_SIGNATURE_SIZE = 64,

    CAPNP_SMALL_MAX = 320, /* the most bytes of a written message without data */
};

/* The most bytes of a written message with `size` bytes of data: two words pack to 17 bytes at
 * worst. */
#define CAPNP_DATA_MAX(size) ((size) + (size) / 16 + 128)

struct capnp_scratch {
    uint8_t *bytes;
    size_t size;
};

enum init_kind {
    INIT_LISTEN,
    INIT_ACCEPT,
    INIT_CONNECT,
    INIT_KINDS,
};

struct init_connection {
    enum init_kind kind;
    uint8_t public_key[CAPNP_KEY_SIZE]; /* not with INIT_LISTEN */
};

/* IncomingConnection and RejectConnection, which have the same form. */
struct connection_key {
    uint8_t public_key[CAPNP_KEY_SIZE];
};

struct ka_message {
    bool keep_alive; /* then there is no data */
    uint8_t *data;
    size_t size;
};

struct exchange_rand_nonce {
    uint8_t rand_nonce[CAPNP_NONCE_SIZE];
    uint8_t src_public_key[CAPNP_KEY_SIZE];
    bool has_dest;
    uint8_t dest_public_key[CAPNP_KEY_SIZE];
};

struct exchange_dh {
    uint8_t dh_public_key[CAPNP_KEY_SIZE];
    uint8_t rand_nonce[CAPNP_NONCE_SIZE];
    uint8_t key_salt[CAPNP_KEY_SIZE];
    uint8_t signature[CAPNP_SIGNATURE_SIZE];
};

struct rekey {
    uint8_t dh_public_key[CAPNP_KEY_SIZE];
    uint8_t key_salt[CAPNP_KEY_SIZE];
};

struct channel_message {
    const uint8_t *padding; /* the reader skips it */
    size_t padding_size;
    bool is_rekey;
    struct rekey rekey;
    uint8_t *data; /* not with a rekey */
    size_t size;
};

/* The size of the scratch that a packed message says it needs; or -EBADMSG. */
ssize_t capnp_measure(const uint8_t *packed, size_t size);

int capnp_read_init_connection(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct init_connection *init);
int capnp_read_connection_key(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct connection_key *key);
int capnp_read_ka_message(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct ka_message *message);
int capnp_read_exchange_rand_nonce(struct capnp_scratch scratch, const uint8_t *packed, size_t size,
    struct exchange_rand_nonce *exchange);
int capnp_read_exchange_dh(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct exchange_dh *exchange);
int capnp_read_channel_message(struct capnp_scratch scratch, const uint8_t *packed, size_t size,
    struct channel_message *message);

/* They write at most CAPNP_SMALL_MAX bytes; with data or padding, and CAPNP_DATA_MAX() of its size.
 */
size_t capnp_write_init_connection(const struct init_connection *init, uint8_t *packed);
size_t capnp_write_connection_key(const struct connection_key *key, uint8_t *packed);
size_t capnp_write_ka_message(const struct ka_message *message, uint8_t *packed);
size_t capnp_write_exchange_rand_nonce(const struct exchange_rand_nonce *exchange, uint8_t *packed);
size_t capnp_write_exchange_dh(const struct exchange_dh *exchange, uint8_t *packed);
size_t capnp_write_channel_message(const struct channel_message *message, uint8_t *packed);

#endif
