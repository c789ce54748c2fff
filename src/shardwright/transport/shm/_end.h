/* One end of a channel: its lanes, its socket, the doorbells. No Python in here. See _end.c. */
#ifndef SHARDWRIGHT_END_H
#define SHARDWRIGHT_END_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "_area.h"
#include "_bell.h"
#include "_memory.h"

enum sw_sent { SW_SENT = 0, SW_FULL = 1, SW_BUSY = 2, SW_TOO_LARGE = 3, SW_ENDED = 4 };

enum sw_why {
    SW_OPEN = 0,
    SW_CLOSED_HERE,
    SW_PEER_GONE,
    SW_PEER_GONE_WITHIN,
    SW_PEER_LIED,
    SW_PEER_TOO_LONG,
    SW_SENT_IN_PART,
};

struct sw_end {
    struct sw_area *area;
    size_t area_bytes;
    struct sw_producer out;
    struct sw_consumer in;
    struct sw_bell *bell;
    uint32_t index; /* in our bell */
    struct sw_bell_page *_Atomic peer; /* the peer's bell, once we have it */
    uint32_t peer_index;
    int socket;
    _Atomic int why;   /* enum sw_why: this end gave up, or took everything and saw the end */
    _Atomic bool dead; /* the peer closed or died: what it published is all there will be */
    _Atomic bool sending, adopting;
    /* the message that is sent in pieces: */
    uint64_t cursor;    /* where its next byte goes; what is whole eights of it is published */
    uint32_t size;      /* of its body */
    uint32_t remaining; /* of which are not written yet */
    bool header_written;
    int watch; /* our place in the watcher's table; -1: none */
};

/* Two sockets, each with its end of a new area waiting in it. -1 with errno. */
int sw_pair(uint32_t capacity, int sockets[2]);

/* Uses the socket up, also on failure: -1 with errno (EPROTO: what came over the socket is no area). */
int sw_end_open(struct sw_end *end, int socket, struct sw_bell *bell, uint32_t max_message);
void sw_end_close(struct sw_end *end, enum sw_why why); /* tells the peer, wakes everybody; keeps the memory mapped */
void sw_end_unmap(struct sw_end *end);                  /* nobody is inside any more */

/* A part of a message to be sent. */
struct sw_part {
    const void *bytes;
    size_t size;
};

void sw_end_meet(struct sw_end *end); /* note where the peer runs now */

enum sw_sent sw_push(struct sw_end *end, const struct sw_part *parts, size_t count);
enum sw_sent sw_begin(struct sw_end *end, uint32_t size);
enum sw_sent sw_push_more(struct sw_end *end, const void *bytes, size_t size, size_t *sent);
bool sw_finish(struct sw_end *end); /* false: it was sent in part, and the channel is closed for that */
/* Wait until so many bytes are free, the peer is gone, this end is closed, a signal came, or the time has come. */
bool sw_wait_for_room(struct sw_end *end, uint32_t needed, int64_t until_ns);

/* SW_NOTHING with end->why set: it is over. */
enum sw_taken sw_end_take(struct sw_end *end, sw_grow grow, void *owner);

bool sw_end_has_something(struct sw_end *end); /* whether `sw_end_take` would find anything; any thread */
void sw_end_hear_socket(struct sw_end *end, uint32_t events);
int sw_end_join_loop(struct sw_end *end, int loop_fd);

/* _watch.c: one thread that hears when peers go. */
int sw_watch(struct sw_end *end); /* -1 with errno */
void sw_unwatch(struct sw_end *end);
unsigned sw_generation(void); /* another number in a forked child */

#endif
