/* What the load generators measure of a carrier, and what all their connections are made of. A
 * generator says how its connections speak; threads, clocks and percentiles are here. Whatever
 * fails ends the program: there is nothing left to measure. */
#ifndef RELAY_BENCH_MEASURE_H
#define RELAY_BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

enum {
    PING = 64, /* bytes that an exchange carries */
    NAME_SIZE = 65,
};

struct stream {
    int fd;
    void *tls; /* NULL: plain */
};

struct ends {
    struct stream first, second;
};

/* A generator's connections. Several threads make pairs at a time, and two use each. */
struct traffic {
    struct ends (*make_pair)(void);
    void (*close_pair)(struct ends *ends);
    void (*open_waiting)(void); /* a connection that nobody is paired with */
    void (*exchange)(struct stream *from, struct stream *to);
    void (*send)(struct stream *stream, uint64_t size);
    void (*receive)(struct stream *stream, uint64_t size); /* as many as are sent of that size */
};

/* Measures what the mode says, and prints it on one line:
 *
 *      throughput PAIRS BYTES      seconds, of BYTES in each pair
 *      latency    ROUNDS           microseconds: p50 p99
 *      setup      CLIENTS SECONDS  pairs per second
 *      hold       COUNT WHAT       "held" (waiting or pairs, until input ends) */
void measure(const struct traffic *traffic, const char *mode, size_t number, const char *last);

_Noreturn void fail(const char *what);

/* A connection to a port of this machine, which sends without delay. */
int connect_to(uint16_t port);
void set_no_delay(int fd);

/* Random and in hexadecimal, to be paired by. */
void make_name(char name[static NAME_SIZE]);

/* The whole of a file's first bytes, from pages that are not copied. */
void send_file(int fd, int file, size_t size);

#endif
