/* The runtime directory and what a process may do once it has it: see runtime.h. */
#include "setup/runtime.h"
#include "setup/user.h"

#include "base/log.h"
#include "base/process.h"
#include "base/unix_socket.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int check_directory(const char *path, uid_t owner)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        log_error_errno("cannot use the runtime directory %s", path);
        return -1;
    }
    if (!S_ISDIR(status.st_mode) || (status.st_mode & 022) != 0 ||
        (status.st_uid != owner && status.st_uid != 0)) {
        log_error("cannot use the runtime directory %s: it must be a directory that only its "
                  "user may write to",
            path);
        return -1;
    }
    return 0;
}

/* Where a file system cannot rename without replacing, a directory may replace an empty one: it can
 * only be one that was made for the same user just now. */
static int give_name(const char *fresh, const char *path)
{
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -errno;
    if (rename(fresh, path) == 0)
        return 0;
    return errno == ENOTEMPTY ? -EEXIST : -errno;
}

/* Root makes it under another name and gives it away before it has its own: whoever comes at the
 * same time finds none, or one that is usable. */
static int make_directory_for(const char *path, const struct user *user)
{
    char fresh[PATH_MAX];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    int count = snprintf(fresh, sizeof fresh, "%.*s.XXXXXX", (int)length, path);
    if (count < 0 || (size_t)count >= sizeof fresh)
        return -ENAMETOOLONG;
    if (mkdtemp(fresh) == NULL)
        return -errno;
    int error = lchown(fresh, user->uid, user->gid) < 0 ? -errno : give_name(fresh, path);
    if (error == 0)
        return 0;
    (void)rmdir(fresh);
    return error;
}

/* user: NULL when not root. 0 also when something is there already. */
static int make_directory_at(const char *path, const struct user *user)
{
    struct stat status;
    if (lstat(path, &status) == 0)
        return 0;
    if (user == NULL)
        return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
    int error = make_directory_for(path, user);
    return error == -EEXIST ? 0 : error;
}

/* An entry that is no directory's own, NULL: there is no other. */
static const struct dirent *next_entry(DIR *list)
{
    const struct dirent *entry;
    do
        entry = readdir(list);
    while (entry != NULL && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

/* The user could not use a directory that was made for nobody, when there was no such user yet, or
 * one that is root's and has nothing in it, as it was mounted for us. */
static bool is_to_be_given(DIR *list, const struct user *user, uid_t *owner)
{
    struct user nobody;
    struct stat status;
    if (fstat(dirfd(list), &status) < 0 || status.st_uid == user->uid)
        return false;
    *owner = status.st_uid;
    if (status.st_uid == 0)
        return (status.st_mode & 022) == 0 && next_entry(list) == NULL;
    return user_look_up("nobody", &nobody) == 0 && status.st_uid == nobody.uid;
}

/* What is looked at is what is given, whatever its name stands for by then: its owner may still do
 * with it as he likes. */
static int give_file(int directory, const char *name, uid_t owner, const struct user *user)
{
    struct stat status;
    int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    bool ours = fstat(fd, &status) == 0 && status.st_uid == owner && status.st_nlink == 1 &&
                (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode));
    int error = ours && fchownat(fd, "", user->uid, user->gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
    close(fd);
    return error;
}

/* The directory comes last: whoever finds that it is the user's can use all of it. */
static int give_all(DIR *list, uid_t owner, const struct user *user)
{
    const struct dirent *entry;
    int error = 0;
    rewinddir(list);
    while (error == 0 && (entry = next_entry(list)) != NULL)
        error = give_file(dirfd(list), entry->d_name, owner, user);
    if (error == 0 && fchown(dirfd(list), user->uid, user->gid) < 0)
        error = -errno;
    return error;
}

/* NULL: it is none, or a link to one. */
static DIR *open_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL && fd >= 0)
        close(fd);
    return list;
}

/* As root. What is not for the user is left as it is. */
static void give_directory(const char *path, const struct user *user)
{
    uid_t owner;
    DIR *list = open_directory(path);
    if (list == NULL)
        return;
    if (is_to_be_given(list, user, &owner)) {
        int error = give_all(list, owner, user);
        errno = -error;
        if (error == 0)
            log_debug("gave the directory %s to user %s", path, user->name);
        else
            log_warning_errno("cannot give the directory %s to user %s", path, user->name);
    }
    closedir(list);
}

bool runtime_is_to_be_given(const struct options *options, const char *path)
{
    uid_t owner;
    struct user user;
    if (geteuid() != 0 || user_choose(options, &user) < 0)
        return false;
    DIR *list = open_directory(path);
    bool given = list != NULL && is_to_be_given(list, &user, &owner);
    if (list != NULL)
        closedir(list);
    return given;
}

static int make_directory(const char *path, const struct user *user)
{
    int error = make_directory_at(path, user);
    if (error == 0 && user != NULL)
        give_directory(path, user);
    if (error == 0)
        return check_directory(path, user == NULL ? geteuid() : user->uid);
    errno = -error;
    log_error_errno("cannot make the runtime directory %s", path);
    return -1;
}

