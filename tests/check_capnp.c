/* Offset's messages are read and written as in the test vectors; malformed messages are refused. */
#include "codec/capnp.h"
#include "codec/packing.h"
#include "suite.h"
#include "vectors.h"

#include <errno.h>
#include <stdio.h>

enum {
    SCRATCH_SIZE = 2 << 20,
};

static json_t *vectors;
static struct capnp_scratch scratch;

static void set_up(void)
{
    ck_assert_int_ge(sodium_init(), 0);
    vectors = load_vectors();
    scratch = (struct capnp_scratch){malloc(SCRATCH_SIZE), SCRATCH_SIZE};
    ck_assert_ptr_nonnull(scratch.bytes);
}

static void tear_down(void)
{
    free(scratch.bytes);
    json_decref(vectors);
}

/* ---- any of the messages ---------------------------------------------------------- */

struct any {
    struct init_connection init;
    struct connection_key key;
    struct ka_message ka;
    struct exchange_rand_nonce rand_nonce;
    struct exchange_dh dh;
    struct channel_message channel;
};

static int read_init(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_init_connection(scratch, packed, size, &any->init);
}

static size_t write_init(const struct any *any, uint8_t *packed)
{
    return capnp_write_init_connection(&any->init, packed);
}

static void expect_init(json_t *vector, const struct any *any)
{
    static const char *const members[] = {"listen", "accept", "connect"};
    ck_assert_str_eq(members[any->init.kind], vector_text(vector, "member"));
    if (any->init.kind != INIT_LISTEN)
        expect_vector(vector, "publicKey", any->init.public_key, CAPNP_KEY_SIZE);
}

static int read_key(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_connection_key(scratch, packed, size, &any->key);
}

static size_t write_key(const struct any *any, uint8_t *packed)
{
    return capnp_write_connection_key(&any->key, packed);
}

static void expect_key(json_t *vector, const struct any *any)
{
    expect_vector(vector, "publicKey", any->key.public_key, CAPNP_KEY_SIZE);
}

static int read_ka(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_ka_message(scratch, packed, size, &any->ka);
}

static size_t write_ka(const struct any *any, uint8_t *packed)
{
    return capnp_write_ka_message(&any->ka, packed);
}

static void expect_ka(json_t *vector, const struct any *any)
{
    ck_assert_str_eq(any->ka.keep_alive ? "keepAlive" : "message", vector_text(vector, "member"));
    if (any->ka.keep_alive)
        return;
    json_t *size = json_object_get(vector, "message_size");
    if (size == NULL) {
        expect_vector(vector, "message", any->ka.data, any->ka.size);
        return;
    }
    ck_assert_uint_eq(any->ka.size, strtoul(json_string_value(size), NULL, 10));
    ck_assert(sodium_is_zero(any->ka.data, any->ka.size - 4));
    ck_assert_mem_eq(any->ka.data + any->ka.size - 4, "tail", 4);
}

static int read_rand_nonce(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_exchange_rand_nonce(scratch, packed, size, &any->rand_nonce);
}

static size_t write_rand_nonce(const struct any *any, uint8_t *packed)
{
    return capnp_write_exchange_rand_nonce(&any->rand_nonce, packed);
}

static void expect_rand_nonce(json_t *vector, const struct any *any)
{
    const struct exchange_rand_nonce *exchange = &any->rand_nonce;
    expect_vector(vector, "randNonce", exchange->rand_nonce, CAPNP_NONCE_SIZE);
    expect_vector(vector, "srcPublicKey", exchange->src_public_key, CAPNP_KEY_SIZE);
    ck_assert_int_eq(exchange->has_dest, !json_is_null(vector_at(vector, "optDestPublicKey")));
    if (exchange->has_dest)
        expect_vector(vector, "optDestPublicKey", exchange->dest_public_key, CAPNP_KEY_SIZE);
}

static int read_dh(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_exchange_dh(scratch, packed, size, &any->dh);
}

static size_t write_dh(const struct any *any, uint8_t *packed)
{
    return capnp_write_exchange_dh(&any->dh, packed);
}

