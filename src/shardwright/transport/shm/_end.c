/* One end of a channel.
 *
 * An endpoint is one descriptor: a socket of a SOCK_SEQPACKET pair. In it waits, from the maker, a packet with the memory
 * of the channel and which lane is whose. Whoever opens an end sends, through the socket, the memory of its doorbell and the
 * number of its bit there, then says in the lane that it did. The socket is kept: that it hangs up is the end of the
 * peer, and a byte through it wakes an event loop.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_end.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x31525753u /* "SWR1" */
#define MOST_DESCRIPTORS 4

enum { PACKET_AREA = 1, PACKET_BELL = 2 };

struct packet {
    uint32_t magic;
    uint8_t kind;
    uint8_t role; /* AREA: which lane this end writes */
    uint16_t reserved;
    uint32_t number; /* AREA: capacity; BELL: index */
};

/* -- packets with descriptors ---------------------------------------------------------------------------------- */

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * MOST_DESCRIPTORS)];
};

static int
send_packet(int socket, const struct packet *packet, int fd)
{
    struct iovec piece = {.iov_base = (void *)packet, .iov_len = sizeof *packet};
    union control control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = CMSG_SPACE(sizeof fd),
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    ssize_t sent;
    do {
        sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof *packet ? 0 : -1;
}

/* The next packet: its size, -1 where there is none (errno). `*fd` is its one descriptor, or -1; others are closed. */
static ssize_t
receive_packet(int socket, struct packet *packet, int *fd)
{
    memset(packet, 0, sizeof *packet);
    *fd = -1;
    struct iovec piece = {.iov_base = packet, .iov_len = sizeof *packet};
    union control control;
    struct msghdr message = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t size;
    bool reset = false; /* said once, when the peer closed without having read all; what it sent is still there */
    for (;;) {
        size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size >= 0 || (errno != EINTR && (errno != ECONNRESET || reset))) {
            break;
        }
        reset |= errno == ECONNRESET;
    }
    if (size < 0) {
        return -1;
    }
    int found = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each != NULL; each = CMSG_NXTHDR(&message, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t n = 0; n < count; n++) {
            int received;
            memcpy(&received, CMSG_DATA(each) + n * sizeof received, sizeof received);
            if (found++ == 0) {
                *fd = received;
            } else {
                close(received);
            }
        }
    }
    if (*fd >= 0 && (found != 1 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)) {
        close(*fd);
        *fd = -1;
    }
    return size;
}

int
sw_pair(uint32_t capacity, int sockets[2])
{
    int memory = sw_memfd("shardwright-ring", (int64_t)sw_area_bytes(capacity));
    if (memory < 0) {
        return -1;
    }
    int failed = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
    if (failed == 0) {
        for (int role = 0; role < 2 && failed == 0; role++) { /* what one end sends waits in the other */
            struct packet packet = {.magic = MAGIC, .kind = PACKET_AREA, .role = (uint8_t)role, .number = capacity};
            failed = send_packet(sockets[1 - role], &packet, memory);
        }
        if (failed != 0) {
            const int why = errno;
            close(sockets[0]);
            close(sockets[1]);
            errno = why;
        }
    }
    const int why = errno;
    close(memory);
    errno = why;
    return failed;
}

/* -- opening --------------------------------------------------------------------------------------------------- */

static void *
map_shared(int fd, size_t size)
{
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        return NULL;
    }
    madvise(mapped, size, MADV_DONTFORK);
    return mapped;
}

static int
map_area(struct sw_end *end, const struct packet *packet, int memory)
{
    const uint32_t capacity = packet->number;
    int seals;
    int64_t size;
    if (packet->magic != MAGIC || packet->kind != PACKET_AREA || packet->role > 1 || memory < 0
        || capacity < SW_MIN_CAPACITY || capacity > SW_MAX_CAPACITY || (capacity & (capacity - 1)) != 0
        || sw_check_memfd(memory, (int64_t)sw_area_bytes(capacity), &seals, &size) != SW_MEMORY_GOOD) {
        errno = EPROTO;
        return -1;
    }
    end->area_bytes = sw_area_bytes(capacity);
    end->area = map_shared(memory, end->area_bytes);
    if (end->area == NULL) {
        return -1;
    }
    unsigned char *bytes = (unsigned char *)end->area + SW_PAGE;
    const int ours = packet->role;
    end->out.lane = &end->area->lanes[ours];
    end->out.bytes = bytes + (size_t)ours * capacity;
    end->out.capacity = capacity;
    end->in.lane = &end->area->lanes[1 - ours];
    end->in.bytes = bytes + (size_t)(1 - ours) * capacity;
    end->in.capacity = capacity;
    return 0;
}

