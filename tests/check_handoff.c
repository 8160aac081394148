/* The handoff: it arrives exactly as it was sent; anything else is refused, and no descriptor stays
 * open. */
#include "handoff.h"
#include "protocol.h"
#include "suite.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TIMEOUT = 10000,
    WITHOUT_SESSION = offsetof(struct handoff, session),
    HEAD = sizeof(struct handoff_head),
};

/* A good handoff; a test changes some of it. */
struct wire {
    struct handoff_head head;
    struct handoff handoff;
    uint8_t more[HANDOFF_APPENDED_MAX + 100];
};

static char directory[64], path[96];
static int receiver, sender, carried;
static size_t descriptors_before;

static size_t count_descriptors(void)
{
    size_t count = 0;
    DIR *list = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(list);
    while (readdir(list) != NULL)
        count++;
    ck_assert_int_eq(closedir(list), 0);
    return count;
}

static void set_up(void)
{
    strcpy(directory, "/tmp/check-handoff-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/socket", directory);
    receiver = handoff_listen(path);
    ck_assert_int_ge(receiver, 0);
    sender = handoff_connect(path, TIMEOUT);
    ck_assert_int_ge(sender, 0);
    carried = open("/dev/null", O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(carried, 0);
    descriptors_before = count_descriptors();
}

/* After every test: handoff_receive() has left no descriptor open. */
static void tear_down(void)
{
    ck_assert_uint_eq(count_descriptors(), descriptors_before);
    close(carried);
    close(sender);
    close(receiver);
    (void)unlink(path);
    ck_assert_int_eq(rmdir(directory), 0);
}

static struct handoff make_handoff(enum handoff_kind kind, uint32_t session_size)
{
    struct handoff handoff;
    memset(&handoff, 0, sizeof handoff);
    handoff.kind = kind;
    handoff.ref = (struct pair_ref){7, 9};
    handoff.dismissed = PAIR_NONE;
    handoff.session_size = session_size;
    memset(handoff.session, 'x', session_size <= HANDOFF_SESSION_MAX ? session_size : 0);
    return handoff;
}

/* Sends bytes as they are, with `count` copies of a descriptor. */
static void send_raw(const void *bytes, size_t size, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
    } control;
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        for (size_t i = 0; i < count; i++)
            memcpy(CMSG_DATA(header) + i * sizeof(int), &carried, sizeof(int));
    }
    ck_assert_int_eq(sendmsg(sender, &message, 0), (ssize_t)size);
}

static void make_wire(struct wire *wire, const struct handoff *handoff)
{
    memset(wire, 0, sizeof *wire);
    wire->head = (struct handoff_head){
        HANDOFF_MAGIC, HANDOFF_VERSION, HANDOFF_NEEDS, WITHOUT_SESSION, handoff->session_size};
    wire->handoff = *handoff;
}

/* The same, and the slot of the lost connection is known. */
static void expect_refusal_of(int expected, struct pair_ref ref)
{
    struct handoff received;
    int fd = 12345;
    memset(&received, 0xaa, sizeof received);
    ck_assert_int_eq(handoff_receive(receiver, &received, &fd), expected);
    ck_assert_int_eq(fd, -1);
    if (expected != -EAGAIN)
        ck_assert(pair_same(received.ref, ref));
}

static void expect_refusal(int expected)
{
    expect_refusal_of(expected, PAIR_NONE);
}

/* ---- what arrives ---------------------------------------------------------------- */

START_TEST(a_connection_arrives_with_its_session_and_descriptor)
{
    static const uint32_t sizes[] = {0, 1, 500, HANDOFF_SESSION_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct handoff sent = make_handoff(HANDOFF_CONNECTION, sizes[i]), received;
        struct stat expected, found;
        int fd;
        ck_assert_int_eq(handoff_send(sender, &sent, carried), 0);
        ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
        ck_assert_mem_eq(&sent, &received, WITHOUT_SESSION + sizes[i]);
        ck_assert_int_eq(fstat(carried, &expected), 0);
        ck_assert_int_eq(fstat(fd, &found), 0);
        ck_assert_uint_eq(found.st_ino, expected.st_ino);
        ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
        close(fd);
    }
}
END_TEST

