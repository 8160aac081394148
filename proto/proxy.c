/* The PROXY protocol: see proxy.h. Wire format (haproxy.org, "The PROXY protocol"):
 *
 *   version 1   PROXY TCP4 192.0.2.1 192.0.2.2 56324 4001\r\n       (or TCP6)
 *               PROXY UNKNOWN[ anything]\r\n
 *   version 2   12 bytes signature, version and command, family and transport, 2 bytes length,
 *               then that many: source address, destination address, both ports, and more */
#include "proto/proxy.h"

#include "proto/greeting.h"
#include "proto/text.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEAD_SIZE = 16,
    SIGNATURE_SIZE = 12,
    COMMAND_LOCAL = 0x20, /* with the version, 2, in the upper half */
    COMMAND_PROXY = 0x21,
    FAMILY_UNSPECIFIED = 0, /* the upper half of the byte; the lower half is the transport */
    FAMILY_INET = 1,
    FAMILY_INET6 = 2,
    FAMILY_UNIX = 3,
    TRANSPORT_MAX = 2,
    INET_SIZE = 12,
    INET6_SIZE = 36,
    UNIX_SIZE = 216,
};

static const char text_start[] = "PROXY ";
static const uint8_t signature[SIGNATURE_SIZE] = "\r\n\r\n\0\r\nQUIT\n";

/* ---- addresses ------------------------------------------------------------------- */

static void set_inet(struct sockaddr_storage *source, const void *address)
{
    struct sockaddr_in *inet = (struct sockaddr_in *)source;
    memset(source, 0, sizeof *source);
    inet->sin_family = AF_INET;
    memcpy(&inet->sin_addr, address, sizeof inet->sin_addr);
}

static void set_inet6(struct sockaddr_storage *source, const void *address)
{
    struct sockaddr_in6 *inet6 = (struct sockaddr_in6 *)source;
    memset(source, 0, sizeof *source);
    inet6->sin6_family = AF_INET6;
    memcpy(&inet6->sin6_addr, address, sizeof inet6->sin6_addr);
}

/* ---- version 1 ------------------------------------------------------------------- */

/* Takes the next word off the front of *at: up to a single blank, or to the end of the line. */
static const char *take_word(char **at)
{
    char *word = *at;
    char *blank = word == NULL ? NULL : strchr(word, ' ');
    if (blank != NULL)
        *blank = '\0';
    *at = blank == NULL ? NULL : blank + 1;
    return word == NULL || *word == '\0' ? NULL : word;
}

static bool is_port(const char *word)
{
    size_t size = word == NULL ? 0 : strlen(word);
    if (size == 0 || size > 5 || strspn(word, "0123456789") != size || (size > 1 && *word == '0'))
        return false;
    return strtoul(word, NULL, 10) <= 65535;
}

static int parse_addresses(char *at, int family, struct sockaddr_storage *source)
{
    uint8_t from[16], to[16];
    const char *words[4];
    for (size_t i = 0; i < 4; i++)
        words[i] = take_word(&at);
    if (at != NULL || words[0] == NULL || words[1] == NULL || !is_port(words[2]) ||
        !is_port(words[3]) || inet_pton(family, words[0], from) != 1 ||
        inet_pton(family, words[1], to) != 1)
        return -EPROTO;
    if (family == AF_INET)
        set_inet(source, from);
    else
        set_inet6(source, from);
    return 0;
}

/* text: what follows `PROXY `, without the end of the line. */
static int parse_version_1(char *text, struct sockaddr_storage *source, bool *own)
{
    if (strncmp(text, "TCP4 ", 5) == 0)
        return parse_addresses(text + 5, AF_INET, source);
    if (strncmp(text, "TCP6 ", 5) == 0)
        return parse_addresses(text + 5, AF_INET6, source);
    *own = strncmp(text, "UNKNOWN", 7) == 0 && (text[7] == '\0' || text[7] == ' ');
    return *own ? 0 : -EPROTO;
}

static int read_version_1(
    const struct greeting *greeting, struct sockaddr_storage *source, bool *own)
{
    char line[PROXY_LINE_MAX];
    bool more;
    ssize_t size = text_read_line(greeting, line, sizeof line, &more);
    if (size < 0)
        return size == -EMSGSIZE ? -EPROTO : (int)size;
    if (size < 2 || line[size - 2] != '\r' || memchr(line, '\0', (size_t)size) != NULL)
        return -EPROTO;
    line[size - 2] = '\0';
    return parse_version_1(line + sizeof text_start - 1, source, own);
}

/* ---- version 2 ------------------------------------------------------------------- */

static int parse_version_2(
    uint8_t family, const uint8_t *rest, size_t size, struct sockaddr_storage *source, bool *own)
{
    static const size_t sizes[] = {
        [FAMILY_UNSPECIFIED] = 0,
        [FAMILY_INET] = INET_SIZE,
        [FAMILY_INET6] = INET6_SIZE,
        [FAMILY_UNIX] = UNIX_SIZE,
    };
    uint8_t kind = family >> 4;
    if (kind >= sizeof sizes / sizeof sizes[0] || (family & 0xf) > TRANSPORT_MAX ||
        size < sizes[kind])
        return -EPROTO;
    if (kind == FAMILY_UNSPECIFIED)
        *own = true;
    else if (kind == FAMILY_INET)
        set_inet(source, rest);
    else if (kind == FAMILY_INET6)
        set_inet6(source, rest);
    else
        memset(source, 0, sizeof *source);
    return 0;
}

static int read_version_2(
    const struct greeting *greeting, struct sockaddr_storage *source, bool *own)
{
    uint8_t header[HEAD_SIZE + PROXY_REST_MAX];
    int error = greeting_await(greeting, header, HEAD_SIZE);
    if (error != 0)
        return error;
    uint8_t command = header[SIGNATURE_SIZE], family = header[SIGNATURE_SIZE + 1];
    size_t size = (size_t)header[SIGNATURE_SIZE + 2] << 8 | header[SIGNATURE_SIZE + 3];
    if ((command != COMMAND_LOCAL && command != COMMAND_PROXY) || size > PROXY_REST_MAX)
        return -EPROTO;
    error = greeting_await(greeting, header, HEAD_SIZE + size);
    if (error == 0)
        error = greeting_read(greeting, header, HEAD_SIZE + size);
    if (error != 0)
        return error;
    *own = command == COMMAND_LOCAL;
    return *own ? 0 : parse_version_2(family, header + HEAD_SIZE, size, source, own);
}

/* ---- either version -------------------------------------------------------------- */

static bool begins_as(const uint8_t *bytes, size_t count, const void *start, size_t size)
{
    return memcmp(bytes, start, count < size ? count : size) == 0;
}

int proxy_read(const struct greeting *greeting, struct sockaddr_storage *source, bool *own)
{
    uint8_t start[SIGNATURE_SIZE];
    *own = false;
    for (size_t known = 0;;) {
        ssize_t count = greeting_peek(greeting, start, sizeof start, known);
        if (count <= 0)
            return count == 0 ? -ECONNRESET : (int)count;
        known = (size_t)count;
        bool text = begins_as(start, known, text_start, sizeof text_start - 1);
        bool binary = begins_as(start, known, signature, sizeof signature);
        if (!text && !binary)
            return -EPROTO;
        if (text && known >= sizeof text_start - 1)
            return read_version_1(greeting, source, own);
        if (binary && known == sizeof signature)
            return read_version_2(greeting, source, own);
    }
}
