/* The record layer of TLS: the values of RFC 8448; every suite with OpenSSL's client, whose
 * handshake goes through the real greeting; and all that a client may do to its records. */
#include "base/clock.h"
#include "proto/greeting.h"
#include "proto/tls.h"
#include "suite.h"
#include "tls/records.h"
#include "tls/tls_stream.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOKEN "0123456789abcdefABCDEF_Z0123456789abcdefABCDEF_Z0123456789abcdef"
#define LINE "please relay " TOKEN "\n"

enum {
    ALERT = 21,
    HANDSHAKE = 22,
    DATA = 23,
    TAG_SIZE = 16,
    BUFFER_SIZE = 1 << 20,
};

static const struct suite {
    const char *name; /* OpenSSL's name */
    int version;
    enum records_suite suite;
    const char *cipher;
} suites[] = {
    {"TLS_AES_128_GCM_SHA256", TLS1_3_VERSION, RECORDS_AES_128_GCM, "AES-128-GCM"},
    {"TLS_AES_256_GCM_SHA384", TLS1_3_VERSION, RECORDS_AES_256_GCM, "AES-256-GCM"},
    {"TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION, RECORDS_CHACHA20_POLY1305,
        "ChaCha20-Poly1305"},
    {"ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION, RECORDS_AES_128_GCM, "AES-128-GCM"},
    {"ECDHE-ECDSA-AES256-GCM-SHA384", TLS1_2_VERSION, RECORDS_AES_256_GCM, "AES-256-GCM"},
    {"ECDHE-ECDSA-CHACHA20-POLY1305", TLS1_2_VERSION, RECORDS_CHACHA20_POLY1305,
        "ChaCha20-Poly1305"},
};

enum {
    SUITES = sizeof suites / sizeof suites[0],
    SUITES_1_3 = 3,
};

static char directory[64], certificate_path[96], table_path[96];
static struct options options = {.certfile = certificate_path, .keyfile = certificate_path};
static struct tls *tls;
static struct pair_table *table;
static SSL_CTX *context;
static SSL *client;
static int client_fd, server_fd;
static struct handoff handoff;
static struct tls_stream *server;
static struct budget_account account;
static uint8_t buffer[BUFFER_SIZE], pattern[BUFFER_SIZE];

/* ---- a certificate, a client, a connection --------------------------------------- */

static void write_certificate(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    FILE *file = fopen(certificate_path, "w");
    ck_assert(key != NULL && certificate != NULL && file != NULL);
    ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notBefore(certificate), -3600));
    ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notAfter(certificate), 3600));
    ck_assert_int_eq(X509_set_pubkey(certificate, key), 1);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    ck_assert_int_eq(PEM_write_X509(file, certificate), 1);
    ck_assert_int_eq(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    ck_assert_int_eq(fclose(file), 0);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void set_up(void)
{
    strcpy(directory, "/tmp/check-records-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(certificate_path, sizeof certificate_path, "%s/certificate", directory);
    (void)snprintf(table_path, sizeof table_path, "%s/table", directory);
    write_certificate();
    ck_assert_int_eq(tls_load(&options, &tls), 0);
    ck_assert_int_eq(pair_open(table_path, 64, &table), 0);
    context = SSL_CTX_new(TLS_client_method());
    ck_assert_ptr_nonnull(context);
    randombytes_buf(pattern, sizeof pattern);
    server = NULL;
    client = NULL;
}

static void close_connection(void)
{
    tls_stream_close(server);
    SSL_free(client);
    server = NULL;
    client = NULL;
    close(client_fd);
    close(server_fd);
}

static void tear_down(void)
{
    if (client != NULL)
        close_connection();
    SSL_CTX_free(context);
    pair_close(table);
    tls_close(tls);
    (void)unlink(certificate_path);
    (void)unlink(table_path);
    ck_assert_int_eq(rmdir(directory), 0);
}

/* The client sends `text` after its handshake, with `at_once` bytes in each record. */
struct script {
    const char *text;
    size_t at_once;
};

static void *shake_hands(void *argument)
{
    const struct script *script = argument;
    size_t size = strlen(script->text);
    ck_assert_int_eq(SSL_connect(client), 1);
    for (size_t at = 0; at < size; at += script->at_once) {
        size_t here = size - at < script->at_once ? size - at : script->at_once;
        ck_assert_int_eq(SSL_write(client, script->text + at, (int)here), (int)here);
    }
    return NULL;
}

static enum pair_outcome greet(const struct suite *suite, const char *text, size_t at_once)
{
    struct script script = {text, at_once};
    struct pair_request request;
    pthread_t thread;
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    client_fd = ends[0];
    server_fd = ends[1];
    ck_assert_int_eq(fcntl(server_fd, F_SETFL, O_NONBLOCK), 0);
    SSL_CTX_set_min_proto_version(context, suite->version);
    SSL_CTX_set_max_proto_version(context, suite->version);
    ck_assert_int_eq(suite->version == TLS1_3_VERSION
                         ? SSL_CTX_set_ciphersuites(context, suite->name)
                         : SSL_CTX_set_cipher_list(context, suite->name),
        1);
    client = SSL_new(context);
    ck_assert_int_eq(SSL_set_fd(client, client_fd), 1);
    struct greeting greeting = {
        .fd = server_fd, .deadline = clock_now() + 10000, .table = table, .tls = tls};
    handoff = (struct handoff){.kind = HANDOFF_CONNECTION};
    ck_assert_int_eq(pthread_create(&thread, NULL, shake_hands, &script), 0);
    enum pair_outcome outcome = protocols[PROTOCOL_TLS]->greet(&greeting, &request, &handoff);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(fcntl(client_fd, F_SETFL, O_NONBLOCK), 0);
    return outcome;
}

static void open_session(void)
{
    ck_assert(records_are_sound(&handoff.records));
    server = tls_stream_open(&handoff.records, &account);
    ck_assert_ptr_nonnull(server);
}

static void connect_client(int suite)
{
    ck_assert_int_eq(greet(&suites[suite], LINE, sizeof LINE), PAIR_HAPPY);
    ck_assert_int_eq(handoff.records.suite, suites[suite].suite);
    open_session();
}

/* ---- bytes ----------------------------------------------------------------------- */

static void server_writes(const void *bytes, size_t size)
{
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct records_source source = {&part, 1, 0};
    uint8_t *sealed;
    ssize_t count;
    while ((count = tls_stream_seal(server, &source, &sealed)) > 0)
        ck_assert_int_eq(send(server_fd, sealed, (size_t)count, 0), count);
    ck_assert_int_eq(count, 0);
}

static void client_reads(const void *expected, size_t size)
{
    for (size_t done = 0; done < size;) {
        int count = SSL_read(client, buffer + done, (int)(size - done));
        ck_assert_int_gt(count, 0);
        done += (size_t)count;
    }
    ck_assert_mem_eq(buffer, expected, size);
}

/* Reads all that has come. Returns how many bytes that is; *end: why there is no more. */
static size_t server_reads_all(int *end)
{
    size_t done = 0;
    for (;;) {
        ssize_t count = tls_stream_read(server, server_fd, buffer + done, sizeof buffer - done);
        if (count > 0) {
            done += (size_t)count;
        } else if (count == 0 || errno != EINTR) {
            *end = count == 0 ? 0 : errno;
            return done;
        }
    }
}

static void server_reads(const void *expected, size_t size)
{
    int end;
    ck_assert_uint_eq(server_reads_all(&end), size);
    ck_assert_mem_eq(buffer, expected, size);
    ck_assert_int_eq(end, EAGAIN);
}

static void client_writes(const void *bytes, size_t size)
{
    ck_assert_int_eq(SSL_write(client, bytes, (int)size), (int)size);
}

static void expect_traffic(void)
{
    client_writes("to the server", 13);
    server_reads("to the server", 13);
    server_writes("to the client", 13);
    client_reads("to the client", 13);
}

static void server_fails(enum records_alert alert)
{
    int end;
    ck_assert_uint_eq(server_reads_all(&end), 0);
    ck_assert_int_eq(end, EPROTO);
    ck_assert_int_eq(server->records.alert, alert);
}

/* ---- records that OpenSSL would not send ----------------------------------------- */

/* The keys of a session as the client has them. */
static struct records other_side(const struct records *records)
{
    struct records other = *records;
    other.in = records->out;
    other.out = records->in;
    return other;
}

/* One record of any type, with any padding. Returns its size. */
static size_t seal_as(struct records *from, int suite, uint8_t type, const void *bytes, size_t size,
    size_t padding, uint8_t *out)
{
    bool explicit_nonce = !from->tls_1_3 && from->suite != RECORDS_CHACHA20_POLY1305;
    size_t head = RECORDS_HEADER + (explicit_nonce ? 8 : 0), aad_size = RECORDS_HEADER;
    size_t inner = size + (from->tls_1_3 ? 1 + padding : 0), length = head - 5 + inner + TAG_SIZE;
    uint8_t nonce[RECORDS_IV_SIZE], number[8], aad[13];
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, suites[suite].cipher, NULL);
    EVP_CIPHER_CTX *sealer = EVP_CIPHER_CTX_new();
    int count;
    for (int i = 0; i < 8; i++)
        number[i] = (uint8_t)(from->out.sequence >> (56 - 8 * i));
    out[0] = from->tls_1_3 ? DATA : type;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)(length >> 8);
    out[4] = (uint8_t)length;
    memcpy(nonce, from->out.iv, sizeof nonce);
    for (size_t i = 0; i < 8 && !explicit_nonce; i++)
        nonce[4 + i] ^= number[i];
    memcpy(aad, out, RECORDS_HEADER);
    if (!from->tls_1_3) {
        memcpy(aad, number, 8);
        memcpy(aad + 8, out, 3);
        aad[11] = (uint8_t)(size >> 8);
        aad[12] = (uint8_t)size;
        aad_size = sizeof aad;
    }
    if (explicit_nonce) {
        memcpy(nonce + 4, number, 8);
        memcpy(out + RECORDS_HEADER, number, 8);
    }
    memcpy(out + head, bytes, size);
    if (from->tls_1_3) {
        out[head + size] = type;
        memset(out + head + size + 1, 0, padding);
    }
    ck_assert(
        EVP_EncryptInit_ex(sealer, cipher, NULL, from->out.key, nonce) == 1 &&
        EVP_EncryptUpdate(sealer, NULL, &count, aad, (int)aad_size) == 1 &&
        EVP_EncryptUpdate(sealer, out + head, &count, out + head, (int)inner) == 1 &&
        EVP_EncryptFinal_ex(sealer, out + head + inner, &count) == 1 &&
        EVP_CIPHER_CTX_ctrl(sealer, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, out + head + inner) == 1);
    EVP_CIPHER_CTX_free(sealer);
    EVP_CIPHER_free(cipher);
    from->out.sequence++;
    return head + inner + TAG_SIZE;
}

