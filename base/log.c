/* The log: formats a line and writes it in one piece, so that lines of several processes never mix;
 * and writes it at once or not at all.
 *
 * Standard error is often shared with other programs, so it is not made non-blocking, and where it
 * is, another program may change that. A pipe or a terminal is instead opened again, which gives a
 * non-blocking open file of this process's own. Where that is impossible (there is no /proc, or the
 * file belongs to another user), each write is made by a call that does not wait. */
#include "base/log.h"

#include "base/clock.h"
#include "base/process.h"
#include "base/repeats.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_SIZE = 1024,
    PREFIX_SIZE = 64, /* before a line: its priority, or what the syslog daemon needs */
};

/* How lines are written without waiting. */
enum sink {
    SINK_FILE, /* a file, or an open file of our own that is non-blocking: write() */
    SINK_SOCKET,
    SINK_PIPE,
    SINK_TERMINAL,
    SINK_SYSLOG, /* the daemon's socket instead of standard error */
};

static const struct sockaddr_un syslog_address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

static bool show_debug;
static bool to_journal;
static bool sum_all;
static bool is_null; /* standard error is /dev/null; other processes write what is summed up */
static enum sink sink;
static int syslog_socket = -1;
static bool cut; /* the last line was written without its end */

/* ---- where it goes --------------------------------------------------------------- */

/* inetd gives the client's connection as all three standard streams. */
static bool error_is_connection(void)
{
    struct stat in, error;
    return fstat(STDIN_FILENO, &in) == 0 && fstat(STDERR_FILENO, &error) == 0 &&
           S_ISSOCK(error.st_mode) && in.st_dev == error.st_dev && in.st_ino == error.st_ino;
}

static bool error_is_null(void)
{
    struct stat error;
    return fstat(STDERR_FILENO, &error) == 0 && S_ISCHR(error.st_mode) &&
           error.st_rdev == makedev(1, 3);
}

/* Some servers like inetd pass the connection as standard input, and /dev/null as standard error.
 */
static bool error_is_null_beside_connection(void)
{
    struct stat in;
    return fstat(STDIN_FILENO, &in) == 0 && S_ISSOCK(in.st_mode) && error_is_null();
}

static void replace_connection(void)
{
    int nowhere = process_open_null();
    if (nowhere < 0 || dup2(nowhere, STDOUT_FILENO) < 0 || dup2(nowhere, STDERR_FILENO) < 0)
        _exit(1); /* rather than write the log to the client */
    if (nowhere > STDERR_FILENO)
        close(nowhere);
}

/* The socket is not connected: each line is sent to the daemon's path, so that a restart of the
 * daemon needs no connect(), which a sandbox does not allow. */
static void use_syslog(void)
{
    (void)setenv("RELAY_LOG", "syslog", 1); /* for a forwarder started by this process */
    tzset();                                /* reads a file, which a sandbox does not allow */
    sink = SINK_SYSLOG;
    syslog_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Replaces standard error by a non-blocking open file of our own. */
static bool reopen_error(void)
{
    int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = dup2(fd, STDERR_FILENO) >= 0;
    close(fd);
    return done;
}

static enum sink find_sink(void)
{
    struct stat status;
    if (fstat(STDERR_FILENO, &status) < 0)
        return SINK_FILE;
    if (S_ISSOCK(status.st_mode))
        return SINK_SOCKET;
    bool pipe = S_ISFIFO(status.st_mode);
    if ((!pipe && !isatty(STDERR_FILENO)) || reopen_error())
        return SINK_FILE;
    return pipe ? SINK_PIPE : SINK_TERMINAL;
}

void log_setup(bool debug)
{
    const char *wanted = getenv("RELAY_LOG");
    bool connection = error_is_connection();
    int saved_errno = errno;
    show_debug = debug;
    to_journal = getenv("JOURNAL_STREAM") != NULL;
    (void)repeats_share(NULL);
    if (syslog_socket >= 0)
        close(syslog_socket);
    syslog_socket = -1;
    if (connection)
        replace_connection();
    if (connection || error_is_null_beside_connection() ||
        (wanted != NULL && strcmp(wanted, "syslog") == 0))
        use_syslog();
    else
        sink = find_sink();
    is_null = sink == SINK_FILE && error_is_null();
    errno = saved_errno;
}

void log_share_sums(const char *path)
{
    int saved_errno = errno;
    (void)repeats_share(path);
    errno = saved_errno;
}

void log_sum_up_all(bool wanted)
{
    sum_all = wanted;
}

bool log_debugging(void)
{
    return show_debug;
}

void log_set_debugging(bool debug)
{
    show_debug = debug;
}

/* ---- writing without waiting ----------------------------------------------------- */

/* vmsplice() puts the page itself into the pipe, so each line needs a page of its own. */
static ssize_t splice_page(const char *line, size_t size)
{
    char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -1;
    memcpy(page, line, size);
    struct iovec part = {.iov_base = page, .iov_len = size};
    ssize_t count = vmsplice(STDERR_FILENO, &part, 1, SPLICE_F_NONBLOCK);
    munmap(page, size);
    return count;
}

/* Older kernels know RWF_NOWAIT for regular files only. */
static ssize_t write_pipe(const char *line, size_t size)
{
    union {
        const char *in;
        void *out;
    } base = {.in = line}; /* the kernel only reads it */
    struct iovec part = {.iov_base = base.out, .iov_len = size};
    ssize_t count = pwritev2(STDERR_FILENO, &part, 1, -1, RWF_NOWAIT);
    if (count < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        count = splice_page(line, size);
    return count;
}

static ssize_t write_terminal(const char *line, size_t size)
{
    struct pollfd entry = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&entry, 1, 0) == 1 && (entry.revents & POLLOUT) != 0)
        return write(STDERR_FILENO, line, size);
    errno = EAGAIN;
    return -1;
}

