/* TLS by OpenSSL: the context with the certificate, and the handshake. After the handshake only the
 * record layer is left. It is done by tls/records.c, in the worker and in the forwarder, or by the
 * kernel.
 *
 * Sessions are not resumed. The clients of a relay connect seldom; and all workers would have to
 * share the keys of the tickets, and to replace them often, because these keys open recorded
 * traffic. */
#include "proto/tls.h"

#include "base/log.h"
#include "proto/greeting.h"
#include "tls/certificate.h"
#include "tls/certificate_keeper.h"
#include "tls/records.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RECORD_HEAD = 5,
    HELLO_MAX = 1 << 14, /* bytes in a record of the handshake */
};

struct tls {
    const struct options *options;
    SSL_CTX *context;                          /* NULL: there was no usable certificate so far */
    uint8_t version[CERTIFICATE_VERSION_SIZE]; /* of its certificate; else zeros */
    struct certificate_stamp stamp;            /* of the files, taken before they were read */
    int keeper;                                /* socket to the certificate keeper; -1: none */
    struct records records;                    /* of the connection that is greeted */
};

/* What OpenSSL's callbacks say of a handshake: the secrets of TLS 1.3, and how many records each
 * side has sent since its last change of keys. */
struct overheard {
    uint8_t client[RECORDS_SECRET_MAX], server[RECORDS_SECRET_MAX];
    size_t client_size, server_size;
    uint64_t in_records, out_records;
};

/* ---- what is overheard of a handshake ---------------------------------------- */

/* The cheapest cipher first: ciphers are most of the cost of a pair. A client without AES in
 * hardware puts ChaCha20 first, and gets it. */
static const char ciphers_1_3[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char ciphers_1_2[] = "ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20";

/* Reads a secret from a line of a key log: a label, the client's random, the secret. */
static void take_secret(
    const char *line, const char *label, uint8_t secret[static RECORDS_SECRET_MAX], size_t *size)
{
    size_t label_size = strlen(label);
    if (strncmp(line, label, label_size) != 0)
        return;
    const char *hex = strchr(line + label_size, ' ');
    if (hex == NULL ||
        sodium_hex2bin(secret, RECORDS_SECRET_MAX, hex + 1, strlen(hex + 1), NULL, size, NULL) != 0)
        *size = 0;
}

/* OpenSSL hands out the secrets in no other way. It wipes the line. */
static void hear_secret(const SSL *ssl, const char *line)
{
    struct overheard *overheard = SSL_get_app_data(ssl);
    if (overheard == NULL)
        return;
    take_secret(line, "CLIENT_TRAFFIC_SECRET_0 ", overheard->client, &overheard->client_size);
    take_secret(line, "SERVER_TRAFFIC_SECRET_0 ", overheard->server, &overheard->server_size);
}

/* Each side may send its Finished in several records. They count: the next record's number follows
 * from them. */
static void count_record(
    int written, int version, int type, const void *bytes, size_t size, SSL *ssl, void *argument)
{
    struct overheard *overheard = argument;
    uint64_t *records = written != 0 ? &overheard->out_records : &overheard->in_records;
    (void)version;
    (void)ssl;
    if (type != SSL3_RT_HEADER || size == 0)
        return;
    if (*(const uint8_t *)bytes == SSL3_RT_CHANGE_CIPHER_SPEC)
        *records = 0;
    else
        ++*records;
}

/* Called when the version is known. The kernel can carry TLS 1.3 as well, but not a change of keys,
 * which a client may make at any time: the connection would end. */
static int let_kernel_carry(SSL *ssl, void *context)
{
    (void)context;
    if (SSL_version(ssl) == TLS1_2_VERSION)
        (void)SSL_set_options(ssl, SSL_OP_ENABLE_KTLS);
    return 1;
}

/* ---- the certificate ------------------------------------------------------------- */

/* A key with a password cannot be used: there is nobody to ask for it. */
static int refuse_password(char *buffer, int size, int writing, void *context)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)context;
    return -1;
}

static bool use_chain(SSL_CTX *context, BIO *bytes)
{
    X509 *certificate = PEM_read_bio_X509(bytes, NULL, refuse_password, NULL);
    bool good = certificate != NULL && SSL_CTX_use_certificate(context, certificate) == 1;
    X509_free(certificate);
    while (good && (certificate = PEM_read_bio_X509(bytes, NULL, refuse_password, NULL)) != NULL) {
        good = SSL_CTX_add0_chain_cert(context, certificate) == 1;
        if (!good)
            X509_free(certificate);
    }
    if (good && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE)
        ERR_clear_error(); /* the end of the file */
    return good && ERR_peek_error() == 0;
}

