/* Drives the C of shared-memory channels without Python: under sanitizers, an instruction counter, and a fuzzer.
 *
 *   ring_harness stream SEED MESSAGES   both ways at once, sizes of all kinds; every byte checked
 *   ring_harness roles SEED CALLS       callers and a standby share the reading role of one doorbell; nobody waits in vain
 *   ring_harness hostile SEED SECONDS   one side is used honestly while a thread writes anything anywhere into what is shared
 *   ring_harness count ROUNDS           so many round trips in one thread, for counting instructions
 *   ring_harness fuzz SEED RUNS         the fuzzer's entry with random input, where there is no libFuzzer
 *
 * With -DFUZZER it holds only the entry of libFuzzer. Prints what it did; ends with a message and status 1 on a failure.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "_end.h"

#define CHECK(condition, what)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, what, errno);                                \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define SECOND INT64_C(1000000000)
#define MAX_MESSAGE (1u << 20)

static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* -- one side -------------------------------------------------------------------------------------------------- */

struct side {
    struct sw_bell bell;
    struct sw_end end;
    int slot;
};

struct message {
    unsigned char *bytes;
    size_t reserved;
};

static unsigned char *
grow(void *owner, size_t bytes, size_t total, bool first)
{
    struct message *message = owner;
    CHECK(total <= MAX_MESSAGE && bytes <= total, "more memory is asked for than a message may have");
    if (first) {
        free(message->bytes);
        message->bytes = NULL;
        message->reserved = 0;
    }
    if (message->bytes == NULL || message->reserved < bytes) {
        unsigned char *larger = realloc(message->bytes, bytes ? bytes : 1);
        CHECK(larger != NULL, "no memory");
        message->bytes = larger; /* exactly as large as asked: a byte too many is seen by the sanitizer */
        message->reserved = bytes;
    }
    return message->bytes;
}

static void
open_side(struct side *side, int socket)
{
    CHECK(sw_bell_open(&side->bell, 2000) == 0, "no doorbell");
    CHECK(sw_end_open(&side->end, socket, &side->bell, MAX_MESSAGE) == 0, "no end");
    side->slot = sw_bell_take_slot(&side->bell);
    CHECK(side->slot >= 0, "no slot");
}

static void
close_side(struct side *side)
{
    sw_end_close(&side->end, SW_CLOSED_HERE);
    sw_bell_remove(&side->bell, side->end.index);
    sw_end_unmap(&side->end);
    sw_bell_close(&side->bell);
    sw_bell_destroy(&side->bell, false);
}

static enum sw_waited
wait_at(struct side *side, int slot, int64_t until_ns)
{
    enum sw_waited outcome = sw_bell_begin(&side->bell, slot);
    while (outcome == SW_MUST_SLEEP || outcome == SW_INTERRUPTED) {
        outcome = sw_bell_sleep(&side->bell, slot, until_ns, true);
    }
    return outcome;
}

/* Send bytes, however large, waiting for room; false when the channel ended. */
static bool
send_all(struct sw_end *end, const unsigned char *bytes, size_t size, int64_t patience_ns)
{
    const struct sw_part parts[] = {{bytes, size / 3}, {bytes + size / 3, size - size / 3}};
    for (;;) {
        const enum sw_sent sent = sw_push(end, parts, 2);
        if (sent != SW_BUSY && sent != SW_FULL) {
            return sent == SW_SENT;
        }
        if (sent == SW_FULL) {
            break;
        }
    }
    if (sw_begin(end, (uint32_t)size) != SW_SENT) {
        return false;
    }
    bool good = true;
    for (size_t at = 0; good;) {
        size_t piece;
        const enum sw_sent sent = sw_push_more(end, bytes + at, size - at, &piece);
        at += piece;
        if (sent == SW_SENT && at == size) {
            break;
        }
        good = sent != SW_ENDED && sw_wait_for_room(end, 4096, sw_now() + patience_ns);
    }
    return sw_finish(end) && good;
}

