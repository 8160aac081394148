/* UTF-8, as RFC 3629 defines it. */
#ifndef RELAY_UTF8_H
#define RELAY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether these bytes are well-formed: no overlong form, no surrogate, nothing past U+10FFFF. */
bool utf8_valid(const uint8_t *bytes, size_t size);

#endif
