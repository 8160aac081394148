/* Offset's identity and ticket commands, in the spelling of the tool that they come from: called
 * as `stmgr COMMAND`, or as roles of relay's own, `relay COMMAND`. */
#ifndef RELAY_STMGR_H
#define RELAY_STMGR_H

#include <stdbool.h>
#include <stdio.h>

/* `stmgr`: argv as main() got it. Returns the exit status. */
int stmgr_main(int argc, char **argv);

/* `relay COMMAND`: whether there is such a command; runs it, argv from its name on; lists all. */
bool stmgr_has(const char *command);
int stmgr_role(int argc, char **argv);
void stmgr_list(FILE *out, const char *program);

#endif
