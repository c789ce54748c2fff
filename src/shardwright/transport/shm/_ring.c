/* The Python side of shared-memory channels: Doorbell, Waiter and Ring over _bell.c and _end.c, and sealed memory.
 *
 * Built against the stable ABI of Python 3.11: one wheel serves every later version. All methods run with the GIL, but for
 * Waiter.wait and Ring.wait_for_room, which give it up while they sleep. (A free-threaded interpreter turns its GIL on when
 * it imports this module, for it does not say that it needs none.)
 *
 * Over 400 lines, for it is one module: three types and a table each of their methods.
 */

#include "_ring.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "_flat.h"
#include "_floor.h"
#include "_memory.h"

#define DEFAULT_SPIN_NS 20000
#define FEW_PARTS 16

static PyObject *
set_errno(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
generic(PyObject *type, PyObject *item)
{
    return Py_GenericAlias(type, item);
}

/* -- memory ---------------------------------------------------------------------------------------------------- */

static PyObject *
ring_create_memfd(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "sn:create_memfd", &name, &size)) {
        return NULL;
    }
    if (size <= 0) {
        PyErr_Format(PyExc_ValueError, "size must be at least 1 byte, not %zd", size);
        return NULL;
    }
    int fd = sw_memfd(name, size);
    if (fd < 0) {
        return set_errno();
    }
    PyObject *result = PyLong_FromLong(fd);
    if (result == NULL) {
        close(fd);
    }
    return result;
}

static PyObject *
ring_seals(PyObject *Py_UNUSED(module), PyObject *descriptor)
{
    int fd = PyObject_AsFileDescriptor(descriptor);
    if (fd < 0) {
        return NULL;
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        return set_errno();
    }
    return PyLong_FromLong(seals);
}

static PyObject *
ring_check_memfd(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *descriptor;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "On:check_memfd", &descriptor, &size)) {
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(descriptor);
    if (fd < 0) {
        return NULL;
    }
    int seals;
    int64_t found;
    switch (sw_check_memfd(fd, size, &seals, &found)) {
    case SW_MEMORY_GOOD:
        return Py_NewRef(Py_None);
    case SW_MEMORY_ERRNO:
        return set_errno();
    case SW_MEMORY_READ_ONLY:
        PyErr_SetString(PyExc_ValueError, "the descriptor is not open for reading and writing");
        return NULL;
    case SW_MEMORY_NO_SEALS:
        PyErr_SetString(PyExc_ValueError, "the descriptor is not of a kind that carries seals");
        return NULL;
    case SW_MEMORY_UNSEALED:
        return PyErr_Format(PyExc_ValueError, "seals 0x%x lack 0x%x", seals, SW_REQUIRED_SEALS & ~seals);
    case SW_MEMORY_SEALED_AGAINST_WRITING:
        return PyErr_Format(PyExc_ValueError, "seals 0x%x forbid writing", seals);
    case SW_MEMORY_NO_FILE:
        PyErr_SetString(PyExc_ValueError, "the descriptor is not of a memory file");
        return NULL;
    case SW_MEMORY_OTHER_SIZE:
        break;
    }
    return PyErr_Format(PyExc_ValueError, "the memory holds %lld bytes, not %zd", (long long)found, size);
}

