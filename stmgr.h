/* Offset's commands for identities and tickets, with the options of Offset's own tool: `stmgr
 * COMMAND` or `relay COMMAND`. */
#ifndef RELAY_STMGR_H
#define RELAY_STMGR_H

#include <stdbool.h>
#include <stdio.h>

/* `stmgr`: argv as in main(). Returns the exit status. */
int stmgr_main(int argc, char **argv);

/* `relay COMMAND`: whether there is such a command; runs it (argv[0] is its name) and returns the
 * exit status; lists all commands. */
bool stmgr_has(const char *command);
int stmgr_role(int argc, char **argv);
void stmgr_list(FILE *out, const char *program);

#endif
