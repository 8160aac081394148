/* The counts in the table: what became of connections, bytes, and slots by their states. */
#include "pair.h"
#include "table.h"

const char *pair_outcome_name(enum pair_outcome outcome)
{
    static const char *const names[PAIR_OUTCOMES] = {"happy", "lonely", "errory", "impatient",
        "redundant", "empty", "full", "crowded", "served"};
    return names[outcome];
}

void pair_count(struct pair_table *table, uint8_t protocol, enum pair_outcome outcome)
{
    if (protocol < PAIR_PROTOCOLS_MAX && outcome < PAIR_OUTCOMES)
        atomic_fetch_add(&table->header->outcomes[protocol][outcome], 1);
}

void pair_count_bytes(struct pair_table *table, uint64_t bytes)
{
    atomic_fetch_add(&table->header->total_bytes, bytes);
}

uint32_t pair_used(const struct pair_table *table)
{
    return table->header->used;
}

static void count_slots(const struct pair_table *table, struct pair_stats *ret)
{
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end; index++) {
        const struct slot *slot = &table->slots[index];
        uint8_t state = slot->state;
        if (state > PAIR_LEAVING)
            continue;
        ret->states[state]++;
        ret->on_porch += state == PAIR_GREETING && slot->place == PAIR_ON_PORCH;
        if (state == PAIR_JOINED)
            ret->incomplete_bytes += atomic_load_explicit(&slot->bytes, memory_order_relaxed);
    }
    ret->states[PAIR_FREE] = table->capacity - ret->used;
}

void pair_stats(struct pair_table *table, struct pair_stats *ret)
{
    struct table_header *header = table->header;
    *ret = (struct pair_stats){
        .capacity = table->capacity,
        .used = header->used,
        .unclaimed = header->unclaimed,
        .total_bytes = atomic_load(&header->total_bytes),
        .created = header->created,
        .repairs = atomic_load(&header->repairs),
        .forwarder = atomic_load(&header->forwarder),
    };
    for (size_t i = 0; i < TABLE_STRIPES; i++)
        ret->tokens += header->stripes[i].tokens;
    for (size_t i = 0; i < PAIR_PROTOCOLS_MAX; i++)
        for (size_t k = 0; k < PAIR_OUTCOMES; k++)
            ret->outcomes[i][k] = atomic_load(&header->outcomes[i][k]);
    count_slots(table, ret);
}
