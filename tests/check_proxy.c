/* The PROXY header: which headers are understood and which are refused, that nothing behind a
 * header is read, and which proxies are trusted. */
#include "connection.h"
#include "proto/greeting.h"
#include "proto/proxy.h"
#include "suite.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define PROXY_4                                                                                    \
    SIGNATURE "\x21\x11\x00\x0c"                                                                   \
              "\x0a\x01\x02\x03"                                                                   \
              "\x7f\x00\x00\x01"                                                                   \
              "\xdc\x04\x0f\xa1"
#define FROM_6 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
#define PROXY_6                                                                                    \
    SIGNATURE "\x21\x21\x00\x24" FROM_6 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"                       \
              "\xdc\x04\x0f\xa1"

static struct sockaddr_storage source;
static bool own;

static int read_within(int64_t time)
{
    struct greeting greeting = greeting_within(time);
    source = (struct sockaddr_storage){.ss_family = AF_APPLETALK}; /* to see whether it is set */
    return proxy_read(&greeting, &source, &own);
}

/* Reads a header from a new connection, which ends after these bytes. */
static int read_bytes(const void *bytes, size_t size)
{
    close_connection();
    open_connection();
    say(bytes, size);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    return read_within(10000);
}

static int read_text(const char *text)
{
    return read_bytes(text, strlen(text));
}

static void expect_source(const char *expected)
{
    char text[INET6_ADDRSTRLEN] = "none";
    if (source.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&source)->sin_addr, text, sizeof text);
    else if (source.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&source)->sin6_addr, text, sizeof text);
    else if (source.ss_family == AF_APPLETALK)
        strcpy(text, "untouched");
    ck_assert_str_eq(text, expected);
}

/* ---- version 1 ------------------------------------------------------------------- */

START_TEST(a_line_brings_an_address_of_either_family)
{
    ck_assert_int_eq(read_text("PROXY TCP4 192.0.2.1 127.0.0.1 56324 4001\r\n"), 0);
    expect_source("192.0.2.1");
    ck_assert(!own);
    ck_assert_int_eq(read_text("PROXY TCP6 2001:db8::7 ::1 65535 0\r\n"), 0);
    expect_source("2001:db8::7");
    ck_assert(!own);
}
END_TEST

START_TEST(unknown_is_a_connection_of_the_proxy_itself)
{
    const char *const lines[] = {
        "PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"};
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(read_text(lines[i]), 0);
        expect_source("untouched");
        ck_assert(own);
    }
}
END_TEST

START_TEST(the_longest_line_is_understood_and_a_longer_one_is_not)
{
    char line[PROXY_LINE_MAX + 2];
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    memcpy(line + PROXY_LINE_MAX - 2, "\r\n", 2);
    ck_assert_int_eq(read_bytes(line, PROXY_LINE_MAX), 0);
    memcpy(line + PROXY_LINE_MAX - 2, "x\r\n", 3);
    ck_assert_int_eq(read_bytes(line, PROXY_LINE_MAX + 1), -EPROTO);
}
END_TEST