static PyObject *
ring_create_pair(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const long capacity = PyLong_AsLong(argument);
    if (capacity == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (capacity < (long)SW_MIN_CAPACITY || capacity > (long)SW_MAX_CAPACITY || (capacity & (capacity - 1)) != 0) {
        return PyErr_Format(PyExc_ValueError, "capacity must be a power of two from %u to %u, not %ld",
                            SW_MIN_CAPACITY, SW_MAX_CAPACITY, capacity);
    }
    int sockets[2];
    if (sw_pair((uint32_t)capacity, sockets) < 0) {
        return set_errno();
    }
    PyObject *both = Py_BuildValue("(ii)", sockets[0], sockets[1]);
    if (both == NULL) {
        close(sockets[0]);
        close(sockets[1]);
    }
    return both;
}

/* -- the floor of benchmarks ----------------------------------------------------------------------------------- */

static struct sw_floor *
map_floor(int fd)
{
    void *floor = mmap(NULL, sizeof(struct sw_floor), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (floor == MAP_FAILED) {
        set_errno();
        return NULL;
    }
    return floor;
}

static PyObject *
ring_floor_answer(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    unsigned int size;
    long long spin_ns;
    if (!PyArg_ParseTuple(args, "iIL:floor_answer", &fd, &size, &spin_ns)) {
        return NULL;
    }
    if (size > SW_FLOOR_MESSAGE) {
        PyErr_SetString(PyExc_ValueError, "the message is too large");
        return NULL;
    }
    struct sw_floor *floor = map_floor(fd);
    if (floor == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    sw_floor_answer(floor, size, spin_ns);
    Py_END_ALLOW_THREADS
    munmap(floor, sizeof *floor);
    return Py_NewRef(Py_None);
}

static PyObject *
ring_floor_ask(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, last;
    unsigned int size, rounds;
    long long gap_ns, spin_ns;
    if (!PyArg_ParseTuple(args, "iIILLp:floor_ask", &fd, &size, &rounds, &gap_ns, &spin_ns, &last)) {
        return NULL;
    }
    if (size > SW_FLOOR_MESSAGE || rounds > 10000000) {
        PyErr_SetString(PyExc_ValueError, "the message is too large, or too many rounds");
        return NULL;
    }
    PyObject *taken = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)rounds * 8);
    struct sw_floor *floor = taken == NULL ? NULL : map_floor(fd);
    if (floor == NULL) {
        Py_XDECREF(taken);
        return NULL;
    }
    int64_t *taken_ns = (int64_t *)(void *)PyByteArray_AsString(taken);
    Py_BEGIN_ALLOW_THREADS
    sw_floor_ask(floor, size, rounds, gap_ns, spin_ns, taken_ns, last != 0);
    Py_END_ALLOW_THREADS
    munmap(floor, sizeof *floor);
    return taken;
}

/* -- Doorbell -------------------------------------------------------------------------------------------------- */

static bool
usable(Doorbell *self)
{
    if (self->generation != sw_generation()) {
        PyErr_SetString(PyExc_ValueError, "the doorbell belongs to the process that this one was forked from");
        return false;
    }
    if (self->bell.closed) {
        PyErr_SetString(PyExc_ValueError, "the doorbell was closed");
        return false;
    }
    return true;
}

static PyObject *
doorbell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    long long spin_ns = DEFAULT_SPIN_NS;
    if (kwargs != NULL && PyDict_Size(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "Doorbell takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "|L:Doorbell", &spin_ns)) {
        return NULL;
    }
    if (spin_ns < 0) {
        PyErr_SetString(PyExc_ValueError, "spin_ns must not be negative");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Doorbell *self = (Doorbell *)allocate(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->generation = sw_generation();
    if (sw_bell_open(&self->bell, spin_ns) < 0) {
        set_errno();
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
doorbell_dealloc(Doorbell *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    sw_bell_destroy(&self->bell, self->generation != sw_generation());
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *
doorbell_waiter(Doorbell *self, PyObject *Py_UNUSED(nothing))
{
    if (!usable(self)) {
        return NULL;
    }
    module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    allocfunc allocate = (allocfunc)PyType_GetSlot(state->waiter, Py_tp_alloc);
    Waiter *waiter = (Waiter *)allocate(state->waiter, 0);
    if (waiter == NULL) {
        return NULL;
    }
    waiter->slot = sw_bell_take_slot(&self->bell);
    if (waiter->slot < 0) {
        set_errno();
        Py_DECREF(waiter);
        return NULL;
    }
    waiter->doorbell = (Doorbell *)Py_NewRef((PyObject *)self);
    return (PyObject *)waiter;
}

static int take_into(Ring *self, PyObject *pairs);

Ring *
sw_ring_of(struct sw_bell *bell, uint32_t index)
{
    struct sw_end *end = index < bell->room_for_ends ? bell->ends[index] : NULL;
    if (end == NULL) { /* a hostile peer set the bit, or the channel was closed */
        atomic_fetch_and(&bell->local[index / 64], ~((uint64_t)1 << (index % 64)));
        return NULL;
    }
    return (Ring *)((char *)end - offsetof(Ring, end));
}

static PyObject *
doorbell_ready(Doorbell *self, PyObject *Py_UNUSED(nothing))
{
    struct sw_bell *bell = &self->bell;
    if (!usable(self)) {
        return NULL;
    }
    PyObject *tags = PyList_New(0);
    if (tags == NULL) {
        return NULL;
    }
    atomic_store(&bell->poked, false);
    if (sw_bell_collect(bell)) {
        const uint32_t words = atomic_load(&bell->words);
        for (uint32_t word = 0; word < words; word++) {
            uint64_t bits = atomic_load(&bell->local[word]);
            while (bits != 0) {
                const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
                bits &= bits - 1;
                Ring *ring = sw_ring_of(bell, index);
                if (ring != NULL && PyList_Append(tags, ring->tag) < 0) {
                    Py_DECREF(tags);
                    return NULL;
                }
            }
        }
    }
    if (bell->loop_fd >= 0 && PyList_Size(tags) == 0) {
        sw_bell_settle(bell);
    }
    return tags;
}

static PyObject *
doorbell_take(Doorbell *self, PyObject *argument)
{
    struct sw_bell *bell = &self->bell;
    const Py_ssize_t limit = PyLong_AsSsize_t(argument);
    if ((limit == -1 && PyErr_Occurred()) || !usable(self)) {
        return NULL;
    }
    PyObject *pairs = PyList_New(0);
    if (pairs == NULL) {
        return NULL;
    }
    atomic_store(&bell->poked, false);
    bool any = sw_bell_collect(bell);
    while (any && PyList_Size(pairs) < limit) { /* one of each channel, then the next of each */
        any = false;
        for (uint32_t word = 0; word < atomic_load(&bell->words); word++) {
            uint64_t bits = atomic_load(&bell->local[word]);
            for (; bits != 0 && PyList_Size(pairs) < limit; bits &= bits - 1) {
                Ring *ring = sw_ring_of(bell, word * 64 + (uint32_t)__builtin_ctzll(bits));
                if (ring == NULL) {
                    continue;
                }
                PyObject *held = Py_NewRef((PyObject *)ring); /* its owner may let go of it */
                const int taken = take_into(ring, pairs);
                Py_DECREF(held);
                if (taken < 0 && PyList_Size(pairs) == 0) {
                    Py_DECREF(pairs);
                    return NULL;
                }
                if (taken < 0) { /* it will fail again, when there is nothing else to tell */
                    PyErr_Clear();
                    return pairs;
                }
                any |= taken > 0;
            }
        }
        any = any && sw_bell_collect(bell);
    }
    if (bell->loop_fd >= 0 && PyList_Size(pairs) == 0) {
        sw_bell_settle(bell);
    }
    return pairs;
}

static PyObject *
doorbell_poke(Doorbell *self, PyObject *Py_UNUSED(nothing))
{
    if (self->generation == sw_generation() && !self->bell.closed) {
        sw_bell_poke(&self->bell);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
doorbell_fileno(Doorbell *self, PyObject *Py_UNUSED(nothing))
{
    if (!usable(self)) {
        return NULL;
    }
    int fd = sw_bell_loop(&self->bell);
    return fd < 0 ? set_errno() : PyLong_FromLong(fd);
}

static PyObject *
doorbell_close(Doorbell *self, PyObject *Py_UNUSED(nothing))
{
    if (self->generation == sw_generation() && !self->bell.closed) {
        sw_bell_close(&self->bell);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
doorbell_channels(Doorbell *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(self->bell.channels);
}

static PyObject *
doorbell_closed(Doorbell *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->bell.closed || self->generation != sw_generation());
}

static PyObject *
doorbell_sleeping(Doorbell *self, void *Py_UNUSED(closure))
{
    if (!usable(self)) {
        return NULL;
    }
    return PyBool_FromLong(atomic_load(&self->bell.page->sleeping) != 0);
}

static PyObject *
doorbell_waiting(Doorbell *self, void *Py_UNUSED(closure))
{
    return usable(self) ? PyLong_FromUnsignedLong(sw_bell_parked(&self->bell)) : NULL;
}

static PyObject *
doorbell_get_spin(Doorbell *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(self->bell.spin_ns);
}

static int
doorbell_set_spin(Doorbell *self, PyObject *value, void *Py_UNUSED(closure))
{
    const long long spin_ns = value == NULL ? -1 : PyLong_AsLongLong(value);
    if (spin_ns == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (spin_ns < 0) {
        PyErr_SetString(PyExc_ValueError, "spin_ns must not be negative");
        return -1;
    }
    self->bell.spin_ns = spin_ns;
    return 0;
}

static PyMethodDef doorbell_methods[] = {
    {"waiter", (PyCFunction)doorbell_waiter, METH_NOARGS, PyDoc_STR("A new place to wait, for one thread at a time.")},
    {"ready", (PyCFunction)doorbell_ready, METH_NOARGS, PyDoc_STR("The tags of the channels that have something.")},
    {"take", (PyCFunction)doorbell_take, METH_O, PyDoc_STR("Messages of all channels, with the tags of these.")},
    {"poke", (PyCFunction)doorbell_poke, METH_NOARGS, PyDoc_STR("Let the reader return from wait.")},
    {"fileno", (PyCFunction)doorbell_fileno, METH_NOARGS, PyDoc_STR("A descriptor for event loops.")},
    {"close", (PyCFunction)doorbell_close, METH_NOARGS, PyDoc_STR("End every wait.")},
    {"__class_getitem__", generic, METH_O | METH_CLASS, PyDoc_STR("Doorbell[Tag]")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef doorbell_values[] = {
    {"channels", (getter)doorbell_channels, NULL, PyDoc_STR("How many channels ring here."), NULL},
    {"closed", (getter)doorbell_closed, NULL, PyDoc_STR("Whether it is of no use any more."), NULL},
    {"sleeping", (getter)doorbell_sleeping, NULL, PyDoc_STR("Whether a message would have to wake somebody."), NULL},
    {"waiting", (getter)doorbell_waiting, NULL, PyDoc_STR("How many wait beside the reader."), NULL},
    {"spin_ns", (getter)doorbell_get_spin, (setter)doorbell_set_spin, PyDoc_STR("How long to look before sleeping."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot doorbell_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Where every channel of a process rings.")},
    {Py_tp_new, doorbell_new},
    {Py_tp_dealloc, doorbell_dealloc},
    {Py_tp_methods, doorbell_methods},
    {Py_tp_getset, doorbell_values},
    {0, NULL},
};

static PyType_Spec doorbell_spec = {
    .name = "shardwright.transport.shm._ring.Doorbell",
    .basicsize = sizeof(Doorbell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = doorbell_slots,
};

/* -- Waiter ---------------------------------------------------------------------------------------------------- */

static void
waiter_dealloc(Waiter *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->doorbell != NULL) {
        if (self->doorbell->generation == sw_generation()) {
            sw_bell_give_slot(&self->doorbell->bell, self->slot);
        }
        Py_DECREF(self->doorbell);
    }
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int64_t
deadline(long long timeout_ns)
{
    if (timeout_ns < 0) {
        return SW_NEVER;
    }
    const int64_t now = sw_now();
    return timeout_ns > SW_NEVER - now ? SW_NEVER : now + timeout_ns;
}

static PyObject *
waiter_wait(Waiter *self, PyObject *const *args, Py_ssize_t count)
{
    long long timeout_ns = -1;
    Waiter *other = NULL;
    if (count > 2) {
        return PyErr_Format(PyExc_TypeError, "wait takes at most 2 arguments, not %zd", count);
    }
    if (count == 2 && args[1] != Py_None) {
        if (Py_TYPE(args[1]) != Py_TYPE((PyObject *)self) || ((Waiter *)args[1])->doorbell != self->doorbell) {
            PyErr_SetString(PyExc_TypeError, "the other must be a waiter of the same doorbell");
            return NULL;
        }
        other = (Waiter *)args[1];
    }
    if (count >= 1) {
        timeout_ns = PyLong_AsLongLong(args[0]);
        if (timeout_ns == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    struct sw_bell *bell = &self->doorbell->bell;
    if (self->doorbell->generation != sw_generation()) {
        usable(self->doorbell);
        return NULL;
    }
    enum sw_waited outcome = sw_bell_begin(bell, self->slot);
    if (other != NULL && (outcome == SW_WOKEN || (outcome == SW_MUST_SLEEP && timeout_ns == 0))) {
        sw_bell_pay(bell, other->slot);
    }
    if (outcome == SW_MUST_SLEEP) {
        if (timeout_ns == 0) {
            sw_bell_abandon(bell, self->slot);
            return PyLong_FromLong(SW_TIMED_OUT);
        }
        int64_t until_ns = deadline(timeout_ns);
        const bool looks = (timeout_ns < 0 || timeout_ns > SW_SIGNALS_NS) && sw_runs_handlers();
        if (looks) {
            until_ns = sw_now() + SW_SIGNALS_NS;
        }
        Py_BEGIN_ALLOW_THREADS
        if (other != NULL) { /* now, when it need not wait for the interpreter as well */
            sw_bell_pay(bell, other->slot);
        }
        outcome = sw_bell_sleep(bell, self->slot, until_ns, true);
        Py_END_ALLOW_THREADS
        if (outcome == SW_INTERRUPTED || (looks && outcome == SW_TIMED_OUT)) {
            /* A handler may run code that waits at this very place: be gone from it, and let the caller look again. */
            if (outcome == SW_INTERRUPTED) {
                sw_bell_abandon(bell, self->slot);
            }
            if (PyErr_CheckSignals() < 0) {
                return NULL;
            }
            outcome = SW_WOKEN;
        }
    }
    return PyLong_FromLong(outcome);
}

static PyObject *
waiter_wake(Waiter *self, PyObject *Py_UNUSED(nothing))
{
    if (self->doorbell->generation == sw_generation()) {
        sw_bell_wake(&self->doorbell->bell, self->slot);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
waiter_owe(Waiter *self, PyObject *Py_UNUSED(nothing))
{
    if (self->doorbell->generation == sw_generation()) {
        sw_bell_owe(&self->doorbell->bell, self->slot);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
waiter_pay(Waiter *self, PyObject *Py_UNUSED(nothing))
{
    if (self->doorbell->generation == sw_generation()) {
        sw_bell_pay(&self->doorbell->bell, self->slot);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
waiter_leave(Waiter *self, PyObject *Py_UNUSED(nothing))
{
    if (self->doorbell->generation == sw_generation()) {
        sw_bell_leave(&self->doorbell->bell, self->slot);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
waiter_lend(Waiter *self, PyObject *argument)
{
    const long long grace_ns = PyLong_AsLongLong(argument);
    if (grace_ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!usable(self->doorbell)) {
        return NULL;
    }
    sw_bell_lend(&self->doorbell->bell, self->slot, grace_ns);
    return Py_NewRef(Py_None);
}

static PyObject *
waiter_reclaim(Waiter *self, PyObject *Py_UNUSED(nothing))
{
    if (!usable(self->doorbell)) {
        return NULL;
    }
    return PyBool_FromLong(sw_bell_reclaim(&self->doorbell->bell, self->slot));
}

static PyObject *
waiter_reads(Waiter *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->doorbell->generation == sw_generation()
                           && sw_bell_reads(&self->doorbell->bell, self->slot));
}

static PyMethodDef waiter_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))waiter_wait, METH_FASTCALL,
     PyDoc_STR("wait(timeout_ns=-1, other=None, /) -> int\n\nREADS, WOKEN or TIMED_OUT.")},
    {"owe", (PyCFunction)waiter_owe, METH_NOARGS, PyDoc_STR("As wake, but only pay rouses it.")},
    {"pay", (PyCFunction)waiter_pay, METH_NOARGS, PyDoc_STR("Rouse it, if that was owed.")},
    {"wake", (PyCFunction)waiter_wake, METH_NOARGS, PyDoc_STR("End the present or next wait with WOKEN.")},
    {"leave", (PyCFunction)waiter_leave, METH_NOARGS, PyDoc_STR("Give the role up.")},
    {"lend", (PyCFunction)waiter_lend, METH_O, PyDoc_STR("Give the role up, to be back soon.")},
    {"reclaim", (PyCFunction)waiter_reclaim, METH_NOARGS, PyDoc_STR("Take back what was lent; False: too late.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef waiter_values[] = {
    {"reads", (getter)waiter_reads, NULL, PyDoc_STR("Whether it has the reading role."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A place where one thread waits.")},
    {Py_tp_dealloc, waiter_dealloc},
    {Py_tp_methods, waiter_methods},
    {Py_tp_getset, waiter_values},
    {0, NULL},
};

static PyType_Spec waiter_spec = {
    .name = "shardwright.transport.shm._ring.Waiter",
    .basicsize = sizeof(Waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = waiter_slots,
};

/* -- Ring ------------------------------------------------------------------------------------------------------ */

static const char *
words_of(enum sw_why why)
{
    switch (why) {
    case SW_OPEN:
        return "";
    case SW_CLOSED_HERE:
        return "the channel was closed by this side";
    case SW_PEER_GONE:
        return "the peer closed the channel, or is gone";
    case SW_PEER_GONE_WITHIN:
        return "the peer ended within a message";
    case SW_PEER_LIED:
        return "the peer wrote into the shared memory what no honest peer writes";
    case SW_PEER_TOO_LONG:
        return "the peer announced a message larger than this channel carries";
    case SW_SENT_IN_PART:
        return "a message could be sent in part only";
    }
    return "";
}

static PyObject *
raise_closed(Ring *self)
{
    module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    enum sw_why why = (enum sw_why)atomic_load(&self->end.why);
    PyErr_SetString(state->channel_closed, words_of(why == SW_OPEN ? SW_PEER_GONE : why));
    return NULL;
}

static void
unmap(Ring *self)
{
    if (self->open && self->inside == 0) {
        self->open = false;
        if (self->generation != sw_generation()) { /* neither is mapped in a forked child */
            self->end.area = NULL;
            atomic_store(&self->end.peer, NULL);
        }
        sw_end_unmap(&self->end);
    }
}

static void
shut(Ring *self)
{
    if (self->closed) {
        return;
    }
    self->closed = true;
    if (self->open && self->generation == sw_generation()) {
        sw_end_close(&self->end, SW_CLOSED_HERE);
        sw_bell_remove(&self->doorbell->bell, self->end.index);
        if (!self->doorbell->bell.closed) {
            sw_bell_poke(&self->doorbell->bell); /* whoever waited for this channel alone looks again */
        }
    } else {
        atomic_store(&self->end.why, SW_CLOSED_HERE);
    }
    unmap(self);
}

/* Whether the memory may be touched; raises ChannelClosed where not. */
bool
sw_ring_enter(Ring *self)
{
    if (self->closed || self->generation != sw_generation()) {
        if (!self->closed) {
            module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
            PyErr_SetString(state->channel_closed, "the channel belongs to the process that this one was forked from");
            return false;
        }
        raise_closed(self);
        return false;
    }
    self->inside++;
    return true;
}

void
sw_ring_leave(Ring *self)
{
    self->inside--;
    if (self->closed) {
        unmap(self);
    }
}

static PyObject *
ring_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int fd;
    PyObject *doorbell, *tag;
    long long max_message;
    if (!PyArg_ParseTuple(args, "iOOL:Ring", &fd, &doorbell, &tag, &max_message)) {
        return NULL;
    }
    module_state *state = PyType_GetModuleState(type);
    const char *wrong = NULL;
    if (!Py_IS_TYPE(doorbell, state->doorbell)) {
        wrong = "a Ring needs a Doorbell";
    } else if (max_message < 0 || max_message > UINT32_MAX - 64) {
        wrong = "max_message_bytes must be from 0 to 2**32 - 65";
    }
    if (wrong != NULL || !usable((Doorbell *)doorbell)) {
        if (wrong != NULL) {
            PyErr_SetString(PyExc_ValueError, wrong);
        }
        close(fd);
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Ring *self = (Ring *)allocate(type, 0);
    if (self == NULL) {
        close(fd);
        return NULL;
    }
    self->doorbell = (Doorbell *)Py_NewRef(doorbell);
    self->tag = Py_NewRef(tag);
    self->generation = sw_generation();
    if (sw_end_open(&self->end, fd, &self->doorbell->bell, (uint32_t)max_message) < 0) {
        set_errno();
        self->closed = true;
        Py_DECREF(self);
        return NULL;
    }
    self->open = true;
    return (PyObject *)self;
}

static int
ring_traverse(Ring *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->tag);
    return 0;
}

static int
ring_clear(Ring *self)
{
    PyObject *tag = self->tag; /* `ready` always finds one */
    self->tag = Py_NewRef(Py_None);
    Py_XDECREF(tag);
    return 0;
}

static void
ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    if (self->line != NULL) {
        sw_line_forgets(self->line);
    }
    shut(self);
    Py_CLEAR(self->message);
    Py_CLEAR(self->tag);
    Py_CLEAR(self->doorbell);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* The parts of a message as C sees them; which of them are held as buffers. */
struct parts {
    struct sw_part few[FEW_PARTS];
    Py_buffer few_buffers[FEW_PARTS];
    struct sw_part *all;
    Py_buffer *buffers;
    Py_ssize_t held;
};

static void
give_back_parts(struct parts *parts)
{
    while (parts->held > 0) {
        PyBuffer_Release(&parts->buffers[--parts->held]);
    }
    if (parts->all != parts->few) {
        PyMem_Free(parts->all);
        PyMem_Free(parts->buffers);
    }
}

static int
gather(PyObject *sequence, struct parts *parts, Py_ssize_t *count)
{
    const bool list = PyList_Check(sequence);
    if (!list && !PyTuple_Check(sequence)) {
        PyErr_SetString(PyExc_TypeError, "the parts of a message must be a list or a tuple");
        return -1;
    }
    *count = list ? PyList_Size(sequence) : PyTuple_Size(sequence);
    parts->all = parts->few;
    parts->buffers = parts->few_buffers;
    parts->held = 0;
    if (*count > FEW_PARTS) {
        parts->all = PyMem_Calloc((size_t)*count, sizeof *parts->all);
        parts->buffers = PyMem_Calloc((size_t)*count, sizeof *parts->buffers);
        if (parts->all == NULL || parts->buffers == NULL) {
            PyMem_Free(parts->all);
            PyMem_Free(parts->buffers);
            PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t n = 0; n < *count; n++) {
        PyObject *part = list ? PyList_GetItem(sequence, n) : PyTuple_GetItem(sequence, n);
        if (part == NULL) { /* the list shrank under us */
            give_back_parts(parts);
            return -1;
        }
        if (PyBytes_Check(part)) {
            char *bytes;
            Py_ssize_t size;
            PyBytes_AsStringAndSize(part, &bytes, &size);
            parts->all[n] = (struct sw_part){.bytes = bytes, .size = (size_t)size};
            continue;
        }
        Py_buffer *buffer = &parts->buffers[parts->held];
        if (PyObject_GetBuffer(part, buffer, PyBUF_SIMPLE) < 0) {
            give_back_parts(parts);
            return -1;
        }
        parts->held++;
        parts->all[n] = (struct sw_part){.bytes = buffer->buf, .size = (size_t)buffer->len};
    }
    return 0;
}

static PyObject *
ring_push(Ring *self, PyObject *sequence)
{
    struct parts parts;
    Py_ssize_t count;
    if (gather(sequence, &parts, &count) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    if (sw_ring_enter(self)) {
        const enum sw_sent sent = sw_push(&self->end, parts.all, (size_t)count);
        result = sent == SW_ENDED ? raise_closed(self) : PyLong_FromLong(sent);
        sw_ring_leave(self);
    }
    give_back_parts(&parts);
    return result;
}

static PyObject *
ring_begin(Ring *self, PyObject *argument)
{
    const long long size = PyLong_AsLongLong(argument);
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!sw_ring_enter(self)) {
        return NULL;
    }
    const enum sw_sent sent = size < 0 || size > UINT32_MAX ? SW_TOO_LARGE : sw_begin(&self->end, (uint32_t)size);
    PyObject *result = sent == SW_ENDED ? raise_closed(self) : PyLong_FromLong(sent);
    sw_ring_leave(self);
    return result;
}

static PyObject *
ring_push_more(Ring *self, PyObject *args)
{
    Py_buffer view;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "y*n:push_more", &view, &offset)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (offset < 0 || offset > view.len) {
        PyErr_SetString(PyExc_ValueError, "the offset lies outside the view");
    } else if (sw_ring_enter(self)) {
        size_t sent;
        const enum sw_sent outcome =
            sw_push_more(&self->end, (const char *)view.buf + offset, (size_t)(view.len - offset), &sent);
        result = outcome == SW_ENDED ? raise_closed(self) : PyLong_FromSize_t(sent);
        sw_ring_leave(self);
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *
ring_finish(Ring *self, PyObject *Py_UNUSED(nothing))
{
    bool whole = true;
    if (self->open && self->generation == sw_generation()) {
        self->inside++;
        whole = sw_finish(&self->end);
        sw_ring_leave(self);
    }
    return PyBool_FromLong(whole);
}

static PyObject *
ring_wait_for_room(Ring *self, PyObject *args)
{
    long long needed, timeout_ns;
    if (!PyArg_ParseTuple(args, "LL:wait_for_room", &needed, &timeout_ns)) {
        return NULL;
    }
    if (!sw_ring_enter(self)) {
        return NULL;
    }
    const uint32_t bytes = needed < 0 ? 0 : needed > UINT32_MAX ? UINT32_MAX : (uint32_t)needed;
    const int64_t until_ns = deadline(timeout_ns);
    bool good;
    Py_BEGIN_ALLOW_THREADS
    good = sw_wait_for_room(&self->end, bytes, until_ns);
    Py_END_ALLOW_THREADS
    sw_ring_leave(self);
    if (!good && PyErr_CheckSignals() < 0) {
        return NULL;
    }
    return PyBool_FromLong(good);
}

static unsigned char *
grow(void *owner, size_t bytes, size_t total, bool first)
{
    Ring *self = owner;
    if (first) {
        Py_CLEAR(self->message);
        self->message = total <= BYTES_UP_TO ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total)
                                             : PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)bytes);
        if (self->message == NULL) {
            return NULL;
        }
    } else if (total > BYTES_UP_TO && (size_t)PyByteArray_Size(self->message) < bytes
               && PyByteArray_Resize(self->message, (Py_ssize_t)bytes) < 0) {
        return NULL;
    }
    return (unsigned char *)(total <= BYTES_UP_TO ? PyBytes_AsString(self->message)
                                                  : PyByteArray_AsString(self->message));
}

/* The next message; NULL with an exception; or NULL without one: there is nothing. */
static PyObject *
take(Ring *self)
{
    PyObject *result = NULL;
    if (self->taking) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is taking from this channel");
        return NULL;
    }
    self->taking = true;
    switch (sw_end_take(&self->end, grow, self)) {
    case SW_MESSAGE:
        result = self->message;
        self->message = NULL;
        if (!PyBytes_Check(result)) {
            PyObject *view = PyMemoryView_FromObject(result);
            Py_DECREF(result);
            result = view;
        }
        break;
    case SW_NOTHING:
        if (atomic_load(&self->end.why) != SW_OPEN) {
            raise_closed(self);
        }
        break;
    case SW_VIOLATION:
    case SW_TOO_LONG: {
        module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
        PyErr_SetString(state->protocol_violation, words_of((enum sw_why)atomic_load(&self->end.why)));
        break;
    }
    case SW_NO_MEMORY:
        break;
    }
    if (atomic_load(&self->end.why) != SW_OPEN) {
        Py_CLEAR(self->message);
    }
    self->taking = false;
    return result;
}

static PyObject *
ring_take(Ring *self, PyObject *Py_UNUSED(nothing))
{
    if (!sw_ring_enter(self)) {
        return NULL;
    }
    PyObject *result = take(self);
    sw_ring_leave(self);
    return result != NULL || PyErr_Occurred() ? result : Py_NewRef(Py_None);
}

int
sw_ring_take(Ring *self, PyObject **message)
{
    struct sw_bell *bell = &self->doorbell->bell;
    *message = NULL;
    if (self->told) {
        atomic_fetch_and(&bell->local[self->end.index / 64], ~((uint64_t)1 << (self->end.index % 64)));
        return 0;
    }
    if (!sw_ring_enter(self)) {
        return -1;
    }
    *message = take(self);
    sw_ring_leave(self);
    const int more = atomic_load(&self->end.why) == SW_OPEN;
    if (*message == NULL && PyErr_Occurred() && !more) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, message, &traceback);
        PyErr_NormalizeException(&type, message, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        self->told = true;
    }
    if (*message == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return more;
}

/* Append what this channel has to the list of pairs: a message, or, once, the error that its end is. Less than 0: an exception
 * is set, and nothing was taken; 0: there is no more. */
static int
take_into(Ring *self, PyObject *pairs)
{
    PyObject *pair = PyTuple_New(2), *message;
    if (pair == NULL || PyTuple_SetItem(pair, 0, Py_NewRef(self->tag)) < 0) {
        Py_XDECREF(pair);
        return -1;
    }
    int more = sw_ring_take(self, &message);
    if (message != NULL && (PyTuple_SetItem(pair, 1, message) < 0 || PyList_Append(pairs, pair) < 0)) {
        shut(self); /* a message is lost for want of memory: better the channel than a caller that waits for it */
        more = -1;
    }
    Py_DECREF(pair);
    return more;
}

/* The beginnings of all messages that stand in our lane and that the peer, who is gone, took nothing of. None of them, unless
 * they lie as we published them, one behind the other from the peer's tail to our head: what was sent in pieces, and what
 * cannot be, says nothing. A consumer moves its tail on before anybody hears of the message (sw_take): one that stands before
 * it was never heard of. The peer wrote tail, and may have written the bytes: it deceives about itself alone. */
static PyObject *
ring_untaken(Ring *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *found = PyList_New(0);
    if (found == NULL || self->closed || self->generation != sw_generation() || !atomic_load(&self->end.dead)
        || atomic_load(&self->end.sending)) {
        return found;
    }
    const struct sw_producer *out = &self->end.out;
    const uint64_t head = out->head;
    uint64_t at = atomic_load(&out->lane->tail);
    if (head - at > head - out->tail || (at & 7) != 0) {
        return found;
    }
    while (at != head) {
        const struct sw_consumer lane = {.bytes = out->bytes, .tail = at, .capacity = out->capacity};
        const uint64_t header = sw_read_header(&lane);
        const uint32_t size = (uint32_t)header;
        const uint64_t whole = SW_HEADER + sw_padded(size);
        unsigned char begin[SW_UNTAKEN];
        const size_t read = size < sizeof begin ? size : sizeof begin;
        if (header >> 32 != 0 || whole > head - at || PyList_Size(found) == SW_MOST_UNTAKEN) {
            Py_DECREF(found);
            return PyList_New(0);
        }
        sw_read(&lane, at + SW_HEADER, begin, read);
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)begin, (Py_ssize_t)read);
        if (bytes == NULL || PyList_Append(found, bytes) < 0) {
            Py_XDECREF(bytes);
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(bytes);
        at += whole;
    }
    return found;
}

/* For a channel that is alone on its doorbell: the descriptor says whether there is anything. */
static PyObject *
ring_listen(Ring *self, PyObject *Py_UNUSED(nothing))
{
    if (self->open && !self->closed && self->generation == sw_generation() && !self->doorbell->bell.closed) {
        struct sw_bell *bell = &self->doorbell->bell;
        sw_bell_collect(bell);
        if (!sw_end_has_something(&self->end)) {
            atomic_fetch_and(&bell->local[self->end.index / 64], ~((uint64_t)1 << (self->end.index % 64)));
            atomic_store(&bell->poked, false);
        } else {
            sw_bell_mark(bell, self->end.index);
        }
        sw_bell_settle(bell);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
ring_close(Ring *self, PyObject *Py_UNUSED(nothing))
{
    shut(self);
    return Py_NewRef(Py_None);
}

static PyObject *
ring_get_tag(Ring *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->tag);
}

static int
ring_set_tag(Ring *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a channel always has a tag");
        return -1;
    }
    PyObject *before = self->tag;
    self->tag = Py_NewRef(value);
    Py_DECREF(before);
    return 0;
}

static PyObject *
ring_why_closed(Ring *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(words_of((enum sw_why)atomic_load(&self->end.why)));
}

static PyObject *
ring_capacity(Ring *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(self->end.out.capacity);
}

static PyObject *
ring_buffered(Ring *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!self->closed && self->generation == sw_generation() && sw_end_has_something(&self->end));
}

static PyMethodDef ring_type_methods[] = {
    {"push", (PyCFunction)ring_push, METH_O, PyDoc_STR("Send one message at once, or say why not.")},
    {"begin", (PyCFunction)ring_begin, METH_O, PyDoc_STR("Become the one sender.")},
    {"push_more", (PyCFunction)ring_push_more, METH_VARARGS, PyDoc_STR("Send what there is room for.")},
    {"finish", (PyCFunction)ring_finish, METH_NOARGS, PyDoc_STR("Stop being the one sender.")},
    {"wait_for_room", (PyCFunction)ring_wait_for_room, METH_VARARGS, PyDoc_STR("Wait until bytes are free.")},
    {"take", (PyCFunction)ring_take, METH_NOARGS, PyDoc_STR("The next message, or None.")},
    {"listen", (PyCFunction)ring_listen, METH_NOARGS, PyDoc_STR("Let the doorbell's descriptor say what there is.")},
    {"untaken", (PyCFunction)ring_untaken, METH_NOARGS, PyDoc_STR("How what the peer never took begins.")},
    {"close", (PyCFunction)ring_close, METH_NOARGS, PyDoc_STR("End the conversation.")},
    {"__class_getitem__", generic, METH_O | METH_CLASS, PyDoc_STR("Ring[Tag]")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ring_values[] = {
    {"tag", (getter)ring_get_tag, (setter)ring_set_tag, PyDoc_STR("What Doorbell.ready names it by."), NULL},
    {"why_closed", (getter)ring_why_closed, NULL, PyDoc_STR("Empty while it is open."), NULL},
    {"capacity", (getter)ring_capacity, NULL, PyDoc_STR("Of each lane, in bytes."), NULL},
    {"buffered", (getter)ring_buffered, NULL, PyDoc_STR("Whether take would find anything."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ring_type_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One end of a ring pair.")},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_methods, ring_type_methods},
    {Py_tp_getset, ring_values},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "shardwright.transport.shm._ring.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = ring_type_slots,
};

/* -- the module ------------------------------------------------------------------------------------------------ */

/* What of calls goes flat, for tests: the same functions as calls use. None: it is not flat. */

static PyObject *
ring_flat_request(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned char bytes[SW_FLAT_MOST];
    const Py_ssize_t size = sw_flat_request(args, bytes);
    return size < 0 ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)bytes, size);
}

static PyObject *
ring_flat_reply(PyObject *Py_UNUSED(module), PyObject *value)
{
    unsigned char bytes[SW_FLAT_MOST];
    const Py_ssize_t size = sw_flat_reply(value, bytes);
    return size < 0 ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)bytes, size);
}

static PyObject *
read_flat(PyObject *data, PyObject *(*read)(const unsigned char *, Py_ssize_t))
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0) {
        return NULL;
    }
    PyObject *value = read((const unsigned char *)bytes, size);
    return value == NULL ? Py_NewRef(Py_None) : value;
}

static PyObject *
ring_flat_args(PyObject *Py_UNUSED(module), PyObject *data)
{
    return read_flat(data, sw_flat_args);
}

static PyObject *
ring_flat_result(PyObject *Py_UNUSED(module), PyObject *data)
{
    return read_flat(data, sw_flat_result);
}

static PyMethodDef ring_methods[] = {
    {"create_memfd", ring_create_memfd, METH_VARARGS,
     PyDoc_STR("create_memfd(name, size, /) -> int\n\nA close-on-exec memfd of size zero bytes, sealed at that size.")},
    {"flat_request", ring_flat_request, METH_O, NULL},
    {"flat_reply", ring_flat_reply, METH_O, NULL},
    {"flat_args", ring_flat_args, METH_O, NULL},
    {"flat_result", ring_flat_result, METH_O, NULL},
    {"seals", ring_seals, METH_O, PyDoc_STR("seals(fd, /) -> int\n\nThe seals of a descriptor, as F_SEAL_* bits.")},
    {"check_memfd", ring_check_memfd, METH_VARARGS,
     PyDoc_STR("check_memfd(fd, size, /) -> None\n\nRaise ValueError unless fd is a writable memory of exactly size "
               "bytes, sealed against shrinking, growing and further seals.")},
    {"create_pair", ring_create_pair, METH_O,
     PyDoc_STR("create_pair(capacity, /) -> tuple[int, int]\n\nTwo sockets, in each its end of a new ring pair.")},
    {"floor_answer", ring_floor_answer, METH_VARARGS, PyDoc_STR("floor_answer(fd, size, spin_ns, /) -> None")},
    {"floor_ask", ring_floor_ask, METH_VARARGS,
     PyDoc_STR("floor_ask(fd, size, rounds, gap_ns, spin_ns, last, /) -> bytearray of int64 nanoseconds")},
    {NULL, NULL, 0, NULL},
};

static int
ring_exec(PyObject *module)
{
    static const struct {
        const char *name;
        long value;
    } numbers[] = {
        {"SEAL_SEAL", F_SEAL_SEAL},
        {"SEAL_SHRINK", F_SEAL_SHRINK},
        {"SEAL_GROW", F_SEAL_GROW},
        {"SEAL_WRITE", F_SEAL_WRITE},
        {"SEAL_FUTURE_WRITE", F_SEAL_FUTURE_WRITE},
        {"SEAL_EXEC", F_SEAL_EXEC},
        {"TIMED_OUT", SW_TIMED_OUT},
        {"READS", SW_READS},
        {"WOKEN", SW_WOKEN},
        {"SENT", SW_SENT},
        {"FULL", SW_FULL},
        {"BUSY", SW_BUSY},
        {"TOO_LARGE", SW_TOO_LARGE},
        {"BYTES_UP_TO", BYTES_UP_TO},
        {"DEFAULT_SPIN_NS", DEFAULT_SPIN_NS},
        {"MAX_CHANNELS", SW_BELL_CHANNELS},
        {"MAX_WAITERS", SW_BELL_SLOTS},
        {"MIN_CAPACITY", SW_MIN_CAPACITY},
        {"MAX_CAPACITY", SW_MAX_CAPACITY},
        {"FLAT_MOST", SW_FLAT_MOST},
        {"FLOOR_BYTES", sizeof(struct sw_floor)},
    };
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        if (PyModule_AddIntConstant(module, numbers[n].name, numbers[n].value) < 0) {
            return -1;
        }
    }
    module_state *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("shardwright.errors");
    if (errors == NULL) {
        return -1;
    }
    state->channel_closed = PyObject_GetAttrString(errors, "ChannelClosed");
    state->protocol_violation = PyObject_GetAttrString(errors, "ProtocolViolation");
    Py_DECREF(errors);
    if (state->channel_closed == NULL || state->protocol_violation == NULL) {
        return -1;
    }
    const struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } types[] = {
        {&state->doorbell, &doorbell_spec},
        {&state->waiter, &waiter_spec},
        {&state->ring, &ring_spec},
    };
    for (size_t n = 0; n < sizeof types / sizeof *types; n++) {
        *types[n].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, types[n].spec, NULL);
        if (*types[n].type == NULL || PyModule_AddType(module, *types[n].type) < 0) {
            return -1;
        }
    }
    return sw_calls_ready(module, state);
}

static int
ring_module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->doorbell);
    Py_VISIT(state->waiter);
    Py_VISIT(state->ring);
    Py_VISIT(state->desk);
    Py_VISIT(state->line);
    Py_VISIT(state->outlet);
    Py_VISIT(state->server);
    Py_VISIT(state->baton);
    Py_VISIT(state->worker);
    Py_VISIT(state->patience);
    Py_VISIT(state->channel_closed);
    Py_VISIT(state->protocol_violation);
    return 0;
}

static int
ring_module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->doorbell);
    Py_CLEAR(state->waiter);
    Py_CLEAR(state->ring);
    Py_CLEAR(state->desk);
    Py_CLEAR(state->line);
    Py_CLEAR(state->outlet);
    Py_CLEAR(state->server);
    Py_CLEAR(state->baton);
    Py_CLEAR(state->worker);
    Py_CLEAR(state->patience);
    Py_CLEAR(state->channel_closed);
    Py_CLEAR(state->protocol_violation);
    return 0;
}

static PyModuleDef_Slot ring_slots[] = {
    {Py_mod_exec, ring_exec},
    {0, NULL},
};

static struct PyModuleDef ring_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ring",
    .m_doc = PyDoc_STR("Shared-memory channels: doorbells, rings, sealed memory."),
    .m_size = sizeof(module_state),
    .m_methods = ring_methods,
    .m_slots = ring_slots,
    .m_traverse = ring_module_traverse,
    .m_clear = ring_module_clear,
};

PyMODINIT_FUNC
PyInit__ring(void)
{
    return PyModuleDef_Init(&ring_module);
}
