/* The user that root becomes, and that owns the files which root makes. */
#ifndef RELAY_USER_H
#define RELAY_USER_H

#include "setup/options.h"

#include <stdbool.h>
#include <sys/types.h>

struct user {
    const char *name;
    uid_t uid;
    gid_t gid;
};

/* By name or number; a number need not have a name. 0, or -1: there is no such user. */
int user_look_up(const char *name, struct user *user);

/* The user of --user, else `relay`, else `nobody`. Root itself, if --user names it, or if --user is
 * not given and root cannot become another user. 0, or -1: there is no such user. */
int user_choose(const struct options *options, struct user *user);
/* The same, but logs that there is no such user. */
int user_find(const struct options *options, struct user *user);

/* Makes root act as the user, until user_put_off(). *gid: root's group, for user_put_off(). False:
 * it could not become the user, but user_put_off() has to be called all the same. */
bool user_put_on(const struct user *user, gid_t *gid);
void user_put_off(gid_t gid);

/* Becomes that user for good, if this process is root. 0, or -1 (logged). */
int user_drop_root(const struct options *options);

#endif