static bool use_key(SSL_CTX *context, BIO *bytes)
{
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bytes, NULL, refuse_password, NULL);
    bool good = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1 &&
                SSL_CTX_check_private_key(context) == 1;
    EVP_PKEY_free(key);
    return good;
}

static bool use_certificate(SSL_CTX *context, const struct certificate *certificate)
{
    BIO *chain = BIO_new_mem_buf(certificate->chain, (int)certificate->chain_size);
    BIO *key = BIO_new_mem_buf(certificate->key, (int)certificate->key_size);
    bool good = chain != NULL && key != NULL && use_chain(context, chain) && use_key(context, key);
    BIO_free(chain);
    BIO_free(key);
    return good;
}

/* Why OpenSSL failed, in clearer words where its own are unclear. */
static const char *openssl_reason(void)
{
    unsigned long error = ERR_peek_error();
    const char *text = ERR_reason_error_string(error);
    if (ERR_GET_REASON(error) == ERR_R_INTERRUPTED_OR_CANCELLED)
        return "the key is encrypted, and nobody is there to give its password";
    if (ERR_GET_LIB(error) == ERR_LIB_OSSL_DECODER)
        return "there is no private key in the key's file";
    return text == NULL ? "OpenSSL does not say why" : text;
}

/* Returns NULL and leaves the reason with OpenSSL on failure. */
static SSL_CTX *make_context(const struct certificate *certificate)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (context == NULL)
        return NULL;
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_keylog_callback(context, hear_secret);
    SSL_CTX_set_cert_cb(context, let_kernel_carry, NULL);
    if (SSL_CTX_set_num_tickets(context, 0) == 1 &&
        SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
        SSL_CTX_set_ciphersuites(context, ciphers_1_3) == 1 &&
        SSL_CTX_set_cipher_list(context, ciphers_1_2) == 1 && use_certificate(context, certificate))
        return context;
    SSL_CTX_free(context);
    return NULL;
}

static SSL_CTX *make_context_or_log(
    const struct options *options, const struct certificate *certificate)
{
    SSL_CTX *context = make_context(certificate);
    if (context == NULL)
        log_error("cannot use the certificate %s with the key %s: %s",
            options_shown(options->certfile), options_shown(options->keyfile), openssl_reason());
    ERR_clear_error();
    return context;
}

static int set_certificate(struct tls *tls, const struct certificate *certificate)
{
    SSL_CTX *context = make_context_or_log(tls->options, certificate);
    if (context == NULL)
        return -1;
    SSL_CTX_free(tls->context);
    tls->context = context;
    memcpy(tls->version, certificate->version, sizeof tls->version);
    return 0;
}

int tls_load(const struct options *options, struct tls **ret)
{
    struct certificate certificate;
    *ret = NULL;
    if (options->certfile == NULL || options->plain)
        return 0;
    struct tls *tls = calloc(1, sizeof *tls);
    if (tls == NULL) {
        log_error_errno("cannot load the certificate");
        return -1;
    }
    tls->options = options;
    tls->keeper = -1;
    if (records_prepare() != 0) {
        log_error("cannot serve TLS: OpenSSL lacks a cipher or a digest that it needs");
        tls_close(tls);
        return -1;
    }
    (void)certificate_changed(options, &tls->stamp); /* takes the first stamp */
    if (certificate_read(options, &certificate) == 0)
        (void)set_certificate(tls, &certificate); /* logged; without a certificate TLS is refused */
    sodium_memzero(&certificate, sizeof certificate);
    *ret = tls;
    return 0;
}

/* Whether the certificate is valid now. Logs if it is not: clients will refuse it. */
static bool is_current(const struct options *options, const SSL_CTX *context)
{
    const X509 *certificate = SSL_CTX_get0_certificate(context);
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        log_warning("the certificate %s is not valid any more", options_shown(options->certfile));
    else if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
        log_warning("the certificate %s is not valid yet", options_shown(options->certfile));
    else
        return true;
    return false;
}

bool tls_is_current(const struct tls *tls)
{
    return tls->context == NULL || is_current(tls->options, tls->context);
}

bool tls_is_usable(const struct tls *tls, int64_t *until)
{
    struct tm end;
    if (tls->context == NULL)
        return false;
    const X509 *certificate = SSL_CTX_get0_certificate(tls->context);
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1)
        return false;
    *until = (int64_t)timegm(&end);
    return true;
}

