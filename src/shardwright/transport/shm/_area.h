/* One channel's shared memory: two lanes (one each way), each a ring of bytes with one producer and one consumer.
 *
 * Pure C11 without Python and without system calls, so that a fuzzer, a thread sanitizer and an instruction counter can
 * drive it alone. docs/protocol-ring.md has the layout byte by byte.
 *
 * On a lane stand messages, one behind the other: a header of 8 bytes (u32 length of the body, u32 zero), the body,
 * zeros up to a multiple of 8. Positions are counts of bytes since the beginning, always multiples of 8; the byte at
 * position p lies at p modulo the capacity, a power of two. `head` is where the producer will write next, `tail` what
 * the consumer took. A message that fits is published whole, by one store of `head`: a producer that dies within it was
 * never heard of. One that does not fit is published piece by piece.
 *
 * TRUST. The peer writes anywhere in this memory at any time. So each side keeps its own position in private memory and
 * never reads it back; the other's position is read once per look and refused unless it lies where an honest peer's
 * could; a header is loaded once, in one piece; the body is copied out before anybody parses it.
 *
 * MEMORY ORDER. Four races matter; `a -> b` below means "b sees a".
 *
 * 1. Bytes. The producer writes bytes, then stores head (release or stronger); the consumer loads head (acquire), then
 *    reads bytes: it sees what was written. The other way round, the consumer reads bytes, then stores tail; the producer
 *    loads tail (acquire), then overwrites: it never overwrites what is still to be read.
 * 2. A message and a consumer that goes to sleep. (Dekker's pattern.)
 *        producer: P1 store head          consumer: C1 store sleeping := my slot
 *                  P2 set the bell's bit             C2 load the bell's bits
 *                  P3 load sleeping                  if none: sleep
 *    P2, P3, C1 and C2 are sequentially consistent. They have one order S; if C2 misses the bit, then C2 is before P2 in
 *    S, so C1 is before P3, so P3 sees that somebody sleeps and wakes him. The kernel compares the slot's word with what
 *    it was before C1, and the producer changes the word before it wakes: a wake between C2 and the sleep is not lost.
 *    A reader takes the bits by exchange (an acquire) before it looks at heads: whoever finds P2's bit sees P1's head.
 *    P2 may find the bit set already. Then it is only read, and the message must not be missed by who takes the bit:
 *    that exchange is after P2's load in S, and P1 -> P2 -> exchange needs P1 before P2 in S as well, so P1 is
 *    sequentially consistent too, and so is the look at head that follows an exchange.
 * 3. Room and a producer that waits for it. The same pattern: the producer stores `wanted`, then loads tail; the
 *    consumer stores tail, then loads `wanted`; all four sequentially consistent.
 * 4. A message and a peer that opens its end for the first time. Until then the producer does not have its bell. The
 *    same pattern: head and `opened`; the peer stores `opened` after it sent the bell, and looks at head after that.
 *
 * On x86-64 a sequentially consistent store is one xchg, the loads are plain; that is two locked instructions per message
 * and side. tests/unit/transport/ring_model.pml states 2 and 3 for a model checker.
 */
#ifndef SHARDWRIGHT_AREA_H
#define SHARDWRIGHT_AREA_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SW_PAGE 4096u
#define SW_HEADER 8u
#define SW_MIN_CAPACITY 4096u
#define SW_MAX_CAPACITY (1u << 28)

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "shared words must be lock-free");

struct sw_lane {
    alignas(128) _Atomic uint64_t head; /* the producer's line */
    alignas(128) _Atomic uint64_t tail; /* the consumer's line */
    _Atomic uint32_t opened;            /* 1: the consumer is there, its bell lies in the producer's socket */
    alignas(128) _Atomic uint32_t wanted; /* not 0: the producer sleeps until so many bytes are free */
    _Atomic uint32_t room;                /* the word on which it sleeps */
};

struct sw_area {
    struct sw_lane lanes[2];
};

_Static_assert(sizeof(struct sw_area) <= SW_PAGE, "the lanes' words fill at most one page");

