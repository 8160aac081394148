/* The user that root becomes, to whom what root makes belongs. */
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

/* By name or number; a number need not be anybody's. -1: there is none. */
int user_look_up(const char *name, struct user *user);

/* The user asked for, else `relay`, else `nobody`; root itself, if it was asked for, or if nobody
 * was asked for and root cannot become anybody else. -1: there is none. */
int user_choose(const struct options *options, struct user *user);
/* The same; logs that there is none. */
int user_find(const struct options *options, struct user *user);

/* Root acts as the user for a while: until user_put_off(), which needs the group that root has. */
bool user_put_on(const struct user *user, gid_t *gid);
void user_put_off(gid_t gid);

/* Gives up root for that user. Does nothing when not root. Logs, returns -1 on failure. */
int user_drop_root(const struct options *options);

#endif