/* -- stream ---------------------------------------------------------------------------------------------------- */

struct stream {
    struct side *side;
    uint64_t seed;
    uint32_t messages;
};

static size_t
size_of(uint64_t *random)
{
    static const uint32_t most[] = {1, 8, 64, 64, 300, 300, 5000, 70000, 300000};
    return (size_t)(next_random(random) % most[next_random(random) % 9]);
}

static unsigned char
byte_at(uint32_t number, size_t at)
{
    return (unsigned char)(number * 31 + at * 7 + (at >> 8));
}

static void *
send_stream(void *argument)
{
    struct stream *stream = argument;
    uint64_t random = stream->seed;
    unsigned char *bytes = malloc(MAX_MESSAGE);
    CHECK(bytes != NULL, "no memory");
    for (uint32_t number = 0; number < stream->messages; number++) {
        const size_t size = size_of(&random);
        for (size_t at = 0; at < size; at++) {
            bytes[at] = byte_at(number, at);
        }
        CHECK(send_all(&stream->side->end, bytes, size, 20 * SECOND), "a message could not be sent");
    }
    free(bytes);
    return NULL;
}

static void *
take_stream(void *argument)
{
    struct stream *stream = argument;
    uint64_t random = stream->seed;
    struct message message = {0};
    for (uint32_t number = 0; number < stream->messages;) {
        const enum sw_taken taken = sw_end_take(&stream->side->end, grow, &message);
        if (taken == SW_NOTHING) {
            CHECK(wait_at(stream->side, stream->side->slot, sw_now() + 20 * SECOND) == SW_READS, "a wake-up was lost");
            continue;
        }
        CHECK(taken == SW_MESSAGE, "an honest peer was taken for a liar");
        const size_t size = size_of(&random);
        CHECK(stream->side->end.in.size == size, "a message has another size");
        for (size_t at = 0; at < size; at++) {
            CHECK(message.bytes[at] == byte_at(number, at), "a message arrived changed");
        }
        number++;
    }
    free(message.bytes);
    return NULL;
}

static void
run_stream(uint64_t seed, uint32_t messages)
{
    int sockets[2];
    CHECK(sw_pair(16384, sockets) == 0, "no pair");
    struct side *sides = calloc(2, sizeof *sides);
    open_side(&sides[0], sockets[0]);
    open_side(&sides[1], sockets[1]);
    struct stream there = {&sides[0], seed, messages}, back = {&sides[1], seed + 1, messages};
    struct stream from_there = {&sides[1], seed, messages}, from_back = {&sides[0], seed + 1, messages};
    pthread_t threads[4];
    pthread_create(&threads[0], NULL, send_stream, &there);
    pthread_create(&threads[1], NULL, send_stream, &back);
    pthread_create(&threads[2], NULL, take_stream, &from_there);
    pthread_create(&threads[3], NULL, take_stream, &from_back);
    for (int n = 0; n < 4; n++) {
        pthread_join(threads[n], NULL);
    }
    close_side(&sides[0]);
    close_side(&sides[1]);
    free(sides);
    printf("%u messages each way\n", messages);
}

/* -- roles ----------------------------------------------------------------------------------------------------- */

#define CALLERS 6

struct caller {
    int slot;
    _Atomic uint32_t answered;
};

static struct side *near_side, *far_side;
static struct caller callers[CALLERS];
static uint32_t calls_each;
static _Atomic bool enough;
static _Atomic uint32_t handed_over, own_reads, standby_reads, lent, reclaimed;

struct question {
    uint32_t caller, number;
};

/* The reader: take what is there, hand over what is another's. */
static void
read_all(int me)
{
    struct message message = {0};
    enum sw_taken taken;
    while ((taken = sw_end_take(&near_side->end, grow, &message)) == SW_MESSAGE) {
        struct question answer;
        CHECK(near_side->end.in.size == sizeof answer, "an answer has another size");
        memcpy(&answer, message.bytes, sizeof answer);
        atomic_store(&callers[answer.caller].answered, answer.number);
        if ((int)answer.caller != me) {
            atomic_fetch_add(&handed_over, 1);
            sw_bell_wake(&near_side->bell, callers[answer.caller].slot);
        }
    }
    CHECK(taken == SW_NOTHING, "an honest peer was taken for a liar");
    free(message.bytes);
}