static ssize_t write_without_waiting(const char *line, size_t size)
{
    switch (sink) {
    case SINK_SOCKET:
        return send(STDERR_FILENO, line, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    case SINK_PIPE:
        return write_pipe(line, size);
    case SINK_TERMINAL:
        return write_terminal(line, size);
    case SINK_SYSLOG:
        return sendto(syslog_socket, line, size, MSG_DONTWAIT | MSG_NOSIGNAL,
            (const struct sockaddr *)&syslog_address, sizeof syslog_address);
    case SINK_FILE:
        break;
    }
    return write(STDERR_FILENO, line, size);
}

/* Writes the part of a line before its text. Returns its size. */
static size_t write_prefix(int priority, char *line)
{
    int count;
    if (sink == SINK_SYSLOG) {
        char date[32] = "";
        struct tm parts;
        time_t now = time(NULL);
        if (localtime_r(&now, &parts) != NULL)
            (void)strftime(date, sizeof date, "%b %e %T", &parts);
        count = snprintf(
            line, PREFIX_SIZE, "<%d>%s relay[%d]: ", LOG_DAEMON | priority, date, (int)getpid());
    } else if (to_journal) {
        count = snprintf(line, PREFIX_SIZE, "<%d>", priority);
    } else {
        count = snprintf(line, PREFIX_SIZE, "relay: ");
    }
    return count < 0 ? 0 : count >= PREFIX_SIZE ? PREFIX_SIZE - 1 : (size_t)count;
}

/* Returns whether the line was written. A part of it counts as written; the next line ends it. */
static bool write_line(int priority, const char *text)
{
    char line[1 + PREFIX_SIZE + LINE_SIZE + 1];
    size_t length = 0;
    if (cut)
        line[length++] = '\n';
    length += write_prefix(priority, line + length);
    size_t size = strnlen(text, LINE_SIZE);
    memcpy(line + length, text, size);
    length += size;
    if (sink != SINK_SYSLOG)
        line[length++] = '\n';
    ssize_t count;
    do
        count = write_without_waiting(line, length);
    while (count < 0 && errno == EINTR);
    if (count <= 0)
        return false;
    cut = sink != SINK_SYSLOG && (size_t)count < length;
    return true;
}

/* ---- lines ----------------------------------------------------------------------- */

/* A count of lost lines is written before the line. */
static void write_single(int priority, const char *text)
{
    (void)repeats_write_due(false, clock_now(), write_line);
    if (!write_line(priority, text))
        repeats_count_lost(1, clock_now());
}

__attribute__((format(printf, 4, 0))) static void log_line(
    int priority, bool repeated, bool with_errno, const char *format, va_list arguments)
{
    char text[LINE_SIZE];
    int saved_errno = errno;
    int count = vsnprintf(text, sizeof text, format, arguments);
    size_t length = count < 0 ? 0 : (size_t)count;
    if (with_errno && length < sizeof text)
        (void)snprintf(text + length, sizeof text - length, ": %s", strerror(saved_errno));
    bool summed = (repeated || sum_all) && !show_debug;
    if (summed && is_null)
        repeats_count(priority, text, clock_now());
    else if (summed)
        repeats_add(priority, text, clock_now(), write_line);
    else
        write_single(priority, text);
    errno = saved_errno;
}

int log_write_sums(bool all)
{
    int saved_errno = errno;
    int next = repeats_write_due(all, clock_now(), write_line);
    errno = saved_errno;
    return next;
}

void log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_ERR, false, false, format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_WARNING, false, false, format, arguments);
    va_end(arguments);
}

void log_error_errno(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_ERR, false, true, format, arguments);
    va_end(arguments);
}

void log_warning_errno(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_WARNING, false, true, format, arguments);
    va_end(arguments);
}

void log_info(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_INFO, false, false, format, arguments);
    va_end(arguments);
}

void log_debug(const char *format, ...)
{
    if (!show_debug)
        return;
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_DEBUG, false, false, format, arguments);
    va_end(arguments);
}

void log_repeated(int priority, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(priority, true, false, format, arguments);
    va_end(arguments);
}

void log_repeated_errno(int priority, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(priority, true, true, format, arguments);
    va_end(arguments);
}