static inline size_t
sw_area_bytes(uint32_t capacity)
{
    return SW_PAGE + 2 * (size_t)capacity;
}

static inline uint64_t
sw_padded(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

/* The private halves. Only these positions are believed. */

struct sw_producer {
    struct sw_lane *lane;
    unsigned char *bytes;
    uint64_t head;
    uint64_t tail; /* as last seen */
    uint32_t capacity;
};

struct sw_consumer {
    struct sw_lane *lane;
    const unsigned char *bytes;
    uint64_t tail;
    uint64_t head; /* as last seen */
    uint32_t capacity;
    uint32_t max_message;
    bool within;     /* a message's header was taken, and not yet all of its body */
    uint32_t size;   /* of its body */
    uint32_t filled; /* of which were taken */
    size_t reserved; /* bytes that `grow` gave */
};

enum sw_seen { SW_GOOD, SW_LIES };

/* -- the producer's side --------------------------------------------------------------------------------------- */

/* How many bytes are free; SW_LIES when the peer's tail cannot be. Looks at the shared tail only if `needed` are not
 * known to be free. */
static inline enum sw_seen
sw_free(struct sw_producer *out, uint64_t needed, uint64_t *free_bytes)
{
    uint64_t used = out->head - out->tail;
    if (out->capacity - used < needed) {
        uint64_t tail = atomic_load_explicit(&out->lane->tail, memory_order_seq_cst);
        if (tail - out->tail > used || (tail & 7) != 0) {
            return SW_LIES;
        }
        out->tail = tail;
        used = out->head - tail;
    }
    *free_bytes = out->capacity - used;
    return SW_GOOD;
}

/* Write bytes at `position` (free for us); they are not yet published. */
static inline void
sw_write(struct sw_producer *out, uint64_t position, const void *from, size_t size)
{
    size_t at = (size_t)(position & (out->capacity - 1));
    size_t first = out->capacity - at;
    if (first >= size) {
        memcpy(out->bytes + at, from, size);
    } else {
        memcpy(out->bytes + at, from, first);
        memcpy(out->bytes, (const unsigned char *)from + first, size - first);
    }
}

static inline void
sw_write_header(struct sw_producer *out, uint64_t position, uint32_t size)
{
    unsigned char *at = out->bytes + (position & (out->capacity - 1));
    atomic_store_explicit((_Atomic uint64_t *)(void *)at, size, memory_order_relaxed);
}

static inline void
sw_publish(struct sw_producer *out, uint64_t head)
{
    out->head = head;
    atomic_store_explicit(&out->lane->head, head, memory_order_seq_cst);
}

/* -- the consumer's side --------------------------------------------------------------------------------------- */

/* Look at the shared head. */
static inline enum sw_seen
sw_look(struct sw_consumer *in)
{
    uint64_t head = atomic_load_explicit(&in->lane->head, memory_order_seq_cst);
    if (head - in->tail > in->capacity || head - in->tail < in->head - in->tail || (head & 7) != 0) {
        return SW_LIES;
    }
    in->head = head;
    return SW_GOOD;
}

static inline void
sw_read(const struct sw_consumer *in, uint64_t position, void *to, size_t size)
{
    size_t at = (size_t)(position & (in->capacity - 1));
    size_t first = in->capacity - at;
    if (first >= size) {
        memcpy(to, in->bytes + at, size);
    } else {
        memcpy(to, in->bytes + at, first);
        memcpy((unsigned char *)to + first, in->bytes, size - first);
    }
}

/* Positions are multiples of 8: the header lies in one piece. An atomic load, so that it is loaded once and not again. */
static inline uint64_t
sw_read_header(const struct sw_consumer *in)
{
    const unsigned char *at = in->bytes + (in->tail & (in->capacity - 1));
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)at, memory_order_relaxed);
}

/* Give back what was read; true when the producer waits for it and must be woken (by who clears `wanted`). */
static inline bool
sw_give_back(struct sw_consumer *in, uint64_t tail)
{
    in->tail = tail;
    atomic_store_explicit(&in->lane->tail, tail, memory_order_seq_cst);
    uint32_t wanted = atomic_load_explicit(&in->lane->wanted, memory_order_seq_cst);
    if (wanted == 0) {
        return false;
    }
    if (in->capacity - (in->head - tail) < wanted && wanted <= in->capacity) {
        return false;
    }
    return atomic_exchange_explicit(&in->lane->wanted, 0, memory_order_seq_cst) != 0;
}

