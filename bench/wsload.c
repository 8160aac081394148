/* The load generator for WebSocket relays: what load.c is for plain ones. Frames are made once,
 * masked once, and sent again and again; what arrives is thrown away in the kernel, except for its
 * headers. Over TLS that is not possible, and both ends cost more.
 *
 *      wsload throughput PROTOCOL PORT PAIRS BYTES      seconds
 *      wsload latency    PROTOCOL PORT ROUNDS           microseconds: p50 p99
 *      wsload setup      PROTOCOL PORT CLIENTS SECONDS  pairs per second
 *      wsload hold       PROTOCOL PORT COUNT WHAT       (waiting or pairs, until input ends)
 *
 * PROTOCOL: p2p-copy, localfirst, or either with -tls after it. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MESSAGE = (1 << 20) + 40, /* what p2p-copy sends at a time */
    HEADER = 14,              /* of a masked frame of that length */
    PING = 64,
    WARM_UP = 500,
    THREADS_MAX = 64,
    OPCODE_TEXT = 1,
    OPCODE_BINARY = 2,
    OPCODE_CLOSE = 8,
    OPCODE_PING = 9,
};

struct stream {
    int fd;
    SSL *tls;
};

struct ends {
    struct stream first, second; /* of p2p-copy: the sender and the receiver */
};

static bool p2p_copy;
static SSL_CTX *tls;
static uint16_t port;

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "wsload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

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
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct stream stream = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    int on = 1;
    char head[1024];
    if (stream.fd < 0 || connect(stream.fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect");
    if (setsockopt(stream.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("cannot set TCP_NODELAY");
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

static void make_name(char name[static 65])
{
    uint8_t bytes[32];
    if (getrandom(bytes, sizeof bytes, 0) < 0)
        fail("cannot get random bytes");
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(name + 2 * i, 3, "%02x", bytes[i]);
}

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
    char name[65];
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

/* ---- throughput ------------------------------------------------------------------ */

static size_t messages_each;
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

static void *send_messages(void *argument)
{
    struct ends *ends = argument;
    for (size_t i = 0; i < messages_each; i++) {
        if (ends->first.tls != NULL) {
            send_all(&ends->first, frame, frame_size);
            continue;
        }
        for (off_t offset = 0; offset < (off_t)frame_size;)
            if (sendfile(ends->first.fd, frame_file, &offset, frame_size - (size_t)offset) <= 0)
                fail("cannot send");
    }
    return NULL;
}

static void *receive_messages(void *argument)
{
    struct ends *ends = argument;
    receive_payload(&ends->second, (uint64_t)messages_each * MESSAGE);
    return NULL;
}

static void measure_throughput(size_t pairs, uint64_t bytes_each)
{
    struct ends ends[THREADS_MAX / 2];
    pthread_t threads[THREADS_MAX];
    if (pairs > THREADS_MAX / 2)
        fail("too many pairs");
    messages_each = (size_t)(bytes_each / MESSAGE);
    make_message();
    for (size_t i = 0; i < pairs; i++)
        ends[i] = make_pair();
    double started = now();
    for (size_t i = 0; i < pairs; i++) {
        if (pthread_create(&threads[2 * i], NULL, send_messages, &ends[i]) != 0 ||
            pthread_create(&threads[2 * i + 1], NULL, receive_messages, &ends[i]) != 0)
            fail("cannot make a thread");
    }
    for (size_t i = 0; i < 2 * pairs; i++)
        (void)pthread_join(threads[i], NULL);
    printf("%f\n", now() - started);
}

/* ---- latency --------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure_latency(size_t rounds)
{
    struct ends ends = make_pair();
    double *times = calloc(rounds, sizeof *times);
    if (times == NULL)
        fail("cannot measure");
    for (size_t i = 0; i < rounds + WARM_UP; i++) {
        double started = now();
        exchange(&ends.first, &ends.second);
        exchange(&ends.second, &ends.first);
        if (i >= WARM_UP)
            times[i - WARM_UP] = now() - started;
    }
    qsort(times, rounds, sizeof *times, compare);
    printf("%f %f\n", times[rounds / 2] * 1e6, times[rounds * 99 / 100] * 1e6);
    free(times);
}

/* ---- setting up ------------------------------------------------------------------ */

static double setup_until;
static atomic_uint_fast64_t pairs_made;

static void *make_pairs(void *argument)
{
    while (now() < setup_until) {
        struct ends ends = make_pair();
        close_pair(&ends);
        atomic_fetch_add(&pairs_made, 1);
    }
    return argument;
}

static void measure_setup(size_t clients, double seconds)
{
    pthread_t threads[THREADS_MAX];
    if (clients > THREADS_MAX)
        fail("too many clients");
    double started = now();
    setup_until = started + seconds;
    for (size_t i = 0; i < clients; i++)
        if (pthread_create(&threads[i], NULL, make_pairs, NULL) != 0)
            fail("cannot make a thread");
    for (size_t i = 0; i < clients; i++)
        (void)pthread_join(threads[i], NULL);
    printf("%f\n", (double)pairs_made / (now() - started));
}

/* ---- holding --------------------------------------------------------------------- */

static void hold(size_t count, bool pairs)
{
    char byte, name[65];
    for (size_t i = 0; i < count; i++) {
        if (pairs) {
            (void)make_pair();
        } else {
            make_name(name);
            (void)open_end(name, true);
        }
    }
    puts("held");
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
}

/* ---------------------------------------------------------------------------------- */

static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("cannot read the limit on descriptors");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("cannot raise the limit on descriptors");
}

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 5) {
        fputs("usage: wsload MODE PROTOCOL PORT NUMBER [NUMBER]\n", stderr);
        return 2;
    }
    p2p_copy = strncmp(argv[2], "p2p-copy", 8) == 0;
    if (strstr(argv[2], "-tls") != NULL && (tls = SSL_CTX_new(TLS_client_method())) == NULL)
        fail("no TLS");
    port = (uint16_t)strtoul(argv[3], NULL, 10);
    size_t number = strtoul(argv[4], NULL, 10);
    const char *last = argc > 5 ? argv[5] : "0";
    raise_descriptors();
    (void)signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    if (strcmp(argv[1], "throughput") == 0)
        measure_throughput(number, strtoull(last, NULL, 10));
    else if (strcmp(argv[1], "latency") == 0)
        measure_latency(number);
    else if (strcmp(argv[1], "setup") == 0)
        measure_setup(number, strtod(last, NULL));
    else
        hold(number, strcmp(last, "pairs") == 0);
    return 0;
}
