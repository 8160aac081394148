/* The log: formats one line and writes it in one piece, so that lines of several processes never
 * mix. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_SIZE = 1024
};

static bool show_debug;
static bool to_journal;
static bool to_syslog;

/* inetd gives the client's connection as all three standard streams. */
static bool error_is_connection(void)
{
    struct stat in, error;
    return fstat(STDIN_FILENO, &in) == 0 && fstat(STDERR_FILENO, &error) == 0 &&
           S_ISSOCK(error.st_mode) && in.st_dev == error.st_dev && in.st_ino == error.st_ino;
}

static void keep_from_connection(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
        _exit(1); /* rather than tell the client what the log says */
    if (null > STDERR_FILENO)
        close(null);
}

void log_setup(bool debug)
{
    const char *wanted = getenv("RELAY_LOG");
    show_debug = debug;
    to_journal = getenv("JOURNAL_STREAM") != NULL;
    if (error_is_connection()) {
        keep_from_connection();
        to_syslog = true;
    } else if (wanted != NULL && strcmp(wanted, "syslog") == 0) {
        to_syslog = true;
    }
    if (to_syslog) {
        (void)setenv("RELAY_LOG", "syslog", 1); /* for a forwarder started by this process */
        tzset(); /* syslog(3) may not open files any more once in a sandbox */
        closelog();
        openlog("relay", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    }
}

bool log_debugging(void)
{
    return show_debug;
}

__attribute__((format(printf, 3, 0))) static void log_line(
    int priority, bool with_errno, const char *format, va_list arguments)
{
    char line[LINE_SIZE];
    int saved_errno = errno;
    size_t room = sizeof line - 1, length = 0;
    int count = 0;
    if (!to_syslog)
        count =
            to_journal ? snprintf(line, room, "<%d>", priority) : snprintf(line, room, "relay: ");
    length = (size_t)count;
    count = vsnprintf(line + length, room - length, format, arguments);
    if (count > 0)
        length += (size_t)count;
    if (with_errno && length < room) {
        count = snprintf(line + length, room - length, ": %s", strerror(saved_errno));
        length += (size_t)count;
    }
    if (length >= room)
        length = room - 1;
    line[length] = '\0';
    if (to_syslog) {
        syslog(priority, "%s", line);
    } else {
        line[length++] = '\n';
        /* A log that cannot be written has nowhere to say so. */
        (void)!write(STDERR_FILENO, line, length);
    }
    errno = saved_errno;
}

void log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_ERR, false, format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_WARNING, false, format, arguments);
    va_end(arguments);
}

void log_error_errno(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_ERR, true, format, arguments);
    va_end(arguments);
}

void log_warning_errno(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_WARNING, true, format, arguments);
    va_end(arguments);
}

void log_info(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_INFO, false, format, arguments);
    va_end(arguments);
}

void log_debug(const char *format, ...)
{
    if (!show_debug)
        return;
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_DEBUG, false, format, arguments);
    va_end(arguments);
}