static void send_as(struct records *from, int suite, uint8_t type, const void *bytes, size_t size)
{
    uint8_t record[RECORDS_RECORD_MAX + 64];
    size_t count = seal_as(from, suite, type, bytes, size, 0, record);
    ck_assert_int_eq(send(client_fd, record, count, 0), (ssize_t)count);
}

/* ---- RFC 8448, section 3 --------------------------------------------------------- */

static const char client_secret[] =
    "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
static const char server_secret[] =
    "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
static const char client_data[] = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f"
                                  "2b9819a8a5b46b395bd54a9a20441e2b"
                                  "62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
static const char server_data[] = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36"
                                  "e30efaf97d90e6dffc602dcb501a59a8"
                                  "fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
static const char client_alert[] = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
static const char server_alert[] = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

static size_t from_hex(const char *hex, uint8_t *out, size_t room)
{
    size_t size;
    ck_assert_int_eq(sodium_hex2bin(out, room, hex, strlen(hex), NULL, &size, NULL), 0);
    return size;
}

static void expect_hex(const uint8_t *bytes, size_t size, const char *expected)
{
    uint8_t wanted[256];
    ck_assert_uint_eq(from_hex(expected, wanted, sizeof wanted), size);
    ck_assert_mem_eq(bytes, wanted, size);
}

