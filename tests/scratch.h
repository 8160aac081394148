/* For tests with files: a directory of their own, and what was written to standard error. */
#ifndef RELAY_TESTS_SCRATCH_H
#define RELAY_TESTS_SCRATCH_H

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch_directory[64];
static int scratch_log, scratch_error; /* a pipe, which a full disk does not stop */

static void scratch_set_up(void)
{
    int ends[2];
    strcpy(scratch_directory, "/tmp/check-scratch-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(scratch_directory));
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    scratch_log = ends[0];
    scratch_error = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    close(ends[1]);
}

/* A path in the directory, valid until four others were asked for. */
static inline const char *scratch_path(const char *name)
{
    static char paths[4][128];
    static unsigned int next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", scratch_directory, name);
    return path;
}

/* Counts and removes all files in the directory, hidden files too. */
static inline int scratch_files(bool remove)
{
    int count = 0;
    DIR *directory = opendir(scratch_directory);
    ck_assert_ptr_nonnull(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (remove)
            ck_assert_int_eq(unlinkat(dirfd(directory), entry->d_name,
                                 entry->d_type == DT_DIR ? AT_REMOVEDIR : 0),
                0);
    }
    closedir(directory);
    return count;
}

static void scratch_tear_down(void)
{
    (void)dup2(scratch_error, STDERR_FILENO);
    close(scratch_error);
    close(scratch_log);
    (void)scratch_files(true);
    ck_assert_int_eq(rmdir(scratch_directory), 0);
}

static inline void scratch_write(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    close(fd);
}

static inline void scratch_expect(const char *path, const char *text)
{
    char found[2048] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_ge(read(fd, found, sizeof found - 1), 0);
    close(fd);
    ck_assert_str_eq(found, text);
}

static inline void scratch_expect_mode(const char *path, mode_t mode)
{
    struct stat status;
    ck_assert_int_eq(lstat(path, &status), 0);
    ck_assert_uint_eq(status.st_mode, S_IFREG | mode);
    ck_assert_uint_eq(status.st_nlink, 1);
}

/* Exactly one line was written since the last call, and it contains `words`. */
static inline void scratch_expect_line(const char *words)
{
    char text[2048] = "";
    ck_assert_int_gt(read(scratch_log, text, sizeof text - 1), 0);
    ck_assert_msg(strstr(text, words) != NULL, "expected \"%s\" in: %s", words, text);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
}

/* From now on, this process can write no file beyond `size` bytes, as if the disk were full; with
 * RLIM_INFINITY it can again. */
static inline void scratch_limit_files(rlim_t size)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = size == RLIM_INFINITY ? limit.rlim_max : size;
    ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

#endif
