/* The load generator: connections in pairs, through whatever carries them. It is cheap by
 * construction, so that what it measures is the carrier: bytes are sent from pages that are never
 * copied, and are thrown away in the kernel when they arrive.
 *
 *      load MODE KIND PORT BACKEND NUMBER [NUMBER]    MODE and what follows: see measure.h
 *
 * KIND: transit (two clients, paired by a relay), proxy (a client, carried to our own server at
 * port BACKEND), direct (a client of our own server). */
#include "measure.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BLOCK = 1 << 20,
};

enum kind {
    KIND_TRANSIT,
    KIND_PROXY,
    KIND_DIRECT,
};

static enum kind kind;
static uint16_t port, backend_port;
static int backend = -1, block_file;

/* ---- pairs ----------------------------------------------------------------------- */

static void open_backend(void)
{
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons(backend_port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (kind == KIND_TRANSIT)
        return;
    backend = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (backend < 0 || setsockopt(backend, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(backend, (struct sockaddr *)&address, sizeof address) < 0 || listen(backend, 128) < 0)
        fail("cannot listen");
}

static void send_line(int fd, const char *token)
{
    char line[128], side[17];
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) < 0)
        fail("cannot get random bytes");
    (void)snprintf(side, sizeof side, "%016llx", (unsigned long long)number);
    int size = snprintf(line, sizeof line, "please relay %s for side %s\n", token, side);
    if (send(fd, line, (size_t)size, MSG_NOSIGNAL) != size)
        fail("cannot send a line");
}

static void expect_ok(int fd)
{
    char answer[3];
    if (recv(fd, answer, sizeof answer, MSG_WAITALL) != sizeof answer ||
        memcmp(answer, "ok\n", sizeof answer) != 0)
        fail("no ok");
}

static struct ends make_pair(void)
{
    struct ends ends = {.first = {.fd = -1}};
    if (kind == KIND_TRANSIT) {
        char token[NAME_SIZE];
        make_name(token);
        ends.first.fd = connect_to(port);
        ends.second.fd = connect_to(port);
        send_line(ends.first.fd, token);
        send_line(ends.second.fd, token);
        expect_ok(ends.first.fd);
        expect_ok(ends.second.fd);
        return ends;
    }
    ends.first.fd = connect_to(kind == KIND_PROXY ? port : backend_port);
    ends.second.fd = accept4(backend, NULL, NULL, SOCK_CLOEXEC);
    if (ends.second.fd < 0)
        fail("cannot accept");
    set_no_delay(ends.second.fd);
    return ends;
}

static void close_pair(struct ends *ends)
{
    close(ends->first.fd);
    close(ends->second.fd);
}

static void open_waiting(void)
{
    char token[NAME_SIZE];
    make_name(token);
    send_line(connect_to(port), token);
}

/* ---- bytes ----------------------------------------------------------------------- */

static void exchange(struct stream *from, struct stream *to)
{
    char bytes[PING] = {0};
    if (send(from->fd, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes ||
        recv(to->fd, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
        fail("cannot exchange");
}

static void make_block(void)
{
    block_file = memfd_create("block", MFD_CLOEXEC);
    if (block_file < 0 || ftruncate(block_file, BLOCK) < 0)
        fail("cannot make a block");
}

static void send_bytes(struct stream *stream, uint64_t left)
{
    while (left > 0) {
        size_t part = left < BLOCK ? left : BLOCK;
        send_file(stream->fd, block_file, part);
        left -= part;
    }
}

static void receive_bytes(struct stream *stream, uint64_t left)
{
    while (left > 0) {
        ssize_t count = recv(stream->fd, NULL, left < BLOCK ? left : BLOCK, MSG_TRUNC);
        if (count <= 0)
            fail("cannot receive");
        left -= (uint64_t)count;
    }
}

static const struct traffic traffic = {
    .make_pair = make_pair,
    .close_pair = close_pair,
    .open_waiting = open_waiting,
    .exchange = exchange,
    .send = send_bytes,
    .receive = receive_bytes,
};

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 7) {
        fputs("usage: load MODE KIND PORT BACKEND NUMBER [NUMBER]\n", stderr);
        return 2;
    }
    kind = strcmp(argv[2], "transit") == 0 ? KIND_TRANSIT
           : strcmp(argv[2], "proxy") == 0 ? KIND_PROXY
                                           : KIND_DIRECT;
    port = (uint16_t)strtoul(argv[3], NULL, 10);
    backend_port = (uint16_t)strtoul(argv[4], NULL, 10);
    open_backend();
    make_block();
    measure(&traffic, argv[1], strtoul(argv[5], NULL, 10), argc > 6 ? argv[6] : "0");
    return 0;
}
