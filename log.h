/* The log: one line per event on standard error, with the priority prefix of
 * sd-daemon(3) where the journal reads it. Nothing secret is ever logged; addresses of
 * clients only at debug level. All functions keep errno. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>

/* Chooses where the log goes, and whether debug messages are shown. $JOURNAL_STREAM: with
 * the journal's prefixes. $RELAY_LOG=syslog, or where standard error is the client's own
 * connection (inetd makes it so): to syslog(3), and the client's copies are replaced. */
void log_setup(bool debug);

/* Whether debug messages are shown; to save the work of preparing one. */
bool log_debugging(void);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...);
/* The same, with errno's text behind it. */
__attribute__((format(printf, 1, 2))) void log_error_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);

#endif