static void *
call(void *argument)
{
    const uint32_t me = (uint32_t)(uintptr_t)argument;
    uint64_t random = 88172645463325252u + me;
    struct caller *self = &callers[me];
    for (uint32_t number = 1; number <= calls_each; number++) {
        const struct question question = {me, number};
        const struct sw_part part = {&question, sizeof question};
        enum sw_sent sent;
        while ((sent = sw_push(&near_side->end, &part, 1)) == SW_BUSY || sent == SW_FULL) {
            sw_pause();
        }
        CHECK(sent == SW_SENT, "a call could not be sent");
        bool reads = false;
        while (atomic_load(&self->answered) != number) {
            const enum sw_waited outcome = wait_at(near_side, self->slot, sw_now() + 20 * SECOND);
            CHECK(outcome != SW_TIMED_OUT, "a wake-up was lost");
            reads = outcome == SW_READS;
            if (reads) {
                atomic_fetch_add(&own_reads, 1);
                read_all((int)me);
            }
        }
        if (reads && next_random(&random) % 4 == 0) { /* as if user code ran */
            atomic_fetch_add(&lent, 1);
            sw_bell_lend(&near_side->bell, self->slot, next_random(&random) % 200000);
            for (uint64_t n = next_random(&random) % 3000; n > 0; n--) {
                sw_pause();
            }
            if (sw_bell_reclaim(&near_side->bell, self->slot)) {
                atomic_fetch_add(&reclaimed, 1);
                read_all((int)me);
            }
        }
        sw_bell_leave(&near_side->bell, self->slot);
    }
    return NULL;
}

static void *
stand_by(void *nothing)
{
    (void)nothing;
    for (;;) {
        const enum sw_waited outcome = wait_at(near_side, near_side->slot, SW_NEVER);
        if (outcome == SW_WOKEN) {
            return NULL;
        }
        if (outcome == SW_READS) {
            atomic_fetch_add(&standby_reads, 1);
            read_all(-1);
        }
    }
}

static void *
echo(void *nothing)
{
    (void)nothing;
    struct message message = {0};
    for (;;) {
        const enum sw_taken taken = sw_end_take(&far_side->end, grow, &message);
        if (taken == SW_MESSAGE) {
            CHECK(send_all(&far_side->end, message.bytes, far_side->end.in.size, 20 * SECOND), "no room to answer");
        } else if (atomic_load(&enough)) {
            break;
        } else {
            wait_at(far_side, far_side->slot, SW_NEVER);
            if (atomic_exchange(&far_side->bell.poked, false)) {
                continue;
            }
        }
    }
    free(message.bytes);
    return NULL;
}

static void
run_roles(uint32_t calls)
{
    int sockets[2];
    CHECK(sw_pair(16384, sockets) == 0, "no pair");
    struct side *sides = calloc(2, sizeof *sides);
    near_side = &sides[0];
    far_side = &sides[1];
    open_side(near_side, sockets[0]);
    open_side(far_side, sockets[1]);
    calls_each = calls;
    pthread_t standby, echoer, threads[CALLERS];
    pthread_create(&standby, NULL, stand_by, NULL);
    pthread_create(&echoer, NULL, echo, NULL);
    for (uintptr_t n = 0; n < CALLERS; n++) {
        callers[n].slot = sw_bell_take_slot(&near_side->bell);
        CHECK(callers[n].slot >= 0, "no slot");
    }
    for (uintptr_t n = 0; n < CALLERS; n++) {
        pthread_create(&threads[n], NULL, call, (void *)n);
    }
    for (int n = 0; n < CALLERS; n++) {
        pthread_join(threads[n], NULL);
    }
    sw_bell_wake(&near_side->bell, near_side->slot);
    pthread_join(standby, NULL);
    atomic_store(&enough, true);
    sw_bell_poke(&far_side->bell);
    pthread_join(echoer, NULL);
    close_side(near_side);
    close_side(far_side);
    free(sides);
    printf("%u calls, %u read by their caller's thread, %u handed over, %u times the standby read, %u of %u loans reclaimed\n",
           calls * CALLERS, own_reads, handed_over, standby_reads, reclaimed, lent);
}

