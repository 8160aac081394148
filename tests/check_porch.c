/* The porch, as a process: it ends with the last process that could take a client from it. */
#include "base/clock.h"
#include "suite.h"
#include "worker/porch.h"

#include <check.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct porch porch;

static void make_room_for_few(int socket)
{
    int size = 1; /* the kernel makes it the least that there is */
    ck_assert_int_eq(setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}

static pid_t start_porch(void)
{
    static struct porch_pulse pulse;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(porch_run(&porch, 1, 1, &pulse));
    return pid;
}

/* Until no more are taken, as no worker takes one from the porch. */
static void send_clients(void)
{
    struct visit visit = {.ref = PAIR_NONE, .deadline = clock_now()};
    int ends[2], error;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    do
        error = porch_enter(&porch, &visit, ends[0]);
    while (error == 0);
    ck_assert_int_eq(error, -EAGAIN);
    close(ends[0]);
    close(ends[1]);
}

START_TEST(a_full_porch_ends_with_the_last_worker)
{
    int status;
    ck_assert_int_eq(porch_open(&porch), 0);
    make_room_for_few(porch.enter[1]);
    make_room_for_few(porch.leave[0]);
    pid_t pid = start_porch();
    send_clients();
    porch_close(&porch);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("porch");
    TCase *tests = tcase_create("porch");
    tcase_add_test(tests, a_full_porch_ends_with_the_last_worker);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
