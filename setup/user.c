/* The user that root becomes: see user.h. */
#include "setup/user.h"

#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int user_look_up(const char *name, struct user *user)
{
    char *end;
    const struct passwd *entry = getpwnam(name);
    *user = (struct user){.name = name};
    if (entry == NULL) {
        errno = 0;
        unsigned long number = strtoul(name, &end, 10);
        if (name[0] < '0' || name[0] > '9' || *end != '\0' || errno != 0 || number >= UINT32_MAX)
            return -1;
        user->uid = user->gid = (uid_t)number;
        entry = getpwuid(user->uid);
    }
    if (entry != NULL) {
        user->uid = entry->pw_uid;
        user->gid = entry->pw_gid;
    }
    return 0;
}

bool user_put_on(const struct user *user, gid_t *gid)
{
    *gid = getegid();
    bool done = setresgid((gid_t)-1, user->gid, (gid_t)-1) == 0;
    return setresuid((uid_t)-1, user->uid, (uid_t)-1) == 0 && done;
}

void user_put_off(gid_t gid)
{
    if (setresuid((uid_t)-1, 0, (uid_t)-1) < 0 || setresgid((gid_t)-1, gid, (gid_t)-1) < 0)
        _exit(EXIT_RUN_TIME); /* a process that is half root must not go on */
}

/* Root cannot without its capabilities, or in a namespace without other users. */
static bool can_become(const struct user *user)
{
    gid_t gid;
    bool can = user_put_on(user, &gid);
    user_put_off(gid);
    return can;
}

int user_choose(const struct options *options, struct user *user)
{
    if (options->user != NULL)
        return user_look_up(options->user, user);
    if (user_look_up("relay", user) < 0 && user_look_up("nobody", user) < 0)
        return -1;
    if (!can_become(user))
        *user = (struct user){.name = "root", .gid = getegid()};
    return 0;
}

int user_find(const struct options *options, struct user *user)
{
    if (user_choose(options, user) == 0)
        return 0;
    log_error("cannot give up root: there is no user %s",
        options->user == NULL ? "relay or nobody" : options->user);
    return -1;
}

/* All privileges of root besides owning its files. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{.effective = 0}};
    return (int)syscall(SYS_capset, &header, none);
}

/* A process that may not give up its groups, as in some namespaces, often has none. */
static int drop_groups(void)
{
    if (setgroups(0, NULL) == 0)
        return 0;
    int error = errno;
    int count = getgroups(0, NULL);
    errno = error;
    return count == 0 ? 0 : -1;
}

int user_drop_root(const struct options *options)
{
    if (geteuid() != 0)
        return 0;
    struct user user;
    if (user_find(options, &user) < 0)
        return -1;
    if (user.uid == 0) {
        if (drop_capabilities() < 0) {
            log_error_errno("cannot give up root's privileges");
            return -1;
        }
        log_repeated(LOG_WARNING, "running as root, without its privileges");
    } else if (drop_groups() < 0 || setresgid(user.gid, user.gid, user.gid) < 0 ||
               setresuid(user.uid, user.uid, user.uid) < 0) {
        log_error_errno("cannot become user %s", user.name);
        return -1;
    }
    return 0;
}
