/* The request head and its answer. No packaged parser fits. Debian's only one for C, http-parser,
 * is no longer maintained, and its successor is not in Debian as a library. It is made for a stream
 * of messages with bodies, and leaves to its caller what is most of the work here: lists of tokens,
 * headers that may come only once, and the end of the head, behind which nothing may be read.
 *
 * The parser is strict where servers differ (RFC 9112 sections 2.2, 3, 5): it refuses control
 * characters, folded lines, a space before the colon, and bodies. */
#include "proto/http.h"

#include "codec/utf8.h"

#include <errno.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    KEY_SIZE = 16,       /* of Sec-WebSocket-Key, decoded */
    KEY_CHARACTERS = 24, /* encoded */
    METHOD_MAX = 24,     /* characters; the longest registered method has 17 */
};

/* What the header lines say. */
struct fields {
    struct text host, key, version, subprotocols;
    size_t hosts, keys, versions;
    bool upgrade;   /* Connection has the token `upgrade` */
    bool websocket; /* Upgrade has the token `websocket` */
    bool body;
    bool host_needed; /* HTTP/1.1; older versions have neither Host nor Upgrade */
};

/* ---- lines ----------------------------------------------------------------------- */

/* Takes a line off the front; its line feed or CR LF is taken, and not part of *line. */
static bool take_line(struct text *rest, struct text *line)
{
    const char *feed = memchr(rest->bytes, '\n', rest->size);
    if (feed == NULL)
        return false;
    size_t size = (size_t)(feed - rest->bytes);
    *line = (struct text){rest->bytes, size};
    if (size > 0 && line->bytes[size - 1] == '\r')
        line->size--;
    rest->bytes = feed + 1;
    rest->size -= size + 1;
    return true;
}

static bool is_token_character(char c)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr(others, c) != NULL);
}

static bool is_token(struct text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (!is_token_character(text.bytes[i]))
            return false;
    return text.size > 0;
}

