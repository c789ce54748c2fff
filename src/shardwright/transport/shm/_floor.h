/* The floor that benchmarks compare with: two processes, two futex words, a message in shared memory, and nothing else. */
#ifndef SHARDWRIGHT_FLOOR_H
#define SHARDWRIGHT_FLOOR_H

#include <stdbool.h>
#include <stdint.h>

#define SW_FLOOR_MESSAGE 1048576

struct sw_floor {
    _Alignas(128) _Atomic uint32_t asked;
    _Alignas(128) _Atomic uint32_t answered;
    _Alignas(128) unsigned char question[SW_FLOOR_MESSAGE];
    unsigned char answer[SW_FLOOR_MESSAGE];
};

/* Answer until a question of no bytes comes. `spin_ns`: how long to look before sleeping. */
void sw_floor_answer(struct sw_floor *floor, uint32_t size, int64_t spin_ns);

/* Ask `rounds` times with pauses of `gap_ns`; the duration of each goes to `taken_ns`. `last`: tell the other to end. Waits for
 * an answer for ever. */
void sw_floor_ask(struct sw_floor *floor, uint32_t size, uint32_t rounds, int64_t gap_ns, int64_t spin_ns, int64_t *taken_ns,
                  bool last);

#endif