START_TEST(looks_and_records_arrive_without_a_descriptor)
{
    static const enum handoff_kind kinds[] = {HANDOFF_LOOK, HANDOFF_RECORD};
    for (size_t i = 0; i < 2; i++) {
        struct handoff sent = make_handoff(kinds[i], 0), received;
        int fd;
        ck_assert_int_eq(handoff_send(sender, &sent, -1), 0);
        ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
        ck_assert_mem_eq(&sent, &received, WITHOUT_SESSION);
        ck_assert_int_eq(fd, -1);
    }
}
END_TEST

START_TEST(handoffs_arrive_in_order_and_once)
{
    struct handoff handoff = make_handoff(HANDOFF_LOOK, 0);
    int fd;
    for (uint32_t i = 0; i < 5; i++) {
        handoff.ref.slot = i;
        ck_assert_int_eq(handoff_send(sender, &handoff, -1), 0);
    }
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_int_eq(handoff_receive(receiver, &handoff, &fd), 0);
        ck_assert_uint_eq(handoff.ref.slot, i);
    }
    expect_refusal(-EAGAIN);
}
END_TEST

/* ---- what does not --------------------------------------------------------------- */

START_TEST(a_session_that_is_too_large_is_not_sent)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, HANDOFF_SESSION_MAX + 1);
    ck_assert_int_eq(handoff_send(sender, &handoff, carried), -EINVAL);
    expect_refusal(-EAGAIN);
}
END_TEST

START_TEST(a_datagram_of_any_other_length_is_refused)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10);
    struct wire wire;
    make_wire(&wire, &handoff);
    for (size_t size = 0; size < HEAD + WITHOUT_SESSION + 20; size++) {
        if (size == HEAD + WITHOUT_SESSION + 10)
            continue;
        send_raw(&wire, size, 1);
        expect_refusal(-EBADMSG);
    }
}
END_TEST

START_TEST(a_datagram_larger_than_any_handoff_is_refused)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, HANDOFF_SESSION_MAX);
    struct wire wire;
    make_wire(&wire, &handoff);
    wire.head.fixed_size = WITHOUT_SESSION + HANDOFF_APPENDED_MAX + 1;
    send_raw(&wire, HEAD + wire.head.fixed_size + HANDOFF_SESSION_MAX, 1);
    expect_refusal(-EBADMSG);
}
END_TEST

START_TEST(a_session_size_beyond_the_datagram_or_the_maximum_is_refused)
{
    static const uint32_t sizes[] = {11, HANDOFF_SESSION_MAX, HANDOFF_SESSION_MAX + 1, UINT32_MAX};
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10);
    struct wire wire;
    make_wire(&wire, &handoff);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        wire.head.session_size = sizes[i];
        send_raw(&wire, HEAD + WITHOUT_SESSION + 10, 1);
        expect_refusal(-EBADMSG);
    }
}
END_TEST

START_TEST(a_datagram_that_is_not_a_handoff_of_any_version_is_refused)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    struct wire wire;
    make_wire(&wire, &handoff);
    wire.head.magic++;
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal(-EBADMSG);
    make_wire(&wire, &handoff);
    wire.head.fixed_size = 16;
    send_raw(&wire, HEAD + 16, 1);
    expect_refusal(-EBADMSG);
    for (uint32_t size = UINT32_MAX - HEAD; size != 0; size /= 3) {
        make_wire(&wire, &handoff);
        wire.head.fixed_size = size;
        wire.head.session_size = (uint32_t)WITHOUT_SESSION - size;
        send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
        expect_refusal(-EBADMSG);
    }
}
END_TEST

/* ---- of other versions ----------------------------------------------------------- */

