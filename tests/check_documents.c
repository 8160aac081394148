/* Who holds which documents, and who is introduced to whom (documents.c). */
#include "proto/documents.h"

#include "budget.h"
#include "suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PEERS_MAX = 400,
    TEXT_MAX = 32,
};

static struct documents_peer *peers[PEERS_MAX];
static int numbers[PEERS_MAX]; /* what a peer is known to its caller by */

static struct documents_id id_of(const char *text)
{
    return (struct documents_id){text, strlen(text)};
}

static void enter(int number)
{
    char name[TEXT_MAX];
    (void)snprintf(name, sizeof name, "peer-%d", number);
    numbers[number] = number;
    peers[number] = documents_enter(id_of(name), &numbers[number]);
    ck_assert_ptr_nonnull(peers[number]);
    ck_assert_ptr_eq(documents_context(peers[number]), &numbers[number]);
}

static void leave(int number)
{
    documents_leave(peers[number]);
    peers[number] = NULL;
}

static void add(int number, const char *document)
{
    ck_assert_int_eq(documents_add(peers[number], id_of(document)), 0);
}

/* Every introduction of a match, as "NUMBER:DOCUMENT,DOCUMENT;" in the order in which they came. */
struct introductions {
    char text[4096];
    size_t count;
    struct documents_peer *of;
};

static void note(struct introductions *introductions, const char *bytes, size_t size)
{
    size_t used = strlen(introductions->text);
    if (used + size < sizeof introductions->text)
        memcpy(introductions->text + used, bytes, size);
}

static void introduce(void *context, struct documents_peer *peer, struct documents_peer *other,
    const struct documents_id *ids, size_t count)
{
    struct introductions *introductions = context;
    char number[TEXT_MAX];
    ck_assert_ptr_eq(peer, introductions->of);
    ck_assert_ptr_ne(peer, other);
    ck_assert_uint_gt(count, 0);
    int size = snprintf(number, sizeof number, "%d:", *(const int *)documents_context(other));
    note(introductions, number, (size_t)size);
    for (size_t i = 0; i < count; i++) {
        note(introductions, ids[i].bytes, ids[i].size);
        note(introductions, i + 1 < count ? "," : ";", 1);
    }
    introductions->count++;
}

static struct introductions match(int number)
{
    struct introductions introductions = {.count = 0, .of = peers[number]};
    documents_match(peers[number], introduce, &introductions);
    return introductions;
}

static void leave_all(void)
{
    for (int i = 0; i < PEERS_MAX; i++)
        leave(i);
    ck_assert_uint_eq(budget_used(), 0);
}

START_TEST(peers_are_introduced_for_all_that_they_have_in_common)
{
    enter(0);
    enter(1);
    enter(2);
    add(0, "a");
    add(0, "b");
    add(0, "c");
    add(1, "c");
    add(1, "x");
    add(1, "a");
    add(2, "x");
    ck_assert_str_eq(match(0).text, "1:a,c;");
    ck_assert_str_eq(match(1).text, "0:c,a;2:x;");
    ck_assert_str_eq(match(2).text, "1:x;");
}
END_TEST

START_TEST(matching_again_introduces_again)
{
    enter(0);
    enter(1);
    add(0, "a");
    add(1, "a");
    for (int i = 0; i < 3; i++)
        ck_assert_str_eq(match(0).text, "1:a;");
}
END_TEST

START_TEST(a_peer_has_joined_until_it_is_matched)
{
    enter(0);
    ck_assert(!documents_joined(peers[0]));
    add(0, "a");
    ck_assert(documents_joined(peers[0]));
    (void)match(0);
    ck_assert(!documents_joined(peers[0]));
    add(0, "a"); /* again */
    ck_assert(documents_joined(peers[0]));
}
END_TEST

START_TEST(what_is_left_is_not_in_common_any_more)
{
    enter(0);
    enter(1);
    add(0, "a");
    add(0, "b");
    add(1, "a");
    add(1, "b");
    documents_remove(peers[1], id_of("a"));
    ck_assert_str_eq(match(0).text, "1:b;");
    documents_remove(peers[0], id_of("b"));
    documents_remove(peers[0], id_of("b"));
    documents_remove(peers[0], id_of("never held"));
    ck_assert_str_eq(match(0).text, "");
    add(1, "a");
    ck_assert_str_eq(match(1).text, "0:a;");
}
END_TEST

