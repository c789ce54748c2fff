/* The doorbell: see _bell.h. Over 400 lines would be too many; the roles are one state machine and stay together. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_bell.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "_end.h"

/* -- the machine ----------------------------------------------------------------------------------------------- */

int64_t
sw_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Sleep while the word is as expected, at most until a time of CLOCK_MONOTONIC. -1 with errno as the kernel says. */
long
sw_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    return syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, until_ns == SW_NEVER ? NULL : &until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

void
sw_futex_wake(_Atomic uint32_t *word, int how_many)
{
    syscall(SYS_futex, word, FUTEX_WAKE, how_many, NULL, NULL, 0);
}

bool
sw_runs_handlers(void)
{
    return syscall(SYS_gettid) == getpid();
}

/* -- opening and closing --------------------------------------------------------------------------------------- */

int
sw_bell_open(struct sw_bell *bell, int64_t spin_ns)
{
    memset(bell, 0, sizeof *bell);
    bell->loop_fd = bell->own_fd = -1;
    bell->holder = bell->lender = bell->top = bell->ticker = -1;
    bell->spin_ns = spin_ns;
    bell->page_fd = sw_memfd("shardwright-bell", SW_BELL_BYTES);
    if (bell->page_fd < 0) {
        return -1;
    }
    void *page = mmap(NULL, SW_BELL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, bell->page_fd, 0);
    if (page == MAP_FAILED) {
        int why = errno;
        close(bell->page_fd);
        errno = why;
        return -1;
    }
    madvise(page, SW_BELL_BYTES, MADV_DONTFORK);
    bell->page = page;
    pthread_mutex_init(&bell->mutex, NULL);
    return 0;
}

static void
close_descriptors(struct sw_bell *bell)
{
    int *const all[] = {&bell->page_fd, &bell->loop_fd, &bell->own_fd};
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) {
        if (*all[n] >= 0) {
            close(*all[n]);
            *all[n] = -1;
        }
    }
}

/* `inherited`: this is a forked child's copy; the page is not mapped here. */
void
sw_bell_destroy(struct sw_bell *bell, bool inherited)
{
    if (bell->page == NULL) {
        return;
    }
    if (!inherited) {
        munmap(bell->page, SW_BELL_BYTES);
        pthread_mutex_destroy(&bell->mutex);
    }
    bell->page = NULL;
    close_descriptors(bell);
    free(bell->ends);
    free(bell->waiters);
}

int
sw_bell_add(struct sw_bell *bell, struct sw_end *end)
{
    int index = -1;
    pthread_mutex_lock(&bell->mutex);
    for (uint32_t n = 0; n < bell->room_for_ends; n++) {
        if (bell->ends[n] == NULL) {
            index = (int)n;
            break;
        }
    }
    if (index < 0 && bell->room_for_ends < SW_BELL_CHANNELS) {
        uint32_t room = bell->room_for_ends ? 2 * bell->room_for_ends : 1;
        struct sw_end **larger = realloc(bell->ends, room * sizeof *larger);
        if (larger != NULL) {
            index = (int)bell->room_for_ends;
            memset(larger + index, 0, (room - (uint32_t)index) * sizeof *larger);
            bell->ends = larger;
            bell->room_for_ends = room;
        } else {
            errno = ENOMEM;
        }
    } else if (index < 0) {
        errno = ENOSPC;
    }
    if (index >= 0) {
        const uint64_t bit = (uint64_t)1 << (index % 64);
        bell->ends[index] = end;
        bell->channels++;
        atomic_fetch_and(&bell->page->rung[index / 64], ~bit);
        atomic_fetch_and(&bell->local[index / 64], ~bit);
        if ((uint32_t)index / 64 + 1 > atomic_load(&bell->words)) {
            atomic_store(&bell->words, (uint32_t)index / 64 + 1);
        }
    }
    pthread_mutex_unlock(&bell->mutex);
    return index;
}

void
sw_bell_remove(struct sw_bell *bell, uint32_t index)
{
    pthread_mutex_lock(&bell->mutex);
    bell->ends[index] = NULL;
    bell->channels--;
    atomic_fetch_and(&bell->local[index / 64], ~((uint64_t)1 << (index % 64)));
    pthread_mutex_unlock(&bell->mutex);
}

