/* Which peers hold which documents, and which peers are introduced to each other (documents.c). */
#include "forward/documents.h"

#include "base/budget.h"
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
static int numbers[PEERS_MAX]; /* the contexts of peers */

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

/* All introductions of a match, as "NUMBER:DOCUMENT,DOCUMENT;" in the order in which they came,
 * with a star behind the number of a peer that was introduced before. */
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
    const struct documents_id *ids, size_t count, bool again)
{
    struct introductions *introductions = context;
    char number[TEXT_MAX];
    ck_assert_ptr_eq(peer, introductions->of);
    ck_assert_ptr_ne(peer, other);
    ck_assert_uint_gt(count, 0);
    int size = snprintf(
        number, sizeof number, "%d%s:", *(const int *)documents_context(other), again ? "*" : "");
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
    while (documents_is_to_be_matched(peers[number]))
        (void)documents_match(peers[number], introduce, &introductions);
    return introductions;
}

/* The first `count` introductions of a match that is not finished. */
static struct introductions begin_match(int number, size_t count)
{
    struct introductions introductions = {.count = 0, .of = peers[number]};
    while (introductions.count < count)
        ck_assert(documents_match(peers[number], introduce, &introductions));
    return introductions;
}

static void tidy(void)
{
    while (documents_tidy())
        ;
}

static void leave_all(void)
{
    for (int i = 0; i < PEERS_MAX; i++)
        leave(i);
    tidy();
    ck_assert_uint_eq(budget_used(BUDGET_DOCUMENTS), 0);
}

START_TEST(peers_are_introduced_for_all_documents_in_common)
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
    ck_assert_str_eq(match(2).text, "1:x;");
    ck_assert_str_eq(match(1).text, "0:c,a;");
    ck_assert_str_eq(match(0).text, "");
}
END_TEST

/* The order in which they are matched does not matter. */
START_TEST(two_peers_that_joined_before_either_was_matched_are_introduced_once)
{
    for (int i = 0; i < 5; i++) {
        enter(i);
        add(i, "a");
    }
    ck_assert_str_eq(match(2).text, "1:a;0:a;");
    ck_assert_str_eq(match(4).text, "3:a;2:a;1:a;0:a;");
    ck_assert_str_eq(match(0).text, "");
    ck_assert_str_eq(match(3).text, "2:a;1:a;0:a;");
    ck_assert_str_eq(match(1).text, "0:a;");
}
END_TEST

START_TEST(joining_documents_again_introduces_again_for_these_alone)
{
    enter(0);
    enter(1);
    add(1, "a");
    add(1, "b");
    add(0, "a");
    add(0, "b");
    ck_assert_str_eq(match(0).text, "1:a,b;");
    for (int i = 0; i < 3; i++) {
        add(0, "b");
        ck_assert_str_eq(match(0).text, "1*:b;");
    }
    ck_assert_str_eq(match(0).text, "");
}
END_TEST

START_TEST(new_documents_are_named_before_older_ones_in_common)
{
    enter(0);
    enter(1);
    enter(2);
    add(0, "a");
    add(0, "b");
    add(1, "a");
    add(1, "b");
    add(1, "new");
    add(2, "b");
    (void)match(0);
    add(0, "b");
    add(0, "new");
    ck_assert_str_eq(match(0).text, "2*:b;1:new,a,b;");
}
END_TEST

START_TEST(a_peer_is_to_be_matched_once_it_has_joined_a_document)
{
    enter(0);
    ck_assert(!documents_is_to_be_matched(peers[0]));
    add(0, "a");
    ck_assert(documents_is_to_be_matched(peers[0]));
    (void)match(0);
    ck_assert(!documents_is_to_be_matched(peers[0]));
    add(0, "a"); /* again */
    ck_assert(documents_is_to_be_matched(peers[0]));
    documents_remove(peers[0], id_of("a"));
    ck_assert(!documents_is_to_be_matched(peers[0]));
}
END_TEST

/* So many peers hold "a" and "b", and peer 0 was the last to join them. */
static void enter_many(int count)
{
    for (int i = 1; i <= count; i++) {
        enter(i % count);
        add(i % count, "a");
        add(i % count, "b");
    }
}

START_TEST(a_peer_that_leaves_during_a_match_is_not_introduced)
{
    enter_many(10);
    ck_assert_str_eq(begin_match(0, 2).text, "9:a,b;8:a,b;");
    leave(7); /* the next */
    leave(1); /* the last */
    leave(4);
    documents_remove(peers[6], id_of("a"));
    documents_remove(peers[5], id_of("a"));
    documents_remove(peers[5], id_of("b"));
    tidy();
    ck_assert_str_eq(match(0).text, "6:b;3:a,b;2:a,b;");
}
END_TEST

