"""RingChannel: whole messages through two rings of shared memory; and how to read many channels with one thread.

As a plain ``Channel``
----------------------
``ShmTransport()`` opens channels with a doorbell of their own each. They keep the contract (``send``, ``receive``, ``fileno``,
...) and nothing more need be known. Many of them in one process are read by a selector over their ``fileno()``.

Reading many channels, fast
---------------------------
A process has one *doorbell*; ``ShmTransport(doorbell=Doorbell())`` opens all its channels on it. *Reading is a role*: at any
time at most one thread reads, and any thread may be that one for a while. Each thread waits at a ``Waiter`` of its own
(``doorbell.waiter()``, kept by the thread, cheap to keep, dropped with it)::

    waiter = doorbell.waiter()
    match waiter.wait(timeout_ns):            # C; the GIL is released while it spins or sleeps
        case READS:                           # this thread has the role
            for link in doorbell.ready():     # the tags of the channels that rang (``channel.tag``: whatever you like)
                while (message := link.channel.take()) is not None:
                    ...                       # mine: remember; another's: hand it over, then other_waiter.wake()
            waiter.leave()                    # or wait() again, or lend() and run user code
        case WOKEN:                           # somebody called waiter.wake(), e.g. having read my reply; not the reader
            ...
        case TIMED_OUT:                       # not the reader
            ...

What ``wait`` does: if nobody has the role, or who has it *sleeps* in ``wait``, this thread takes it: the sleeper is displaced,
which it does not notice (it goes on sleeping: no system call, no thread switch). If who has the role is awake, this thread
sleeps beside it. When the role is left, the last one who began to wait gets it, asleep as it is; a message then wakes that
very thread. So:

* a *standby* thread that does nothing but ``while True: wait(); read; `` serves an idle process;
* a caller pushes its call, then takes the role by its own ``wait``, reads its own reply, ``leave``s: the standby never ran;
* 64 callers wait; one of them reads for all, wakes each whose reply came, and hands the role on when its own reply came.

``lend(grace_ns)`` is for a reader that runs user code and hopes to be back soon: messages that come meanwhile wake a standby,
which sleeps on until the grace is over (at most once per grace: further messages cost their sender nothing) and only then
reads. ``reclaim()`` takes the role back if nobody took it: no system call unless a message came meanwhile. Without any
thread in ``wait`` nobody reads until the role is taken again.

``channel.push(parts)`` sends at once or says why not (SENT, FULL, BUSY, TOO_LARGE); ``channel.send`` is push, and waits. Both are
for any thread; neither needs the role. ``channel.take()`` is for the reader.

An event loop reads by ``doorbell.fileno()``: when it is readable, take from what ``ready()`` names until ``ready()`` is empty.

The end of a peer (it closed, or died) rings the doorbell like a message; ``take`` raises ChannelClosed once everything that
was sent has been taken. Close a channel from any thread.
"""
