/* The log: one line per event on standard error, with the priority prefix of
 * sd-daemon(3) where the journal reads it. Nothing secret is ever logged; addresses of
 * clients only at debug level. All functions keep errno, and understand %m. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>

/* Shows debug messages as well; the journal prefix is chosen by $JOURNAL_STREAM. */
void log_setup(bool debug);

/* Whether debug messages are shown; to save the work of preparing one. */
bool log_debugging(void);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);

#endif
