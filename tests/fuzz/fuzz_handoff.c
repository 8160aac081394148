/* Datagrams on the forwarder's socket. The first byte says how many descriptors come with one. An
 * accepted handoff is well-formed, a refused handoff names its slot or PAIR_NONE, and no descriptor
 * is left open. */
#include "handoff.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DESCRIPTORS_MAX = 6
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_datagram(int fd, const uint8_t *bytes, size_t size, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
    } control;
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        for (size_t i = 0; i < count; i++)
            memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof fd);
    }
    if (sendmsg(fd, &message, 0) != (ssize_t)size)
        abort();
}

/* The number that the next descriptor would get. */
static int next_descriptor(void)
{
    int fd = dup(STDERR_FILENO);
    if (fd < 0)
        abort();
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct handoff handoff;
    int ends[2], fd;
    if (size < 1 || size > 4 * sizeof handoff)
        return 0;
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) != 0)
        abort();
    int before = next_descriptor();
    send_datagram(ends[0], data + 1, size - 1, data[0] % (DESCRIPTORS_MAX + 1));
    int error = handoff_receive(ends[1], &handoff, &fd);
    if (error == 0) {
        if (handoff.session_size > HANDOFF_SESSION_MAX || handoff.name_size > HANDOFF_NAME_MAX ||
            handoff.long_name_size > HANDOFF_LONG_NAME_MAX ||
            (fd >= 0) != (handoff.kind == HANDOFF_CONNECTION || handoff.kind == HANDOFF_TABLE ||
                             handoff.kind == HANDOFF_ASK || handoff.kind == HANDOFF_LEAVE) ||
            (handoff.kind == HANDOFF_LEAVE && handoff.server == 0))
            abort();
        if (fd >= 0)
            close(fd);
    } else if (fd != -1 || (error != -EBADMSG && error != -EPROTO &&
                               !(error == -EAGAIN && size == 1))) { /* nothing at all is none */
        abort();
    } else if (error != -EAGAIN && !pair_is_none(handoff.ref) &&
               size <= sizeof(struct handoff_head)) {
        abort();
    }
    if (next_descriptor() != before)
        abort();
    close(ends[0]);
    close(ends[1]);
    return 0;
}
