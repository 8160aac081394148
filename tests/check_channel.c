/* Offset's secure channel: handshake, frames and rekeying are as in the test vectors; a changed
 * byte ends the connection; and messages arrive as they were sent, in pieces of any size. */
#include "codec/channel.h"
#include "suite.h"
#include "vectors.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <sys/random.h>

enum {
    NONCE_SIZE = crypto_aead_chacha20poly1305_ietf_NPUBBYTES,
    TAG_SIZE = crypto_aead_chacha20poly1305_ietf_ABYTES,
    FRAME_ROOM = 4 << 20,
    BEHIND = 2 << 20,
    HOUR = 3600000,
};

struct identity {
    uint8_t public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];
};

static json_t *vectors;
static struct identity relay, client;

/* ---- randomness that can be foretold ----------------------------------------------- */

static uint8_t script[256];
static size_t script_at, script_size;

static const char *script_name(void)
{
    return "script";
}

/* Gives the scripted bytes first, then random bytes. */
static void script_buf(void *buffer, size_t size)
{
    if (size <= script_size - script_at) {
        memcpy(buffer, script + script_at, size);
        script_at += size;
        return;
    }
    ck_assert_int_eq(getrandom(buffer, size, 0), (ssize_t)size);
}

static uint32_t script_number(void)
{
    uint32_t number;
    script_buf(&number, sizeof number);
    return number;
}

static struct randombytes_implementation scripted = {
    .implementation_name = script_name, .random = script_number, .buf = script_buf};

/* Makes the next random bytes those of this vector. */
static void foretell(json_t *object, const char *path)
{
    struct bytes bytes = vector_bytes(object, path);
    ck_assert_uint_le(script_size + bytes.size, sizeof script);
    memcpy(script + script_size, bytes.at, bytes.size);
    script_size += bytes.size;
    free(bytes.at);
}

static void expect_foretold_drawn(void)
{
    ck_assert_uint_eq(script_at, script_size);
    script_at = script_size = 0;
}

/* ---- fixture ---------------------------------------------------------------------- */

static void make_identity(struct identity *identity)
{
    ck_assert_int_eq(crypto_sign_keypair(identity->public_key, identity->secret_key), 0);
}

static void set_up(void)
{
    script_at = script_size = 0;
    ck_assert_int_eq(randombytes_set_implementation(&scripted), 0);
    ck_assert_int_ge(sodium_init(), 0);
    vectors = load_vectors();
    make_identity(&relay);
    make_identity(&client);
}

static void tear_down(void)
{
    json_decref(vectors);
}

/* ---- one end of a channel --------------------------------------------------------- */

struct connection {
    void *state;
    uint8_t *room; /* its input, and CODEC_HEAD in front */
};

static struct budget_account account = {.share = BUDGET_FRAMES};

static struct connection open_channel(const struct channel_session *session)
{
    struct connection connection = {
        calloc(1, channel_codec.state_size), malloc(CODEC_HEAD + FRAME_ROOM)};
    ck_assert_ptr_nonnull(connection.state);
    ck_assert_ptr_nonnull(connection.room);
    ck_assert_int_eq(channel_codec.open(
                         connection.state, (const uint8_t *)session, sizeof *session, 0, &account),
        0);
    return connection;
}

static void close_channel(struct connection *connection)
{
    channel_codec.close(connection->state);
    free(connection->state);
    free(connection->room);
}

static struct channel_session session_of(const struct connection *connection)
{
    struct channel_session session;
    ck_assert_int_eq(channel_suspend(connection->state, &session), 0);
    return session;
}

/* Frames as they were written. The function that takes them frees them. */
static struct bytes copy(const void *at, size_t size)
{
    struct bytes bytes = {malloc(size + 1), size};
    ck_assert_ptr_nonnull(bytes.at);
    memcpy(bytes.at, at, size);
    return bytes;
}

static struct bytes join(struct bytes first, struct bytes second)
{
    struct bytes bytes = {malloc(first.size + second.size + 1), first.size + second.size};
    ck_assert_ptr_nonnull(bytes.at);
    memcpy(bytes.at, first.at, first.size);
    memcpy(bytes.at + first.size, second.at, second.size);
    free(first.at);
    free(second.at);
    return bytes;
}

static struct bytes send_at(
    struct connection *connection, const void *data, size_t size, int64_t now)
{
    struct iovec out;
    struct bytes message = copy(data, size);
    struct piece piece = {.bytes = message.at, .size = size, .first = true, .last = true};
    ck_assert_int_eq(channel_codec.encode(connection->state, &piece, now, &out), 0);
    free(message.at);
    return copy(out.iov_base, out.iov_len);
}

static struct bytes send_text(struct connection *connection, const char *text)
{
    return send_at(connection, text, strlen(text), 0);
}

static struct bytes keep_alive_at(struct connection *connection, int64_t now)
{
    struct iovec out;
    ck_assert_int_eq(channel_codec.quiet(connection->state, now, &out), 0);
    return copy(out.iov_base, out.iov_len);
}

/* The first event of these bytes, and how many of them it did not use. */
static enum codec_event receive_some(struct connection *connection, const uint8_t *bytes,
    size_t *size, int64_t now, struct piece *piece)
{
    uint8_t *input = connection->room + CODEC_HEAD;
    ck_assert_uint_le(*size, FRAME_ROOM);
    memcpy(input, bytes, *size);
    return channel_codec.decode(connection->state, &input, size, now, piece);
}

/* Takes frames that are one event, and frees them. */
static enum codec_event receive_at(
    struct connection *connection, struct bytes frames, int64_t now, struct piece *piece)
{
    size_t left = frames.size;
    enum codec_event event = receive_some(connection, frames.at, &left, now, piece);
    if (event != CODEC_FAILED)
        ck_assert_uint_eq(left, 0);
    free(frames.at);
    return event;
}

static enum codec_event receive(struct connection *connection, struct bytes frames)
{
    struct piece piece;
    return receive_at(connection, frames, 0, &piece);
}

static void expect_text(struct connection *connection, struct bytes frame, const char *text)
{
    struct piece piece;
    ck_assert_int_eq(receive_at(connection, frame, 0, &piece), CODEC_PIECE);
    ck_assert(piece.first && piece.last && !piece.text);
    ck_assert_uint_eq(piece.size, strlen(text));
    ck_assert_mem_eq(piece.bytes, text, piece.size);
}

static struct bytes expect_reply(struct connection *connection, struct bytes frame, int64_t now)
{
    struct piece piece;
    ck_assert_int_eq(receive_at(connection, frame, now, &piece), CODEC_REPLY);
    return copy(piece.bytes, piece.size);
}

/* ---- two ends --------------------------------------------------------------------- */

/* One side of a handshake, and what it has sent that the other has not read. */
struct side {
    struct channel_handshake handshake;
    uint8_t unread[2 * CHANNEL_SEND_MAX];
    size_t size;
};

static void begin(struct side *side, const struct identity *identity)
{
    side->size =
        channel_begin(&side->handshake, identity->public_key, identity->secret_key, side->unread);
    ck_assert_uint_le(side->size, CHANNEL_SEND_MAX);
}

/* Lets a side read the next frame of the other. */
static int take_frame(struct side *side, struct side *from)
{
    size_t sent;
    int size = channel_payload_size(from->unread, CHANNEL_GREETING_MAX);
    if (size < 0)
        return size;
    size_t whole = CHANNEL_HEADER + (size_t)size;
    if (from->size < whole)
        return -EAGAIN;
    int error = channel_proceed(&side->handshake, from->unread + CHANNEL_HEADER, (size_t)size,
        side->unread + side->size, &sent);
    from->size -= whole;
    memmove(from->unread, from->unread + whole, from->size);
    side->size += sent;
    ck_assert_uint_le(sent, CHANNEL_SEND_MAX);
    return error;
}

