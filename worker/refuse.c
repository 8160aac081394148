/* Refusing a client: see refuse.h. */
#include "worker/refuse.h"

#include "base/clock.h"
#include "base/log.h"
#include "worker/parting.h"

#include <stdlib.h>

static void say_in_protocol(
    const struct greeting *greeting, enum pair_outcome outcome, enum pair_reason reason)
{
    uint8_t speech[PROTOCOL_SPEECH_MAX];
    const struct codec *codec = codecs[greeting->codec];
    struct words words = greeting->refusal;
    struct budget_account account = {.held = 0};
    void *state = NULL;
    if (words.code == 0)
        protocols[greeting->protocol]->farewell(outcome, reason, &words);
    if (codec != NULL && (state = calloc(1, codec->state_size)) == NULL)
        return;
    if (codec == NULL || codec->open(state, NULL, 0, clock_now(), &account) == 0) {
        size_t size = protocol_speech(codec, state, &words, true, clock_now(), speech);
        greeting_say(greeting, speech, size);
    }
    if (codec != NULL)
        codec->close(state);
    free(state);
}

void refuse_client(
    struct greeting *greeting, enum pair_outcome outcome, enum pair_reason reason, bool known)
{
    if (outcome == PAIR_ERRORY && known)
        log_repeated(LOG_INFO, "refused a connection (%s): %s", protocols[greeting->protocol]->name,
            reason == PAIR_DUPLICATE ? "another connection has its role already"
                                     : "a bad handshake");
    if (known)
        say_in_protocol(greeting, outcome, reason);
    greeting_say_end(greeting);
}

/* Only WebSocket clients can be told that there is no room, and only HTTP clients ask whether there
 * is. From a source that has too many connections, no more is read than has come already. */
enum pair_outcome refuse_newcomer(
    struct greeting *greeting, enum pair_outcome outcome, bool closing)
{
    struct pair_request request = {.rule = PAIR_SIDES};
    struct handoff handoff = {.session_size = 0};
    greeting->full = true;
    greeting->deadline = clock_now() + (outcome == PAIR_SOURCE ? 0 : PARTING_TIME);
    const struct protocol *protocol = protocol_sniff(greeting);
    if ((protocol == protocols[PROTOCOL_WEB] || protocol == protocols[PROTOCOL_TLS]) &&
        protocol->greet(greeting, &request, &handoff) == PAIR_SERVED)
        return PAIR_SERVED;
    if (!closing)
        log_repeated(LOG_INFO, "refused a connection: %s",
            outcome == PAIR_SOURCE ? "its source has as many as one may have"
                                   : "there is no room for more");
    return outcome;
}

bool refuse_in_tls(const struct greeting *greeting)
{
    return greeting->records != NULL && greeting->records->alert != 0 &&
           greeting->records->alert != RECORDS_NO_ALERT;
}
