/* Offset's secure channel (version 0 of its protocol): frames sealed by ChaCha20-Poly1305 with a
 * counter as the nonce, the handshake that makes the keys, the rekeying that replaces them, and the
 * keepalive layer inside.
 *
 * A codec state owns the part of a frame that has come so far. The buffers for whole messages
 * belong to the process: it decodes and encodes one message at a time. */
#include "codec/channel.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    NONCE_SIZE = crypto_aead_chacha20poly1305_ietf_NPUBBYTES,
    TAG_SIZE = crypto_aead_chacha20poly1305_ietf_ABYTES,
    OVERHEAD = CHANNEL_HEADER + NONCE_SIZE + TAG_SIZE,
    VERSION_SIZE = 4, /* zeros */
    PADDING_MAX = 255,

    WAITING_FRAME_MIN =
        1 << 17, /* bytes of a frame from a client without a peer: enough for padding */
    WAITING_FRAME_MAX = 1 << 21, /* the same where other clients hold little memory */

    QUIET_TIME = 16000,
    SILENT_TIME = 32000,

    /* The other side may begin one rekey per second, and so many at once. Each costs the relay two
     * scalar multiplications, so these many do not delay other clients. */
    REKEY_PACE = 1000,
    REKEYS_AT_ONCE = 64,

    REKEY_FRAME_MAX = OVERHEAD + CAPNP_SMALL_MAX + CAPNP_DATA_MAX(PADDING_MAX),
    BUFFER_MIN = 1 << 16,
    BUFFER_KEPT = 2 << 20, /* larger buffers are freed after use */
    PADDING_POOL = 16 * (PADDING_MAX + 1),
};

struct channel {
    struct channel_session session;
    int64_t rekey_at;
    int64_t rekeys_paid; /* the time up to which the other side has used its rekeys */
    struct budget_account *account;
    uint8_t *partial; /* the part of a frame that has come; NULL: none */
    size_t held, room;
};

static_assert(sizeof(struct channel_session) <= 512, "must leave room in a handoff's session");

static struct capnp_scratch middle;  /* the unpacked outer layer; or the packed inner layer */
static struct capnp_scratch message; /* the unpacked inner layer, in which a piece lies */
static struct capnp_scratch frames;  /* frames to send */

/* ---- buffers ------------------------------------------------------------------------ */

/* Makes a buffer as large as this; its content is lost. 0 or -ENOMEM. */
static int resize_buffer(struct capnp_scratch *buffer, size_t size)
{
    if (size <= buffer->size)
        return 0;
    free(buffer->bytes);
    *buffer = (struct capnp_scratch){.size = size < BUFFER_MIN ? BUFFER_MIN : size};
    buffer->bytes = malloc(buffer->size);
    if (buffer->bytes == NULL)
        buffer->size = 0;
    return buffer->bytes == NULL ? -ENOMEM : 0;
}

/* Makes room to unpack a message. 0 or a negative errno. */
static int resize_buffer_for(struct capnp_scratch *buffer, const uint8_t *packed, size_t size)
{
    ssize_t unpacked = capnp_measure(packed, size);
    if (unpacked < 0 || unpacked > CHANNEL_MESSAGE_MAX)
        return -EBADMSG;
    return resize_buffer(buffer, (size_t)unpacked);
}

/* Large messages are rare, and their buffers are not kept. */
static void drop_large_buffers(void)
{
    struct capnp_scratch *buffers[] = {&middle, &message, &frames};
    for (size_t i = 0; i < sizeof buffers / sizeof(struct capnp_scratch *); i++) {
        if (buffers[i]->size <= BUFFER_KEPT)
            continue;
        free(buffers[i]->bytes);
        *buffers[i] = (struct capnp_scratch){.size = 0};
    }
}

/* ---- keys --------------------------------------------------------------------------- */

static bool hmac(const uint8_t *key, const uint8_t *data, size_t size, uint8_t *digest)
{
    return HMAC(EVP_sha512_256(), key, CAPNP_KEY_SIZE, data, size, digest, NULL) != NULL;
}

