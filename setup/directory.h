/* Making the directories that relay needs; as root, giving them to the user that it becomes. */
#ifndef RELAY_DIRECTORY_H
#define RELAY_DIRECTORY_H

#include "setup/user.h"

#include <stdbool.h>

/* Makes a directory (mode 0700), unless there is something at its path. user: its owner; NULL: this
 * process's user. 0 or a negative errno. */
int directory_make(const char *path, const struct user *user);

/* As root: whether a directory is to be given to the user: it is root's and empty, or it was made
 * for the user nobody before the user existed. */
bool directory_is_to_be_given(const char *path, const struct user *user);
/* As root: gives such a directory, and the files in it, to the user. Does nothing to others. Logs
 * what fails. */
void directory_give(const char *path, const struct user *user);

#endif
