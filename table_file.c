/* The table's file: making, mapping, checking, retiring and removing it; and what happens when it
 * is truncated. See table.h. */
#include "table.h"

#include "base/clock.h"
#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "relaytbl";

enum {
    CAPACITY_MAX = 1 << 22,
    SLOTS_PER_BUCKET = 16, /* when the table is full */
};

/* ---- is it still the table? ------------------------------------------------------ */

bool table_is_intact(const struct pair_table *table)
{
    const struct table_header *header = table->header;
    return !table->lost && memcmp(header->magic, magic, sizeof magic) == 0 &&
           header->version == TABLE_VERSION && header->id == table->id &&
           header->capacity == table->capacity;
}

bool table_is_usable(const struct pair_table *table)
{
    return table_is_intact(table) &&
           atomic_load_explicit(&table->header->retired, memory_order_relaxed) == 0;
}

int pair_check(const struct pair_table *table)
{
    struct stat status;
    if (fstatat(AT_FDCWD, table->path, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || errno == ENOTDIR ? -ENOENT : 0; /* not known */
    if (status.st_dev != table->device || status.st_ino != table->inode)
        return -ESTALE;
    if (status.st_size < 0 || (uint64_t)status.st_size != table->size)
        return -EBADMSG;
    return table_is_usable(table) ? 0 : -EBADMSG;
}

void pair_retire(struct pair_table *table)
{
    atomic_store(&table->header->retired, 1);
}

/* The tables that this process has mapped. */
static struct pair_table *mapped;

/* The handler of SIGBUS: the file was truncated, and this memory of it is gone. Zeros take its
 * place, so that the code that reads it comes to an end and finds the table lost. */
static void replace_lost_memory(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    (void)context;
    for (struct pair_table *table = mapped; table != NULL; table = table->next) {
        if (at - (uintptr_t)table->header >= table->size)
            continue;
        table->lost = 1;
        if (mmap(table->header, table->size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        errno = error;
        return;
    }
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    (void)sigaction(signal, &fallback, NULL); /* the fault comes again, and ends this process */
    errno = error;
}

static int catch_lost_memory(void)
{
    static bool watching;
    struct sigaction action = {.sa_sigaction = replace_lost_memory, .sa_flags = SA_SIGINFO};
    if (!watching && sigaction(SIGBUS, &action, NULL) < 0)
        return -errno;
    watching = true;
    return 0;
}

/* ---- the file -------------------------------------------------------------------- */

struct layout {
    size_t key_buckets, source_buckets, slots, size;
    uint32_t buckets;
};

static struct layout layout_for(uint32_t capacity)
{
    struct layout layout = {.buckets = TABLE_STRIPES};
    while (layout.buckets < capacity / SLOTS_PER_BUCKET)
        layout.buckets *= 2;
    size_t align = 4096;
    layout.key_buckets = (sizeof(struct table_header) + align - 1) / align * align;
    layout.source_buckets = layout.key_buckets + layout.buckets * sizeof(slot_link);
    layout.slots = layout.source_buckets + layout.buckets * sizeof(slot_link);
    layout.slots = (layout.slots + align - 1) / align * align;
    layout.size = layout.slots + capacity * sizeof(struct slot);
    return layout;
}

static int64_t uptime(void)
{
    return clock_steady() / 1000;
}

/* The kernel's boot_id, read once, before the sandbox. Empty where there is no /proc. */
static const char *this_boot(void)
{
    static char boot[TABLE_BOOT_SIZE];
    static bool asked;
    if (asked)
        return boot;
    asked = true;
    ssize_t size = files_read("/proc/sys/kernel/random/boot_id", 0, boot, sizeof boot - 1);
    boot[size > 0 ? size : 0] = '\0';
    return boot;
}

/* Times and process ids in a table mean something only in the boot that it was made in. */
static bool is_of_another_boot(const struct table_header *header)
{
    const char *boot = this_boot();
    if (header->uptime > uptime())
        return true;
    return boot[0] != '\0' && header->boot[0] != '\0' &&
           memcmp(boot, header->boot, TABLE_BOOT_SIZE) != 0;
}

static int init_header(struct table_header *header, uint32_t capacity, const struct layout *layout)
{
    header->version = TABLE_VERSION;
    header->capacity = capacity;
    header->buckets = layout->buckets;
    header->slot_size = sizeof(struct slot);
    header->file_size = layout->size;
    header->created = clock_epoch();
    header->uptime = uptime();
    memcpy(header->boot, this_boot(), sizeof header->boot);
    randombytes_buf(&header->id, sizeof header->id);
    randombytes_buf(header->secret, sizeof header->secret);
    int error = table_init_lock(&header->entry);
    for (size_t i = 0; i < TABLE_STRIPES && error == 0; i++)
        error = table_init_lock(&header->stripes[i].lock);
    memcpy(header->magic, magic, sizeof magic);
    return error;
}

static int map_memory(int fd, size_t size, int protection, void **ret)
{
    void *memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    *ret = memory;
    return 0;
}

int table_reserve(int fd, size_t from, size_t size)
{
    while (fallocate(fd, 0, (off_t)from, (off_t)size) < 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return 0;
        if (errno != EINTR)
            return errno == ENOSPC || errno == EDQUOT ? -ENOMEM : -errno;
    }
    return 0;
}

/* Makes the table under a temporary name and links it in place, so that no process sees a part of a
 * table. If another process is faster, its table is as good. */
static int make_file(const char *path, uint32_t capacity)
{
    struct layout layout = layout_for(capacity);
    char temporary[TABLE_PATH_MAX + 16];
    void *memory = NULL;
    int length = snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof temporary)
        return -ENAMETOOLONG;
    (void)unlink(temporary); /* left by a dead process with our process id */
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int error = ftruncate(fd, (off_t)layout.size) == 0 ? 0 : -errno;
    if (error == 0)
        error = table_reserve(fd, 0, layout.slots);
    if (error == 0)
        error = map_memory(fd, layout.size, PROT_READ | PROT_WRITE, &memory);
    if (memory != NULL) {
        error = init_header(memory, capacity, &layout);
        munmap(memory, layout.size);
    }
    if (error == 0)
        error = files_give_name(temporary, path);
    if (error == -EEXIST)
        error = 0;
    (void)unlink(temporary);
    close(fd);
    return error;
}

static int check_table_header(const struct table_header *header, size_t size)
{
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return -EBADMSG;
    if (header->version != TABLE_VERSION || header->slot_size != sizeof(struct slot))
        return -EPROTO;
    if (header->capacity == 0 || header->capacity > CAPACITY_MAX)
        return -EBADMSG;
    struct layout layout = layout_for(header->capacity);
    if (atomic_load(&header->retired) != 0 || is_of_another_boot(header))
        return -ESTALE;
    if (header->file_size != size || layout.size != size || layout.buckets != header->buckets)
        return -EBADMSG;
    return 0;
}

/* Fills in what this process knows of a file that it has mapped; header and path are set. */
static void describe_table(struct pair_table *table, const struct stat *status, int fd)
{
    char *memory = (char *)table->header;
    table->capacity = table->header->capacity;
    struct layout layout = layout_for(table->capacity);
    table->key_buckets = (slot_link *)(memory + layout.key_buckets);
    table->source_buckets = (slot_link *)(memory + layout.source_buckets);
    table->slots = (struct slot *)(memory + layout.slots);
    table->bucket_mask = layout.buckets - 1;
    table->id = table->header->id;
    table->device = status->st_dev;
    table->inode = status->st_ino;
    table->fd = fd;
}

/* The table is listed in `mapped` first, as its file may be truncated while it is checked. */
static int map_and_check(struct pair_table *table, const struct stat *status, int fd)
{
    void *memory = NULL;
    int error = map_memory(fd, table->size, PROT_READ | PROT_WRITE, &memory);
    if (memory == NULL)
        return error;
    table->header = memory;
    table->next = mapped;
    mapped = table;
    error = check_table_header(table->header, table->size);
    if (error == 0) {
        describe_table(table, status, fd);
        error = table_is_usable(table) ? 0 : -EBADMSG;
    }
    if (error == 0)
        return 0;
    mapped = table->next;
    munmap(memory, table->size);
    return error;
}

int pair_map(int fd, const char *path, struct pair_table **ret)
{
    struct stat status;
    struct pair_table *table = NULL;
    int error = table_watch_forks();
    if (error == 0)
        error = catch_lost_memory();
    if (error == 0 && fstat(fd, &status) < 0)
        error = -errno;
    if (error == 0 && (!S_ISREG(status.st_mode) || (uint64_t)status.st_size > SIZE_MAX ||
                          (size_t)status.st_size < sizeof(struct table_header)))
        error = -EBADMSG;
    if (error == 0 && strlen(path) >= TABLE_PATH_MAX)
        error = -ENAMETOOLONG;
    if (error == 0 && (table = calloc(1, sizeof *table)) == NULL)
        error = -ENOMEM;
    if (error == 0) {
        memcpy(table->path, path, strlen(path) + 1);
        table->size = (size_t)status.st_size;
        error = map_and_check(table, &status, fd);
    }
    if (error != 0) {
        free(table);
        close(fd);
        return error;
    }
    *ret = table;
    return 0;
}

/* Never waits, whatever kind of file has taken the table's place. */
static int open_path(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

static int open_file(const char *path, struct pair_table **ret)
{
    int fd = open_path(path);
    return fd < 0 ? fd : pair_map(fd, path, ret);
}

int pair_open_existing(const char *path, struct pair_table **ret)
{
    return open_file(path, ret);
}

int pair_open(const char *path, uint32_t capacity, struct pair_table **ret)
{
    if (capacity == 0 || capacity > CAPACITY_MAX)
        return -EINVAL;
    if (sodium_init() < 0)
        return -ENOSYS;
    int error = open_file(path, ret);
    if (error != -ENOENT)
        return error;
    error = make_file(path, capacity);
    return error == 0 ? open_file(path, ret) : error;
}

/* Called with the file at the path locked, so that of several processes that find it unfit one
 * removes it, and none removes the file that is made after it. */
static int discard_locked(const char *path, int fd)
{
    struct stat opened, named;
    struct pair_table *table;
    if (fstat(fd, &opened) < 0)
        return -errno;
    if (fstatat(AT_FDCWD, path, &named, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (opened.st_ino != named.st_ino || opened.st_dev != named.st_dev)
        return 0;
    if (open_file(path, &table) == 0) {
        pair_close(table);
        return 0;
    }
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int pair_discard(const char *path)
{
    int fd = open_path(path);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    int error = 0;
    while (flock(fd, LOCK_EX) < 0) {
        if (errno != EINTR) {
            error = -errno;
            break;
        }
    }
    if (error == 0)
        error = discard_locked(path, fd);
    close(fd);
    return error;
}

/* Memory of a lost table stays mapped: the C library may hold a lock in it. */
void pair_close(struct pair_table *table)
{
    if (table == NULL)
        return;
    for (struct pair_table **at = &mapped; *at != NULL; at = &(*at)->next) {
        if (*at == table) {
            *at = table->next;
            break;
        }
    }
    if (!table->lost)
        munmap(table->header, table->size);
    close(table->fd);
    free(table);
}

uint64_t pair_id(const struct pair_table *table)
{
    return table->id;
}

int pair_descriptor(const struct pair_table *table)
{
    return table->fd;
}

const char *pair_path(const struct pair_table *table)
{
    return table->path;
}

uint32_t pair_capacity(const struct pair_table *table)
{
    return table->capacity;
}
