/* The measurements that all load generators share: see measure.h. */
#include "measure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    WARM_UP = 500,
    THREADS_MAX = 64,
};

static const struct traffic *traffic;

_Noreturn void fail(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) < 0)
        fail("no clock");
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- connections ----------------------------------------------------------------- */

void set_no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("cannot set TCP_NODELAY");
}

int connect_to(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect");
    set_no_delay(fd);
    return fd;
}

void make_name(char name[static NAME_SIZE])
{
    uint8_t bytes[NAME_SIZE / 2];
    if (getrandom(bytes, sizeof bytes, 0) < 0)
        fail("cannot get random bytes");
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(name + 2 * i, 3, "%02x", bytes[i]);
}

void send_file(int fd, int file, size_t size)
{
    for (off_t offset = 0; offset < (off_t)size;)
        if (sendfile(fd, file, &offset, size - (size_t)offset) <= 0)
            fail("cannot send");
}

/* ---- threads --------------------------------------------------------------------- */

static pthread_t threads[THREADS_MAX];
static size_t thread_count;

static void start_thread(void *(*run)(void *), void *argument)
{
    if (thread_count == THREADS_MAX)
        fail("too many threads");
    if (pthread_create(&threads[thread_count++], NULL, run, argument) != 0)
        fail("cannot make a thread");
}

static void join_threads(void)
{
    while (thread_count > 0)
        (void)pthread_join(threads[--thread_count], NULL);
}

/* ---- throughput ------------------------------------------------------------------ */

static uint64_t bytes_each;

static void *send_all(void *argument)
{
    struct ends *ends = argument;
    traffic->send(&ends->first, bytes_each);
    return NULL;
}

static void *receive_all(void *argument)
{
    struct ends *ends = argument;
    traffic->receive(&ends->second, bytes_each);
    return NULL;
}

static void measure_throughput(size_t pairs, uint64_t bytes)
{
    struct ends ends[THREADS_MAX / 2];
    if (pairs > THREADS_MAX / 2)
        fail("too many pairs");
    bytes_each = bytes;
    for (size_t i = 0; i < pairs; i++)
        ends[i] = traffic->make_pair();
    double started = now();
    for (size_t i = 0; i < pairs; i++) {
        start_thread(send_all, &ends[i]);
        start_thread(receive_all, &ends[i]);
    }
    join_threads();
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
    struct ends ends = traffic->make_pair();
    double *times = calloc(rounds, sizeof *times);
    if (times == NULL)
        fail("cannot measure");
    for (size_t i = 0; i < rounds + WARM_UP; i++) {
        double started = now();
        traffic->exchange(&ends.first, &ends.second);
        traffic->exchange(&ends.second, &ends.first);
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
        struct ends ends = traffic->make_pair();
        traffic->close_pair(&ends);
        atomic_fetch_add(&pairs_made, 1);
    }
    return argument;
}

static void measure_setup(size_t clients, double seconds)
{
    double started = now();
    setup_until = started + seconds;
    for (size_t i = 0; i < clients; i++)
        start_thread(make_pairs, NULL);
    join_threads();
    printf("%f\n", (double)pairs_made / (now() - started));
}

/* ---- holding --------------------------------------------------------------------- */

static void hold(size_t count, bool pairs)
{
    char byte;
    for (size_t i = 0; i < count; i++) {
        if (pairs)
            (void)traffic->make_pair();
        else
            traffic->open_waiting();
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

void measure(const struct traffic *given, const char *mode, size_t number, const char *last)
{
    traffic = given;
    raise_descriptors();
    if (strcmp(mode, "throughput") == 0)
        measure_throughput(number, strtoull(last, NULL, 10));
    else if (strcmp(mode, "latency") == 0)
        measure_latency(number);
    else if (strcmp(mode, "setup") == 0)
        measure_setup(number, strtod(last, NULL));
    else
        hold(number, strcmp(last, "pairs") == 0);
}