static void expect_dh(json_t *vector, const struct any *any)
{
    expect_vector(vector, "dhPublicKey", any->dh.dh_public_key, CAPNP_KEY_SIZE);
    expect_vector(vector, "randNonce", any->dh.rand_nonce, CAPNP_NONCE_SIZE);
    expect_vector(vector, "keySalt", any->dh.key_salt, CAPNP_KEY_SIZE);
    expect_vector(vector, "signature", any->dh.signature, CAPNP_SIGNATURE_SIZE);
}

static int read_channel(const uint8_t *packed, size_t size, struct any *any)
{
    return capnp_read_channel_message(scratch, packed, size, &any->channel);
}

static size_t write_channel(const struct any *any, uint8_t *packed)
{
    return capnp_write_channel_message(&any->channel, packed);
}

static void expect_channel(json_t *vector, const struct any *any)
{
    const struct channel_message *channel = &any->channel;
    ck_assert_str_eq(channel->is_rekey ? "rekey" : "user", vector_text(vector, "member"));
    if (channel->is_rekey) {
        expect_vector(vector, "dhPublicKey", channel->rekey.dh_public_key, CAPNP_KEY_SIZE);
        expect_vector(vector, "keySalt", channel->rekey.key_salt, CAPNP_KEY_SIZE);
    } else {
        expect_vector(vector, "user", channel->data, channel->size);
    }
}

static const struct kind {
    const char *name;
    int (*read)(const uint8_t *packed, size_t size, struct any *any);
    size_t (*write)(const struct any *any, uint8_t *packed);
    void (*expect)(json_t *vector, const struct any *any);
} kinds[] = {
    {"InitConnection", read_init, write_init, expect_init},
    {"IncomingConnection", read_key, write_key, expect_key},
    {"RejectConnection", read_key, write_key, expect_key},
    {"KaMessage", read_ka, write_ka, expect_ka},
    {"ExchangeRandNonce", read_rand_nonce, write_rand_nonce, expect_rand_nonce},
    {"ExchangeDh", read_dh, write_dh, expect_dh},
    {"ChannelMessage", read_channel, write_channel, expect_channel},
};

enum {
    KINDS = sizeof kinds / sizeof kinds[0],
};

static const struct kind *kind_of(json_t *vector)
{
    const char *name = vector_text(vector, "struct");
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    ck_abort_msg("a vector of an unknown message %s", name);
}

/* ---- the vectors ------------------------------------------------------------------ */

START_TEST(packing_is_as_in_the_vectors)
{
    size_t i;
    json_t *vector;
    ck_assert_uint_eq(json_array_size(vector_at(vectors, "packing")), 8);
    json_array_foreach(vector_at(vectors, "packing"), i, vector)
    {
        struct bytes unpacked = vector_bytes(vector, "unpacked");
        struct bytes packed = vector_bytes(vector, "packed");
        uint8_t *out = malloc(unpacked.size * 10 / 8);
        size_t size = capnp_pack(unpacked.at, unpacked.size, out);
        expect_vector(vector, "packed", out, size);
        const uint8_t *in = packed.at;
        out = realloc(out, unpacked.size);
        ck_assert_int_eq(capnp_unpack(&in, &packed.size, out, unpacked.size), 0);
        ck_assert_uint_eq(packed.size, 0);
        ck_assert_mem_eq(out, unpacked.at, unpacked.size);
        free(out);
        free(unpacked.at);
        free(packed.at);
    }
}
END_TEST

/* Compares the segments in the scratch with the last words of the vector. */
static void expect_unpacked(json_t *vector, size_t table_size)
{
    json_t *hash = json_object_get(vector, "unpacked_sha256");
    if (hash == NULL) {
        struct bytes unpacked = vector_bytes(vector, "unpacked");
        ck_assert_mem_eq(scratch.bytes, unpacked.at + table_size, unpacked.size - table_size);
        free(unpacked.at);
        return;
    }
    size_t size = vector_number(vector, "unpacked_size");
    struct bytes packed = vector_bytes(vector, "packed");
    const uint8_t *in = packed.at;
    uint8_t *unpacked = malloc(size), digest[crypto_hash_sha256_BYTES];
    ck_assert_int_eq(capnp_unpack(&in, &packed.size, unpacked, size), 0);
    ck_assert_mem_eq(scratch.bytes, unpacked + table_size, size - table_size);
    ck_assert_int_eq(crypto_hash_sha256(digest, unpacked, size), 0);
    expect_vector(vector, "unpacked_sha256", digest, sizeof digest);
    free(unpacked);
    free(packed.at);
}

