/* Identity files: what is accepted, what is refused, how they are made, and that no copy of a key
 * stays in memory. */
#include "ident.h"
#include "scratch.h"
#include "suite.h"

#include <sodium.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define FILE_TEXT "{\n  \"privateKey\": \"" KEY "\"\n}"

static struct identity *parse(const char *text)
{
    struct identity *identity = NULL;
    const char *wrong = ident_parse(text, strlen(text), &identity);
    ck_assert_msg(wrong == NULL, "%s: %s", text, wrong);
    return identity;
}

static void expect_relay_identity(const struct identity *identity)
{
    char text[IDENT_TEXT_SIZE];
    ident_key_text(identity->public_key, text);
    ck_assert_str_eq(text, "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg");
    for (int i = 0; i < IDENT_KEY_SIZE; i++)
        ck_assert_int_eq(identity->secret_key[i], i);
}

static void expect_refused(const char *text, size_t size)
{
    struct identity *identity = NULL;
    const char *wrong = ident_parse(text, size, &identity);
    ck_assert_msg(wrong != NULL, "accepted: %.*s", (int)size, text);
    ck_assert_ptr_null(identity);
}

/* ---- accepted -------------------------------------------------------------------- */

START_TEST(a_seed_gives_the_same_key_pair_as_in_offset)
{
    static const char *const vectors[][2] = {
        {KEY, "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"},
        {"ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8",
            "Kay64UG8yvCyLhqU000LxzYeUm0L_hLIl5S8kyKWbdc"},
        {"QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8",
            "JUO5L_EJVRFHatyDadtt3JM2ZaEZeN2hQE7hBmypVZ0"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        char text[128], public_key[IDENT_TEXT_SIZE];
        (void)snprintf(text, sizeof text, "{\"privateKey\":\"%s\"}", vectors[i][0]);
        struct identity *identity = parse(text);
        ident_key_text(identity->public_key, public_key);
        ck_assert_str_eq(public_key, vectors[i][1]);
        ident_free(identity);
    }
}
END_TEST

START_TEST(its_secret_key_signs_for_its_public_key)
{
    uint8_t signature[crypto_sign_BYTES];
    const uint8_t message[] = "message";
    struct identity *identity = ident_generate();
    ck_assert_ptr_nonnull(identity);
    ck_assert_int_eq(
        crypto_sign_detached(signature, NULL, message, sizeof message, identity->secret_key), 0);
    ck_assert_int_eq(
        crypto_sign_verify_detached(signature, message, sizeof message, identity->public_key), 0);
    ident_free(identity);
}
END_TEST

START_TEST(white_space_padding_escapes_and_unknown_keys_do_not_matter)
{
    static const char *const texts[] = {
        FILE_TEXT,
        FILE_TEXT "\n",
        "{\"privateKey\":\"" KEY "\"}",
        "\r\n\t { \"privateKey\"\n:\t\"" KEY "\" } \r\n",
        "{\"privateKey\":\"" KEY "=\"}",
        "{\"\\u0070rivateKey\":\"\\u0041AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}",
        "{\"before\":[1,{\"privateKey\":2}],\"privateKey\":\"" KEY "\",\"after\":null}",
        "{\"privatekey\":\"\",\"nul\":\"\\u0000\",\"\xc3\xa9\":-1.5e3,\"privateKey\":\"" KEY "\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct identity *identity = parse(texts[i]);
        expect_relay_identity(identity);
        ident_free(identity);
    }
}
END_TEST

/* ---- refused --------------------------------------------------------------------- */

START_TEST(any_other_content_is_refused)
{
    static const char *const texts[] = {
        "",
        " ",
        "null",
        "\"" KEY "\"",
        "[\"" KEY "\"]",
        "{}",
        "{\"publicKey\":\"" KEY "\"}",
        "{\"privateKey\":null}",
        "{\"privateKey\":1}",
        "{\"privateKey\":[\"" KEY "\"]}",
        "{\"privateKey\":\"\"}",
        "{\"privateKey\":\"" KEY "\",\"privateKey\":\"" KEY "\"}",
        "{\"privateKey\":\"" KEY "\",\"a\":1,\"a\":1}",
        "{\"privateKey\":\"" KEY "\"}{}",
        "{\"privateKey\":\"" KEY "\"} x",
        "{\"privateKey\":\"" KEY "\",}",
        "{'privateKey':'" KEY "'}",
        "\xef\xbb\xbf{\"privateKey\":\"" KEY "\"}",
        "{\"privateKey\":\"" KEY "\",\"a\":\"\xff\"}",
        /* set bits behind the last byte */
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9\"}",
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh_\"}",
        /* the standard alphabet of base64, and no alphabet */
        "{\"privateKey\":\"+AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}",
        "{\"privateKey\":\"/AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}",
        "{\"privateKey\":\".AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}",
        "{\"privateKey\":\" AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}",
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh\\u0000\"}",
        "{\"privateKey\":\"" KEY "\\u0000\"}",
        /* padding elsewhere, or too much */
        "{\"privateKey\":\"" KEY "==\"}",
        "{\"privateKey\":\"=" KEY "\"}",
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg=\"}",
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==\"}",
        /* 31, 33 and 64 bytes */
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg\"}",
        "{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g\"}",
        ("{\"privateKey\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"
         "ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw\"}"),
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        expect_refused(texts[i], strlen(texts[i]));
    expect_refused(FILE_TEXT "\0", sizeof FILE_TEXT);
}
END_TEST

START_TEST(a_file_truncated_anywhere_is_refused)
{
    for (size_t size = 0; size < strlen(FILE_TEXT); size++)
        expect_refused(FILE_TEXT, size);
}
END_TEST

/* A file with one changed bit is refused; or the bit is in the key, and gives another key; or it
 * turned one kind of white space into another. */
START_TEST(any_changed_bit_is_noticed)
{
    for (size_t bit = 0; bit < 8 * strlen(FILE_TEXT); bit++) {
        char text[] = FILE_TEXT;
        struct identity *identity;
        bool space = text[bit / 8] == ' ' || text[bit / 8] == '\n';
        text[bit / 8] = (char)(text[bit / 8] ^ (1 << bit % 8));
        if (ident_parse(text, strlen(text), &identity) != NULL || space) {
            ident_free(identity);
            continue;
        }
        char *written = ident_format(identity);
        ck_assert_str_eq(written, text);
        ck_assert_str_ne(written, FILE_TEXT);
        ident_free_text(written);
        ident_free(identity);
    }
}
END_TEST

START_TEST(a_file_may_not_be_longer_than_4096_bytes)
{
    char text[IDENT_FILE_MAX + 1];
    struct identity *identity;
    memset(text, ' ', sizeof text);
    memcpy(text, FILE_TEXT, strlen(FILE_TEXT));
    scratch_write(scratch_path("file"), text, IDENT_FILE_MAX);
    ck_assert_int_eq(ident_read(scratch_path("file"), &identity), 0);
    expect_relay_identity(identity);
    ident_free(identity);
    scratch_write(scratch_path("file"), text, IDENT_FILE_MAX + 1);
    ck_assert_int_eq(ident_read(scratch_path("file"), &identity), -1);
    ck_assert_ptr_null(identity);
    scratch_expect_line("it is too long");
    ck_assert_int_eq(ident_read("/dev/zero", &identity), -1);
    scratch_expect_line("it is too long");
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_named_in_one_line)
{
    struct identity *identity;
    ck_assert_int_eq(ident_read(scratch_path("missing"), &identity), -1);
    scratch_expect_line("missing: No such file or directory");
    ck_assert_int_eq(ident_read(scratch_directory, &identity), -1);
    scratch_expect_line("Is a directory");
    scratch_write(scratch_path("file"), "{}", 2);
    ck_assert_int_eq(ident_read(scratch_path("file"), &identity), -1);
    scratch_expect_line("file: it has no privateKey");
    ck_assert_ptr_null(identity);
}
END_TEST

/* ---- how they are made ----------------------------------------------------------- */

START_TEST(a_file_is_as_stmgr_writes_it_and_for_its_owner_only)
{
    static const mode_t masks[] = {0, 077, 0777};
    struct identity *identity = parse(FILE_TEXT);
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        umask(masks[i]);
        ck_assert_int_eq(ident_write(scratch_path("file"), identity), 0);
        scratch_expect(scratch_path("file"), FILE_TEXT);
        scratch_expect_mode(scratch_path("file"), 0600);
        ck_assert_int_eq(scratch_files(true), 1);
    }
    ident_free(identity);
}
END_TEST

START_TEST(an_existing_file_is_never_overwritten)
{
    struct identity *identity = parse(FILE_TEXT);
    scratch_write(scratch_path("file"), "precious", 8);
    ck_assert_int_eq(symlink("nowhere", scratch_path("link")), 0);
    ck_assert_int_eq(ident_write(scratch_path("file"), identity), -1);
    scratch_expect_line("file: File exists");
    scratch_expect(scratch_path("file"), "precious");
    ck_assert_int_eq(ident_write(scratch_path("link"), identity), -1);
    scratch_expect_line("link: File exists");
    ck_assert_int_eq(ident_write(scratch_directory, identity), -1);
    scratch_expect_line("File exists");
    ck_assert_int_eq(scratch_files(false), 2);
    ident_free(identity);
}
END_TEST

START_TEST(a_failure_leaves_no_file_behind)
{
    struct identity *identity = parse(FILE_TEXT);
    ck_assert_int_eq(ident_write(scratch_path("missing/file"), identity), -1);
    scratch_expect_line("missing/file: No such file or directory");
    scratch_limit_files(strlen(FILE_TEXT) - 1);
    ck_assert_int_eq(ident_write(scratch_path("file"), identity), -1);
    scratch_limit_files(RLIM_INFINITY);
    scratch_expect_line("file: File too large");
    ck_assert_int_eq(scratch_files(false), 0);
    ident_free(identity);
}
END_TEST

START_TEST(generated_identities_differ_and_can_be_written_and_read)
{
    struct identity *first = ident_generate(), *second = ident_generate(), *read;
    ck_assert_mem_ne(first->public_key, second->public_key, IDENT_KEY_SIZE);
    ck_assert_mem_ne(first->secret_key, second->secret_key, IDENT_KEY_SIZE);
    ck_assert_int_eq(ident_write(scratch_path("file"), first), 0);
    ck_assert_int_eq(ident_read(scratch_path("file"), &read), 0);
    ck_assert_mem_eq(read, first, sizeof *read);
    ident_free(first);
    ident_free(second);
    ident_free(read);
}
END_TEST

START_TEST(a_missing_identity_is_made_and_its_public_key_logged)
{
    char key[IDENT_TEXT_SIZE];
    struct identity *first, *second;
    ck_assert_int_eq(ident_find_or_make(scratch_path("file"), &first), 0);
    ident_key_text(first->public_key, key);
    scratch_expect_line(key);
    scratch_expect_mode(scratch_path("file"), 0600);
    ck_assert_int_eq(ident_find_or_make(scratch_path("file"), &second), 0);
    ck_assert_mem_eq(first, second, sizeof *first);
    ident_free(first);
    ident_free(second);
    ck_assert_int_eq(ident_find_or_make(scratch_path("missing/file"), &first), -1);
    ck_assert_ptr_null(first);
    scratch_write(scratch_path("bad"), "{}", 2);
    ck_assert_int_eq(ident_find_or_make(scratch_path("bad"), &first), -1);
    ck_assert_ptr_null(first);
    scratch_expect(scratch_path("bad"), "{}");
}
END_TEST

/* Waits for the start signal, makes an identity, and sends its key. */
static _Noreturn void race(int gun, int finish)
{
    char byte;
    struct identity *identity = NULL;
    if (read(gun, &byte, 1) != 0 || ident_find_or_make(scratch_path("file"), &identity) != 0)
        _exit(1);
    _exit(write(finish, identity->public_key, IDENT_KEY_SIZE) == IDENT_KEY_SIZE ? 0 : 1);
}

START_TEST(processes_that_make_it_at_the_same_time_get_the_same_identity)
{
    enum {
        RACERS = 8
    };
    uint8_t keys[RACERS][IDENT_KEY_SIZE];
    int gun[2], finish[2];
    ck_assert_int_eq(pipe(gun), 0);
    ck_assert_int_eq(pipe(finish), 0);
    for (int i = 0; i < RACERS; i++) {
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            close(gun[1]);
            race(gun[0], finish[1]);
        }
    }
    close(gun[1]);
    for (int i = 0; i < RACERS; i++) {
        int status;
        ck_assert_int_gt(wait(&status), 0);
        ck_assert_int_eq(status, 0);
        ck_assert_int_eq(read(finish[0], keys[i], IDENT_KEY_SIZE), IDENT_KEY_SIZE);
        ck_assert_mem_eq(keys[i], keys[0], IDENT_KEY_SIZE);
    }
    ck_assert_int_eq(scratch_files(false), 1);
}
END_TEST

