/* The outlet of a connection whose client reads slowly (transfer.c), over a real socket. */
#include "forward/transfer.h"

#include "base/budget.h"
#include "suite.h"

#include <check.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PART = 10000,
    WAITS = 100000,    /* bytes that wait for the client all the time */
    PASSED = 16 << 20, /* bytes in all */
    BOUND = 2 * (WAITS + 2 * PART),
};

static struct transfer transfer;
static struct connection connection;
static int client;
static uint64_t written, read_back; /* bytes; the value of each is made of its place */

static void setup(void)
{
    int ends[2], size = 1;
    ck_assert_int_eq(transfer_open(&transfer, 16), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    client = ends[1];
    connection = (struct connection){
        .fd = ends[0],
        .epoll = -1,
        .state = CONNECTION_JOINED,
        .writable = true,
        .outlet = {.pipe = {-1, -1}},
    };
    written = read_back = 0;
}

static void teardown(void)
{
    transfer_break(&transfer, &connection);
    close(connection.fd);
    close(client);
    transfer_close(&transfer);
    ck_assert_uint_eq(budget_used(connection.account.share), 0);
}

static void make_bytes(uint8_t *bytes, uint64_t place, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((place + i) * 2654435761U >> 24);
}

typedef void says(struct connection *to, const uint8_t *words, size_t size);

static void write_part(says *say, size_t size)
{
    uint8_t part[PART];
    make_bytes(part, written, size);
    say(&connection, part, size);
    written += size;
}

/* The client reads `size` bytes at most, and the forwarder gets the event for that. */
static void read_some(size_t size)
{
    uint8_t part[PART], expected[PART];
    ssize_t count = recv(client, part, size, 0);
    if (count > 0) {
        make_bytes(expected, read_back, (size_t)count);
        ck_assert_mem_eq(part, expected, (size_t)count);
        read_back += (uint64_t)count;
    }
    connection.writable = true;
    transfer_flush(&connection);
}

static size_t waiting(void)
{
    return connection.outlet.size - connection.outlet.start;
}

/* Keeps WAITS bytes waiting while PASSED bytes are written and read. */
static void pass(says *say, size_t part)
{
    while (waiting() < WAITS)
        write_part(say, part);
    while (written < PASSED) {
        read_some(part);
        while (waiting() < WAITS)
            write_part(say, part);
        if (connection.outlet.room > BOUND ||
            budget_used(connection.account.share) != connection.outlet.room)
            break;
    }
    ck_assert_ptr_nonnull(connection.outlet.buffer);
    ck_assert_uint_le(connection.outlet.room, BOUND);
    ck_assert_uint_eq(budget_used(connection.account.share), connection.outlet.room);
}

static void read_all(void)
{
    while (read_back < written)
        read_some(PART);
    ck_assert(!transfer_pending(&connection));
    ck_assert_uint_eq(budget_used(connection.account.share), 0);
}

START_TEST(an_outlet_that_is_never_emptied_stays_about_as_large_as_its_contents)
{
    pass(transfer_say, PART);
    read_all();
}
END_TEST

START_TEST(so_does_one_that_is_filled_in_small_parts)
{
    pass(transfer_gather, 777);
    read_all();
}
END_TEST

START_TEST(the_bytes_that_wait_for_a_lost_client_are_dropped)
{
    while (waiting() < WAITS)
        write_part(transfer_say, PART);
    ck_assert_uint_ge(budget_used(connection.account.share), WAITS);
    transfer_lose(&connection);
    ck_assert(connection.finished && !transfer_pending(&connection));
    ck_assert_uint_eq(budget_used(connection.account.share), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transfer");
    TCase *test_case = tcase_create("all");
    tcase_set_timeout(test_case, 60);
    tcase_add_checked_fixture(test_case, setup, teardown);
    tcase_add_test(test_case, an_outlet_that_is_never_emptied_stays_about_as_large_as_its_contents);
    tcase_add_test(test_case, so_does_one_that_is_filled_in_small_parts);
    tcase_add_test(test_case, the_bytes_that_wait_for_a_lost_client_are_dropped);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
