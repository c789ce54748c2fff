/* The doorbell: where all channels of one consumer ring, and who of its threads hears it. No Python in here.
 *
 * Its page is a sealed memfd that the consumer makes and every producer maps. A producer that published a message sets the
 * bit of its channel, and if somebody sleeps (`sleeping` names his slot) it takes the name away and wakes that slot.
 *
 * Which thread may read is nobody's business but the consumer's: that is the private half (`struct sw_bell`), guarded by
 * `mutex`, which is never held while waiting. Each thread has a slot. One slot at most is the holder of the reading role. The
 * holder is awake, or asleep; only when it is asleep, `sleeping` names it. Everybody else who waits is parked: asleep on its
 * own slot, in a stack, unknown to producers. So the role changes hands between sleepers by a store to `sleeping`.
 *
 * TRUST. Every producer can write this page: one that is hostile can wake the consumer for nothing (as it can by messages),
 * or suppress the wake of another producer's message. Therefore the watcher (_watch.c) looks at every channel itself, every
 * SW_TICK_NS, and rouses whoever sleeps while there is something to read: that is how long such a message is late. Nothing on
 * the page is used as an index without a check.
 */
#ifndef SHARDWRIGHT_BELL_H
#define SHARDWRIGHT_BELL_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "_area.h"

#define SW_BELL_WORDS 64u
#define SW_BELL_CHANNELS (64u * SW_BELL_WORDS)
#define SW_BELL_SLOTS 1024u
#define SW_BELL_BYTES (2 * SW_PAGE)
#define SW_BY_SOCKET 0xffffffffu /* in `sleeping`: an event loop sleeps; wake it by a byte through the channel's socket */
#ifndef SW_TICK_NS /* tests make it long, to see every lost wake-up */
#define SW_TICK_NS 50000000
#endif
#define SW_NEVER INT64_MAX

struct sw_bell_page {
    alignas(64) _Atomic uint32_t sleeping; /* 0: nobody; a slot's number + 1; or SW_BY_SOCKET */
    _Atomic uint32_t cpu;                  /* + 1: where the reader last ran; 0: not known */
    _Atomic uint64_t rung[SW_BELL_WORDS];  /* a bit for every channel */
    _Atomic uint32_t slots[SW_BELL_SLOTS]; /* words to sleep on: a wake changes them */
};

_Static_assert(sizeof(struct sw_bell_page) <= SW_BELL_BYTES, "the page of a doorbell");

enum sw_waited { SW_TIMED_OUT = 0, SW_READS = 1, SW_WOKEN = 2, SW_INTERRUPTED = 3, SW_MUST_SLEEP = 4 };

struct sw_waiter {
    int32_t below, above; /* in the stack of the parked; -1: none */
    bool used;
    bool parked;
    bool asleep;  /* in the kernel, or on its way there: a wake must change the slot's word */
    bool ticking; /* asleep until a grace ends, which it will see to by itself */
    bool token;   /* `wake` was called */
    bool owed;    /* by `owe`: whoever did so has yet to rouse it */
};

struct sw_end;

struct sw_bell {
    struct sw_bell_page *page;
    int page_fd;
    int loop_fd;  /* an epoll of own_fd and the channels' sockets; -1: no event loop */
    int own_fd;   /* an eventfd that nobody else has */
    bool own_set; /* it is readable */
    _Atomic bool poked;
    _Atomic bool owing; /* somebody was told to end its wait, and may not have been roused for it */
    _Atomic uint32_t partner_cpu; /* of the peer with whom we last spoke */
    _Atomic uint32_t words;       /* how many of `rung` are in use */
    _Atomic uint64_t local[SW_BELL_WORDS]; /* bits that were taken from the page, or set by ourselves */
    int64_t spin_ns;
    uint32_t spins_failed, spins_skipped;
    pthread_mutex_t mutex; /* guards what follows */
    struct sw_end **ends;  /* by channel; changed with the mutex held */
    uint32_t channels, room_for_ends;
    /* roles */
    int32_t holder; /* -1: nobody */
    bool holder_asleep;
    int32_t lender;     /* who lent the role and may reclaim it; -1: nobody */
    int64_t lent_until; /* the holder reads no earlier */
    int32_t ticker;     /* who sleeps until about then, to see to it, for all who were handed the role meanwhile; -1: nobody */
    bool quiet;         /* the role was handed to the lender by one who sleeps: no message wakes that one before then */
    _Atomic bool late;  /* among those who are owed are some who wait for one who reads: a grace's end rouses them */
    int32_t top;        /* of the parked */
    bool closed;
    struct sw_waiter *waiters; /* by slot */
    uint32_t room_for_waiters;
};