/* A later version may append fields, which this version ignores. */
START_TEST(a_handoff_of_the_next_version_is_understood)
{
    enum {
        APPENDED = 24
    };
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10), received;
    struct wire wire;
    int fd;
    make_wire(&wire, &handoff);
    wire.head.version = HANDOFF_VERSION + 1;
    wire.head.fixed_size = WITHOUT_SESSION + APPENDED;
    uint8_t *appended = (uint8_t *)&wire + HEAD + WITHOUT_SESSION;
    memset(appended, 0xaa, APPENDED);
    memset(appended + APPENDED, 'x', 10);
    send_raw(&wire, HEAD + WITHOUT_SESSION + APPENDED + 10, 1);
    ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
    ck_assert_mem_eq(&received, &handoff, WITHOUT_SESSION + 10);
    close(fd);
}
END_TEST

/* The first version's fixed part ends with session_size. */
START_TEST(a_handoff_of_the_first_version_is_understood_and_fields_that_it_lacks_are_zero)
{
    enum {
        FIRST_SIZE = offsetof(struct handoff, session_size) + sizeof(uint32_t)
    };
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10), received;
    struct wire wire;
    int fd;
    handoff.server = 7;
    make_wire(&wire, &handoff);
    wire.head.version = 1;
    wire.head.fixed_size = FIRST_SIZE;
    memcpy((uint8_t *)&wire + HEAD + FIRST_SIZE, "xxxxxxxxxx", 10);
    send_raw(&wire, HEAD + FIRST_SIZE + 10, 1);
    memset(&received, 0xaa, sizeof received);
    ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
    ck_assert_mem_eq(&received, &handoff, FIRST_SIZE);
    ck_assert_uint_eq(received.server, 0);
    ck_assert_mem_eq(received.session, "xxxxxxxxxx", 10);
    close(fd);
}
END_TEST

START_TEST(a_server_that_leaves_names_itself_and_brings_a_descriptor)
{
    struct handoff handoff = make_handoff(HANDOFF_LEAVE, 0), received;
    struct wire wire;
    int fd;
    handoff.server = 7;
    ck_assert_int_eq(handoff_send(sender, &handoff, carried), 0);
    ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
    ck_assert_uint_eq(received.server, 7);
    close(fd);
    make_wire(&wire, &handoff);
    send_raw(&wire, HEAD + WITHOUT_SESSION, 0);
    expect_refusal(-EBADMSG);
    wire.handoff.server = 0;
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal(-EBADMSG);
}
END_TEST

START_TEST(a_handoff_for_a_later_reader_is_refused_as_such_and_names_its_slot)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    struct wire wire;
    make_wire(&wire, &handoff);
    wire.head.version = wire.head.needs = HANDOFF_VERSION + 1;
    wire.handoff.kind = 77;
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal_of(-EPROTO, handoff.ref);
    wire.handoff.kind = HANDOFF_LOOK;
    send_raw(&wire, HEAD + WITHOUT_SESSION, 0);
    expect_refusal(-EPROTO);
}
END_TEST

/* Other versions know these numbers: they may never change. */
START_TEST(kinds_codecs_and_protocols_keep_their_numbers)
{
    static const char *const names[] = {
        "tls", "http", "offset", "p2p-copy", "localfirst", "transit"};
    ck_assert_int_eq(HANDOFF_CONNECTION, 0);
    ck_assert_int_eq(HANDOFF_LOOK, 1);
    ck_assert_int_eq(HANDOFF_RECORD, 2);
    ck_assert_int_eq(HANDOFF_TABLE, 3);
    ck_assert_int_eq(HANDOFF_ASK, 4);
    ck_assert_int_eq(HANDOFF_LEAVE, 5);
    ck_assert_int_eq(CODEC_PLAIN, 0);
    ck_assert_int_eq(CODEC_WEBSOCKET, 1);
    ck_assert_int_eq(CODEC_CHANNEL, 2);
    ck_assert_uint_ge(PROTOCOL_COUNT, sizeof names / sizeof names[0]);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_str_eq(protocols[i]->name, names[i]);
}
END_TEST

