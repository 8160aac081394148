/* What waits for a slow reader (flow.c), over a real socket: an outlet that is never emptied. */
#include "forward/flow.h"

#include "base/budget.h"
#include "suite.h"

#include <check.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PART = 10000,
    WAITS = 100000,    /* bytes that wait for the reader all the time */
    PASSED = 16 << 20, /* bytes in all, of which none may be kept once they are read */
    BOUND = 2 * (WAITS + 2 * PART),
};

static struct flow flow;
static struct end end;
static int client;
static uint64_t written, read_back; /* bytes, each of which says its own place */

static void setup(void)
{
    int ends[2], size = 1;
    ck_assert_int_eq(flow_open(&flow, 16), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ck_assert_int_eq(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    client = ends[1];
    end = (struct end){
        .fd = ends[0],
        .epoll = -1,
        .state = END_JOINED,
        .writable = true,
        .outlet = {.pipe = {-1, -1}},
    };
    written = read_back = 0;
}

static void teardown(void)
{
    flow_break(&flow, &end);
    close(end.fd);
    close(client);
    flow_close(&flow);
    ck_assert_uint_eq(budget_used(end.account.share), 0);
}

static void make_bytes(uint8_t *bytes, uint64_t place, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((place + i) * 2654435761U >> 24);
}

typedef void says(struct end *to, const uint8_t *words, size_t size);

static void write_part(says *say, size_t size)
{
    uint8_t part[PART];
    make_bytes(part, written, size);
    say(&end, part, size);
    written += size;
}

/* The client reads so much at most, and the event that says so comes. */
static void read_some(size_t size)
{
    uint8_t part[PART], expected[PART];
    ssize_t count = recv(client, part, size, 0);
    if (count > 0) {
        make_bytes(expected, read_back, (size_t)count);
        ck_assert_mem_eq(part, expected, (size_t)count);
        read_back += (uint64_t)count;
    }
    end.writable = true;
    flow_flush(&end);
}

static size_t waiting(void)
{
    return end.outlet.size - end.outlet.start;
}

/* Writes as long as the reader is not too far behind, and reads without ever catching up. */
static void pass(says *say, size_t part)
{
    while (waiting() < WAITS)
        write_part(say, part);
    while (written < PASSED) {
        read_some(part);
        while (waiting() < WAITS)
            write_part(say, part);
        if (end.outlet.room > BOUND || budget_used(end.account.share) != end.outlet.room)
            break;
    }
    ck_assert_ptr_nonnull(end.outlet.buffer);
    ck_assert_uint_le(end.outlet.room, BOUND);
    ck_assert_uint_eq(budget_used(end.account.share), end.outlet.room);
}

static void read_all(void)
{
    while (read_back < written)
        read_some(PART);
    ck_assert(!flow_pending(&end));
    ck_assert_uint_eq(budget_used(end.account.share), 0);
}

START_TEST(an_outlet_that_is_never_emptied_stays_within_what_waits_in_it)
{
    pass(flow_say, PART);
    read_all();
}
END_TEST

START_TEST(the_same_in_small_parts_that_are_gathered)
{
    pass(flow_gather, 777);
    read_all();
}
END_TEST

START_TEST(what_waits_for_a_reader_that_is_lost_counts_no_more)
{
    while (waiting() < WAITS)
        write_part(flow_say, PART);
    ck_assert_uint_ge(budget_used(end.account.share), WAITS);
    flow_lose(&end);
    ck_assert(end.finished && !flow_pending(&end));
    ck_assert_uint_eq(budget_used(end.account.share), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("flow");
    TCase *test_case = tcase_create("all");
    tcase_set_timeout(test_case, 60);
    tcase_add_checked_fixture(test_case, setup, teardown);
    tcase_add_test(test_case, an_outlet_that_is_never_emptied_stays_within_what_waits_in_it);
    tcase_add_test(test_case, the_same_in_small_parts_that_are_gathered);
    tcase_add_test(test_case, what_waits_for_a_reader_that_is_lost_counts_no_more);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
