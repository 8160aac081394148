/* The runtime directory: see runtime.h. */
#include "setup/runtime.h"

#include "base/log.h"
#include "base/unix_socket.h"
#include "setup/directory.h"
#include "setup/user.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

bool runtime_is_to_be_given(const struct options *options, const char *path)
{
    struct user user;
    return geteuid() == 0 && user_choose(options, &user) == 0 &&
           directory_is_to_be_given(path, &user);
}

static int make_runtime_directory(const char *path, const struct user *user)
{
    int error = directory_make(path, user);
    if (error == 0 && user != NULL)
        directory_give(path, user);
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
        make_runtime_directory(options->runtime_directory, user) < 0)
        return -1;
    return 0;
}

/* Root does not open files in a directory of another user, so it acts as that user. */
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
        log_share_sums(path);
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
        int error = directory_make(path, user);
        if (error != 0)
            return error;
    }
    if (user != NULL)
        directory_give(options->state_directory, user);
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

/* No process can use the table that is there. */
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

/* Whether another process holds a lock that such an operation would have to wait for. */
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

/* The lock file has one byte if a worker started the forwarder. */
int runtime_note_origin(int forward_lock, bool on_demand)
{
    return ftruncate(forward_lock, on_demand ? 1 : 0) == 0 ? 0 : -errno;
}

enum runtime_life runtime_look(const struct runtime *runtime)
{
    struct stat status;
    int socket = unix_socket_connect(
        runtime->socket, SOCK_DGRAM); /* a socket of systemd's is always there */
    if (socket >= 0)
        close(socket);
    if (socket >= 0 || runtime_has_forwarder(runtime) || is_locked(runtime->users_lock, LOCK_EX))
        return RUNTIME_ALIVE;
    return stat(runtime->forward_lock, &status) == 0 && status.st_size > 0 ? RUNTIME_AT_REST
                                                                           : RUNTIME_DEAD;
}
