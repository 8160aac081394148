/* Whole small files. A file is created under a temporary name in its own directory, and is then
 * given its name, which fails if that is taken. */
#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ssize_t read_all(int fd, char *bytes, size_t size)
{
    size_t done = 0;
    for (;;) {
        char beyond;
        bool full = done == size;
        ssize_t count = full ? read(fd, &beyond, 1) : read(fd, bytes + done, size - done);
        if (count == 0)
            return (ssize_t)done;
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0 && full)
            return -EFBIG;
        if (count > 0)
            done += (size_t)count;
    }
}

ssize_t files_read(const char *path, int flags, void *bytes, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | flags);
    if (fd < 0)
        return -errno;
    ssize_t count = read_all(fd, bytes, size);
    close(fd);
    return count;
}

int files_check_absent(const char *path)
{
    struct stat status;
    if (lstat(path, &status) == 0)
        return -EEXIST;
    return errno == ENOENT ? 0 : -errno;
}

static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, bytes, size);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0) {
            bytes += count;
            size -= (size_t)count;
        }
    }
    return 0;
}

static int finish_file(int fd, mode_t mode, const void *bytes, size_t size)
{
    int error = write_all(fd, bytes, size);
    if (error == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
        error = -errno;
    if (close(fd) < 0 && error == 0)
        error = -errno;
    return error;
}

/* The directory of `path`, with its slash: empty for the current one. */
static int name_temporary(const char *path, char *name, size_t size)
{
    const char *slash = strrchr(path, '/');
    int directory = slash == NULL ? 0 : (int)(slash - path) + 1;
    int length = snprintf(name, size, "%.*s.relay-XXXXXX", directory, path);
    return length > 0 && (size_t)length < size ? 0 : -ENAMETOOLONG;
}

static bool is_lacking(int error)
{
    return error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL ||
           error == EMLINK || error == EACCES;
}

int files_give_name(const char *temporary, const char *path)
{
    if (link(temporary, path) == 0)
        return 0;
    if (!is_lacking(errno))
        return -errno;
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return 0;
    if (!is_lacking(errno))
        return -errno;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    if (rename(temporary, path) == 0)
        return 0;
    int error = -errno;
    (void)unlink(path); /* our own, and empty */
    return error;
}

int files_create(const char *path, mode_t mode, const void *bytes, size_t size)
{
    char temporary[PATH_MAX];
    if (strlen(path) >= sizeof temporary || name_temporary(path, temporary, sizeof temporary) != 0)
        return -ENAMETOOLONG;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = finish_file(fd, mode, bytes, size);
    if (error == 0)
        error = files_give_name(temporary, path);
    (void)unlink(temporary); /* the file has its own name by now, or is not to be */
    return error;
}