/* -- hostile --------------------------------------------------------------------------------------------------- */

struct attack {
    void *area;
    size_t area_bytes;
    struct sw_bell_page *bell;
    int area_fd;
    uint64_t seed;
    _Atomic bool stop;
};

/* All of it is what a hostile process can do: it has the same pages mapped. */
__attribute__((no_sanitize("thread"))) static void *
write_anything(void *argument)
{
    struct attack *attack = argument;
    uint64_t random = attack->seed;
    struct sw_area *area = attack->area;
    while (!atomic_load(&attack->stop)) {
        const uint64_t what = next_random(&random);
        struct sw_lane *lane = &area->lanes[what >> 8 & 1];
        _Atomic uint64_t *position = what >> 9 & 1 ? &lane->head : &lane->tail;
        switch (what % 10) {
        case 0:
            atomic_store((_Atomic uint64_t *)area + next_random(&random) % (attack->area_bytes / 8), next_random(&random));
            break;
        case 1:
            atomic_fetch_add(position, next_random(&random) % 5 * 8);
            break;
        case 2:
            atomic_store(position, next_random(&random) >> (next_random(&random) % 64));
            break;
        case 3:
            atomic_store(position, atomic_load(&lane->head) + next_random(&random) % 64);
            break;
        case 4: /* a header that may be believed for a while */
            atomic_store((_Atomic uint64_t *)((unsigned char *)area + SW_PAGE) + (what >> 16) % ((attack->area_bytes - SW_PAGE) / 8),
                         next_random(&random) >> (32 + next_random(&random) % 32));
            break;
        case 5:
            atomic_store(&lane->wanted, (uint32_t)next_random(&random));
            break;
        case 6:
            atomic_store((_Atomic uint32_t *)attack->bell + next_random(&random) % (sizeof *attack->bell / 4),
                         (uint32_t)next_random(&random));
            break;
        case 7:
            atomic_store(&attack->bell->sleeping, what >> 32 & 1 ? 0 : (uint32_t)next_random(&random));
            break;
        case 8:
            fallocate(attack->area_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(next_random(&random) % 8 * SW_PAGE),
                      SW_PAGE);
            break;
        default: /* and tries what the seals forbid */
            CHECK(ftruncate(attack->area_fd, 0) != 0, "the memory of a channel could be cut");
        }
        for (uint64_t n = next_random(&random) % 256; n > 0; n--) {
            sw_pause();
        }
    }
    return NULL;
}

/* What waits in the socket with its descriptor, which stays there: what a peer that is no honest one keeps for itself. */
static int
peek_descriptor(int socket)
{
    char bytes[64];
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec into = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) {
        return -1;
    }
    const struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (first != NULL && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS) {
        memcpy(&fd, CMSG_DATA(first), sizeof fd);
    }
    return fd;
}

