/* An Offset relay's identity: an Ed25519 key pair, kept in a file that strelay and stmgr read and
 * write as well:
 *
 *      {
 *        "privateKey": "43 characters of URL-safe base64: the 32 bytes of the seed"
 *      }
 *
 * In memory it is guarded, locked, read-only, out of core dumps, and wiped when freed. Nothing
 * here may be called in a sandbox: it would need more system calls than that allows. A process
 * in one just ends, and its memory with it. */
#ifndef RELAY_IDENT_H
#define RELAY_IDENT_H

#include <stddef.h>
#include <stdint.h>

enum {
    IDENT_KEY_SIZE = 32,    /* of the seed, and of the public key */
    IDENT_SECRET_SIZE = 64, /* the seed and the public key, as crypto_sign() wants them */
    IDENT_TEXT_SIZE = 44,   /* of a key in base64, with its NUL */
    IDENT_FILE_MAX = 4096,  /* of a file that is read */
};

struct identity {
    uint8_t public_key[IDENT_KEY_SIZE];
    uint8_t secret_key[IDENT_SECRET_SIZE]; /* begins with the seed */
};

/* Draws a new identity. NULL if there is no memory for it. */
struct identity *ident_generate(void);
void ident_free(struct identity *identity); /* NULL: nothing */

/* The contents of an identity file. Parsing returns NULL, or what is wrong with it in words;
 * formatting the text, to be wiped and freed by ident_free_text(), or NULL without memory. */
const char *ident_parse(const char *text, size_t size, struct identity **identity);
char *ident_format(const struct identity *identity);
void ident_free_text(char *text);

/* A key as files show it. */
void ident_key_text(const uint8_t key[IDENT_KEY_SIZE], char text[IDENT_TEXT_SIZE]);

/* Reads or creates (mode 0600, never over another file) an identity file. Log, return -1 on
 * failure. */
int ident_read(const char *path, struct identity **identity);
int ident_write(const char *path, const struct identity *identity);

/* Reads the identity file, and makes it first where it is missing; the public key is then logged.
 * All who do so at once end with the same identity. Logs, returns -1 on failure. */
int ident_find_or_make(const char *path, struct identity **identity);

/* relay.ident in the state directory. Logs, returns -1 if that is too long a name. */
int ident_default_path(const char *state_directory, char *path, size_t size);

#endif
