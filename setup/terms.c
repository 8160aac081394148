/* The terms of a connection: see terms.h. */
#include "setup/terms.h"

#include "base/clock.h"

#include <sodium.h>
#include <string.h>

enum {
    SECONDS_MAX = 365 * 86400,
};

/* 0: nothing is recorded. */
static uint64_t hash_records(const struct usage_options *usage)
{
    uint8_t bytes[crypto_generichash_BYTES_MIN];
    uint64_t hash;
    crypto_generichash_state state;
    if (!usage_wanted(usage))
        return 0;
    (void)crypto_generichash_init(&state, NULL, 0, sizeof bytes);
    (void)crypto_generichash_update(&state, (const uint8_t *)&usage->log_fd, sizeof usage->log_fd);
    (void)crypto_generichash_update(&state, (const uint8_t *)&usage->blur, sizeof usage->blur);
    if (usage->database != NULL)
        (void)crypto_generichash_update(
            &state, (const uint8_t *)usage->database, strlen(usage->database));
    (void)crypto_generichash_final(&state, bytes, sizeof bytes);
    memcpy(&hash, bytes, sizeof hash);
    return hash;
}

struct terms terms_of(const struct options *options)
{
    return (struct terms){
        .since = clock_steady(),
        .session_bytes = options->session_bytes,
        .records = hash_records(&options->usage),
        .wait_timeout = options->wait_timeout,
        .linger = options->linger,
        .idle_timeout = options->idle_timeout,
        .debug = options->debug,
    };
}

static bool is_time(int32_t seconds, int32_t min)
{
    return seconds >= min && seconds <= SECONDS_MAX;
}

bool terms_are_sound(const struct terms *terms)
{
    return is_time(terms->wait_timeout, 1) && is_time(terms->linger, 0) &&
           is_time(terms->idle_timeout, 0) && terms->debug <= 1;
}

bool terms_agree(const struct terms *a, const struct terms *b)
{
    return a->session_bytes == b->session_bytes && a->records == b->records &&
           a->wait_timeout == b->wait_timeout && a->linger == b->linger &&
           a->idle_timeout == b->idle_timeout && a->debug == b->debug;
}
