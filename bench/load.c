/* The load generator: connections in pairs, through whatever carries them, and what is measured of
 * them. It is cheap by construction, so that what it measures is the carrier: bytes are sent from
 * pages that are never copied, and are thrown away in the kernel when they arrive.
 *
 *      load throughput KIND PORT BACKEND PAIRS BYTES    seconds
 *      load latency    KIND PORT BACKEND ROUNDS         microseconds: p50 p99
 *      load setup      KIND PORT BACKEND CLIENTS SECONDS   pairs per second
 *      load hold       KIND PORT BACKEND COUNT WHAT     (waiting or pairs, until input ends)
 *
 * KIND: transit (two clients, paired by a relay), proxy (a client, carried to our own server at
 * port BACKEND), direct (a client of our own server). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
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
    BLOCK = 1 << 20,
    PING = 64,
    WARM_UP = 500,
    THREADS_MAX = 64,
};

enum kind {
    KIND_TRANSIT,
    KIND_PROXY,
    KIND_DIRECT,
};

struct ends {
    int first, second;
};

static enum kind kind;
static uint16_t port, backend_port;
static int backend = -1;

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- connections ----------------------------------------------------------------- */

static struct sockaddr_in address_of(uint16_t number)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
        .sin_port = htons(number),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void set_no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("cannot set TCP_NODELAY");
}

static int connect_to(uint16_t number)
{
    struct sockaddr_in address = address_of(number);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect");
    set_no_delay(fd);
    return fd;
}

static void open_backend(void)
{
    int on = 1;
    struct sockaddr_in address = address_of(backend_port);
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

static void make_token(char token[static 65])
{
    uint8_t bytes[32];
    if (getrandom(bytes, sizeof bytes, 0) < 0)
        fail("cannot get random bytes");
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(token + 2 * i, 3, "%02x", bytes[i]);
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
    struct ends ends;
    if (kind == KIND_TRANSIT) {
        char token[65];
        make_token(token);
        ends.first = connect_to(port);
        ends.second = connect_to(port);
        send_line(ends.first, token);
        send_line(ends.second, token);
        expect_ok(ends.first);
        expect_ok(ends.second);
        return ends;
    }
    ends.first = connect_to(kind == KIND_PROXY ? port : backend_port);
    ends.second = accept4(backend, NULL, NULL, SOCK_CLOEXEC);
    if (ends.second < 0)
        fail("cannot accept");
    set_no_delay(ends.second);
    return ends;
}

/* ---- throughput ------------------------------------------------------------------ */

static uint64_t bytes_each;
static int block_file;

static void *send_all(void *argument)
{
    const struct ends *ends = argument;
    uint64_t left = bytes_each;
    while (left > 0) {
        off_t offset = 0;
        ssize_t count = sendfile(ends->first, block_file, &offset, left < BLOCK ? left : BLOCK);
        if (count <= 0)
            fail("cannot send");
        left -= (uint64_t)count;
    }
    return NULL;
}

static void *receive_all(void *argument)
{
    const struct ends *ends = argument;
    uint64_t left = bytes_each;
    while (left > 0) {
        ssize_t count = recv(ends->second, NULL, left < BLOCK ? left : BLOCK, MSG_TRUNC);
        if (count <= 0)
            fail("cannot receive");
        left -= (uint64_t)count;
    }
    return NULL;
}

static void measure_throughput(size_t pairs)
{
    struct ends ends[THREADS_MAX / 2];
    pthread_t threads[THREADS_MAX];
    block_file = memfd_create("block", MFD_CLOEXEC);
    if (block_file < 0 || ftruncate(block_file, BLOCK) < 0)
        fail("cannot make a block");
    if (pairs > THREADS_MAX / 2)
        fail("too many pairs");
    for (size_t i = 0; i < pairs; i++)
        ends[i] = make_pair();
    double started = now();
    for (size_t i = 0; i < pairs; i++) {
        if (pthread_create(&threads[2 * i], NULL, send_all, &ends[i]) != 0 ||
            pthread_create(&threads[2 * i + 1], NULL, receive_all, &ends[i]) != 0)
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

static void exchange(int from, int to)
{
    char bytes[PING] = {0};
    if (send(from, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes ||
        recv(to, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
        fail("cannot exchange");
}

static void measure_latency(size_t rounds)
{
    struct ends ends = make_pair();
    double *times = calloc(rounds, sizeof *times);
    if (times == NULL)
        fail("cannot measure");
    for (size_t i = 0; i < rounds + WARM_UP; i++) {
        double started = now();
        exchange(ends.first, ends.second);
        exchange(ends.second, ends.first);
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
        close(ends.first);
        close(ends.second);
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
    char byte;
    for (size_t i = 0; i < count; i++) {
        if (pairs) {
            (void)make_pair();
        } else {
            char token[65];
            make_token(token);
            send_line(connect_to(port), token);
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
    if (argc < 6) {
        fputs("usage: load MODE KIND PORT BACKEND NUMBER [NUMBER]\n", stderr);
        return 2;
    }
    kind = strcmp(argv[2], "transit") == 0 ? KIND_TRANSIT
           : strcmp(argv[2], "proxy") == 0 ? KIND_PROXY
                                           : KIND_DIRECT;
    port = (uint16_t)strtoul(argv[3], NULL, 10);
    backend_port = (uint16_t)strtoul(argv[4], NULL, 10);
    size_t number = strtoul(argv[5], NULL, 10);
    const char *last = argc > 6 ? argv[6] : "0";
    raise_descriptors();
    open_backend();
    if (strcmp(argv[1], "throughput") == 0) {
        bytes_each = strtoull(last, NULL, 10);
        measure_throughput(number);
    } else if (strcmp(argv[1], "latency") == 0) {
        measure_latency(number);
    } else if (strcmp(argv[1], "setup") == 0) {
        measure_setup(number, strtod(last, NULL));
    } else {
        hold(number, strcmp(last, "pairs") == 0);
    }
    return 0;
}
