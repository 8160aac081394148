/* Creating a file: it appears whole or not at all, and never in place of another. */
#ifndef RELAY_FILES_H
#define RELAY_FILES_H

#include <stddef.h>
#include <sys/types.h>

/* Whether something stands at `path` already: 0 if not, -EEXIST, or another negative errno. Only
 * to fail early: create_file() is what is safe against others who create the same file. */
int create_check(const char *path);

/* Gives the file `temporary` the name `path`, and never in place of another (-EEXIST), as far as
 * its file system goes: by a link, by a rename that does not replace, or by a rename in place of an
 * empty file that it makes first. Returns 0 or a negative errno; the temporary name may be left. */
int create_name(const char *temporary, const char *path);

/* Creates `path` with these bytes and exactly this mode, whatever the umask. Returns 0 or a
 * negative errno (-EEXIST), and in that case leaves nothing behind. */
int create_file(const char *path, mode_t mode, const void *bytes, size_t size);

#endif
