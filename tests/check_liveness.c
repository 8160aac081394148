/* Whether a client still lives: silence alone does not tell a vanished client from a paused one. */
#include "forward/liveness.h"
#include "suite.h"

#include <check.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LONG = 120000, /* milliseconds */
    SHORT = 15000,
};

static struct tcp_info info;

static void prepare(void)
{
    info = (struct tcp_info){.tcpi_unacked = 1, .tcpi_last_ack_recv = SHORT};
}

START_TEST(a_client_that_has_acknowledged_everything_is_quiet)
{
    info = (struct tcp_info){.tcpi_last_ack_recv = LONG, .tcpi_probes = 9};
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_QUIET);
}
END_TEST

START_TEST(a_connection_that_was_reset_is_quiet)
{
    info.tcpi_state = 7; /* TCP_CLOSE */
    info.tcpi_notsent_bytes = 1 << 20;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_QUIET);
}
END_TEST

START_TEST(a_client_that_was_sent_bytes_just_now_has_time)
{
    info.tcpi_retransmits = 9;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_WAITING);
}
END_TEST

START_TEST(a_paused_reader_lives_as_long_as_it_answers_probes)
{
    info.tcpi_unacked = 0;
    info.tcpi_notsent_bytes = 1 << 20;
    info.tcpi_probes = 0; /* as after each answer */
    for (info.tcpi_last_ack_recv = 0; info.tcpi_last_ack_recv <= LONG; info.tcpi_last_ack_recv += 1)
        ck_assert_int_eq(liveness_judge(&info), LIVENESS_WAITING);
}
END_TEST

START_TEST(a_client_that_answers_no_probe_for_long_is_dead)
{
    info.tcpi_unacked = 0;
    info.tcpi_notsent_bytes = 1 << 20;
    info.tcpi_probes = 1; /* its answer may be on its way */
    info.tcpi_last_ack_recv = LONG;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_WAITING);
    info.tcpi_probes = 2;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_DEAD);
    info.tcpi_last_ack_recv = SHORT;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_WAITING);
}
END_TEST

START_TEST(a_client_that_acknowledges_no_retransmission_for_long_is_dead)
{
    info.tcpi_last_ack_recv = LONG;
    info.tcpi_retransmits = 2;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_WAITING);
    info.tcpi_retransmits = 3;
    ck_assert_int_eq(liveness_judge(&info), LIVENESS_DEAD);
}
END_TEST

START_TEST(a_socket_that_is_not_tcp_is_quiet)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    ck_assert_int_eq(send(ends[0], "x", 1, MSG_NOSIGNAL), 1);
    ck_assert_int_eq(liveness_check(ends[0]), LIVENESS_QUIET);
    close(ends[0]);
    close(ends[1]);
    ck_assert_int_eq(liveness_check(-1), LIVENESS_QUIET);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vital");
    TCase *tests = tcase_create("vital");
    tcase_add_checked_fixture(tests, prepare, NULL);
    tcase_add_test(tests, a_client_that_has_acknowledged_everything_is_quiet);
    tcase_add_test(tests, a_connection_that_was_reset_is_quiet);
    tcase_add_test(tests, a_client_that_was_sent_bytes_just_now_has_time);
    tcase_add_test(tests, a_paused_reader_lives_as_long_as_it_answers_probes);
    tcase_add_test(tests, a_client_that_answers_no_probe_for_long_is_dead);
    tcase_add_test(tests, a_client_that_acknowledges_no_retransmission_for_long_is_dead);
    tcase_add_test(tests, a_socket_that_is_not_tcp_is_quiet);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