START_TEST(every_other_line_is_refused)
{
    static const char *const lines[] = {
        "please relay x\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \n",
        "proxy TCP4 192.0.2.1 127.0.0.1 1 2\r\n",
        "PROXY TCP5 192.0.2.1 127.0.0.1 1 2\r\n",
        "PROXY UDP4 192.0.2.1 127.0.0.1 1 2\r\n",
        "PROXY TCP4  192.0.2.1 127.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1\r\n",
        "PROXY TCP4 192.0.2.1\r\n",
        "PROXY TCP4 \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2 127.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.256 127.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.01 127.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 nowhere 1 2\r\n",
        "PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 127.0.0.1 1 2\r\n",
        "PROXY TCP6 2001:db8:::7 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 123456\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 01 2\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 -1 2\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 x\r\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\n",
        "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\r\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        ck_assert_msg(read_text(lines[i]) == -EPROTO, "%s", lines[i]);
    ck_assert_int_eq(read_bytes("PROXY TCP4 192.0.2.1\0 127.0.0.1 1 2\r\n", 37), -EPROTO);
}
END_TEST

/* ---- version 2 ------------------------------------------------------------------- */

START_TEST(a_binary_header_brings_an_address_of_either_family)
{
    ck_assert_int_eq(read_bytes(PROXY_4, sizeof PROXY_4 - 1), 0);
    expect_source("10.1.2.3");
    ck_assert(!own);
    ck_assert_int_eq(read_bytes(PROXY_6, sizeof PROXY_6 - 1), 0);
    expect_source("2001:db8::7");
    ck_assert(!own);
}
END_TEST

START_TEST(local_and_unspecified_are_connections_of_the_proxy_itself)
{
    static const char *const headers[] = {
        SIGNATURE "\x20\x00\0\0",
        SIGNATURE "\x20\x11\0\x0c"
                  "\x0a\x01\x02\x03\x7f\0\0\1\0\0\0\0",
        SIGNATURE "\x21\x00\0\0",
        SIGNATURE "\x21\x00\0\x03"
                  "abc",
    };
    static const size_t sizes[] = {16, 28, 16, 19};
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(read_bytes(headers[i], sizes[i]), 0);
        expect_source("untouched");
        ck_assert(own);
    }
}
END_TEST

START_TEST(a_unix_socket_in_front_of_the_proxy_is_no_address)
{
    uint8_t header[16 + 216] = SIGNATURE "\x21\x31\x00\xd8";
    ck_assert_int_eq(read_bytes(header, sizeof header), 0);
    expect_source("none");
    ck_assert(!own);
}
END_TEST

static void make_long(uint8_t *header, size_t rest)
{
    memcpy(header, PROXY_4, sizeof PROXY_4 - 1);
    header[14] = (uint8_t)(rest >> 8);
    header[15] = (uint8_t)rest;
}

START_TEST(data_behind_the_addresses_is_skipped_up_to_a_limit)
{
    static uint8_t header[16 + PROXY_REST_MAX + 1];
    make_long(header, PROXY_REST_MAX);
    ck_assert_int_eq(read_bytes(header, 16 + PROXY_REST_MAX), 0);
    expect_source("10.1.2.3");
    make_long(header, PROXY_REST_MAX + 1);
    ck_assert_int_eq(read_bytes(header, 16 + PROXY_REST_MAX + 1), -EPROTO);
    make_long(header, 0xffff);
    ck_assert_int_eq(read_bytes(header, 16), -EPROTO);
}
END_TEST

static bool is_good_head(unsigned int command, unsigned int family)
{
    return (command == 0x20 || command == 0x21) &&
           (command == 0x20 || ((family & 15) <= 2 && (family >> 4) <= 1));
}

START_TEST(every_other_version_command_family_and_transport_is_refused)
{
    uint8_t header[sizeof PROXY_4 - 1];
    for (unsigned int value = 0; value < 256; value++) {
        memcpy(header, PROXY_4, sizeof header);
        header[12] = (uint8_t)value;
        ck_assert_int_eq(
            read_bytes(header, sizeof header), is_good_head(value, 0x11) ? 0 : -EPROTO);
        memcpy(header, PROXY_4, sizeof header);
        header[13] = (uint8_t)value; /* 12 bytes are too few for any other address */
        ck_assert_int_eq(
            read_bytes(header, sizeof header), is_good_head(0x21, value) ? 0 : -EPROTO);
    }
}
END_TEST

START_TEST(a_length_too_small_for_its_addresses_is_refused)
{
    uint8_t header[16 + 216] = SIGNATURE "\x21";
    static const struct {
        uint8_t family, size;
    } kinds[] = {{0x11, 12}, {0x21, 36}, {0x31, 216}};
    for (size_t i = 0; i < 3; i++) {
        header[13] = kinds[i].family;
        for (unsigned int size = 0; size <= kinds[i].size; size++) {
            header[15] = (uint8_t)size;
            ck_assert_int_eq(read_bytes(header, 16 + size), size == kinds[i].size ? 0 : -EPROTO);
        }
    }
}
END_TEST