int channel_derive(const uint8_t *salt, const uint8_t *secret, uint8_t *key)
{
    uint8_t extracted[CAPNP_KEY_SIZE];
    bool good = hmac(salt, secret, CAPNP_KEY_SIZE, extracted) &&
                hmac(extracted, (const uint8_t[]){1}, 1, key);
    sodium_memzero(extracted, sizeof extracted);
    return good ? 0 : -ENOMEM;
}

/* Makes the relay's half of a key exchange, and writes the public part, which is to be sent. */
static int begin_exchange(struct channel_session *session, uint8_t *dh_public_key)
{
    randombytes_buf(session->pending.secret, sizeof session->pending.secret);
    randombytes_buf(session->pending.salt, sizeof session->pending.salt);
    session->has_pending = 1;
    return crypto_scalarmult_base(dh_public_key, session->pending.secret) == 0 ? 0 : -EBADMSG;
}

/* Makes the new keys of both directions, with the other side's half. */
static int complete_exchange(
    struct channel_session *session, const uint8_t *dh_public_key, const uint8_t *salt)
{
    uint8_t secret[crypto_scalarmult_BYTES];
    int error = -EBADMSG;
    session->sender.counter = session->receiver.counter = 0;
    if (crypto_scalarmult(secret, session->pending.secret, dh_public_key) == 0)
        error = channel_derive(session->pending.salt, secret, session->sender.key);
    if (error == 0)
        error = channel_derive(salt, secret, session->receiver.key);
    sodium_memzero(secret, sizeof secret);
    sodium_memzero(&session->pending, sizeof session->pending);
    session->has_pending = 0;
    return error;
}

/* ---- frames ------------------------------------------------------------------------- */

int channel_payload_size(const uint8_t *header, size_t max)
{
    uint64_t size;
    memcpy(&size, header, sizeof size);
    size = be64toh(size);
    return size <= max ? (int)size : -EMSGSIZE;
}

/* Writes the header in front of a payload. Returns the size of the frame. */
static size_t put_header(uint8_t *frame, size_t payload_size)
{
    uint64_t size = htobe64(payload_size);
    memcpy(frame, &size, sizeof size);
    return CHANNEL_HEADER + payload_size;
}

static void make_nonce(const struct channel_key *key, uint8_t nonce[NONCE_SIZE])
{
    uint64_t counter = htole64(key->counter);
    memset(nonce, 0, NONCE_SIZE);
    memcpy(nonce, &counter, sizeof counter);
}

/* Padding has a random length, and random bytes, which do not pack. The cipher hides both, so bytes
 * of a fast generator are good enough. */
static void draw_padding(struct channel_message *channel_message)
{
    static uint8_t pool[PADDING_POOL];
    static size_t left;
    if (left <= PADDING_MAX) {
        uint8_t seed[randombytes_SEEDBYTES];
        randombytes_buf(seed, sizeof seed);
        randombytes_buf_deterministic(pool, sizeof pool, seed);
        sodium_memzero(seed, sizeof seed);
        left = sizeof pool;
    }
    channel_message->padding_size = pool[--left];
    left -= channel_message->padding_size;
    channel_message->padding = pool + left;
}

/* Writes the frame of a message, with padding. Returns its size. */
static size_t seal(
    struct channel_key *sender, struct channel_message *channel_message, uint8_t *frame)
{
    uint8_t *nonce = frame + CHANNEL_HEADER, *text = nonce + NONCE_SIZE;
    unsigned long long sealed;
    draw_padding(channel_message);
    size_t size = capnp_write_channel_message(channel_message, text);
    make_nonce(sender, nonce);
    (void)crypto_aead_chacha20poly1305_ietf_encrypt(
        text, &sealed, text, size, NULL, 0, NULL, nonce, sender->key); /* cannot fail */
    sender->counter++;
    return put_header(frame, NONCE_SIZE + (size_t)sealed);
}

