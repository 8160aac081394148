/* Greetings that are text: reads a line or a head from a connection, and takes a text apart. */
#ifndef RELAY_TEXT_H
#define RELAY_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct greeting;

/* Part of a buffer; it has no zero at its end. */
struct text {
    const char *bytes;
    size_t size;
};

/* Reads one line, with its line feed, and nothing behind it; outside of TLS nothing is consumed
 * before the line is whole. Returns its size, with *more: bytes behind it have come already; or a
 * negative errno: -ECONNRESET the client closed before the end of the line, -EMSGSIZE the first
 * `size` bytes have no line feed (they are consumed), -ETIMEDOUT the deadline. */
ssize_t text_read_line(const struct greeting *greeting, char *buffer, size_t size, bool *more);

/* The same for lines up to the first empty one, as in the head of an HTTP request. Lines end with
 * a line feed, or with CR LF. */
ssize_t text_read_head(const struct greeting *greeting, char *buffer, size_t size);

bool text_is(struct text text, const char *other);

/* Takes `expected` off the front of *rest. False, and *rest is as it was, if it does not begin
 * so. */
bool text_take(struct text *rest, const char *expected);

/* Takes what is before the next `separator`, or all if there is none, off the front of *rest, and
 * the separator as well. */
struct text text_take_until(struct text *rest, char separator);

#endif