START_TEST(every_other_signature_is_refused_at_once)
{
    for (size_t at = 0; at < 12; at++) {
        uint8_t header[sizeof PROXY_4 - 1];
        memcpy(header, PROXY_4, sizeof header);
        header[at] ^= 0x80;
        ck_assert_int_eq(read_bytes(header, sizeof header), -EPROTO);
        ck_assert_int_eq(left_to_read(), (int)sizeof header); /* nothing was consumed */
        /* The same when nothing has come behind the wrong byte. */
        ck_assert_int_eq(read_bytes(header, at + 1), -EPROTO);
    }
}
END_TEST

/* ---- both ------------------------------------------------------------------------ */

static const struct {
    const char *bytes;
    size_t size;
} good[] = {
    {"PROXY TCP4 192.0.2.1 127.0.0.1 56324 4001\r\n", 43},
    {"PROXY UNKNOWN\r\n", 15},
    {PROXY_4, sizeof PROXY_4 - 1},
    {PROXY_6, sizeof PROXY_6 - 1},
};

START_TEST(a_header_cut_short_anywhere_is_not_accepted)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        for (size_t size = 0; size < good[i].size; size++)
            ck_assert_int_eq(read_bytes(good[i].bytes, size), -ECONNRESET);
}
END_TEST

START_TEST(a_header_that_does_not_end_ends_at_the_deadline)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        close_connection();
        open_connection();
        say(good[i].bytes, good[i].size - 1);
        ck_assert_int_eq(read_within(20), -ETIMEDOUT);
    }
}
END_TEST

START_TEST(nothing_behind_a_header_is_read)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        close_connection();
        open_connection();
        say(good[i].bytes, good[i].size);
        say("PROXY early\n", 12);
        ck_assert_int_eq(read_within(10000), 0);
        ck_assert_int_eq(left_to_read(), 12);
    }
}
END_TEST

START_TEST(a_header_in_pieces_of_any_size_is_understood)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        for (size_t piece = 1; piece < good[i].size; piece++) {
            close_connection();
            open_connection();
            pid_t child = fork();
            if (child == 0) {
                for (size_t at = 0; at < good[i].size; at += piece)
                    say(good[i].bytes + at, good[i].size - at < piece ? good[i].size - at : piece);
                _exit(0);
            }
            ck_assert_int_eq(read_within(10000), 0);
            ck_assert_int_eq(waitpid(child, NULL, 0), child);
        }
    }
}
END_TEST

/* ---- trusted proxies ------------------------------------------------------------- */

static bool trusts(const char *network, int family, const char *address)
{
    struct networks trust = {.count = 1};
    struct sockaddr_storage peer = {.ss_family = (sa_family_t)family};
    ck_assert_int_eq(networks_parse(network, &trust.list[0]), 0);
    if (family == AF_INET)
        ck_assert_int_eq(inet_pton(family, address, &((struct sockaddr_in *)&peer)->sin_addr), 1);
    else if (family == AF_INET6)
        ck_assert_int_eq(inet_pton(family, address, &((struct sockaddr_in6 *)&peer)->sin6_addr), 1);
    return networks_contain(&trust, &peer);
}

START_TEST(a_network_holds_its_own_addresses_and_no_others)
{
    ck_assert(trusts("10.0.0.0/8", AF_INET, "10.255.255.255"));
    ck_assert(!trusts("10.0.0.0/8", AF_INET, "11.0.0.0"));
    ck_assert(trusts("10.32.0.0/11", AF_INET, "10.63.255.255"));
    ck_assert(!trusts("10.32.0.0/11", AF_INET, "10.64.0.0"));
    ck_assert(trusts("127.0.0.1", AF_INET, "127.0.0.1"));
    ck_assert(!trusts("127.0.0.1", AF_INET, "127.0.0.2"));
    ck_assert(trusts("0.0.0.0/0", AF_INET, "198.51.100.9"));
    ck_assert(trusts("fd00::/8", AF_INET6, "fdff::1"));
    ck_assert(!trusts("fd00::/8", AF_INET6, "fe00::1"));
    ck_assert(trusts("2001:db8::7/128", AF_INET6, "2001:db8::7"));
    ck_assert(!trusts("2001:db8::7", AF_INET6, "2001:db8::6"));
}
END_TEST

