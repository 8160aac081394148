/* UTF-8 by the table of well-formed byte sequences (Unicode, table 3-7), as a state machine without
 * branches: each byte has a row with the successor of every state. Any text is checked at about one
 * byte per cycle; ASCII, which is most of it, is skipped in blocks. */
#include "codec/utf8.h"

/* What may come next. A state is also the number of the bit in a row at which its successor stands.
 */
enum state {
    BROKEN = UTF8_BROKEN,
    FIRST = UTF8_WHOLE,
    LAST = 12,
    LAST_2 = 18,
    LAST_3 = 24,
    /* Behind these first bytes, the second byte is restricted. */
    BEHIND_E0 = 30,
    BEHIND_ED = 36,
    BEHIND_F0 = 42,
    BEHIND_F4 = 48,
    STATE_MASK = 63,
};

#define FROM(state, successor) ((uint64_t)(successor) << (state))
#define FROM_FIRST(successor) FROM(FIRST, successor)
#define LATER (FROM(LAST, FIRST) | FROM(LAST_2, LAST) | FROM(LAST_3, LAST_2))
#define LATER_80 (LATER | FROM(BEHIND_ED, LAST) | FROM(BEHIND_F4, LAST_2))
#define LATER_90 (LATER | FROM(BEHIND_ED, LAST) | FROM(BEHIND_F0, LAST_2))
#define LATER_A0 (LATER | FROM(BEHIND_E0, LAST) | FROM(BEHIND_F0, LAST_2))

#define TIMES_3(row) row, row, row
#define TIMES_12(row) TIMES_3(row), TIMES_3(row), TIMES_3(row), TIMES_3(row)
#define TIMES_16(row) TIMES_12(row), TIMES_3(row), row
#define TIMES_64(row) TIMES_16(row), TIMES_16(row), TIMES_16(row), TIMES_16(row)

/* A state without a successor in a row goes to BROKEN, and so does BROKEN. */
static const uint64_t rows[256] = {
    TIMES_64(FROM_FIRST(FIRST)), /* 00 */
    TIMES_64(FROM_FIRST(FIRST)),
    TIMES_16(LATER_80), /* 80 */
    TIMES_16(LATER_90),
    TIMES_16(LATER_A0),
    TIMES_16(LATER_A0),
    0, /* c0 */
    0,
    TIMES_12(FROM_FIRST(LAST)),
    FROM_FIRST(LAST),
    FROM_FIRST(LAST),
    TIMES_16(FROM_FIRST(LAST)),
    FROM_FIRST(BEHIND_E0), /* e0 */
    TIMES_12(FROM_FIRST(LAST_2)),
    FROM_FIRST(BEHIND_ED),
    FROM_FIRST(LAST_2),
    FROM_FIRST(LAST_2),
    FROM_FIRST(BEHIND_F0), /* f0 */
    TIMES_3(FROM_FIRST(LAST_3)),
    FROM_FIRST(BEHIND_F4),
};

/* As many bytes as a vector register has, at any address. */
typedef uint64_t lane __attribute__((vector_size(16), aligned(1), may_alias));

enum {
    BLOCK = 4 * sizeof(lane),
};

static bool is_ascii(const uint8_t block[BLOCK])
{
    const lane *lanes = (const lane *)block;
    lane bits = lanes[0] | lanes[1] | lanes[2] | lanes[3];
    return ((bits[0] | bits[1]) & 0x8080808080808080u) == 0;
}

uint8_t utf8_check(uint8_t state, const uint8_t *bytes, size_t size)
{
    uint64_t now = state;
    for (size_t at = 0; at < size && (now & STATE_MASK) != BROKEN;) {
        size_t end = size - at < BLOCK ? size : at + BLOCK;
        if (end - at == BLOCK && (now & STATE_MASK) == FIRST && is_ascii(bytes + at))
            at = end;
        for (; at < end; at++)
            now = rows[bytes[at]] >> (now & STATE_MASK);
    }
    return now & STATE_MASK;
}

bool utf8_valid(const uint8_t *bytes, size_t size)
{
    return utf8_check(UTF8_WHOLE, bytes, size) == UTF8_WHOLE;
}