static void start_rfc_8448(struct records *records)
{
    uint8_t in[32], out[32];
    from_hex(client_secret, in, sizeof in);
    from_hex(server_secret, out, sizeof out);
    ck_assert_int_eq(records_prepare(), 0);
    ck_assert_int_eq(records_start_1_3(records, RECORDS_AES_128_GCM, in, out), 0);
}

START_TEST(keys_are_derived_as_in_the_rfc)
{
    struct records records;
    start_rfc_8448(&records);
    expect_hex(records.in.key, 16, "17422dda596ed5d9acd890e3c63f5051");
    expect_hex(records.in.iv, 12, "5b78923dee08579033e523d9");
    expect_hex(records.out.key, 16, "9f02283b6c9c07efc26bb9f2ac92e356");
    expect_hex(records.out.iv, 12, "cf782b88dd83549aadf1e984");
}
END_TEST

START_TEST(records_of_the_rfc_are_opened_and_sealed)
{
    struct records records;
    uint8_t record[128], plain[128], sealed[RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX], counting[50];
    size_t size;
    start_rfc_8448(&records);
    for (size_t i = 0; i < sizeof counting; i++)
        counting[i] = (uint8_t)i;
    size_t count = from_hex(client_data, record, sizeof record);
    ck_assert_int_eq(records_open(&records, record, count, plain, &size), RECORDS_DATA);
    ck_assert_uint_eq(size, sizeof counting);
    ck_assert_mem_eq(plain, counting, size);
    count = from_hex(client_alert, record, sizeof record);
    ck_assert_int_eq(records_open(&records, record, count, plain, &size), RECORDS_CLOSED);

    records.out.sequence = 1; /* the first record of the RFC's server was a ticket; we send none */
    struct iovec part = {counting, sizeof counting};
    struct records_source source = {&part, 1, 0};
    ssize_t made = records_seal(&records, &source, sealed, sizeof sealed);
    ck_assert_int_gt(made, 0);
    expect_hex(sealed, (size_t)made, server_data);
    made = records_seal_alert(&records, RECORDS_CLOSE_NOTIFY, sealed);
    ck_assert_int_gt(made, 0);
    expect_hex(sealed, (size_t)made, server_alert);
}
END_TEST

/* ---- with OpenSSL's client ------------------------------------------------------- */

START_TEST(bytes_of_every_size_go_both_ways)
{
    static const size_t sizes[] = {
        1, 2, 15, 16, 17, 255, 256, 4095, 16383, 16384, 16385, 32768, 40000, 65536, 100000};
    connect_client(_i);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        client_writes(pattern, sizes[i]);
        server_reads(pattern, sizes[i]);
        server_writes(pattern, sizes[i]);
        client_reads(pattern, sizes[i]);
    }
}
END_TEST

