/* UTF-8: a text is judged in parts as it is as a whole, and as a simple reader judges it. The first
 * byte says how large the parts are. */
#include "codec/utf8.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The size of the character at the front, or 0: there is none. */
static size_t read_character(const uint8_t *bytes, size_t size)
{
    static const uint32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = bytes[0];
    size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t point = length == 1 ? first : first & (0x7fu >> length);
    if ((first >= 0x80 && first < 0xc0) || first >= 0xf8 || size < length)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (bytes[i] & 0x3f);
    }
    bool good = point >= lowest[length] && point < 0x110000 && (point < 0xd800 || point > 0xdfff);
    return good ? length : 0;
}

static bool is_text(const uint8_t *bytes, size_t size)
{
    for (size_t at = 0, length; at < size; at += length) {
        length = read_character(bytes + at, size - at);
        if (length == 0)
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t part = (size_t)data[0] + 1;
    const uint8_t *text = data + 1;
    uint8_t state = UTF8_WHOLE;
    size--;
    for (size_t at = 0; at < size; at += part)
        state = utf8_check(state, text + at, size - at < part ? size - at : part);
    if (state != utf8_check(UTF8_WHOLE, text, size))
        abort();
    if (utf8_valid(text, size) != is_text(text, size))
        abort();
    return 0;
}
