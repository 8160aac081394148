/* The log writes a line at once or not at all, wherever it goes, and reports how many were lost. */
#include "base/log.h"
#include "scratch.h"
#include "suite.h"

#include <errno.h>
#include <poll.h>
#include <seccomp.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
    LINES = 5000 /* more than fit into a pipe */
};

/* What a kernel or a container may be without. */
enum lack {
    NOTHING,
    PROC,               /* a pipe cannot be opened again */
    PROC_AND_RWF_NOWAIT /* as before Linux 6.5 */
};

/* Standard error does not block at first, as another program has set it so; that program takes the
 * flag back later. */
static bool flag_is_taken_back;

static void set_nonblocking(int fd, bool wanted)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, wanted ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
        _exit(2);
}

static void take_away(enum lack lack)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int error = filter == NULL ? -1 : 0;
    if (error == 0 && lack != NOTHING)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat), 0);
    if (error == 0 && lack == PROC_AND_RWF_NOWAIT)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EOPNOTSUPP), SCMP_SYS(pwritev2), 0);
    if (error != 0 || seccomp_load(filter) != 0)
        _exit(2);
    seccomp_release(filter);
}

/* A process whose standard error is `error` logs more than fits, and logs again when the test tells
 * it that there is room. */
static _Noreturn void log_much(int error, int go_on, enum lack lack)
{
    char byte;
    (void)alarm(20); /* in case a write waits */
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || dup2(error, STDERR_FILENO) < 0)
        _exit(2);
    take_away(lack);
    (void)unsetenv("JOURNAL_STREAM");
    (void)unsetenv("RELAY_LOG");
    if (flag_is_taken_back)
        set_nonblocking(error, true);
    log_setup(false);
    if (flag_is_taken_back)
        set_nonblocking(error, false);
    for (int i = 0; i < LINES; i++)
        log_info("line %d%100s", i, "");
    if (write(go_on, "", 1) != 1 || read(go_on, &byte, 1) != 1)
        _exit(2);
    log_info("the last line");
    _exit(0);
}

struct found {
    unsigned int lines, lost;
    bool last, clean;
};

static void read_line(const char *line, struct found *found)
{
    int number;
    unsigned int lost;
    if (sscanf(line, "relay: line %d", &number) == 1)
        found->lines++;
    else if (sscanf(line, "relay: %u lines of this log were lost", &lost) == 1)
        found->lost += lost;
    else if (strcmp(line, "relay: the last line") == 0)
        found->last = true;
    else
        found->clean = false;
}

/* Reads what is there, and does not wait. */
static void read_lines(int fd, struct found *found)
{
    static char line[8192];
    static size_t size;
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    while (poll(&entry, 1, 50) > 0) {
        char byte;
        if (read(fd, &byte, 1) != 1)
            break;
        if (byte == '\r')
            continue;
        ck_assert_uint_lt(size, sizeof line - 1);
        if (byte != '\n') {
            line[size++] = byte;
            continue;
        }
        line[size] = '\0';
        size = 0;
        read_line(line, found);
    }
}

/* reader: the other end of `error`; it is not read at first. */
static void expect_no_wait(int reader, int error, enum lack lack)
{
    struct found found = {.clean = true};
    int ends[2], status;
    char byte;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        log_much(error, ends[1], lack);
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 1); /* the process has logged all without waiting */
    read_lines(reader, &found);
    ck_assert_uint_gt(found.lines, 0);
    ck_assert_uint_lt(found.lines, LINES);
    ck_assert_int_eq(write(ends[0], "", 1), 1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    read_lines(reader, &found);
    ck_assert(found.last);
    ck_assert(found.clean);
    ck_assert_uint_eq(found.lines + found.lost, LINES);
    ck_assert_int_eq(
        fcntl(error, F_GETFL) & O_NONBLOCK, 0); /* the log does not change the shared open file */
    close(ends[0]);
}

START_TEST(a_full_pipe_loses_lines)
{
    int ends[2];
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    expect_no_wait(ends[0], ends[1], (enum lack)_i);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(a_full_pipe_loses_lines_also_after_another_program_has_made_it_block_again)
{
    int ends[2];
    flag_is_taken_back = true;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    expect_no_wait(ends[0], ends[1], (enum lack)_i);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(a_full_socket_loses_lines)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    expect_no_wait(ends[0], ends[1], (enum lack)_i);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(a_stopped_terminal_loses_lines)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    ck_assert_int_ge(terminal, 0);
    ck_assert(grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    int error = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    ck_assert_int_ge(error, 0);
    expect_no_wait(terminal, error, NOTHING);
    close(error);
    close(terminal);
}
END_TEST

START_TEST(a_pipe_without_a_reader_ends_no_process)
{
    int ends[2], lines[2], status;
    char byte;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lines), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        log_much(ends[1], lines[1], (enum lack)_i);
    ck_assert_int_eq(read(lines[0], &byte, 1), 1);
    ck_assert_int_eq(write(lines[0], "", 1), 1);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    close(ends[1]);
    close(lines[0]);
    close(lines[1]);
}
END_TEST

START_TEST(repeated_lines_are_written_once_except_at_debug_level)
{
    bool debug = _i != 0;
    char text[4096];
    log_setup(debug);
    for (int i = 0; i < 3; i++)
        log_repeated(LOG_INFO, "a refusal");
    ssize_t size = read(scratch_log, text, sizeof text - 1);
    ck_assert_int_gt(size, 0);
    text[size] = '\0';
    ck_assert_str_eq(text,
        debug ? "relay: a refusal\nrelay: a refusal\nrelay: a refusal\n" : "relay: a refusal\n");
    (void)log_write_sums(true);
    if (!debug)
        scratch_expect_line("relay: a refusal (2 times");
}
END_TEST

START_TEST(an_error_is_logged_with_the_text_of_errno_and_errno_is_kept)
{
    log_setup(false);
    errno = ENOSPC;
    log_repeated_errno(LOG_ERR, "cannot use %s", "this");
    ck_assert_int_eq(errno, ENOSPC);
    scratch_expect_line("relay: cannot use this: No space left on device");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tests = tcase_create("full and gone");
    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, a_full_pipe_loses_lines, NOTHING, PROC_AND_RWF_NOWAIT + 1);
    tcase_add_loop_test(tests,
        a_full_pipe_loses_lines_also_after_another_program_has_made_it_block_again, NOTHING,
        PROC_AND_RWF_NOWAIT + 1);
    tcase_add_loop_test(tests, a_full_socket_loses_lines, NOTHING, PROC + 1);
    tcase_add_test(tests, a_stopped_terminal_loses_lines);
    tcase_add_loop_test(
        tests, a_pipe_without_a_reader_ends_no_process, NOTHING, PROC_AND_RWF_NOWAIT + 1);
    suite_add_tcase(suite, tests);
    tests = tcase_create("lines");
    tcase_add_checked_fixture(tests, scratch_set_up, scratch_tear_down);
    tcase_add_loop_test(tests, repeated_lines_are_written_once_except_at_debug_level, 0, 2);
    tcase_add_test(tests, an_error_is_logged_with_the_text_of_errno_and_errno_is_kept);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
