/* Greetings that are text: see text.h. */
#include "proto/text.h"

#include "proto/greeting.h"

#include <errno.h>
#include <string.h>

/* ---- reading --------------------------------------------------------------------- */

/* Looks for the end of a line or of a head among bytes[from..size). Returns the size of the text
 * with its end, or 0. */
typedef size_t end_finder(const char *bytes, size_t from, size_t size);

static size_t find_line_end(const char *bytes, size_t from, size_t size)
{
    const char *feed = memchr(bytes + from, '\n', size - from);
    return feed == NULL ? 0 : (size_t)(feed - bytes) + 1;
}

static size_t find_head_end(const char *bytes, size_t from, size_t size)
{
    for (size_t i = from; i < size; i++) {
        if (bytes[i] != '\n')
            continue;
        if ((i >= 1 && bytes[i - 1] == '\n') ||
            (i >= 2 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n'))
            return i + 1;
    }
    return 0;
}

/* Outside of TLS, waits with the text in the kernel's buffer, and consumes it once it is whole. In
 * TLS, what was looked through is consumed: the kernel's buffer may not have room for all of its
 * records. */
static ssize_t read_up_to(
    const struct greeting *greeting, char *buffer, size_t size, end_finder *find_end, bool *more)
{
    size_t done = 0, known = 0, end = 0; /* consumed; looked through; up to the end */
    while (end == 0 && known < size) {
        ssize_t count = greeting_peek(greeting, buffer + done, size - done, known - done);
        if (count <= 0)
            return count == 0 ? -ECONNRESET : count;
        size_t have = done + (size_t)count;
        end = find_end(buffer, known, have);
        known = have;
        if (end == 0 && known < size && greeting->records == NULL)
            continue;
        size_t taken = end == 0 ? known : end;
        int error = greeting_read(greeting, buffer + done, taken - done);
        if (error != 0)
            return error;
        *more = known > taken;
        done = taken;
    }
    return end == 0 ? -EMSGSIZE : (ssize_t)end;
}

ssize_t text_read_line(const struct greeting *greeting, char *buffer, size_t size, bool *more)
{
    return read_up_to(greeting, buffer, size, find_line_end, more);
}

ssize_t text_read_head(const struct greeting *greeting, char *buffer, size_t size)
{
    bool more;
    return read_up_to(greeting, buffer, size, find_head_end, &more);
}

/* ---- taking apart ---------------------------------------------------------------- */

bool text_is(struct text text, const char *other)
{
    return text.size == strlen(other) && memcmp(text.bytes, other, text.size) == 0;
}

bool text_take(struct text *rest, const char *expected)
{
    size_t size = strlen(expected);
    if (rest->size < size || memcmp(rest->bytes, expected, size) != 0)
        return false;
    rest->bytes += size;
    rest->size -= size;
    return true;
}

struct text text_take_until(struct text *rest, char separator)
{
    const char *at = memchr(rest->bytes, separator, rest->size);
    struct text part = {rest->bytes, at == NULL ? rest->size : (size_t)(at - rest->bytes)};
    size_t taken = at == NULL ? part.size : part.size + 1;
    rest->bytes += taken;
    rest->size -= taken;
    return part;
}
