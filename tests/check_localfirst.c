/* The paths of @localfirst/relay: whose they are, and the ids in them. */
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

static void expect_id(const struct localfirst_id *id, const char *expected)
{
    ck_assert_uint_eq(id->size, strlen(expected));
    ck_assert_mem_eq(id->bytes, expected, id->size);
}

START_TEST(an_introduction_names_its_peer)
{
    ck_assert_int_eq(parse("/introduction/alice"), LOCALFIRST_INTRODUCTION);
    expect_id(&path.local, "alice");
}
END_TEST

START_TEST(a_connection_names_both_peers_and_a_document)
{
    ck_assert_int_eq(parse("/connection/alice/bob/automerge:1"), LOCALFIRST_CONNECTION);
    expect_id(&path.local, "alice");
    expect_id(&path.remote, "bob");
    expect_id(&path.document, "automerge:1");
}
END_TEST

START_TEST(ids_are_percent_decoded)
{
    ck_assert_int_eq(parse("/connection/a%2Fb/%F0%9F%90%B1/%20"), LOCALFIRST_CONNECTION);
    expect_id(&path.local, "a/b");
    expect_id(&path.remote, "\xf0\x9f\x90\xb1");
    expect_id(&path.document, " ");
}
END_TEST

START_TEST(any_other_form_under_the_prefixes_is_wrong)
{
    static const char *const wrong[] = {"/introduction", "/introduction/", "/introduction//",
        "/introduction/a/", "/introduction/a/b", "/introduction//a", "/introduction/%zz",
        "/introduction/%ff", "/connection", "/connection/", "/connection/a", "/connection/a/b",
        "/connection/a/b/", "/connection/a/b/c/", "/connection/a/b/c/d", "/connection/a//c"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(parse(wrong[i]), LOCALFIRST_WRONG);
}
END_TEST

START_TEST(other_paths_are_not_of_this_protocol)
{
    static const char *const others[] = {"", "/", "/introductions/a", "/introduction2",
        "/connectionless/a/b/c", "/Introduction/a", "//introduction/a", "/x/introduction/a",
        "introduction/a"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        ck_assert_int_eq(parse(others[i]), LOCALFIRST_NONE);
}
END_TEST

START_TEST(an_id_has_256_bytes_at_most)
{
    char words[600] = "/introduction/";
    size_t start = strlen(words);
    memset(words + start, 'i', INTRODUCTION_ID_MAX);
    ck_assert_int_eq(parse(words), LOCALFIRST_INTRODUCTION);
    ck_assert_uint_eq(path.local.size, INTRODUCTION_ID_MAX);
    words[start + INTRODUCTION_ID_MAX] = 'i';
    ck_assert_int_eq(parse(words), LOCALFIRST_WRONG);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("localfirst");
    TCase *tests = tcase_create("paths");
    tcase_add_test(tests, an_introduction_names_its_peer);
    tcase_add_test(tests, a_connection_names_both_peers_and_a_document);
    tcase_add_test(tests, ids_are_percent_decoded);
    tcase_add_test(tests, any_other_form_under_the_prefixes_is_wrong);
    tcase_add_test(tests, other_paths_are_not_of_this_protocol);
    tcase_add_test(tests, an_id_has_256_bytes_at_most);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