static int set_path(char *path, size_t size, const char *directory, const char *name)
{
    int length = snprintf(path, size, "%s/%s", directory, name);
    if (length >= 0 && (size_t)length < size)
        return 0;
    log_error("cannot use the runtime directory %s: its name is too long for a Unix socket in it",
        directory);
    return -1;
}

int runtime_paths(const struct options *options, struct runtime *runtime)
{
    const char *directory = options->runtime_directory;
    if (set_path(runtime->table, sizeof runtime->table, directory, "table") < 0 ||
        set_path(runtime->socket, sizeof runtime->socket, directory, "forward.sock") < 0 ||
        set_path(runtime->forward_lock, sizeof runtime->forward_lock, directory, "forward.lock") <
            0 ||
        set_path(runtime->users_lock, sizeof runtime->users_lock, directory, "users.lock") < 0)
        return -1;
    return 0;
}

int runtime_prepare(const struct options *options, struct runtime *runtime)
{
    struct user found = {.uid = 0}, *user = geteuid() == 0 ? &found : NULL;
    if (runtime_paths(options, runtime) < 0 || (user != NULL && user_find(options, user) < 0) ||
        make_directory(options->runtime_directory, user) < 0)
        return -1;
    return 0;
}

/* The directory is the user's, so it is not for root to open a file there. */
void runtime_share_log(const struct options *options)
{
    gid_t gid = 0;
    char path[PATH_MAX];
    struct user user;
    bool root = geteuid() == 0;
    int length = snprintf(path, sizeof path, "%s/repeats", options->runtime_directory);
    if (length < 0 || (size_t)length >= sizeof path || (root && user_choose(options, &user) < 0))
        return;
    if (!root || user_put_on(&user, &gid))
        log_share(path);
    if (root)
        user_put_off(gid);
}

int runtime_prepare_state(const struct options *options)
{
    char path[PATH_MAX];
    struct user found = {.uid = 0}, *user = geteuid() == 0 ? &found : NULL;
    if (user != NULL && user_find(options, user) < 0)
        return -EINVAL;
    size_t length = strlen(options->state_directory);
    for (size_t end = 1; end <= length && length < sizeof path; end++) {
        if (options->state_directory[end] != '/' && end != length)
            continue;
        memcpy(path, options->state_directory, end);
        path[end] = '\0';
        int error = make_directory_at(path, user);
        if (error != 0)
            return error;
    }
    if (user != NULL)
        give_directory(options->state_directory, user);
    return 0;
}

int runtime_lock(const char *path, bool shared, bool wait)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int operation = (shared ? LOCK_SH : LOCK_EX) | (wait ? 0 : LOCK_NB);
    while (flock(fd, operation) < 0) {
        if (errno == EINTR)
            continue;
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

bool runtime_holds(const char *path, int lock)
{
    struct stat held, there;
    return fstat(lock, &held) == 0 && lstat(path, &there) == 0 && held.st_dev == there.st_dev &&
           held.st_ino == there.st_ino;
}

static const char *table_fault(int error)
{
    switch (error) {
    case -EPROTO:
        return "it is the table of another version of relay";
    case -EBADMSG:
        return "it is damaged";
    case -ESTALE:
        return "it was left from before the machine was started, or given up";
    case -ENOMEM:
        return "its file system has no space left for it";
    default:
        return strerror(-error);
    }
}

/* Nobody can use what is there, so it makes place for another. */
static int replace_table(
    const struct options *options, const char *path, int fault, struct pair_table **table)
{
    log_warning("making the table %s anew: %s", path, table_fault(fault));
    int error = pair_discard(path);
    return error == 0 ? pair_open(path, options->limits.connections, table) : error;
}

int runtime_open_table(const struct options *options, const struct runtime *runtime, bool alone,
    struct pair_table **table)
{
    const char *path = runtime->table;
    int error = pair_open(path, options->limits.connections, table);
    bool in_use = error == -EPROTO && !alone && runtime_has_forwarder(runtime);
    if (error == -EBADMSG || error == -ESTALE || (error == -EPROTO && !in_use))
        error = replace_table(options, path, error, table);
    if (error == 0)
        return 0;
    log_error("cannot open the table %s: %s%s", path, table_fault(error),
        in_use ? ", whose forwarder runs: stop that first" : "");
    return -1;
}

/* Whether somebody's lock is in the way of such an operation. */
static bool is_locked(const char *path, int operation)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool locked = flock(fd, operation | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    close(fd);
    return locked;
}

bool runtime_has_forwarder(const struct runtime *runtime)
{
    return is_locked(runtime->forward_lock, LOCK_SH);
}

/* One byte, if it was. */
int runtime_note_origin(int forward_lock, bool on_demand)
{
    return ftruncate(forward_lock, on_demand ? 1 : 0) == 0 ? 0 : -errno;
}

enum runtime_life runtime_look(const struct runtime *runtime)
{
    struct stat status;
    int socket =
        unix_socket_connect(runtime->socket, SOCK_DGRAM); /* systemd's, for one, is always there */
    if (socket >= 0)
        close(socket);
    if (socket >= 0 || runtime_has_forwarder(runtime) || is_locked(runtime->users_lock, LOCK_EX))
        return RUNTIME_ALIVE;
    return stat(runtime->forward_lock, &status) == 0 && status.st_size > 0 ? RUNTIME_AT_REST
                                                                           : RUNTIME_DEAD;
}