START_TEST(parts_are_sealed_as_one)
{
    struct iovec parts[20];
    struct records_source source = {parts, 20, 0};
    uint8_t *sealed;
    size_t total = 0;
    connect_client(_i);
    for (size_t i = 0; i < 20; i++) {
        size_t size = i == 7 ? 0 : i == 9 ? 40000 : 3 * i + 1;
        parts[i] = (struct iovec){pattern + total, size};
        total += size;
    }
    ssize_t count = tls_stream_seal(server, &source, &sealed);
    ck_assert_int_gt(count, 0);
    ck_assert_int_eq(send(server_fd, sealed, (size_t)count, 0), count);
    client_reads(pattern, total);
    ck_assert_int_eq(tls_stream_seal(server, &source, &sealed), 0);
}
END_TEST

START_TEST(connections_do_not_share_their_keys)
{
    struct tls_stream *first;
    int first_fd, first_client_fd;
    SSL *first_client;
    connect_client(_i);
    first = server, first_fd = server_fd, first_client_fd = client_fd, first_client = client;
    connect_client(_i);
    for (int i = 0; i < 6; i++) {
        struct tls_stream *other = server;
        int fd = server_fd;
        SSL *its_client = client;
        expect_traffic();
        server = first, server_fd = first_fd, client = first_client;
        first = other, first_fd = fd, first_client = its_client;
    }
    tls_stream_close(first);
    SSL_free(first_client);
    expect_traffic();
    close(first_client_fd);
    close(first_fd);
}
END_TEST

START_TEST(the_client_changes_its_key_and_has_ours_changed)
{
    connect_client(_i);
    for (int i = 0; i < 3; i++) {
        struct records_key before = server->records.out;
        ck_assert_int_eq(SSL_key_update(client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        expect_traffic();
        ck_assert_mem_eq(server->records.out.key, before.key, sizeof before.key);
        ck_assert_int_eq(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED), 1);
        expect_traffic();
        ck_assert_mem_ne(server->records.out.key, before.key, sizeof before.key);
        ck_assert_uint_eq(server->records.out.sequence, 1);
    }
}
END_TEST

START_TEST(a_client_that_asks_often_for_our_next_key_gets_one)
{
    connect_client(_i);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED), 1);
        client_writes("x", 1);
    }
    int end;
    ck_assert_uint_eq(server_reads_all(&end), 100);
    struct records client_keys = other_side(&server->records);
    uint8_t plain[64], *sealed;
    struct iovec part = {pattern, 1};
    struct records_source source = {&part, 1, 0};
    ssize_t count = tls_stream_seal(server, &source, &sealed);
    size_t length = records_measure(sealed, (size_t)count), size;
    ck_assert_int_eq(records_open(&client_keys, sealed, length, plain, &size), RECORDS_NEW_KEY);
    ck_assert_int_eq(
        records_open(&client_keys, sealed + length, (size_t)count - length, plain, &size),
        RECORDS_DATA);
    ck_assert_uint_eq(size, 1);
}
END_TEST

START_TEST(our_key_is_changed_after_its_number_of_records)
{
    struct records keys;
    uint8_t plain[64], *sealed;
    size_t size;
    connect_client(_i);
    server->records.out.sequence = RECORDS_KEY_LIFE - 1;
    keys = other_side(&server->records);
    for (int i = 0; i < 2; i++) {
        struct iovec part = {pattern, 10};
        struct records_source source = {&part, 1, 0};
        ssize_t count = tls_stream_seal(server, &source, &sealed);
        size_t length = records_measure(sealed, (size_t)count);
        bool changes = i == 1 && suites[_i].version == TLS1_3_VERSION &&
                       suites[_i].suite != RECORDS_CHACHA20_POLY1305;
        enum records_event event = records_open(&keys, sealed, length, plain, &size);
        ck_assert_int_eq(event, changes ? RECORDS_NEW_KEY : RECORDS_DATA);
        ck_assert(changes == (length < (size_t)count));
    }
}
END_TEST

START_TEST(no_sequence_number_is_used_twice)
{
    struct iovec part = {pattern, 10};
    struct records_source source = {&part, 1, 0};
    uint8_t *sealed;
    connect_client(_i);
    server->records.out.sequence = server->records.in.sequence = UINT64_MAX;
    ck_assert_int_eq(tls_stream_seal(server, &source, &sealed), -EOVERFLOW);
    client_writes("x", 1);
    server_fails(RECORDS_INTERNAL_ERROR);
}
END_TEST

START_TEST(records_are_as_short_as_the_client_asked_for)
{
    uint8_t *sealed;
    struct iovec part = {pattern, 10000};
    struct records_source source = {&part, 1, 0};
    ck_assert_int_eq(
        SSL_CTX_set_tlsext_max_fragment_length(context, TLSEXT_max_fragment_length_512), 1);
    connect_client(_i);
    expect_traffic();
    server_writes(pattern, 10000);
    client_reads(pattern, 10000);
    ssize_t size = tls_stream_seal(server, &source, &sealed);
    for (size_t at = 0, length; at < (size_t)size; at += length) {
        length = records_measure(sealed + at, (size_t)size - at);
        ck_assert_uint_gt(length, 0);
        ck_assert_uint_le(length, 512 + RECORDS_HEADER + 8 + 1 + TAG_SIZE);
    }
}
END_TEST