START_TEST(a_name_larger_than_its_room_is_refused_and_names_its_slot)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    struct wire wire;
    handoff.name_size = HANDOFF_NAME_MAX + 1;
    make_wire(&wire, &handoff);
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal_of(-EBADMSG, handoff.ref);
}
END_TEST

START_TEST(names_up_to_the_longest_arrive_and_longer_ones_are_refused)
{
    static const size_t sizes[] = {
        0, 1, HANDOFF_NAME_MAX, HANDOFF_NAME_MAX + 1, 20000, HANDOFF_LONG_NAME_MAX};
    static uint8_t name[HANDOFF_LONG_NAME_MAX + 1];
    for (size_t i = 0; i < sizeof name; i++)
        name[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct handoff sent = make_handoff(HANDOFF_CONNECTION, 100), received;
        size_t size;
        int fd;
        ck_assert_int_eq(handoff_set_name(&sent, name, sizes[i]), 0);
        ck_assert_int_eq(handoff_send(sender, &sent, carried), 0);
        ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
        const uint8_t *arrived = handoff_name(&received, &size);
        ck_assert_uint_eq(size, sizes[i]);
        ck_assert_int_eq(memcmp(arrived, name, size), 0);
        ck_assert_mem_eq(&sent, &received, WITHOUT_SESSION + 100);
        close(fd);
    }
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    ck_assert_int_eq(handoff_set_name(&handoff, name, sizeof name), -EMSGSIZE);
}
END_TEST

/* An older reader would not find a long name, but understands all else. */
START_TEST(only_a_long_name_needs_a_reader_of_it)
{
    static const uint8_t name[HANDOFF_NAME_MAX + 1];
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10);
    struct handoff_head head;
    for (size_t size = HANDOFF_NAME_MAX; size <= HANDOFF_NAME_MAX + 1; size++) {
        ck_assert_int_eq(handoff_set_name(&handoff, name, size), 0);
        ck_assert_int_eq(handoff_send(sender, &handoff, -1), 0);
        ck_assert_int_eq(recv(receiver, &head, sizeof head, 0), sizeof head);
        ck_assert_uint_eq(
            head.needs, size > HANDOFF_NAME_MAX ? HANDOFF_NEEDS_LONG_NAME : HANDOFF_NEEDS);
        ck_assert_uint_eq(head.needs, handoff_needs(&handoff));
    }
}
END_TEST

START_TEST(a_long_name_beyond_the_datagram_or_the_maximum_is_refused)
{
    static const uint32_t sizes[] = {HANDOFF_LONG_NAME_MAX + 1, UINT32_MAX, 11};
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 10);
    static struct wire wire;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        handoff.long_name_size = sizes[i];
        make_wire(&wire, &handoff);
        send_raw(&wire, HEAD + WITHOUT_SESSION + 10, 1);
        expect_refusal_of(-EBADMSG, handoff.ref);
    }
    handoff.long_name_size = 10; /* and no session */
    make_wire(&wire, &handoff);
    wire.head.session_size = HANDOFF_SESSION_MAX + 11;
    send_raw(&wire, HEAD + WITHOUT_SESSION + HANDOFF_SESSION_MAX + 11, 1);
    expect_refusal_of(-EBADMSG, handoff.ref);
}
END_TEST

START_TEST(keys_of_TLS_arrive_and_impossible_keys_are_refused)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0), received;
    struct wire wire;
    int fd;
    handoff.records.suite = RECORDS_AES_128_GCM;
    handoff.records.data_max = RECORDS_DATA_MAX;
    memset(&handoff.records.in, 'i', sizeof handoff.records.in);
    ck_assert_int_eq(handoff_send(sender, &handoff, carried), 0);
    ck_assert_int_eq(handoff_receive(receiver, &received, &fd), 0);
    ck_assert_mem_eq(&received, &handoff, WITHOUT_SESSION);
    close(fd);
    handoff.records.suite = UINT8_MAX;
    make_wire(&wire, &handoff);
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal_of(-EBADMSG, handoff.ref);
}
END_TEST