void tls_close(struct tls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->context);
    if (tls->keeper >= 0)
        close(tls->keeper);
    free(tls);
}

static bool is_usable(const struct options *options, const struct certificate *certificate)
{
    SSL_CTX *context = make_context_or_log(options, certificate);
    bool usable = context != NULL;
    if (usable)
        (void)is_current(options, context); /* logged; the operator may mean it so */
    SSL_CTX_free(context);
    return usable;
}

pid_t tls_keep(struct tls *tls)
{
    int socket;
    pid_t pid =
        certificate_keeper_start(tls->options, tls->version, &tls->stamp, is_usable, &socket);
    if (pid < 0) {
        errno = -pid;
        log_error_errno("cannot start the certificate keeper");
        return -1;
    }
    if (tls->keeper >= 0)
        close(tls->keeper);
    tls->keeper = socket;
    return pid;
}

/* Takes a renewed certificate, so that it serves the connection that is greeted now. */
static void renew_certificate(struct tls *tls)
{
    struct certificate certificate;
    if (tls->keeper < 0)
        return;
    if (certificate_keeper_ask(tls->keeper, tls->version, &certificate) == 1)
        (void)set_certificate(tls, &certificate); /* logged; the old certificate stays */
    sodium_memzero(&certificate, sizeof certificate);
}

/* ---- the handshake --------------------------------------------------------------- */

static int accept_handshake(SSL *ssl, const struct greeting *greeting)
{
    for (;;) {
        ERR_clear_error();
        int result = SSL_accept(ssl);
        int error = result == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl, result);
        short events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN;
        if (error == SSL_ERROR_NONE)
            return 0;
        if (error == SSL_ERROR_SYSCALL || error == SSL_ERROR_ZERO_RETURN)
            return -ECONNRESET;
        if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
            return -EPROTO;
        error = greeting_wait(greeting, events);
        if (error != 0)
            return error;
    }
}

/* Acknowledges the client's last message of the handshake at once: some clients send nothing more
 * before (Nagle's algorithm). */
static void acknowledge(int fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on); /* only TCP needs it */
}

/* Whether the kernel carries TLS in both directions. */
static bool kernel_carries(SSL *ssl)
{
    return BIO_get_ktls_send(SSL_get_wbio(ssl)) && BIO_get_ktls_recv(SSL_get_rbio(ssl));
}

static enum records_suite suite_of(const SSL *ssl)
{
    switch (SSL_CIPHER_get_cipher_nid(SSL_get_current_cipher(ssl))) {
    case NID_aes_128_gcm:
        return RECORDS_AES_128_GCM;
    case NID_aes_256_gcm:
        return RECORDS_AES_256_GCM;
    default:
        return RECORDS_CHACHA20_POLY1305;
    }
}

static int take_keys_1_2(SSL *ssl, const struct overheard *overheard, struct records *records)
{
    uint8_t master[RECORDS_MASTER_SIZE];
    uint8_t client_random[RECORDS_RANDOM_SIZE], server_random[RECORDS_RANDOM_SIZE];
    int error = -EPROTO;
    if (SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof master) == sizeof master &&
        SSL_get_client_random(ssl, client_random, sizeof client_random) == sizeof client_random &&
        SSL_get_server_random(ssl, server_random, sizeof server_random) == sizeof server_random)
        error = records_start_1_2(records, suite_of(ssl), master, client_random, server_random,
            overheard->in_records, overheard->out_records);
    sodium_memzero(master, sizeof master);
    return error;
}

static int take_keys_1_3(SSL *ssl, const struct overheard *overheard, struct records *records)
{
    size_t size = suite_of(ssl) == RECORDS_AES_256_GCM ? 48 : 32;
    if (overheard->client_size != size || overheard->server_size != size)
        return -ENODATA;
    return records_start_1_3(records, suite_of(ssl), overheard->client, overheard->server);
}

/* The most data in a record that the client accepts. */
static uint16_t data_max(SSL *ssl)
{
    uint8_t code = SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl));
    return code >= TLSEXT_max_fragment_length_512 && code <= TLSEXT_max_fragment_length_4096
               ? (uint16_t)(RECORDS_FRAGMENT_MIN << (code - TLSEXT_max_fragment_length_512))
               : RECORDS_DATA_MAX;
}

/* Takes the keys out of OpenSSL. It has read up to the end of the handshake, and nothing behind it.
 */
