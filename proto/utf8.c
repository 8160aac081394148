/* UTF-8 by the table of well-formed byte sequences (Unicode, table 3-7). */
#include "utf8.h"

/* How many bytes follow this first one, and between what the first of them lies; -1: none may
 * begin like this. The bounds rule out overlong forms, surrogates, and what is past U+10FFFF. */
static int followers(uint8_t first, uint8_t *low, uint8_t *high)
{
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0x80)
        return 0;
    if (first >= 0xc2 && first <= 0xdf)
        return 1;
    if (first >= 0xe0 && first <= 0xef)
        return 2;
    if (first >= 0xf0 && first <= 0xf4)
        return 3;
    return -1;
}

bool utf8_valid(const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    while (at < size) {
        uint8_t low, high;
        int left = followers(bytes[at++], &low, &high);
        if (left < 0 || size - at < (size_t)left)
            return false;
        for (; left > 0; left--, at++) {
            if (bytes[at] < low || bytes[at] > high)
                return false;
            low = 0x80;
            high = 0xbf;
        }
    }
    return true;
}
