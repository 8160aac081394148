/* For tests of greetings: a connection, of which the test has the client's end and what is tested
 * reads the server's. */
#ifndef RELAY_TESTS_CONNECTION_H
#define RELAY_TESTS_CONNECTION_H

#include "base/clock.h"
#include "proto/greeting.h"

#include <check.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int client, server;

static inline void open_connection(void)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    client = ends[0];
    server = ends[1];
}

static inline void close_connection(void)
{
    close(client);
    close(server);
}

static inline struct greeting greeting_within(int64_t time)
{
    return (struct greeting){.fd = server, .deadline = clock_now() + time};
}

static inline void say(const void *bytes, size_t size)
{
    ck_assert_int_eq(send(client, bytes, size, 0), (ssize_t)size);
}

/* How much of what was said is still to be read. */
static inline int left_to_read(void)
{
    int count;
    ck_assert_int_eq(ioctl(server, FIONREAD, &count), 0);
    return count;
}

#endif
