/* Records of TLS in any state that a peer with good keys can bring a connection to, through the
 * socket as the forwarder reads them. The first byte chooses version and suite; then come steps: a
 * byte that says what happens, a byte's worth of size, and as many bytes. Whatever happens, what is
 * sent can be read by the other side, and what the other side sealed arrives as it was. */
#include "tls/tls_stream.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TAG_SIZE = 16,
    PLAIN_MAX = 1 << 16,
    INPUT_MAX = 1000, /* all of it fits in the socket, in however many records */
};

enum step {
    STEP_BYTES,    /* arrive as they are */
    STEP_DATA,     /* arrive sealed, as data */
    STEP_TYPE,     /* arrive sealed, but for the first, which is their type: TLS 1.3 */
    STEP_SEND,     /* are sent */
    STEP_SEND_BIG, /* are sent, many times over */
    STEP_READ,     /* what has arrived is read */
    STEPS,
};

static struct tls_stream *secure;
static struct budget_account account;
static struct records other; /* the other side's */
static int ours, theirs;
static uint8_t plain[PLAIN_MAX];

static void insist(bool condition)
{
    if (!condition)
        abort();
}

static void deliver(const uint8_t *bytes, size_t size)
{
    insist(send(theirs, bytes, size, 0) == (ssize_t)size);
}

/* Whether the connection goes on. */
static bool read_all(void)
{
    for (;;) {
        ssize_t count = tls_stream_read(secure, ours, plain, sizeof plain);
        insist(count <= (ssize_t)sizeof plain);
        if (count == 0 || (count < 0 && errno != EINTR))
            return count < 0 && errno == EAGAIN;
    }
}

static void arrive_sealed(const uint8_t *bytes, size_t size)
{
    uint8_t sealed[RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX];
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct records_source source = {&part, 1, 0};
    ssize_t count = records_seal(&other, &source, sealed, sizeof sealed);
    insist(count >= 0);
    deliver(sealed, (size_t)count);
}

/* A record of TLS 1.3 of any type: records_seal() makes none, so it is done here. */
static void arrive_as(const uint8_t *bytes, size_t size)
{
    static const char *const ciphers[] = {
        [RECORDS_AES_128_GCM] = "AES-128-GCM",
        [RECORDS_AES_256_GCM] = "AES-256-GCM",
        [RECORDS_CHACHA20_POLY1305] = "ChaCha20-Poly1305",
    };
    uint8_t record[RECORDS_HEADER + 256 + TAG_SIZE] = {23, 3, 3}, *inner = record + RECORDS_HEADER;
    uint8_t nonce[RECORDS_IV_SIZE];
    int count;
    if (!other.tls_1_3 || size == 0)
        return;
    record[3] = (uint8_t)((size + TAG_SIZE) >> 8);
    record[4] = (uint8_t)(size + TAG_SIZE);
    memcpy(inner, bytes + 1, size - 1);
    inner[size - 1] = bytes[0];
    memcpy(nonce, other.out.iv, sizeof nonce);
    for (size_t i = 0; i < 8; i++)
        nonce[11 - i] ^= (uint8_t)(other.out.sequence >> (8 * i));
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, ciphers[other.suite], NULL);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    insist(EVP_EncryptInit_ex(context, cipher, NULL, other.out.key, nonce) == 1 &&
           EVP_EncryptUpdate(context, NULL, &count, record, RECORDS_HEADER) == 1 &&
           EVP_EncryptUpdate(context, inner, &count, inner, (int)size) == 1 &&
           EVP_EncryptFinal_ex(context, inner + size, &count) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, inner + size) == 1);
    EVP_CIPHER_CTX_free(context);
    EVP_CIPHER_free(cipher);
    other.out.sequence++;
    deliver(record, RECORDS_HEADER + size + TAG_SIZE);
}

/* What was sent is opened by the other side, and is what it was. */
static void send_parts(const uint8_t *bytes, size_t size, size_t times)
{
    struct iovec parts[64];
    struct records_source source = {parts, times, 0};
    other.updates = 0; /* this side forgives whatever it is told */
    uint8_t *sealed, opened[RECORDS_RECORD_MAX];
    size_t checked = 0, length, count;
    for (size_t i = 0; i < times; i++)
        parts[i] = (struct iovec){(void *)(uintptr_t)bytes, size};
    ssize_t made = tls_stream_seal(secure, &source, &sealed);
    insist(made >= 0);
    for (size_t at = 0; at < (size_t)made; at += length) {
        length = records_measure(sealed + at, (size_t)made - at);
        insist(length > 0);
        enum records_event event = records_open(&other, sealed + at, length, opened, &count);
        insist(event == RECORDS_DATA || (event == RECORDS_NEW_KEY && at == 0));
        for (size_t i = 0; i < count; i++, checked++)
            insist(opened[i] == bytes[checked % size]);
    }
    insist(checked == size * times);
}

static bool take_step(enum step step, const uint8_t *bytes, size_t size)
{
    switch (step) {
    case STEP_BYTES:
        deliver(bytes, size);
        return true;
    case STEP_DATA:
        arrive_sealed(bytes, size);
        return true;
    case STEP_TYPE:
        arrive_as(bytes, size);
        return true;
    case STEP_SEND:
        send_parts(bytes, size, 1);
        return true;
    case STEP_SEND_BIG:
        send_parts(bytes, size, 64);
        return true;
    case STEP_READ:
    case STEPS:
        break;
    }
    bool goes_on = read_all();
    other.in = secure->records.out;
    if (goes_on && secure->kept_size == 0)
        other.out = secure->records.in; /* it may have changed its key */
    return goes_on;
}

static void start(uint8_t choice)
{
    static const uint8_t secret[RECORDS_MASTER_SIZE] = {1}, other_secret[RECORDS_SECRET_MAX] = {2};
    enum records_suite suite = (enum records_suite)(1 + choice / 2 % 3);
    struct records records;
    int ends[2], room = 1 << 20;
    insist(records_prepare() == 0);
    insist(
        (choice % 2 == 0 ? records_start_1_3(&records, suite, secret, other_secret)
                         : records_start_1_2(&records, suite, secret, secret, secret, 1, 1)) == 0);
    if (choice >= 0x80)
        records.out.sequence = RECORDS_KEY_LIFE - 1;
    other = records;
    other.in = records.out;
    other.out = records.in;
    secure = tls_stream_open(&records, &account);
    insist(secure != NULL && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    ours = ends[0];
    theirs = ends[1];
    insist(setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool goes_on = true;
    if (size == 0 || size > INPUT_MAX)
        return 0;
    start(data[0]);
    for (data++, size--; goes_on && size >= 2;) {
        size_t count = data[1] < size - 2 ? data[1] : size - 2;
        goes_on = take_step((enum step)(data[0] % STEPS), data + 2, count);
        data += 2 + count;
        size -= 2 + count;
    }
    if (goes_on)
        (void)read_all();
    tls_stream_close(secure);
    close(ours);
    close(theirs);
    return 0;
}