/* Whether both sides complete the handshake. */
static bool shake_hands(struct side *a, struct side *b)
{
    for (int frames = 0; frames < 3; frames++)
        if (take_frame(a, b) != 0 || take_frame(b, a) != 0)
            return false;
    return a->handshake.stage == CHANNEL_READY && b->handshake.stage == CHANNEL_READY;
}

static void open_pair(struct connection *a, struct connection *b)
{
    struct side sides[2];
    begin(&sides[0], &client);
    begin(&sides[1], &relay);
    ck_assert(shake_hands(&sides[0], &sides[1]));
    *a = open_channel(&sides[0].handshake.session);
    *b = open_channel(&sides[1].handshake.session);
    channel_end(&sides[0].handshake);
    channel_end(&sides[1].handshake);
    ck_assert(sodium_is_zero((const uint8_t *)&sides[1].handshake, sizeof sides[1].handshake));
}

/* ---- keys as in the vectors ------------------------------------------------------- */

START_TEST(identities_are_made_of_their_seeds)
{
    size_t i;
    json_t *vector;
    json_array_foreach(vector_at(vectors, "identities"), i, vector)
    {
        uint8_t seed[crypto_sign_SEEDBYTES];
        vector_fixed(vector, "seed", seed, sizeof seed);
        ck_assert_int_eq(crypto_sign_seed_keypair(relay.public_key, relay.secret_key, seed), 0);
        expect_vector(vector, "public_key", relay.public_key, sizeof relay.public_key);
    }
    ck_assert_uint_eq(i, 3);
}
END_TEST

START_TEST(the_hash_is_sha_512_256)
{
    size_t i;
    json_t *vector;
    json_array_foreach(vector_at(vectors, "sha512_256.digests"), i, vector)
    {
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned int size;
        struct bytes data = vector_bytes(vector, "data");
        ck_assert_int_eq(EVP_Digest(data.at, data.size, digest, &size, EVP_sha512_256(), NULL), 1);
        expect_vector(vector, "digest", digest, size);
        free(data.at);
    }
    ck_assert_uint_eq(i, 4);
}
END_TEST

START_TEST(keys_are_derived_as_in_the_vector)
{
    uint8_t salt[CAPNP_KEY_SIZE], secret[CAPNP_KEY_SIZE], key[CAPNP_KEY_SIZE];
    vector_fixed(vectors, "hkdf.salt", salt, sizeof salt);
    vector_fixed(vectors, "hkdf.ikm", secret, sizeof secret);
    ck_assert_int_eq(channel_derive(salt, secret, key), 0);
    expect_vector(vectors, "hkdf.okm", key, sizeof key);
}
END_TEST

/* ---- the handshake ---------------------------------------------------------------- */

static struct identity identity_of(const char *name)
{
    size_t i;
    json_t *vector;
    struct identity identity;
    uint8_t seed[crypto_sign_SEEDBYTES];
    json_array_foreach(vector_at(vectors, "identities"), i, vector)
    {
        if (strcmp(vector_text(vector, "name"), name) != 0)
            continue;
        vector_fixed(vector, "seed", seed, sizeof seed);
        ck_assert_int_eq(
            crypto_sign_seed_keypair(identity.public_key, identity.secret_key, seed), 0);
        return identity;
    }
    ck_abort_msg("no identity %s", name);
}

static int proceed_with(struct channel_handshake *handshake, json_t *object, const char *path,
    uint8_t *send, size_t *sent)
{
    struct bytes payload = vector_bytes(object, path);
    int error = channel_proceed(handshake, payload.at, payload.size, send, sent);
    free(payload.at);
    return error;
}

/* A side of the vectors' handshake: what it sends is its own vectors, what it reads the other's. */
static struct channel_session hold_handshake(const char *name, const char *own, const char *other)
{
    struct channel_handshake handshake;
    struct identity identity = identity_of(name);
    uint8_t send[CHANNEL_SEND_MAX];
    size_t sent;
    json_t *mine = vector_at(vector_at(vectors, "handshake"), own);
    json_t *theirs = vector_at(vector_at(vectors, "handshake"), other);
    foretell(mine, "rand_nonce");
    foretell(mine, "x25519_secret");
    foretell(mine, "key_salt");

    size_t size = channel_begin(&handshake, identity.public_key, identity.secret_key, send);
    expect_vector(vectors, "tcp_version_frame.tcp", send, 12);
    ck_assert_int_eq(channel_payload_size(send + 12, CHANNEL_GREETING_MAX), (int)size - 20);
    if (json_is_null(vector_at(mine, "opt_dest_public_key")))
        expect_vector(mine, "exchange_rand_nonce_packed", send + 20, size - 20);

    ck_assert_int_eq(channel_proceed(&handshake, (const uint8_t[4]){0}, 4, send, &sent), 0);
    ck_assert_uint_eq(sent, 0);
    ck_assert_int_eq(
        proceed_with(&handshake, theirs, "exchange_rand_nonce_packed", send, &sent), 0);
    expect_vector(mine, "exchange_dh_packed", send + 8, sent - 8);
    ck_assert_int_eq(proceed_with(&handshake, theirs, "exchange_dh_packed", send, &sent), 0);
    ck_assert_uint_eq(sent, 0);
    ck_assert_int_eq(handshake.stage, CHANNEL_READY);
    expect_foretold_drawn();
    struct channel_session session = handshake.session;
    channel_end(&handshake);
    return session;
}

START_TEST(the_handshake_is_as_in_the_vectors_from_either_side)
{
    struct channel_session session = hold_handshake("relay", "relay", "client");
    ck_assert_mem_eq(session.peer, identity_of("a").public_key, sizeof session.peer);
    expect_vector(vectors, "handshake.key_relay_to_client", session.sender.key, 32);
    expect_vector(vectors, "handshake.key_client_to_relay", session.receiver.key, 32);
    ck_assert(session.sender.counter == 0 && session.receiver.counter == 0);
    ck_assert(session.has_pending == 0 && session.has_old_receiver == 0);
    ck_assert(sodium_is_zero((const uint8_t *)&session.pending, sizeof session.pending));

    session = hold_handshake("a", "client", "relay");
    ck_assert_mem_eq(session.peer, identity_of("relay").public_key, sizeof session.peer);
    expect_vector(vectors, "handshake.key_client_to_relay", session.sender.key, 32);
    expect_vector(vectors, "handshake.key_relay_to_client", session.receiver.key, 32);
}
END_TEST

START_TEST(a_client_that_names_a_destination_is_understood)
{
    uint8_t packed[CAPNP_SMALL_MAX];
    struct exchange_rand_nonce exchange = {.has_dest = true};
    vector_fixed(vectors, "handshake.client.rand_nonce", exchange.rand_nonce, CAPNP_NONCE_SIZE);
    vector_fixed(
        vectors, "handshake.client.opt_dest_public_key", exchange.dest_public_key, CAPNP_KEY_SIZE);
    memcpy(exchange.src_public_key, identity_of("a").public_key, CAPNP_KEY_SIZE);
    size_t size = capnp_write_exchange_rand_nonce(&exchange, packed);
    expect_vector(vectors, "handshake.client.exchange_rand_nonce_packed", packed, size);
}
END_TEST

