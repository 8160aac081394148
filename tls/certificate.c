/* The certificate's files: reading them, and noticing a change. */
#include "tls/certificate.h"

#include "base/files.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>

static int read_pem(const char *path, uint8_t *bytes, size_t max, uint32_t *size)
{
    ssize_t count = files_read(path, O_NONBLOCK, bytes, max);
    if (count >= 0) {
        *size = (uint32_t)count;
        return 0;
    }
    errno = (int)-count;
    log_error_errno("cannot read %s", options_shown(path));
    return -1;
}

int certificate_read(const struct options *options, struct certificate *ret)
{
    crypto_generichash_state state;
    *ret = (struct certificate){.chain_size = 0};
    if (read_pem(options->certfile, ret->chain, sizeof ret->chain, &ret->chain_size) < 0 ||
        read_pem(options->keyfile, ret->key, sizeof ret->key, &ret->key_size) < 0) {
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
