/* What forwarding an Offset tunnel costs beyond its cipher: messages decoded from one connection
 * and encoded for another, beside a bare decryption and encryption of as many bytes. Input comes
 * in the forwarder's chunks; rounds of both take turns, and the medians count.
 *
 *      cipher      a line per size of message: GB/s of both, and the ratio of their times */
#include "codec/channel.h"
#include "forward/transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH = 16 << 20, /* bytes of messages in a round */
    ROUNDS = 15,
    MESSAGE_MAX = 1 << 20,
    FRAMES_MAX = 2 * BATCH, /* the smallest messages nearly double in size */
};

static uint8_t head_and_frames[CODEC_HEAD + FRAMES_MAX], *const frames =
                                                             head_and_frames + CODEC_HEAD;
static uint8_t plain[MESSAGE_MAX + crypto_aead_chacha20poly1305_ietf_ABYTES];

static void fail(const char *what)
{
    (void)fprintf(stderr, "cipher: %s\n", what);
    exit(EXIT_FAILURE);
}

static double now(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0)
        fail("no clock");
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct budget_account account = {.share = BUDGET_FRAMES};

static void *open_channel(const struct channel_session *session)
{
    void *state = calloc(1, channel_codec.state_size);
    if (state == NULL ||
        channel_codec.open(state, (const uint8_t *)session, sizeof *session, 0, &account) != 0)
        fail("cannot open a channel");
    return state;
}

static void close_channel(void *state)
{
    channel_codec.close(state);
    free(state);
}

/* A batch of messages as a client sends them. */
static size_t make_frames(void *client, size_t message_size)
{
    size_t size = 0;
    struct piece piece = {.bytes = plain, .size = message_size, .first = true, .last = true};
    for (size_t sent = 0; sent < BATCH; sent += message_size) {
        struct iovec out;
        if (channel_codec.encode(client, &piece, 0, &out) != 0 || out.iov_len > FRAMES_MAX - size)
            fail("cannot encode");
        memcpy(frames + size, out.iov_base, out.iov_len);
        size += out.iov_len;
    }
    return size;
}

static double time_forwarding(void *from, void *to, size_t size)
{
    double start = now();
    for (size_t at = 0; at < size; at += TRANSFER_SCRATCH) {
        uint8_t *input = frames + at;
        size_t left = size - at < TRANSFER_SCRATCH ? size - at : TRANSFER_SCRATCH;
        struct piece piece;
        struct iovec out;
        enum codec_event event;
        while ((event = channel_codec.decode(from, &input, &left, 0, &piece)) == CODEC_PIECE)
            if (channel_codec.encode(to, &piece, 0, &out) != 0)
                fail("cannot encode");
        if (event != CODEC_MORE)
            fail("cannot decode");
    }
    return now() - start;
}

static double time_cipher(const uint8_t *key, size_t message_size)
{
    static const uint8_t nonce[crypto_aead_chacha20poly1305_ietf_NPUBBYTES];
    double start = now();
    for (size_t done = 0; done < BATCH; done += message_size) {
        unsigned long long size;
        if (crypto_aead_chacha20poly1305_ietf_encrypt(
                plain, &size, plain, message_size, NULL, 0, NULL, nonce, key) != 0 ||
            crypto_aead_chacha20poly1305_ietf_decrypt(
                plain, &size, NULL, plain, size, NULL, 0, nonce, key) != 0)
            fail("cannot decrypt");
    }
    return now() - start;
}

static int compare(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

static double median(double *times)
{
    qsort(times, ROUNDS, sizeof *times, compare);
    return times[ROUNDS / 2];
}

static void measure(size_t message_size)
{
    struct channel_session session = {.has_pending = 0};
    double forwarding[ROUNDS], cipher[ROUNDS];
    randombytes_buf(session.sender.key, sizeof session.sender.key);
    session.receiver = session.sender; /* so that one end can read what the other sends */
    void *client = open_channel(&session), *from = open_channel(&session);
    void *to = open_channel(&session);
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t size = make_frames(client, message_size);
        forwarding[i] = time_forwarding(from, to, size);
        cipher[i] = time_cipher(session.sender.key, message_size);
    }
    double ours = median(forwarding), bare = median(cipher);
    printf("%8zu bytes: forwarding %.2f GB/s, two passes of the cipher %.2f GB/s, ratio %.2f\n",
        message_size, BATCH / ours / 1e9, BATCH / bare / 1e9, ours / bare);
    close_channel(client);
    close_channel(from);
    close_channel(to);
}

int main(void)
{
    if (sodium_init() < 0)
        fail("no libsodium");
    randombytes_buf(plain, sizeof plain);
    measure(1 << 10);
    measure(1 << 16);
    measure(1 << 20);
    return EXIT_SUCCESS;
}