START_TEST(messages_are_read_as_in_the_vectors)
{
    size_t i;
    json_t *vector;
    ck_assert_uint_eq(json_array_size(vector_at(vectors, "messages")), 22);
    json_array_foreach(vector_at(vectors, "messages"), i, vector)
    {
        struct any any;
        struct bytes packed = vector_bytes(vector, "packed");
        const struct kind *kind = kind_of(vector);
        size_t segments = vector_number(vector, "segments");
        ck_assert_msg(kind->read(packed.at, packed.size, &any) == 0, "%s is refused",
            vector_text(vector, "comment"));
        kind->expect(vector, &any);
        expect_unpacked(vector, 8 * (1 + segments / 2));
        free(packed.at);
    }
}
END_TEST

/* Vectors that are legal, but that no writer would write so. */
static bool is_unusual(json_t *vector)
{
    static const char *const comments[] = {
        "A struct larger than known", "Empty root struct", "Message with a null pointer"};
    for (size_t i = 0; i < sizeof comments / sizeof comments[0]; i++)
        if (strncmp(vector_text(vector, "comment"), comments[i], strlen(comments[i])) == 0)
            return true;
    return vector_number(vector, "segments") != 1;
}

START_TEST(messages_are_written_as_in_the_vectors)
{
    size_t i, exact = 0;
    json_t *vector;
    json_array_foreach(vector_at(vectors, "messages"), i, vector)
    {
        struct any any, again;
        struct bytes packed = vector_bytes(vector, "packed"), padding = {NULL, 0};
        const struct kind *kind = kind_of(vector);
        ck_assert_int_eq(kind->read(packed.at, packed.size, &any), 0);
        if (json_object_get(vector, "randPadding") != NULL) {
            padding = vector_bytes(vector, "randPadding");
            any.channel.padding = padding.at;
            any.channel.padding_size = padding.size;
        }
        uint8_t *written = malloc(CAPNP_DATA_MAX(SCRATCH_SIZE));
        size_t size = kind->write(&any, written);
        if (!is_unusual(vector)) {
            expect_vector(vector, "packed", written, size);
            exact++;
        }
        ck_assert_int_eq(kind->read(written, size, &again), 0);
        kind->expect(vector, &again);
        free(written);
        free(padding.at);
        free(packed.at);
    }
    ck_assert_uint_eq(exact, 14);
}
END_TEST

START_TEST(invalid_messages_are_refused)
{
    size_t i;
    json_t *vector;
    ck_assert_uint_eq(json_array_size(vector_at(vectors, "invalid_messages.cases")), 16);
    json_array_foreach(vector_at(vectors, "invalid_messages.cases"), i, vector)
    {
        struct any any;
        struct bytes packed = vector_bytes(vector, "packed");
        ck_assert_msg(kind_of(vector)->read(packed.at, packed.size, &any) == -EBADMSG,
            "%s is accepted", vector_text(vector, "comment"));
        free(packed.at);
    }
}
END_TEST

/* ---- beyond them ------------------------------------------------------------------ */

