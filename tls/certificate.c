/* The certificate's files: reading them, and noticing that they changed. */
#include "tls/certificate.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

static int fill(int fd, uint8_t *bytes, size_t max, uint32_t *size)
{
    size_t done = 0;
    for (;;) {
        uint8_t beyond;
        bool full = done == max;
        ssize_t count = full ? read(fd, &beyond, 1) : read(fd, bytes + done, max - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            break;
        if (full)
            return -EFBIG;
        done += (size_t)count;
    }
    *size = (uint32_t)done;
    return 0;
}

static int read_file(const char *path, uint8_t *bytes, size_t max, uint32_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int error = fd < 0 ? -errno : fill(fd, bytes, max, size);
    if (fd >= 0)
        close(fd);
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot read %s", options_shown(path));
    return -1;
}

int certificate_read(const struct options *options, struct certificate *ret)
{
    crypto_generichash_state state;
    *ret = (struct certificate){.chain_size = 0};
    if (read_file(options->certfile, ret->chain, sizeof ret->chain, &ret->chain_size) < 0 ||
        read_file(options->keyfile, ret->key, sizeof ret->key, &ret->key_size) < 0) {
        sodium_memzero(ret, sizeof *ret);
        return -1;
    }
    crypto_generichash_init(&state, NULL, 0, sizeof ret->version);
    crypto_generichash_update(&state, (const uint8_t *)&ret->chain_size, sizeof ret->chain_size);
    crypto_generichash_update(&state, ret->chain, ret->chain_size);
    crypto_generichash_update(&state, ret->key, ret->key_size);
    crypto_generichash_final(&state, ret->version, sizeof ret->version);
    sodium_memzero(&state, sizeof state);
    return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool file_changed(const char *path, struct file_stamp *stamp)
{
    struct file_stamp before = *stamp;
    struct stat status;
    if (stat(path, &status) < 0) {
        *stamp = (struct file_stamp){.error = errno};
        return before.error != stamp->error;
    }
    *stamp = (struct file_stamp){.device = status.st_dev,
        .inode = status.st_ino,
        .size = status.st_size,
        .modified = status.st_mtim,
        .changed = status.st_ctim};
    return before.error != 0 || before.device != stamp->device || before.inode != stamp->inode ||
           before.size != stamp->size || !same_time(&before.modified, &stamp->modified) ||
           !same_time(&before.changed, &stamp->changed);
}

bool certificate_changed(const struct options *options, struct certificate_stamp *stamp)
{
    bool chain = file_changed(options->certfile, &stamp->chain);
    bool key = file_changed(options->keyfile, &stamp->key);
    return chain || key;
}
