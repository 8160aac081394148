/* The protocols that relay speaks, how to tell them apart, and what greetings share: reading
 * against a deadline, never past what was understood. */
#include "proto.h"

#include "../runtime.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* The order decides where prefixes are alike; the last one takes whatever comes. */
const struct protocol *const protocols[] = {
    &tls_protocol,
    &web_protocol,
    &offset_protocol,
    &p2pcopy_protocol,
    &localfirst_protocol,
    &transit_protocol,
};
const size_t protocol_count = sizeof protocols / sizeof protocols[0];

const struct codec *const codecs[CODEC_KINDS] = {
    [CODEC_PLAIN] = NULL,
    [CODEC_WEBSOCKET] = &websocket_codec,
    [CODEC_CHANNEL] = &channel_codec,
};

enum {
    SNIFF_MAX = 16,      /* longer than any prefix */
    LOW_WATER_PAUSE = 5, /* milliseconds between two peeks, where the kernel cannot wait */
};

static volatile sig_atomic_t interrupted;

void greeting_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

void greeting_resume(void)
{
    interrupted = 0;
}

static int wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd entry = {.fd = fd, .events = events};
    for (;;) {
        int64_t left = deadline - runtime_now();
        if (left <= 0 || interrupted)
            return -ETIMEDOUT;
        int ready = poll(&entry, 1, (int)left);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
    }
}

/* Mostly the bytes are there already. */
static ssize_t peek(int fd, void *buffer, size_t size, int64_t deadline)
{
    for (;;) {
        ssize_t count = recv(fd, buffer, size, MSG_PEEK | MSG_DONTWAIT);
        if (count >= 0)
            return count;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        int error = wait_for(fd, POLLIN, deadline);
        if (error != 0)
            return error;
    }
}

ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size)
{
    return peek(greeting->fd, buffer, size, greeting->deadline);
}

static bool hung_up(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLRDHUP};
    return poll(&entry, 1, 0) > 0;
}

/* Has the kernel wake us only when at least `size` bytes are there; it does so for TCP. */
static void set_low_water(int fd, size_t size)
{
    int low_water = (int)size;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water);
}

/* Where the kernel cannot wait for more than there is, a pause keeps the wait from spinning. */
static void pause_briefly(void)
{
    struct timespec pause = {0, LOW_WATER_PAUSE * 1000000L};
    nanosleep(&pause, NULL);
}

ssize_t greeting_peek_more(const struct greeting *greeting, void *buffer, size_t size, size_t known)
{
    int fd = greeting->fd;
    ssize_t count = peek(fd, buffer, size, greeting->deadline);
    if (known > 0 && count > 0 && (size_t)count <= known)
        set_low_water(fd, known + 1);
    while (count > 0 && (size_t)count <= known) {
        if (hung_up(fd)) {
            count = -ECONNRESET;
            break;
        }
        pause_briefly();
        count = peek(fd, buffer, size, greeting->deadline);
        if (interrupted || runtime_now() >= greeting->deadline)
            count = -ETIMEDOUT;
    }
    if (known > 0)
        set_low_water(fd, 1);
    return count;
}

int greeting_wait(const struct greeting *greeting, short events)
{
    return wait_for(greeting->fd, events, greeting->deadline);
}

int greeting_consume(const struct greeting *greeting, void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(greeting->fd, (char *)buffer + done, size - done, MSG_DONTWAIT);
        if (count == 0)
            return -ECONNRESET;
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0)
            done += (size_t)count;
    }
    return 0;
}

int greeting_read(const struct greeting *greeting, void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(greeting->fd, (char *)buffer + done, size - done, MSG_DONTWAIT);
        if (count == 0)
            return -ECONNRESET;
        if (count < 0 && errno == EAGAIN) {
            int error = wait_for(greeting->fd, POLLIN, greeting->deadline);
            if (error != 0)
                return error;
        } else if (count < 0 && errno != EINTR) {
            return -errno;
        } else if (count > 0) {
            done += (size_t)count;
        }
    }
    return 0;
}

void greeting_say(const struct greeting *greeting, const void *words, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = send(
            greeting->fd, (const char *)words + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0)
            done += (size_t)count;
        else if (errno == EAGAIN && wait_for(greeting->fd, POLLOUT, greeting->deadline) == 0)
            continue;
        else if (errno != EINTR)
            return; /* a client that is gone needs no words */
    }
}

/* How many bytes of `head` begin the protocol's prefix, or -1 when they do not. */
static int prefix_match(const struct protocol *protocol, const uint8_t *head, size_t size)
{
    size_t common = size < protocol->prefix_size ? size : protocol->prefix_size;
    return common == 0 || memcmp(head, protocol->prefix, common) == 0 ? (int)common : -1;
}

/* The first protocol that `head` begins as whole; *undecided if more bytes may yet tell. */
static const struct protocol *find_protocol(
    const uint8_t *head, size_t size, uint8_t *index, bool *undecided)
{
    for (size_t i = 0; i < protocol_count; i++) {
        int common = protocols[i]->greet == NULL ? -1 : prefix_match(protocols[i], head, size);
        if (common < 0)
            continue;
        *undecided = (size_t)common < protocols[i]->prefix_size;
        *index = (uint8_t)i;
        return protocols[i];
    }
    *undecided = false;
    return NULL;
}

const struct protocol *protocol_sniff(int fd, int64_t deadline, uint8_t *index)
{
    uint8_t head[SNIFF_MAX];
    const struct protocol *protocol = NULL;
    ssize_t known = 0;
    for (;;) {
        ssize_t count = peek(fd, head, sizeof head, deadline);
        if (count <= 0)
            break;
        bool undecided;
        protocol = find_protocol(head, (size_t)count, index, &undecided);
        if (!undecided)
            break;
        if (count == known && hung_up(fd)) {
            *index = (uint8_t)(protocol_count - 1);
            protocol = protocols[*index]; /* it will say what half a beginning deserves */
            break;
        }
        if (count == known)
            pause_briefly();
        known = count;
        protocol = NULL;
        set_low_water(fd, (size_t)count + 1);
    }
    if (known > 0)
        set_low_water(fd, 1);
    return protocol;
}

/* ---- words ----------------------------------------------------------------------- */

size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX])
{
    uint8_t buffer[CODEC_HEAD + PROTOCOL_WORDS_MAX];
    struct piece piece = {buffer + CODEC_HEAD, words->size, words->text, true, true};
    struct iovec out = {piece.bytes, piece.size};
    size_t size = 0;
    memcpy(piece.bytes, words->message, words->size);
    if (words->size > 0 && (codec == NULL || codec->encode(state, &piece, now, &out) == 0)) {
        memcpy(speech, out.iov_base, out.iov_len);
        size = out.iov_len;
    }
    if (closing && codec != NULL)
        size += codec->farewell(state, words->code, words->reason, speech + size);
    return size;
}
