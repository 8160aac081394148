/* Unix sockets by their paths: see unix_socket.h. */
#include "base/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int unix_socket_address(const char *path, struct sockaddr_un *ret)
{
    size_t length = strlen(path);
    if (length >= sizeof ret->sun_path)
        return -ENAMETOOLONG;
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, length + 1);
    return 0;
}

int unix_socket_connect(const char *path, int type)
{
    struct sockaddr_un address;
    int error = unix_socket_address(path, &address);
    if (error != 0)
        return error;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    error = -errno;
    close(fd);
    return error;
}
