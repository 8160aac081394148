/* The pool: how many workers there are. Between SPARE_MIN and SPARE_MAX of them are kept idle;
 * those that are stalled or take too long are replaced. */
#ifndef RELAY_POOL_H
#define RELAY_POOL_H

#include "worker/server.h"

/* Starts one worker. False: there are as many as there may be, or (logged) it failed. */
bool pool_start_worker(struct server *server);
/* Keeps the number of idle workers. Returns as server_keep(). */
int pool_keep(struct server *server);

/* Tells up to `count` idle workers to end. A worker that takes a connection just now serves it
 * first. */
void pool_dismiss_idle(struct server *server, size_t count);
/* Kills workers that have not ended when they should have. */
void pool_kill_overdue(struct server *server);
/* Ends all workers, and waits for that: idle ones go at once, busy ones are told to finish. */
void pool_stop(struct server *server);

/* A child has ended. Returns whether it was a worker. */
bool pool_note_end(struct server *server, pid_t pid, int status);

#endif