/* Decrypts a payload in place. The nonce says which key it is under: the next nonce of the old key
 * is never that of the new key. */
static int unseal(struct channel_session *session, struct iovec *payload)
{
    uint8_t expected[NONCE_SIZE], *nonce = payload->iov_base, *text = nonce + NONCE_SIZE;
    struct channel_key *key = &session->old_receiver;
    unsigned long long size;
    if (payload->iov_len < NONCE_SIZE + TAG_SIZE)
        return -EBADMSG;
    make_nonce(key, expected);
    if (!session->has_old_receiver || memcmp(nonce, expected, NONCE_SIZE) != 0) {
        key = &session->receiver;
        make_nonce(key, expected);
    }
    if (memcmp(nonce, expected, NONCE_SIZE) != 0 ||
        crypto_aead_chacha20poly1305_ietf_decrypt(
            text, &size, NULL, text, payload->iov_len - NONCE_SIZE, NULL, 0, nonce, key->key) != 0)
        return -EBADMSG;
    key->counter++;
    if (key == &session->receiver) {
        sodium_memzero(&session->old_receiver, sizeof session->old_receiver);
        session->has_old_receiver = 0;
    }
    *payload = (struct iovec){text, (size_t)size};
    return 0;
}

/* ---- the handshake ------------------------------------------------------------------ */

/* The fields of an ExchangeDh that are signed. */
struct signed_part {
    uint8_t bytes[CAPNP_KEY_SIZE + CAPNP_NONCE_SIZE + CAPNP_KEY_SIZE];
};

static struct signed_part signed_part_of(const struct exchange_dh *exchange)
{
    struct signed_part part;
    memcpy(part.bytes, exchange->dh_public_key, CAPNP_KEY_SIZE);
    memcpy(part.bytes + CAPNP_KEY_SIZE, exchange->rand_nonce, CAPNP_NONCE_SIZE);
    memcpy(part.bytes + CAPNP_KEY_SIZE + CAPNP_NONCE_SIZE, exchange->key_salt, CAPNP_KEY_SIZE);
    return part;
}

size_t channel_begin(struct channel_handshake *handshake, const uint8_t *public_key,
    const uint8_t *secret_key, uint8_t *send)
{
    struct exchange_rand_nonce exchange = {.has_dest = false};
    memset(handshake, 0, sizeof *handshake);
    handshake->secret_key = secret_key;
    randombytes_buf(handshake->nonce, sizeof handshake->nonce);
    memcpy(exchange.rand_nonce, handshake->nonce, sizeof exchange.rand_nonce);
    memcpy(exchange.src_public_key, public_key, sizeof exchange.src_public_key);

    memset(send + CHANNEL_HEADER, 0, VERSION_SIZE);
    size_t sent = put_header(send, VERSION_SIZE);
    send += sent;
    return sent +
           put_header(send, capnp_write_exchange_rand_nonce(&exchange, send + CHANNEL_HEADER));
}

static int take_version(struct channel_handshake *handshake, const uint8_t *payload, size_t size)
{
    if (size != VERSION_SIZE || !sodium_is_zero(payload, size))
        return -EBADMSG;
    handshake->stage = CHANNEL_NONCE;
    return 0;
}

static int take_nonce(struct channel_handshake *handshake, const uint8_t *payload, size_t size,
    uint8_t *send, size_t *sent)
{
    struct exchange_rand_nonce theirs;
    struct exchange_dh own;
    int error = resize_buffer_for(&middle, payload, size);
    if (error == 0)
        error = capnp_read_exchange_rand_nonce(middle, payload, size, &theirs);
    if (error == 0)
        error = begin_exchange(&handshake->session, own.dh_public_key);
    if (error != 0)
        return error;
    memcpy(handshake->session.peer, theirs.src_public_key, sizeof handshake->session.peer);
    memcpy(own.rand_nonce, theirs.rand_nonce, sizeof own.rand_nonce);
    memcpy(own.key_salt, handshake->session.pending.salt, sizeof own.key_salt);
    struct signed_part part = signed_part_of(&own);
    if (crypto_sign_detached(
            own.signature, NULL, part.bytes, sizeof part.bytes, handshake->secret_key) != 0)
        return -EBADMSG;
    *sent = put_header(send, capnp_write_exchange_dh(&own, send + CHANNEL_HEADER));
    handshake->stage = CHANNEL_DH;
    return 0;
}