/* The basis of the handshake, by the library alone. */
START_TEST(the_vectors_secrets_and_signatures_are_the_librarys)
{
    static const char *const sides[] = {"client", "relay"}, *const names[] = {"a", "relay"};
    for (size_t i = 0; i < 2; i++) {
        json_t *side = vector_at(vector_at(vectors, "handshake"), sides[i]);
        json_t *other = vector_at(vector_at(vectors, "handshake"), sides[1 - i]);
        struct identity identity = identity_of(names[i]);
        uint8_t secret[32], public[32], shared[32], signature[64];
        vector_fixed(side, "x25519_secret", secret, sizeof secret);
        ck_assert_int_eq(crypto_scalarmult_base(public, secret), 0);
        expect_vector(side, "dh_public_key", public, sizeof public);
        vector_fixed(other, "dh_public_key", public, sizeof public);
        ck_assert_int_eq(crypto_scalarmult(shared, secret, public), 0);
        expect_vector(vectors, "handshake.shared_secret", shared, sizeof shared);
        struct bytes signed_buffer = vector_bytes(side, "signed_buffer");
        ck_assert_int_eq(crypto_sign_detached(signature, NULL, signed_buffer.at, signed_buffer.size,
                             identity.secret_key),
            0);
        expect_vector(side, "signature", signature, sizeof signature);
        free(signed_buffer.at);
    }
}
END_TEST

START_TEST(another_version_is_refused)
{
    static const uint8_t versions[][5] = {{0, 0, 0, 1}, {1}, {0}};
    static const size_t sizes[] = {4, 4, 5};
    for (size_t i = 0; i < 3; i++) {
        struct side side;
        size_t sent;
        begin(&side, &relay);
        ck_assert_int_eq(
            channel_proceed(&side.handshake, versions[i], sizes[i], side.unread, &sent), -EBADMSG);
        ck_assert_uint_eq(sent, 0);
    }
}
END_TEST

/* With one bit flipped, a handshake fails, or goes on as if nothing had happened. */
static void flip_bit(size_t frame, size_t bit, bool *beyond)
{
    struct side sides[2];
    begin(&sides[0], &client);
    begin(&sides[1], &relay);
    *beyond = false;
    for (size_t i = 0; i < 3; i++) {
        size_t payload = (size_t)channel_payload_size(sides[0].unread, CHANNEL_GREETING_MAX);
        if (i == frame && bit / 8 >= CHANNEL_HEADER + payload) {
            *beyond = true;
            return;
        }
        if (i == frame)
            sides[0].unread[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (take_frame(&sides[1], &sides[0]) != 0 || take_frame(&sides[0], &sides[1]) != 0)
            return;
    }
    ck_assert_int_eq(sides[0].handshake.stage, CHANNEL_READY);
    ck_assert_int_eq(sides[1].handshake.stage, CHANNEL_READY);
    const struct channel_session *a = &sides[0].handshake.session;
    const struct channel_session *b = &sides[1].handshake.session;
    ck_assert_mem_eq(b->peer, client.public_key, sizeof b->peer);
    ck_assert_mem_eq(a->sender.key, b->receiver.key, sizeof a->sender.key);
    ck_assert_mem_eq(a->receiver.key, b->sender.key, sizeof a->receiver.key);
}

START_TEST(any_bit_flipped_in_a_handshake_ends_it_or_changes_nothing)
{
    for (size_t frame = 0; frame < 3; frame++) {
        bool beyond = false;
        size_t bit = 0;
        for (; !beyond; bit++)
            flip_bit(frame, bit, &beyond);
        ck_assert_uint_gt(bit, 12 * 8);
    }
}
END_TEST

START_TEST(a_frame_dropped_from_a_handshake_ends_it)
{
    for (int dropped = 0; dropped < 2; dropped++) {
        struct side sides[2], other;
        begin(&sides[0], &client);
        begin(&sides[1], &relay);
        begin(&other, &relay);
        for (int i = 0; i < dropped; i++)
            ck_assert_int_eq(take_frame(&sides[1], &sides[0]), 0);
        ck_assert_int_eq(take_frame(&sides[0], &other), 0);
        ck_assert_int_eq(take_frame(&sides[0], &other), 0); /* so that its ExchangeDh is there */
        size_t whole =
            CHANNEL_HEADER + (size_t)channel_payload_size(sides[0].unread, CHANNEL_GREETING_MAX);
        sides[0].size -= whole;
        memmove(sides[0].unread, sides[0].unread + whole, sides[0].size);
        while (take_frame(&sides[1], &sides[0]) == 0)
            ;
        ck_assert_int_ne(sides[1].handshake.stage, CHANNEL_READY);
    }
}
END_TEST

START_TEST(a_complete_handshake_takes_no_more_frames)
{
    struct side sides[2];
    uint8_t send[CHANNEL_SEND_MAX];
    size_t sent;
    begin(&sides[0], &client);
    begin(&sides[1], &relay);
    ck_assert(shake_hands(&sides[0], &sides[1]));
    ck_assert_int_eq(
        channel_proceed(&sides[1].handshake, (const uint8_t[4]){0}, 4, send, &sent), -EBADMSG);
    ck_assert_uint_eq(sent, 0);
}
END_TEST

START_TEST(a_replayed_handshake_ends)
{
    struct side first[2], second;
    begin(&first[0], &client);
    begin(&first[1], &relay);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(take_frame(&first[1], &first[0]), 0);
        ck_assert_int_eq(take_frame(&first[0], &first[1]), 0);
    }
    struct side recorded = first[0]; /* its ExchangeDh is unread */
    ck_assert_int_eq(take_frame(&first[1], &first[0]), 0);
    ck_assert_int_eq(first[1].handshake.stage, CHANNEL_READY);

    struct side client_again;
    begin(&client_again, &client);
    begin(&second, &relay);
    ck_assert_int_eq(take_frame(&second, &client_again), 0);
    ck_assert_int_eq(take_frame(&second, &client_again), 0);
    ck_assert_int_eq(take_frame(&second, &recorded), -EBADMSG);
}
END_TEST

START_TEST(a_key_of_small_order_ends_a_handshake)
{
    struct side sides[2];
    struct exchange_dh exchange = {.dh_public_key = {0}};
    uint8_t part[80], packed[CAPNP_SMALL_MAX];
    size_t sent;
    begin(&sides[0], &client);
    begin(&sides[1], &relay);
    ck_assert_int_eq(take_frame(&sides[1], &sides[0]), 0);
    ck_assert_int_eq(take_frame(&sides[1], &sides[0]), 0);
    memcpy(exchange.rand_nonce, sides[1].handshake.nonce, CAPNP_NONCE_SIZE);
    memcpy(part, exchange.dh_public_key, 32);
    memcpy(part + 32, exchange.rand_nonce, 16);
    memcpy(part + 48, exchange.key_salt, 32);
    ck_assert_int_eq(
        crypto_sign_detached(exchange.signature, NULL, part, sizeof part, client.secret_key), 0);
    size_t size = capnp_write_exchange_dh(&exchange, packed);
    ck_assert_int_eq(
        channel_proceed(&sides[1].handshake, packed, size, sides[1].unread, &sent), -EBADMSG);
}
END_TEST

/* ---- frames as in the vectors ----------------------------------------------------- */

/* A side of the vectors' connection. */
static struct channel_session vector_session(const char *side)
{
    struct channel_session session = {.has_pending = 0};
    bool is_client = strcmp(side, "client") == 0;
    vector_fixed(vectors, "handshake.key_client_to_relay",
        is_client ? session.sender.key : session.receiver.key, 32);
    vector_fixed(vectors, "handshake.key_relay_to_client",
        is_client ? session.receiver.key : session.sender.key, 32);
    return session;
}

