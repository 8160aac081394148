/* The record layer of TLS: see records.h. */
#include "tls/records.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <sodium.h>
#include <string.h>

enum {
    TYPE_ALERT = 21,
    TYPE_HANDSHAKE = 22,
    TYPE_DATA = 23,

    TAG_SIZE = 16,
    EXPLICIT_SIZE = 8, /* TLS 1.2, AES-GCM: the part of a nonce that is sent with the record */
    SALT_SIZE = 4,     /* the rest of that nonce */
    AAD_MAX = 13,

    ALERT_SIZE = 2,
    ALERT_WARNING = 1,
    ALERT_FATAL = 2,

    KEY_UPDATE = 24,
    UPDATE_REQUESTED = 1,
    UPDATE_RECORDS = 16, /* after this many records of data, one KeyUpdate is forgiven */

    HASH_MAX = 48,
    LABEL_MAX = 32,
};

struct suite {
    const char *cipher, *hash;
    size_t key_size, secret_size;
    uint64_t key_life; /* records */
};

static const struct suite suites[] = {
    [RECORDS_AES_128_GCM] = {"AES-128-GCM", "SHA256", 16, 32, RECORDS_KEY_LIFE},
    [RECORDS_AES_256_GCM] = {"AES-256-GCM", "SHA384", 32, 48, RECORDS_KEY_LIFE},
    [RECORDS_CHACHA20_POLY1305] = {"ChaCha20-Poly1305", "SHA256", 32, 32, UINT64_MAX},
};

enum {
    SUITES = sizeof suites / sizeof suites[0],
};

/* A cipher context of OpenSSL and the key that is loaded into it. All connections of a process
 * share two of them, one to open and one to seal. */
struct engine {
    EVP_CIPHER_CTX *context;
    uint8_t suite; /* 0: no key */
    uint8_t key[RECORDS_KEY_MAX];
};

static EVP_CIPHER *ciphers[SUITES];
static EVP_MAC_CTX *hashes[SUITES]; /* HMAC, without a key */
static EVP_KDF *prf_kdf;
static struct engine opener, sealer;

static OSSL_PARAM text_parameter(const char *name, const char *value)
{
    return OSSL_PARAM_construct_utf8_string(name, (char *)(uintptr_t)value, 0);
}

static EVP_MAC_CTX *make_hash(const char *hash)
{
    OSSL_PARAM parameters[] = {
        text_parameter(OSSL_MAC_PARAM_DIGEST, hash), OSSL_PARAM_construct_end()};
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(hmac);
    EVP_MAC_free(hmac);
    if (context != NULL && EVP_MAC_CTX_set_params(context, parameters) == 1)
        return context;
    EVP_MAC_CTX_free(context);
    return NULL;
}

int records_prepare(void)
{
    if (sealer.context != NULL)
        return 0;
    prf_kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_TLS1_PRF, NULL);
    opener.context = EVP_CIPHER_CTX_new();
    bool good = prf_kdf != NULL && opener.context != NULL;
    for (size_t i = RECORDS_AES_128_GCM; good && i < SUITES; i++)
        good = (ciphers[i] = EVP_CIPHER_fetch(NULL, suites[i].cipher, NULL)) != NULL &&
               (hashes[i] = make_hash(suites[i].hash)) != NULL;
    if (good)
        sealer.context = EVP_CIPHER_CTX_new();
    return sealer.context != NULL ? 0 : -ENOSYS;
}

/* ---- keys ------------------------------------------------------------------------ */

static OSSL_PARAM octets_parameter(const char *name, const void *bytes, size_t size)
{
    return OSSL_PARAM_construct_octet_string(name, (void *)(uintptr_t)bytes, size);
}

/* The pseudorandom function of TLS 1.2. */
static int derive_1_2(const OSSL_PARAM *parameters, uint8_t *out, size_t size)
{
    EVP_KDF_CTX *context = EVP_KDF_CTX_new(prf_kdf);
    int result = context == NULL ? 0 : EVP_KDF_derive(context, out, size, parameters);
    EVP_KDF_CTX_free(context);
    return result == 1 ? 0 : -ENOMEM;
}