START_TEST(a_message_cut_anywhere_is_refused_and_bytes_behind_it_are_ignored)
{
    size_t i;
    json_t *vector;
    json_array_foreach(vector_at(vectors, "messages"), i, vector)
    {
        struct any any;
        struct bytes packed = vector_bytes(vector, "packed");
        const struct kind *kind = kind_of(vector);
        for (size_t size = 0; size < packed.size; size++) {
            uint8_t *cut = malloc(size + 1); /* so that a sanitizer sees a read beyond it */
            memcpy(cut, packed.at, size);
            ck_assert_int_eq(kind->read(cut, size, &any), -EBADMSG);
            free(cut);
        }
        uint8_t *longer = malloc(packed.size + 3);
        memcpy(longer, packed.at, packed.size);
        memset(longer + packed.size, 0xff, 3);
        ck_assert_int_eq(kind->read(longer, packed.size + 3, &any), 0);
        kind->expect(vector, &any);
        free(longer);
        free(packed.at);
    }
}
END_TEST

static void expect_inside(const uint8_t *data, size_t size)
{
    ck_assert(size <= scratch.size);
    ck_assert(data >= scratch.bytes && data + size <= scratch.bytes + scratch.size);
}

START_TEST(no_changed_byte_leads_the_reader_out_of_the_message)
{
    size_t i, accepted = 0;
    json_t *vector;
    scratch.size = 16384;
    json_array_foreach(vector_at(vectors, "messages"), i, vector)
    {
        struct bytes packed = vector_bytes(vector, "packed");
        for (size_t at = 0; at < packed.size; at++)
            for (unsigned int change = 1; change < 256; change++) {
                struct any any;
                packed.at[at] ^= (uint8_t)change;
                if (read_ka(packed.at, packed.size, &any) == 0 && !any.ka.keep_alive) {
                    expect_inside(any.ka.data, any.ka.size);
                    accepted++;
                }
                if (read_channel(packed.at, packed.size, &any) == 0 && !any.channel.is_rekey) {
                    expect_inside(any.channel.data, any.channel.size);
                    accepted++;
                }
                packed.at[at] ^= (uint8_t)change;
            }
        free(packed.at);
    }
    ck_assert_uint_gt(accepted, 0);
}
END_TEST

/* A message of one or more segments, as words. Returns its packed size. */
static size_t pack_message(const uint64_t *words, size_t count, uint8_t *packed)
{
    uint64_t message[256];
    ck_assert_uint_le(count, sizeof message / sizeof message[0]);
    for (size_t i = 0; i < count; i++)
        message[i] = htole64(words[i]);
    return capnp_pack((const uint8_t *)message, count * sizeof message[0], packed);
}

START_TEST(a_message_may_be_as_large_as_the_scratch_and_no_larger)
{
    uint8_t data[100] = {1}, packed[CAPNP_DATA_MAX(sizeof data)];
    struct any any = {.ka = {.data = data, .size = sizeof data}};
    size_t size = write_ka(&any, packed), words = 3 + 13;
    scratch.size = words * 8;
    ck_assert_int_eq(read_ka(packed, size, &any), 0);
    scratch.size--;
    ck_assert_int_eq(read_ka(packed, size, &any), -EBADMSG);
}
END_TEST

START_TEST(a_null_root_is_a_message_of_defaults)
{
    const uint64_t null[] = {(uint64_t)1 << 32, 0};
    uint8_t packed[64];
    size_t size = pack_message(null, 2, packed);
    for (size_t i = 0; i < KINDS; i++) {
        struct any any;
        memset(&any, 0xee, sizeof any);
        ck_assert_int_eq(kinds[i].read(packed, size, &any), 0);
    }
    struct any any;
    ck_assert_int_eq(read_init(packed, size, &any), 0);
    ck_assert_int_eq(any.init.kind, INIT_LISTEN);
    ck_assert_int_eq(read_ka(packed, size, &any), 0);
    ck_assert(any.ka.keep_alive);
    ck_assert_int_eq(read_key(packed, size, &any), 0);
    ck_assert(sodium_is_zero(any.key.public_key, CAPNP_KEY_SIZE));
}
END_TEST

START_TEST(far_pointers_in_a_circle_are_refused)
{
    /* one segment of two words, which are far pointers to each other; then double ones */
    const uint64_t circle[] = {(uint64_t)2 << 32, 1 << 3 | 2, 0 << 3 | 2};
    const uint64_t twice[] = {(uint64_t)2 << 32, 0 << 3 | 6, 0 << 3 | 6};
    uint8_t packed[64];
    struct any any;
    ck_assert_int_eq(read_ka(packed, pack_message(circle, 3, packed), &any), -EBADMSG);
    ck_assert_int_eq(read_ka(packed, pack_message(twice, 3, packed), &any), -EBADMSG);
}
END_TEST