int64_t sw_now(void);
long sw_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t until_ns);
void sw_futex_wake(_Atomic uint32_t *word, int how_many);

static inline void
sw_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int sw_bell_open(struct sw_bell *bell, int64_t spin_ns); /* -1 with errno */
void sw_bell_destroy(struct sw_bell *bell, bool inherited);
void sw_bell_close(struct sw_bell *bell); /* every wait ends */

int sw_bell_add(struct sw_bell *bell, struct sw_end *end); /* its index; -1 with errno */
void sw_bell_remove(struct sw_bell *bell, uint32_t index);
int sw_bell_take_slot(struct sw_bell *bell); /* -1 with errno */
void sw_bell_give_slot(struct sw_bell *bell, int32_t slot);

/* A wait is: begin; while it says SW_MUST_SLEEP or SW_INTERRUPTED, sleep; or abandon. Only `sleep` blocks. */
enum sw_waited sw_bell_begin(struct sw_bell *bell, int32_t slot);
enum sw_waited sw_bell_sleep(struct sw_bell *bell, int32_t slot, int64_t until_ns, bool may_spin);
void sw_bell_abandon(struct sw_bell *bell, int32_t slot);

/* A signal that comes when the main thread has let go of the interpreter, and does not sleep yet, ends no sleep: its handler would
 * wait for whatever ends that. And while it waits, CPython 3.11 lets no other thread that is traced begin a function: such
 * a thread looks for pending signals at its entry again and again (ceval.c, DO_TRACING), with the interpreter's lock. So the main
 * thread sleeps no longer than this, and looks for signals then. */
#define SW_SIGNALS_NS 100000000
bool sw_runs_handlers(void); /* whether the calling thread is the main one of its process */

void sw_bell_wake(struct sw_bell *bell, int32_t slot);
void sw_bell_owe(struct sw_bell *bell, int32_t slot);
void sw_bell_pay(struct sw_bell *bell, int32_t slot);
void sw_bell_pay_all(struct sw_bell *bell);
void sw_bell_leave(struct sw_bell *bell, int32_t slot);
/* For the reader, which is awake: look a while, if the peer runs on another CPU, whether there is anything to read. */
bool sw_bell_look(struct sw_bell *bell, int32_t slot, int64_t for_ns);
/* For the reader, right before it sleeps: rouse another, which will have the role when it waits again, or within the grace. Until
 * then nobody reads, and no message wakes anybody: what comes is for who is roused. */
void sw_bell_hand(struct sw_bell *bell, int32_t slot, int32_t to, int64_t grace_ns);
/* As owe; but it is roused within a grace, if a reader lends the role after this. */
void sw_bell_owe_soon(struct sw_bell *bell, int32_t slot);
void sw_bell_lend(struct sw_bell *bell, int32_t slot, int64_t grace_ns);
bool sw_bell_reclaim(struct sw_bell *bell, int32_t slot);
bool sw_bell_reads(struct sw_bell *bell, int32_t slot);

uint32_t sw_bell_parked(struct sw_bell *bell); /* how many wait beside the holder */

bool sw_bell_collect(struct sw_bell *bell); /* take the page's bits; whether there is anything to read */
void sw_bell_rouse(struct sw_bell *bell);   /* as if a message had come */
void sw_bell_poke(struct sw_bell *bell);
void sw_bell_mark(struct sw_bell *bell, uint32_t index); /* this channel is ready; does not wake */
void sw_bell_settle(struct sw_bell *bell);               /* for an event loop: nothing is ready, say so and listen */

int sw_bell_loop(struct sw_bell *bell); /* its descriptor for an event loop; -1 with errno */

/* A producer's ring at a page that is another's. True: wake it by a byte through the socket. */
static inline bool
sw_bell_ring(struct sw_bell_page *page, uint32_t index)
{
    _Atomic uint64_t *word = &page->rung[index / 64];
    const uint64_t bit = (uint64_t)1 << (index % 64);
    if ((atomic_load_explicit(word, memory_order_seq_cst) & bit) == 0) {
        atomic_fetch_or_explicit(word, bit, memory_order_seq_cst);
    }
    if (atomic_load_explicit(&page->sleeping, memory_order_seq_cst) == 0) {
        return false;
    }
    uint32_t who = atomic_exchange_explicit(&page->sleeping, 0, memory_order_seq_cst);
    if (who == SW_BY_SOCKET) {
        return true;
    }
    if (who != 0 && who <= SW_BELL_SLOTS) {
        atomic_fetch_add_explicit(&page->slots[who - 1], 1, memory_order_seq_cst);
        sw_futex_wake(&page->slots[who - 1], 1);
    }
    return false;
}

#endif