START_TEST(who_is_gone_is_not_introduced_and_holds_nothing)
{
    for (int i = 0; i < 3; i++) {
        enter(i);
        add(i, "a");
    }
    leave(1);
    ck_assert_str_eq(match(0).text, "2:a;");
    enter(1);
    ck_assert_str_eq(match(0).text, "2:a;");
    ck_assert_str_eq(match(1).text, "");
}
END_TEST

START_TEST(a_peer_is_found_by_its_id_until_it_leaves)
{
    enter(0);
    ck_assert_ptr_eq(documents_find(id_of("peer-0")), peers[0]);
    ck_assert_ptr_null(documents_find(id_of("peer-00")));
    ck_assert_ptr_null(documents_find((struct documents_id){"peer-0", 5}));
    leave(0);
    ck_assert_ptr_null(documents_find(id_of("peer-0")));
}
END_TEST

START_TEST(ids_are_bytes_and_told_apart_by_their_length)
{
    enter(0);
    enter(1);
    ck_assert_int_eq(documents_add(peers[0], (struct documents_id){"a\0b", 3}), 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a\0c", 3}), 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a", 1}), 0);
    ck_assert_uint_eq(match(0).count, 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a\0b", 3}), 0);
    ck_assert_uint_eq(match(0).count, 1);
}
END_TEST

START_TEST(a_peer_holds_so_many_documents_and_no_more)
{
    char document[TEXT_MAX];
    enter(0);
    for (int i = 0; i < DOCUMENTS_PER_PEER; i++) {
        (void)snprintf(document, sizeof document, "document-%d", i);
        add(0, document);
    }
    ck_assert_int_eq(documents_add(peers[0], id_of("one more")), -ENOSPC);
    add(0, "document-7"); /* it is held already */
    documents_remove(peers[0], id_of("document-7"));
    add(0, "one more");
    ck_assert_int_eq(documents_add(peers[0], id_of("document-7")), -ENOSPC);
}
END_TEST

START_TEST(a_match_introduces_so_many_peers_the_latest_first)
{
    enter(0);
    add(0, "a");
    for (int i = 1; i < PEERS_MAX; i++) {
        enter(i);
        add(i, "a");
    }
    struct introductions introductions = match(0);
    char first[TEXT_MAX];
    (void)snprintf(first, sizeof first, "%d:a;", PEERS_MAX - 1);
    ck_assert_uint_eq(introductions.count, DOCUMENTS_INTRODUCED);
    ck_assert_int_eq(strncmp(introductions.text, first, strlen(first)), 0);
    /* Who was left out in one match is not left out of the next. */
    for (int i = 2; i < PEERS_MAX; i++)
        leave(i);
    ck_assert_str_eq(match(0).text, "1:a;");
}
END_TEST

START_TEST(many_documents_of_many_peers_are_weighed_up_to_a_bound)
{
    char document[TEXT_MAX];
    for (int i = 0; i < 100; i++) {
        enter(i);
        for (int k = 0; k < DOCUMENTS_PER_PEER; k++) {
            (void)snprintf(document, sizeof document, "%d", k);
            add(i, document);
        }
    }
    ck_assert_uint_eq(match(0).count, 99);
    for (int i = 1; i < 100; i++)
        leave(i);
    ck_assert_uint_eq(match(0).count, 0);
}
END_TEST

START_TEST(nobody_joins_while_others_hold_too_much)
{
    enter(0);
    add(0, "before");
    budget_take(BUDGET);
    ck_assert_int_eq(documents_add(peers[0], id_of("now")), -ENOMEM);
    add(0, "before");
    budget_give(BUDGET);
    add(0, "now");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("documents");
    TCase *test_case = tcase_create("all");
    tcase_add_checked_fixture(test_case, NULL, leave_all);
    tcase_add_test(test_case, peers_are_introduced_for_all_that_they_have_in_common);
    tcase_add_test(test_case, matching_again_introduces_again);
    tcase_add_test(test_case, a_peer_has_joined_until_it_is_matched);
    tcase_add_test(test_case, what_is_left_is_not_in_common_any_more);
    tcase_add_test(test_case, who_is_gone_is_not_introduced_and_holds_nothing);
    tcase_add_test(test_case, a_peer_is_found_by_its_id_until_it_leaves);
    tcase_add_test(test_case, ids_are_bytes_and_told_apart_by_their_length);
    tcase_add_test(test_case, a_peer_holds_so_many_documents_and_no_more);
    tcase_add_test(test_case, a_match_introduces_so_many_peers_the_latest_first);
    tcase_add_test(test_case, many_documents_of_many_peers_are_weighed_up_to_a_bound);
    tcase_add_test(test_case, nobody_joins_while_others_hold_too_much);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