enum sw_taken {
    SW_NOTHING,   /* no whole message is here */
    SW_MESSAGE,   /* one was taken; its size is in->size */
    SW_VIOLATION, /* the peer lies: end the channel */
    SW_TOO_LONG,  /* the peer announced more than this channel carries: end the channel */
    SW_NO_MEMORY, /* `grow` failed: nothing was taken, it may be tried again */
};

/* What a length alone may make us reserve, and by how much a reservation grows over what really came. */
#define SW_BELIEVED (1u << 20)
#define SW_GROWTH 8u

/* Memory of at least `bytes` for the message in progress, of which in the end there will be `total` bytes; what was written
 * there stays. NULL: there is none. Called with the first of a message when `first`. */
typedef unsigned char *(*sw_grow)(void *owner, size_t bytes, size_t total, bool first);

/* Take the next message, or as much of it as is here. `*woke` is set when the producer must be woken. */
static inline enum sw_taken
sw_take(struct sw_consumer *in, sw_grow grow, void *owner, bool *woke)
{
    for (;;) {
        uint64_t here = in->head - in->tail;
        if (!in->within) {
            if (here == 0) {
                if (sw_look(in) == SW_LIES) {
                    return SW_VIOLATION;
                }
                here = in->head - in->tail;
                if (here == 0) {
                    return SW_NOTHING;
                }
            }
            uint64_t header = sw_read_header(in);
            uint32_t size = (uint32_t)header;
            if (header >> 32 != 0) {
                return SW_VIOLATION;
            }
            if (size > in->max_message) {
                return SW_TOO_LONG;
            }
            uint64_t whole = SW_HEADER + sw_padded(size);
            if (here < whole && whole <= in->capacity) {
                if (sw_look(in) == SW_LIES) {
                    return SW_VIOLATION;
                }
                here = in->head - in->tail;
            }
            if (here >= whole) { /* the usual case: all of it is here */
                unsigned char *to = grow(owner, size, size, true);
                if (to == NULL) {
                    return SW_NO_MEMORY;
                }
                sw_read(in, in->tail + SW_HEADER, to, size);
                in->size = size;
                *woke |= sw_give_back(in, in->tail + whole);
                return SW_MESSAGE;
            }
            size_t reserve = size < SW_BELIEVED ? size : SW_BELIEVED;
            if (grow(owner, reserve, size, true) == NULL) {
                return SW_NO_MEMORY;
            }
            in->within = true;
            in->size = size;
            in->filled = 0;
            in->reserved = reserve;
            *woke |= sw_give_back(in, in->tail + SW_HEADER);
            continue;
        }
        uint64_t missing = sw_padded(in->size) - in->filled;
        if (here == 0) {
            if (sw_look(in) == SW_LIES) {
                return SW_VIOLATION;
            }
            here = in->head - in->tail;
            if (here == 0 && missing != 0) {
                return SW_NOTHING;
            }
        }
        uint64_t piece = here < missing ? here : missing; /* a multiple of 8, or up to the padding */
        size_t body = in->size - in->filled < piece ? in->size - in->filled : (size_t)piece;
        if (in->filled + body > in->reserved) {
            size_t reserve = in->reserved * SW_GROWTH;
            if (reserve < in->filled + body) {
                reserve = in->filled + body;
            }
            in->reserved = reserve < in->size ? reserve : in->size;
        }
        unsigned char *to = grow(owner, in->reserved, in->size, false);
        if (to == NULL) {
            return SW_NO_MEMORY;
        }
        sw_read(in, in->tail, to + in->filled, body);
        in->filled += (uint32_t)body;
        bool last = piece == missing;
        in->within = !last;
        *woke |= sw_give_back(in, in->tail + piece);
        if (last) {
            return SW_MESSAGE;
        }
    }
}

#endif