START_TEST(a_connection_without_exactly_one_descriptor_is_refused_and_names_its_slot)
{
    static const size_t counts[] = {0, 2, 3, 4, 5, 16};
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    struct wire wire;
    make_wire(&wire, &handoff);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        send_raw(&wire, HEAD + WITHOUT_SESSION, counts[i]);
        expect_refusal_of(-EBADMSG, handoff.ref);
    }
}
END_TEST

START_TEST(a_look_with_a_descriptor_is_refused)
{
    struct handoff handoff = make_handoff(HANDOFF_LOOK, 0);
    struct wire wire;
    make_wire(&wire, &handoff);
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    expect_refusal(-EBADMSG);
}
END_TEST

START_TEST(an_unknown_kind_is_refused_and_names_its_slot)
{
    static const uint32_t kinds[] = {HANDOFF_LEAVE + 1, 1000, UINT32_MAX};
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0);
    struct wire wire;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        handoff.kind = kinds[i];
        make_wire(&wire, &handoff);
        send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
        expect_refusal_of(-EBADMSG, handoff.ref);
    }
}
END_TEST

/* Receives while the process may have no more descriptors. Returns the result. */
static int receive_without_numbers(struct handoff *received)
{
    struct rlimit before, none;
    int fd = 12345;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    int error = handoff_receive(receiver, received, &fd);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_eq(fd, -1);
    return error;
}

START_TEST(a_handoff_that_lost_its_descriptor_is_refused_as_such_and_names_its_slot)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0), received;
    ck_assert_int_eq(handoff_send(sender, &handoff, carried), 0);
    ck_assert_int_eq(receive_without_numbers(&received), -EMFILE);
    ck_assert(pair_same(received.ref, handoff.ref));
}
END_TEST

START_TEST(a_cut_handoff_that_lost_its_descriptor_is_refused_as_malformed)
{
    struct handoff handoff = make_handoff(HANDOFF_CONNECTION, 0), received;
    static const size_t sizes[] = {1, sizeof(uint32_t), HEAD + WITHOUT_SESSION - 1};
    struct wire wire;
    make_wire(&wire, &handoff);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        send_raw(&wire, sizes[i], 1);
        ck_assert_int_eq(receive_without_numbers(&received), -EBADMSG);
    }
    handoff.kind = HANDOFF_LOOK;
    make_wire(&wire, &handoff);
    send_raw(&wire, HEAD + WITHOUT_SESSION, 1);
    ck_assert_int_eq(receive_without_numbers(&received), -EBADMSG);
}
END_TEST

/* ---- the socket ------------------------------------------------------------------ */

START_TEST(only_its_user_may_use_the_socket)
{
    struct stat status;
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_int_eq(status.st_mode & 0777, 0600);
}
END_TEST

START_TEST(without_a_forwarder_there_is_no_connection)
{
    char none[128];
    (void)snprintf(none, sizeof none, "%s.none", path);
    ck_assert_int_eq(handoff_connect(none, TIMEOUT), -ENOENT);
    int dead = handoff_listen(none);
    ck_assert_int_ge(dead, 0);
    close(dead);
    ck_assert_int_eq(handoff_connect(none, TIMEOUT), -ECONNREFUSED);
    ck_assert_int_eq(unlink(none), 0);
}
END_TEST

START_TEST(a_new_socket_takes_the_place_of_a_dead_one_and_senders_find_it)
{
    struct handoff handoff = make_handoff(HANDOFF_LOOK, 0);
    int fd;
    close(receiver);
    ck_assert_int_eq(handoff_send(sender, &handoff, -1), -ECONNREFUSED);
    receiver = handoff_listen(path);
    ck_assert_int_ge(receiver, 0);
    ck_assert_int_eq(handoff_reconnect(sender, path), 0);
    ck_assert_int_eq(handoff_send(sender, &handoff, -1), 0);
    ck_assert_int_eq(handoff_receive(receiver, &handoff, &fd), 0);
}
END_TEST

