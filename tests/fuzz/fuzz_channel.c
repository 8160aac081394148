/* Offset's secure channel, in any state that a peer with good keys can bring it to. The input is a
 * list of steps: one byte for the kind, one byte for the size, and that many bytes. After every
 * step the other side can read what was sent, and nothing behind the input was read. */
#include "codec/channel.h"

#include <stdlib.h>
#include <string.h>

enum {
    NONCE_SIZE = crypto_aead_chacha20poly1305_ietf_NPUBBYTES,
    TAG_SIZE = crypto_aead_chacha20poly1305_ietf_ABYTES,
    TEXT_MAX = CAPNP_DATA_MAX(256),
    FRAME_MAX = CHANNEL_HEADER + NONCE_SIZE + TEXT_MAX + TAG_SIZE,
};

enum step {
    STEP_BYTES,     /* arrive as they are */
    STEP_TEXT,      /* arrive encrypted, as the text of a frame */
    STEP_OLD_TEXT,  /* likewise, under the key that is being replaced */
    STEP_KA,        /* arrive encrypted, as a KaMessage */
    STEP_SEND,      /* are sent */
    STEP_QUIET,     /* a keepalive is sent */
    STEP_HOUR,      /* an hour passes */
    STEP_HANDSHAKE, /* arrive as a payload in the handshake of another connection */
    STEPS,
};

static int64_t now;
static struct channel_handshake handshake;
static uint8_t public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];

static void insist(bool condition)
{
    if (!condition)
        abort();
}

static struct budget_account account = {.share = BUDGET_FRAMES};

static void *open_channel(const struct channel_session *session)
{
    void *state = calloc(1, channel_codec.state_size);
    insist(state != NULL);
    insist(
        channel_codec.open(state, (const uint8_t *)session, sizeof *session, now, &account) == 0);
    return state;
}

static void close_channel(void *state)
{
    channel_codec.close(state);
    free(state);
}

/* The other side reads what was sent: perhaps a Rekey, then the message. */
static void expect_sent(
    const struct channel_session *before, const struct iovec *out, const uint8_t *text, size_t size)
{
    struct channel_session session = {.receiver = before->sender};
    void *other = open_channel(&session);
    uint8_t *copy = malloc(out->iov_len), *input = copy;
    size_t left = out->iov_len;
    struct piece piece;
    insist(copy != NULL);
    memcpy(copy, out->iov_base, left);
    enum codec_event event = channel_codec.decode(other, &input, &left, now, &piece);
    if (event == CODEC_REPLY)
        event = channel_codec.decode(other, &input, &left, now, &piece);
    insist(left == 0);
    insist(event == (text == NULL ? CODEC_LIFE : CODEC_PIECE));
    insist(text == NULL || (piece.size == size && memcmp(piece.bytes, text, size) == 0));
    free(copy);
    close_channel(other);
}

/* Whether the connection goes on. */
static bool arrive(void *state, const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(CODEC_HEAD + size), *input = copy + CODEC_HEAD;
    struct piece piece;
    enum codec_event event;
    insist(copy != NULL);
    memcpy(input, bytes, size);
    do {
        event = channel_codec.decode(state, &input, &size, now, &piece);
        for (size_t i = 0; event == CODEC_PIECE && i < piece.size; i++)
            piece.bytes[i] ^= 1; /* may be changed in place */
    } while (event == CODEC_PIECE || event == CODEC_LIFE || event == CODEC_REPLY);
    insist(event == CODEC_FAILED || event == CODEC_STARVED || (event == CODEC_MORE && size == 0));
    free(copy);
    return event == CODEC_MORE;
}

static bool arrive_sealed(
    void *state, const struct channel_key *key, const uint8_t *text, size_t size)
{
    uint8_t frame[FRAME_MAX] = {0}, *nonce = frame + CHANNEL_HEADER;
    size_t payload = NONCE_SIZE + size + TAG_SIZE;
    unsigned long long sealed;
    insist(size <= TEXT_MAX);
    frame[CHANNEL_HEADER - 2] = (uint8_t)(payload >> 8);
    frame[CHANNEL_HEADER - 1] = (uint8_t)payload;
    nonce[0] = (uint8_t)key->counter;
    nonce[1] = (uint8_t)(key->counter >> 8);
    crypto_aead_chacha20poly1305_ietf_encrypt(
        nonce + NONCE_SIZE, &sealed, text, size, NULL, 0, NULL, nonce, key->key);
    return arrive(state, frame, CHANNEL_HEADER + payload);
}

static bool arrive_ka(void *state, const struct channel_key *key, const uint8_t *ka, size_t size)
{
    uint8_t text[TEXT_MAX], copy[256];
    struct channel_message message = {.data = copy, .size = size};
    memcpy(copy, ka, size);
    return arrive_sealed(state, key, text, capnp_write_channel_message(&message, text));
}

static void send_bytes(
    void *state, const struct channel_session *before, const uint8_t *bytes, size_t size)
{
    uint8_t copy[256];
    struct piece piece = {.bytes = copy, .size = size, .first = true, .last = true};
    struct iovec out;
    memcpy(copy, bytes, size);
    insist(channel_codec.encode(state, &piece, now, &out) == 0);
    expect_sent(before, &out, bytes, size);
}

static void send_keep_alive(void *state, const struct channel_session *before)
{
    struct iovec out;
    insist(channel_codec.quiet(state, now, &out) == 0);
    expect_sent(before, &out, NULL, 0);
}

static void shake_hands(const uint8_t *payload, size_t size)
{
    uint8_t send[CHANNEL_SEND_MAX];
    size_t sent;
    int error = channel_proceed(&handshake, payload, size, send, &sent);
    insist(sent <= sizeof send);
    if (error != 0 || handshake.stage == CHANNEL_READY)
        channel_begin(&handshake, public_key, secret_key, send);
}

static bool take_step(void *state, enum step step, const uint8_t *bytes, size_t size)
{
    struct channel_session session;
    if (step == STEP_HANDSHAKE)
        shake_hands(bytes, size);
    if (step == STEP_HOUR)
        now += CHANNEL_REKEY_TIME;
    if (step == STEP_BYTES)
        return arrive(state, bytes, size);
    if (channel_suspend(state, &session) != 0)
        return true; /* within a frame, the keys do not matter */
    if (step == STEP_TEXT)
        return arrive_sealed(state, &session.receiver, bytes, size);
    if (step == STEP_OLD_TEXT && session.has_old_receiver)
        return arrive_sealed(state, &session.old_receiver, bytes, size);
    if (step == STEP_KA)
        return arrive_ka(state, &session.receiver, bytes, size);
    if (step == STEP_SEND)
        send_bytes(state, &session, bytes, size);
    if (step == STEP_QUIET)
        send_keep_alive(state, &session);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct channel_session fresh = {.sender = {.key = {1}}, .receiver = {.key = {2}}};
    uint8_t send[CHANNEL_SEND_MAX];
    insist(sodium_init() >= 0);
    insist(crypto_sign_seed_keypair(public_key, secret_key, fresh.sender.key) == 0);
    insist(channel_begin(&handshake, public_key, secret_key, send) <= sizeof send);
    now = 0;
    void *state = open_channel(&fresh);
    bool goes_on = true;
    while (goes_on && size >= 2) {
        size_t count = data[1] < size - 2 ? data[1] : size - 2;
        goes_on = take_step(state, data[0] % STEPS, data + 2, count);
        data += 2 + count;
        size -= 2 + count;
    }
    channel_end(&handshake);
    close_channel(state);
    return 0;
}