int
sw_bell_take_slot(struct sw_bell *bell)
{
    int slot = -1;
    pthread_mutex_lock(&bell->mutex);
    for (uint32_t n = 0; n < bell->room_for_waiters; n++) {
        if (!bell->waiters[n].used) {
            slot = (int)n;
            break;
        }
    }
    if (slot < 0 && bell->room_for_waiters < SW_BELL_SLOTS) {
        uint32_t room = bell->room_for_waiters ? 2 * bell->room_for_waiters : 1;
        struct sw_waiter *larger = realloc(bell->waiters, room * sizeof *larger);
        if (larger != NULL) {
            slot = (int)bell->room_for_waiters;
            memset(larger + slot, 0, (room - (uint32_t)slot) * sizeof *larger);
            bell->waiters = larger;
            bell->room_for_waiters = room;
        } else {
            errno = ENOMEM;
        }
    } else if (slot < 0) {
        errno = EAGAIN;
    }
    if (slot >= 0) {
        bell->waiters[slot] = (struct sw_waiter){.used = true, .below = -1, .above = -1};
    }
    pthread_mutex_unlock(&bell->mutex);
    return slot;
}

/* -- what is there to read ------------------------------------------------------------------------------------- */

static bool
pending(struct sw_bell *bell)
{
    if (atomic_load(&bell->poked)) {
        return true;
    }
    const uint32_t words = atomic_load_explicit(&bell->words, memory_order_relaxed);
    for (uint32_t n = 0; n < words; n++) {
        if ((atomic_load(&bell->local[n]) | atomic_load(&bell->page->rung[n])) != 0) {
            return true;
        }
    }
    return false;
}

bool
sw_bell_collect(struct sw_bell *bell)
{
    bool any = atomic_load(&bell->poked);
    const uint32_t words = atomic_load_explicit(&bell->words, memory_order_relaxed);
    for (uint32_t n = 0; n < words; n++) {
        if (atomic_load(&bell->page->rung[n]) != 0) {
            atomic_fetch_or(&bell->local[n], atomic_exchange(&bell->page->rung[n], 0));
        }
        any |= atomic_load(&bell->local[n]) != 0;
    }
    return any;
}

void
sw_bell_mark(struct sw_bell *bell, uint32_t index)
{
    atomic_fetch_or(&bell->local[index / 64], (uint64_t)1 << (index % 64));
}

/* -- roles; the mutex is held ---------------------------------------------------------------------------------- */

static void
park(struct sw_bell *bell, int32_t slot)
{
    struct sw_waiter *waiter = &bell->waiters[slot];
    waiter->parked = true;
    waiter->below = bell->top;
    waiter->above = -1;
    if (bell->top >= 0) {
        bell->waiters[bell->top].above = slot;
    }
    bell->top = slot;
}

static void
unpark(struct sw_bell *bell, int32_t slot)
{
    struct sw_waiter *waiter = &bell->waiters[slot];
    waiter->parked = false;
    if (waiter->above >= 0) {
        bell->waiters[waiter->above].below = waiter->below;
    } else {
        bell->top = waiter->below;
    }
    if (waiter->below >= 0) {
        bell->waiters[waiter->below].above = waiter->above;
    }
}

static void
say_who_sleeps(struct sw_bell *bell, uint32_t who)
{
    atomic_store(&bell->page->sleeping, who);
}

static void
nobody_sleeps(struct sw_bell *bell)
{
    if (atomic_load_explicit(&bell->page->sleeping, memory_order_relaxed) != 0) {
        say_who_sleeps(bell, 0);
    }
}

static void
wake_slot(struct sw_bell *bell, int32_t slot)
{
    if (bell->waiters[slot].asleep) {
        atomic_fetch_add(&bell->page->slots[slot], 1);
        sw_futex_wake(&bell->page->slots[slot], 1);
    }
}

