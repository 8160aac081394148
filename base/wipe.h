/* Wiping memory that held a secret before it is freed, jansson's memory included. */
#ifndef RELAY_WIPE_H
#define RELAY_WIPE_H

/* Takes memory of malloc(), or NULL. */
void wipe_and_free(void *memory);
/* From now on jansson wipes all memory that it frees. It copies what it reads several times. */
void wipe_behind_jansson(void);

#endif
