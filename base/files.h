/* Whole small files: reading one, and creating one, which appears whole or not at all, and never in
 * the place of another. */
#ifndef RELAY_FILES_H
#define RELAY_FILES_H

#include <stddef.h>
#include <sys/types.h>

/* Reads the file at `path`, of at most `size` bytes. flags: of open(2), beside those to read;
 * O_NONBLOCK: does not wait for the writer of a FIFO. Returns the file's size; -EFBIG when it is
 * larger, and then the first `size` bytes were read; or another negative errno. */
ssize_t files_read(const char *path, int flags, void *bytes, size_t size);

/* Whether nothing has the name `path`: 0; -EEXIST: something has; or another negative errno. This
 * is only to fail early: files_create() is safe also against others who create the same file. */
int files_check_absent(const char *path);

/* Gives the file `temporary` the name `path`, and never in the place of another file (-EEXIST), as
 * far as the file system can do that: by a link, by a rename that does not replace, or by a rename
 * in the place of an empty file that is made first. Returns 0 or a negative errno; the temporary
 * name may be left. */
int files_give_name(const char *temporary, const char *path);

/* Creates `path` with these bytes and exactly this mode, whatever the umask. Returns 0 or a
 * negative errno (-EEXIST), and in that case leaves nothing behind. */
int files_create(const char *path, mode_t mode, const void *bytes, size_t size);

#endif
