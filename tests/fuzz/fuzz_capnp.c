/* Offset's messages: any bytes are refused, or are a message whose data lies within the scratch,
 * and which is the same after it is written and read again. The first byte says which message. */
#include "codec/capnp.h"

#include <stdlib.h>
#include <string.h>

enum {
    SCRATCH_SIZE = 65536,
};

static struct capnp_scratch scratch, scratch_again;
static uint8_t written[CAPNP_DATA_MAX(SCRATCH_SIZE)];

static void insist(bool condition)
{
    if (!condition)
        abort();
}

static void expect_data(
    const uint8_t *data, size_t size, const uint8_t *data_again, size_t size_again)
{
    insist(size <= scratch.size);
    insist(
        size == 0 || (data >= scratch.bytes && data - scratch.bytes <= SCRATCH_SIZE - (int)size));
    insist(size == size_again);
    insist(size == 0 || memcmp(data, data_again, size) == 0);
}

static void fuzz_init_connection(const uint8_t *data, size_t size)
{
    struct init_connection init, again;
    if (capnp_read_init_connection(scratch, data, size, &init) != 0)
        return;
    size = capnp_write_init_connection(&init, written);
    insist(capnp_read_init_connection(scratch_again, written, size, &again) == 0);
    insist(memcmp(&init, &again, sizeof init) == 0);
}

static void fuzz_connection_key(const uint8_t *data, size_t size)
{
    struct connection_key key, again;
    if (capnp_read_connection_key(scratch, data, size, &key) != 0)
        return;
    size = capnp_write_connection_key(&key, written);
    insist(capnp_read_connection_key(scratch_again, written, size, &again) == 0);
    insist(memcmp(&key, &again, sizeof key) == 0);
}

static void fuzz_ka_message(const uint8_t *data, size_t size)
{
    struct ka_message ka, again;
    if (capnp_read_ka_message(scratch, data, size, &ka) != 0)
        return;
    size = capnp_write_ka_message(&ka, written);
    if (capnp_read_ka_message(scratch_again, written, size, &again) != 0)
        insist(ka.size > SCRATCH_SIZE - 64); /* with its words around it, it no longer fits */
    else
        expect_data(ka.data, ka.size, again.data, again.size);
}

static void fuzz_exchange_rand_nonce(const uint8_t *data, size_t size)
{
    struct exchange_rand_nonce exchange, again;
    if (capnp_read_exchange_rand_nonce(scratch, data, size, &exchange) != 0)
        return;
    size = capnp_write_exchange_rand_nonce(&exchange, written);
    insist(capnp_read_exchange_rand_nonce(scratch_again, written, size, &again) == 0);
    insist(memcmp(&exchange, &again, sizeof exchange) == 0);
}

static void fuzz_exchange_dh(const uint8_t *data, size_t size)
{
    struct exchange_dh exchange, again;
    if (capnp_read_exchange_dh(scratch, data, size, &exchange) != 0)
        return;
    size = capnp_write_exchange_dh(&exchange, written);
    insist(capnp_read_exchange_dh(scratch_again, written, size, &again) == 0);
    insist(memcmp(&exchange, &again, sizeof exchange) == 0);
}

static void fuzz_channel_message(const uint8_t *data, size_t size)
{
    struct channel_message channel, again;
    if (capnp_read_channel_message(scratch, data, size, &channel) != 0)
        return;
    size = capnp_write_channel_message(&channel, written);
    if (capnp_read_channel_message(scratch_again, written, size, &again) != 0) {
        insist(channel.size > SCRATCH_SIZE - 64);
        return;
    }
    expect_data(channel.data, channel.size, again.data, again.size);
    insist(channel.is_rekey == again.is_rekey);
    insist(memcmp(&channel.rekey, &again.rekey, sizeof channel.rekey) == 0);
}

static void (*const fuzz[])(const uint8_t *data, size_t size) = {
    fuzz_init_connection,
    fuzz_connection_key,
    fuzz_ka_message,
    fuzz_exchange_rand_nonce,
    fuzz_exchange_dh,
    fuzz_channel_message,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (scratch.bytes == NULL) {
        scratch = (struct capnp_scratch){malloc(SCRATCH_SIZE), SCRATCH_SIZE};
        scratch_again = (struct capnp_scratch){malloc(SCRATCH_SIZE), SCRATCH_SIZE};
        insist(scratch.bytes != NULL && scratch_again.bytes != NULL);
    }
    if (size > 0)
        fuzz[data[0] % (sizeof fuzz / sizeof fuzz[0])](data + 1, size - 1);
    return 0;
}
