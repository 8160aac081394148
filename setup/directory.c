/* Making directories, and giving them away: see directory.h. */
#include "setup/directory.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Some file systems cannot rename without replacing. There the directory may replace an empty one,
 * which can only be the one that another process has just made for the same user. */
static int rename_fresh(const char *fresh, const char *path)
{
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -errno;
    if (rename(fresh, path) == 0)
        return 0;
    return errno == ENOTEMPTY ? -EEXIST : -errno;
}

/* Root makes the directory under another name, gives it to the user, and renames it. So another
 * process finds either no directory or one that the user can use. */
static int make_for_user(const char *path, const struct user *user)
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
    int error = lchown(fresh, user->uid, user->gid) < 0 ? -errno : rename_fresh(fresh, path);
    if (error == 0)
        return 0;
    (void)rmdir(fresh);
    return error;
}

int directory_make(const char *path, const struct user *user)
{
    struct stat status;
    if (lstat(path, &status) == 0)
        return 0;
    if (user == NULL)
        return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
    int error = make_for_user(path, user);
    return error == -EEXIST ? 0 : error;
}

/* The next entry besides . and .. ; NULL: there is none. */
static const struct dirent *next_entry(DIR *list)
{
    const struct dirent *entry;
    do
        entry = readdir(list);
    while (entry != NULL && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

/* Two kinds of directory that the user could not use otherwise: one that was made for the user
 * nobody, before the user existed; and an empty one of root's, which was mounted for relay. */
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

/* Checks and gives the same file by one descriptor, as its owner may put another file in its place
 * meanwhile. */
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

/* Gives the directory last, so that once it is the user's, all its files are. */
static int give_files(DIR *list, uid_t owner, const struct user *user)
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

/* NULL: it is no directory, or a symbolic link to one. */
static DIR *open_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL && fd >= 0)
        close(fd);
    return list;
}

void directory_give(const char *path, const struct user *user)
{
    uid_t owner;
    DIR *list = open_directory(path);
    if (list == NULL)
        return;
    if (is_to_be_given(list, user, &owner)) {
        int error = give_files(list, owner, user);
        errno = -error;
        if (error == 0)
            log_debug("gave the directory %s to user %s", path, user->name);
        else
            log_warning_errno("cannot give the directory %s to user %s", path, user->name);
    }
    closedir(list);
}

bool directory_is_to_be_given(const char *path, const struct user *user)
{
    uid_t owner;
    DIR *list = open_directory(path);
    bool given = list != NULL && is_to_be_given(list, user, &owner);
    if (list != NULL)
        closedir(list);
    return given;
}
