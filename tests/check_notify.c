/* Messages reach the service manager, also from a sandboxed process. */
#include "base/notify.h"
#include "base/sandbox.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static int manager;

static void set_up(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    scratch_set_up();
    const char *path = scratch_path("notify");
    strcpy(address.sun_path, path);
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(manager, 0);
    ck_assert_int_eq(bind(manager, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
}

static void tear_down(void)
{
    notify_close();
    close(manager);
    ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
    scratch_tear_down();
}

static void expect_told(const char *state)
{
    char text[256];
    ssize_t size = recv(manager, text, sizeof text - 1, 0);
    ck_assert_int_ge(size, 0);
    text[size] = '\0';
    ck_assert_str_eq(text, state);
}

static void expect_silence(void)
{
    char byte;
    ck_assert_int_eq(recv(manager, &byte, 1, 0), -1);
    ck_assert_int_eq(errno, EAGAIN);
}

START_TEST(the_manager_gets_ready_and_status)
{
    notify_open(-1);
    notify_send("READY=1\nSTATUS=Serving");
    expect_told("READY=1\nSTATUS=Serving");
    notify_send("STOPPING=1");
    expect_told("STOPPING=1");
}
END_TEST

/* In a child process, as a process cannot leave its sandbox. */
START_TEST(the_manager_gets_messages_from_the_sandbox)
{
    enum sandbox_role role = (enum sandbox_role)_i;
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        notify_open(-1);
        if (sandbox_enter(role, -1) == 0)
            notify_send("READY=1");
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    expect_told("READY=1");
}
END_TEST

START_TEST(an_abstract_socket_name_is_accepted)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(
        address.sun_path + 1, sizeof address.sun_path - 1, "relay-check-%d", (int)getpid());
    char name[sizeof address.sun_path + 1];
    close(manager);
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    ck_assert_int_eq(bind(manager, (struct sockaddr *)&address, size), 0);
    (void)snprintf(name, sizeof name, "@%s", address.sun_path + 1);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
    notify_open(-1);
    notify_send("READY=1");
    expect_told("READY=1");
}
END_TEST

START_TEST(a_process_that_closed_its_socket_sends_nothing)
{
    notify_open(-1);
    notify_close();
    notify_send("READY=1");
    expect_silence();
}
END_TEST

START_TEST(without_a_manager_nothing_is_sent_or_logged)
{
    ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
    notify_open(-1);
    notify_send("READY=1");
    expect_silence();
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", "", 1), 0);
}
END_TEST

START_TEST(a_manager_that_cannot_be_reached_is_logged)
{
    static const char *const names[] = {"", "@", "notify", "/nowhere/notify"};
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", names[_i], 1), 0);
    notify_open(-1);
    notify_send("READY=1");
    scratch_expect_line("cannot notify the service manager");
}
END_TEST

START_TEST(a_descriptor_gets_one_newline_and_is_closed)
{
    int ends[2];
    char text[8];
    ck_assert_int_eq(pipe2(ends, O_NONBLOCK), 0);
    notify_open(ends[1]);
    notify_send("STATUS=Starting");
    ck_assert_int_eq(read(ends[0], text, sizeof text), -1);
    notify_ready("Serving");
    ck_assert_int_eq(read(ends[0], text, sizeof text), 1);
    ck_assert_int_eq(text[0], '\n');
    ck_assert_int_eq(read(ends[0], text, sizeof text), 0);
    ck_assert_int_eq(fcntl(ends[1], F_GETFD), -1);
    expect_told("STATUS=Starting");
    expect_told("READY=1\nSTATUS=Serving");
    close(ends[0]);
}
END_TEST

START_TEST(a_process_that_is_not_the_service_does_not_keep_the_descriptor)
{
    int ends[2];
    char byte;
    ck_assert_int_eq(pipe2(ends, O_NONBLOCK), 0);
    notify_open(ends[1]);
    notify_close();
    ck_assert_int_eq(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}
END_TEST

START_TEST(a_descriptor_that_cannot_be_written_is_logged)
{
    int ends[2];
    ck_assert(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    ck_assert_int_eq(pipe(ends), 0);
    close(ends[0]);
    notify_open(ends[1]);
    notify_ready("Serving");
    scratch_expect_line("cannot tell on descriptor");
}
END_TEST

START_TEST(a_closed_descriptor_is_logged)
{
    notify_open(1000);
    notify_ready("Serving");
    scratch_expect_line(
        "cannot tell on descriptor 1000 that the service is ready: Bad file descriptor");
}
END_TEST

START_TEST(a_manager_that_has_ended_is_logged)
{
    notify_open(-1);
    close(manager);
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    notify_send("READY=1\nSTATUS=Serving");
    scratch_expect_line("cannot tell the service manager \"READY=1\": Connection refused");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("notify");
    TCase *tests = tcase_create("notify");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, the_manager_gets_ready_and_status);
    tcase_add_loop_test(
        tests, the_manager_gets_messages_from_the_sandbox, SANDBOX_WORKER, SANDBOX_FORWARDER + 1);
    tcase_add_test(tests, an_abstract_socket_name_is_accepted);
    tcase_add_test(tests, a_process_that_closed_its_socket_sends_nothing);
    tcase_add_test(tests, without_a_manager_nothing_is_sent_or_logged);
    tcase_add_loop_test(tests, a_manager_that_cannot_be_reached_is_logged, 0, 4);
    tcase_add_test(tests, a_manager_that_has_ended_is_logged);
    tcase_add_test(tests, a_descriptor_gets_one_newline_and_is_closed);
    tcase_add_test(tests, a_process_that_is_not_the_service_does_not_keep_the_descriptor);
    tcase_add_test(tests, a_descriptor_that_cannot_be_written_is_logged);
    tcase_add_test(tests, a_closed_descriptor_is_logged);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