static void
run_hostile(uint64_t seed, int64_t seconds)
{
    const int64_t until = sw_now() + seconds * SECOND;
    uint64_t random = seed, messages = 0, ends[8] = {0}, channels = 0;
    static unsigned char bytes[40000];
    struct message message = {0};
    struct side *victim = calloc(1, sizeof *victim);
    while (sw_now() < until) {
        int sockets[2];
        CHECK(sw_pair(4096u << next_random(&random) % 3, sockets) == 0, "no pair");
        open_side(victim, sockets[0]);
        struct attack attack = {.area = victim->end.area, .area_bytes = victim->end.area_bytes, .seed = next_random(&random)};
        attack.area_fd = peek_descriptor(sockets[1]);
        CHECK(attack.area_fd >= 0, "the attacker has no descriptor");
        struct side *attacker = calloc(1, sizeof *attacker);
        open_side(attacker, sockets[1]);
        attack.area = attacker->end.area; /* its own mappings of the same memory */
        attack.bell = atomic_load(&attacker->end.peer);
        CHECK(attack.bell != NULL, "the second to open has the first one's bell");
        pthread_t thread;
        pthread_create(&thread, NULL, write_anything, &attack);
        bool alive = true;
        for (int turn = 0; alive && turn < 2000; turn++) {
            const enum sw_taken taken = sw_end_take(&victim->end, grow, &message);
            messages += taken == SW_MESSAGE;
            alive = atomic_load(&victim->end.why) == SW_OPEN;
            if (alive && taken == SW_NOTHING && next_random(&random) % 4 == 0) {
                wait_at(victim, victim->slot, sw_now() + (int64_t)(next_random(&random) % 300000));
                sw_bell_leave(&victim->bell, victim->slot);
            }
            if (alive && next_random(&random) % 2 == 0) {
                send_all(&victim->end, bytes, next_random(&random) % sizeof bytes, 300000);
                alive = atomic_load(&victim->end.why) == SW_OPEN;
            }
        }
        ends[atomic_load(&victim->end.why)]++;
        channels++;
        atomic_store(&attack.stop, true);
        pthread_join(thread, NULL);
        close(attack.area_fd);
        close_side(attacker);
        close_side(victim);
        free(attacker);
    }
    free(victim);
    free(message.bytes);
    printf("%llu channels under attack: %llu ended for lies, %llu too long, %llu in part, %llu went on; %llu messages believed\n",
           (unsigned long long)channels, (unsigned long long)ends[SW_PEER_LIED], (unsigned long long)ends[SW_PEER_TOO_LONG],
           (unsigned long long)ends[SW_SENT_IN_PART], (unsigned long long)ends[SW_OPEN], (unsigned long long)messages);
}

static unsigned char *
no_growth(void *owner, size_t bytes, size_t total, bool first)
{
    (void)first;
    CHECK(bytes == total && total <= 64, "another message than was sent");
    return owner;
}

/* -- count ----------------------------------------------------------------------------------------------------- */

static void
run_count(uint32_t rounds)
{
    int sockets[2];
    CHECK(sw_pair(65536, sockets) == 0, "no pair");
    struct side *sides = calloc(2, sizeof *sides);
    open_side(&sides[0], sockets[0]);
    open_side(&sides[1], sockets[1]);
    unsigned char bytes[64] = {0};
    const struct sw_part parts[] = {{bytes, 24}, {bytes, 40}};
    unsigned char message[64];
    for (uint32_t round = 0; round < rounds; round++) {
        for (int n = 0; n < 2; n++) {
            struct side *from = &sides[n], *to = &sides[1 - n];
            CHECK(sw_push(&from->end, parts, 2) == SW_SENT, "not sent");
            CHECK(sw_bell_begin(&to->bell, to->slot) == SW_READS, "not heard");
            CHECK(sw_end_take(&to->end, no_growth, message) == SW_MESSAGE, "not taken");
            sw_bell_leave(&to->bell, to->slot);
        }
    }
    close_side(&sides[0]);
    close_side(&sides[1]);
    free(sides);
    printf("%u round trips\n", rounds);
}

/* -- fuzz ------------------------------------------------------------------------------------------------------ */

