/* The load generator for WebSocket relays: what load.c is for plain ones. Frames are made once,
 * masked once, and sent again and again; what arrives is thrown away in the kernel, except for its
 * headers. Over TLS that is not possible, and both ends cost more.
 *
 *      wsload MODE PROTOCOL PORT NUMBER [NUMBER]    MODE and what follows: see measure.h
 *
 * PROTOCOL: p2p-copy, localfirst, or either with -tls after it. */
#include "measure.h"

#include <endian.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MESSAGE = (1 << 20) + 40, /* what p2p-copy sends at a time */
    HEADER = 14,              /* of a masked frame of that length */
    OPCODE_TEXT = 1,
    OPCODE_BINARY = 2,
    OPCODE_CLOSE = 8,
    OPCODE_PING = 9,
};

static bool p2p_copy;
static SSL_CTX *tls;
static uint16_t port;

/* ---- streams --------------------------------------------------------------------- */

static void send_all(struct stream *stream, const void *data, size_t size)
{
    if (stream->tls != NULL) {
        if (SSL_write(stream->tls, data, (int)size) != (int)size)
            fail("cannot send over TLS");
    } else if (send(stream->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) {
        fail("cannot send");
    }
}

static void receive_exactly(struct stream *stream, void *data, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t count = stream->tls != NULL
                            ? SSL_read(stream->tls, (char *)data + got, (int)(size - got))
                            : recv(stream->fd, (char *)data + got, size - got, MSG_WAITALL);
        if (count <= 0)
            fail("cannot receive");
        got += (size_t)count;
    }
}

static void discard(struct stream *stream, uint64_t size)
{
    static _Thread_local char scratch[1 << 16];
    while (size > 0) {
        size_t part = size < sizeof scratch ? (size_t)size : sizeof scratch;
        ssize_t count = stream->tls != NULL ? SSL_read(stream->tls, scratch, (int)part)
                                            : recv(stream->fd, NULL, size, MSG_TRUNC);
        if (count <= 0)
            fail("cannot receive");
        size -= (uint64_t)count;
    }
}

static void close_stream(struct stream *stream)
{
    SSL_free(stream->tls);
    close(stream->fd);
}

/* ---- WebSocket ------------------------------------------------------------------- */

/* Writes a masked frame; returns its size. */
static size_t make_frame(uint8_t *frame, int opcode, const void *payload, size_t size)
{
    uint8_t key[4];
    size_t at = 2;
    if (getrandom(key, sizeof key, 0) < 0)
        fail("cannot get random bytes");
    frame[0] = (uint8_t)(0x80 | opcode);
    if (size < 126) {
        frame[1] = (uint8_t)(0x80 | size);
    } else if (size < 1 << 16) {
        uint16_t length = htobe16((uint16_t)size);
        frame[1] = 0x80 | 126;
        memcpy(frame + at, &length, sizeof length);
        at += sizeof length;
    } else {
        uint64_t length = htobe64(size);
        frame[1] = 0x80 | 127;
        memcpy(frame + at, &length, sizeof length);
        at += sizeof length;
    }
    memcpy(frame + at, key, sizeof key);
    at += sizeof key;
    for (size_t i = 0; i < size; i++)
        frame[at + i] = ((const uint8_t *)payload)[i] ^ key[i & 3];
    return at + size;
}

static void send_message(struct stream *stream, int opcode, const void *payload, size_t size)
{
    uint8_t frame[512 + HEADER];
    if (size > 512)
        fail("a message is too long");
    send_all(stream, frame, make_frame(frame, opcode, payload, size));
}

/* Reads frame headers up to one of data; its payload is the caller's to read. Answers pings. */
static uint64_t receive_header(struct stream *stream)
{
    for (;;) {
        uint8_t head[2];
        receive_exactly(stream, head, sizeof head);
        uint64_t size = head[1];
        if (size == 126) {
            uint16_t length;
            receive_exactly(stream, &length, sizeof length);
            size = be16toh(length);
        } else if (size == 127) {
            uint64_t length;
            receive_exactly(stream, &length, sizeof length);
            size = be64toh(length);
        }
        int opcode = head[0] & 0x0f;
        if (opcode == OPCODE_CLOSE)
            fail("closed by the relay");
        if (opcode < OPCODE_CLOSE)
            return size;
        char payload[125];
        receive_exactly(stream, payload, size);
        if (opcode == OPCODE_PING)
            send_message(stream, OPCODE_PING + 1, payload, size);
    }
}

static void receive_payload(struct stream *stream, uint64_t left)
{
    while (left > 0) {
        uint64_t size = receive_header(stream);
        if (size > left)
            fail("more came than was sent");
        discard(stream, size);
        left -= size;
    }
}