static size_t put_label(const char *label, size_t size, uint8_t out[static LABEL_MAX])
{
    static const char prefix[] = "tls13 ";
    size_t prefix_size = sizeof prefix - 1, label_size = strlen(label);
    out[0] = 0;
    out[1] = (uint8_t)size;
    out[2] = (uint8_t)(prefix_size + label_size);
    memcpy(out + 3, prefix, prefix_size);
    memcpy(out + 3 + prefix_size, label, label_size);
    out[3 + prefix_size + label_size] = 0; /* the length of the context, which is empty */
    return 4 + prefix_size + label_size;
}

/* HKDF-Expand-Label (RFC 8446, section 7.1) without a context, for at most as many bytes as the
 * hash has: one HMAC yields them. OpenSSL's own function takes three times as long, and a client
 * may cause this often. */
static int expand_label(
    enum records_suite suite, const uint8_t *secret, const char *label, uint8_t *out, size_t size)
{
    uint8_t info[LABEL_MAX + 1], hash[HASH_MAX];
    size_t info_size = put_label(label, size, info), hash_size;
    info[info_size++] = 1; /* the number of the block */
    EVP_MAC_CTX *context = EVP_MAC_CTX_dup(hashes[suite]);
    bool good = context != NULL &&
                EVP_MAC_init(context, secret, suites[suite].secret_size, NULL) == 1 &&
                EVP_MAC_update(context, info, info_size) == 1 &&
                EVP_MAC_final(context, hash, &hash_size, sizeof hash) == 1 && hash_size >= size;
    EVP_MAC_CTX_free(context);
    if (good)
        memcpy(out, hash, size);
    sodium_memzero(hash, sizeof hash);
    return good ? 0 : -ENOMEM;
}

static int derive_key(enum records_suite suite, struct records_key *key)
{
    key->sequence = 0;
    int error = expand_label(suite, key->secret, "key", key->key, suites[suite].key_size);
    return error != 0 ? error : expand_label(suite, key->secret, "iv", key->iv, sizeof key->iv);
}

/* RFC 8446, section 7.2. */
static int renew_key(enum records_suite suite, struct records_key *key)
{
    uint8_t next[RECORDS_SECRET_MAX] = {0};
    size_t size = suites[suite].secret_size;
    int error = expand_label(suite, key->secret, "traffic upd", next, size);
    memcpy(key->secret, next, size);
    sodium_memzero(next, sizeof next);
    return error != 0 ? error : derive_key(suite, key);
}

int records_start_1_3(struct records *records, enum records_suite suite, const uint8_t *in_secret,
    const uint8_t *out_secret)
{
    *records =
        (struct records){.suite = (uint8_t)suite, .tls_1_3 = true, .data_max = RECORDS_DATA_MAX};
    memcpy(records->in.secret, in_secret, suites[suite].secret_size);
    memcpy(records->out.secret, out_secret, suites[suite].secret_size);
    int error = derive_key(suite, &records->in);
    return error != 0 ? error : derive_key(suite, &records->out);
}

/* RFC 5246, section 6.3. The Finished messages were sent under these keys, in a record or more. */
int records_start_1_2(struct records *records, enum records_suite suite,
    const uint8_t master[static RECORDS_MASTER_SIZE],
    const uint8_t client_random[static RECORDS_RANDOM_SIZE],
    const uint8_t server_random[static RECORDS_RANDOM_SIZE], uint64_t in_records,
    uint64_t out_records)
{
    static const char label[] = "key expansion";
    uint8_t block[2 * (RECORDS_KEY_MAX + RECORDS_IV_SIZE)];
    size_t key_size = suites[suite].key_size;
    size_t iv_size = suite == RECORDS_CHACHA20_POLY1305 ? RECORDS_IV_SIZE : SALT_SIZE;
    OSSL_PARAM parameters[] = {
        text_parameter(OSSL_KDF_PARAM_DIGEST, suites[suite].hash),
        octets_parameter(OSSL_KDF_PARAM_SECRET, master, RECORDS_MASTER_SIZE),
        octets_parameter(OSSL_KDF_PARAM_SEED, label, sizeof label - 1),
        octets_parameter(OSSL_KDF_PARAM_SEED, server_random, RECORDS_RANDOM_SIZE),
        octets_parameter(OSSL_KDF_PARAM_SEED, client_random, RECORDS_RANDOM_SIZE),
        OSSL_PARAM_construct_end(),
    };
    *records = (struct records){.suite = (uint8_t)suite,
        .data_max = RECORDS_DATA_MAX,
        .in.sequence = in_records,
        .out.sequence = out_records};
    int error = derive_1_2(parameters, block, 2 * (key_size + iv_size));
    const uint8_t *ivs = block + 2 * key_size;
    memcpy(records->in.key, block, key_size);
    memcpy(records->out.key, block + key_size, key_size);
    memcpy(records->in.iv, ivs, iv_size);
    memcpy(records->out.iv, ivs + iv_size, iv_size);
    sodium_memzero(block, sizeof block);
    return error;
}

