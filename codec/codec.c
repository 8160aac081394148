/* The codecs, by number. */
#include "codec/codec.h"

const struct codec *const codecs[CODEC_KINDS] = {
    [CODEC_PLAIN] = NULL,
    [CODEC_WEBSOCKET] = &websocket_codec,
    [CODEC_CHANNEL] = &channel_codec,
};