static void
show_own(struct sw_bell *bell, bool set)
{
    uint64_t count = 1;
    if (bell->own_set != set) {
        bell->own_set = set;
        ssize_t done = set ? write(bell->own_fd, &count, sizeof count) : read(bell->own_fd, &count, sizeof count);
        (void)done; /* it does not block, and only we have it */
    }
}

/* Nobody of us reads: let the event loop hear, if there is one. */
static void
let_loop_listen(struct sw_bell *bell)
{
    say_who_sleeps(bell, SW_BY_SOCKET);
    if (pending(bell)) {
        say_who_sleeps(bell, 0);
        show_own(bell, true);
    }
}

/* The role goes to the last who parked, asleep as he is. */
static void
pass_on(struct sw_bell *bell, bool lent)
{
    const int32_t next = bell->top;
    bell->holder = next;
    bell->holder_asleep = next >= 0;
    if (next < 0) {
        if (bell->loop_fd >= 0 && !lent) {
            let_loop_listen(bell);
        } else {
            nobody_sleeps(bell);
        }
        return;
    }
    unpark(bell, next);
    if (lent && bell->waiters[next].ticking) {
        nobody_sleeps(bell); /* it wakes by itself when an earlier grace is over, and looks then: no message need wake it */
        return;
    }
    say_who_sleeps(bell, (uint32_t)next + 1);
    if (pending(bell) || (lent && atomic_load(&bell->late))) {
        say_who_sleeps(bell, 0);
        wake_slot(bell, next);
    }
}

/* The role for this slot, from nobody, or from one who sleeps and shall go on sleeping. */
static bool
take_role(struct sw_bell *bell, int32_t slot)
{
    if (bell->holder != slot) {
        if (bell->holder >= 0) {
            if (!bell->holder_asleep) {
                return false;
            }
            park(bell, bell->holder);
        }
        bell->holder = slot;
    }
    bell->holder_asleep = false;
    bell->lender = -1;
    bell->quiet = false;
    nobody_sleeps(bell);
    return true;
}

static void
pay_late(struct sw_bell *bell)
{
    if (!atomic_exchange(&bell->late, false)) {
        return;
    }
    for (uint32_t n = 0; n < bell->room_for_waiters; n++) {
        if (bell->waiters[n].used && bell->waiters[n].owed) {
            bell->waiters[n].owed = false;
            wake_slot(bell, (int32_t)n);
        }
    }
}

static void
give_up(struct sw_bell *bell, int32_t slot)
{
    if (atomic_load_explicit(&bell->late, memory_order_relaxed)) {
        pay_late(bell); /* they were to go on when this one sleeps, and it does something else */
    }
    if (bell->waiters[slot].parked) {
        unpark(bell, slot);
    }
    if (bell->lender == slot) {
        bell->lender = -1;
        bell->quiet = false;
        if (bell->holder >= 0 && bell->holder_asleep) {
            say_who_sleeps(bell, (uint32_t)bell->holder + 1); /* nobody was named if it ticks */
            if (pending(bell)) {
                say_who_sleeps(bell, 0);
                wake_slot(bell, bell->holder); /* its grace is over */
            }
        } else if (bell->holder < 0 && bell->loop_fd >= 0) {
            let_loop_listen(bell);
        }
    } else if (bell->holder == slot) {
        bell->lender = -1;
        bell->quiet = false;
        pass_on(bell, false);
    }
}

/* One timer is enough for a role that goes from hand to hand; another has to have it when this one does something else. */
static void
stop_ticking(struct sw_bell *bell, int32_t slot)
{
    if (bell->ticker != slot) {
        return;
    }
    bell->ticker = -1;
    if (bell->quiet && bell->holder >= 0 && bell->holder != slot && bell->holder_asleep) {
        wake_slot(bell, bell->holder); /* it will sleep again, and tick */
    }
}

/* One who was woken waits no longer. What was handed to it is still its own: it is about to do something, and to wait again. */
static void
end_wait(struct sw_bell *bell, int32_t slot)
{
    stop_ticking(bell, slot);
    if (bell->lender == slot && bell->quiet) {
        if (bell->waiters[slot].parked) {
            unpark(bell, slot);
        }
        return;
    }
    give_up(bell, slot);
}