static int take_keys(SSL *ssl, const struct overheard *overheard, struct greeting *greeting)
{
    struct records *records = &greeting->tls->records;
    if (SSL_has_pending(ssl) != 0 || BIO_get_ktls_send(SSL_get_wbio(ssl)) ||
        BIO_get_ktls_recv(SSL_get_rbio(ssl)))
        return -ENOTSUP;
    int error = SSL_version(ssl) == TLS1_2_VERSION ? take_keys_1_2(ssl, overheard, records)
                                                   : take_keys_1_3(ssl, overheard, records);
    records->data_max = data_max(ssl);
    if (error == 0)
        greeting->records = records;
    return error;
}

/* Does the handshake, and gives its keys to the kernel or to greeting->records. Returns 0; -EPROTO:
 * the handshake is bad; -ECONNRESET or -ETIMEDOUT: it did not come to its end; or another negative
 * errno: the relay lacks something. */
static int open_tls(struct tls *tls, struct greeting *greeting)
{
    struct overheard overheard = {.client_size = 0};
    SSL *ssl = SSL_new(tls->context);
    if (ssl == NULL || SSL_set_fd(ssl, greeting->fd) != 1 ||
        SSL_set_app_data(ssl, &overheard) != 1) {
        SSL_free(ssl);
        return -ENOMEM;
    }
    SSL_set_msg_callback(ssl, count_record);
    SSL_set_msg_callback_arg(ssl, &overheard);
    int status = accept_handshake(ssl, greeting);
    acknowledge(greeting->fd);
    if (status == 0 && !kernel_carries(ssl))
        status = take_keys(ssl, &overheard, greeting);
    SSL_free(ssl);
    ERR_clear_error();
    sodium_memzero(&overheard, sizeof overheard);
    return status;
}

/* ---- the protocol ---------------------------------------------------------------- */

/* Waits until the first record is whole, so that the greeting can be given up before. A record that
 * is too long is left to OpenSSL, which refuses it. */
static int await_hello(const struct greeting *greeting)
{
    uint8_t record[RECORD_HEAD + HELLO_MAX];
    int error = greeting_await(greeting, record, RECORD_HEAD);
    if (error != 0)
        return error;
    size_t size = (size_t)record[3] << 8 | record[4];
    if (size <= HELLO_MAX)
        error = greeting_await(greeting, record, RECORD_HEAD + size);
    return error == 0 ? greeting_hold(greeting) : error;
}

static enum pair_outcome refuse_tls(const struct greeting *greeting)
{
    static const uint8_t alert[] = {0x15, 3, 1, 0, 2, 2, 40}; /* fatal: handshake_failure */
    greeting_say(greeting, alert, sizeof alert);
    return PAIR_ERRORY;
}

static enum pair_outcome unwrap(struct greeting *greeting)
{
    int error = await_hello(greeting);
    if (error != 0)
        return PAIR_EMPTY;
    error = open_tls(greeting->tls, greeting);
    switch (error) {
    case 0:
        greeting->in_tls = true;
        return PAIR_HAPPY;
    case -EPROTO:
        return PAIR_ERRORY;
    case -ETIMEDOUT:
    case -ECONNRESET:
        return PAIR_EMPTY;
    default:
        errno = -error;
        log_repeated_errno(LOG_ERR, "cannot serve a TLS connection");
        return PAIR_FULL;
    }
}

static enum pair_outcome tls_greet(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    if (greeting->tls == NULL || greeting->in_tls)
        return refuse_tls(greeting);
    renew_certificate(greeting->tls);
    if (greeting->tls->context == NULL)
        return refuse_tls(greeting);
    enum pair_outcome outcome = unwrap(greeting);
    if (outcome != PAIR_HAPPY)
        return outcome;
    const struct protocol *protocol = protocol_sniff(greeting);
    if (protocol == NULL)
        return PAIR_EMPTY;
    if (greeting->full && protocol != protocols[PROTOCOL_WEB])
        return PAIR_FULL;
    outcome = protocol->greet(greeting, request, handoff);
    handoff->kernel_tls = greeting->records == NULL;
    if (greeting->records != NULL)
        handoff->records = *greeting->records;
    return outcome;
}

/* TLS has no words: an alert says it. */
static void tls_farewell(enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)outcome;
    (void)reason;
    (void)words;
}

static const struct prefix prefix = {2, {0x16, 3}}; /* a record of a handshake, of version 3.x */

const struct protocol tls_protocol = {
    .name = "tls",
    .prefixes = &prefix,
    .prefix_count = 1,
    .greet = tls_greet,
    .farewell = tls_farewell,
};
