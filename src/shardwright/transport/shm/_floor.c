/* See _floor.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_floor.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "_bell.h"

#define LAST UINT32_MAX

/* Wait until the word is another than it was; what it is now. */
static uint32_t
changed(_Atomic uint32_t *word, uint32_t was, int64_t spin_ns)
{
    uint32_t now = atomic_load(word);
    if (spin_ns > 0 && now == was) {
        const int64_t end = sw_now() + spin_ns;
        do {
            for (int n = 0; n < 32 && (now = atomic_load(word)) == was; n++) {
                sw_pause();
            }
        } while (now == was && sw_now() < end);
    }
    while ((now = atomic_load(word)) == was) {
        sw_futex_wait(word, was, SW_NEVER);
    }
    return now;
}

void
sw_floor_answer(struct sw_floor *floor, uint32_t size, int64_t spin_ns)
{
    static unsigned char here[SW_FLOOR_MESSAGE];
    uint32_t turn = atomic_load(&floor->answered);
    for (;;) {
        const uint32_t asked = changed(&floor->asked, turn, spin_ns);
        if (asked == LAST) {
            return;
        }
        turn = asked;
        memcpy(here, floor->question, size);
        memcpy(floor->answer, here, size);
        atomic_store(&floor->answered, turn);
        sw_futex_wake(&floor->answered, 1);
    }
}

void
sw_floor_ask(struct sw_floor *floor, uint32_t size, uint32_t rounds, int64_t gap_ns, int64_t spin_ns, int64_t *taken_ns,
             bool last)
{
    static unsigned char here[SW_FLOOR_MESSAGE];
    uint32_t turn = atomic_load(&floor->answered);
    for (uint32_t n = 0; n < rounds; n++) {
        if (gap_ns > 0) {
            const struct timespec gap = {.tv_sec = gap_ns / 1000000000, .tv_nsec = gap_ns % 1000000000};
            nanosleep(&gap, NULL);
        }
        const int64_t start = sw_now();
        memcpy(floor->question, here, size);
        atomic_store(&floor->asked, turn + 1);
        sw_futex_wake(&floor->asked, 1);
        turn = changed(&floor->answered, turn, spin_ns);
        memcpy(here, floor->answer, size);
        taken_ns[n] = sw_now() - start;
    }
    if (last) {
        atomic_store(&floor->asked, LAST);
        sw_futex_wake(&floor->asked, 1);
    }
}