static void
say_where_we_run(struct sw_bell *bell)
{
    int cpu = sched_getcpu();
    if (cpu >= 0 && atomic_load_explicit(&bell->page->cpu, memory_order_relaxed) != (uint32_t)cpu + 1) {
        atomic_store_explicit(&bell->page->cpu, (uint32_t)cpu + 1, memory_order_relaxed);
    }
}

/* -- waiting --------------------------------------------------------------------------------------------------- */

enum sw_waited
sw_bell_begin(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    struct sw_waiter *waiter = &bell->waiters[slot];
    enum sw_waited outcome = SW_MUST_SLEEP;
    if (waiter->token || bell->closed) {
        waiter->token = waiter->owed = false;
        end_wait(bell, slot);
        outcome = SW_WOKEN;
    } else if (take_role(bell, slot)) {
        say_where_we_run(bell);
        if (sw_bell_collect(bell)) {
            outcome = SW_READS;
        }
    } else {
        park(bell, slot);
    }
    pthread_mutex_unlock(&bell->mutex);
    return outcome;
}

/* Whether the peer may be answering at this moment on another CPU. */
static bool
is_elsewhere(struct sw_bell *bell)
{
    const uint32_t partner = atomic_load_explicit(&bell->partner_cpu, memory_order_relaxed);
    return bell->spin_ns > 0 && partner != 0 && partner != atomic_load_explicit(&bell->page->cpu, memory_order_relaxed);
}

/* Look for a while, where it is. Who failed often looks rarely. */
static bool
spin(struct sw_bell *bell)
{
    if (bell->spins_failed > 3) {
        const uint32_t skip = bell->spins_failed > 9 ? 64 : 1u << (bell->spins_failed - 3);
        if (bell->spins_skipped++ < skip) {
            return false;
        }
        bell->spins_skipped = 0;
    }
    const int64_t until = sw_now() + bell->spin_ns;
    do {
        for (int n = 0; n < 32; n++) {
            if (pending(bell)) {
                bell->spins_failed = 0;
                return true;
            }
            sw_pause();
        }
    } while (sw_now() < until);
    bell->spins_failed++;
    return false;
}

bool
sw_bell_look(struct sw_bell *bell, int32_t slot, int64_t for_ns)
{
    if (!is_elsewhere(bell) || !sw_bell_reads(bell, slot)) {
        return false;
    }
    const int64_t until = sw_now() + for_ns;
    do {
        for (int n = 0; n < 32; n++) {
            if (pending(bell)) {
                return true;
            }
            sw_pause();
        }
    } while (sw_now() < until);
    return false;
}

/* Whether the holder, with the mutex held, has something to read; if not, whoever publishes from now on wakes it. */
static bool
look_or_arm(struct sw_bell *bell, int32_t slot)
{
    if (!sw_bell_collect(bell)) {
        bell->holder_asleep = true;
        say_who_sleeps(bell, (uint32_t)slot + 1);
        if (!sw_bell_collect(bell)) {
            return false;
        }
    }
    nobody_sleeps(bell);
    return true;
}