static bool is_value(struct text text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.bytes[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct text trim(struct text text)
{
    while (text.size > 0 && is_blank(text.bytes[0])) {
        text.bytes++;
        text.size--;
    }
    while (text.size > 0 && is_blank(text.bytes[text.size - 1]))
        text.size--;
    return text;
}

static bool same_word(struct text text, const char *other)
{
    return text.size == strlen(other) && strncasecmp(text.bytes, other, text.size) == 0;
}

static bool list_has(struct text list, const char *token)
{
    while (list.size > 0) {
        if (same_word(trim(text_take_until(&list, ',')), token))
            return true;
    }
    return false;
}

/* ---- how it begins --------------------------------------------------------------- */

/* Whether a text that may go on begins with these words. */
static enum beginning compare_beginning(struct text text, const char *words)
{
    size_t size = strlen(words);
    size_t common = text.size < size ? text.size : size;
    if (strncasecmp(text.bytes, words, common) != 0)
        return BEGINNING_OTHER;
    return common < size ? BEGINNING_UNDECIDED : BEGINNING_OURS;
}

/* A target is a path, `*`, or a URL; that of CONNECT is a host. */
static enum beginning target_begins(struct text method, struct text target)
{
    if (target.size == 0)
        return BEGINNING_UNDECIDED;
    if (same_word(method, "CONNECT") || target.bytes[0] == '/' || target.bytes[0] == '*')
        return BEGINNING_OURS;
    return compare_beginning(target, "http");
}

enum beginning http_begins(const char *bytes, size_t size)
{
    struct text text = {bytes, size};
    size_t method = 0;
    enum beginning empty_line = compare_beginning(text, "\r\n");
    if (empty_line != BEGINNING_OTHER)
        return empty_line;
    while (method < size && method < METHOD_MAX && is_token_character(bytes[method]))
        method++;
    if (method == size)
        return BEGINNING_UNDECIDED;
    if (method == 0 || bytes[method] != ' ')
        return BEGINNING_OTHER;
    return target_begins(
        (struct text){bytes, method}, (struct text){bytes + method + 1, size - method - 1});
}

/* ---- the request line ------------------------------------------------------------ */

/* Sets the path of the request: the target without scheme, authority and query. A target may be in
 * absolute form or in origin form (RFC 9112 section 3.2.2). */
static bool parse_target(struct text target, struct http_request *request)
{
    static const char *const schemes[] = {"http://", "https://", "ws://", "wss://"};
    struct text path = target;
    for (size_t i = 0; i < target.size; i++) {
        if (target.bytes[i] <= ' ' || target.bytes[i] == 0x7f)
            return false;
    }
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t size = strlen(schemes[i]);
        if (target.size <= size || strncasecmp(target.bytes, schemes[i], size) != 0)
            continue;
        path = (struct text){target.bytes + size, target.size - size};
        while (path.size > 0 && path.bytes[0] != '/' && path.bytes[0] != '?') {
            path.bytes++;
            path.size--;
        }
        if (path.size == 0 || path.bytes[0] == '?')
            path = (struct text){"/", 1};
    }
    if (path.size == 0 || path.bytes[0] != '/')
        return false;
    path = text_take_until(&path, '?');
    request->path = path.bytes;
    request->path_size = path.size;
    return true;
}

static bool is_version(struct text text)
{
    return text.size == strlen("HTTP/1.1") && memcmp(text.bytes, "HTTP/", 5) == 0 &&
           text.bytes[5] >= '0' && text.bytes[5] <= '9' && text.bytes[6] == '.' &&
           text.bytes[7] >= '0' && text.bytes[7] <= '9';
}

static enum http_answer parse_request_line(
    struct text line, struct fields *fields, struct http_request *request)
{
    struct text method = text_take_until(&line, ' ');
    struct text target = text_take_until(&line, ' ');
    if (!is_token(method) || !is_version(line))
        return HTTP_BAD_REQUEST;
    if (line.bytes[5] != '1')
        return HTTP_OTHER_VERSION;
    fields->host_needed = line.bytes[7] != '0';
    request->bodiless = text_is(method, "HEAD");
    if (!request->bodiless && !text_is(method, "GET"))
        return HTTP_NOT_ALLOWED; /* the targets of other methods may have other forms */
    return parse_target(target, request) ? HTTP_PAGE : HTTP_BAD_REQUEST;
}

/* ---- header lines ---------------------------------------------------------------- */

static bool parse_field(struct text line, struct fields *fields)
{
    struct text value = line;
    struct text name = text_take_until(&value, ':');
    if (name.size == line.size || !is_token(name) || !is_value(value))
        return false;
    value = trim(value);
    if (same_word(name, "Host")) {
        fields->host = value;
        fields->hosts++;
    } else if (same_word(name, "Connection")) {
        fields->upgrade = fields->upgrade || list_has(value, "upgrade");
    } else if (same_word(name, "Upgrade")) {
        fields->websocket = fields->websocket || list_has(value, "websocket");
    } else if (same_word(name, "Sec-WebSocket-Key")) {
        fields->key = value;
        fields->keys++;
    } else if (same_word(name, "Sec-WebSocket-Version")) {
        fields->version = value;
        fields->versions++;
    } else if (same_word(name, "Sec-WebSocket-Protocol")) {
        if (fields->subprotocols.size == 0)
            fields->subprotocols = value;
    } else if (same_word(name, "Content-Length")) {
        fields->body = fields->body || !text_is(value, "0");
    } else if (same_word(name, "Transfer-Encoding")) {
        fields->body = true;
    }
    return true;
}

/* Computes Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2). False: the key is malformed. */
static bool accept_key(struct text key, char accept[HTTP_ACCEPT_SIZE + 1])
{
    static const char suffix[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t joined[KEY_CHARACTERS + sizeof suffix - 1], hash[SHA_DIGEST_LENGTH];
    uint8_t decoded[KEY_SIZE + 2];
    size_t size;
    if (key.size != KEY_CHARACTERS ||
        sodium_base642bin(decoded, sizeof decoded, key.bytes, key.size, NULL, &size, NULL,
            sodium_base64_VARIANT_ORIGINAL) != 0 ||
        size != KEY_SIZE)
        return false;
    memcpy(joined, key.bytes, key.size);
    memcpy(joined + key.size, suffix, sizeof suffix - 1);
    if (SHA1(joined, sizeof joined, hash) == NULL)
        return false;
    sodium_bin2base64(
        accept, HTTP_ACCEPT_SIZE + 1, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
    return true;
}

/* The relay accepts the first subprotocol that the client offers. */
static void choose_subprotocol(struct text offered, struct http_request *request)
{
    if (offered.size == 0)
        return;
    struct text first = trim(text_take_until(&offered, ','));
    if (first.size > HTTP_SUBPROTOCOL_MAX || !is_token(first))
        return;
    request->subprotocol = first.bytes;
    request->subprotocol_size = first.size;
}

/* Before HTTP/1.1 there is no upgrade, and a request for it is ignored. */
static bool asks_for_websocket(const struct fields *fields, const struct http_request *request)
{
    return fields->upgrade && fields->websocket && fields->host_needed && !request->bodiless;
}

enum http_answer http_parse(const char *head, size_t size, struct http_request *request)
{
    struct text rest = {head, size}, line;
    struct fields fields = {.hosts = 0};
    *request = (struct http_request){.path_size = 0};
    /* An empty line before the request is ignored (RFC 9112 section 2.2). */
    if (!take_line(&rest, &line) || (line.size == 0 && !take_line(&rest, &line)))
        return HTTP_BAD_REQUEST;
    enum http_answer answer = parse_request_line(line, &fields, request);
    if (answer != HTTP_PAGE)
        return answer;
    do {
        if (!take_line(&rest, &line) || (line.size > 0 && !parse_field(line, &fields)))
            return HTTP_BAD_REQUEST;
    } while (line.size > 0);
    if (fields.hosts > 1 || (fields.hosts == 0 && fields.host_needed) || fields.body)
        return HTTP_BAD_REQUEST;
    if (!asks_for_websocket(&fields, request))
        return HTTP_PAGE;
    if (fields.versions != 1 || !text_is(fields.version, "13"))
        return HTTP_UPGRADE_REQUIRED;
    if (fields.keys != 1 || !accept_key(fields.key, request->accept))
        return HTTP_BAD_REQUEST;
    choose_subprotocol(fields.subprotocols, request);
    return HTTP_SWITCH;
}

/* ---- paths ----------------------------------------------------------------------- */

enum http_answer http_resource(const struct http_request *request, bool welcome)
{
    struct text path = {request->path, request->path_size};
    if (text_is(path, "/"))
        return HTTP_PAGE;
    if (text_is(path, "/healthz"))
        return welcome ? HTTP_HEALTHY : HTTP_UNAVAILABLE;
    return HTTP_NOT_FOUND;
}

static int hexadecimal(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Takes one character, encoded or not, off the front of a text that is not empty. */
static bool take_character(struct text *rest, char *character)
{
    const char *bytes = rest->bytes;
    size_t taken = bytes[0] == '%' ? 3 : 1;
    if (rest->size < taken)
        return false;
    rest->bytes += taken;
    rest->size -= taken;
    *character = bytes[0];
    if (taken == 1)
        return true;
    int high = hexadecimal(bytes[1]), low = hexadecimal(bytes[2]);
    *character = (char)(high * 16 + low);
    return high >= 0 && low >= 0;
}

size_t http_segment(struct text *path, char *out, size_t size)
{
    size_t done = 0;
    if (!text_take(path, "/"))
        return 0;
    while (path->size > 0 && path->bytes[0] != '/') {
        if (done == size || !take_character(path, &out[done]))
            return 0;
        done++;
    }
    return utf8_valid((const uint8_t *)out, done) ? done : 0;
}

/* ---- answers --------------------------------------------------------------------- */

static const char page[] =
    "<!DOCTYPE html>\n"
    "<html lang=\"en\">\n"
    "<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<title>relay is up</title>\n"
    "<style>body { font: 1.1em/1.5 sans-serif; max-width: 36em; margin: 4em auto; padding: 0 1em; "
    "color-scheme: light dark }</style>\n"
    "<h1>relay is up</h1>\n"
    "<p>This relay brings two programs together that cannot reach each other, and carries their "
    "bytes. There is nothing else to see here: give its address to a client of magic-wormhole, "
    "p2p-copy, @localfirst/relay or Offset.</p>\n"
    "</html>\n";

struct reply {
    const char *status;
    const char *headers; /* in addition to those that every answer has */
    const char *body;
};

#define HTML "Content-Type: text/html; charset=utf-8\r\n"
#define TEXT "Content-Type: text/plain; charset=utf-8\r\n"

static const struct reply replies[] = {
    [HTTP_PAGE] = {"200 OK",
        HTML
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; connect-src *\r\n",
        page},
    [HTTP_HEALTHY] = {"200 OK", TEXT, "ok\n"},
    [HTTP_BAD_REQUEST] = {"400 Bad Request", TEXT, "bad request\n"},
    [HTTP_NOT_FOUND] = {"404 Not Found", TEXT, "not found\n"},
    [HTTP_NOT_ALLOWED] = {"405 Method Not Allowed", TEXT "Allow: GET, HEAD\r\n",
        "method not allowed\n"},
    [HTTP_UPGRADE_REQUIRED] = {"426 Upgrade Required",
        TEXT "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", "a WebSocket is needed\n"},
    [HTTP_HEAD_TOO_LARGE] = {"431 Request Header Fields Too Large", TEXT,
        "request head too large\n"},
    [HTTP_UNAVAILABLE] = {"503 Service Unavailable", TEXT, "full or shutting down\n"},
    [HTTP_OTHER_VERSION] = {"505 HTTP Version Not Supported", TEXT, "HTTP/1.1 is spoken here\n"},
};

static size_t write_switch(const struct http_request *request, char *out)
{
    bool takes = request->subprotocol_size > 0;
    return (size_t)snprintf(out, HTTP_ANSWER_MAX,
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Accept: %s\r\n"
        "%s%.*s%s"
        "\r\n",
        request->accept, takes ? "Sec-WebSocket-Protocol: " : "", (int)request->subprotocol_size,
        takes ? request->subprotocol : "", takes ? "\r\n" : "");
}

size_t http_write(enum http_answer answer, const struct http_request *request, char *out)
{
    const struct reply *reply = &replies[answer];
    if (answer == HTTP_SWITCH)
        return write_switch(request, out);
    return (size_t)snprintf(out, HTTP_ANSWER_MAX,
        "HTTP/1.1 %s\r\n"
        "%s"
        "Content-Length: %zu\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: %sclose\r\n"
        "\r\n"
        "%s",
        reply->status, reply->headers, strlen(reply->body),
        answer == HTTP_UPGRADE_REQUIRED ? "Upgrade, " : "", request->bodiless ? "" : reply->body);
}

/* ---- in a greeting --------------------------------------------------------------- */

int http_read(const struct greeting *greeting, char *head, struct http_request *request,
    enum http_answer *answer)
{
    ssize_t size = text_read_head(greeting, head, HTTP_HEAD_MAX);
    if (size < 0 && size != -EMSGSIZE)
        return (int)size;
    *request = (struct http_request){.path_size = 0};
    *answer = size < 0 ? HTTP_HEAD_TOO_LARGE : http_parse(head, (size_t)size, request);
    return 0;
}

void http_say(
    const struct greeting *greeting, enum http_answer answer, const struct http_request *request)
{
    char words[HTTP_ANSWER_MAX];
    greeting_say(greeting, words, http_write(answer, request, words));
}