/* Take the peer's doorbell out of the socket, if it is there. */
static void
adopt(struct sw_end *end)
{
    if (atomic_exchange(&end->adopting, true)) {
        return;
    }
    while (atomic_load(&end->peer) == NULL) {
        struct packet packet;
        int fd, seals;
        int64_t bytes;
        ssize_t size = receive_packet(end->socket, &packet, &fd);
        if (size <= 0) {
            break;
        }
        if (fd < 0) {
            continue;
        }
        if (size == (ssize_t)sizeof packet && packet.magic == MAGIC && packet.kind == PACKET_BELL
            && packet.number < SW_BELL_CHANNELS
            && sw_check_memfd(fd, SW_BELL_BYTES, &seals, &bytes) == SW_MEMORY_GOOD) {
            struct sw_bell_page *page = map_shared(fd, SW_BELL_BYTES);
            if (page != NULL) {
                end->peer_index = packet.number;
                atomic_store(&end->peer, page);
            }
        }
        close(fd);
    }
    atomic_store(&end->adopting, false);
}

/* Something for the peer stands in the area. */
static void
ring_peer(struct sw_end *end)
{
    struct sw_bell_page *page = atomic_load_explicit(&end->peer, memory_order_acquire);
    if (page == NULL) {
        if (atomic_load(&end->out.lane->opened) == 0) {
            return; /* it will look when it opens its end */
        }
        adopt(end);
        page = atomic_load(&end->peer);
        if (page == NULL) {
            return; /* it said that its bell is there, and it is not: its own loss */
        }
    }
    if (sw_bell_ring(page, end->peer_index)) {
        send(end->socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    atomic_store_explicit(&end->bell->partner_cpu, atomic_load_explicit(&page->cpu, memory_order_relaxed),
                          memory_order_relaxed);
}

void
sw_end_meet(struct sw_end *end)
{
    struct sw_bell_page *page = atomic_load_explicit(&end->peer, memory_order_acquire);
    if (page != NULL) {
        atomic_store_explicit(&end->bell->partner_cpu, atomic_load_explicit(&page->cpu, memory_order_relaxed),
                              memory_order_relaxed);
    }
}

int
sw_end_open(struct sw_end *end, int socket, struct sw_bell *bell, uint32_t max_message)
{
    memset(end, 0, sizeof *end);
    end->socket = socket;
    end->bell = bell;
    end->watch = -1;
    end->in.max_message = max_message;
    struct packet packet;
    int memory;
    int failed = -1;
    if (receive_packet(socket, &packet, &memory) == (ssize_t)sizeof packet) {
        failed = map_area(end, &packet, memory);
    } else {
        errno = EPROTO;
    }
    int why = errno;
    if (memory >= 0) {
        close(memory);
    }
    if (failed != 0) {
        close(socket);
        errno = why;
        return -1;
    }
    int index = sw_bell_add(bell, end);
    if (index >= 0) {
        end->index = (uint32_t)index;
        const struct packet ours = {.magic = MAGIC, .kind = PACKET_BELL, .number = end->index};
        failed = sw_watch(end);
        if (failed == 0 && bell->loop_fd >= 0) {
            failed = sw_end_join_loop(end, bell->loop_fd);
        }
        if (failed == 0) {
            failed = send_packet(socket, &ours, bell->page_fd);
            if (failed != 0 && (errno == EPIPE || errno == ECONNRESET)) {
                failed = 0; /* the peer is gone already; what it sent may be taken all the same */
            }
        }
        why = errno;
        if (failed != 0) {
            sw_unwatch(end);
            sw_bell_remove(bell, end->index);
        }
    } else {
        why = errno;
        failed = -1;
    }
    if (failed != 0) {
        sw_end_unmap(end);
        errno = why;
        return -1;
    }
    atomic_store(&end->in.lane->opened, 1);
    adopt(end);
    if (atomic_load(&end->peer) != NULL) {
        ring_peer(end); /* so that it takes our bell out of its socket */
    }
    if (sw_end_has_something(end)) {
        sw_bell_mark(bell, end->index);
        sw_bell_rouse(bell);
    }
    return 0;
}

void
sw_end_unmap(struct sw_end *end)
{
    if (end->area != NULL) {
        munmap(end->area, end->area_bytes);
        end->area = NULL;
    }
    struct sw_bell_page *page = atomic_exchange(&end->peer, NULL);
    if (page != NULL) {
        munmap(page, SW_BELL_BYTES);
    }
    if (end->socket >= 0) {
        close(end->socket);
        end->socket = -1;
    }
}

/* Wake a thread of ours that waits for room. */
static void
rouse_sender(struct sw_end *end)
{
    atomic_fetch_add(&end->out.lane->room, 1);
    sw_futex_wake(&end->out.lane->room, INT_MAX);
}

/* A socket that hung up would keep an event loop turning. */
static void
leave_loop(struct sw_end *end)
{
    if (end->bell->loop_fd >= 0) {
        epoll_ctl(end->bell->loop_fd, EPOLL_CTL_DEL, end->socket, NULL);
    }
}

void
sw_end_close(struct sw_end *end, enum sw_why why)
{
    int open = SW_OPEN;
    if (!atomic_compare_exchange_strong(&end->why, &open, (int)why)) {
        return;
    }
    sw_unwatch(end);
    leave_loop(end);
    shutdown(end->socket, SHUT_RDWR);
    rouse_sender(end);
    sw_bell_mark(end->bell, end->index);
    sw_bell_rouse(end->bell);
}

/* -- sending --------------------------------------------------------------------------------------------------- */

static bool
over(struct sw_end *end)
{
    return atomic_load_explicit(&end->why, memory_order_relaxed) != SW_OPEN
           || atomic_load_explicit(&end->dead, memory_order_relaxed);
}

enum sw_sent
sw_push(struct sw_end *end, const struct sw_part *parts, size_t count)
{
    uint64_t size = 0;
    for (size_t n = 0; n < count; n++) {
        size += parts[n].size;
    }
    if (over(end)) {
        return SW_ENDED;
    }
    if (size > end->in.max_message) {
        return SW_TOO_LARGE;
    }
    const uint64_t whole = SW_HEADER + sw_padded(size);
    if (whole > end->out.capacity) {
        return SW_FULL;
    }
    if (atomic_exchange_explicit(&end->sending, true, memory_order_acquire)) {
        return SW_BUSY;
    }
    enum sw_sent outcome = SW_FULL;
    uint64_t free_bytes;
    if (sw_free(&end->out, whole, &free_bytes) == SW_LIES) {
        sw_end_close(end, SW_PEER_LIED);
        outcome = SW_ENDED;
    } else if (free_bytes >= whole) {
        const uint64_t start = end->out.head;
        uint64_t at = start + SW_HEADER;
        sw_write_header(&end->out, start, (uint32_t)size);
        for (size_t n = 0; n < count; n++) {
            sw_write(&end->out, at, parts[n].bytes, parts[n].size);
            at += parts[n].size;
        }
        sw_publish(&end->out, start + whole);
        ring_peer(end);
        outcome = SW_SENT;
    }
    atomic_store_explicit(&end->sending, false, memory_order_release);
    return outcome;
}

enum sw_sent
sw_begin(struct sw_end *end, uint32_t size)
{
    if (over(end)) {
        return SW_ENDED;
    }
    if (size > end->in.max_message) {
        return SW_TOO_LARGE;
    }
    if (atomic_exchange_explicit(&end->sending, true, memory_order_acquire)) {
        return SW_BUSY;
    }
    end->cursor = end->out.head;
    end->size = end->remaining = size;
    end->header_written = false;
    return SW_SENT;
}

enum sw_sent
sw_push_more(struct sw_end *end, const void *bytes, size_t size, size_t *sent)
{
    struct sw_producer *out = &end->out;
    *sent = 0;
    if (over(end)) {
        return SW_ENDED;
    }
    const uint64_t header = end->header_written ? 0 : SW_HEADER;
    const uint64_t unpublished = end->cursor - out->head;
    uint64_t free_bytes;
    if (sw_free(out, unpublished + header + sw_padded(size), &free_bytes) == SW_LIES) {
        sw_end_close(end, SW_PEER_LIED);
        return SW_ENDED;
    }
    if (size > end->remaining) {
        size = end->remaining; /* the caller lied about the size: a defect of ours, which must not become the peer's */
    }
    if (free_bytes < unpublished + header) {
        return SW_FULL;
    }
    if (header != 0) {
        sw_write_header(out, end->cursor, end->size);
        end->cursor += SW_HEADER;
        end->header_written = true;
    }
    const uint64_t room = free_bytes - unpublished - header;
    const size_t piece = size < room ? size : (size_t)room;
    sw_write(out, end->cursor, bytes, piece);
    end->cursor += piece;
    end->remaining -= (uint32_t)piece;
    if (end->remaining == 0) {
        end->cursor = sw_padded(end->cursor);
    }
    const uint64_t head = end->cursor & ~(uint64_t)7;
    if (head != out->head) {
        sw_publish(out, head);
        ring_peer(end);
    }
    *sent = piece;
    return piece == size ? SW_SENT : SW_FULL;
}

bool
sw_finish(struct sw_end *end)
{
    const bool in_part = end->header_written && end->remaining != 0;
    if (in_part) {
        sw_end_close(end, SW_SENT_IN_PART);
    }
    atomic_store_explicit(&end->sending, false, memory_order_release);
    return !in_part;
}

bool
sw_wait_for_room(struct sw_end *end, uint32_t needed, int64_t until_ns)
{
    struct sw_producer *out = &end->out;
    const uint64_t unpublished = end->cursor - out->head;
    const uint64_t wanted = unpublished + needed < out->capacity ? unpublished + needed : out->capacity;
    bool good = false;
    for (;;) {
        const uint32_t word = atomic_load(&out->lane->room);
        atomic_store(&out->lane->wanted, (uint32_t)wanted);
        uint64_t free_bytes = 0;
        if (sw_free(out, wanted, &free_bytes) == SW_LIES) {
            sw_end_close(end, SW_PEER_LIED);
        }
        if (over(end) || free_bytes >= wanted) {
            good = true;
            break;
        }
        const int64_t now = sw_now();
        if (now >= until_ns) {
            break;
        }
        const int64_t tick = now + SW_TICK_NS; /* the peer may not keep its word to wake us */
        if (sw_futex_wait(&out->lane->room, word, tick < until_ns ? tick : until_ns) < 0 && errno == EINTR) {
            break;
        }
    }
    atomic_store(&out->lane->wanted, 0);
    return good;
}

/* -- taking ---------------------------------------------------------------------------------------------------- */

bool
sw_end_has_something(struct sw_end *end)
{
    const struct sw_lane *lane = end->in.lane;
    return atomic_load(&lane->head) != atomic_load(&lane->tail) || atomic_load(&end->dead)
           || atomic_load(&end->why) != SW_OPEN;
}

enum sw_taken
sw_end_take(struct sw_end *end, sw_grow grow, void *owner)
{
    if (atomic_load_explicit(&end->why, memory_order_relaxed) != SW_OPEN) {
        return SW_NOTHING;
    }
    const bool dead = atomic_load(&end->dead); /* asked before we look: then there is nothing that we do not see */
    bool wake = false;
    enum sw_taken taken = sw_take(&end->in, grow, owner, &wake);
    if (wake) {
        atomic_fetch_add(&end->in.lane->room, 1);
        sw_futex_wake(&end->in.lane->room, INT_MAX);
    }
    if (taken == SW_VIOLATION) {
        sw_end_close(end, SW_PEER_LIED);
    } else if (taken == SW_TOO_LONG) {
        sw_end_close(end, SW_PEER_TOO_LONG);
    } else if (taken == SW_NOTHING || (taken == SW_MESSAGE && end->in.head == end->in.tail)) {
        if (taken == SW_NOTHING && dead) {
            sw_end_close(end, end->in.within ? SW_PEER_GONE_WITHIN : SW_PEER_GONE);
            return SW_NOTHING;
        }
        if (taken == SW_NOTHING && atomic_load_explicit(&end->peer, memory_order_relaxed) == NULL
            && atomic_load(&end->out.lane->opened) != 0) {
            adopt(end);
        }
        if (taken == SW_NOTHING || atomic_load(&end->in.lane->head) == end->in.tail) {
            /* Nothing is left: the reader need not come again before the next message. */
            const uint64_t bit = (uint64_t)1 << (end->index % 64);
            atomic_fetch_and(&end->bell->local[end->index / 64], ~bit);
            if (atomic_load(&end->dead) || atomic_load(&end->why) != SW_OPEN) {
                sw_bell_mark(end->bell, end->index);
            }
        }
    }
    return taken;
}

/* -- the socket, in an event loop ------------------------------------------------------------------------------ */

int
sw_end_join_loop(struct sw_end *end, int loop_fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = end->index};
    return epoll_ctl(loop_fd, EPOLL_CTL_ADD, end->socket, &event);
}

void
sw_end_hear_socket(struct sw_end *end, uint32_t events)
{
    adopt(end);
    for (int n = 0; n < 16; n++) { /* a peer that sends more keeps us coming back, as one that sends messages does */
        struct packet packet;
        int fd;
        ssize_t size = receive_packet(end->socket, &packet, &fd);
        if (fd >= 0) {
            close(fd);
        }
        if (size <= 0) {
            break;
        }
    }
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        leave_loop(end);
        atomic_store(&end->dead, true);
        sw_bell_mark(end->bell, end->index);
        rouse_sender(end);
    }
}
