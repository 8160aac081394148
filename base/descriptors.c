/* Descriptors: see descriptors.h. */
#include "base/descriptors.h"

#include "base/log.h"
#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    DESCRIPTORS_MIN = 64, /* for the own files of a forwarder or a server, and for some pairs */
};

uint64_t descriptors_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        log_error_errno("cannot learn the limit on descriptors");
        return 0;
    }
    uint64_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        log_warning_errno("cannot raise the limit on descriptors");
        limit.rlim_cur = before;
    }
    if (limit.rlim_cur >= DESCRIPTORS_MIN)
        return limit.rlim_cur;
    log_error("cannot serve: a limit of %llu descriptors is too small, expected %d at least "
              "(ulimit -n; LimitNOFILE= of systemd)",
        (unsigned long long)limit.rlim_cur, (int)DESCRIPTORS_MIN);
    return 0;
}

int descriptors_open_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        int nowhere = process_open_null(); /* with the lowest number that is free: this one */
        if (nowhere < 0)
            return -errno;
        if (nowhere != fd)
            return -EBADF;
    }
    return 0;
}

/* How many sockets systemd passes. Their descriptors follow the standard streams. */
static unsigned int count_passed(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (pid == NULL || count == NULL || strtol(pid, NULL, 10) != (long)getpid())
        return 0;
    long number = strtol(count, NULL, 10);
    return number > 0 && number < INT_MAX ? (unsigned int)number : 0;
}

/* Closes all descriptors from `first` on, except a and b, which may be negative. close_range()
 * fails for no such range; a kernel without it leaves all of them open. */
static void close_all_but(unsigned int first, int a, int b)
{
    int kept[] = {a < b ? a : b, a < b ? b : a};
    for (size_t i = 0; i < 2; i++) {
        if (kept[i] < (int)first)
            continue;
        if (kept[i] > (int)first)
            (void)close_range(first, (unsigned int)kept[i] - 1, 0);
        first = (unsigned int)kept[i] + 1;
    }
    (void)close_range(first, ~0U, 0);
}

void descriptors_close_inherited(int a, int b)
{
    close_all_but(STDERR_FILENO + 1 + count_passed(), a, b);
}

void descriptors_close_others(int a, int b)
{
    close_all_but(STDERR_FILENO + 1, a, b);
}