START_TEST(peers_that_have_left_do_not_keep_others_from_being_found)
{
    enter_many(PEERS_MAX);
    for (int i = 2; i < PEERS_MAX; i++)
        leave(i); /* and documents_tidy() is not called */
    ck_assert_str_eq(match(0).text, "1:a,b;");
}
END_TEST

START_TEST(a_match_ends_when_its_peer_leaves_and_when_another_is_matched)
{
    enter_many(10);
    (void)begin_match(0, 3);
    leave(0);
    ck_assert_str_eq(begin_match(9, 1).text, "8:a,b;");
    ck_assert_str_eq(begin_match(8, 1).text, "7:a,b;");
    ck_assert(!documents_is_to_be_matched(peers[9]));
    ck_assert_uint_eq(match(8).count, 6);
}
END_TEST

START_TEST(documents_joined_and_left_during_a_match_are_heeded)
{
    enter_many(10);
    (void)begin_match(0, 1);
    documents_remove(peers[0], id_of("a"));
    ck_assert_str_eq(begin_match(0, 1).text, "8:b;");
    add(7, "c");
    add(0, "c");
    ck_assert_str_eq(begin_match(0, 1).text, "7:b,c;");
    ck_assert_uint_eq(match(0).count, 6);
}
END_TEST

/* However many documents a peer holds, and however many peers hold the same. */
START_TEST(a_step_introduces_one_peer_or_forgets_a_few_documents)
{
    char document[TEXT_MAX];
    struct introductions introductions = {.count = 0};
    for (int i = 1; i <= 100; i++) {
        enter(i % 100);
        for (int k = 0; k < 200; k++) {
            (void)snprintf(document, sizeof document, "%d", k);
            add(i % 100, document);
        }
    }
    introductions.of = peers[0];
    bool more = true;
    for (size_t before = 0; more; before = introductions.count) {
        more = documents_match(peers[0], introduce, &introductions);
        ck_assert_uint_le(introductions.count, before + 1);
    }
    ck_assert_uint_eq(introductions.count, 99);
    leave(0);
    size_t used = budget_used(BUDGET_DOCUMENTS), steps = 1;
    for (; documents_tidy(); steps++) {
        ck_assert_uint_lt(used - budget_used(BUDGET_DOCUMENTS), 64 << 10);
        used = budget_used(BUDGET_DOCUMENTS);
    }
    ck_assert_uint_ge(steps, 200 / 16);
}
END_TEST

START_TEST(thousands_of_documents_are_found_and_forgotten)
{
    char document[TEXT_MAX];
    size_t before = budget_used(BUDGET_DOCUMENTS);
    for (int i = 0; i < 20; i++) {
        enter(i);
        for (int k = 0; k < 1000; k++) {
            (void)snprintf(document, sizeof document, "%d of %d", k, i);
            add(i, document);
        }
    }
    for (int i = 0; i < 20; i++) {
        for (int k = 0; k < 1000; k += 3) {
            (void)snprintf(document, sizeof document, "%d of %d", k, i);
            documents_remove(peers[i], id_of(document));
        }
        (void)match(i);
    }
    enter(20);
    for (int k = 0; k < 1000; k++) {
        (void)snprintf(document, sizeof document, "%d of 7", k);
        add(20, document);
        ck_assert_uint_eq(match(20).count, k % 3 != 0);
    }
    for (int i = 0; i <= 20; i++)
        leave(i);
    tidy();
    ck_assert_uint_eq(budget_used(BUDGET_DOCUMENTS), before);
}
END_TEST

START_TEST(the_ids_of_a_peers_documents_are_bounded_together)
{
    static char longest[DOCUMENTS_BYTES];
    memset(longest, 'x', sizeof longest);
    enter(0);
    add(0, "a");
    ck_assert_int_eq(
        documents_add(peers[0], (struct documents_id){longest, DOCUMENTS_BYTES}), -ENOSPC);
    ck_assert_int_eq(
        documents_add(peers[0], (struct documents_id){longest, DOCUMENTS_BYTES - 1}), 0);
    ck_assert_int_eq(documents_add(peers[0], id_of("b")), -ENOSPC);
    documents_remove(peers[0], id_of("a"));
    add(0, "b");
}
END_TEST

START_TEST(a_document_that_was_left_is_not_in_common_any_more)
{
    enter(0);
    enter(1);
    add(1, "a");
    add(1, "b");
    add(0, "a");
    add(0, "b");
    documents_remove(peers[1], id_of("a"));
    ck_assert_str_eq(match(0).text, "1:b;");
    documents_remove(peers[0], id_of("b"));
    documents_remove(peers[0], id_of("b"));
    documents_remove(peers[0], id_of("never held"));
    add(0, "a");
    ck_assert_str_eq(match(0).text, "");
    add(1, "a");
    ck_assert_str_eq(match(1).text, "0:a;");
}
END_TEST

