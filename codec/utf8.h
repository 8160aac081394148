/* UTF-8, as RFC 3629 defines it: no overlong form, no surrogate, nothing past U+10FFFF. */
#ifndef RELAY_UTF8_H
#define RELAY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The state of a check of text that comes in parts. Other states are within a character. */
enum {
    UTF8_BROKEN = 0, /* it is not UTF-8, whatever follows */
    UTF8_WHOLE = 6,  /* between two characters; also before the first */
};

/* Checks the next part of a text: from the state before it to the state behind it. */
uint8_t utf8_check(uint8_t state, const uint8_t *bytes, size_t size);

/* Whether these bytes are a whole text in UTF-8. */
bool utf8_valid(const uint8_t *bytes, size_t size);

#endif