/* ---- no copy of a key stays in memory -------------------------------------------- */

START_TEST(an_identity_in_memory_is_read_only)
{
    int status;
    struct identity *identity = parse(FILE_TEXT);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        *(volatile uint8_t *)identity->secret_key = 1;
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_ne(status, 0);
    ident_free(identity);
}
END_TEST

enum {
    VEIL = 0x55,
    REGION_MAX = 64 << 20,
};

/* Makes an identity in another process, so that this process has never had the key in memory.
 * `veiled` is the key as the file shows it, with every byte XOR VEIL. */
static void make_elsewhere(const char *path, uint8_t veiled[IDENT_TEXT_SIZE])
{
    int ends[2], status;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        char text[IDENT_TEXT_SIZE];
        struct identity *identity = ident_generate();
        if (identity == NULL || ident_write(path, identity) != 0)
            _exit(1);
        ident_key_text(identity->secret_key, text);
        for (int i = 0; i < IDENT_TEXT_SIZE; i++)
            text[i] ^= VEIL;
        _exit(write(ends[1], text, sizeof text) == sizeof text ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(read(ends[0], veiled, IDENT_TEXT_SIZE), IDENT_TEXT_SIZE);
}

static size_t find_veiled(const uint8_t *at, size_t size, const uint8_t *veiled, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i + length <= size; i++) {
        size_t same = 0;
        while (same < length && (at[i + same] ^ VEIL) == veiled[same])
            same++;
        count += same == length;
    }
    return count;
}

