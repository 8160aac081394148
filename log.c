/* The log: formats one line and writes it in one piece, so that lines of several
 * processes never mix. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

enum {
    LINE_SIZE = 1024
};

static bool show_debug;
static bool to_journal;

void log_setup(bool debug)
{
    show_debug = debug;
    to_journal = getenv("JOURNAL_STREAM") != NULL;
}

bool log_debugging(void)
{
    return show_debug;
}

__attribute__((format(printf, 2, 0))) static void log_line(
    int priority, const char *format, va_list arguments)
{
    char line[LINE_SIZE];
    int saved_errno = errno;
    int prefix = to_journal ? snprintf(line, sizeof line, "<%d>", priority)
                            : snprintf(line, sizeof line, "relay: ");
    size_t length = (size_t)prefix;
    errno = saved_errno; /* for %m */
    int message = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    if (message > 0)
        length += (size_t)message;
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    /* A log that cannot be written has nowhere to say so. */
    (void)!write(STDERR_FILENO, line, length);
    errno = saved_errno;
}

void log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_ERR, format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_WARNING, format, arguments);
    va_end(arguments);
}

void log_info(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_INFO, format, arguments);
    va_end(arguments);
}

void log_debug(const char *format, ...)
{
    if (!show_debug)
        return;
    va_list arguments;
    va_start(arguments, format);
    log_line(LOG_DEBUG, format, arguments);
    va_end(arguments);
}
