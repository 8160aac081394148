/* The handoff: one datagram each, sent by workers, received by the forwarder. */
#include "handoff.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    DESCRIPTORS_MAX = 4, /* room for more than one, to close what nobody asked for */
};

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
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    (void)unlink(path); /* a dead forwarder's; its lock says that it is dead */
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
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {(void *)(uintptr_t)handoff, wire_size(handoff)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (handoff->session_size > sizeof handoff->session)
        return -EINVAL;
    if (descriptor >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    for (;;) {
        if (sendmsg(socket, &message, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
}

/* Keeps the first descriptor and closes the others. Returns how many there were. */
static size_t take_descriptors(struct msghdr *message, int *descriptor)
{
    size_t count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++, count++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (count == 0)
                *descriptor = fd;
            else
                close(fd);
        }
    }
    return count;
}

static bool is_well_formed(const struct handoff *handoff, size_t size, size_t descriptors)
{
    if (size < offsetof(struct handoff, session) ||
        handoff->session_size > sizeof handoff->session || size != wire_size(handoff) ||
        handoff->name_size > sizeof handoff->name ||
        (handoff->records.suite != 0 && !records_are_sound(&handoff->records)))
        return false;
    switch (handoff->kind) {
    case HANDOFF_CONNECTION:
        return descriptors == 1;
    case HANDOFF_LOOK:
    case HANDOFF_RECORD:
        return descriptors == 0;
    default:
        return false;
    }
}

int handoff_receive(int socket, struct handoff *handoff, int *descriptor)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
    } control;
    struct iovec part = {handoff, sizeof *handoff};
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes};
    *descriptor = -1;
    ssize_t size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0)
        return -errno;
    size_t count = take_descriptors(&message, descriptor);
    bool truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    if (!truncated && is_well_formed(handoff, (size_t)size, count))
        return 0;
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
    /* The kernel drops the descriptor, and tells by this flag, when it has no number for it. */
    return (message.msg_flags & MSG_CTRUNC) != 0 && count == 0 ? -EMFILE : -EBADMSG;
}
