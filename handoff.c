/* The handoff: see handoff.h. */
#include "handoff.h"

#include "base/pass_descriptor.h"
#include "base/unix_socket.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    FIXED_SIZE = offsetof(struct handoff, session),
    FIRST_FIXED_SIZE = offsetof(struct handoff, session_size) + sizeof(uint32_t), /* version 1 */
    BEHIND_MAX = HANDOFF_SESSION_MAX + HANDOFF_LONG_NAME_MAX,
};

static_assert(sizeof(void *) < 8 || FIRST_FIXED_SIZE == 612, "a field of version 1 has moved");

/* Has room for the longest datagram that is understood. */
struct datagram {
    struct handoff_head head;
    uint8_t rest[FIXED_SIZE + HANDOFF_APPENDED_MAX + BEHIND_MAX];
};

/* ---- the name -------------------------------------------------------------------- */

int handoff_set_name(struct handoff *handoff, const void *name, size_t size)
{
    bool is_long = size > sizeof handoff->name;
    if (size > sizeof handoff->long_name)
        return -EMSGSIZE;
    memcpy(is_long ? handoff->long_name : handoff->name, name, size);
    handoff->long_name_size = is_long ? (uint32_t)size : 0;
    handoff->name_size = is_long ? 0 : (uint16_t)size;
    return 0;
}

const uint8_t *handoff_name(const struct handoff *handoff, size_t *size)
{
    bool is_long = handoff->long_name_size > 0;
    *size = is_long ? handoff->long_name_size : handoff->name_size;
    return is_long ? handoff->long_name : handoff->name;
}

uint16_t handoff_needs(const struct handoff *handoff)
{
    return handoff->long_name_size > 0 ? HANDOFF_NEEDS_LONG_NAME : HANDOFF_NEEDS;
}

/* ---- the socket ------------------------------------------------------------------ */

int handoff_listen(const char *path)
{
    struct sockaddr_un address;
    int error = unix_socket_address(path, &address);
    if (error != 0)
        return error;
    if (unlink(path) < 0 && errno != ENOENT) /* a dead forwarder's: the caller has its lock */
        return -errno;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    mode_t mask = umask(0177);
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        error = -errno;
    umask(mask);
    if (error != 0) {
        close(fd);
        return error;
    }
    return fd;
}

