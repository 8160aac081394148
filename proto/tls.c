/* TLS by OpenSSL: the context that a certificate makes, the handshake, and who carries the bytes
 * from then on.
 *
 * Sessions are not resumed: the clients of a relay connect seldom, and the keys of tickets would
 * have to be shared by all workers, and be forgotten in time, lest they open what was recorded. */
#include "tls.h"

#include "../certificate.h"
#include "../keeper.h"
#include "../log.h"
#include "../sandbox.h"
#include "proto.h"
#include "pump.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tls {
    const struct options *options;
    SSL_CTX *context;
    uint8_t version[CERTIFICATE_VERSION_SIZE]; /* of the certificate in it */
    int keeper;                                /* -1: none */
    bool stay;
};

/* ---- the certificate ------------------------------------------------------------- */

/* A key that needs a password has nobody to ask for it. */
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
        ERR_clear_error(); /* that is how the file's end is told */
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

static const char *reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());
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
                                     SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (SSL_CTX_set_num_tickets(context, 0) == 1 &&
        SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
        use_certificate(context, certificate))
        return context;
    SSL_CTX_free(context);
    return NULL;
}

static SSL_CTX *make_context_or_log(
    const struct options *options, const struct certificate *certificate)
{
    SSL_CTX *context = make_context(certificate);
    if (context == NULL)
        log_error("cannot use the certificate %s with the key %s: %s", options->certfile,
            options->keyfile, reason());
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
    int status = sandbox_prepare_pumps();
    if (status == 0)
        status = certificate_read(options, &certificate);
    if (status == 0)
        status = set_certificate(tls, &certificate);
    sodium_memzero(&certificate, sizeof certificate);
    if (status == 0)
        *ret = tls;
    else
        tls_close(tls);
    return status;
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

void tls_stay(struct tls *tls)
{
    if (tls != NULL)
        tls->stay = true;
}

static bool is_usable(const struct options *options, const struct certificate *certificate)
{
    SSL_CTX *context = make_context_or_log(options, certificate);
    SSL_CTX_free(context);
    return context != NULL;
}

pid_t tls_keep(struct tls *tls)
{
    int socket;
    pid_t pid = keeper_start(tls->options, tls->version, is_usable, &socket);
    if (pid < 0) {
        errno = -pid;
        log_error_errno("cannot start the certificate's keeper");
        return -1;
    }
    if (tls->keeper >= 0)
        close(tls->keeper);
    tls->keeper = socket;
    return pid;
}

/* A renewed certificate serves this very connection. */
static void renew(struct tls *tls)
{
    struct certificate certificate;
    if (tls->keeper < 0)
        return;
    if (keeper_ask(tls->keeper, tls->version, &certificate) == 1)
        (void)set_certificate(tls, &certificate); /* logged; the one before it stays */
    sodium_memzero(&certificate, sizeof certificate);
}

/* ---- the handshake --------------------------------------------------------------- */

static int shake_hands(SSL *ssl, const struct greeting *greeting)
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

/* The client had the last word, and may hold back its next until that is acknowledged. */
static void acknowledge(int fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on); /* not TCP: nothing is held */
}

/* Whether the kernel has taken over, both ways, with nothing left in here. Of TLS 1.3 it carries
 * the bytes, but there a client may change its keys at any time, which would end the connection. */
static bool kernel_carries(SSL *ssl)
{
    return SSL_version(ssl) == TLS1_2_VERSION && BIO_get_ktls_send(SSL_get_wbio(ssl)) &&
           BIO_get_ktls_recv(SSL_get_rbio(ssl)) && SSL_has_pending(ssl) == 0;
}

/* The table is the only thing that a pump has besides descriptors. */
static void give_up_table(void *table)
{
    pair_close(table);
}

/* The handshake. Then greeting->fd carries the plain bytes, and the descriptor before it is
 * closed, or a pump's. Returns 0, -EPROTO for a bad handshake, -ECONNRESET or -ETIMEDOUT for none,
 * another negative errno for want of something. */
static int open_tls(struct tls *tls, struct greeting *greeting)
{
    renew(tls);
    SSL *ssl = SSL_new(tls->context);
    if (ssl == NULL || SSL_set_fd(ssl, greeting->fd) != 1) {
        SSL_free(ssl);
        return -ENOMEM;
    }
    int status = shake_hands(ssl, greeting);
    acknowledge(greeting->fd);
    if (status == 0 && kernel_carries(ssl)) {
        SSL_free(ssl);
        return 0;
    }
    int plain = status == 0
                    ? pump_start(ssl, greeting->fd, tls->stay, give_up_table, greeting->table)
                    : status;
    SSL_free(ssl);
    ERR_clear_error();
    if (plain < 0)
        return plain;
    greeting->fd = plain;
    return 0;
}

/* ---- the protocol ---------------------------------------------------------------- */

static enum pair_outcome refuse_tls(const struct greeting *greeting)
{
    static const uint8_t alert[] = {0x15, 3, 1, 0, 2, 2, 40}; /* fatal: handshake_failure */
    greeting_say(greeting, alert, sizeof alert);
    return PAIR_ERRORY;
}

static enum pair_outcome take_off(struct greeting *greeting)
{
    int error = open_tls(greeting->tls, greeting);
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
        log_error_errno("cannot serve a TLS connection");
        return PAIR_FULL;
    }
}

static enum pair_outcome tls_greet(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    if (greeting->tls == NULL || greeting->in_tls)
        return refuse_tls(greeting);
    enum pair_outcome outcome = take_off(greeting);
    if (outcome != PAIR_HAPPY)
        return outcome;
    const struct protocol *protocol =
        protocol_sniff(greeting->fd, greeting->deadline, &greeting->protocol);
    if (protocol == NULL)
        return PAIR_EMPTY;
    if (greeting->full && protocol != &web_protocol)
        return PAIR_FULL;
    return protocol->greet(greeting, request, handoff);
}

/* An alert was all. */
static void tls_farewell(enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)outcome;
    (void)reason;
    (void)words;
}

static const uint8_t prefix[] = {0x16, 3}; /* a record of a handshake, of version 3.x */

const struct protocol tls_protocol = {
    .name = "tls",
    .prefix = prefix,
    .prefix_size = sizeof prefix,
    .greet = tls_greet,
    .farewell = tls_farewell,
};