static struct stream open_stream(const char *path)
{
    struct stream stream = {.fd = connect_to(port)};
    char head[1024];
    if (tls != NULL) {
        stream.tls = SSL_new(tls);
        if (stream.tls == NULL || SSL_set_fd(stream.tls, stream.fd) != 1 ||
            SSL_connect(stream.tls) != 1)
            fail("no TLS handshake");
    }
    int size = snprintf(head, sizeof head,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        path);
    send_all(&stream, head, (size_t)size);
    size_t got = 0;
    do {
        if (got + 1 >= sizeof head)
            fail("the upgrade's answer is too long");
        receive_exactly(&stream, head + got++, 1);
        head[got] = '\0';
    } while (got < 4 || strcmp(head + got - 4, "\r\n\r\n") != 0);
    if (strncmp(head, "HTTP/1.1 101", 12) != 0)
        fail("not upgraded");
    return stream;
}

/* ---- pairs ----------------------------------------------------------------------- */

static struct stream open_end(const char *name, bool first)
{
    char text[256];
    if (!p2p_copy) {
        (void)snprintf(text, sizeof text, "/connection/%s/%s", first ? "a/b" : "b/a", name);
        return open_stream(text);
    }
    struct stream stream = open_stream("/");
    int size =
        snprintf(text, sizeof text, "{\"type\":\"hello\",\"code_hash_hex\":\"%s\",\"role\":\"%s\"}",
            name, first ? "sender" : "receiver");
    send_message(&stream, OPCODE_TEXT, text, (size_t)size);
    return stream;
}

static void exchange(struct stream *from, struct stream *to)
{
    char bytes[PING] = {0};
    send_message(from, OPCODE_BINARY, bytes, sizeof bytes);
    receive_payload(to, sizeof bytes);
}

static struct ends make_pair(void)
{
    char name[NAME_SIZE];
    make_name(name);
    struct ends ends = {.first = open_end(name, true), .second = open_end(name, false)};
    if (p2p_copy) {
        discard(&ends.first, receive_header(&ends.first)); /* ready */
        exchange(&ends.first, &ends.second);
    } else { /* the second to come is told nothing, but what it sends is not held */
        exchange(&ends.second, &ends.first);
    }
    return ends;
}

static void close_pair(struct ends *ends)
{
    close_stream(&ends->first);
    close_stream(&ends->second);
}

static void open_waiting(void)
{
    char name[NAME_SIZE];
    make_name(name);
    (void)open_end(name, true);
}

/* ---- messages -------------------------------------------------------------------- */

static int frame_file;
static uint8_t *frame;
static size_t frame_size;

static void make_message(void)
{
    frame_file = memfd_create("frame", MFD_CLOEXEC);
    uint8_t *payload = calloc(1, MESSAGE);
    if (frame_file < 0 || payload == NULL || ftruncate(frame_file, MESSAGE + HEADER) < 0)
        fail("cannot make a message");
    frame = mmap(NULL, MESSAGE + HEADER, PROT_READ | PROT_WRITE, MAP_SHARED, frame_file, 0);
    if (frame == MAP_FAILED)
        fail("cannot map a message");
    frame_size = make_frame(frame, OPCODE_BINARY, payload, MESSAGE);
    free(payload);
}

static void send_messages(struct stream *stream, uint64_t size)
{
    for (uint64_t i = 0; i < size / MESSAGE; i++) {
        if (stream->tls != NULL)
            send_all(stream, frame, frame_size);
        else
            send_file(stream->fd, frame_file, frame_size);
    }
}

static void receive_messages(struct stream *stream, uint64_t size)
{
    receive_payload(stream, size / MESSAGE * MESSAGE);
}

static const struct traffic traffic = {
    .make_pair = make_pair,
    .close_pair = close_pair,
    .open_waiting = open_waiting,
    .exchange = exchange,
    .send = send_messages,
    .receive = receive_messages,
};

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6) {
        fputs("usage: wsload MODE PROTOCOL PORT NUMBER [NUMBER]\n", stderr);
        return 2;
    }
    p2p_copy = strncmp(argv[2], "p2p-copy", 8) == 0;
    if (strstr(argv[2], "-tls") != NULL && (tls = SSL_CTX_new(TLS_client_method())) == NULL)
        fail("no TLS");
    port = (uint16_t)strtoul(argv[3], NULL, 10);
    (void)signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    make_message();
    measure(&traffic, argv[1], strtoul(argv[4], NULL, 10), argc > 5 ? argv[5] : "0");
    return 0;
}
