/* Memory that held a secret is wiped before it is free, jansson's included. */
#ifndef RELAY_WIPE_H
#define RELAY_WIPE_H

/* What malloc() gave, or NULL. */
void wipe_and_free(void *memory);
/* From now on jansson does so with all that it frees: it copies what it reads, several times. */
void wipe_behind_jansson(void);

#endif