START_TEST(padding_is_removed)
{
    connect_client(_i);
    ck_assert_int_eq(SSL_set_block_padding(client, 4096), 1);
    for (size_t size = 1; size < 10000; size += 777) {
        client_writes(pattern, size);
        server_reads(pattern, size);
    }
}
END_TEST

START_TEST(close_notify_is_sent_and_received)
{
    uint8_t *sealed;
    int end;
    connect_client(_i);
    client_writes("last", 4);
    ck_assert_int_eq(SSL_shutdown(client), 0);
    ck_assert_uint_eq(server_reads_all(&end), 4);
    ck_assert_int_eq(end, 0);
    server_writes("answer", 6);
    ssize_t count = tls_stream_seal_end(server, RECORDS_CLOSE_NOTIFY, &sealed);
    ck_assert_int_eq(send(server_fd, sealed, (size_t)count, 0), count);
    ck_assert_int_eq(tls_stream_seal_end(server, RECORDS_CLOSE_NOTIFY, &sealed), 0);
    client_reads("answer", 6);
    ck_assert_int_eq(SSL_read(client, buffer, 1), 0);
    ck_assert_int_eq(SSL_get_shutdown(client), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}
END_TEST

/* ---- records in pieces and floods ------------------------------------------------ */

START_TEST(a_record_received_byte_by_byte_is_opened_when_it_is_whole)
{
    uint8_t record[RECORDS_RECORD_MAX];
    connect_client(_i);
    struct records from = other_side(&server->records);
    size_t size = seal_as(&from, _i, DATA, pattern, 300, 0, record);
    for (size_t i = 0; i < size; i++) {
        int end;
        ck_assert_uint_eq(server->kept_size, i);
        ck_assert_int_eq(send(client_fd, record + i, 1, 0), 1);
        ck_assert_uint_eq(server_reads_all(&end), i == size - 1 ? 300 : 0);
        ck_assert_int_eq(end, EAGAIN);
    }
    ck_assert_ptr_null(server->kept);
    ck_assert_mem_eq(buffer, pattern, 300);
}
END_TEST

START_TEST(a_flood_of_empty_records_is_read_in_turns)
{
    size_t size = 0;
    int turns = 0;
    connect_client(_i);
    struct records from = other_side(&server->records);
    for (int i = 0; i < 2000; i++)
        size += seal_as(&from, _i, DATA, "", 0, 0, buffer + size);
    ck_assert_int_eq(send(client_fd, buffer, size, 0), (ssize_t)size);
    while (tls_stream_read(server, server_fd, buffer, sizeof buffer) < 0 && errno == EINTR)
        turns++;
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_ge(turns, 4);
    ck_assert_uint_eq(server->records.in.sequence, from.out.sequence);
}
END_TEST

START_TEST(a_line_may_come_in_any_number_of_records)
{
    for (size_t at_once = 1; at_once < sizeof LINE; at_once += 10) {
        ck_assert_int_eq(greet(&suites[_i], LINE, at_once), PAIR_HAPPY);
        open_session();
        expect_traffic();
        close_connection();
    }
}
END_TEST

START_TEST(what_follows_in_the_same_record_is_left_for_the_forwarder)
{
    int end;
    ck_assert_int_eq(greet(&suites[_i], LINE "and more", sizeof LINE "and more"), PAIR_IMPATIENT);
    ck_assert_uint_eq(handoff.records.skip, sizeof LINE - 1);
    open_session();
    ck_assert_uint_eq(server_reads_all(&end), 8);
    ck_assert_mem_eq(buffer, "and more", 8);
    expect_traffic();
}
END_TEST

/* ---- records that are refused ---------------------------------------------------- */

START_TEST(any_flipped_bit_ends_the_connection)
{
    uint8_t record[64], plain[64];
    size_t out_size;
    connect_client(_i);
    struct records from = other_side(&server->records);
    size_t size = seal_as(&from, _i, DATA, pattern, 20, 0, record);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        struct records records = server->records;
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
        size_t length = records_measure(record, size);
        if (length > 0)
            ck_assert_int_eq(
                records_open(&records, record, length, plain, &out_size), RECORDS_FAILED);
        else
            ck_assert(bit / 8 == 3 ||
                      bit / 8 == 4); /* the size grew: the rest of the record is waited for */
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ck_assert_int_eq(records_open(&server->records, record, size, plain, &out_size), RECORDS_DATA);
}
END_TEST

START_TEST(the_rest_of_a_truncated_record_is_waited_for)
{
    uint8_t record[64];
    connect_client(_i);
    struct records from = other_side(&server->records);
    size_t size = seal_as(&from, _i, DATA, pattern, 20, 0, record);
    for (size_t cut = 0; cut < size; cut++)
        ck_assert_uint_eq(records_measure(record, cut), 0);
    ck_assert_uint_eq(records_measure(record, size), size);
    int end;
    ck_assert_int_eq(send(client_fd, record, size - 1, 0), (ssize_t)size - 1);
    ck_assert_int_eq(shutdown(client_fd, SHUT_WR), 0);
    ck_assert_uint_eq(server_reads_all(&end), 0);
    ck_assert_int_eq(end, 0);
}
END_TEST

START_TEST(a_repeated_record_ends_the_connection)
{
    uint8_t record[64];
    int end;
    connect_client(_i);
    struct records from = other_side(&server->records);
    size_t size = seal_as(&from, _i, DATA, pattern, 20, 0, record);
    ck_assert_int_eq(send(client_fd, record, size, 0), (ssize_t)size);
    ck_assert_uint_eq(server_reads_all(&end), 20);
    ck_assert_int_eq(send(client_fd, record, size, 0), (ssize_t)size);
    server_fails(RECORDS_BAD_RECORD_MAC);
}
END_TEST

START_TEST(a_missing_record_ends_the_connection)
{
    uint8_t record[64];
    connect_client(_i);
    struct records from = other_side(&server->records);
    (void)seal_as(&from, _i, DATA, pattern, 20, 0, record);
    send_as(&from, _i, DATA, pattern, 20);
    server_fails(RECORDS_BAD_RECORD_MAC);
}
END_TEST

START_TEST(a_record_may_not_be_too_large)
{
    static const uint8_t head[] = {DATA, 3, 3, 0x41, 1};
    int end;
    connect_client(_i);
    struct records from = other_side(&server->records);
    send_as(&from, _i, DATA, pattern, RECORDS_DATA_MAX);
    ck_assert_uint_eq(server_reads_all(&end), RECORDS_DATA_MAX);
    struct tls_stream *kept = server;
    server = tls_stream_open(&kept->records, &account);
    send_as(&from, _i, DATA, pattern, RECORDS_DATA_MAX + 1);
    server_fails(RECORDS_RECORD_OVERFLOW);
    tls_stream_close(server);
    server = kept;
    ck_assert_int_eq(send(client_fd, head, sizeof head, 0), (ssize_t)sizeof head);
    server_fails(RECORDS_RECORD_OVERFLOW);
}
END_TEST

START_TEST(a_plain_record_is_refused)
{
    static const uint8_t records[][8] = {
        {20, 3, 3, 0, 1, 1},              /* change_cipher_spec */
        {ALERT, 3, 3, 0, 2, 1, 0},        /* close_notify */
        {HANDSHAKE, 3, 3, 0, 3, 0, 0, 0}, /* as a HelloRequest */
        {DATA, 3, 3, 0, 3, 'a', 'b', 'c'},
        {DATA, 3, 3, 0, 0},
    };
    connect_client(_i);
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        struct tls_stream *kept = server;
        server = tls_stream_open(&kept->records, &account);
        size_t size = 5u + records[i][4];
        ck_assert_int_eq(send(client_fd, records[i], size, 0), (ssize_t)size);
        bool unexpected = records[i][0] != DATA && server->records.tls_1_3;
        server_fails(unexpected ? RECORDS_UNEXPECTED_MESSAGE : RECORDS_BAD_RECORD_MAC);
        tls_stream_close(server);
        server = kept;
    }
    expect_traffic();
}
END_TEST

