/* The keeper of the certificate hands out a renewed certificate, and holds nobody up. */
#include "base/sandbox.h"
#include "scratch.h"
#include "suite.h"
#include "tls/certificate_keeper.h"

#include <errno.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct options options;
static pid_t keeper;
static int question;

static bool accept_all(const struct options *given, const struct certificate *certificate)
{
    return given->certfile != NULL && certificate->chain_size > 0;
}

/* The files are new to the keeper. */
static void set_up(void)
{
    static const uint8_t none[CERTIFICATE_VERSION_SIZE];
    struct certificate_stamp stamp = {.chain.error = ENOENT, .key.error = ENOENT};
    scratch_set_up();
    sandbox_setup(false); /* it is tested with the whole relay */
    options.certfile = scratch_path("chain");
    options.keyfile = scratch_path("key");
    scratch_write(options.certfile, "chain", 5);
    scratch_write(options.keyfile, "key", 3);
    keeper = certificate_keeper_start(&options, none, &stamp, accept_all, &question);
    ck_assert_int_gt(keeper, 0);
}

static void tear_down(void)
{
    close(question);
    ck_assert_int_eq(kill(keeper, SIGKILL), 0);
    ck_assert_int_eq(waitpid(keeper, NULL, 0), keeper);
    scratch_tear_down();
}

static int ask(struct certificate *certificate)
{
    static const uint8_t none[CERTIFICATE_VERSION_SIZE];
    return certificate_keeper_ask(question, none, certificate);
}

static void stop_keeper(void)
{
    ck_assert_int_eq(kill(keeper, SIGSTOP), 0);
    ck_assert_int_eq(waitpid(keeper, NULL, WUNTRACED), keeper);
}

START_TEST(only_a_certificate_that_the_asker_has_not_is_sent)
{
    static struct certificate certificate, again;
    ck_assert_int_eq(ask(&certificate), 1);
    ck_assert_uint_eq(certificate.chain_size, 5);
    ck_assert_int_eq(memcmp(certificate.key, "key", 3), 0);
    ck_assert_int_eq(certificate_keeper_ask(question, certificate.version, &again), 0);
    scratch_write(options.certfile, "renewed", 7);
    ck_assert_int_eq(certificate_keeper_ask(question, certificate.version, &again), 1);
    ck_assert_uint_eq(again.chain_size, 7);
}
END_TEST

START_TEST(a_keeper_that_does_not_answer_is_not_asked_for_a_while)
{
    static struct certificate certificate;
    stop_keeper();
    ck_assert_int_eq(ask(&certificate), 0);
    ck_assert_int_eq(kill(keeper, SIGCONT), 0);
    ck_assert_int_eq(ask(&certificate), 0);
}
END_TEST

static void heed_alarm(int signal)
{
    (void)signal;
}

/* A signal tells a worker that its client has to give way: the keeper is not to blame for that. */
START_TEST(after_a_signal_the_keeper_is_asked_again)
{
    static struct certificate certificate;
    struct sigaction heed = {.sa_handler = heed_alarm};
    struct timeval soon = {.tv_usec = 50 * 1000};
    struct itimerval often = {.it_value = soon, .it_interval = soon}, never = {.it_value = {0}};
    stop_keeper();
    ck_assert_int_eq(sigaction(SIGALRM, &heed, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    ck_assert_int_eq(ask(&certificate), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
    ck_assert_int_eq(kill(keeper, SIGCONT), 0);
    ck_assert_int_eq(ask(&certificate), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("certificate keeper");
    TCase *tests = tcase_create("questions");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, only_a_certificate_that_the_asker_has_not_is_sent);
    tcase_add_test(tests, a_keeper_that_does_not_answer_is_not_asked_for_a_while);
    tcase_add_test(tests, after_a_signal_the_keeper_is_asked_again);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
