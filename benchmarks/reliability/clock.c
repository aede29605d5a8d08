/* A clock that jumps, loaded with LD_PRELOAD: CLOCK_AFTER seconds after the program began, what it is
   told of the time of day is CLOCK_JUMP seconds later (or earlier) than it was. Clocks that only
   measure, such as CLOCK_MONOTONIC, go on as ever, as they do where a system's clock is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real_clock)(clockid_t, struct timespec *);
static double begin, after;
static long jump;

static double passed(void) {
    struct timespec now;
    real_clock(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

__attribute__((constructor)) static void start(void) {
    const char *at = getenv("CLOCK_AFTER"), *by = getenv("CLOCK_JUMP");
    if (real_clock)
        return;
    real_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    after = at ? atof(at) : 0;
    jump = by ? atol(by) : 0;
    begin = passed();
}

static long added(void) {
    return passed() - begin >= after ? jump : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    start();
    int code = real_clock(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += added();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place)
        *place = now.tv_sec;
    return now.tv_sec;
}