/* The input is what a hostile peer does to the area, between what the victim does: an order byte, then its operands. */
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static _Alignas(4096) unsigned char memory[SW_PAGE + 2 * 4096];
    memset(memory, 0, sizeof memory);
    struct sw_area *area = (struct sw_area *)(void *)memory;
    struct sw_producer out = {.lane = &area->lanes[0], .bytes = memory + SW_PAGE, .capacity = 4096};
    struct sw_consumer in = {
        .lane = &area->lanes[1], .bytes = memory + SW_PAGE + 4096, .capacity = 4096, .max_message = MAX_MESSAGE};
    struct message message = {0};
    bool good = true;
    while (good && size > 0) {
        const uint8_t order = *input++;
        size--;
        uint64_t operand = 0;
        const size_t width = (size_t)(order >> 4 & 7) + 1 < size ? (size_t)(order >> 4 & 7) + 1 : size;
        memcpy(&operand, input, width);
        switch (order & 7) {
        case 0: /* head := operand */
            atomic_store(&area->lanes[1].head, operand);
            break;
        case 1: /* head += operand */
            atomic_fetch_add(&area->lanes[1].head, operand & ~(uint64_t)(order & 8 ? 7 : 0));
            break;
        case 2: /* a header where the next is read */
            memcpy(memory + SW_PAGE + 4096 + (in.tail & 4095), &operand, 8);
            break;
        case 3: { /* bytes anywhere in the lane */
            const size_t at = operand & 4095, most = 4096 - at < size ? 4096 - at : size;
            memcpy(memory + SW_PAGE + 4096 + at, input, most);
            break;
        }
        case 4: /* the other lane's tail, and room */
            atomic_store(&area->lanes[0].tail, order & 8 ? out.head : operand);
            atomic_store(&area->lanes[1].wanted, (uint32_t)operand);
            break;
        case 5: {
            uint64_t free_bytes = 0;
            const uint64_t whole = SW_HEADER + sw_padded(operand & 1023);
            good = sw_free(&out, whole, &free_bytes) == SW_GOOD;
            CHECK(!good || free_bytes <= 4096, "more is free than there is");
            if (good && free_bytes >= whole) {
                unsigned char bytes[1024] = {0};
                sw_write_header(&out, out.head, (uint32_t)(operand & 1023));
                sw_write(&out, out.head + SW_HEADER, bytes, operand & 1023);
                sw_publish(&out, out.head + whole);
            }
            break;
        }
        default: {
            bool wake = false;
            const enum sw_taken taken = sw_take(&in, grow, &message, &wake);
            good = taken == SW_NOTHING || taken == SW_MESSAGE;
            CHECK(in.head - in.tail <= 4096 && (!in.within || in.filled <= in.size), "the consumer believes a lie");
            if (taken == SW_MESSAGE && in.size > 0) {
                volatile unsigned char last = message.bytes[in.size - 1]; /* all of it is there */
                (void)last;
            }
            break;
        }
        }
        input += width;
        size -= width;
    }
    free(message.bytes);
    return 0;
}

#ifndef FUZZER
static void
run_fuzz(uint64_t seed, uint64_t runs)
{
    uint64_t random = seed;
    static uint8_t input[512];
    for (uint64_t run = 0; run < runs; run++) {
        const size_t size = next_random(&random) % sizeof input;
        for (size_t at = 0; at < size; at++) {
            const uint64_t value = next_random(&random);
            input[at] = value >> 8 & 3 ? (uint8_t)(value & 0x9f) : (uint8_t)value; /* short operands are the likely ones */
        }
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%llu inputs\n", (unsigned long long)runs);
}

int
main(int count, char **words)
{
    const uint64_t first = count > 2 ? strtoull(words[2], NULL, 0) : 0, second = count > 3 ? strtoull(words[3], NULL, 0) : 0;
    const char *what = count > 1 ? words[1] : "";
    if (strcmp(what, "stream") == 0) {
        run_stream(first, (uint32_t)second);
    } else if (strcmp(what, "roles") == 0) {
        run_roles((uint32_t)second);
    } else if (strcmp(what, "hostile") == 0) {
        run_hostile(first, (int64_t)second);
    } else if (strcmp(what, "count") == 0) {
        run_count((uint32_t)first);
    } else if (strcmp(what, "fuzz") == 0) {
        run_fuzz(first, second);
    } else {
        fprintf(stderr, "stream, roles, hostile, count or fuzz\n");
        return 2;
    }
    return 0;
}
#endif