static int take_dh(struct channel_handshake *handshake, const uint8_t *payload, size_t size)
{
    struct exchange_dh theirs;
    int error = resize_buffer_for(&middle, payload, size);
    if (error == 0)
        error = capnp_read_exchange_dh(middle, payload, size, &theirs);
    if (error != 0)
        return error;
    struct signed_part part = signed_part_of(&theirs);
    if (memcmp(theirs.rand_nonce, handshake->nonce, sizeof handshake->nonce) != 0 ||
        crypto_sign_verify_detached(
            theirs.signature, part.bytes, sizeof part.bytes, handshake->session.peer) != 0)
        return -EBADMSG;
    error = complete_exchange(&handshake->session, theirs.dh_public_key, theirs.key_salt);
    if (error == 0)
        handshake->stage = CHANNEL_READY;
    return error;
}

int channel_proceed(struct channel_handshake *handshake, const uint8_t *payload, size_t size,
    uint8_t *send, size_t *sent)
{
    *sent = 0;
    switch (handshake->stage) {
    case CHANNEL_VERSION:
        return take_version(handshake, payload, size);
    case CHANNEL_NONCE:
        return take_nonce(handshake, payload, size, send, sent);
    case CHANNEL_DH:
        return take_dh(handshake, payload, size);
    case CHANNEL_READY:
        break;
    }
    return -EBADMSG;
}

void channel_end(struct channel_handshake *handshake)
{
    sodium_memzero(handshake, sizeof *handshake);
}

/* ---- rekeying ----------------------------------------------------------------------- */

/* Begins an exchange, and writes its Rekey under the current key. */
static int send_rekey(struct channel *channel, uint8_t *frame, size_t *size)
{
    struct channel_session *session = &channel->session;
    struct channel_message own = {.is_rekey = true};
    int error = begin_exchange(session, own.rekey.dh_public_key);
    if (error != 0)
        return error;
    memcpy(own.rekey.key_salt, session->pending.salt, sizeof own.rekey.key_salt);
    *size = seal(&session->sender, &own, frame);
    return 0;
}

/* Whether the other side may begin a rekey now. If so, it is counted. */
static bool afford_rekey(struct channel *channel, int64_t now)
{
    if (channel->rekeys_paid > now + (int64_t)(REKEYS_AT_ONCE - 1) * REKEY_PACE)
        return false;
    if (channel->rekeys_paid < now)
        channel->rekeys_paid = now;
    channel->rekeys_paid += REKEY_PACE;
    return true;
}

static enum codec_event failure(int error)
{
    return error == -ENOMEM ? CODEC_STARVED : CODEC_FAILED;
}

/* A Rekey is answered, unless the relay has sent one itself: then it is the answer to that, or has
 * crossed it, which is handled in the same way. */
static enum codec_event take_rekey(
    struct channel *channel, const struct rekey *theirs, int64_t now, struct piece *piece)
{
    struct channel_session *session = &channel->session;
    bool answer = !session->has_pending;
    if (answer && !afford_rekey(channel, now))
        return CODEC_FAILED;
    int error = answer ? resize_buffer(&frames, REKEY_FRAME_MAX) : 0;
    *piece = (struct piece){.bytes = frames.bytes, .first = true, .last = true};
    if (error == 0 && answer)
        error = send_rekey(channel, frames.bytes, &piece->size);
    if (error != 0)
        return failure(error);
    session->old_receiver = session->receiver;
    session->has_old_receiver = 1;
    channel->rekey_at = now + CHANNEL_REKEY_TIME;
    error = complete_exchange(session, theirs->dh_public_key, theirs->key_salt);
    if (error != 0)
        return failure(error);
    return answer ? CODEC_REPLY : CODEC_MORE;
}