/* A message whose first segment has one null word, and the others none, so that no run reaches from
 * the table into the segment. */
static size_t pack_segments(size_t segments, uint8_t *packed)
{
    const uint64_t first = (uint64_t)1 << 32 | (segments - 1), zeros[256] = {0};
    size_t size = pack_message(&first, 1, packed);
    size += pack_message(zeros, segments / 2, packed + size);
    return size + pack_message(zeros, 1, packed + size);
}

START_TEST(up_to_511_segments_are_read)
{
    uint8_t packed[64];
    struct any any;
    ck_assert_int_eq(read_ka(packed, pack_segments(511, packed), &any), 0);
    ck_assert(any.ka.keep_alive);
    ck_assert_int_eq(read_ka(packed, pack_segments(512, packed), &any), -EBADMSG);
}
END_TEST

/* Data of a kind: zeros, no zeros, every other word zero, two zero bytes in every other word,
 * random. */
static void fill(uint8_t *data, size_t size, unsigned int kind)
{
    randombytes_buf(data, size);
    for (size_t i = 0; i < size; i++)
        if (kind == 0 || (kind == 2 && i / 8 % 2 == 0) || (kind == 3 && i % 16 < 2))
            data[i] = 0;
        else if (kind != 4)
            data[i] |= 1;
}

START_TEST(data_of_any_size_and_content_is_read_as_it_was_written)
{
    static const size_t sizes[] = {
        0, 1, 7, 8, 9, 15, 16, 17, 2040, 2047, 2048, 2049, 2056, 4096, 65535, 65536, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (unsigned int kind = 0; kind < 5; kind++) {
            size_t size = sizes[i], padding_size = (i * 31 + kind) % 256;
            uint8_t *data = malloc(size + 1), padding[256];
            uint8_t *packed = malloc(CAPNP_DATA_MAX(size + padding_size));
            fill(data, size, kind);
            fill(padding, sizeof padding, kind);
            struct any any = {.ka = {.data = data, .size = size},
                .channel = {
                    .padding = padding, .padding_size = padding_size, .data = data, .size = size}};
            size_t ka_size = write_ka(&any, packed);
            ck_assert_uint_le(ka_size, CAPNP_DATA_MAX(size));
            ck_assert_int_eq(read_ka(packed, ka_size, &any), 0);
            ck_assert_uint_eq(any.ka.size, size);
            ck_assert_int_eq(memcmp(any.ka.data, data, size), 0);
            size_t channel_size = write_channel(&any, packed);
            ck_assert_uint_le(channel_size, CAPNP_DATA_MAX(size + padding_size));
            ck_assert_int_eq(read_channel(packed, channel_size, &any), 0);
            ck_assert_uint_eq(any.channel.size, size);
            ck_assert_int_eq(memcmp(any.channel.data, data, size), 0);
            free(packed);
            free(data);
        }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("capnp");
    TCase *tests = tcase_create("messages");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, packing_is_as_in_the_vectors);
    tcase_add_test(tests, messages_are_read_as_in_the_vectors);
    tcase_add_test(tests, messages_are_written_as_in_the_vectors);
    tcase_add_test(tests, invalid_messages_are_refused);
    tcase_add_test(tests, a_message_cut_anywhere_is_refused_and_bytes_behind_it_are_ignored);
    tcase_add_test(tests, no_changed_byte_leads_the_reader_out_of_the_message);
    tcase_add_test(tests, a_message_may_be_as_large_as_the_scratch_and_no_larger);
    tcase_add_test(tests, a_null_root_is_a_message_of_defaults);
    tcase_add_test(tests, far_pointers_in_a_circle_are_refused);
    tcase_add_test(tests, up_to_511_segments_are_read);
    tcase_add_test(tests, data_of_any_size_and_content_is_read_as_it_was_written);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