bool records_are_sound(const struct records *records)
{
    return records->suite >= RECORDS_AES_128_GCM && records->suite < SUITES &&
           records->skip < RECORDS_DATA_MAX && records->message_size < RECORDS_MESSAGE_SIZE &&
           records->updates <= RECORDS_UPDATES_MAX && records->data_max >= RECORDS_FRAGMENT_MIN &&
           records->data_max <= RECORDS_DATA_MAX;
}

static void unload_key(struct engine *engine, const struct records_key *key)
{
    if (engine->suite == 0 || sodium_memcmp(engine->key, key->key, sizeof engine->key) != 0)
        return;
    (void)EVP_CIPHER_CTX_reset(engine->context); /* it never fails */
    sodium_memzero(engine->key, sizeof engine->key);
    engine->suite = 0;
}

void records_wipe(struct records *records)
{
    unload_key(&opener, &records->in);
    unload_key(&sealer, &records->out);
    sodium_memzero(records, sizeof *records);
}

/* ---- the cipher ------------------------------------------------------------------ */

static void put_number(uint8_t *out, uint64_t number, size_t size)
{
    while (size > 0) {
        out[--size] = (uint8_t)number;
        number >>= 8;
    }
}

static bool has_explicit_nonce(const struct records *records)
{
    return !records->tls_1_3 && records->suite != RECORDS_CHACHA20_POLY1305;
}

/* RFC 8446, section 5.3, and RFC 7905; for AES-GCM in TLS 1.2 RFC 5288, section 3. */
static void make_record_nonce(const struct records *records, const struct records_key *key,
    const uint8_t *explicit_part, uint8_t nonce[static RECORDS_IV_SIZE])
{
    uint8_t number[EXPLICIT_SIZE];
    memcpy(nonce, key->iv, RECORDS_IV_SIZE);
    if (has_explicit_nonce(records)) {
        memcpy(nonce + SALT_SIZE, explicit_part, EXPLICIT_SIZE);
        return;
    }
    put_number(number, key->sequence, sizeof number);
    for (size_t i = 0; i < sizeof number; i++)
        nonce[RECORDS_IV_SIZE - sizeof number + i] ^= number[i];
}

/* The additional authenticated data: RFC 8446, section 5.2, or RFC 5246, section 6.2.3.3, where
 * size is that of the plain bytes. Returns its size. */
static int make_aad(const struct records *records, const struct records_key *key,
    const uint8_t *header, size_t size, uint8_t aad[static AAD_MAX])
{
    if (records->tls_1_3) {
        memcpy(aad, header, RECORDS_HEADER);
        return RECORDS_HEADER;
    }
    put_number(aad, key->sequence, 8);
    memcpy(aad + 8, header, 3);
    put_number(aad + 11, size, 2);
    return AAD_MAX;
}

/* Sets the key and the nonce of an engine. The key is set only if another one was used before, as
 * that takes as long as encrypting some hundred bytes. */
static bool load_key(struct engine *engine, bool seal, const struct records *records,
    const struct records_key *key, const uint8_t *nonce)
{
    bool same =
        engine->suite == records->suite && memcmp(engine->key, key->key, sizeof engine->key) == 0;
    if (same)
        return EVP_CipherInit_ex(engine->context, NULL, NULL, NULL, nonce, -1) == 1;
    const EVP_CIPHER *other = engine->suite != records->suite ? ciphers[records->suite] : NULL;
    bool loaded =
        EVP_CipherInit_ex(engine->context, other, NULL, key->key, nonce, seal ? 1 : 0) == 1;
    memcpy(engine->key, key->key, sizeof engine->key);
    engine->suite = loaded ? records->suite : 0;
    return loaded;
}