START_TEST(a_path_that_is_too_long_is_refused)
{
    char name[200];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    ck_assert_int_eq(handoff_listen(name), -ENAMETOOLONG);
    ck_assert_int_eq(handoff_connect(name, TIMEOUT), -ENAMETOOLONG);
    ck_assert_int_eq(handoff_reconnect(sender, name), -ENAMETOOLONG);
}
END_TEST

START_TEST(a_send_to_a_forwarder_that_does_not_read_times_out)
{
    struct handoff handoff = make_handoff(HANDOFF_LOOK, 0);
    int error, hasty = handoff_connect(path, 50);
    ck_assert_int_ge(hasty, 0);
    while ((error = handoff_send(hasty, &handoff, -1)) == 0)
        continue;
    ck_assert_int_eq(error, -ETIMEDOUT);
    close(hasty);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("handoff");
    TCase *tests = tcase_create("datagrams");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_connection_arrives_with_its_session_and_descriptor);
    tcase_add_test(tests, looks_and_records_arrive_without_a_descriptor);
    tcase_add_test(tests, handoffs_arrive_in_order_and_once);
    tcase_add_test(tests, a_session_that_is_too_large_is_not_sent);
    tcase_add_test(tests, a_datagram_of_any_other_length_is_refused);
    tcase_add_test(tests, a_datagram_larger_than_any_handoff_is_refused);
    tcase_add_test(tests, a_session_size_beyond_the_datagram_or_the_maximum_is_refused);
    tcase_add_test(tests, a_name_larger_than_its_room_is_refused_and_names_its_slot);
    tcase_add_test(tests, a_datagram_that_is_not_a_handoff_of_any_version_is_refused);
    tcase_add_test(tests, a_handoff_of_the_next_version_is_understood);
    tcase_add_test(
        tests, a_handoff_of_the_first_version_is_understood_and_fields_that_it_lacks_are_zero);
    tcase_add_test(tests, a_server_that_leaves_names_itself_and_brings_a_descriptor);
    tcase_add_test(tests, a_handoff_for_a_later_reader_is_refused_as_such_and_names_its_slot);
    tcase_add_test(tests, kinds_codecs_and_protocols_keep_their_numbers);
    tcase_add_test(tests, names_up_to_the_longest_arrive_and_longer_ones_are_refused);
    tcase_add_test(tests, only_a_long_name_needs_a_reader_of_it);
    tcase_add_test(tests, a_long_name_beyond_the_datagram_or_the_maximum_is_refused);
    tcase_add_test(tests, keys_of_TLS_arrive_and_impossible_keys_are_refused);
    tcase_add_test(
        tests, a_connection_without_exactly_one_descriptor_is_refused_and_names_its_slot);
    tcase_add_test(tests, a_look_with_a_descriptor_is_refused);
    tcase_add_test(tests, an_unknown_kind_is_refused_and_names_its_slot);
    tcase_add_test(tests, only_its_user_may_use_the_socket);
    tcase_add_test(tests, without_a_forwarder_there_is_no_connection);
    tcase_add_test(tests, a_new_socket_takes_the_place_of_a_dead_one_and_senders_find_it);
    tcase_add_test(tests, a_path_that_is_too_long_is_refused);
    tcase_add_test(tests, a_send_to_a_forwarder_that_does_not_read_times_out);
    suite_add_tcase(suite, tests);
    /* valgrind keeps the limit on descriptors itself, and the kernel never sees it. */
    TCase *limits = tcase_create("limits");
    tcase_set_tags(limits, "kernel-limits");
    tcase_add_checked_fixture(limits, set_up, tear_down);
    tcase_add_test(
        limits, a_handoff_that_lost_its_descriptor_is_refused_as_such_and_names_its_slot);
    tcase_add_test(limits, a_cut_handoff_that_lost_its_descriptor_is_refused_as_malformed);
    suite_add_tcase(suite, limits);
    return run_suite(suite);
}
