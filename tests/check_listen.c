/* Listening sockets: which addresses are accepted, and which options connections inherit. */
#include "suite.h"
#include "worker/listen.h"

#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    SOCKETS = 4,
};

static struct options options;
static int sockets[SOCKETS];
static int opened;

static void prepare(void)
{
    memset(&options, 0, sizeof options);
    opened = 0;
    /* The log goes to standard error; these tests do not look at it. */
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(nowhere, 0);
    ck_assert_int_eq(dup2(nowhere, STDERR_FILENO), STDERR_FILENO);
    close(nowhere);
}

static void close_sockets(void)
{
    while (opened > 0)
        close(sockets[--opened]);
}

static int open_address(const char *address)
{
    close_sockets();
    int count = listen_open(address, &options, sockets, SOCKETS);
    opened = count > 0 ? count : 0;
    return count;
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    ck_assert_int_eq(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    return ntohs(address.sin_port);
}

/* A connection to the first socket, accepted once the client has sent something. */
static int accept_client(int *client)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons(port_of(sockets[0])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(*client, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(send(*client, "x", 1, MSG_NOSIGNAL), 1);
    int fd = accept4(sockets[0], NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* ---- addresses ------------------------------------------------------------------- */

START_TEST(a_host_and_a_port_are_one_socket_that_listens)
{
    ck_assert_int_eq(open_address("127.0.0.1:0"), 1);
    ck_assert_int_eq(option(sockets[0], SOL_SOCKET, SO_ACCEPTCONN), 1);
    ck_assert_uint_ne(port_of(sockets[0]), 0);
}
END_TEST

START_TEST(a_name_is_looked_up)
{
    ck_assert_int_ge(open_address("localhost:0"), 1);
}
END_TEST

START_TEST(a_port_alone_means_every_address)
{
    ck_assert_int_ge(open_address(":0"), 1);
    for (int i = 0; i < opened; i++)
        ck_assert_int_eq(option(sockets[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
}
END_TEST

static const char *const nonsense[] = {"", "127.0.0.1", "127.0.0.1:", ":", "127.0.0.1:http",
    "127.0.0.1:65536", "127.0.0.1:99999", "127.0.0.1: 80", "127.0.0.1:80 ", "127.0.0.1:+80",
    "127.0.0.1:-1", "127.0.0.1:0x50", "127.0.0.1:4294967296", "127.0.0.1:65536x", "[::1:0",
    "::1]:0", "::1:0", "[]x:0", "256.0.0.1.:0", "unix:"};

START_TEST(a_malformed_address_is_refused)
{
    ck_assert_int_eq(open_address(nonsense[_i]), -1);
}
END_TEST

START_TEST(a_host_name_that_is_too_long_is_refused)
{
    char address[4096];
    memset(address, 'a', sizeof address);
    strcpy(address + sizeof address - 3, ":1");
    ck_assert_int_eq(open_address(address), -1);
}
END_TEST

START_TEST(an_address_in_use_is_refused_and_nothing_is_left_open)
{
    char address[32];
    int first[SOCKETS];
    ck_assert_int_eq(listen_open("127.0.0.1:0", &options, first, SOCKETS), 1);
    snprintf(address, sizeof address, "127.0.0.1:%d", port_of(first[0]));
    int next = dup(first[0]);
    close(next);
    ck_assert_int_eq(open_address(address), -1);
    int after = dup(first[0]);
    ck_assert_int_eq(after, next);
    close(after);
    close(first[0]);
}
END_TEST

/* ---- Unix sockets ---------------------------------------------------------------- */

START_TEST(a_dead_unix_socket_is_replaced_and_a_living_one_is_not)
{
    char directory[] = "/tmp/check-listen-XXXXXX", address[64];
    int living[SOCKETS];
    struct stat status;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(address, sizeof address, "unix:%s/socket", directory);
    ck_assert_int_eq(listen_open(address, &options, living, SOCKETS), 1);
    ck_assert_int_eq(open_address(address), -1);
    ck_assert_int_eq(stat(address + 5, &status), 0);
    close(living[0]);
    ck_assert_int_eq(open_address(address), 1);
    ck_assert_int_eq(unlink(address + 5), 0);
    ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

START_TEST(a_file_that_is_no_socket_is_left_alone)
{
    char path[] = "/tmp/check-listen-XXXXXX", address[64];
    struct stat status;
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(address, sizeof address, "unix:%s", path);
    ck_assert_int_eq(open_address(address), -1);
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert(S_ISREG(status.st_mode));
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_path_that_is_too_long_is_refused)
{
    char address[5 + sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
    memset(address, 'a', sizeof address);
    memcpy(address, "unix:/", 6);
    address[sizeof address - 1] = '\0';
    ck_assert_int_eq(open_address(address), -1);
}
END_TEST

/* ---- connections ----------------------------------------------------------------- */

START_TEST(connections_inherit_probes_that_end_them_two_minutes_after_the_peer_vanished)
{
    int client;
    ck_assert_int_eq(open_address("127.0.0.1:0"), 1);
    int fd = accept_client(&client);
    ck_assert_int_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    int idle = option(fd, IPPROTO_TCP, TCP_KEEPIDLE);
    int probes = option(fd, IPPROTO_TCP, TCP_KEEPCNT) * option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
    ck_assert_int_eq(idle + probes, 120);
    close(fd);
    close(client);
}
END_TEST

START_TEST(connections_inherit_the_session_rate)
{
    int client;
    options.session_rate = 1 << 20;
    ck_assert_int_eq(open_address("127.0.0.1:0"), 1);
    int fd = accept_client(&client);
    ck_assert_int_eq(option(fd, SOL_SOCKET, SO_MAX_PACING_RATE), 1 << 20);
    close(fd);
    close(client);
}
END_TEST

START_TEST(a_client_that_has_sent_nothing_wakes_no_worker)
{
    ck_assert_int_eq(open_address("127.0.0.1:0"), 1);
    ck_assert_int_gt(option(sockets[0], IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("listen");
    TCase *tests = tcase_create("listen");
    tcase_add_checked_fixture(tests, prepare, close_sockets);
    tcase_add_test(tests, a_host_and_a_port_are_one_socket_that_listens);
    tcase_add_test(tests, a_name_is_looked_up);
    tcase_add_test(tests, a_port_alone_means_every_address);
    tcase_add_loop_test(
        tests, a_malformed_address_is_refused, 0, (int)(sizeof nonsense / sizeof nonsense[0]));
    tcase_add_test(tests, a_host_name_that_is_too_long_is_refused);
    tcase_add_test(tests, an_address_in_use_is_refused_and_nothing_is_left_open);
    tcase_add_test(tests, a_dead_unix_socket_is_replaced_and_a_living_one_is_not);
    tcase_add_test(tests, a_file_that_is_no_socket_is_left_alone);
    tcase_add_test(tests, a_path_that_is_too_long_is_refused);
    tcase_add_test(
        tests, connections_inherit_probes_that_end_them_two_minutes_after_the_peer_vanished);
    tcase_add_test(tests, connections_inherit_the_session_rate);
    tcase_add_test(tests, a_client_that_has_sent_nothing_wakes_no_worker);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