/* ---- opening --------------------------------------------------------------------- */

static size_t read_size(const uint8_t *header)
{
    return (size_t)header[3] << 8 | header[4];
}

size_t records_measure(const uint8_t *bytes, size_t size)
{
    if (size < RECORDS_HEADER)
        return 0;
    size_t whole = RECORDS_HEADER + read_size(bytes);
    if (whole > RECORDS_RECORD_MAX)
        return RECORDS_HEADER;
    return whole <= size ? whole : 0;
}

static enum records_event fail_with(struct records *records, enum records_alert alert)
{
    records->alert = (uint8_t)alert;
    return RECORDS_FAILED;
}

/* Decrypts `size` bytes, and checks the tag behind them. */
static bool decrypt_record(const struct records *records, const uint8_t *header,
    const uint8_t *nonce, const uint8_t *sealed, size_t size, uint8_t *out)
{
    uint8_t aad[AAD_MAX], tag[TAG_SIZE];
    int aad_size = make_aad(records, &records->in, header, size, aad), count;
    EVP_CIPHER_CTX *context = opener.context;
    memcpy(tag, sealed + size, TAG_SIZE);
    return load_key(&opener, false, records, &records->in, nonce) &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag) == 1 &&
           EVP_DecryptUpdate(context, NULL, &count, aad, aad_size) == 1 &&
           (size == 0 || EVP_DecryptUpdate(context, out, &count, sealed, (int)size) == 1) &&
           EVP_DecryptFinal_ex(context, out + size, &count) == 1;
}

void records_forgive(struct records *records, uint64_t count)
{
    records->updates = (uint8_t)(records->updates > count ? records->updates - count : 0);
}

/* The client uses a new key from here on, and may ask us to do the same. We do so before our next
 * data, not at once, so that a client that asks often causes no more than that. */
static enum records_event take_key_update(struct records *records)
{
    bool wants_ours = records->message[RECORDS_MESSAGE_SIZE - 1] == UPDATE_REQUESTED;
    records->message_size = 0;
    records_forgive(records, records->in.sequence / UPDATE_RECORDS);
    if (records->updates == RECORDS_UPDATES_MAX)
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    records->updates++;
    if (renew_key(records->suite, &records->in) != 0)
        return fail_with(records, RECORDS_INTERNAL_ERROR);
    records->answer_due = records->answer_due || wants_ours;
    return RECORDS_NEW_KEY;
}

/* Checks a KeyUpdate as far as it was received. */
static enum records_alert check_key_update(const uint8_t *message, size_t size)
{
    static const uint8_t length[] = {0, 0, RECORDS_MESSAGE_SIZE - 4};
    if (message[0] != KEY_UPDATE)
        return RECORDS_UNEXPECTED_MESSAGE;
    if (size >= 4 && memcmp(message + 1, length, sizeof length) != 0)
        return RECORDS_DECODE_ERROR;
    if (size == RECORDS_MESSAGE_SIZE && message[size - 1] > UPDATE_REQUESTED)
        return RECORDS_ILLEGAL_PARAMETER;
    return RECORDS_NO_ALERT;
}

/* After the handshake, only a KeyUpdate is accepted of its messages. It may come in pieces, one a
 * record, with no other record in between, and nothing may follow it in its record (RFC 8446,
 * section 5.1). */
static enum records_event take_handshake(struct records *records, const uint8_t *bytes, size_t size)
{
    size_t room = sizeof records->message - records->message_size;
    if (!records->tls_1_3 || size == 0)
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    memcpy(records->message + records->message_size, bytes, size < room ? size : room);
    records->message_size = (uint8_t)(records->message_size + (size < room ? size : room));
    enum records_alert alert = check_key_update(records->message, records->message_size);
    if (alert != RECORDS_NO_ALERT)
        return fail_with(records, alert);
    if (size > room)
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    return size < room ? RECORDS_DATA : take_key_update(records);
}

