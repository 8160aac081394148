/* HTTP/1.1, as far as the way to a WebSocket needs it (RFC 9112, RFC 6455 section 4.2): one request
 * head and one answer. Also the page for a browser, and the health check. */
#ifndef RELAY_HTTP_H
#define RELAY_HTTP_H

#include "proto/greeting.h"
#include "proto/text.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    HTTP_HEAD_MAX = 1 << 15,     /* bytes in a request head; more are answered 431 */
    HTTP_ANSWER_MAX = 2048,      /* bytes in any answer */
    HTTP_ACCEPT_SIZE = 28,       /* characters of Sec-WebSocket-Accept */
    HTTP_SUBPROTOCOL_MAX = 1024, /* characters; a longer one that a client offers is ignored */
};

/* The answer to a request. */
enum http_answer {
    HTTP_SWITCH,           /* 101: a WebSocket from here on */
    HTTP_PAGE,             /* 200: the page that shows that the relay is up */
    HTTP_HEALTHY,          /* 200 */
    HTTP_BAD_REQUEST,      /* 400 */
    HTTP_NOT_FOUND,        /* 404 */
    HTTP_NOT_ALLOWED,      /* 405: another method than GET or HEAD */
    HTTP_UPGRADE_REQUIRED, /* 426: the WebSocket is of another version */
    HTTP_HEAD_TOO_LARGE,   /* 431 */
    HTTP_UNAVAILABLE,      /* 503: full, or shutting down */
    HTTP_OTHER_VERSION,    /* 505 */
};

struct http_request {
    const char *path; /* valid as long as the head; without the query, still percent-encoded */
    size_t path_size;
    const char *subprotocol; /* the first that the client offers; HTTP_SWITCH accepts it */
    size_t subprotocol_size; /* 0: none */
    bool bodiless;           /* HEAD: the answer has no body */
    char accept[HTTP_ACCEPT_SIZE + 1]; /* HTTP_SWITCH: Sec-WebSocket-Accept */
};

/* Whether a connection begins as HTTP: with an empty line, or with a method, known or not, and the
 * beginning of a target. */
enum beginning http_begins(const char *bytes, size_t size);

/* Reads a whole request head, with its last empty line. Returns HTTP_SWITCH for a good request for
 * a WebSocket, HTTP_PAGE for any other good request, or the answer that refuses it. */
enum http_answer http_parse(const char *head, size_t size, struct http_request *request);

/* The answer to a good request that is not for a WebSocket: for `/` the page, for `/healthz`
 * whether new clients are `welcome`, for any other path HTTP_NOT_FOUND. */
enum http_answer http_resource(const struct http_request *request, bool welcome);

/* Writes an answer, at most HTTP_ANSWER_MAX bytes, and returns how many. */
size_t http_write(enum http_answer answer, const struct http_request *request, char *out);

/* Takes the next segment (`/` and what is behind it) off the front of a path, and decodes it to
 * `out`. Returns its size; 0 when there is none, or it is empty, larger than `size`, or not
 * percent-encoded UTF-8. */
size_t http_segment(struct text *path, char *out, size_t size);

/* Reads one request head into `head` (HTTP_HEAD_MAX bytes), and nothing behind it; then parses it.
 * 0 or a negative errno: -ECONNRESET when the client closed before the end of the head, -ETIMEDOUT.
 */
int http_read(const struct greeting *greeting, char *head, struct http_request *request,
    enum http_answer *answer);
void http_say(
    const struct greeting *greeting, enum http_answer answer, const struct http_request *request);

#endif
