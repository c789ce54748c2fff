/* The wake-up of a ring's two ends, for the model checker spin: races 2 and 3 of _area.h.
 *
 * One producer sends MESSAGES through a ring of CAPACITY; it sleeps when the ring is full. One consumer takes them; it
 * sleeps when the ring is empty. All accesses here are one by one in one order, which is what the C code's sequentially
 * consistent ones have among each other; each store that the C code makes less ordered is not used here to carry
 * the argument. To sleep is what the kernel does: compare the word and go to sleep in one step.
 *
 * A second thread of the consumer takes the reading role over from it while it sleeps, and gives it back: DISPLACE times.
 *
 * Checked: when nobody can go on, everything was taken (so nobody sleeps for ever), no message is lost or overtaken, and
 * nothing is taken that was not sent. Three ways to do it wrong, in which spin must find a sleep for ever: FORGET_FENCE, the producer looks who
 * sleeps before it publishes; FORGET_ROOM, it does not look for room again after it said that it waits; FORGET_LOOK, the role is
 * given back without a look at the bell.
 */
#ifndef MESSAGES
#define MESSAGES 4
#endif
#define CAPACITY 2
#ifndef DISPLACE
#define DISPLACE 2
#endif
#define NOBODY 0
#define CONSUMER 1
#define OTHER 2

byte head, tail;      /* published positions */
bool rung;            /* the channel's bit on the bell */
byte sleeping;        /* whose slot a producer must wake */
byte slot[3];         /* the words that are slept on */
bool asleep[3];       /* in the kernel, on that word */
byte wanted, room;    /* the producer waits for room */
bool producer_asleep;

byte local_bit;       /* taken from the bell, not yet read */
byte holder = CONSUMER;
bool holder_sleeps;
bool locked;          /* the bell's mutex */
byte taken;

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

inline collect() { if :: rung -> atomic { rung = false; local_bit = 1 } :: else fi }

inline wake(who) { atomic { slot[who]++; asleep[who] = false } }

inline ring_bell() {
    if :: !rung -> rung = true :: else fi;
    if
    :: sleeping != NOBODY ->
        atomic { woken = sleeping; sleeping = NOBODY };
        if :: woken != NOBODY -> wake(woken) :: else fi
    :: else
    fi
}

active proctype Producer()
{
    byte sent, woken, word;
    do
    :: sent == MESSAGES -> break
    :: else ->
        do
        :: sent - tail < CAPACITY -> break
        :: else ->
            word = room;
            wanted = 1;
            if
#ifndef FORGET_ROOM
            :: sent - tail < CAPACITY -> wanted = 0; break
#endif
            :: else ->
                atomic { if :: room == word -> producer_asleep = true :: else fi };
                !producer_asleep;
                wanted = 0
            fi
        od;
        sent++;
#ifdef FORGET_FENCE
        ring_bell();
        head = sent
#else
        head = sent;
        ring_bell()
#endif
    od
}

inline take_all() {
    do
    :: head - tail > 0 ->
        assert(head - tail <= CAPACITY);
        taken++;
        tail++;
        assert(taken == tail);
        if
        :: wanted != 0 ->
            atomic { woke = wanted; wanted = 0 };
            if :: woke != 0 -> atomic { room++; producer_asleep = false } :: else fi
        :: else
        fi
    :: else -> local_bit = 0; break
    od
}

/* The first thread: what sw_bell_sleep does. */
active proctype Consumer()
{
    byte word, woke;
    do
    :: taken == MESSAGES -> break
    :: else ->
        lock();
        word = slot[CONSUMER];
        if
        :: holder == CONSUMER ->
            holder_sleeps = false;
            collect();
            if
            :: local_bit == 0 ->
                holder_sleeps = true;
                sleeping = CONSUMER;
                collect();
            :: else
            fi;
            if
            :: local_bit != 0 ->
                sleeping = NOBODY;
                holder_sleeps = false;
                unlock();
                take_all()
            :: else ->
                unlock();
                atomic { if :: slot[CONSUMER] == word -> asleep[CONSUMER] = true :: else fi };
end_idle:       !asleep[CONSUMER]
            fi
        :: else -> /* displaced: parked */
            unlock();
            atomic { if :: slot[CONSUMER] == word -> asleep[CONSUMER] = true :: else fi };
end_parked: !asleep[CONSUMER]
        fi
    od
}

/* The other thread: takes the role over where the first sleeps, reads what is there, gives it back. */
active proctype Other()
{
    byte turns, woke;
    do
    :: turns == DISPLACE -> break
    :: else ->
        turns++;
        lock();
        if
        :: holder == CONSUMER && holder_sleeps ->
            holder = OTHER;
            holder_sleeps = false;
            sleeping = NOBODY;
            collect();
            unlock();
            if :: local_bit != 0 -> take_all() :: else fi;
            lock();
            holder = CONSUMER;
            holder_sleeps = true;
            sleeping = CONSUMER;
#ifndef FORGET_LOOK
            if
            :: rung || local_bit != 0 -> sleeping = NOBODY; wake(CONSUMER)
            :: else
            fi
#endif
        :: else
        fi;
        unlock()
    od
}

/* When nobody can go on: the consumer may sleep then, but only because it took everything. */
active proctype Judge()
{
    timeout -> assert(taken == MESSAGES && tail == MESSAGES)
}
