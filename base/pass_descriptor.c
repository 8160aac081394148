/* Passing descriptors: see pass_descriptor.h. */
#include "base/pass_descriptor.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DESCRIPTORS_MAX = 4, /* room for unexpected ones, which are closed */
};

int pass_descriptor_send(int socket, const void *bytes, size_t size, int descriptor, int flags)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
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
        if (sendmsg(socket, &message, flags) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
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

ssize_t pass_descriptor_receive(
    int socket, void *bytes, size_t size, int flags, int *descriptor, size_t *dropped)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
    } control;
    /* recvmsg() writes there. */
    /* cppcheck-suppress ctuuninitvar */
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes};
    *descriptor = -1;
    ssize_t count = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (count < 0)
        return -errno;
    size_t descriptors = take_descriptors(&message, descriptor);
    if (descriptors <= 1 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
        return count;
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
    *dropped = (size_t)count;
    return descriptors > 0 || (message.msg_flags & MSG_TRUNC) != 0 ? -EBADMSG : -EMFILE;
}
