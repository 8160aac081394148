/* Identity files: see ident.h. Relies on libsodium for keys, base64 and guarded memory, and on
 * jansson for JSON.
 *
 * A private key passes through jansson's memory, which is wiped whenever jansson frees it. Not
 * wiped are a few bytes that jansson's lexer has on the stack, and values that the compiler may
 * have spilled there. */
#include "ident.h"

#include "base/files.h"
#include "base/log.h"
#include "base/wipe.h"

#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

_Static_assert(IDENT_KEY_SIZE == crypto_sign_SEEDBYTES, "a key is as long as a seed");
_Static_assert(IDENT_KEY_SIZE == crypto_sign_PUBLICKEYBYTES, "and as a public key");
_Static_assert(IDENT_SECRET_SIZE == crypto_sign_SECRETKEYBYTES, "libsodium's secret key");

/* ---- memory ---------------------------------------------------------------------- */

static struct identity *new_identity(void)
{
    if (sodium_init() < 0)
        return NULL;
    wipe_behind_jansson();
    return sodium_malloc(sizeof(struct identity));
}

/* Derives the rest of the identity from the seed, which is at the front of the secret key. */
static int derive_keys(struct identity *identity)
{
    uint8_t seed[IDENT_KEY_SIZE];
    memcpy(seed, identity->secret_key, sizeof seed);
    (void)crypto_sign_seed_keypair(identity->public_key, identity->secret_key, seed);
    sodium_memzero(seed, sizeof seed);
    return sodium_mprotect_readonly(identity);
}

struct identity *ident_generate(void)
{
    struct identity *identity = new_identity();
    if (identity == NULL)
        return NULL;
    randombytes_buf(identity->secret_key, IDENT_KEY_SIZE);
    if (derive_keys(identity) == 0)
        return identity;
    ident_free(identity);
    return NULL;
}

void ident_free(struct identity *identity)
{
    sodium_free(identity);
}

/* ---- contents -------------------------------------------------------------------- */

void ident_key_text(const uint8_t key[IDENT_KEY_SIZE], char text[IDENT_TEXT_SIZE])
{
    (void)sodium_bin2base64(
        text, IDENT_TEXT_SIZE, key, IDENT_KEY_SIZE, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

/* Accepts padding, as stmgr does, but no other length, and no set bits behind the last byte. */
static int decode_key(const char *text, size_t length, uint8_t key[IDENT_KEY_SIZE])
{
    size_t size;
    if (length == IDENT_TEXT_SIZE && text[length - 1] == '=')
        length--;
    if (length != IDENT_TEXT_SIZE - 1)
        return -1;
    return sodium_base642bin(key, IDENT_KEY_SIZE, text, length, NULL, &size, NULL,
        sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

static const char *parse_key(const char *text, size_t size, uint8_t key[IDENT_KEY_SIZE])
{
    const char *wrong = NULL;
    json_error_t error;
    /* JSON_ALLOW_NUL: other strings in the file may hold NUL; a key with NUL is not decoded. */
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    const json_t *value = json_object_get(root, "privateKey");
    if (root == NULL)
        wrong = json_error_code(&error) == json_error_duplicate_key ? "a key is repeated"
                                                                    : "it is not JSON";
    else if (!json_is_object(root))
        wrong = "it is no JSON object";
    else if (value == NULL)
        wrong = "it has no privateKey";
    else if (!json_is_string(value) ||
             decode_key(json_string_value(value), json_string_length(value), key) < 0)
        wrong = "its privateKey is not 32 bytes in URL-safe base64";
    json_decref(root);
    sodium_memzero(&error, sizeof error); /* it quotes the text near the error */
    return wrong;
}

const char *ident_parse(const char *text, size_t size, struct identity **identity)
{
    *identity = new_identity();
    if (*identity == NULL)
        return "no memory for it";
    const char *wrong = parse_key(text, size, (*identity)->secret_key);
    if (wrong == NULL && derive_keys(*identity) < 0)
        wrong = "its memory cannot be protected";
    if (wrong == NULL)
        return NULL;
    ident_free(*identity);
    *identity = NULL;
    return wrong;
}

char *ident_format(const struct identity *identity)
{
    char key[IDENT_TEXT_SIZE];
    ident_key_text(identity->secret_key, key);
    json_t *root = json_pack("{s:s}", "privateKey", key);
    sodium_memzero(key, sizeof key);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    return text;
}

void ident_free_text(char *text)
{
    wipe_and_free(text);
}

/* ---- files ----------------------------------------------------------------------- */

int ident_read(const char *path, struct identity **identity)
{
    char text[IDENT_FILE_MAX];
    const char *wrong = "it is too long";
    ssize_t size = files_read(path, 0, text, sizeof text);
    *identity = NULL;
    if (size < 0 && size != -EFBIG) {
        sodium_memzero(text, sizeof text);
        errno = (int)-size;
        log_error_errno("cannot read the identity %s", path);
        return -1;
    }
    if (size >= 0)
        wrong = ident_parse(text, (size_t)size, identity);
    sodium_memzero(text, sizeof text);
    if (wrong == NULL)
        return 0;
    log_error("cannot use the identity %s: %s", path, wrong);
    return -1;
}

/* 0 or a negative errno. */
static int create_identity(const char *path, const struct identity *identity)
{
    char *text = ident_format(identity);
    if (text == NULL)
        return -ENOMEM;
    int error = files_create(path, 0600, text, strlen(text));
    ident_free_text(text);
    return error;
}

int ident_write(const char *path, const struct identity *identity)
{
    int error = create_identity(path, identity);
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot create the identity %s", path);
    return -1;
}

/* If several processes make it at the same time, the first one makes it for all. */
static int make_identity(const char *path)
{
    char key[IDENT_TEXT_SIZE];
    struct identity *identity = ident_generate();
    int error = identity == NULL ? -ENOMEM : create_identity(path, identity);
    if (error == 0) {
        ident_key_text(identity->public_key, key);
        log_info("made the identity %s, public key %s", path, key);
    }
    ident_free(identity);
    if (error == 0 || error == -EEXIST)
        return 0;
    errno = -error;
    log_error_errno("cannot create the identity %s", path);
    return -1;
}

int ident_find_or_make(const char *path, struct identity **identity)
{
    *identity = NULL;
    if (access(path, F_OK) != 0 && errno == ENOENT && make_identity(path) < 0)
        return -1;
    return ident_read(path, identity);
}

int ident_default_path(const char *state_directory, char *path, size_t size)
{
    int length = snprintf(path, size, "%s/relay.ident", state_directory);
    if (length > 0 && (size_t)length < size)
        return 0;
    log_error("cannot use the state directory %s: its name is too long", state_directory);
    return -1;
}