/* In TLS 1.3 all alerts but two are fatal; in TLS 1.2 those whose level is not "warning". */
static enum records_event take_alert(struct records *records, const uint8_t *alert, size_t size)
{
    if (size != ALERT_SIZE)
        return fail_with(records, size == 0 ? RECORDS_UNEXPECTED_MESSAGE : RECORDS_DECODE_ERROR);
    if (alert[1] == RECORDS_CLOSE_NOTIFY)
        return RECORDS_CLOSED;
    if (records->tls_1_3 ? alert[1] == RECORDS_USER_CANCELED : alert[0] == ALERT_WARNING)
        return RECORDS_DATA;
    return fail_with(records, RECORDS_NO_ALERT);
}

static enum records_event take_content(
    struct records *records, uint8_t type, const uint8_t *bytes, size_t *size)
{
    size_t count = *size;
    if (type != TYPE_DATA)
        *size = 0;
    if (type != TYPE_HANDSHAKE && records->message_size > 0)
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    switch (type) {
    case TYPE_DATA:
        return RECORDS_DATA;
    case TYPE_ALERT:
        return take_alert(records, bytes, count);
    case TYPE_HANDSHAKE:
        return take_handshake(records, bytes, count);
    default:
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    }
}

/* TLS 1.3: the content is followed by its type, and that by any number of zeros. Returns the type.
 */
static uint8_t strip_padding(const uint8_t *bytes, size_t *size)
{
    while (*size > 0 && bytes[*size - 1] == 0)
        (*size)--;
    return *size == 0 ? 0 : bytes[--*size];
}

static enum records_event check_record_header(
    struct records *records, const uint8_t *header, size_t size, size_t overhead)
{
    size_t length = read_size(header);
    if (RECORDS_HEADER + length > RECORDS_RECORD_MAX)
        return fail_with(records, RECORDS_RECORD_OVERFLOW);
    if (records->tls_1_3 && header[0] != TYPE_DATA)
        return fail_with(records, RECORDS_UNEXPECTED_MESSAGE);
    if (length < overhead || RECORDS_HEADER + length != size)
        return fail_with(records, RECORDS_BAD_RECORD_MAC);
    return records->in.sequence < UINT64_MAX ? RECORDS_DATA
                                             : fail_with(records, RECORDS_INTERNAL_ERROR);
}

enum records_event records_open(
    struct records *records, const uint8_t *record, size_t size, uint8_t *out, size_t *out_size)
{
    size_t head = RECORDS_HEADER + (has_explicit_nonce(records) ? EXPLICIT_SIZE : 0);
    uint8_t nonce[RECORDS_IV_SIZE], type = record[0];
    *out_size = 0;
    if (check_record_header(records, record, size, head - RECORDS_HEADER + TAG_SIZE) ==
        RECORDS_FAILED)
        return RECORDS_FAILED;
    size_t count = size - head - TAG_SIZE;
    if (count > RECORDS_DATA_MAX + (records->tls_1_3 ? 1 : 0))
        return fail_with(records, RECORDS_RECORD_OVERFLOW);
    make_record_nonce(records, &records->in, record + RECORDS_HEADER, nonce);
    if (!decrypt_record(records, record, nonce, record + head, count, out))
        return fail_with(records, RECORDS_BAD_RECORD_MAC);
    records->in.sequence++;
    if (records->tls_1_3)
        type = strip_padding(out, &count);
    *out_size = count;
    return take_content(records, type, out, out_size);
}

/* ---- sealing --------------------------------------------------------------------- */

static size_t bytes_left(const struct records_source *source, size_t most)
{
    size_t left = 0;
    for (size_t i = 0; i < source->count && left < most + source->taken; i++)
        left += source->parts[i].iov_len;
    left -= source->count > 0 ? source->taken : 0;
    return left < most ? left : most;
}

/* Encrypts the next `size` bytes of the source. */
static bool encrypt_source(struct records_source *source, size_t size, uint8_t *out)
{
    int count;
    while (size > 0) {
        const struct iovec *part = source->parts;
        size_t here = part->iov_len - source->taken < size ? part->iov_len - source->taken : size;
        const uint8_t *bytes = (const uint8_t *)part->iov_base + source->taken;
        if (here > 0 && EVP_EncryptUpdate(sealer.context, out, &count, bytes, (int)here) != 1)
            return false;
        out += here;
        size -= here;
        source->taken += here;
        if (source->taken == part->iov_len) {
            source->parts++;
            source->count--;
            source->taken = 0;
        }
    }
    return true;
}