int handoff_connect(const char *path, int timeout)
{
    struct timeval limit = {timeout / 1000, (timeout % 1000) * 1000L};
    int fd = unix_socket_connect(path, SOCK_DGRAM);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

/* -ECONNRESET: a process that shares the descriptor has noticed before this one. */
bool handoff_is_lost(int error)
{
    return error == -ECONNREFUSED || error == -ECONNRESET || error == -ENOTCONN || error == -EPIPE;
}

int handoff_reconnect(int socket, const char *path)
{
    struct sockaddr_un address;
    int error = unix_socket_address(path, &address);
    if (error != 0)
        return error;
    return connect(socket, (const struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

int handoff_send(int socket, const struct handoff *handoff, int descriptor)
{
    struct datagram datagram = {
        .head = {.magic = HANDOFF_MAGIC,
            .version = HANDOFF_VERSION,
            .needs = handoff_needs(handoff),
            .fixed_size = FIXED_SIZE,
            .session_size = handoff->session_size + handoff->long_name_size}};
    if (handoff->session_size > sizeof handoff->session ||
        handoff->long_name_size > sizeof handoff->long_name)
        return -EINVAL;
    size_t size = FIXED_SIZE + handoff->session_size; /* without the unused end of the session */
    memcpy(datagram.rest, handoff, size);
    memcpy(datagram.rest + size, handoff->long_name, handoff->long_name_size);
    size += handoff->long_name_size;
    int error = pass_descriptor_send(
        socket, &datagram, sizeof datagram.head + size, descriptor, MSG_NOSIGNAL);
    sodium_memzero(datagram.rest, size);
    return error == -EAGAIN ? -ETIMEDOUT : error;
}

/* Whether the parts of a datagram are as long as its head says. */
static bool is_whole(const struct datagram *datagram, size_t size)
{
    const struct handoff_head *head = &datagram->head;
    return size >= sizeof *head && head->magic == HANDOFF_MAGIC &&
           head->fixed_size >= FIRST_FIXED_SIZE &&
           head->fixed_size <= FIXED_SIZE + HANDOFF_APPENDED_MAX &&
           head->session_size <= BEHIND_MAX &&
           size == sizeof *head + head->fixed_size + head->session_size;
}

/* Copies the parts of a datagram, of whatever version, to where this version has them. False:
 * session and long name are not as long as the fixed part says. */
static bool unpack(const struct datagram *datagram, struct handoff *handoff)
{
    const struct handoff_head *head = &datagram->head;
    size_t known = head->fixed_size < FIXED_SIZE ? head->fixed_size : FIXED_SIZE;
    const uint8_t *behind = datagram->rest + head->fixed_size;
    size_t long_name_size, session_size;
    memset(handoff, 0, FIXED_SIZE);
    memcpy(handoff, datagram->rest, known);
    long_name_size = handoff->long_name_size;
    if (long_name_size > head->session_size || long_name_size > sizeof handoff->long_name ||
        head->session_size - long_name_size > sizeof handoff->session)
        return false;
    session_size = head->session_size - long_name_size;
    memcpy(handoff->session, behind, session_size);
    memcpy(handoff->long_name, behind + session_size, long_name_size);
    handoff->session_size = (uint32_t)session_size;
    return true;
}

static bool is_well_formed(const struct handoff *handoff, bool with_descriptor)
{
    if (handoff->name_size > sizeof handoff->name ||
        (handoff->records.suite != 0 && !records_are_sound(&handoff->records)))
        return false;
    switch (handoff->kind) {
    case HANDOFF_CONNECTION:
    case HANDOFF_TABLE:
    case HANDOFF_ASK:
        return with_descriptor;
    case HANDOFF_LEAVE:
        return with_descriptor && handoff->server != 0;
    case HANDOFF_LOOK:
    case HANDOFF_RECORD:
        return !with_descriptor;
    default:
        return false;
    }
}

/* Whether a connection is lost when this handoff cannot be used. The other kinds bring none. */
static bool brings_connection(const struct handoff *handoff)
{
    return handoff->kind != HANDOFF_LOOK && handoff->kind != HANDOFF_RECORD &&
           handoff->kind != HANDOFF_TABLE && handoff->kind != HANDOFF_ASK &&
           handoff->kind != HANDOFF_LEAVE;
}

/* fault: what pass_descriptor_receive() says of the descriptors. */
static int read_datagram(const struct datagram *datagram, size_t size, struct handoff *handoff,
    int fault, bool with_descriptor)
{
    int error = fault;
    if (!is_whole(datagram, size))
        return -EBADMSG;
    bool unpacked = unpack(datagram, handoff);
    if (datagram->head.needs > HANDOFF_VERSION)
        error = -EPROTO;
    else if (!unpacked || !is_well_formed(handoff, with_descriptor))
        error = -EBADMSG;
    if (error != 0 && !brings_connection(handoff))
        handoff->ref = PAIR_NONE;
    return error;
}

int handoff_receive(int socket, struct handoff *handoff, int *descriptor)
{
    struct datagram datagram;
    size_t received = 0;
    int fault = 0;
    handoff->ref = PAIR_NONE;
    ssize_t size = pass_descriptor_receive(
        socket, &datagram, sizeof datagram, MSG_DONTWAIT, descriptor, &received);
    if (size == -EMFILE || size == -EBADMSG)
        fault = (int)size;
    else if (size < 0)
        return (int)size;
    else if (size == 0 && *descriptor < 0)
        return -EAGAIN; /* nobody can send any more */
    size_t length = fault == 0 ? (size_t)size : received;
    int error = read_datagram(&datagram, length, handoff, fault, fault != 0 || *descriptor >= 0);
    sodium_memzero(&datagram, length);
    if (error != 0 && *descriptor >= 0) {
        close(*descriptor);
        *descriptor = -1;
    }
    return error;
}