/* ---- the codec ---------------------------------------------------------------------- */

static int channel_open(
    void *state, const uint8_t *session, size_t size, int64_t now, struct budget_account *account)
{
    struct channel *channel = state;
    channel->account = account;
    if (size != sizeof channel->session)
        return -EINVAL;
    memcpy(&channel->session, session, size);
    channel->rekey_at = now + CHANNEL_REKEY_TIME;
    return 0;
}

static void drop_partial(struct channel *channel)
{
    if (channel->partial == NULL)
        return;
    free(channel->partial);
    budget_give(channel->account, channel->room);
    channel->partial = NULL;
    channel->held = channel->room = 0;
}

static void channel_forget(void *state)
{
    drop_partial(state);
}

static void channel_close(void *state)
{
    struct channel *channel = state;
    drop_partial(channel);
    sodium_memzero(channel, sizeof *channel);
}

int channel_suspend(const void *state, struct channel_session *session)
{
    const struct channel *channel = state;
    if (channel->held > 0)
        return -EBUSY;
    *session = channel->session;
    return 0;
}

/* The largest frame of this connection. Only tunnels may have long frames. */
static size_t frame_limit(const struct channel *channel)
{
    if (channel->account->share == BUDGET_FRAMES)
        return CHANNEL_HEADER + CHANNEL_FRAME_MAX;
    return budget_allowance(BUDGET_WAITING, WAITING_FRAME_MIN, WAITING_FRAME_MAX);
}

/* Keeps `count` bytes of input. The buffer is at most twice as large as the part that has come. */
static int keep_partial(
    struct channel *channel, uint8_t **input, size_t *size, size_t count, size_t whole)
{
    size_t needed = channel->held + count;
    if (whole > frame_limit(channel))
        return whole > WAITING_FRAME_MAX ? -EMSGSIZE : -ENOMEM; /* other clients use the memory */
    if (needed > channel->room) {
        size_t room = needed * 2 < whole ? needed * 2 : whole;
        uint8_t *partial = realloc(channel->partial, room);
        if (partial == NULL)
            return -ENOMEM;
        budget_take(channel->account, room - channel->room);
        channel->partial = partial;
        channel->room = room;
    }
    memcpy(channel->partial + channel->held, *input, count);
    channel->held = needed;
    *input += count;
    *size -= count;
    return 0;
}

/* The size of the frame that begins here; while its header is not whole, the size of the header. */
static int measure(const uint8_t *bytes, size_t size, size_t *whole)
{
    *whole = CHANNEL_HEADER;
    if (size < CHANNEL_HEADER)
        return 0;
    int payload_size = channel_payload_size(bytes, CHANNEL_FRAME_MAX);
    if (payload_size < 0)
        return payload_size;
    *whole += (size_t)payload_size;
    return 0;
}

/* Finds the payload of the next whole frame: in the input if all of it is there, else in the
 * partial frame. Returns 1; 0 if no frame is whole; or a negative errno. */
static int next_frame(struct channel *channel, uint8_t **input, size_t *size, struct iovec *payload)
{
    size_t whole;
    if (channel->held == 0 && measure(*input, *size, &whole) == 0 && *size >= whole) {
        *payload = (struct iovec){*input + CHANNEL_HEADER, whole - CHANNEL_HEADER};
        *input += whole;
        *size -= whole;
        return 1;
    }
    for (;;) {
        int error = measure(channel->partial, channel->held, &whole);
        if (error != 0)
            return error;
        if (channel->held == whole) {
            *payload = (struct iovec){channel->partial + CHANNEL_HEADER, whole - CHANNEL_HEADER};
            return 1;
        }
        if (*size == 0)
            return 0;
        size_t missing = whole - channel->held;
        error = keep_partial(channel, input, size, missing < *size ? missing : *size, whole);
        if (error != 0)
            return error;
    }
}