static void expect_refused(int suite, uint8_t type, const char *hex, enum records_alert alert)
{
    uint8_t bytes[64];
    size_t size = from_hex(hex, bytes, sizeof bytes);
    struct tls_stream *kept = server;
    server = tls_stream_open(&kept->records, &account);
    struct records from = other_side(&server->records);
    send_as(&from, suite, type, bytes, size);
    server_fails(alert);
    tls_stream_close(server);
    server = kept;
}

START_TEST(after_the_handshake_only_a_key_update_is_accepted)
{
    static const struct {
        const char *hex;
        enum records_alert alert;
    } messages[] = {
        {"", RECORDS_UNEXPECTED_MESSAGE},
        {"1800000102", RECORDS_ILLEGAL_PARAMETER},
        {"180000010000", RECORDS_UNEXPECTED_MESSAGE},
        {"18000000", RECORDS_DECODE_ERROR},
        {"1800000200", RECORDS_DECODE_ERROR},
        {"180000020000", RECORDS_DECODE_ERROR},
        {"00000000", RECORDS_UNEXPECTED_MESSAGE},
        {"010000050303000000", RECORDS_UNEXPECTED_MESSAGE},
        {"0400000100", RECORDS_UNEXPECTED_MESSAGE},
        {"180000010018000001", RECORDS_UNEXPECTED_MESSAGE},
    };
    bool old = suites[_i].version == TLS1_2_VERSION;
    connect_client(_i);
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++)
        expect_refused(
            _i, HANDSHAKE, messages[i].hex, old ? RECORDS_UNEXPECTED_MESSAGE : messages[i].alert);
    if (old) {
        expect_refused(_i, HANDSHAKE, "18", RECORDS_UNEXPECTED_MESSAGE);
        expect_refused(_i, HANDSHAKE, "1800000100", RECORDS_UNEXPECTED_MESSAGE);
    }
    expect_refused(_i, 20, "01", RECORDS_UNEXPECTED_MESSAGE);
    expect_refused(_i, 24, "0100", RECORDS_UNEXPECTED_MESSAGE);
    if (!old)
        expect_refused(_i, 0, "000000", RECORDS_UNEXPECTED_MESSAGE); /* nothing but padding */
    expect_traffic();
}
END_TEST

