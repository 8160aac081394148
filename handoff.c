/* The handoff: one datagram each, sent by workers, received by the forwarder. */
#include "handoff.h"

#include "passing.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* What is sent is the handoff without the unused end of its session. */
static size_t wire_size(const struct handoff *handoff)
{
    return offsetof(struct handoff, session) + handoff->session_size;
}

static int make_address(const char *path, struct sockaddr_un *address)
{
    size_t length = strlen(path);
    if (length >= sizeof address->sun_path)
        return -ENAMETOOLONG;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, path, length + 1);
    return 0;
}

int handoff_listen(const char *path)
{
    struct sockaddr_un address;
    int error = make_address(path, &address);
    if (error != 0)
        return error;
    if (unlink(path) < 0 && errno != ENOENT) /* a dead forwarder's; its lock says that it is dead */
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
    struct sockaddr_un address;
    int error = make_address(path, &address);
    if (error != 0)
        return error;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct timeval limit = {timeout / 1000, (timeout % 1000) * 1000L};
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

int handoff_reconnect(int socket, const char *path)
{
    struct sockaddr_un address;
    int error = make_address(path, &address);
    if (error != 0)
        return error;
    return connect(socket, (const struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

int handoff_send(int socket, const struct handoff *handoff, int descriptor)
{
    if (handoff->session_size > sizeof handoff->session)
        return -EINVAL;
    int error = passing_send(socket, handoff, wire_size(handoff), descriptor, MSG_NOSIGNAL);
    return error == -EAGAIN ? -ETIMEDOUT : error;
}

static bool is_well_formed(const struct handoff *handoff, size_t size, bool with_descriptor)
{
    if (size < offsetof(struct handoff, session) ||
        handoff->session_size > sizeof handoff->session || size != wire_size(handoff) ||
        handoff->name_size > sizeof handoff->name ||
        (handoff->records.suite != 0 && !records_are_sound(&handoff->records)))
        return false;
    switch (handoff->kind) {
    case HANDOFF_CONNECTION:
        return with_descriptor;
    case HANDOFF_LOOK:
    case HANDOFF_RECORD:
        return !with_descriptor;
    default:
        return false;
    }
}

int handoff_receive(int socket, struct handoff *handoff, int *descriptor)
{
    size_t dropped = 0;
    ssize_t size =
        passing_receive(socket, handoff, sizeof *handoff, MSG_DONTWAIT, descriptor, &dropped);
    if (size == -EMFILE)
        return is_well_formed(handoff, dropped, true) ? -EMFILE : -EBADMSG;
    if (size < 0)
        return (int)size;
    if (is_well_formed(handoff, (size_t)size, *descriptor >= 0))
        return 0;
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
    return -EBADMSG;
}
