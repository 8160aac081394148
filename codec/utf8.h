/* UTF-8, as RFC 3629 defines it: no overlong form, no surrogate, nothing past U+10FFFF. */
#ifndef RELAY_UTF8_H
#define RELAY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How far a text is well-formed that comes in parts; any other state is within a character. */
enum {
    UTF8_BROKEN = 0, /* whatever may follow */
    UTF8_WHOLE = 6,  /* also before its first byte */
};

/* Checks the next part of a text. Returns the state behind it, of the state in front of it. */
uint8_t utf8_check(uint8_t state, const uint8_t *bytes, size_t size);

/* Whether these bytes are well-formed, from the first to the last. */
bool utf8_valid(const uint8_t *bytes, size_t size);

#endif