START_TEST(a_network_holds_no_other_family_but_an_IPv4_mapped_address_is_IPv4)
{
    ck_assert(trusts("192.0.2.0/24", AF_INET6, "::ffff:192.0.2.7"));
    ck_assert(!trusts("192.0.2.0/24", AF_INET6, "::ffff:192.0.3.7"));
    ck_assert(!trusts("::/0", AF_INET6, "::ffff:192.0.2.7"));
    ck_assert(trusts("::ffff:192.0.2.7", AF_INET, "192.0.2.7"));
    ck_assert(trusts("::ffff:192.0.2.7", AF_INET6, "::ffff:192.0.2.7"));
    ck_assert(!trusts("::ffff:192.0.2.7", AF_INET, "192.0.2.8"));
    ck_assert(trusts("::ffff:192.0.2.0/120", AF_INET, "192.0.2.8"));
    ck_assert(trusts("::ffff:0.0.0.0/96", AF_INET, "192.0.2.8"));
    ck_assert(!trusts("::/0", AF_INET, "192.0.2.7"));
    ck_assert(!trusts("0.0.0.0/0", AF_INET6, "::1"));
    ck_assert(trusts("unix", AF_UNIX, NULL));
    ck_assert(!trusts("unix", AF_INET, "127.0.0.1"));
    ck_assert(!trusts("0.0.0.0/0", AF_UNIX, NULL));
    ck_assert(!trusts("unix", AF_UNSPEC, NULL));
}
END_TEST

START_TEST(a_malformed_network_is_refused)
{
    static const char *const texts[] = {"", "/", "/8", "x", "10.0.0.0/", "10.0.0.0/33",
        "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8x", "10.0.0.0/ 8", "10.0.0.0/8/8", "10.0.0/8",
        "10.0.0.1/8", "10.0.0.0/1000", "10.0.0.0 /8", " 10.0.0.0/8", "::/129", "fd00::1/8",
        "fd00::/8x", "localhost", "UNIX", "unix:/run/x", "unix/8", "[::1]",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd/8"};
    struct network network;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        ck_assert_msg(networks_parse(texts[i], &network) < 0, "\"%s\"", texts[i]);
}
END_TEST

START_TEST(no_proxy_is_trusted_by_default)
{
    struct networks trust = {.count = 0};
    struct sockaddr_storage peer = {.ss_family = AF_INET};
    ck_assert(!networks_contain(&trust, &peer));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proxy");
    TCase *tests = tcase_create("header");
    tcase_add_checked_fixture(tests, open_connection, close_connection);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_line_brings_an_address_of_either_family);
    tcase_add_test(tests, unknown_is_a_connection_of_the_proxy_itself);
    tcase_add_test(tests, the_longest_line_is_understood_and_a_longer_one_is_not);
    tcase_add_test(tests, every_other_line_is_refused);
    tcase_add_test(tests, a_binary_header_brings_an_address_of_either_family);
    tcase_add_test(tests, local_and_unspecified_are_connections_of_the_proxy_itself);
    tcase_add_test(tests, a_unix_socket_in_front_of_the_proxy_is_no_address);
    tcase_add_test(tests, data_behind_the_addresses_is_skipped_up_to_a_limit);
    tcase_add_test(tests, every_other_version_command_family_and_transport_is_refused);
    tcase_add_test(tests, a_length_too_small_for_its_addresses_is_refused);
    tcase_add_test(tests, every_other_signature_is_refused_at_once);
    tcase_add_test(tests, a_header_cut_short_anywhere_is_not_accepted);
    tcase_add_test(tests, a_header_that_does_not_end_ends_at_the_deadline);
    tcase_add_test(tests, nothing_behind_a_header_is_read);
    tcase_add_test(tests, a_header_in_pieces_of_any_size_is_understood);
    tcase_add_test(tests, a_network_holds_its_own_addresses_and_no_others);
    tcase_add_test(tests, a_network_holds_no_other_family_but_an_IPv4_mapped_address_is_IPv4);
    tcase_add_test(tests, a_malformed_network_is_refused);
    tcase_add_test(tests, no_proxy_is_trusted_by_default);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
