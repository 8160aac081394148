/* Parting from a client: see parting.h. */
#include "worker/parting.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>

enum {
    PARTING_BYTES = 1 << 16, /* dropped at most */
};

bool parting_drop(int fd, uint32_t *dropped)
{
    char bytes[4096];
    while (*dropped < PARTING_BYTES) {
        ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 && errno == EAGAIN;
        *dropped += (uint32_t)count;
    }
    return false;
}
