/* Offset's messages in Cap'n Proto's packed stream form. One structure and two functions for each:
 * there is nothing here for any other message.
 *
 * Readers unpack into a scratch that the caller owns, take any message that says the same thing
 * (more segments, other layouts), and refuse with -EBADMSG what is malformed, what names an unknown
 * member of a union, and what would unpack to more than the scratch has room for. What they
 * return is a copy, except for data, which lies in the scratch. What a field says that the
 * message does not have is zeros, or no data.
 *
 * Writers make one segment, and return how many bytes they have written. */
#ifndef RELAY_CAPNP_H
#define RELAY_CAPNP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    CAPNP_KEY_SIZE = 32, /* and a salt's */
    CAPNP_NONCE_SIZE = 16,
    CAPNP_SIGNATURE_SIZE = 64,

    CAPNP_SMALL_MAX = 320, /* what a message without data takes at most when it is written */
};

/* What a message with `size` bytes of data takes at most when it is written: two words pack to 17
 * bytes at worst. */
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
    uint8_t public_key[CAPNP_KEY_SIZE]; /* unless it listens */
};

/* IncomingConnection and RejectConnection, which are the same bytes. */
struct connection_key {
    uint8_t public_key[CAPNP_KEY_SIZE];
};

struct ka_message {
    bool keep_alive; /* and no data */
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
    const uint8_t *padding; /* written; skipped by the reader */
    size_t padding_size;
    bool is_rekey;
    struct rekey rekey;
    uint8_t *data; /* unless it is a rekey */
    size_t size;
};

/* How large a scratch a packed message of any kind needs, as far as it says; or -EBADMSG. */
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

/* At most CAPNP_SMALL_MAX bytes each, with data CAPNP_DATA_MAX() of it and of the padding. */
size_t capnp_write_init_connection(const struct init_connection *init, uint8_t *packed);
size_t capnp_write_connection_key(const struct connection_key *key, uint8_t *packed);
size_t capnp_write_ka_message(const struct ka_message *message, uint8_t *packed);
size_t capnp_write_exchange_rand_nonce(const struct exchange_rand_nonce *exchange, uint8_t *packed);
size_t capnp_write_exchange_dh(const struct exchange_dh *exchange, uint8_t *packed);
size_t capnp_write_channel_message(const struct channel_message *message, uint8_t *packed);

/* The packing by itself. capnp_unpack() makes exactly `unpacked_size` bytes, whole words, and moves
 * *packed and *size on past what it took; -EBADMSG if a run or the input ends elsewhere. */
size_t capnp_pack(const uint8_t *unpacked, size_t size, uint8_t *packed);
int capnp_unpack(const uint8_t **packed, size_t *size, uint8_t *unpacked, size_t unpacked_size);

#endif