static enum codec_event take_payload(
    struct channel *channel, struct iovec *payload, int64_t now, struct piece *piece)
{
    struct channel_message outer;
    struct ka_message inner;
    int error = unseal(&channel->session, payload);
    if (error == 0)
        error = resize_buffer_for(&middle, payload->iov_base, payload->iov_len);
    if (error == 0)
        error = capnp_read_channel_message(middle, payload->iov_base, payload->iov_len, &outer);
    if (error == 0 && outer.is_rekey)
        return take_rekey(channel, &outer.rekey, now, piece);
    if (error == 0)
        error = resize_buffer_for(&message, outer.data, outer.size);
    if (error == 0)
        error = capnp_read_ka_message(message, outer.data, outer.size, &inner);
    if (error != 0)
        return failure(error);
    if (inner.keep_alive)
        return CODEC_LIFE;
    *piece = (struct piece){.bytes = inner.data, .size = inner.size, .first = true, .last = true};
    return CODEC_PIECE;
}

static enum codec_event channel_decode(
    void *state, uint8_t **input, size_t *size, int64_t now, struct piece *piece)
{
    struct channel *channel = state;
    enum codec_event event = CODEC_MORE;
    drop_large_buffers();
    while (event == CODEC_MORE) {
        struct iovec payload = {NULL, 0};
        int found = next_frame(channel, input, size, &payload);
        if (found == 0)
            return CODEC_MORE;
        event = found < 0 ? failure(found) : take_payload(channel, &payload, now, piece);
        drop_partial(channel);
    }
    return event;
}

/* Writes the frame of a message, behind that of a Rekey when it is time for one. */
static int write_message(
    struct channel *channel, const struct ka_message *inner, int64_t now, struct iovec *out)
{
    size_t begun = 0;
    int error = resize_buffer(&middle, CAPNP_DATA_MAX(inner->size));
    if (error != 0)
        return error;
    struct channel_message outer = {
        .data = middle.bytes, .size = capnp_write_ka_message(inner, middle.bytes)};
    error = resize_buffer(
        &frames, REKEY_FRAME_MAX + OVERHEAD + CAPNP_DATA_MAX(outer.size + PADDING_MAX));
    if (error == 0 && now >= channel->rekey_at) {
        channel->rekey_at = now + CHANNEL_REKEY_TIME;
        error = channel->session.has_pending ? 0 : send_rekey(channel, frames.bytes, &begun);
    }
    if (error != 0)
        return error;
    size_t size = seal(&channel->session.sender, &outer, frames.bytes + begun);
    *out = (struct iovec){frames.bytes, begun + size};
    return 0;
}

static int channel_encode(void *state, const struct piece *piece, int64_t now, struct iovec *out)
{
    struct ka_message inner = {.data = piece->bytes, .size = piece->size};
    if (!piece->first || !piece->last || piece->size > CHANNEL_MESSAGE_MAX)
        return -EMSGSIZE;
    return write_message(state, &inner, now, out);
}

static int channel_quiet(void *state, int64_t now, struct iovec *out)
{
    return write_message(state, &(struct ka_message){.keep_alive = true}, now, out);
}

static int channel_silent(void *state, int64_t now, struct iovec *out)
{
    (void)state;
    (void)now;
    (void)out;
    return -ETIMEDOUT;
}

/* The protocol has no words for an end. */
static size_t channel_farewell(void *state, uint16_t code, const char *reason, uint8_t *out)
{
    (void)state;
    (void)code;
    (void)reason;
    (void)out;
    return 0;
}

const struct codec channel_codec = {
    .name = "channel",
    .state_size = sizeof(struct channel),
    .open = channel_open,
    .close = channel_close,
    .forget = channel_forget,
    .decode = channel_decode,
    .encode = channel_encode,
    .farewell = channel_farewell,
    .quiet = channel_quiet,
    .silent = channel_silent,
    .quiet_time = QUIET_TIME,
    .silent_time = SILENT_TIME,
};
