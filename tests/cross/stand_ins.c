/* What relay wants of the kernel and qemu does not have, for a relay that is run by qemu: it is
 * loaded before the libraries that it stands in for. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    DESCRIPTORS = 1024
};

static bool of_qemu[DESCRIPTORS];

__attribute__((constructor)) static void prepare(void)
{
    /* With SCMP_ACT_KILL_PROCESS; as the filter is never loaded, the kernel need not know it. */
    if (seccomp_api_set(3) != 0)
        abort();
    for (int fd = STDERR_FILENO + 1; fd < DESCRIPTORS; fd++)
        of_qemu[fd] = fcntl(fd, F_GETFD) >= 0;
}

/* Writes down what the filter allows, in $FILTERS, in a file with this process's number. That file
 * is opened once more when it is complete, the last call before the filter holds. */
int seccomp_load(const scmp_filter_ctx filter)
{
    char path[4096];
    const char *directory = getenv("FILTERS");
    if (directory == NULL)
        return 0;
    (void)snprintf(path, sizeof path, "%s/%d", directory, (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int error = seccomp_export_pfc(filter, fd);
    close(fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(fd);
    return error;
}

/* Closes what is not qemu's own. */
int close_range(unsigned int first, unsigned int last, int flags)
{
    (void)flags;
    for (unsigned int fd = first; fd <= last && fd < DESCRIPTORS; fd++)
        if (!of_qemu[fd])
            close((int)fd);
    return 0;
}

/* A lock that stays locked when its owner dies. */
int pthread_mutexattr_setrobust(pthread_mutexattr_t *attributes, int robustness)
{
    (void)attributes;
    (void)robustness;
    return 0;
}