/* The plaintext of a vector's frame, by the library alone, and the frame around it. */
static void expect_frame(json_t *vector)
{
    uint8_t key[32], nonce[NONCE_SIZE], text[2048];
    unsigned long long size;
    struct bytes frame = vector_bytes(vector, "frame"), tcp = vector_bytes(vector, "tcp");
    ck_assert_int_eq(channel_payload_size(tcp.at, CHANNEL_FRAME_MAX), (int)frame.size);
    ck_assert_mem_eq(tcp.at + CHANNEL_HEADER, frame.at, frame.size);
    vector_fixed(vector, "key", key, sizeof key);
    vector_fixed(vector, "nonce", nonce, sizeof nonce);
    ck_assert_mem_eq(frame.at, nonce, sizeof nonce);
    ck_assert_int_eq(crypto_aead_chacha20poly1305_ietf_decrypt(text, &size, NULL,
                         frame.at + NONCE_SIZE, frame.size - NONCE_SIZE, NULL, 0, nonce, key),
        0);
    expect_vector(vector, "plaintext_packed", text, (size_t)size);
    free(frame.at);
    free(tcp.at);
}

/* What the relay writes for a vector's padding and KaMessage. */
static void expect_plaintext(json_t *vector)
{
    uint8_t packed[2048];
    struct bytes ka = vector_bytes(vector, "ka_message_packed");
    struct bytes padding = vector_bytes(vector, "padding");
    struct channel_message message = {
        .padding = padding.at, .padding_size = padding.size, .data = ka.at, .size = ka.size};
    expect_vector(
        vector, "plaintext_packed", packed, capnp_write_channel_message(&message, packed));
    free(ka.at);
    free(padding.at);
}

static void receive_vector(struct connection *connection, json_t *vector)
{
    static const char *const payloads[] = {
        "init_connection_packed", "reject_connection_packed", "incoming_connection_packed"};
    struct piece piece;
    enum codec_event event = receive_at(connection, vector_bytes(vector, "tcp"), 0, &piece);
    for (size_t i = 0; i < 3; i++)
        if (json_object_get(vector, payloads[i]) != NULL) {
            ck_assert_int_eq(event, CODEC_PIECE);
            expect_vector(vector, payloads[i], piece.bytes, piece.size);
            return;
        }
    ck_assert_int_eq(event, CODEC_LIFE);
}

START_TEST(frames_are_read_as_in_the_vectors)
{
    size_t i;
    json_t *vector;
    struct channel_session of_relay = vector_session("relay"), of_client = vector_session("client");
    struct connection at_relay = open_channel(&of_relay), at_client = open_channel(&of_client);
    json_array_foreach(vector_at(vectors, "frames.list"), i, vector)
    {
        bool from_client = strcmp(vector_text(vector, "from"), "client") == 0;
        expect_frame(vector);
        expect_plaintext(vector);
        receive_vector(from_client ? &at_relay : &at_client, vector);
    }
    ck_assert_uint_eq(i, 6);
    ck_assert_uint_eq(session_of(&at_relay).receiver.counter, 3);
    ck_assert_uint_eq(session_of(&at_client).receiver.counter, 3);
    close_channel(&at_relay);
    close_channel(&at_client);
}
END_TEST

/* Opens a frame that the relay wrote, by the library alone. */
static struct channel_message open_frame(
    const struct channel_key *key, struct bytes frame, uint8_t *text, struct capnp_scratch scratch)
{
    struct channel_message message;
    unsigned long long size;
    uint8_t nonce[NONCE_SIZE] = {(uint8_t)key->counter};
    ck_assert_int_eq(
        channel_payload_size(frame.at, CHANNEL_FRAME_MAX), (int)frame.size - CHANNEL_HEADER);
    ck_assert_mem_eq(frame.at + CHANNEL_HEADER, nonce, sizeof nonce);
    ck_assert_int_eq(crypto_aead_chacha20poly1305_ietf_decrypt(text, &size, NULL,
                         frame.at + CHANNEL_HEADER + NONCE_SIZE,
                         frame.size - CHANNEL_HEADER - NONCE_SIZE, NULL, 0, nonce, key->key),
        0);
    ck_assert_int_eq(capnp_read_channel_message(scratch, text, (size_t)size, &message), 0);
    return message;
}

/* Compares a Rekey that the relay wrote with a vector, without the padding. */
static void expect_rekey(json_t *vector, json_t *side, struct bytes frame)
{
    uint8_t text[2048], unpacked[2048], packed[2048];
    struct channel_key key;
    uint8_t nonce[NONCE_SIZE];
    vector_fixed(vector, "key", key.key, sizeof key.key);
    vector_fixed(vector, "nonce", nonce, sizeof nonce);
    key.counter = nonce[0];
    struct channel_message message =
        open_frame(&key, frame, text, (struct capnp_scratch){unpacked, sizeof unpacked});
    ck_assert(message.is_rekey);
    expect_vector(side, "dh_public_key", message.rekey.dh_public_key, CAPNP_KEY_SIZE);
    expect_vector(side, "key_salt", message.rekey.key_salt, CAPNP_KEY_SIZE);
    expect_vector(
        vector, "plaintext_packed", packed, capnp_write_channel_message(&message, packed));
    free(frame.at);
}

static struct channel_session vector_session_at_rekey(const char *side)
{
    struct channel_session session = vector_session(side);
    session.sender.counter = session.receiver.counter = 3;
    return session;
}

START_TEST(a_rekey_that_the_other_side_begins_is_as_in_the_vectors)
{
    json_t *list = vector_at(vectors, "rekey.list"), *side = vector_at(vectors, "rekey.relay");
    struct channel_session session = vector_session_at_rekey("relay");
    struct connection connection = open_channel(&session);
    foretell(side, "x25519_secret");
    foretell(side, "key_salt");
    struct bytes reply = expect_reply(&connection, vector_bytes(json_array_get(list, 0), "tcp"), 0);
    expect_foretold_drawn();
    expect_rekey(json_array_get(list, 2), side, reply);
    receive_vector(&connection, json_array_get(list, 1)); /* under the old key */
    session = session_of(&connection);
    expect_vector(vectors, "rekey.key_relay_to_client", session.sender.key, 32);
    expect_vector(vectors, "rekey.key_client_to_relay", session.receiver.key, 32);
    ck_assert(session.sender.counter == 0 && session.receiver.counter == 0);
    ck_assert_uint_eq(session.has_old_receiver, 1);
    receive_vector(&connection, json_array_get(list, 4)); /* under the new one */
    session = session_of(&connection);
    ck_assert_uint_eq(session.has_old_receiver, 0);
    ck_assert(sodium_is_zero((const uint8_t *)&session.old_receiver, sizeof session.old_receiver));
    close_channel(&connection);
}
END_TEST

START_TEST(a_rekey_that_the_relay_begins_is_as_in_the_vectors)
{
    json_t *list = vector_at(vectors, "rekey.list"), *side = vector_at(vectors, "rekey.client");
    struct channel_session session = vector_session_at_rekey("client");
    struct connection connection = open_channel(&session);
    foretell(side, "x25519_secret");
    foretell(side, "key_salt");
    struct bytes frames = keep_alive_at(&connection, HOUR);
    expect_foretold_drawn();
    size_t first = CHANNEL_HEADER + (size_t)channel_payload_size(frames.at, CHANNEL_FRAME_MAX);
    expect_rekey(json_array_get(list, 0), side, copy(frames.at, first));
    struct piece piece; /* needs no answer */
    ck_assert_int_eq(
        receive_at(&connection, vector_bytes(json_array_get(list, 2), "tcp"), HOUR, &piece),
        CODEC_MORE);
    session = session_of(&connection);
    expect_vector(vectors, "rekey.key_client_to_relay", session.sender.key, 32);
    expect_vector(vectors, "rekey.key_relay_to_client", session.receiver.key, 32);
    ck_assert_uint_eq(session.has_pending, 0);
    receive_vector(&connection, json_array_get(list, 3));
    for (size_t i = 0; i < 5; i++)
        expect_frame(json_array_get(list, i));
    free(frames.at);
    close_channel(&connection);
}
END_TEST

