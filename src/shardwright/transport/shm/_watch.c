/* One thread per process that hears when a peer is gone, and then rings our own doorbell.
 *
 * A peer that dies cannot ring, and whoever waits for it sleeps on a futex, not on its socket. The thread sleeps in
 * epoll_wait on the sockets of all channels: the news comes as fast as the kernel closes the dead process's descriptors.
 * Every SW_TICK_NS it also looks whether a message stands in a channel that no bell told of: so a hostile peer that meddles
 * with the bell which it shares with others delays their messages by that, and no more. It takes no part in anything else,
 * has all signals blocked but that by which a shard at rest stops its threads, and lives while there are channels.
 *
 * A forked child inherits the sockets, which would keep its parent from being missed. So, after a fork (by libc's or
 * Python's), the child closes them: the channels stay the parent's alone. Their memory is not mapped in it (MADV_DONTFORK).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "_end.h"

struct watched {
    struct sw_end *end; /* NULL: this place is free */
    uint32_t turn;      /* how often it was used, so that late news of a former one are not believed */
};

/* Guarded by `mutex`, which is held across every fork. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct watched *table;
static uint32_t room, count;
static int epoll_fd = -1, stop_fd = -1;
static pthread_t thread;
static _Atomic unsigned generation;

static void
before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void
after_fork_in_parent(void)
{
    pthread_mutex_unlock(&mutex);
}

static void
after_fork_in_child(void)
{
    pthread_mutex_init(&mutex, NULL);
    atomic_fetch_add(&generation, 1);
    for (uint32_t n = 0; n < room; n++) {
        if (table[n].end != NULL) {
            close(table[n].end->socket);
            table[n].end->socket = -1;
            table[n].end->watch = -1;
            table[n].end = NULL;
        }
    }
    count = 0;
    if (epoll_fd >= 0) {
        close(epoll_fd);
        close(stop_fd);
        epoll_fd = stop_fd = -1;
    }
}

static void
hear_of_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

unsigned
sw_generation(void)
{
    return atomic_load_explicit(&generation, memory_order_relaxed);
}

static void
look_everywhere(void)
{
    pthread_mutex_lock(&mutex);
    for (uint32_t n = 0; n < room; n++) {
        struct sw_end *end = table[n].end;
        if (end != NULL && sw_end_has_something(end)) {
            sw_bell_mark(end->bell, end->index);
            sw_bell_rouse(end->bell);
        }
        if (end != NULL) {
            sw_bell_pay_all(end->bell);
        }
    }
    pthread_mutex_unlock(&mutex);
}

static void *
watch(void *epoll)
{
    const int from = (int)(intptr_t)epoll;
    for (;;) {
        struct epoll_event events[64];
        int found = epoll_wait(from, events, 64, (int)(SW_TICK_NS / 1000000));
        if (found == 0) {
            look_everywhere();
        }
        for (int n = 0; n < found; n++) {
            const uint32_t place = (uint32_t)events[n].data.u64, turn = (uint32_t)(events[n].data.u64 >> 32);
            if (place == UINT32_MAX) {
                return NULL;
            }
            pthread_mutex_lock(&mutex);
            struct sw_end *end = place < room && table[place].turn == turn ? table[place].end : NULL;
            if (end != NULL) {
                atomic_store(&end->dead, true);
                atomic_fetch_add(&end->out.lane->room, 1);
                sw_futex_wake(&end->out.lane->room, INT_MAX);
                sw_bell_mark(end->bell, end->index);
                sw_bell_rouse(end->bell);
            }
            pthread_mutex_unlock(&mutex);
        }
    }
}

/* The first channel: begin to watch. */
static int
begin(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT32_MAX};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    stop_fd = epoll_fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failed = stop_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, stop_fd, &event) != 0 ? errno : 0;
    if (failed == 0) {
        sigset_t all, before;
        pthread_attr_t small;
        sigfillset(&all);
        sigdelset(&all, SIGRTMIN + 12); /* by which a shard at rest has its threads wait (guest/_pages.c) */
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN > 65536 ? PTHREAD_STACK_MIN : 65536);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        failed = pthread_create(&thread, &small, watch, (void *)(intptr_t)epoll_fd);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&small);
    }
    if (failed != 0) {
        if (epoll_fd >= 0) {
            close(epoll_fd);
        }
        if (stop_fd >= 0) {
            close(stop_fd);
        }
        epoll_fd = stop_fd = -1;
        errno = failed;
        return -1;
    }
    return 0;
}

int
sw_watch(struct sw_end *end)
{
    pthread_once(&once, hear_of_forks);
    pthread_mutex_lock(&mutex);
    uint32_t place = 0;
    while (place < room && table[place].end != NULL) {
        place++;
    }
    int failed = 0;
    if (place == room) {
        const uint32_t larger = room ? 2 * room : 8;
        struct watched *moved = realloc(table, larger * sizeof *moved);
        if (moved == NULL) {
            failed = -1;
        } else {
            memset(moved + room, 0, (larger - room) * sizeof *moved);
            table = moved;
            room = larger;
        }
    }
    if (failed == 0 && count == 0) {
        failed = begin();
    }
    if (failed == 0) {
        struct watched *mine = &table[place];
        struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT,
                                    .data.u64 = (uint64_t)++mine->turn << 32 | place};
        mine->end = end;
        end->watch = (int)place;
        count++;
        failed = epoll_ctl(epoll_fd, EPOLL_CTL_ADD, end->socket, &event);
    }
    const int why = errno;
    pthread_mutex_unlock(&mutex);
    if (failed != 0) {
        sw_unwatch(end);
        errno = why;
    }
    return failed;
}

void
sw_unwatch(struct sw_end *end)
{
    pthread_mutex_lock(&mutex);
    bool last = false;
    if (end->watch >= 0) {
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, end->socket, NULL);
        table[end->watch].end = NULL;
        end->watch = -1;
        last = --count == 0;
    }
    if (last) {
        const uint64_t one = 1;
        const int old_epoll = epoll_fd, old_stop = stop_fd;
        const pthread_t old_thread = thread;
        ssize_t done = write(old_stop, &one, sizeof one);
        (void)done; /* nobody else writes to it */
        epoll_fd = stop_fd = -1;
        pthread_mutex_unlock(&mutex);
        pthread_join(old_thread, NULL);
        close(old_epoll);
        close(old_stop);
        return;
    }
    pthread_mutex_unlock(&mutex);
}
