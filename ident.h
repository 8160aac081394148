/* An Offset relay's identity: an Ed25519 key pair in a file whose format is that of Offset's
 * strelay and stmgr:
 *
 *      {
 *        "privateKey": "43 characters of URL-safe base64: the 32 bytes of the seed"
 *      }
 *
 * In memory it lies between guard pages, is locked, read-only, left out of core dumps, and wiped
 * when freed. No function here may be called in the sandbox, which does not allow the system calls.
 * A sandboxed process does not free its identity; it just ends. */
#ifndef RELAY_IDENT_H
#define RELAY_IDENT_H

#include <stddef.h>
#include <stdint.h>

enum {
    IDENT_KEY_SIZE = 32,    /* bytes of the seed, and of the public key */
    IDENT_SECRET_SIZE = 64, /* the seed and the public key, as crypto_sign() takes them */
    IDENT_TEXT_SIZE = 44,   /* a key in base64, with its NUL */
    IDENT_FILE_MAX = 4096,  /* bytes of the largest file that is read */
};

struct identity {
    uint8_t public_key[IDENT_KEY_SIZE];
    uint8_t secret_key[IDENT_SECRET_SIZE]; /* begins with the seed */
};

/* Makes a random identity. NULL without memory. */
struct identity *ident_generate(void);
void ident_free(struct identity *identity); /* NULL does nothing */

/* The contents of an identity file. ident_parse() returns NULL, or in words what is wrong.
 * ident_format() returns the text, which ident_free_text() wipes and frees, or NULL without
 * memory. */
const char *ident_parse(const char *text, size_t size, struct identity **identity);
char *ident_format(const struct identity *identity);
void ident_free_text(char *text);

/* A key as it is written in files. */
void ident_key_text(const uint8_t key[IDENT_KEY_SIZE], char text[IDENT_TEXT_SIZE]);

/* Read an identity file, and create one (mode 0600, never in the place of another file). Log,
 * return -1 on failure. */
int ident_read(const char *path, struct identity **identity);
int ident_write(const char *path, const struct identity *identity);

/* Reads the identity file. If it is missing, makes it first, and logs the public key. Processes
 * that do so at the same time all get the same identity. Logs, returns -1 on failure. */
int ident_find_or_make(const char *path, struct identity **identity);

/* The path of relay.ident in the state directory. Logs, returns -1 if it is too long. */
int ident_default_path(const char *state_directory, char *path, size_t size);

#endif
