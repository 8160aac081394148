/* The paths of @localfirst/relay: which endpoint they are of, and the ids in them. */
#include "proto/localfirst.h"
#include "suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct localfirst_path path;

static enum localfirst_endpoint parse(const char *words)
{
    size_t size = strlen(words);
    char *copy = malloc(size + 1);
    memcpy(copy, words, size);
    enum localfirst_endpoint endpoint = localfirst_parse(copy, size, &path);
    free(copy);
    return endpoint;
}

static void expect_id(const struct text *id, const char *expected)
{
    ck_assert_uint_eq(id->size, strlen(expected));
    ck_assert_mem_eq(id->bytes, expected, id->size);
}

static void expect_introduction(const char *words, const char *local)
{
    ck_assert_int_eq(parse(words), LOCALFIRST_INTRODUCTION);
    expect_id(&path.local, local);
}

static void expect_connection(
    const char *words, const char *local, const char *remote, const char *document)
{
    ck_assert_int_eq(parse(words), LOCALFIRST_CONNECTION);
    expect_id(&path.local, local);
    expect_id(&path.remote, remote);
    expect_id(&path.document, document);
}

START_TEST(an_introduction_names_its_peer)
{
    expect_introduction("/introduction/alice", "alice");
}
END_TEST

START_TEST(a_connection_names_both_peers_and_a_document)
{
    expect_connection("/connection/alice/bob/automerge:1", "alice", "bob", "automerge:1");
}
END_TEST

START_TEST(ids_are_percent_decoded)
{
    expect_connection("/connection/a%2Fb/%F0%9F%90%B1/%20", "a/b", "\xf0\x9f\x90\xb1", " ");
}
END_TEST

START_TEST(either_path_may_have_a_prefix)
{
    expect_introduction("/relay/introduction/alice", "alice");
    expect_introduction("//introduction/alice", "alice");
    expect_connection("/a%zz/b//connection/alice/bob/doc", "alice", "bob", "doc");
}
END_TEST

START_TEST(the_first_name_with_a_good_path_behind_it_counts)
{
    expect_introduction("/introduction/connection", "connection");
    expect_introduction("/introduction/introduction/x", "x");
    expect_connection("/connection/introduction/x/y", "introduction", "x", "y");
    expect_connection("/connection/connection/x/y/z", "x", "y", "z");
    expect_connection("/connection/x/introduction/y", "x", "introduction", "y");
    expect_introduction("/connection/x/y/introduction/z", "z");
}
END_TEST

START_TEST(a_name_of_an_endpoint_with_another_form_behind_it_is_wrong)
{
    static const char *const wrong[] = {"/introduction", "/introduction/", "/introduction//",
        "/introduction/a/", "/introduction/a/b", "/introduction//a", "/introduction/%zz",
        "/introduction/%ff", "/connection", "/connection/", "/connection/a", "/connection/a/b",
        "/connection/a/b/", "/connection/a/b/c/", "/connection/a/b/c/d", "/connection/a//c",
        "/relay/introduction", "/relay/introduction/a/b", "/relay/connection/a/b"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(parse(wrong[i]), LOCALFIRST_WRONG);
}
END_TEST

START_TEST(other_paths_are_not_of_this_protocol)
{
    static const char *const others[] = {"", "/", "/introductions/a", "/introduction2",
        "/connectionless/a/b/c", "/Introduction/a", "/x/introductions/a", "introduction/a",
        "/%69ntroduction/a"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        ck_assert_int_eq(parse(others[i]), LOCALFIRST_NONE);
}
END_TEST

START_TEST(an_id_may_be_as_long_as_a_head)
{
    static char words[HTTP_HEAD_MAX + 1] = "/connection/a/b/";
    static const char start[] = "/introduction/";
    size_t size = strlen(words);
    memset(words + size, 'd', HTTP_HEAD_MAX - size);
    expect_connection(words, "a", "b", words + size);
    memcpy(words, start, strlen(start));
    memset(words + strlen(start), 'i', size - strlen(start));
    expect_introduction(words, words + strlen(start));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("localfirst");
    TCase *tests = tcase_create("paths");
    tcase_add_test(tests, an_introduction_names_its_peer);
    tcase_add_test(tests, a_connection_names_both_peers_and_a_document);
    tcase_add_test(tests, ids_are_percent_decoded);
    tcase_add_test(tests, either_path_may_have_a_prefix);
    tcase_add_test(tests, the_first_name_with_a_good_path_behind_it_counts);
    tcase_add_test(tests, a_name_of_an_endpoint_with_another_form_behind_it_is_wrong);
    tcase_add_test(tests, other_paths_are_not_of_this_protocol);
    tcase_add_test(tests, an_id_may_be_as_long_as_a_head);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