START_TEST(a_key_update_may_come_in_pieces)
{
    static const uint8_t message[] = {24, 0, 0, 1, 0};
    connect_client(_i);
    for (size_t piece = 1; piece < sizeof message; piece++) {
        struct tls_stream *kept = server;
        server = tls_stream_open(&kept->records, &account);
        struct records from = other_side(&server->records);
        for (size_t at = 0; at < sizeof message; at += piece)
            send_as(&from, _i, HANDSHAKE, message + at,
                sizeof message - at < piece ? sizeof message - at : piece);
        int end;
        ck_assert_uint_eq(server_reads_all(&end), 0);
        ck_assert_int_eq(end, EAGAIN);
        ck_assert_mem_ne(server->records.in.key, kept->records.in.key, RECORDS_KEY_MAX);
        from = other_side(&server->records);
        send_as(&from, _i, DATA, "data", 4);
        server_reads("data", 4);
        tls_stream_close(server);
        server = kept;
    }
}
END_TEST

START_TEST(no_record_may_come_between_the_pieces_of_a_key_update)
{
    static const uint8_t half[] = {24, 0}, end[] = {1, 0};
    connect_client(_i);
    for (int i = 0; i < 2; i++) {
        struct tls_stream *kept = server;
        server = tls_stream_open(&kept->records, &account);
        struct records from = other_side(&server->records);
        send_as(&from, _i, HANDSHAKE, half, sizeof half);
        send_as(&from, _i, i == 0 ? DATA : ALERT, end, sizeof end);
        server_fails(RECORDS_UNEXPECTED_MESSAGE);
        tls_stream_close(server);
        server = kept;
    }
}
END_TEST

/* The client changes its key `count` times, with `data` records before each change. */
static enum records_event change_keys(struct records *records, int suite, int count, int data)
{
    static const uint8_t message[] = {24, 0, 0, 1, 0};
    uint8_t record[64], plain[64];
    size_t size, out_size;
    enum records_event event = RECORDS_DATA;
    for (int i = 0; i < count && event != RECORDS_FAILED; i++) {
        struct records from = other_side(records);
        for (int j = 0; j < data; j++) {
            size = seal_as(&from, suite, DATA, "data", 4, 0, record);
            ck_assert_int_eq(records_open(records, record, size, plain, &out_size), RECORDS_DATA);
        }
        size = seal_as(&from, suite, HANDSHAKE, message, sizeof message, 0, record);
        event = records_open(records, record, size, plain, &out_size);
    }
    return event;
}

START_TEST(key_updates_without_data_and_without_end_end_the_connection)
{
    connect_client(_i);
    struct records *records = &server->records;
    ck_assert_int_eq(change_keys(records, _i, RECORDS_UPDATES_MAX, 0), RECORDS_NEW_KEY);
    records_forgive(records, 2);
    ck_assert_int_eq(change_keys(records, _i, 2, 0), RECORDS_NEW_KEY);
    ck_assert_int_eq(change_keys(records, _i, 1, 0), RECORDS_FAILED);
    ck_assert_int_eq(records->alert, RECORDS_UNEXPECTED_MESSAGE);
}
END_TEST

START_TEST(key_updates_with_data_may_go_on_without_end)
{
    connect_client(_i);
    ck_assert_int_eq(
        change_keys(&server->records, _i, 3 * RECORDS_UPDATES_MAX, 16), RECORDS_NEW_KEY);
}
END_TEST

START_TEST(all_alerts_but_two_end_a_connection)
{
    bool old = suites[_i].version == TLS1_2_VERSION;
    connect_client(_i);
    expect_refused(_i, ALERT, "0228", RECORDS_NO_ALERT);
    if (old)
        expect_refused(_i, ALERT, "025a", RECORDS_NO_ALERT);
    expect_refused(_i, ALERT, "", RECORDS_UNEXPECTED_MESSAGE);
    expect_refused(_i, ALERT, "01", RECORDS_DECODE_ERROR);
    expect_refused(_i, ALERT, "010000", RECORDS_DECODE_ERROR);
    if (!old)
        expect_refused(_i, ALERT, "0128", RECORDS_NO_ALERT);
}
END_TEST

START_TEST(a_warning_alert_changes_nothing)
{
    static const uint8_t canceled[] = {1, RECORDS_USER_CANCELED};
    connect_client(_i);
    struct records from = other_side(&server->records);
    send_as(&from, _i, ALERT, canceled, sizeof canceled);
    send_as(&from, _i, DATA, "data", 4);
    server_reads("data", 4);
}
END_TEST

START_TEST(an_alert_tells_the_client_what_it_broke)
{
    uint8_t *sealed;
    connect_client(_i);
    ssize_t count = tls_stream_seal_end(server, RECORDS_BAD_RECORD_MAC, &sealed);
    ck_assert_int_eq(send(server_fd, sealed, (size_t)count, 0), count);
    int result = SSL_read(client, buffer, 1);
    ck_assert_int_eq(SSL_get_error(client, result), SSL_ERROR_SSL);
    ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
    ck_assert_int_eq(tls_stream_seal_end(server, RECORDS_NO_ALERT, &sealed), 0);
}
END_TEST

