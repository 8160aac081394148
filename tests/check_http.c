/* The request head and its answer: RFC 9112 where it is about requests, RFC 6455 section 4.2 (the
 * server's side of the opening handshake); and that nothing behind a head is read. */
#include "connection.h"
#include "proto/http.h"
#include "suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define START "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n"
#define UPGRADE "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define NONCE "Sec-WebSocket-Key: " KEY "\r\n"
#define VERSION "Sec-WebSocket-Version: 13\r\n"
#define WHOLE START UPGRADE NONCE VERSION "\r\n"

static struct http_request request;

static enum http_answer parse(const char *head)
{
    char *copy = strndup(head, strlen(head));
    enum http_answer answer = http_parse(copy, strlen(copy), &request);
    free(copy);
    return answer;
}

#define expect_answer(head, answer) ck_assert_int_eq(parse(head), answer)

static void expect_path(const char *head, const char *path)
{
    ck_assert_int_eq(http_parse(head, strlen(head), &request), HTTP_PAGE);
    ck_assert_uint_eq(request.path_size, strlen(path));
    ck_assert_mem_eq(request.path, path, strlen(path));
}

/* ---- RFC 6455, 4.2.1: reading the client's opening handshake --------------------- */

START_TEST(test_4_2_1_the_rfcs_own_example)
{
    expect_answer("GET /chat HTTP/1.1\r\n"
                  "Host: server.example.com\r\n"
                  "Upgrade: websocket\r\n"
                  "Connection: Upgrade\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                  "Origin: http://example.com\r\n"
                  "Sec-WebSocket-Protocol: chat, superchat\r\n"
                  "Sec-WebSocket-Version: 13\r\n"
                  "\r\n",
        HTTP_SWITCH);
    ck_assert_str_eq(request.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
END_TEST

START_TEST(test_4_2_1_connection_and_upgrade_are_lists_of_tokens_in_any_case)
{
    expect_answer(START "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" NONCE VERSION
                        "\r\n",
        HTTP_SWITCH);
    expect_answer(START
        "connection:keep-alive ,\t,uPGRADE ,x\r\nUPGRADE: h2c,WebSocket\r\n" NONCE VERSION "\r\n",
        HTTP_SWITCH);
    expect_answer(START "Connection: keep-alive\r\nConnection: Upgrade\r\n"
                        "Upgrade: h2c\r\nUpgrade: websocket\r\n" NONCE VERSION "\r\n",
        HTTP_SWITCH);
}
END_TEST

START_TEST(test_4_2_1_tokens_that_are_only_similar_ask_for_no_websocket)
{
    expect_answer(
        START "Connection: Upgrades\r\nUpgrade: websocket\r\n" NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer(
        START "Connection: not upgrade\r\nUpgrade: websocket\r\n" NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer(
        START "Connection: Upgrade\r\nUpgrade: websocket2\r\n" NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer(START "Upgrade: websocket\r\n" NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer(START "Connection: Upgrade\r\n" NONCE VERSION "\r\n", HTTP_PAGE);
}
END_TEST

START_TEST(test_4_2_1_the_method_is_get_and_the_version_1_1_or_higher)
{
    expect_answer("HEAD /chat HTTP/1.1\r\nHost: h\r\n" UPGRADE NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer(
        "POST /chat HTTP/1.1\r\nHost: h\r\n" UPGRADE NONCE VERSION "\r\n", HTTP_NOT_ALLOWED);
    expect_answer("GET /chat HTTP/1.0\r\nHost: h\r\n" UPGRADE NONCE VERSION "\r\n", HTTP_PAGE);
    expect_answer("GET /chat HTTP/1.2\r\nHost: h\r\n" UPGRADE NONCE VERSION "\r\n", HTTP_SWITCH);
}
END_TEST

START_TEST(test_4_2_1_the_key_is_16_bytes_in_base64_and_comes_once)
{
    static const char *const keys[] = {"", "x", "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZTE=", "dGhlIHNhbXBsZSBub25jZTEy",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZQ===", "dGhlIHNhbXBsZSBub25j*Q==", "dGhlIHNhbXBsZSBu b25jZQ=="};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char head[512];
        (void)snprintf(
            head, sizeof head, START UPGRADE VERSION "Sec-WebSocket-Key: %s\r\n\r\n", keys[i]);
        expect_answer(head, HTTP_BAD_REQUEST);
    }
    expect_answer(START UPGRADE VERSION "\r\n", HTTP_BAD_REQUEST);
    expect_answer(START UPGRADE VERSION NONCE NONCE "\r\n", HTTP_BAD_REQUEST);
    expect_answer(START UPGRADE VERSION "sec-websocket-key: \t" KEY " \r\n\r\n", HTTP_SWITCH);
}
END_TEST

START_TEST(test_4_4_a_client_of_another_version_is_told_the_version_of_the_relay)
{
    static const char *const versions[] = {"", "Sec-WebSocket-Version: 8\r\n",
        "Sec-WebSocket-Version: 14\r\n", "Sec-WebSocket-Version: 013\r\n",
        "Sec-WebSocket-Version: 13, 8\r\n", VERSION VERSION};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        char head[512], out[HTTP_ANSWER_MAX + 1];
        (void)snprintf(head, sizeof head, START UPGRADE NONCE "%s\r\n", versions[i]);
        expect_answer(head, HTTP_UPGRADE_REQUIRED);
        out[http_write(HTTP_UPGRADE_REQUIRED, &request, out)] = '\0';
        ck_assert_ptr_nonnull(strstr(out, "HTTP/1.1 426 "));
        ck_assert_ptr_nonnull(strstr(out, "\r\nSec-WebSocket-Version: 13\r\n"));
    }
}
END_TEST

/* ---- RFC 6455, 4.2.2: the server's answer ---------------------------------------- */

START_TEST(test_4_2_2_the_answer_proves_that_the_key_was_read_and_accepts_no_extension)
{
    char out[HTTP_ANSWER_MAX + 1];
    expect_answer(START UPGRADE NONCE VERSION
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
        HTTP_SWITCH);
    out[http_write(HTTP_SWITCH, &request, out)] = '\0';
    ck_assert_str_eq(out, "HTTP/1.1 101 Switching Protocols\r\n"
                          "Upgrade: websocket\r\n"
                          "Connection: Upgrade\r\n"
                          "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                          "\r\n");
}
END_TEST

static void expect_subprotocol(const char *lines, const char *expected)
{
    char head[4096], out[HTTP_ANSWER_MAX + 1], line[2048] = "";
    (void)snprintf(head, sizeof head, START UPGRADE NONCE VERSION "%s\r\n", lines);
    char *copy = strndup(head, strlen(head));
    ck_assert_int_eq(http_parse(copy, strlen(copy), &request), HTTP_SWITCH);
    out[http_write(HTTP_SWITCH, &request, out)] = '\0';
    free(copy);
    if (expected != NULL)
        (void)snprintf(line, sizeof line, "Sec-WebSocket-Protocol: %s\r\n", expected);
    const char *accept = strstr(out, "Sec-WebSocket-Accept: ");
    ck_assert_ptr_nonnull(accept);
    const char *rest = strstr(accept, "\r\n") + 2;
    ck_assert_mem_eq(rest, line, strlen(line));
    ck_assert_str_eq(rest + strlen(line), "\r\n");
}

START_TEST(test_4_2_2_an_offered_subprotocol_is_accepted)
{
    expect_subprotocol("Sec-WebSocket-Protocol: chat\r\n", "chat");
    expect_subprotocol("Sec-WebSocket-Protocol: chat, superchat\r\n", "chat");
    expect_subprotocol("sec-websocket-protocol:\t v1.chat ,superchat\r\n", "v1.chat");
    expect_subprotocol("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n", "a");
}
END_TEST

START_TEST(test_4_2_2_a_malformed_subprotocol_is_not_accepted)
{
    char lines[2048];
    expect_subprotocol("", NULL);
    expect_subprotocol("Sec-WebSocket-Protocol:\r\n", NULL);
    expect_subprotocol("Sec-WebSocket-Protocol: a b\r\n", NULL);
    expect_subprotocol("Sec-WebSocket-Protocol: ,chat\r\n", NULL);
    (void)snprintf(lines, sizeof lines, "Sec-WebSocket-Protocol: %01025d\r\n", 1);
    expect_subprotocol(lines, NULL);
}
END_TEST

/* ---- RFC 9112: the request head -------------------------------------------------- */

START_TEST(test_9112_2_2_a_bare_line_feed_ends_a_line_and_a_bare_carriage_return_does_not)
{
    expect_answer("GET / HTTP/1.1\nHost: h\n\n", HTTP_PAGE);
    expect_answer("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", HTTP_BAD_REQUEST);
    expect_answer("GET / HTTP/1.1\rHost: h\r\n\r\n", HTTP_BAD_REQUEST);
}
END_TEST

START_TEST(test_9112_3_a_request_line_has_three_parts)
{
    static const char *const wrong[] = {"", "GET", "GET /", "GET / ", "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET / http/1.1", "GET / HTTP/1", "GET / HTTP/11",
        "GET / HTTP/1.x", "GET / HTTP/1.1x", "G(T / HTTP/1.1", " / HTTP/1.1", "GET\t/\tHTTP/1.1",
        "GET  HTTP/1.1", "GET /\x7f HTTP/1.1", "GET /\x01 HTTP/1.1"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char head[128];
        (void)snprintf(head, sizeof head, "%s\r\nHost: h\r\n\r\n", wrong[i]);
        expect_answer(head, HTTP_BAD_REQUEST);
    }
    expect_answer("GET / HTTP/2.0\r\nHost: h\r\n\r\n", HTTP_OTHER_VERSION);
    expect_answer("GET / HTTP/0.9\r\nHost: h\r\n\r\n", HTTP_OTHER_VERSION);
}
END_TEST

START_TEST(test_9112_2_2_an_empty_line_before_the_request_is_ignored)
{
    expect_answer("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_PAGE);
    expect_answer("\r\n\r\n", HTTP_BAD_REQUEST);
}
END_TEST

START_TEST(other_methods_and_versions_are_refused_as_such_with_any_target)
{
    expect_answer("PATCH /a HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_NOT_ALLOWED);
    expect_answer("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_NOT_ALLOWED);
    expect_answer("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_NOT_ALLOWED);
    expect_answer("get / HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_NOT_ALLOWED);
    expect_answer("PRI * HTTP/2.0\r\n\r\n", HTTP_OTHER_VERSION);
}
END_TEST

static void expect_beginning(const char *words, enum beginning expected)
{
    ck_assert_msg(http_begins(words, strlen(words)) == expected, "%s", words);
}

START_TEST(a_method_and_a_target_or_an_empty_line_begin_http)
{
    static const char *const ours[] = {"GET /", "PATCH /", "TRACE /a HTTP/1.1", "CONNECT x",
        "PRI * HTTP/2.0", "OPTIONS *", "get /", "X-UNKNOWN /", "UPDATEREDIRECTREF /", "\r\n",
        "\r\nGET", "PROPFIND http://h/"};
    static const char *const others[] = {"please relay", "please relay /", "please r", "\n", " /",
        "\rx", "GET\t/", "GET:", "0123456789012345678901234", "\x16\x03", "hello world"};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        expect_beginning(ours[i], BEGINNING_OURS);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        expect_beginning(others[i], BEGINNING_OTHER);
    expect_beginning("", BEGINNING_UNDECIDED);
    expect_beginning("please ", BEGINNING_UNDECIDED);
    expect_beginning("G", BEGINNING_UNDECIDED);
    expect_beginning("\r", BEGINNING_UNDECIDED);
    expect_beginning("PROPFIND htt", BEGINNING_UNDECIDED);
}
END_TEST

START_TEST(test_9112_3_2_host_may_come_once_and_must_since_1_1)
{
    expect_answer("GET / HTTP/1.1\r\n\r\n", HTTP_BAD_REQUEST);
    expect_answer("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HTTP_BAD_REQUEST);
    expect_answer("GET / HTTP/1.0\r\n\r\n", HTTP_PAGE);
    expect_answer("GET / HTTP/1.1\r\nHost:\r\n\r\n", HTTP_PAGE);
}
END_TEST

START_TEST(test_9112_3_2_a_target_has_origin_or_absolute_form)
{
    expect_path("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "/");
    expect_path("GET /a/b%20c?q=/d HTTP/1.1\r\nHost: h\r\n\r\n", "/a/b%20c");
    expect_path("GET http://h:80/a?q HTTP/1.1\r\nHost: h\r\n\r\n", "/a");
    expect_path("GET HTTPS://h HTTP/1.1\r\nHost: h\r\n\r\n", "/");
    expect_path("GET ws://h?q HTTP/1.1\r\nHost: h\r\n\r\n", "/");
    expect_answer("GET * HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_BAD_REQUEST);
    expect_answer("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_BAD_REQUEST);
    expect_answer("GET ?q HTTP/1.1\r\nHost: h\r\n\r\n", HTTP_BAD_REQUEST);
}
END_TEST

START_TEST(test_9112_5_a_head_with_two_readings_is_refused)
{
    static const char *const wrong[] = {"No colon", ": no name", "Space : before",
        "Folded: a\r\n b", " Folded: first", "Bad(name: x", "Control: \x01", "Control: \x7f",
        "Body: x\r\nContent-Length: 5", "Transfer-Encoding: chunked", "Content-Length: x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char head[128];
        (void)snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", wrong[i]);
        expect_answer(head, HTTP_BAD_REQUEST);
    }
    expect_answer(
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nAny: \xff\t,\r\n\r\n", HTTP_PAGE);
}
END_TEST

START_TEST(test_9112_5_a_zero_byte_is_refused)
{
    static const char head[] = "GET / HTTP/1.1\r\nHost: h\0\r\n\r\n";
    ck_assert_int_eq(http_parse(head, sizeof head - 1, &request), HTTP_BAD_REQUEST);
}
END_TEST

START_TEST(a_head_cut_short_anywhere_is_refused)
{
    for (size_t size = 0; size < strlen(WHOLE); size++) {
        char *copy = malloc(size + 1);
        memcpy(copy, WHOLE, size);
        ck_assert_int_eq(http_parse(copy, size, &request), HTTP_BAD_REQUEST);
        free(copy);
    }
}
END_TEST

/* ---- resources ------------------------------------------------------------------- */

static enum http_answer resource(const char *path, bool welcome)
{
    request = (struct http_request){.path = path, .path_size = strlen(path)};
    return http_resource(&request, welcome);
}

START_TEST(there_is_a_page_and_a_health_check_and_nothing_else)
{
    ck_assert_int_eq(resource("/", true), HTTP_PAGE);
    ck_assert_int_eq(resource("/", false), HTTP_PAGE);
    ck_assert_int_eq(resource("/healthz", true), HTTP_HEALTHY);
    ck_assert_int_eq(resource("/healthz", false), HTTP_UNAVAILABLE);
    ck_assert_int_eq(resource("/healthz/", true), HTTP_NOT_FOUND);
    ck_assert_int_eq(resource("/favicon.ico", true), HTTP_NOT_FOUND);
}
END_TEST

static void expect_status(enum http_answer answer, const char *status)
{
    char out[HTTP_ANSWER_MAX + 1];
    size_t length;
    request = (struct http_request){.bodiless = false};
    size_t size = http_write(answer, &request, out);
    ck_assert_uint_lt(size, HTTP_ANSWER_MAX);
    ck_assert_mem_eq(out, status, strlen(status));
    const char *body = strstr(out, "\r\n\r\n") + 4;
    ck_assert_int_eq(sscanf(strstr(out, "Content-Length: "), "Content-Length: %zu", &length), 1);
    ck_assert_uint_eq(strlen(body), length);
    ck_assert_ptr_nonnull(strstr(out, "close\r\n"));
    request.bodiless = true;
    ck_assert_uint_eq(http_write(answer, &request, out), size - length);
}

START_TEST(each_answer_has_its_status_and_its_length_and_no_body_for_head)
{
    expect_status(HTTP_PAGE, "HTTP/1.1 200 ");
    expect_status(HTTP_HEALTHY, "HTTP/1.1 200 ");
    expect_status(HTTP_BAD_REQUEST, "HTTP/1.1 400 ");
    expect_status(HTTP_NOT_FOUND, "HTTP/1.1 404 ");
    expect_status(HTTP_NOT_ALLOWED, "HTTP/1.1 405 ");
    expect_status(HTTP_UPGRADE_REQUIRED, "HTTP/1.1 426 ");
    expect_status(HTTP_HEAD_TOO_LARGE, "HTTP/1.1 431 ");
    expect_status(HTTP_UNAVAILABLE, "HTTP/1.1 503 ");
    expect_status(HTTP_OTHER_VERSION, "HTTP/1.1 505 ");
}
END_TEST

/* ---- segments of a path ---------------------------------------------------------- */

static size_t segment(const char *path, char *out, size_t size)
{
    struct text rest = {path, strlen(path)};
    return http_segment(&rest, out, size);
}

START_TEST(a_segment_is_percent_decoded_and_ends_before_the_next)
{
    static const char path[] = "/a%2Fb%20c%E2%9D%A4/rest";
    struct text rest = {path, strlen(path)};
    char out[16];
    ck_assert_uint_eq(http_segment(&rest, out, sizeof out), 8);
    ck_assert_mem_eq(out, "a/b c\xe2\x9d\xa4", 8);
    ck_assert(text_is(rest, "/rest"));
    ck_assert_uint_eq(http_segment(&rest, out, sizeof out), 4);
    ck_assert_uint_eq(rest.size, 0);
    ck_assert_uint_eq(http_segment(&rest, out, sizeof out), 0);
}
END_TEST

START_TEST(a_segment_that_is_empty_too_large_or_badly_encoded_is_none)
{
    static const char *const wrong[] = {
        "", "a", "/", "//a", "/%", "/%4", "/%4g", "/%g4", "/%/41", "/%ff", "/%c3", "/12345"};
    char out[4];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_uint_eq(segment(wrong[i], out, sizeof out), 0);
    ck_assert_uint_eq(segment("/1234", out, sizeof out), 4);
    ck_assert_uint_eq(segment("/%31%32%33%34", out, sizeof out), 4);
}
END_TEST

/* ---- in a greeting --------------------------------------------------------------- */

static int read_within(int64_t time, enum http_answer *answer)
{
    static char head[HTTP_HEAD_MAX];
    struct greeting greeting = greeting_within(time);
    return http_read(&greeting, head, &request, answer);
}

static void say_words(const char *words)
{
    say(words, strlen(words));
}

START_TEST(nothing_behind_a_head_is_read)
{
    enum http_answer answer;
    say_words(WHOLE "\x81\x85\r\n\r\n");
    ck_assert_int_eq(read_within(10000, &answer), 0);
    ck_assert_int_eq(answer, HTTP_SWITCH);
    ck_assert_int_eq(left_to_read(), 6);
}
END_TEST

START_TEST(a_head_in_pieces_of_any_size_is_read)
{
    for (size_t piece = 1; piece < strlen(WHOLE); piece += 1 + piece / 4) {
        enum http_answer answer;
        pid_t child = fork();
        if (child == 0) {
            for (size_t at = 0; at < strlen(WHOLE); at += piece) {
                size_t left = strlen(WHOLE) - at;
                (void)send(client, &WHOLE[at], left < piece ? left : piece, 0);
            }
            _exit(0);
        }
        ck_assert_int_eq(read_within(10000, &answer), 0);
        ck_assert_int_eq(answer, HTTP_SWITCH);
        ck_assert_int_eq(left_to_read(), 0);
    }
}
END_TEST

START_TEST(a_head_of_32_kib_is_read_and_a_larger_one_refused)
{
    static char head[HTTP_HEAD_MAX + 2];
    enum http_answer answer;
    int size = snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
    memset(head + size, 'x', sizeof head - (size_t)size);
    memcpy(head + HTTP_HEAD_MAX - 4, "\r\n\r\n", 5);
    say_words(head);
    ck_assert_int_eq(read_within(10000, &answer), 0);
    ck_assert_int_eq(answer, HTTP_PAGE);
    ck_assert_int_eq(left_to_read(), 0);
    memcpy(head + HTTP_HEAD_MAX - 4, "x\r\n\r\n", 6);
    say_words(head);
    ck_assert_int_eq(read_within(10000, &answer), 0);
    ck_assert_int_eq(answer, HTTP_HEAD_TOO_LARGE);
}
END_TEST

START_TEST(a_head_that_does_not_end_ends_at_the_deadline_or_the_end_of_file)
{
    enum http_answer answer;
    say_words("GET / HTTP/1.1\r\nHost: h\r\n");
    ck_assert_int_eq(read_within(50, &answer), -ETIMEDOUT);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    ck_assert_int_eq(read_within(10000, &answer), -ECONNRESET);
}
END_TEST

START_TEST(an_answer_is_sent)
{
    char heard[HTTP_ANSWER_MAX], expected[HTTP_ANSWER_MAX];
    struct greeting greeting = greeting_within(10000);
    request = (struct http_request){.bodiless = false};
    size_t size = http_write(HTTP_NOT_FOUND, &request, expected);
    http_say(&greeting, HTTP_NOT_FOUND, &request);
    ck_assert_int_eq(recv(client, heard, sizeof heard, MSG_DONTWAIT), (ssize_t)size);
    ck_assert_mem_eq(heard, expected, size);
}
END_TEST

static TCase *head_tests(void)
{
    TCase *tests = tcase_create("head");
    tcase_add_test(tests, test_4_2_1_the_rfcs_own_example);
    tcase_add_test(tests, test_4_2_1_connection_and_upgrade_are_lists_of_tokens_in_any_case);
    tcase_add_test(tests, test_4_2_1_tokens_that_are_only_similar_ask_for_no_websocket);
    tcase_add_test(tests, test_4_2_1_the_method_is_get_and_the_version_1_1_or_higher);
    tcase_add_test(tests, test_4_2_1_the_key_is_16_bytes_in_base64_and_comes_once);
    tcase_add_test(tests, test_4_4_a_client_of_another_version_is_told_the_version_of_the_relay);
    tcase_add_test(
        tests, test_4_2_2_the_answer_proves_that_the_key_was_read_and_accepts_no_extension);
    tcase_add_test(tests, test_4_2_2_an_offered_subprotocol_is_accepted);
    tcase_add_test(tests, test_4_2_2_a_malformed_subprotocol_is_not_accepted);
    tcase_add_test(
        tests, test_9112_2_2_a_bare_line_feed_ends_a_line_and_a_bare_carriage_return_does_not);
    tcase_add_test(tests, test_9112_3_a_request_line_has_three_parts);
    tcase_add_test(tests, test_9112_2_2_an_empty_line_before_the_request_is_ignored);
    tcase_add_test(tests, other_methods_and_versions_are_refused_as_such_with_any_target);
    tcase_add_test(tests, a_method_and_a_target_or_an_empty_line_begin_http);
    tcase_add_test(tests, test_9112_3_2_host_may_come_once_and_must_since_1_1);
    tcase_add_test(tests, test_9112_3_2_a_target_has_origin_or_absolute_form);
    tcase_add_test(tests, test_9112_5_a_head_with_two_readings_is_refused);
    tcase_add_test(tests, test_9112_5_a_zero_byte_is_refused);
    tcase_add_test(tests, a_head_cut_short_anywhere_is_refused);
    tcase_add_test(tests, there_is_a_page_and_a_health_check_and_nothing_else);
    tcase_add_test(tests, each_answer_has_its_status_and_its_length_and_no_body_for_head);
    tcase_add_test(tests, a_segment_is_percent_decoded_and_ends_before_the_next);
    tcase_add_test(tests, a_segment_that_is_empty_too_large_or_badly_encoded_is_none);
    return tests;
}

static TCase *greeting_tests(void)
{
    TCase *tests = tcase_create("greeting");
    tcase_add_checked_fixture(tests, open_connection, close_connection);
    tcase_add_test(tests, nothing_behind_a_head_is_read);
    tcase_add_test(tests, a_head_in_pieces_of_any_size_is_read);
    tcase_add_test(tests, a_head_of_32_kib_is_read_and_a_larger_one_refused);
    tcase_add_test(tests, a_head_that_does_not_end_ends_at_the_deadline_or_the_end_of_file);
    tcase_add_test(tests, an_answer_is_sent);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("http");
    suite_add_tcase(suite, head_tests());
    suite_add_tcase(suite, greeting_tests());
    return run_suite(suite);
}