START_TEST(a_peer_that_is_gone_is_not_introduced_and_holds_nothing)
{
    enter_many(3);
    leave(1);
    ck_assert_str_eq(match(0).text, "2:a,b;");
    tidy();
    enter(1);
    add(0, "a");
    ck_assert_str_eq(match(0).text, "2*:a;");
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

START_TEST(ids_are_bytes_and_differ_also_by_length)
{
    enter(0);
    enter(1);
    ck_assert_int_eq(documents_add(peers[0], (struct documents_id){"a\0b", 3}), 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a\0c", 3}), 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a", 1}), 0);
    ck_assert_uint_eq(match(0).count, 0);
    ck_assert_int_eq(documents_add(peers[1], (struct documents_id){"a\0b", 3}), 0);
    ck_assert_uint_eq(match(1).count, 1);
}
END_TEST

START_TEST(the_documents_of_a_peer_are_bounded)
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

START_TEST(a_match_introduces_a_bounded_number_of_peers_the_latest_first)
{
    enter_many(PEERS_MAX);
    struct introductions introductions = match(0);
    char first[TEXT_MAX];
    (void)snprintf(first, sizeof first, "%d:a,b;", PEERS_MAX - 1);
    ck_assert_uint_eq(introductions.count, DOCUMENTS_INTRODUCED);
    ck_assert_int_eq(strncmp(introductions.text, first, strlen(first)), 0);
    /* A peer that one match has left out is found by the next. */
    for (int i = 2; i < PEERS_MAX; i++)
        leave(i);
    add(0, "a");
    ck_assert_str_eq(match(0).text, "1*:a;");
}
END_TEST

START_TEST(the_documents_named_by_all_introductions_of_a_match_are_bounded)
{
    char document[TEXT_MAX];
    for (int i = 1; i <= 100; i++) {
        enter(i % 100);
        for (int k = 0; k < DOCUMENTS_PER_PEER; k++) {
            (void)snprintf(document, sizeof document, "%d", k);
            add(i % 100, document);
        }
    }
    ck_assert_uint_eq(match(0).count, 99);
    for (int i = 1; i < 100; i++)
        leave(i);
    add(0, "0");
    ck_assert_uint_eq(match(0).count, 0);
}
END_TEST

START_TEST(a_peer_may_join_a_few_documents_however_much_others_hold)
{
    struct budget_account others = {.share = BUDGET_DOCUMENTS};
    char document[TEXT_MAX];
    int joined = 0, error = 0;
    enter(0);
    budget_take(&others, BUDGET_DOCUMENTS_SIZE);
    for (; error == 0; joined++) {
        (void)snprintf(document, sizeof document, "%d", joined);
        error = documents_add(peers[0], id_of(document));
    }
    ck_assert_int_eq(error, -ENOMEM);
    ck_assert_int_gt(joined, 64);
    ck_assert_int_lt(joined, 256);
    add(0, "0");
    budget_give(&others, BUDGET_DOCUMENTS_SIZE);
    add(0, "now");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("documents");
    TCase *test_case = tcase_create("all");
    tcase_add_checked_fixture(test_case, NULL, leave_all);
    tcase_add_test(test_case, peers_are_introduced_for_all_documents_in_common);
    tcase_add_test(test_case, two_peers_that_joined_before_either_was_matched_are_introduced_once);
    tcase_add_test(test_case, joining_documents_again_introduces_again_for_these_alone);
    tcase_add_test(test_case, new_documents_are_named_before_older_ones_in_common);
    tcase_add_test(test_case, a_peer_is_to_be_matched_once_it_has_joined_a_document);
    tcase_add_test(test_case, a_peer_that_leaves_during_a_match_is_not_introduced);
    tcase_add_test(test_case, peers_that_have_left_do_not_keep_others_from_being_found);
    tcase_add_test(test_case, a_match_ends_when_its_peer_leaves_and_when_another_is_matched);
    tcase_add_test(test_case, documents_joined_and_left_during_a_match_are_heeded);
    tcase_add_test(test_case, a_step_introduces_one_peer_or_forgets_a_few_documents);
    tcase_add_test(test_case, thousands_of_documents_are_found_and_forgotten);
    tcase_add_test(test_case, the_ids_of_a_peers_documents_are_bounded_together);
    tcase_add_test(test_case, a_document_that_was_left_is_not_in_common_any_more);
    tcase_add_test(test_case, a_peer_that_is_gone_is_not_introduced_and_holds_nothing);
    tcase_add_test(test_case, a_peer_is_found_by_its_id_until_it_leaves);
    tcase_add_test(test_case, ids_are_bytes_and_differ_also_by_length);
    tcase_add_test(test_case, the_documents_of_a_peer_are_bounded);
    tcase_add_test(test_case, a_match_introduces_a_bounded_number_of_peers_the_latest_first);
    tcase_add_test(test_case, the_documents_named_by_all_introductions_of_a_match_are_bounded);
    tcase_add_test(test_case, a_peer_may_join_a_few_documents_however_much_others_hold);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