enum sw_waited
sw_bell_sleep(struct sw_bell *bell, int32_t slot, int64_t until_ns, bool may_spin)
{
    pthread_mutex_lock(&bell->mutex);
    if (may_spin && bell->holder == slot && !bell->holder_asleep && is_elsewhere(bell)) {
        pthread_mutex_unlock(&bell->mutex); /* nobody takes the role from one who is awake */
        spin(bell);
        pthread_mutex_lock(&bell->mutex);
    }
    for (bool slept = false;; slept = true) {
        struct sw_waiter *waiter = &bell->waiters[slot]; /* the table may move while we sleep */
        waiter->asleep = waiter->ticking = false;
        const bool graced = bell->lender >= 0 && bell->holder == slot;
        const int64_t now = graced || bell->ticker == slot || (slept && until_ns != SW_NEVER) ? sw_now() : 0;
        int64_t limit = until_ns;
        if (waiter->token || bell->closed) {
            waiter->token = waiter->owed = false;
            end_wait(bell, slot);
            pthread_mutex_unlock(&bell->mutex);
            return SW_WOKEN;
        }
        const uint32_t word = atomic_load(&bell->page->slots[slot]);
        if (graced && now >= bell->lent_until) {
            pay_late(bell);
        }
        if (bell->ticker == slot && !graced) {
            if (!bell->quiet) {
                bell->ticker = -1;
            } else if (now < bell->lent_until) {
                limit = bell->lent_until < until_ns ? bell->lent_until : until_ns;
            } else {
                stop_ticking(bell, slot);
            }
        }
        if (graced && bell->quiet && now < bell->lent_until) {
            bell->holder_asleep = true;
            nobody_sleeps(bell);
            if (bell->ticker < 0 || bell->ticker == slot) {
                bell->ticker = slot;
                waiter->ticking = true;
                limit = bell->lent_until < until_ns ? bell->lent_until : until_ns;
            }
        } else if (bell->holder == slot && look_or_arm(bell, slot)) {
            if (!graced || now >= bell->lent_until) {
                bell->holder_asleep = false;
                bell->lender = -1;
                bell->quiet = false;
                stop_ticking(bell, slot);
                say_where_we_run(bell);
                pthread_mutex_unlock(&bell->mutex);
                return SW_READS;
            }
            bell->holder_asleep = true; /* the one who lent the role may be back soon */
            waiter->ticking = true;
            limit = bell->lent_until < until_ns ? bell->lent_until : until_ns;
        }
        if (now >= until_ns) {
            stop_ticking(bell, slot);
            give_up(bell, slot);
            pthread_mutex_unlock(&bell->mutex);
            return SW_TIMED_OUT;
        }
        waiter->asleep = true;
        pthread_mutex_unlock(&bell->mutex);
        if (sw_futex_wait(&bell->page->slots[slot], word, limit) != 0 && errno == EINTR) {
            return SW_INTERRUPTED;
        }
        pthread_mutex_lock(&bell->mutex);
    }
}

void
sw_bell_abandon(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    bell->waiters[slot].asleep = bell->waiters[slot].ticking = false;
    stop_ticking(bell, slot);
    give_up(bell, slot);
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_give_slot(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    stop_ticking(bell, slot);
    give_up(bell, slot);
    bell->waiters[slot].used = false;
    pthread_mutex_unlock(&bell->mutex);
}

/* -- what other threads do to one who waits -------------------------------------------------------------------- */

void
sw_bell_wake(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    bell->waiters[slot].token = true;
    wake_slot(bell, slot);
    pthread_mutex_unlock(&bell->mutex);
}

/* The same, but that it is not roused: whoever owes it that pays later; if he does not, the watcher will. */
void
sw_bell_owe(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    bell->waiters[slot].token = bell->waiters[slot].owed = true;
    atomic_store_explicit(&bell->owing, true, memory_order_relaxed);
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_owe_soon(struct sw_bell *bell, int32_t slot)
{
    atomic_store(&bell->late, true);
    sw_bell_owe(bell, slot);
}

void
sw_bell_hand(struct sw_bell *bell, int32_t slot, int32_t to, int64_t grace_ns)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->holder == slot && !bell->holder_asleep && to != slot) {
        bell->lender = to;
        bell->quiet = true;
        bell->lent_until = sw_now() + grace_ns;
        bell->holder_asleep = true; /* or about to be: it may be displaced from now on */
    }
    bell->waiters[to].token = true;
    bell->waiters[to].owed = false;
    const bool asleep = bell->waiters[to].asleep;
    if (asleep) {
        atomic_fetch_add(&bell->page->slots[to], 1);
    }
    pthread_mutex_unlock(&bell->mutex);
    if (asleep) { /* without the mutex, which is the first thing that it wants */
        sw_futex_wake(&bell->page->slots[to], 1);
    }
}