/* Writes a record's header, and the explicit nonce, for which we use the sequence number. OpenSSL
 * chose a random one for the only record before: with n records of ours, the probability that one
 * of them has the same is n / 2^64. */
static size_t put_record_head(
    const struct records *records, uint8_t type, size_t size, uint8_t *out)
{
    size_t head = RECORDS_HEADER;
    out[0] = records->tls_1_3 ? TYPE_DATA : type;
    out[1] = out[2] = 3;
    if (has_explicit_nonce(records)) {
        put_number(out + RECORDS_HEADER, records->out.sequence, EXPLICIT_SIZE);
        head += EXPLICIT_SIZE;
    }
    put_number(out + 3, head - RECORDS_HEADER + size + (records->tls_1_3 ? 1 : 0) + TAG_SIZE, 2);
    return head;
}

/* Seals one record. Returns its size, or a negative errno. */
static ssize_t seal_record(
    struct records *records, uint8_t type, struct records_source *source, size_t size, uint8_t *out)
{
    uint8_t nonce[RECORDS_IV_SIZE], aad[AAD_MAX];
    struct records_key *key = &records->out;
    EVP_CIPHER_CTX *context = sealer.context;
    size_t head = put_record_head(records, type, size, out);
    uint8_t *end = out + head + size;
    int aad_size = make_aad(records, key, out, size, aad), count;
    if (key->sequence == UINT64_MAX)
        return -EOVERFLOW;
    make_record_nonce(records, key, out + RECORDS_HEADER, nonce);
    if (!load_key(&sealer, true, records, key, nonce) ||
        EVP_EncryptUpdate(context, NULL, &count, aad, aad_size) != 1 ||
        !encrypt_source(source, size, out + head))
        return -ENOMEM;
    if (records->tls_1_3 && EVP_EncryptUpdate(context, end++, &count, &type, 1) != 1)
        return -ENOMEM;
    if (EVP_EncryptFinal_ex(context, end, &count) != 1 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, end) != 1)
        return -ENOMEM;
    key->sequence++;
    return end + TAG_SIZE - out;
}

/* Seals a KeyUpdate if the client asked for one, or our key is used up; our next record has the new
 * key. Returns its size, 0 if none is due, or a negative errno. */
static ssize_t seal_key_update(struct records *records, uint8_t *out)
{
    static const uint8_t message[RECORDS_MESSAGE_SIZE] = {KEY_UPDATE, 0, 0, 1, 0};
    struct iovec part = {(void *)(uintptr_t)message, sizeof message};
    struct records_source source = {&part, 1, 0};
    bool due = records->out.sequence >= suites[records->suite].key_life;
    if (!records->tls_1_3 || (!due && !records->answer_due))
        return 0;
    ssize_t size = seal_record(records, TYPE_HANDSHAKE, &source, sizeof message, out);
    if (size < 0)
        return size;
    records->answer_due = false;
    int error = renew_key(records->suite, &records->out);
    return error != 0 ? error : size;
}

ssize_t records_seal(
    struct records *records, struct records_source *source, uint8_t *out, size_t room)
{
    size_t done = 0, size;
    while (room - done >= RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX &&
           (size = bytes_left(source, records->data_max)) > 0) {
        ssize_t update = seal_key_update(records, out + done);
        if (update < 0)
            return update;
        done += (size_t)update;
        ssize_t sealed = seal_record(records, TYPE_DATA, source, size, out + done);
        if (sealed < 0)
            return sealed;
        done += (size_t)sealed;
    }
    return (ssize_t)done;
}

ssize_t records_seal_alert(
    struct records *records, enum records_alert alert, uint8_t out[static RECORDS_CONTROL_MAX])
{
    uint8_t message[ALERT_SIZE] = {
        alert == RECORDS_CLOSE_NOTIFY ? ALERT_WARNING : ALERT_FATAL, (uint8_t)alert};
    struct iovec part = {message, sizeof message};
    struct records_source source = {&part, 1, 0};
    return seal_record(records, TYPE_ALERT, &source, sizeof message, out);
}