/* How often the first bytes of the key are in this process's writable memory. */
static size_t count_in_memory(const uint8_t *veiled, size_t length)
{
    char line[512];
    size_t count = 0;
    uint8_t *copy = mmap(NULL, REGION_MAX, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(copy, MAP_FAILED);
    FILE *maps = fopen("/proc/self/maps", "re");
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ck_assert_ptr_nonnull(maps);
    ck_assert_int_ge(memory, 0);
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, end;
        char mode;
        if (sscanf(line, "%lx-%lx r%c", &start, &end, &mode) != 3 || mode != 'w' ||
            end - start >= REGION_MAX)
            continue;
        ssize_t size = pread(memory, copy, end - start, (off_t)start);
        if (size > 0)
            count += find_veiled(copy, (size_t)size, veiled, length);
    }
    (void)fclose(maps);
    close(memory);
    ck_assert_int_eq(munmap(copy, REGION_MAX), 0);
    return count;
}

START_TEST(reading_a_file_leaves_nothing_of_its_key_in_memory)
{
    uint8_t veiled[IDENT_TEXT_SIZE];
    char kept[IDENT_TEXT_SIZE];
    struct identity *identity;
    make_elsewhere(scratch_path("file"), veiled);
    ck_assert_int_eq(ident_read(scratch_path("file"), &identity), 0);
    ck_assert_uint_eq(count_in_memory(veiled, 16), 0);
    ident_key_text(identity->secret_key, kept);
    ck_assert_uint_eq(count_in_memory(veiled, 16), 1); /* the search does find a key */
    sodium_memzero(kept, sizeof kept);
    char *text = ident_format(identity);
    ck_assert_ptr_nonnull(text);
    ident_free_text(text);
    ident_free(identity);
    ck_assert_uint_eq(count_in_memory(veiled, 16), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ident");
    TCase *tests = tcase_create("files");
    tcase_add_checked_fixture(tests, scratch_set_up, scratch_tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_seed_gives_the_same_key_pair_as_in_offset);
    tcase_add_test(tests, its_secret_key_signs_for_its_public_key);
    tcase_add_test(tests, white_space_padding_escapes_and_unknown_keys_do_not_matter);
    tcase_add_test(tests, any_other_content_is_refused);
    tcase_add_test(tests, a_file_truncated_anywhere_is_refused);
    tcase_add_test(tests, any_changed_bit_is_noticed);
    tcase_add_test(tests, a_file_may_not_be_longer_than_4096_bytes);
    tcase_add_test(tests, a_file_that_cannot_be_read_is_named_in_one_line);
    tcase_add_test(tests, a_file_is_as_stmgr_writes_it_and_for_its_owner_only);
    tcase_add_test(tests, an_existing_file_is_never_overwritten);
    tcase_add_test(tests, a_failure_leaves_no_file_behind);
    tcase_add_test(tests, generated_identities_differ_and_can_be_written_and_read);
    tcase_add_test(tests, a_missing_identity_is_made_and_its_public_key_logged);
    tcase_add_loop_test(
        tests, processes_that_make_it_at_the_same_time_get_the_same_identity, 0, 20);
    tcase_add_test(tests, an_identity_in_memory_is_read_only);
    tcase_add_test(tests, reading_a_file_leaves_nothing_of_its_key_in_memory);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