/* ---- the session ----------------------------------------------------------------- */

START_TEST(a_session_is_small_and_can_be_wiped)
{
    static const struct records nothing;
    struct records records;
    ck_assert_uint_le(sizeof records, 256);
    start_rfc_8448(&records);
    ck_assert(records_are_sound(&records));
    records_wipe(&records);
    ck_assert_mem_eq(&records, &nothing, sizeof records);
    ck_assert(!records_are_sound(&records));
}
END_TEST

START_TEST(a_session_with_impossible_values_is_refused)
{
    struct records records;
    start_rfc_8448(&records);
    records.suite = RECORDS_CHACHA20_POLY1305 + 1;
    ck_assert(!records_are_sound(&records));
    start_rfc_8448(&records);
    records.skip = RECORDS_DATA_MAX;
    ck_assert(!records_are_sound(&records));
    start_rfc_8448(&records);
    records.data_max = RECORDS_FRAGMENT_MIN - 1;
    ck_assert(!records_are_sound(&records));
    start_rfc_8448(&records);
    records.message_size = RECORDS_MESSAGE_SIZE;
    ck_assert(!records_are_sound(&records));
    start_rfc_8448(&records);
    records.updates = RECORDS_UPDATES_MAX + 1;
    ck_assert(!records_are_sound(&records));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("records");
    TCase *rfc = tcase_create("RFC 8448"), *tests = tcase_create("beside OpenSSL");
    tcase_add_test(rfc, keys_are_derived_as_in_the_rfc);
    tcase_add_test(rfc, records_of_the_rfc_are_opened_and_sealed);
    tcase_add_test(rfc, a_session_is_small_and_can_be_wiped);
    tcase_add_test(rfc, a_session_with_impossible_values_is_refused);
    suite_add_tcase(suite, rfc);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, bytes_of_every_size_go_both_ways, 0, SUITES);
    tcase_add_loop_test(tests, parts_are_sealed_as_one, 0, SUITES);
    tcase_add_loop_test(tests, connections_do_not_share_their_keys, 0, SUITES);
    tcase_add_loop_test(tests, the_client_changes_its_key_and_has_ours_changed, 0, SUITES_1_3);
    tcase_add_loop_test(tests, a_client_that_asks_often_for_our_next_key_gets_one, 0, SUITES_1_3);
    tcase_add_loop_test(tests, our_key_is_changed_after_its_number_of_records, 0, SUITES);
    tcase_add_loop_test(tests, no_sequence_number_is_used_twice, 0, SUITES);
    tcase_add_loop_test(tests, records_are_as_short_as_the_client_asked_for, 0, SUITES);
    tcase_add_loop_test(tests, padding_is_removed, 0, SUITES_1_3);
    tcase_add_loop_test(tests, close_notify_is_sent_and_received, 0, SUITES);
    tcase_add_loop_test(
        tests, a_record_received_byte_by_byte_is_opened_when_it_is_whole, 0, SUITES);
    tcase_add_loop_test(tests, a_flood_of_empty_records_is_read_in_turns, 0, SUITES);
    tcase_add_loop_test(tests, a_line_may_come_in_any_number_of_records, 0, SUITES);
    tcase_add_loop_test(
        tests, what_follows_in_the_same_record_is_left_for_the_forwarder, 0, SUITES);
    tcase_add_loop_test(tests, any_flipped_bit_ends_the_connection, 0, SUITES);
    tcase_add_loop_test(tests, the_rest_of_a_truncated_record_is_waited_for, 0, SUITES);
    tcase_add_loop_test(tests, a_repeated_record_ends_the_connection, 0, SUITES);
    tcase_add_loop_test(tests, a_missing_record_ends_the_connection, 0, SUITES);
    tcase_add_loop_test(tests, a_record_may_not_be_too_large, 0, SUITES);
    tcase_add_loop_test(tests, a_plain_record_is_refused, 0, SUITES);
    tcase_add_loop_test(tests, after_the_handshake_only_a_key_update_is_accepted, 0, SUITES);
    tcase_add_loop_test(tests, a_key_update_may_come_in_pieces, 0, SUITES_1_3);
    tcase_add_loop_test(
        tests, no_record_may_come_between_the_pieces_of_a_key_update, 0, SUITES_1_3);
    tcase_add_loop_test(
        tests, key_updates_without_data_and_without_end_end_the_connection, 0, SUITES_1_3);
    tcase_add_loop_test(tests, key_updates_with_data_may_go_on_without_end, 0, SUITES_1_3);
    tcase_add_loop_test(tests, all_alerts_but_two_end_a_connection, 0, SUITES);
    tcase_add_loop_test(tests, a_warning_alert_changes_nothing, 0, SUITES);
    tcase_add_loop_test(tests, an_alert_tells_the_client_what_it_broke, 0, SUITES);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