/* ---- messages --------------------------------------------------------------------- */

START_TEST(messages_of_any_size_arrive_whole_in_chunks_of_any_size)
{
    static const size_t sizes[] = {
        0, 1, 2, 7, 8, 9, 255, 1000, 8191, 65535, 65536, 65537, 1000000, 1 << 20};
    static const size_t chunks[] = {1 << 22, 65536, 4096, 1000};
    struct connection from, to;
    open_pair(&from, &to);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t j = 0; j < sizeof chunks / sizeof chunks[0]; j++) {
            struct bytes data = {malloc(sizes[i] + 1), sizes[i]};
            randombytes_buf_deterministic(data.at, data.size, (const uint8_t[32]){1});
            struct bytes frame = send_at(&from, data.at, data.size, 0);
            enum codec_event event = CODEC_MORE;
            struct piece piece = {.bytes = NULL};
            for (size_t at = 0; at < frame.size; at += chunks[j]) {
                size_t left = frame.size - at < chunks[j] ? frame.size - at : chunks[j];
                ck_assert_int_eq(event, CODEC_MORE);
                event = receive_some(&to, frame.at + at, &left, 0, &piece);
                ck_assert_uint_eq(left, 0);
            }
            ck_assert_int_eq(event, CODEC_PIECE);
            ck_assert_uint_eq(piece.size, data.size);
            ck_assert_int_eq(memcmp(piece.bytes, data.at, data.size), 0);
            free(frame.at);
            free(data.at);
        }
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(messages_arrive_byte_by_byte_and_in_order)
{
    static const char *const texts[] = {"one", "", "two", "three"};
    struct connection from, to;
    open_pair(&from, &to);
    struct bytes frames = copy("", 0);
    for (size_t i = 0; i < 4; i++)
        frames = join(frames, send_text(&from, texts[i]));
    size_t arrived = 0;
    for (size_t at = 0; at < frames.size; at++) {
        struct piece piece;
        size_t left = 1;
        if (receive_some(&to, frames.at + at, &left, 0, &piece) != CODEC_PIECE)
            continue;
        ck_assert_uint_eq(piece.size, strlen(texts[arrived]));
        ck_assert_int_eq(memcmp(piece.bytes, texts[arrived++], piece.size), 0);
    }
    ck_assert_uint_eq(arrived, 4);
    free(frames.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(many_messages_in_one_read_are_decoded_one_by_one)
{
    struct connection from, to;
    struct piece piece;
    open_pair(&from, &to);
    struct bytes frames = send_text(&from, "one");
    frames = join(frames, keep_alive_at(&from, 0));
    frames = join(frames, send_text(&from, "two"));
    frames = join(frames, send_text(&from, "cut short"));
    uint8_t *input = to.room + CODEC_HEAD;
    size_t left = frames.size - 1;
    memcpy(input, frames.at, left);
    ck_assert_int_eq(channel_codec.decode(to.state, &input, &left, 0, &piece), CODEC_PIECE);
    ck_assert_mem_eq(piece.bytes, "one", 3);
    ck_assert_int_eq(channel_codec.decode(to.state, &input, &left, 0, &piece), CODEC_LIFE);
    ck_assert_int_eq(channel_codec.decode(to.state, &input, &left, 0, &piece), CODEC_PIECE);
    ck_assert_mem_eq(piece.bytes, "two", 3);
    ck_assert_int_eq(channel_codec.decode(to.state, &input, &left, 0, &piece), CODEC_MORE);
    ck_assert_uint_eq(left, 0);
    input = to.room + CODEC_HEAD;
    *input = frames.at[frames.size - 1];
    left = 1;
    ck_assert_int_eq(channel_codec.decode(to.state, &input, &left, 0, &piece), CODEC_PIECE);
    ck_assert_mem_eq(piece.bytes, "cut short", 9);
    free(frames.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(a_message_is_encoded_from_where_it_was_decoded)
{
    struct connection ends[4];
    struct piece piece;
    struct iovec out;
    open_pair(&ends[0], &ends[1]);
    open_pair(&ends[2], &ends[3]);
    struct bytes frame = send_text(&ends[0], "through the relay");
    ck_assert_int_eq(receive_at(&ends[1], frame, 0, &piece), CODEC_PIECE);
    ck_assert_int_eq(channel_codec.encode(ends[2].state, &piece, 0, &out), 0);
    expect_text(&ends[3], copy(out.iov_base, out.iov_len), "through the relay");
    for (size_t i = 0; i < 4; i++)
        close_channel(&ends[i]);
}
END_TEST

START_TEST(only_whole_messages_of_a_bounded_size_are_encoded)
{
    struct connection from, to;
    struct iovec out;
    struct piece piece = {.bytes = calloc(1, CHANNEL_MESSAGE_MAX + 1), .size = 1, .first = true};
    open_pair(&from, &to);
    ck_assert_int_eq(channel_codec.encode(from.state, &piece, 0, &out), -EMSGSIZE);
    piece.last = true;
    piece.size = CHANNEL_MESSAGE_MAX + 1;
    ck_assert_int_eq(channel_codec.encode(from.state, &piece, 0, &out), -EMSGSIZE);
    piece.size = CHANNEL_MESSAGE_MAX;
    ck_assert_int_eq(channel_codec.encode(from.state, &piece, 0, &out), 0);
    free(piece.bytes);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

/* Decodes bytes in parts of the size that the forwarder reads. */
static void expect_message(
    struct connection *connection, struct bytes frame, const uint8_t *expected, size_t size)
{
    enum codec_event event = CODEC_MORE;
    struct piece piece;
    for (size_t at = 0; event == CODEC_MORE && at < frame.size;) {
        size_t part = frame.size - at < BEHIND ? frame.size - at : BEHIND, left = part;
        event = receive_some(connection, frame.at + at, &left, 0, &piece);
        at += part - left;
    }
    ck_assert_int_eq(event, CODEC_PIECE);
    ck_assert_uint_eq(piece.size, size);
    ck_assert(memcmp(piece.bytes, expected, size) == 0);
    free(frame.at);
}

START_TEST(messages_pass_up_to_the_limit_of_cap_n_proto)
{
    static const size_t sizes[] = {3000000, 1, 16 << 20, CHANNEL_MESSAGE_MAX - (1 << 17)};
    struct connection from, to;
    open_pair(&from, &to);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *bytes = malloc(sizes[i]);
        ck_assert_ptr_nonnull(bytes);
        memset(bytes, (int)i, sizes[i]); /* zeros as well, which pack to very few bytes */
        struct piece piece = {bytes, sizes[i], false, true, true};
        struct iovec out;
        ck_assert_int_eq(channel_codec.encode(from.state, &piece, 0, &out), 0);
        expect_message(&to, copy(out.iov_base, out.iov_len), bytes, sizes[i]);
        free(bytes);
    }
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(padding_is_of_different_sizes_below_256)
{
    struct connection from, to;
    open_pair(&from, &to);
    size_t least = SIZE_MAX, most = 0;
    for (int i = 0; i < 500; i++) {
        struct bytes frame = send_text(&from, "the same");
        least = frame.size < least ? frame.size : least;
        most = frame.size > most ? frame.size : most;
        expect_text(&to, frame, "the same");
    }
    ck_assert_uint_gt(most, least);
    ck_assert_uint_le(most - least, 256 + 256 / 16 + 8);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(a_quiet_connection_is_kept_alive_and_a_silent_one_ends)
{
    struct connection from, to;
    struct iovec out;
    open_pair(&from, &to);
    ck_assert_int_eq(channel_codec.quiet_time, 16000);
    ck_assert_int_eq(channel_codec.silent_time, 32000);
    ck_assert_int_eq(receive(&to, keep_alive_at(&from, 0)), CODEC_LIFE);
    ck_assert_int_eq(channel_codec.silent(to.state, 0, &out), -ETIMEDOUT);
    uint8_t words[CODEC_FAREWELL_MAX];
    ck_assert_uint_eq(channel_codec.farewell(to.state, 0, "any", words), 0);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

/* ---- the state -------------------------------------------------------------------- */

START_TEST(a_session_is_handed_off_only_between_frames)
{
    struct connection from, to;
    struct channel_session session;
    struct piece piece;
    open_pair(&from, &to);
    expect_text(&to, send_text(&from, "first"), "first");
    struct bytes frame = send_text(&from, "second");
    size_t left = 1;
    ck_assert_int_eq(receive_some(&to, frame.at, &left, 0, &piece), CODEC_MORE);
    ck_assert_int_eq(channel_suspend(to.state, &session), -EBUSY);
    left = frame.size - 1;
    ck_assert_int_eq(receive_some(&to, frame.at + 1, &left, 0, &piece), CODEC_PIECE);
    session = session_of(&to);
    close_channel(&to);
    to = open_channel(&session);
    expect_text(&to, send_text(&from, "third"), "third");
    expect_text(&from, send_text(&to, "back"), "back");
    free(frame.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(a_session_of_another_size_is_refused)
{
    struct channel_session session = {.has_pending = 0};
    void *state = calloc(1, channel_codec.state_size);
    ck_assert_int_eq(channel_codec.open(state, (const uint8_t *)&session, 0, 0, &account), -EINVAL);
    ck_assert_int_eq(
        channel_codec.open(state, (const uint8_t *)&session, sizeof session - 1, 0, &account),
        -EINVAL);
    channel_codec.close(state);
    free(state);
}
END_TEST

START_TEST(nothing_is_left_of_a_state_that_was_closed)
{
    struct connection from, to;
    struct piece piece;
    open_pair(&from, &to);
    struct bytes frame = send_text(&from, "part of it");
    size_t left = frame.size / 2;
    ck_assert_int_eq(receive_some(&to, frame.at, &left, 0, &piece), CODEC_MORE);
    channel_codec.close(to.state);
    ck_assert(sodium_is_zero(to.state, channel_codec.state_size));
    free(frame.at);
    close_channel(&to);
    close_channel(&from);
}
END_TEST

/* ---- tampering -------------------------------------------------------------------- */

/* Decodes frames with a copy of the connection's state. */
static enum codec_event try_frames(
    const struct connection *connection, const uint8_t *frames, size_t size)
{
    struct channel_session session = session_of(connection);
    struct connection other = open_channel(&session);
    struct piece piece;
    enum codec_event event = receive_some(&other, frames, &size, 0, &piece);
    close_channel(&other);
    return event;
}

/* The size of the frame that begins here, by its header; 0 if that is too large. */
static size_t claimed_size(const uint8_t *frame)
{
    int size = channel_payload_size(frame, CHANNEL_FRAME_MAX);
    return size < 0 ? 0 : CHANNEL_HEADER + (size_t)size;
}

START_TEST(any_bit_flipped_in_a_frame_ends_the_connection_when_the_frame_is_whole)
{
    struct connection from, to;
    open_pair(&from, &to);
    struct bytes frame = send_text(&from, "some data");
    /* the receiver waits for these bytes when the size is larger */
    struct bytes behind = {calloc(1, BEHIND), BEHIND};
    size_t size = frame.size;
    frame = join(frame, behind);
    for (size_t bit = 0; bit < size * 8; bit++) {
        frame.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        size_t whole = bit < CHANNEL_HEADER * 8 ? frame.size : size;
        bool waits = claimed_size(frame.at) > frame.size;
        ck_assert_int_eq(try_frames(&to, frame.at, whole), waits ? CODEC_MORE : CODEC_FAILED);
        frame.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ck_assert_int_eq(try_frames(&to, frame.at, size), CODEC_PIECE);
    free(frame.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(the_rest_of_a_frame_is_waited_for_and_another_rest_fails)
{
    struct connection from, to;
    open_pair(&from, &to);
    struct bytes first = send_text(&from, "first");
    struct bytes second = send_text(&from, "second, which is longer than any padding of the first: "
                                           "a frame cut short takes what it lacks from here");
    struct bytes third = {calloc(1, first.size), first.size};
    struct bytes rest = join(second, third);
    for (size_t cut = 1; cut < first.size; cut++) {
        ck_assert_int_eq(try_frames(&to, first.at, cut), CODEC_MORE);
        struct bytes spliced = join(copy(first.at, cut), copy(rest.at, rest.size));
        ck_assert_int_ne(try_frames(&to, spliced.at, spliced.size), CODEC_PIECE);
        free(spliced.at);
    }
    free(first.at);
    free(rest.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(frames_dropped_replayed_or_reordered_end_the_connection)
{
    struct connection from, to;
    open_pair(&from, &to);
    struct bytes first = send_text(&from, "first"), second = send_text(&from, "second");
    ck_assert_int_eq(try_frames(&to, second.at, second.size), CODEC_FAILED);
    ck_assert_int_eq(try_frames(&to, first.at, first.size), CODEC_PIECE);
    expect_text(&to, copy(first.at, first.size), "first");
    ck_assert_int_eq(try_frames(&to, first.at, first.size), CODEC_FAILED);
    ck_assert_int_eq(try_frames(&to, second.at, second.size), CODEC_PIECE);
    free(first.at);
    free(second.at);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(a_frame_of_one_connection_or_direction_is_refused_in_another)
{
    struct connection ends[4];
    open_pair(&ends[0], &ends[1]);
    open_pair(&ends[2], &ends[3]);
    struct bytes frame = send_text(&ends[0], "for the first pair");
    ck_assert_int_eq(try_frames(&ends[3], frame.at, frame.size), CODEC_FAILED);
    ck_assert_int_eq(try_frames(&ends[0], frame.at, frame.size), CODEC_FAILED);
    free(frame.at);
    for (size_t i = 0; i < 4; i++)
        close_channel(&ends[i]);
}
END_TEST

START_TEST(a_frame_without_memory_for_it_is_not_the_clients_fault)
{
    const uint64_t long_one[2] = {htobe64(1 << 19), 0};
    struct budget_account others = {.share = BUDGET_WAITING};
    struct connection from, to;
    open_pair(&from, &to);
    account.share = BUDGET_WAITING;
    ck_assert_int_eq(try_frames(&to, (const uint8_t *)long_one, sizeof long_one), CODEC_MORE);
    budget_take(&others, BUDGET_WAITING_SIZE);
    ck_assert_int_eq(try_frames(&to, (const uint8_t *)long_one, sizeof long_one), CODEC_STARVED);
    budget_give(&others, BUDGET_WAITING_SIZE);
    account.share = BUDGET_FRAMES;
    close_channel(&from);
    close_channel(&to);
}
END_TEST

START_TEST(frames_too_short_or_too_long_are_refused)
{
    struct connection from, to;
    uint8_t frame[CHANNEL_HEADER + 28] = {0};
    open_pair(&from, &to);
    for (uint8_t size = 0; size <= 28; size++) {
        frame[7] = size;
        ck_assert_int_eq(try_frames(&to, frame, CHANNEL_HEADER + (size_t)size), CODEC_FAILED);
    }
    const uint64_t most = htobe64(CHANNEL_FRAME_MAX), more = htobe64(CHANNEL_FRAME_MAX + 1);
    static const uint8_t huge[CHANNEL_HEADER] = {0x80};
    struct connection waiting;
    struct channel_session session = session_of(&to);
    struct piece piece;
    size_t size = sizeof most;
    waiting = open_channel(&session);
    ck_assert_int_eq(receive_some(&waiting, (const uint8_t *)&most, &size, 0, &piece), CODEC_MORE);
    ck_assert_int_eq(try_frames(&to, (const uint8_t *)&more, sizeof more), CODEC_FAILED);
    ck_assert_int_eq(try_frames(&to, huge, sizeof huge), CODEC_FAILED);
    close_channel(&waiting);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

/* Seals any plaintext under the sending key of a connection, by the library alone. */
static struct bytes seal_text(const struct connection *connection, const uint8_t *text, size_t size)
{
    struct channel_session session = session_of(connection);
    uint8_t nonce[NONCE_SIZE] = {(uint8_t)session.sender.counter};
    struct bytes frame = {calloc(1, CHANNEL_HEADER + NONCE_SIZE + size + TAG_SIZE),
        CHANNEL_HEADER + NONCE_SIZE + size + TAG_SIZE};
    size_t payload = frame.size - CHANNEL_HEADER;
    unsigned long long sealed;
    frame.at[6] = (uint8_t)(payload >> 8);
    frame.at[7] = (uint8_t)payload;
    memcpy(frame.at + CHANNEL_HEADER, nonce, sizeof nonce);
    ck_assert_int_eq(
        crypto_aead_chacha20poly1305_ietf_encrypt(frame.at + CHANNEL_HEADER + NONCE_SIZE, &sealed,
            text, size, NULL, 0, NULL, nonce, session.sender.key),
        0);
    return frame;
}

START_TEST(a_malformed_message_in_a_good_frame_ends_the_connection)
{
    struct connection from, to;
    size_t i;
    json_t *vector;
    open_pair(&from, &to);
    json_array_foreach(vector_at(vectors, "invalid_messages.cases"), i, vector)
    {
        uint8_t packed[1024];
        struct bytes invalid = vector_bytes(vector, "packed");
        struct channel_message message = {.data = invalid.at, .size = invalid.size};
        size_t size = capnp_write_channel_message(&message, packed);
        struct bytes inner = seal_text(&from, packed, size);
        struct bytes outer = seal_text(&from, invalid.at, invalid.size);
        ck_assert_int_eq(try_frames(&to, inner.at, inner.size), CODEC_FAILED);
        ck_assert_int_eq(try_frames(&to, outer.at, outer.size), CODEC_FAILED);
        free(inner.at);
        free(outer.at);
        free(invalid.at);
    }
    close_channel(&from);
    close_channel(&to);
}
END_TEST

/* ---- rekeying --------------------------------------------------------------------- */

/* Separates a Rekey from the keepalive behind it. */
static struct bytes begin_rekey(struct connection *connection, int64_t now, struct bytes *behind)
{
    struct bytes frames = keep_alive_at(connection, now);
    size_t first = CHANNEL_HEADER + (size_t)channel_payload_size(frames.at, CHANNEL_FRAME_MAX);
    ck_assert_uint_gt(frames.size, first);
    *behind = copy(frames.at + first, frames.size - first);
    struct bytes rekey = copy(frames.at, first);
    free(frames.at);
    return rekey;
}

static void expect_keys(const struct connection *a, const struct connection *b)
{
    struct channel_session of_a = session_of(a), of_b = session_of(b);
    ck_assert_mem_eq(of_a.sender.key, of_b.receiver.key, sizeof of_a.sender.key);
    ck_assert_mem_eq(of_a.receiver.key, of_b.sender.key, sizeof of_a.receiver.key);
    ck_assert(!of_a.has_pending && !of_b.has_pending);
}

START_TEST(a_rekey_changes_both_keys_and_loses_nothing_on_its_way)
{
    struct connection a, b;
    struct bytes behind;
    open_pair(&a, &b);
    struct channel_session before = session_of(&a);
    struct bytes rekey = begin_rekey(&a, HOUR, &behind);
    struct bytes late = send_text(&b, "under b's old key");
    struct bytes reply = expect_reply(&b, rekey, HOUR);
    ck_assert_int_eq(receive(&b, behind), CODEC_LIFE);
    expect_text(&b, send_text(&a, "under a's old key"), "under a's old key");
    struct bytes new = send_text(&b, "under b's new key");
    expect_text(&a, late, "under b's old key");
    ck_assert_int_eq(receive(&a, reply), CODEC_MORE);
    expect_text(&a, new, "under b's new key");
    expect_text(&b, send_text(&a, "under a's new key"), "under a's new key");
    expect_keys(&a, &b);
    struct channel_session after = session_of(&a);
    ck_assert_mem_ne(before.sender.key, after.sender.key, sizeof after.sender.key);
    ck_assert_mem_ne(before.receiver.key, after.receiver.key, sizeof after.receiver.key);
    close_channel(&a);
    close_channel(&b);
}
END_TEST

START_TEST(rekeys_that_cross_need_no_answers)
{
    struct connection a, b;
    struct bytes behind_a, behind_b;
    struct piece piece;
    open_pair(&a, &b);
    struct bytes from_a = begin_rekey(&a, HOUR, &behind_a);
    struct bytes from_b = begin_rekey(&b, HOUR, &behind_b);
    ck_assert_int_eq(receive_at(&a, from_b, HOUR, &piece), CODEC_MORE);
    struct bytes new = send_text(&a, "under a's new key");
    ck_assert_int_eq(receive_at(&b, from_a, HOUR, &piece), CODEC_MORE);
    ck_assert_int_eq(receive(&b, behind_a), CODEC_LIFE);
    ck_assert_int_eq(receive(&a, behind_b), CODEC_LIFE);
    expect_text(&b, new, "under a's new key");
    expect_text(&a, send_text(&b, "under b's new key"), "under b's new key");
    expect_keys(&a, &b);
    close_channel(&a);
    close_channel(&b);
}
END_TEST

/* Whether a keepalive at this time has a Rekey before it. */
static bool rekeys_at(struct connection *connection, int64_t now)
{
    uint8_t pending = session_of(connection).has_pending;
    struct bytes frames = keep_alive_at(connection, now);
    size_t first = CHANNEL_HEADER + (size_t)channel_payload_size(frames.at, CHANNEL_FRAME_MAX);
    bool more = frames.size > first;
    ck_assert(!more || (!pending && session_of(connection).has_pending));
    free(frames.at);
    return more;
}

START_TEST(a_rekey_begins_an_hour_after_the_last_and_never_while_one_is_pending)
{
    struct connection a, b;
    struct bytes behind;
    open_pair(&a, &b);
    ck_assert(!rekeys_at(&b, HOUR - 1));
    struct bytes rekey = begin_rekey(&a, HOUR, &behind);
    ck_assert(!rekeys_at(&a, HOUR));
    ck_assert(!rekeys_at(&a, 2 * HOUR)); /* the last is still pending */
    free(expect_reply(&b, rekey, HOUR + 5).at);
    ck_assert(!rekeys_at(&b, 2 * HOUR + 4)); /* the hour starts again, whichever side began */
    ck_assert(rekeys_at(&b, 2 * HOUR + 5));
    free(behind.at);
    close_channel(&a);
    close_channel(&b);
}
END_TEST

START_TEST(a_rekey_may_stand_before_a_message)
{
    struct connection a, b;
    struct piece piece;
    open_pair(&a, &b);
    struct bytes frames = send_at(&a, "message", 7, HOUR);
    size_t left = frames.size;
    ck_assert_int_eq(receive_some(&b, frames.at, &left, HOUR, &piece), CODEC_REPLY);
    ck_assert_uint_gt(left, 0);
    expect_text(&b, copy(frames.at + frames.size - left, left), "message");
    free(frames.at);
    close_channel(&a);
    close_channel(&b);
}
END_TEST

START_TEST(rekeys_go_on_for_days)
{
    struct connection ends[2];
    open_pair(&ends[0], &ends[1]);
    for (int hour = 1; hour <= 50; hour++) {
        struct connection *a = &ends[hour % 2], *b = &ends[1 - hour % 2];
        struct bytes behind;
        struct piece piece;
        struct bytes rekey = begin_rekey(a, hour * (int64_t)HOUR, &behind);
        struct bytes reply = expect_reply(b, rekey, hour * (int64_t)HOUR);
        ck_assert_int_eq(receive(b, behind), CODEC_LIFE);
        ck_assert_int_eq(receive_at(a, reply, hour * (int64_t)HOUR, &piece), CODEC_MORE);
        expect_keys(a, b);
        struct bytes there = send_at(a, "there", 5, hour * (int64_t)HOUR);
        struct bytes back = send_at(b, "back", 4, hour * (int64_t)HOUR);
        expect_text(b, there, "there");
        expect_text(a, back, "back");
    }
    close_channel(&ends[0]);
    close_channel(&ends[1]);
}
END_TEST

/* Lets a begin this many Rekeys at one time. Returns how many b answers. */
static int count_answered(struct connection *a, struct connection *b, int count, int64_t now)
{
    int answered = 0;
    for (; answered < count; answered++) {
        struct channel_session session = session_of(a);
        struct connection hasty = open_channel(&session); /* whose hour is always over */
        struct bytes behind;
        struct piece piece;
        struct bytes rekey = begin_rekey(&hasty, HOUR, &behind);
        free(behind.at);
        if (receive_at(b, rekey, now, &piece) != CODEC_REPLY) {
            close_channel(&hasty);
            break;
        }
        struct bytes reply = copy(piece.bytes, piece.size);
        struct channel_session waiting = session_of(&hasty);
        waiting.sender.counter--; /* its keepalive was not sent */
        close_channel(&hasty);
        close_channel(a);
        *a = open_channel(&waiting);
        ck_assert_int_eq(receive(a, reply), CODEC_MORE);
    }
    return answered;
}

START_TEST(the_other_side_cannot_rekey_without_end)
{
    struct connection a, b;
    open_pair(&a, &b);
    ck_assert_int_eq(count_answered(&a, &b, 64, HOUR), 64);
    ck_assert_int_eq(count_answered(&a, &b, 1, HOUR + 1000), 1);
    ck_assert_int_eq(count_answered(&a, &b, 1, HOUR + 1000), 0);
    close_channel(&a);
    close_channel(&b);
}
END_TEST

START_TEST(a_rekey_of_small_order_ends_the_connection)
{
    struct connection from, to;
    uint8_t packed[CAPNP_SMALL_MAX];
    struct channel_message message = {.is_rekey = true};
    open_pair(&from, &to);
    struct bytes frame = seal_text(&from, packed, capnp_write_channel_message(&message, packed));
    ck_assert_int_eq(receive(&to, frame), CODEC_FAILED);
    close_channel(&from);
    close_channel(&to);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    suite_add_tcase(suite, tests);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("channel");
    TCase *handshake = add_case(suite, "handshake");
    tcase_add_test(handshake, identities_are_made_of_their_seeds);
    tcase_add_test(handshake, the_hash_is_sha_512_256);
    tcase_add_test(handshake, keys_are_derived_as_in_the_vector);
    tcase_add_test(handshake, the_handshake_is_as_in_the_vectors_from_either_side);
    tcase_add_test(handshake, a_client_that_names_a_destination_is_understood);
    tcase_add_test(handshake, the_vectors_secrets_and_signatures_are_the_librarys);
    tcase_add_test(handshake, another_version_is_refused);
    tcase_add_test(handshake, any_bit_flipped_in_a_handshake_ends_it_or_changes_nothing);
    tcase_add_test(handshake, a_frame_dropped_from_a_handshake_ends_it);
    tcase_add_test(handshake, a_complete_handshake_takes_no_more_frames);
    tcase_add_test(handshake, a_replayed_handshake_ends);
    tcase_add_test(handshake, a_key_of_small_order_ends_a_handshake);

    TCase *frames = add_case(suite, "frames");
    tcase_add_test(frames, frames_are_read_as_in_the_vectors);
    tcase_add_test(frames, messages_of_any_size_arrive_whole_in_chunks_of_any_size);
    tcase_add_test(frames, messages_arrive_byte_by_byte_and_in_order);
    tcase_add_test(frames, many_messages_in_one_read_are_decoded_one_by_one);
    tcase_add_test(frames, a_message_is_encoded_from_where_it_was_decoded);
    tcase_add_test(frames, only_whole_messages_of_a_bounded_size_are_encoded);
    tcase_add_test(frames, messages_pass_up_to_the_limit_of_cap_n_proto);
    tcase_add_test(frames, padding_is_of_different_sizes_below_256);
    tcase_add_test(frames, a_quiet_connection_is_kept_alive_and_a_silent_one_ends);
    tcase_add_test(frames, a_session_is_handed_off_only_between_frames);
    tcase_add_test(frames, a_session_of_another_size_is_refused);
    tcase_add_test(frames, nothing_is_left_of_a_state_that_was_closed);

    TCase *tampering = add_case(suite, "tampering");
    tcase_add_test(
        tampering, any_bit_flipped_in_a_frame_ends_the_connection_when_the_frame_is_whole);
    tcase_add_test(tampering, the_rest_of_a_frame_is_waited_for_and_another_rest_fails);
    tcase_add_test(tampering, frames_dropped_replayed_or_reordered_end_the_connection);
    tcase_add_test(tampering, a_frame_of_one_connection_or_direction_is_refused_in_another);
    tcase_add_test(tampering, a_frame_without_memory_for_it_is_not_the_clients_fault);
    tcase_add_test(tampering, frames_too_short_or_too_long_are_refused);
    tcase_add_test(tampering, a_malformed_message_in_a_good_frame_ends_the_connection);

    TCase *rekeying = add_case(suite, "rekeying");
    tcase_add_test(rekeying, a_rekey_that_the_other_side_begins_is_as_in_the_vectors);
    tcase_add_test(rekeying, a_rekey_that_the_relay_begins_is_as_in_the_vectors);
    tcase_add_test(rekeying, a_rekey_changes_both_keys_and_loses_nothing_on_its_way);
    tcase_add_test(rekeying, rekeys_that_cross_need_no_answers);
    tcase_add_test(rekeying, a_rekey_begins_an_hour_after_the_last_and_never_while_one_is_pending);
    tcase_add_test(rekeying, a_rekey_may_stand_before_a_message);
    tcase_add_test(rekeying, rekeys_go_on_for_days);
    tcase_add_test(rekeying, the_other_side_cannot_rekey_without_end);
    tcase_add_test(rekeying, a_rekey_of_small_order_ends_the_connection);

    return run_suite(suite);
}
