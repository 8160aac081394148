/* Clocks: see clock.h. */
#include "base/clock.h"

#include <time.h>

static int64_t read_clock(clockid_t clock, int64_t units_per_second)
{
    struct timespec now;
    clock_gettime(clock, &now); /* cannot fail for these clocks */
    return now.tv_sec * units_per_second + now.tv_nsec / (1000000000 / units_per_second);
}

int64_t clock_now(void)
{
    return read_clock(CLOCK_MONOTONIC, 1000);
}

int64_t clock_fine(void)
{
    return read_clock(CLOCK_MONOTONIC, 1000000000);
}

int64_t clock_epoch(void)
{
    return read_clock(CLOCK_REALTIME, 1000000);
}

int64_t clock_steady(void)
{
    return read_clock(CLOCK_BOOTTIME, 1000000);
}
