/* A message through relay's own reader and writer: packed on standard input, packed on standard
 * output. Its padding, which the reader skips, becomes the three bytes of "pad".
 *
 *      capnp_tool STRUCT */
#include "codec/capnp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MESSAGE_MAX = 2 << 20,
};

static uint8_t input[MESSAGE_MAX], unpacked[MESSAGE_MAX], output[CAPNP_DATA_MAX(MESSAGE_MAX)];
static const struct capnp_scratch scratch = {unpacked, sizeof unpacked};

/* Each returns the size of its output, or 0 when the input is refused. */

static size_t pass_init_connection(size_t size)
{
    struct init_connection init;
    return capnp_read_init_connection(scratch, input, size, &init) == 0
               ? capnp_write_init_connection(&init, output)
               : 0;
}

static size_t pass_connection_key(size_t size)
{
    struct connection_key key;
    return capnp_read_connection_key(scratch, input, size, &key) == 0
               ? capnp_write_connection_key(&key, output)
               : 0;
}

static size_t pass_ka_message(size_t size)
{
    struct ka_message ka;
    return capnp_read_ka_message(scratch, input, size, &ka) == 0
               ? capnp_write_ka_message(&ka, output)
               : 0;
}

static size_t pass_exchange_rand_nonce(size_t size)
{
    struct exchange_rand_nonce exchange;
    return capnp_read_exchange_rand_nonce(scratch, input, size, &exchange) == 0
               ? capnp_write_exchange_rand_nonce(&exchange, output)
               : 0;
}

static size_t pass_exchange_dh(size_t size)
{
    struct exchange_dh exchange;
    return capnp_read_exchange_dh(scratch, input, size, &exchange) == 0
               ? capnp_write_exchange_dh(&exchange, output)
               : 0;
}

static size_t pass_channel_message(size_t size)
{
    struct channel_message channel;
    if (capnp_read_channel_message(scratch, input, size, &channel) != 0)
        return 0;
    channel.padding = (const uint8_t *)"pad";
    channel.padding_size = 3;
    return capnp_write_channel_message(&channel, output);
}

static const struct {
    const char *name;
    size_t (*pass)(size_t size);
} structs[] = {
    {"InitConnection", pass_init_connection},
    {"IncomingConnection", pass_connection_key},
    {"RejectConnection", pass_connection_key},
    {"KaMessage", pass_ka_message},
    {"ExchangeRandNonce", pass_exchange_rand_nonce},
    {"ExchangeDh", pass_exchange_dh},
    {"ChannelMessage", pass_channel_message},
};

int main(int argc, char **argv)
{
    size_t size = fread(input, 1, sizeof input, stdin);
    for (size_t i = 0; argc == 2 && i < sizeof structs / sizeof structs[0]; i++) {
        if (strcmp(structs[i].name, argv[1]) != 0)
            continue;
        size_t written = structs[i].pass(size);
        if (written > 0 && fwrite(output, 1, written, stdout) == written && fflush(stdout) == 0)
            return EXIT_SUCCESS;
        (void)fputs("capnp_tool: the message is refused\n", stderr);
        return EXIT_FAILURE;
    }
    (void)fputs("usage: capnp_tool STRUCT\n", stderr);
    return 2;
}