void
sw_bell_pay(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->waiters[slot].owed) {
        bell->waiters[slot].owed = false;
        wake_slot(bell, slot);
    }
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_pay_all(struct sw_bell *bell)
{
    if (!atomic_exchange(&bell->owing, false)) {
        return;
    }
    pthread_mutex_lock(&bell->mutex);
    for (uint32_t n = 0; n < bell->room_for_waiters; n++) {
        if (bell->waiters[n].used && bell->waiters[n].owed) {
            bell->waiters[n].owed = false;
            wake_slot(bell, (int32_t)n);
        }
    }
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_leave(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    give_up(bell, slot);
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_lend(struct sw_bell *bell, int32_t slot, int64_t grace_ns)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->holder == slot && bell->lender != slot) {
        bell->lender = slot;
        bell->quiet = false;
        bell->lent_until = sw_now() + grace_ns;
        pass_on(bell, true);
    }
    pthread_mutex_unlock(&bell->mutex);
}

bool
sw_bell_reclaim(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    const bool mine = bell->lender == slot || bell->holder == slot;
    if (mine) {
        take_role(bell, slot);
    }
    pthread_mutex_unlock(&bell->mutex);
    return mine;
}

bool
sw_bell_reads(struct sw_bell *bell, int32_t slot)
{
    pthread_mutex_lock(&bell->mutex);
    const bool reads = bell->holder == slot && !bell->holder_asleep;
    pthread_mutex_unlock(&bell->mutex);
    return reads;
}

uint32_t
sw_bell_parked(struct sw_bell *bell)
{
    uint32_t count = 0;
    pthread_mutex_lock(&bell->mutex);
    for (int32_t slot = bell->top; slot >= 0; slot = bell->waiters[slot].below) {
        count++;
    }
    pthread_mutex_unlock(&bell->mutex);
    return count;
}

void
sw_bell_rouse(struct sw_bell *bell)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->holder >= 0 && bell->holder_asleep) {
        say_who_sleeps(bell, 0);
        wake_slot(bell, bell->holder);
    } else if (bell->holder < 0 && bell->loop_fd >= 0) {
        say_who_sleeps(bell, 0);
        show_own(bell, true);
    }
    pthread_mutex_unlock(&bell->mutex);
}

void
sw_bell_poke(struct sw_bell *bell)
{
    atomic_store(&bell->poked, true);
    sw_bell_rouse(bell);
}

void
sw_bell_close(struct sw_bell *bell)
{
    pthread_mutex_lock(&bell->mutex);
    bell->closed = true;
    for (uint32_t n = 0; n < bell->room_for_waiters; n++) {
        wake_slot(bell, (int32_t)n);
    }
    close_descriptors(bell);
    pthread_mutex_unlock(&bell->mutex);
}

/* -- event loops ----------------------------------------------------------------------------------------------- */

int
sw_bell_loop(struct sw_bell *bell)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->loop_fd < 0) {
        int own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        int loop = own < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
        bool good = loop >= 0 && epoll_ctl(loop, EPOLL_CTL_ADD, own, &event) == 0;
        for (uint32_t n = 0; good && n < bell->room_for_ends; n++) {
            good = bell->ends[n] == NULL || sw_end_join_loop(bell->ends[n], loop) == 0;
        }
        if (good) {
            bell->own_fd = own;
            bell->loop_fd = loop;
            if (bell->holder < 0) {
                let_loop_listen(bell);
            }
        } else {
            const int why = errno;
            if (own >= 0) {
                close(own);
            }
            if (loop >= 0) {
                close(loop);
            }
            errno = why;
        }
    }
    const int fd = bell->loop_fd;
    pthread_mutex_unlock(&bell->mutex);
    return fd;
}

void
sw_bell_settle(struct sw_bell *bell)
{
    pthread_mutex_lock(&bell->mutex);
    if (bell->loop_fd >= 0 && bell->holder < 0) {
        struct epoll_event events[64];
        show_own(bell, false);
        int count = epoll_wait(bell->loop_fd, events, 64, 0);
        for (int n = 0; n < count; n++) {
            const uint64_t index = events[n].data.u64;
            if (index < bell->room_for_ends && bell->ends[index] != NULL) {
                sw_end_hear_socket(bell->ends[index], events[n].events);
            }
        }
        let_loop_listen(bell);
    }
    pthread_mutex_unlock(&bell->mutex);
}
