/* Calls over rings: what the usual call needs, in one piece and without a Python frame of ours.
 *
 * guest/_caller.py, _link.py, _ring_hub.py, _mailbox.py and _incoming.py say what a call is, and are the reference; here is the
 * same for calls of which nothing unusual is known. Whatever is unusual is left to them, and "unusual" is whatever is not
 * listed here: a call goes this way only if its proxy has made the same call before, the slow way, and nothing that it learnt
 * then (its line) was taken back since.
 *
 * Three objects of Python's, each with C's side of something that Python knows as well:
 *
 *   Desk    of a RingHub: who waits for a reply here, and who answers calls.
 *   Line    of a Link: the calls that are in flight on one ring this way, and what the peer may call here.
 *   Outlet  of a proxy: where its calls go, by session, as the router found it the last time.
 *
 * A CALL is one function: context, line, arguments written, header, pushed, waited for, result read. An ANSWER is another, in the
 * loop of an idle worker: taken, arguments read, function called, result written, pushed.
 *
 * CORRECTNESS, in brief. Everything here runs with the interpreter's lock, but for the sleep in `wait_for`; so between two
 * calls into the interpreter that may run Python code (which may give the lock away) nothing of this changes. Those calls are:
 * the codec's, the user's function, `nested`, `rest`, `slow` and its kin, and any that allocates an object that the
 * collector tracks. No decision below stands on a check that was made before one of these.
 *
 * 1. *One outcome.* A call in flight is a `struct call` on the stack of its thread, in the list of its line, from before it is
 *    pushed until its thread takes it out. A reply or the end of the line is entered there once (`came`); what comes later finds
 *    it entered, or gone, and is dropped. A call that is to go on the slow way is taken out and entered among the link's
 *    pending tickets in one step (`line_hand_over`): whoever brings the reply finds it in one place or the other.
 * 2. *Order.* `dispatch` takes messages only while none is left that Python has yet to handle (`arrived`), and stops at the
 *    first that is for Python. So messages of one line are handled in the order in which they came.
 * 3. *One reader.* As in _ring_hub.py: `dispatch` is called by whoever has the doorbell's role alone, right after
 *    `sw_bell_begin` or `sw_bell_sleep` said SW_READS.
 * 4. *Nobody waits for what has come.* A call's thread looks at `came` and `inbox` with the lock before it sleeps; who
 *    fills them wakes it (`sw_bell_wake`, which ends the present or the next sleep). Or, for a reply that the reader takes for
 *    another, enters the call in the queue (`queue`): whoever sleeps rouses the first of it, and whoever is done owes it that.
 *    A thread may sleep though its reply is there, to let others have their turn: only while one of these sleeps, and is
 *    roused now, or was roused and has yet to run here (`others_go_first`); either will sleep or be done, and rouse the next.
 *    Should that be wrong, it goes on after TURN_NS all the same.
 * 5. *The baton.* It is taken for an answer while no thread is within the mailbox's own mutex, if it is free and nobody wants it, by
 *    a worker that is idle, which thereby is idle no more; given back so if nobody wants it. Else Python's `_next` passes it on.
 *    A caller that has the baton keeps it for KEEP_NS while nobody wants it; longer than that is the slow way.
 * 6. *Interrupts.* Only the main thread runs handlers, and only in `wait_for`, after it has left the role: no message is in its
 *    hands then.
 *
 * TRUST. A peer is believed nothing: a message is in our own memory before it is looked at, a header that is not exactly a
 * small and plain one sends it to Python's `unpack`, which says what is wrong; what a call may reach was found by Python, for
 * that link and that entry point, when it was first called.
 *
 * Over 400 lines: the argument above speaks of every line below.
 */
#include "_flat.h"
#include "_ring.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/random.h>

enum { HEADER = 76, KIND_CALL = 1, KIND_RESULT = 2, KIND_ERROR = 3, MOST_OFFERED = 64, MOST_TAKEN = 64, MOST_ENTRIES = 4096, MOST_SESSIONS = 4096 };
#define KEEP_NS 1000000 /* a caller keeps the baton for so long */
#define SOON_NS 50000   /* and, while others want it, only where replies come within this */
#define LATE 24 /* a thread that made fewer calls than others goes first, for so many at most */
#ifndef TURN_NS /* tests make it long, and turns short, to see every thread that would sleep in vain */
#define TURN_NS 50000000 /* a thread that has its reply lets others go first for so long at most */
#define STREAK 32 /* others have their turn when it made so many calls more: to change threads costs as much as three to five; */
#define STREAK_OF_MANY 8 /* but where more than MANY wait, so many: turns would become long */
#endif
#define MANY 64
#define LOOK_NS 6000 /* a caller beside which others are ready looks for its reply for so long before it sleeps */
#define TRY_AGAIN 32
#define GRACE_NS 500000 /* a worker that answers may leave what comes unread for so long */
#define SMALL 4096      /* of a request that is answered at once, in bytes */

typedef struct Desk Desk;
typedef struct Line Line;

/* What a call's context says (CallContext). */
struct context {
    PyObject *object; /* NULL: of a thread that no call began, or that outlived it */
    PyObject *session;
    unsigned char trace[16];
    uint64_t number, deadline, blocked, chain;
};

/* One call that is in flight; on the stack of the thread that waits for it. */
struct call {
    struct call *before, *after;     /* in its line, the oldest first */
    struct call *older, *newer;      /* at its desk */
    struct call *sooner, *later;     /* of those that have their reply, and whose threads sleep on */
    bool queued;
    bool sleeps; /* its thread, without the interpreter, until it is roused */
    bool roused; /* and not awake yet, or without the interpreter */
    Line *line;
    uint64_t id, chain;
    struct sw_bell *bell;
    int32_t slot; /* where its thread waits */
    unsigned long thread;
    uint64_t turn;     /* how many calls its thread made before, so that others have as many */
    bool busy;         /* its thread runs a call of its chain */
    PyObject *came;    /* NULL; the frame of the reply, as bytes or a view; or the ChannelClosed */
    PyObject *inbox;   /* NULL, or a list of calls of its chain that are to be run by its thread */
};

/* The baton of a shard: what Mailbox (guest/_mailbox.py) is made upon. */
typedef struct {
    PyObject_HEAD
    char held, closed;
    PyObject *holder, *queue, *resumers, *idle;
    PyObject *locked; /* of its mutex: whether a thread is within it */
} Baton;

/* One thread of a mailbox: what the class of such is made upon. */
typedef struct {
    PyObject_HEAD
    char listens, ends;
    PyObject *found; /* NULL, None, or the work that it was given while it reads */
} Worker;

typedef struct {
    PyObject_HEAD
    long left, penalty;
} Patience;

struct Desk {
    PyObject_HEAD
    Doorbell *doorbell;
    PyObject *arrived; /* a deque of (channel, message) that Python has yet to handle */
    PyObject *ear;     /* ear() -> the calling thread's Waiter, or None */
    PyObject *rest;    /* rest(): handle `arrived`, and what else the reader does */
    PyObject *service; /* service() -> what the calling thread does for others, or "" */
    PyObject *context_get, *context_set, *context_type, *context_class, *life_class, *coroutine_class;
    PyObject *waiting_slowly, *stuck; /* dicts by chain, of the process's Chains */
    PyObject *nowhere;    /* the context of who runs no call */
    PyObject *outside;    /* outside() -> the context of whoever began the calling thread; None: that is not enough */
    PyObject *names;      /* of sessions, by number; NULL where nothing is answered */
    PyObject *dropped;    /* a deque: handles that were collected, of which owners are to be told first */
    PyObject *unended;    /* not empty: a line of output may have begun, and is to be ended before an answer */
    PyObject *end_lines, *after_call, *answer; /* of the responder: see guest/_lines.py */
    Baton *baton;         /* NULL: a process without one */
    unsigned long main, reader;
    unsigned long loop;      /* the thread of the event loop, 0 until there is one, and what says that it waits */
    unsigned long long mark;
    Py_ssize_t free;      /* threads that wait for a reply this way, and have nothing else to do */
    Py_ssize_t others;    /* that wait so the slow way */
    char off;
    char of_session;      /* such a thread acts for the session that is served here, if it is one alone */
    struct call *newest;
    uint64_t turn;     /* of whoever went on last */
    Py_ssize_t roused; /* threads that were, and wait for the interpreter */
    struct call *first, *last; /* of those whose threads are to be roused, by turn */
    /* answers */
    Py_ssize_t serving;
    struct answer *answers; /* what is being answered, the latest first */
    unsigned long long calls_in, calls_out;
    long long idle_since_ns;
    uint32_t cursor; /* which channel was read last */
    struct context seen; /* the last that was read, for a call often makes several; it never changes, */
    PyObject *seen_life; /* but this may end */
};

struct entry {
    PyObject *module, *name; /* NULL: not answered here */
};

struct Line {
    PyObject_HEAD
    Desk *desk;
    Ring *ring;      /* borrowed: it tells us when it goes */
    PyObject *ring_object; /* the same, held */
    PyObject *link;
    PyObject *write_request, *read_reply, *read_request, *write_reply; /* of the codec */
    PyObject *patience;
    PyObject *peer_sessions; /* None: any */
    uint64_t ids;
    Py_ssize_t in_flight;
    struct call *oldest, *latest;
    int64_t reply_ns; /* how long replies took of late, to callers that kept the baton (a moving average) */
    uint32_t refused;
    char open;   /* calls may begin */
    char heard;  /* calls may be answered */
    char plain;  /* only plain values: the codec proper is another */
    unsigned char codec; /* of what goes and comes this way */
    struct entry *entries;
    Py_ssize_t room;
};

typedef struct {
    PyObject_HEAD
    Desk *desk;      /* NULL until its first call */
    PyObject *lines; /* by session number */
    PyObject *slow;  /* slow(args, kwargs): the whole call */
    PyObject *encoded; /* encoded(line's link, context, payload, buffers, memo): the same from there on */
    PyObject *go_on; /* go_on(link, context, call id, memo, kept the baton in vain): wait for it the slow way */
    PyObject *finish; /* finish(link, context, came, memo): an outcome that is not plain */
    PyObject *nested; /* nested(call): run it on top of this one */
    PyObject *give_up; /* give_up(link, call id): the caller no longer waits */
    unsigned long method;
} Outlet;

/* What an answer is made of, on the stack of its thread. */
struct answer {
    struct answer *older; /* at its desk: the one that began before it */
    Line *line;
    PyObject *message;
    const unsigned char *bytes;
    Py_ssize_t size;
    uint64_t call_id, session, deadline, blocked, chain;
    uint32_t method;
    PyObject *life;
};

/* Through Context.run, into `server_run`. One for each thread that answers. */
typedef struct {
    PyObject_HEAD
    Desk *desk;
    struct answer *now;
} Server;

static PyObject *text_over, *text_life, *text_session, *text_chain, *text_deadline, *text_trace, *text_blocked,
    *text_append, *text_run, *empty_tuple, *empty_text;

/* Numbers of a header are little-endian, wherever they lie. */
static inline uint64_t
load8(const unsigned char *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return le64toh(value);
}

static inline uint32_t
load4(const unsigned char *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return le32toh(value);
}

static inline void
store8(unsigned char *out, uint64_t value)
{
    value = htole64(value);
    memcpy(out, &value, sizeof value);
}

static inline void
store4(unsigned char *out, uint32_t value)
{
    value = htole32(value);
    memcpy(out, &value, sizeof value);
}

/* Whether a container is not empty. Less than 0 never: what cannot be asked is taken to be. */
static bool
any(PyObject *container)
{
    if (container == NULL || container == Py_None) {
        return false;
    }
    const Py_ssize_t size = PyObject_Size(container);
    if (size < 0) {
        PyErr_Clear();
    }
    return size != 0;
}

/* -- Baton and Patience ------------------------------------------------------------------------------------------ */

static PyMemberDef baton_members[] = {
    {"_held", T_BOOL, offsetof(Baton, held), 0, NULL},
    {"_closed", T_BOOL, offsetof(Baton, closed), 0, NULL},
    {"_holder", T_OBJECT, offsetof(Baton, holder), 0, NULL},
    {"_queue", T_OBJECT, offsetof(Baton, queue), 0, NULL},
    {"_resumers", T_OBJECT, offsetof(Baton, resumers), 0, NULL},
    {"_idle", T_OBJECT, offsetof(Baton, idle), 0, NULL},
    {"_locked", T_OBJECT, offsetof(Baton, locked), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
baton_traverse(Baton *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->holder);
    Py_VISIT(self->queue);
    Py_VISIT(self->resumers);
    Py_VISIT(self->idle);
    Py_VISIT(self->locked);
    return 0;
}

static int
baton_clear(Baton *self)
{
    Py_CLEAR(self->holder);
    Py_CLEAR(self->queue);
    Py_CLEAR(self->resumers);
    Py_CLEAR(self->idle);
    Py_CLEAR(self->locked);
    return 0;
}

static void
baton_dealloc(Baton *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    baton_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot baton_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The fields of a mailbox that C looks at.")},
    {Py_tp_dealloc, baton_dealloc},
    {Py_tp_traverse, baton_traverse},
    {Py_tp_clear, baton_clear},
    {Py_tp_members, baton_members},
    {0, NULL},
};

static PyType_Spec baton_spec = {
    .name = "shardwright.transport.shm._ring.Baton",
    .basicsize = sizeof(Baton),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = baton_slots,
};

static PyMemberDef worker_members[] = {
    {"found", T_OBJECT, offsetof(Worker, found), 0, NULL},
    {"listens", T_BOOL, offsetof(Worker, listens), 0, NULL},
    {"ends", T_BOOL, offsetof(Worker, ends), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
worker_traverse(Worker *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->found);
    return 0;
}

static int
worker_clear(Worker *self)
{
    Py_CLEAR(self->found);
    return 0;
}

static void
worker_dealloc(Worker *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    worker_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The fields of a mailbox's worker that C looks at.")},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_traverse, worker_traverse},
    {Py_tp_clear, worker_clear},
    {Py_tp_members, worker_members},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "shardwright.transport.shm._ring.Worker",
    .basicsize = sizeof(Worker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = worker_slots,
};

static bool
has_baton(const Baton *baton, unsigned long thread)
{
    if (baton == NULL || !baton->held || baton->holder == NULL || !PyLong_Check(baton->holder)) {
        return false;
    }
    return PyLong_AsUnsignedLong(baton->holder) == thread;
}

/* Whether the doorbell is this process's own: a forked child has nothing of it. */
static bool
alive(const Desk *desk)
{
    return !desk->off && desk->doorbell->generation == sw_generation();
}

/* Whether no thread is within the mailbox's mutex. Then what is done here, without giving the interpreter away, is as good as
 * done under it: nobody else enters meanwhile. */
static bool
is_free(const Baton *baton)
{
    PyObject *locked = baton->locked == NULL ? NULL : PyObject_CallNoArgs(baton->locked);
    const bool free = locked == Py_False;
    Py_XDECREF(locked);
    if (locked == NULL) {
        PyErr_Clear();
    }
    return free;
}

static PyObject *
patience_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Patience *self = (Patience *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != NULL) {
        self->penalty = 1;
    }
    return (PyObject *)self;
}

static void
plain_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *
patience_has(Patience *self, PyObject *Py_UNUSED(nothing))
{
    if (self->left) {
        self->left--;
        return Py_NewRef(Py_False);
    }
    return Py_NewRef(Py_True);
}

static PyObject *
patience_rewarded(Patience *self, PyObject *Py_UNUSED(nothing))
{
    if (self->penalty > 1) {
        self->penalty /= 2;
    }
    return Py_NewRef(Py_None);
}

static PyObject *
patience_lost(Patience *self, PyObject *Py_UNUSED(nothing))
{
    self->left = self->penalty;
    self->penalty = 2 * self->penalty < 1024 ? 2 * self->penalty : 1024;
    return Py_NewRef(Py_None);
}

static PyMethodDef patience_methods[] = {
    {"has", (PyCFunction)patience_has, METH_NOARGS, NULL},
    {"rewarded", (PyCFunction)patience_rewarded, METH_NOARGS, NULL},
    {"lost", (PyCFunction)patience_lost, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot patience_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("As PythonPatience.")},
    {Py_tp_new, patience_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, patience_methods},
    {0, NULL},
};

static PyType_Spec patience_spec = {
    .name = "shardwright.transport.shm._ring.Patience",
    .basicsize = sizeof(Patience),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = patience_slots,
};

/* -- calls in flight ---------------------------------------------------------------------------------------------- */

static void
enter_call(struct call *call)
{
    Line *line = call->line;
    Desk *desk = line->desk;
    call->after = NULL;
    call->before = line->latest;
    *(line->latest == NULL ? &line->oldest : &line->latest->after) = call;
    line->latest = call;
    line->in_flight++;
    call->newer = NULL;
    call->older = desk->newest;
    if (desk->newest != NULL) {
        desk->newest->newer = call;
    }
    desk->newest = call;
}

/* Its thread is to be roused when those whose turn is before its own were; among equals, whoever came first. */
static void
queue(Desk *desk, struct call *call)
{
    struct call *before = desk->last;
    while (before != NULL && before->turn > call->turn) {
        before = before->sooner;
    }
    call->queued = true;
    call->sooner = before;
    call->later = before == NULL ? desk->first : before->later;
    *(before == NULL ? &desk->first : &before->later) = call;
    *(call->later == NULL ? &desk->last : &call->later->sooner) = call;
}

/* Its thread is awake, or about to be roused. */
static void
unqueue(Desk *desk, struct call *call)
{
    if (call->queued) {
        call->queued = false;
        *(call->sooner == NULL ? &desk->first : &call->sooner->later) = call->later;
        *(call->later == NULL ? &desk->last : &call->later->sooner) = call->sooner;
    }
}

/* Its thread is about to go on. */
static void
note_roused(Desk *desk, struct call *call, bool roused)
{
    roused = roused && call->sleeps; /* one that runs the user's code in between goes on when that is done */
    desk->roused += roused - call->roused;
    call->roused = roused;
}

static void
leave_call(struct call *call)
{
    Line *line = call->line;
    Desk *desk = line->desk;
    unqueue(desk, call);
    note_roused(desk, call, false);
    *(call->before == NULL ? &line->oldest : &call->before->after) = call->after;
    *(call->after == NULL ? &line->latest : &call->after->before) = call->before;
    line->in_flight--;
    if (call->older != NULL) {
        call->older->newer = call->newer;
    }
    *(call->newer == NULL ? &desk->newest : &call->newer->older) = call->older;
}

static struct call *
find_call(const Line *line, uint64_t id)
{
    for (struct call *call = line->oldest; call != NULL; call = call->after) {
        if (call->id == id) {
            return call;
        }
    }
    return NULL;
}

/* Enter the outcome of a call, and wake its thread; or, for a thread that is about to sleep or to be done itself, note that it is
 * to be roused (`rouse_next`): a thread that is woken while this one runs would find the interpreter taken, and sleep again. */
static void
deliver(struct call *call, PyObject *came, bool later)
{
    Desk *desk = call->line->desk;
    if (call->came != NULL) {
        return;
    }
    call->came = Py_NewRef(came);
    if (call->thread == PyThread_get_thread_ident()) {
        return;
    }
    if (!later) {
        note_roused(desk, call, true);
        sw_bell_wake(call->bell, call->slot);
        return;
    }
    queue(desk, call);
}

/* Nobody's turn is before that of whoever goes on, but for those who are late. */
static void
goes_on(Desk *desk, const struct call *call)
{
    if (call->turn > desk->turn) {
        desk->turn = call->turn;
    }
}

/* The slot of the next thread to be roused; -1: none. */
static int32_t
rouse_next(Desk *desk)
{
    struct call *call = desk->first;
    if (call == NULL) {
        return -1;
    }
    unqueue(desk, call);
    goes_on(desk, call);
    note_roused(desk, call, true);
    return call->slot;
}

/* Whether the message is the reply to a call of this line, which has it now. */
static bool
take_reply(const Line *line, PyObject *message, bool later)
{
    if (line->oldest == NULL) {
        return false;
    }
    unsigned char head[16];
    if (PyBytes_Check(message)) {
        if (PyBytes_Size(message) < HEADER) {
            return false;
        }
        memcpy(head, PyBytes_AsString(message), sizeof head);
    } else {
        Py_buffer view;
        if (PyObject_GetBuffer(message, &view, PyBUF_SIMPLE) < 0) {
            PyErr_Clear();
            return false;
        }
        const bool whole = view.len >= HEADER;
        if (whole) {
            memcpy(head, view.buf, sizeof head);
        }
        PyBuffer_Release(&view);
        if (!whole) {
            return false;
        }
    }
    if (head[0] != 'S' || head[1] != 'W' || head[2] != 1 || (head[3] != KIND_RESULT && head[3] != KIND_ERROR)) {
        return false;
    }
    struct call *call = find_call(line, load8(head + 8));
    if (call == NULL || call->came != NULL) {
        return false;
    }
    deliver(call, message, later);
    return true;
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

enum dispatched { NOTHING, MINE, FOR_PYTHON, AN_ANSWER };

/* Whether this is a call that may be answered at once. */
static bool
read_call(Line *line, PyObject *message, struct answer *answer)
{
    if (!line->heard || !PyBytes_Check(message)) {
        return false;
    }
    const unsigned char *bytes = (const unsigned char *)PyBytes_AsString(message);
    const Py_ssize_t size = PyBytes_Size(message);
    if (size < HEADER || size >= SMALL || bytes[0] != 'S' || bytes[1] != 'W' || bytes[2] != 1 || bytes[3] != KIND_CALL
        || bytes[4] != line->codec || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0
        || load4(bytes + 72) != (uint64_t)(size - HEADER)) {
        return false;
    }
    answer->method = load4(bytes + 24);
    if (answer->method >= line->room || line->entries[answer->method].name == NULL) {
        return false;
    }
    answer->session = load8(bytes + 16);
    answer->deadline = load8(bytes + 32);
    answer->chain = load8(bytes + 64);
    if (answer->deadline != 0 && (int64_t)answer->deadline < sw_now()) {
        return false;
    }
    if (line->peer_sessions != Py_None) {
        PyObject *number = PyLong_FromUnsignedLongLong(answer->session);
        const int in = number == NULL ? -1 : PySequence_Contains(line->peer_sessions, number);
        Py_XDECREF(number);
        if (in <= 0) {
            PyErr_Clear();
            return false;
        }
    }
    answer->line = line;
    answer->message = message;
    answer->bytes = bytes;
    answer->size = size;
    answer->call_id = load8(bytes + 8);
    answer->blocked = load8(bytes + 56);
    return true;
}

/* Whether a thread here waits on that chain, this way or the slow one (then the call is its own), or an event loop does that cannot
 * let it in. */
static bool
is_waited_for(const Desk *desk, uint64_t chain)
{
    for (struct call *call = desk->newest; chain != 0 && call != NULL; call = call->older) {
        if (call->chain == chain) {
            return true;
        }
    }
    if (chain == 0 || (!any(desk->waiting_slowly) && !any(desk->stuck))) {
        return false;
    }
    PyObject *number = PyLong_FromUnsignedLongLong(chain);
    const bool waited = number == NULL || PyDict_Contains(desk->waiting_slowly, number) != 0
                        || PyDict_Contains(desk->stuck, number) != 0;
    Py_XDECREF(number);
    PyErr_Clear();
    return waited;
}

static int
leave_to_python(Desk *desk, Ring *ring, PyObject *message)
{
    PyObject *pair = PyTuple_Pack(2, ring->tag, message);
    PyObject *done = pair == NULL ? NULL : PyObject_CallMethodObjArgs(desk->arrived, text_append, pair, NULL);
    Py_XDECREF(pair);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* With the role: take what is there. Replies go to those who wait for them. Ends at the first message that is for Python, which
 * is then in `arrived`; or, with `answer`, at the first call that can be answered at once, which the caller holds in
 * `answer->message` then; or when `until` has come. Less than 0: an exception. */
static int
dispatch(Desk *desk, struct answer *answer, const struct call *until)
{
    struct sw_bell *bell = &desk->doorbell->bell;
    int taken = NOTHING;
    if (any(desk->arrived)) {
        return FOR_PYTHON;
    }
    if (atomic_load(&bell->poked)) {
        return FOR_PYTHON; /* which looks around, and forgets it */
    }
    if (!sw_bell_collect(bell)) {
        return NOTHING;
    }
    const uint32_t words = atomic_load(&bell->words);
    for (uint32_t round = 0; round <= words && words != 0; round++) { /* from the channel behind the last one, around to it */
        const uint32_t word = (desk->cursor / 64 + round) % words;
        uint64_t bits = atomic_load(&bell->local[word]);
        if (round == 0) {
            bits &= ~(uint64_t)0 << (desk->cursor % 64);
        }
        for (; bits != 0; bits &= bits - 1) {
            const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
            Ring *ring = sw_ring_of(bell, index);
            if (ring == NULL) {
                continue;
            }
            desk->cursor = (index + 1) % (words * 64);
            int more = 1;
            PyObject *held = Py_NewRef((PyObject *)ring); /* its owner may let go of it */
            for (int count = 0; more > 0 && count < MOST_TAKEN; count++) {
                PyObject *message;
                more = sw_ring_take(ring, &message);
                if (message == NULL) {
                    if (more < 0) {
                        Py_DECREF(held);
                        return -1;
                    }
                    break;
                }
                taken = MINE;
                if (ring->line != NULL && take_reply(ring->line, message, until != NULL)) {
                    Py_DECREF(message);
                    continue;
                }
                if (answer != NULL && ring->line != NULL && read_call(ring->line, message, answer)
                    && !is_waited_for(desk, answer->chain)) {
                    Py_DECREF(held);
                    return AN_ANSWER;
                }
                const int left = leave_to_python(desk, ring, message);
                Py_DECREF(message);
                Py_DECREF(held);
                return left < 0 ? -1 : FOR_PYTHON;
            }
            Py_DECREF(held);
            if (until != NULL && until->came != NULL) {
                return MINE;
            }
        }
    }
    return taken;
}

/* Python handles what is for it, with the role. */
static int
let_python_read(Desk *desk)
{
    PyObject *done = PyObject_CallNoArgs(desk->rest);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* -- calling ------------------------------------------------------------------------------------------------------ */

/* Whether another thread has its reply, and sleeps, or was roused and waits for the interpreter. */
static bool
others_go_first(const Desk *desk, const struct call *call)
{
    return call->inbox == NULL && (desk->roused > 0 || (desk->first != NULL && desk->first != call && desk->first->sleeps));
}

/* Whether the calling thread made so many calls more than one of those. */
static bool
had_its_turn(const Desk *desk, const struct call *call)
{
    const uint64_t least = desk->first != NULL && desk->first != call && desk->first->turn < desk->turn ? desk->first->turn
                                                                                                        : desk->turn;
    return call->turn >= least + (desk->free > MANY ? STREAK_OF_MANY : STREAK);
}

enum waited_for { CAME, TOO_LONG, LEFT_TO_OTHERS, FAILED };

/* Wait until `call->came`. `outcome`: what `sw_bell_begin` said of this slot. Leaves the role in every case. */
static enum waited_for
wait_for(Outlet *outlet, struct call *call, enum sw_waited outcome, int64_t until_ns, bool keeps)
{
    Desk *desk = call->line->desk;
    struct sw_bell *bell = call->bell;
    const bool is_main = call->thread == desk->main;
    const bool free = !keeps;
    enum waited_for result = CAME;
    desk->free += free;
    for (;;) {
        if (outcome == SW_READS) {
            desk->reader = call->thread;
            const int found = dispatch(desk, NULL, call);
            desk->reader = 0;
            if (found < 0) {
                result = FAILED;
                break;
            }
            if (found == FOR_PYTHON && call->came == NULL) {
                if (is_main) { /* an interrupt must not find it with messages of others in its hands */
                    result = LEFT_TO_OTHERS;
                    break;
                }
                if (let_python_read(desk) < 0) {
                    result = FAILED;
                    break;
                }
            }
        }
        if (call->came != NULL) {
            if (outcome != SW_READS || is_main || keeps || !others_go_first(desk, call)
                || !(call->queued || had_its_turn(desk, call))) {
                break;
            }
            if (!call->queued) {
                queue(desk, call); /* behind them */
            }
            outcome = SW_MUST_SLEEP;
        }
        if (call->came == NULL && call->inbox != NULL && PyList_Size(call->inbox) > 0) {
            PyObject *item = Py_NewRef(PyList_GetItem(call->inbox, 0));
            PyList_SetSlice(call->inbox, 0, 1, NULL);
            sw_bell_leave(bell, call->slot);
            for (int32_t next; (next = rouse_next(desk)) >= 0;) { /* the user's code may take its time */
                sw_bell_wake(bell, next);
            }
            call->busy = true;
            PyObject *done = PyObject_CallFunctionObjArgs(outlet->nested, item, NULL);
            call->busy = false;
            Py_DECREF(item);
            Py_XDECREF(done);
            if (done == NULL) {
                result = FAILED;
                break;
            }
            if (!alive(desk)) { /* the hub was closed; or this is a child that the call forked */
                result = TOO_LONG;
                break;
            }
            if (keeps) { /* that took time, which says nothing of the peer */
                until_ns = sw_now() + KEEP_NS;
            }
        }
        else if (outcome == SW_MUST_SLEEP && call->came == NULL && others_go_first(desk, call) && !had_its_turn(desk, call)
                 && sw_bell_look(bell, call->slot, LOOK_NS)) {
            outcome = SW_READS; /* others are ready, but to change threads takes longer than this reply did */
            continue;
        }
        else if (outcome == SW_MUST_SLEEP) {
            const int32_t next = desk->first == call ? -1 : rouse_next(desk); /* then others are awake already */
            int64_t limit = until_ns;
            if (call->came != NULL) {
                const int64_t turn_ends = sw_now() + TURN_NS;
                limit = turn_ends < limit ? turn_ends : limit;
            }
            const int64_t looks = is_main ? sw_now() + SW_SIGNALS_NS : SW_NEVER;
            const bool looks_first = looks < limit;
            call->sleeps = true;
            Py_BEGIN_ALLOW_THREADS
            if (next >= 0) { /* now, when it need not wait for the interpreter as well */
                sw_bell_hand(bell, call->slot, next, GRACE_NS);
            }
            outcome = sw_bell_sleep(bell, call->slot, looks_first ? looks : limit, true);
            Py_END_ALLOW_THREADS
            call->sleeps = false;
            note_roused(desk, call, false);
            if (outcome == SW_INTERRUPTED || (looks_first && outcome == SW_TIMED_OUT)) {
                if (outcome == SW_INTERRUPTED) {
                    sw_bell_abandon(bell, call->slot);
                }
                if (PyErr_CheckSignals() < 0) {
                    result = FAILED;
                    break;
                }
                outcome = SW_WOKEN;
            }
            if (outcome == SW_TIMED_OUT) {
                if (call->came == NULL) {
                    result = TOO_LONG;
                }
                break;
            }
            continue;
        }
        if (!alive(desk)) {
            result = TOO_LONG;
            break;
        }
        outcome = sw_bell_begin(bell, call->slot);
    }
    desk->free -= free;
    goes_on(desk, call);
    unqueue(desk, call); /* something else woke it before its turn */
    if (desk->doorbell->generation != sw_generation()) {
        return result;
    }
    if (desk->first != NULL) { /* they go on when this thread sleeps; or, if it does not, after the grace */
        if (is_main || result != CAME) {
            for (int32_t next; (next = rouse_next(desk)) >= 0;) {
                sw_bell_wake(bell, next);
            }
        } else {
            sw_bell_owe_soon(bell, desk->first->slot);
        }
    }
    if (is_main || result != CAME || desk->others > 0) {
        sw_bell_leave(bell, call->slot);
    } else {
        sw_bell_lend(bell, call->slot, GRACE_NS);
    }
    if (result == LEFT_TO_OTHERS) {
        sw_bell_poke(bell);
    }
    return result;
}

/* Random bytes, from the kernel: drawn many at once, and never twice after a fork. False: it has none. */
static bool
draw(unsigned char *to, size_t size)
{
    static unsigned char drawn[1024];
    static size_t left;
    static unsigned generation;
    if (left < size || generation != sw_generation()) {
        size_t have = 0;
        while (have < sizeof drawn) {
            const ssize_t more = getrandom(drawn + have, sizeof drawn - have, 0);
            if (more <= 0) {
                if (more < 0 && errno == EINTR) {
                    continue;
                }
                return false;
            }
            have += (size_t)more;
        }
        left = sizeof drawn;
        generation = sw_generation();
    }
    left -= size;
    memcpy(to, drawn + left, size);
    memset(drawn + left, 0, size);
    return true;
}

static bool
number_in(PyObject *held, uint64_t *value)
{
    if (!PyLong_Check(held)) {
        return false;
    }
    *value = PyLong_AsUnsignedLongLong(held);
    if (*value == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return true;
}

static bool
number_of(PyObject *object, PyObject *name, uint64_t *value)
{
    PyObject *held = PyObject_GetAttr(object, name);
    const bool good = held != NULL && number_in(held, value);
    if (held == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(held);
    return good;
}

static bool
trace_of(PyObject *object, unsigned char trace[16])
{
    PyObject *held = PyObject_GetAttr(object, text_trace);
    const bool good = held != NULL && PyBytes_Check(held) && PyBytes_Size(held) == 16;
    if (good) {
        memcpy(trace, PyBytes_AsString(held), 16);
    }
    Py_XDECREF(held);
    PyErr_Clear();
    return good;
}

/* A chain that begins here, and a trace if there is none. */
static bool
begin_chain(struct context *context)
{
    static const unsigned char none[16];
    if ((memcmp(context->trace, none, sizeof none) == 0 && !draw(context->trace, sizeof context->trace))
        || !draw((unsigned char *)&context->chain, sizeof context->chain)) {
        return false;
    }
    context->chain |= 1;
    return true;
}

/* The session for which threads call that user code began: none in a component that serves everybody; where each session has
 * its own, that one. New; NULL without an exception: it could be any. */
static PyObject *
session_outside(const Desk *desk, uint64_t *number)
{
    PyObject *key, *name;
    Py_ssize_t at = 0;
    *number = 0;
    if (!desk->of_session) {
        return PyLong_FromLong(0);
    }
    if (desk->names == NULL || !PyDict_CheckExact(desk->names) || PyDict_Size(desk->names) != 1
        || !PyDict_Next(desk->names, &at, &key, &name) || !number_in(key, number)) {
        return NULL;
    }
    return Py_NewRef(key);
}

/* A thread that user code began: it calls for its component, in the trace of who began it. */
static bool
get_outside(const Desk *desk, struct context *context)
{
    PyObject *mine = PyThreadState_GetDict();
    if (mine == NULL || desk->outside == NULL || desk->outside == Py_None) {
        return false;
    }
    PyObject *began = PyDict_GetItemWithError(mine, desk->outside);
    if (began == NULL) {
        PyErr_Clear();
        PyObject *found = PyObject_CallNoArgs(desk->outside);
        if (found == NULL || PyDict_SetItem(mine, desk->outside, found) < 0) {
            PyErr_Clear();
            Py_XDECREF(found);
            return false;
        }
        began = found;
        Py_DECREF(found);
    }
    if (!trace_of(began, context->trace)) {
        return false;
    }
    if (!begin_chain(context)) {
        return false;
    }
    context->session = session_outside(desk, &context->number);
    return context->session != NULL;
}

/* The context of a call that runs, on this thread; false: it is none that C reads, or is over. */
static bool
get_context(Desk *desk, struct context *context)
{
    *context = (struct context){NULL};
    PyObject *object = PyObject_CallNoArgs(desk->context_get);
    if (object == NULL || (PyObject *)Py_TYPE(object) != desk->context_class) {
        PyErr_Clear();
        Py_XDECREF(object);
        return false;
    }
    if (object == desk->nowhere) {
        Py_DECREF(object);
        return get_outside(desk, context);
    }
    if (object != desk->seen.object) {
        PyObject *life = PyObject_GetAttr(object, text_life), *session = PyObject_GetAttr(object, text_session);
        struct context read = {object, session, {0}, 0, 0, 0, 0};
        const bool good = life != NULL && session != NULL && trace_of(object, read.trace)
                          && number_in(session, &read.number) && number_of(object, text_deadline, &read.deadline)
                          && number_of(object, text_blocked, &read.blocked) && number_of(object, text_chain, &read.chain)
                          && (read.chain != 0) == (life != Py_None);
        PyErr_Clear();
        if (!good) {
            Py_XDECREF(life);
            Py_XDECREF(session);
            Py_DECREF(object);
            return false;
        }
        PyObject *old[] = {desk->seen.object, desk->seen.session, desk->seen_life};
        desk->seen = read;
        Py_INCREF(object);
        desk->seen_life = life;
        for (int n = 0; n < 3; n++) {
            Py_XDECREF(old[n]); /* may run anything: what is used below is looked at anew */
        }
        if (desk->seen.object != object) {
            Py_DECREF(object);
            return false;
        }
    }
    if (desk->seen_life == Py_None) { /* no call's: what a run executes. Each of its calls begins a chain of its own */
        *context = desk->seen;
        context->object = NULL;
        Py_INCREF(context->session);
        Py_DECREF(object);
        return begin_chain(context);
    }
    PyObject *over = PyObject_GetAttr(desk->seen_life, text_over);
    if (over != Py_False || desk->seen.object != object) {
        PyErr_Clear();
        Py_XDECREF(over);
        Py_DECREF(object);
        return false;
    }
    Py_DECREF(over);
    *context = desk->seen;
    Py_INCREF(context->session);
    return true;
}

/* The same as Python knows it; NULL with an exception. Borrowed. */
static PyObject *
context_object(const Desk *desk, struct context *context)
{
    if (context->object == NULL) {
        PyObject *trace = PyBytes_FromStringAndSize((const char *)context->trace, (Py_ssize_t)sizeof context->trace);
        if (trace == NULL) {
            return NULL;
        }
        PyObject *name = NULL;
        if (context->number != 0 && desk->names != NULL && PyDict_CheckExact(desk->names)) {
            name = PyDict_GetItemWithError(desk->names, context->session); /* it may have ended meanwhile */
        }
        context->object = PyObject_CallFunction(desk->context_class, "KOKKNK", (unsigned long long)context->number,
                                                name == NULL ? empty_text : name, (unsigned long long)context->chain,
                                                (unsigned long long)context->deadline, trace,
                                                (unsigned long long)context->blocked);
    }
    return context->object;
}

static void
drop_context(struct context *context)
{
    Py_XDECREF(context->object);
    Py_XDECREF(context->session);
}

/* Where the calling thread waits; NULL: it is one that others wait for, or there are too many. */
static Waiter *
seat_of(const Desk *desk)
{
    PyObject *mine = PyThreadState_GetDict();
    if (mine == NULL) {
        return NULL;
    }
    PyObject *known = PyDict_GetItemWithError(mine, (PyObject *)desk);
    if (known == NULL) {
        PyErr_Clear();
        PyObject *service = PyObject_CallNoArgs(desk->service);
        PyObject *ear = service == NULL || any(service) ? NULL : PyObject_CallNoArgs(desk->ear);
        Py_XDECREF(service);
        if (ear != NULL && ear != Py_None && PyDict_SetItem(mine, (PyObject *)desk, ear) == 0) {
            known = ear; /* held there */
        }
        PyErr_Clear();
        Py_XDECREF(ear);
        if (known == NULL) {
            return NULL;
        }
    }
    return (Waiter *)known;
}

/* Only what neither side could change, and no codec sees a difference in. */
static bool
is_plain(PyObject *value, int depth)
{
    if (value == Py_None || value == Py_True || value == Py_False || PyLong_CheckExact(value) || PyFloat_CheckExact(value)
        || PyUnicode_CheckExact(value) || PyBytes_CheckExact(value)) {
        return true;
    }
    if (!PyTuple_CheckExact(value) || depth == 0) {
        return false;
    }
    for (Py_ssize_t n = 0; n < PyTuple_Size(value); n++) {
        if (!is_plain(PyTuple_GetItem(value, n), depth - 1)) {
            return false;
        }
    }
    return true;
}

static bool
is_plain_call(PyObject *args, PyObject *kwargs)
{
    return PyTuple_CheckExact(args) && (kwargs == Py_None || PyDict_Size(kwargs) == 0) && is_plain(args, 3);
}

/* Calls of its chain that came too late for a thread that waits no longer. */
static void
resubmit(struct call *call)
{
    PyObject *inbox = call->inbox;
    call->inbox = NULL;
    if (inbox == NULL) {
        return;
    }
    if (PyList_Size(inbox) > 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        for (Py_ssize_t n = 0; n < PyList_Size(inbox); n++) {
            PyObject *done = PyObject_CallMethod(PyList_GetItem(inbox, n), "resubmit", NULL);
            if (done == NULL) {
                PyErr_WriteUnraisable(inbox);
            }
            Py_XDECREF(done);
        }
        PyErr_Restore(type, value, traceback);
    }
    Py_DECREF(inbox);
}

/* The payload of a reply that is a plain result; NULL: it is none. */
static const unsigned char *
result_in(const Line *line, PyObject *came, Py_ssize_t *size)
{
    if (!PyBytes_Check(came)) {
        return NULL;
    }
    const unsigned char *bytes = (const unsigned char *)PyBytes_AsString(came);
    *size = PyBytes_Size(came) - HEADER;
    if (bytes[3] != KIND_RESULT || bytes[4] != line->codec || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0
        || load4(bytes + 72) != (uint64_t)*size) {
        return NULL;
    }
    return bytes + HEADER;
}

/* A result that leads to nothing of the request; NULL without an exception: another. */
static PyObject *
read_flat(const Line *line, PyObject *came)
{
    Py_ssize_t size;
    const unsigned char *bytes = result_in(line, came, &size);
    return bytes == NULL ? NULL : sw_flat_result(bytes, size);
}

/* The result of a reply that is plain and good; NULL without an exception: it is not, see `finish`. */
static PyObject *
read_result(const Line *line, PyObject *came, PyObject *memo)
{
    Py_ssize_t size;
    const unsigned char *bytes = result_in(line, came, &size);
    PyObject *payload = bytes == NULL ? NULL : PyBytes_FromStringAndSize((const char *)bytes, size);
    if (payload == NULL) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *result = PyObject_CallFunctionObjArgs(line->read_reply, payload, empty_tuple, memo, Py_False, NULL);
    Py_DECREF(payload);
    if (result == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* nothing was touched: it is read again, by who words what is wrong */
    }
    return result;
}

/* The header lies in front of `size` bytes of payload, or of none and then `payload` has them. */
static enum sw_sent
push(Line *line, unsigned char *header, Py_ssize_t size, PyObject *payload)
{
    char *raw = NULL;
    if ((payload != NULL && PyBytes_AsStringAndSize(payload, &raw, &size) < 0) || !sw_ring_enter(line->ring)) {
        PyErr_Clear();
        return SW_ENDED;
    }
    store4(header + 72, (uint32_t)size);
    const struct sw_part parts[2] = {
        {.bytes = header, .size = HEADER + (payload == NULL ? (size_t)size : 0)},
        {.bytes = raw, .size = (size_t)size},
    };
    const enum sw_sent sent = sw_push(&line->ring->end, parts, payload == NULL ? 1 : 2);
    sw_ring_leave(line->ring);
    return sent;
}

/* (payload, buffers, memo) of a request. New; NULL with an exception. */
static PyObject *
write_request(const Line *line, PyObject *positional, PyObject *keywords)
{
    PyObject *value = PyTuple_Pack(3, Py_None, positional, PyDict_Size(keywords) > 0 ? keywords : Py_None);
    PyObject *written = value == NULL ? NULL : PyObject_CallFunctionObjArgs(line->write_request, value, NULL);
    Py_XDECREF(value);
    return written;
}

/* Whether a caller that has the baton keeps it while it waits. If others want it, only where replies use to come before
 * two threads could have changed places; to find that out again, now and then all the same. */
static bool
may_keep(const Desk *desk, Line *line)
{
    if (!any(desk->baton->queue) && !any(desk->baton->resumers)) {
        return true;
    }
    return line->reply_ns < SOON_NS || ++line->refused % TRY_AGAIN == 0;
}

/* Its caller waits no longer, for an exception is set: the peer is to hear of it. */
static void
give_up(const Outlet *self, const Line *line, uint64_t call_id)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *id = PyLong_FromUnsignedLongLong(call_id);
    PyObject *done = id == NULL ? NULL : PyObject_CallFunctionObjArgs(self->give_up, line->link, id, NULL);
    if (done == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(id);
    Py_XDECREF(done);
    PyErr_Restore(type, error, traceback);
}

static PyObject *
outlet_call(Outlet *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "call(args, kwargs)");
        return NULL;
    }
    PyObject *positional = args[0], *keywords = args[1], *result = NULL;
    Desk *desk = self->desk;
    const unsigned long thread = PyThread_get_thread_ident();
    struct context context = {NULL};
    Line *line = NULL;
    Waiter *seat;
    if (desk == NULL || !alive(desk) || desk->reader == thread || any(desk->dropped) || !get_context(desk, &context)) {
        goto slow;
    }
    line = (Line *)PyDict_GetItemWithError(self->lines, context.session);
    if (line == NULL) {
        PyErr_Clear();
        goto slow;
    }
    Py_INCREF((PyObject *)line);
    seat = seat_of(desk);
    const bool keeps = has_baton(desk->baton, thread);
    unsigned char frame[HEADER + SW_FLAT_MOST];
    const Py_ssize_t flat = PyDict_Size(keywords) == 0 ? sw_flat_request(positional, frame + HEADER) : -1;
    if (seat == NULL || (line->plain && flat < 0 && !is_plain_call(positional, keywords))
        || (keeps && (((Patience *)line->patience)->left != 0 || !may_keep(desk, line)))) {
        goto slow;
    }
    /* the arguments: flat ones are written, the others by the codec, which makes a memo; that of flat ones only when it is needed */
    PyObject *written = flat < 0 ? write_request(line, positional, keywords) : NULL;
    if (written == NULL && flat < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            goto leave;
        }
        PyErr_Clear(); /* nothing was sent: it is written again, by who words what is wrong */
        goto slow;
    }
    PyObject *payload = NULL;
    bool whole = true; /* in the message, without buffers beside it */
    if (written != NULL) {
        payload = PyTuple_GetItem(written, 0);
        whole = PyTuple_Size(PyTuple_GetItem(written, 1)) == 0;
    }
    const int64_t now = context.deadline != 0 || keeps ? sw_now() : 0;
    struct call call = {.line = line, .chain = context.chain, .slot = seat->slot, .thread = thread,
                        .bell = &desk->doorbell->bell};
    enum sw_waited outcome = SW_WOKEN;
    enum sw_sent sent = SW_ENDED;
    if (line->open && whole && (context.deadline == 0 || (int64_t)context.deadline > now)) {
        unsigned char *header = frame;
        memset(header, 0, HEADER);
        memcpy(header, (const unsigned char[]){'S', 'W', 1, KIND_CALL, line->codec}, 5);
        call.id = line->ids++;
        if (seat->turn + LATE < desk->turn) { /* it did not call for a while: that gives no claim */
            seat->turn = desk->turn - LATE;
        }
        call.turn = seat->turn++;
        store8(header + 8, call.id);
        store8(header + 16, context.number);
        store4(header + 24, (uint32_t)self->method);
        store8(header + 32, context.deadline);
        memcpy(header + 40, context.trace, 16);
        store8(header + 56, context.blocked | (thread == desk->loop ? desk->mark : 0));
        store8(header + 64, context.chain);
        enter_call(&call);
        /* to be the reader before the reply can come: it wakes nobody then */
        outcome = sw_bell_begin(call.bell, call.slot);
        sent = push(line, header, flat, payload);
        if (sent != SW_SENT) {
            leave_call(&call);
            if (outcome == SW_MUST_SLEEP) {
                sw_bell_abandon(call.bell, call.slot);
            } else {
                sw_bell_leave(call.bell, call.slot);
            }
            Py_CLEAR(call.came);
            resubmit(&call);
        }
    }
    if (sent != SW_SENT) {
        written = written == NULL ? write_request(line, positional, keywords) : written;
        if (written != NULL && context_object(desk, &context) != NULL) {
            result = PyObject_CallFunctionObjArgs(self->encoded, positional, keywords, line->link, context.object, written,
                                                  NULL);
        }
        Py_XDECREF(written);
        goto leave;
    }
    desk->calls_out++;
    int64_t until_ns = keeps ? now + KEEP_NS : SW_NEVER;
    if (context.deadline != 0 && (int64_t)context.deadline < until_ns) {
        until_ns = (int64_t)context.deadline;
    }
    const enum waited_for ended = wait_for(self, &call, outcome, until_ns, keeps);
    if (ended == TOO_LONG || ended == LEFT_TO_OTHERS) {
        line->reply_ns += keeps ? (KEEP_NS - line->reply_ns) / 8 : 0;
        PyObject *id = PyLong_FromUnsignedLongLong(call.id);
        written = written == NULL ? write_request(line, positional, keywords) : written;
        if (written != NULL && id != NULL && context_object(desk, &context) != NULL) { /* takes the call out of the line */
            result = PyObject_CallFunctionObjArgs(self->go_on, line->link, context.object, id, PyTuple_GetItem(written, 2),
                                                  ended == TOO_LONG && keeps ? Py_True : Py_False, NULL);
        }
        Py_XDECREF(id);
        if (call.line != NULL) { /* it could not */
            const bool answered = call.came != NULL;
            leave_call(&call);
            if (!answered && alive(desk)) {
                give_up(self, line, call.id);
            }
        }
    } else {
        leave_call(&call);
        if (ended == FAILED) {
            give_up(self, line, call.id);
        } else {
            if (keeps) {
                Patience *patience = (Patience *)line->patience;
                patience->penalty = patience->penalty > 1 ? patience->penalty / 2 : 1;
                line->reply_ns += (sw_now() - now - line->reply_ns) / 8;
            }
            result = read_flat(line, call.came);
            if (result == NULL) {
                written = written == NULL ? write_request(line, positional, keywords) : written;
                result = written == NULL ? NULL : read_result(line, call.came, PyTuple_GetItem(written, 2));
            }
            if (result == NULL && !PyErr_Occurred() && context_object(desk, &context) != NULL) {
                result = PyObject_CallFunctionObjArgs(self->finish, line->link, context.object, call.came,
                                                      PyTuple_GetItem(written, 2), NULL);
            }
        }
    }
    Py_CLEAR(call.came);
    resubmit(&call);
    Py_XDECREF(written);
    if (!line->open && line->in_flight == 0) { /* it was retired meanwhile: who does that waits for the last call */
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyObject *done = PyObject_CallMethod(line->link, "_close_retired", NULL);
        if (done == NULL) {
            PyErr_WriteUnraisable(line->link);
        }
        Py_XDECREF(done);
        PyErr_Restore(type, error, traceback);
    }
leave:
    if (result == (PyObject *)self) { /* it was never taken from the ring: nothing was done yet */
        Py_DECREF(result);
        goto slow;
    }
    drop_context(&context);
    Py_XDECREF((PyObject *)line);
    return result;
slow:
    drop_context(&context);
    Py_XDECREF((PyObject *)line);
    return PyObject_CallFunctionObjArgs(self->slow, positional, keywords, NULL);
}

/* -- answering ---------------------------------------------------------------------------------------------------- */

/* (request, memo), by the codec; NULL with an exception. */
static PyObject *
read_request(const struct answer *now)
{
    PyObject *payload = PyBytes_FromStringAndSize((const char *)now->bytes + HEADER, now->size - HEADER);
    PyObject *read = payload == NULL ? NULL : PyObject_CallFunctionObjArgs(now->line->read_request, payload, empty_tuple, NULL);
    Py_XDECREF(payload);
    return read;
}

/* The same, of a call whose arguments were flat: its memo only is used, which has nothing in it that could have changed. False
 * with an exception. */
static bool
remember(const struct answer *now, PyObject **read)
{
    return *read != NULL || (*read = read_request(now)) != NULL;
}

/* Whatever is not a plain result, answered by Python: answer(link, frame, memo, life, began, result, error). */
static PyObject *
answer_slowly(Desk *desk, struct answer *now, PyObject *memo, bool began, PyObject *result, PyObject *error)
{
    return PyObject_CallFunctionObjArgs(desk->answer, now->line->link, now->message, memo == NULL ? Py_None : memo, now->life,
                                        began ? Py_True : Py_False, result == NULL ? Py_None : result,
                                        error == NULL ? Py_None : error, NULL);
}

/* `read`: as in `remember`. */
static PyObject *
answer_error(Desk *desk, struct answer *now, PyObject **read)
{
    PyObject *type, *error, *traceback, *done = NULL;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    if (remember(now, read)) {
        done = answer_slowly(desk, now, PyTuple_GetItem(*read, 1), true, NULL, error);
    }
    Py_XDECREF(error);
    return done;
}

/* The arguments of a request that the codec read; `*keywords` is borrowed, or None. New; NULL: it is no plain call. */
static PyObject *
arguments_in(PyObject *read, PyObject **keywords)
{
    PyObject *request = PyTuple_GetItem(read, 0);
    if (!PyTuple_CheckExact(request) || PyTuple_Size(request) != 3 || PyTuple_GetItem(request, 0) != Py_None) {
        return NULL;
    }
    PyObject *args = PyTuple_GetItem(request, 1), *key, *item;
    Py_ssize_t at = 0;
    *keywords = PyTuple_GetItem(request, 2);
    if (!PyTuple_CheckExact(args) || (*keywords != Py_None && !PyDict_CheckExact(*keywords))) {
        return NULL;
    }
    while (*keywords != Py_None && PyDict_Next(*keywords, &at, &key, &item)) {
        if (!PyUnicode_CheckExact(key)) {
            return NULL;
        }
    }
    return Py_NewRef(args);
}

/* The function that is called, as the shard's module has it at this moment. */
static PyObject *
find_function(const struct entry *entry)
{
    PyObject *module = PyDict_GetItemWithError(PyImport_GetModuleDict(), entry->module);
    if (module == NULL) {
        return NULL;
    }
    Py_INCREF(module);
    PyObject *function = PyObject_GetAttr(module, entry->name);
    Py_DECREF(module);
    return function;
}

/* The answer, in a context of its own. Raises nothing but what cannot be told to the caller. */
static PyObject *
server_run(Server *self, PyObject *Py_UNUSED(nothing))
{
    struct answer *now = self->now;
    if (now == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "nothing is to be answered");
        return NULL;
    }
    self->now = NULL;
    Desk *desk = self->desk;
    Line *line = now->line;
    PyObject *function = NULL, *result = NULL, *done = NULL, *written = NULL;
    PyObject *session = PyLong_FromUnsignedLongLong(now->session), *name = NULL;
    if (session != NULL && now->session != 0) {
        name = PyDict_GetItemWithError(desk->names, session); /* borrowed */
    }
    PyObject *fields[] = {
        session, Py_NewRef(name == NULL ? empty_text : name), PyLong_FromUnsignedLongLong(now->chain),
        PyLong_FromUnsignedLongLong(now->deadline), PyBytes_FromStringAndSize((const char *)now->bytes + 40, 16),
        PyLong_FromUnsignedLongLong(now->blocked), Py_NewRef(now->life),
    };
    PyObject *context = NULL;
    if (fields[0] != NULL && fields[2] != NULL && fields[3] != NULL && fields[4] != NULL && fields[5] != NULL) {
        context = PyObject_CallFunctionObjArgs(desk->context_class, fields[0], fields[1], fields[2], fields[3], fields[4],
                                               fields[5], fields[6], NULL);
    }
    for (size_t n = 0; n < sizeof fields / sizeof *fields; n++) {
        Py_XDECREF(fields[n]);
    }
    PyObject *set = context == NULL ? NULL : PyObject_CallFunctionObjArgs(desk->context_set, context, NULL);
    Py_XDECREF(context);
    Py_XDECREF(set);
    PyObject *args = set == NULL ? NULL : sw_flat_args(now->bytes + HEADER, now->size - HEADER), *keywords = Py_None;
    PyObject *read = NULL; /* (request, memo): of flat arguments only when it is needed */
    if (args == NULL) {
        read = set == NULL ? NULL : read_request(now);
        if (read == NULL) { /* it is read again, by who words what is wrong */
            PyErr_Clear();
            return answer_slowly(desk, now, NULL, false, NULL, NULL);
        }
        args = arguments_in(read, &keywords);
    }
    function = args != NULL ? find_function(&line->entries[now->method]) : NULL;
    if (function == NULL) {
        PyErr_Clear();
        Py_XDECREF(args);
        Py_XDECREF(read);
        return answer_slowly(desk, now, NULL, false, NULL, NULL);
    }
    desk->calls_in++;
    result = PyObject_Call(function, args, keywords == Py_None ? NULL : keywords);
    Py_DECREF(function);
    Py_DECREF(args);
    if (result == NULL) {
        done = answer_error(desk, now, &read);
        Py_XDECREF(read);
        return done;
    }
    unsigned char frame[HEADER + SW_FLAT_MOST];
    Py_ssize_t flat = -1;
    PyObject *payload = NULL;
    if (read == NULL) {
        flat = sw_flat_reply(result, frame + HEADER); /* no argument could have changed */
    }
    if (flat < 0) {
        if (!remember(now, &read)) {
            Py_DECREF(result);
            return NULL;
        }
        if ((!line->plain || is_plain(result, 3)) && (PyObject *)Py_TYPE(result) != desk->coroutine_class) {
            written = PyObject_CallFunctionObjArgs(line->write_reply, result, PyTuple_GetItem(read, 1), NULL);
            if (written == NULL) {
                PyErr_Clear();
            }
        }
        PyObject *buffers = written == NULL ? NULL : PyTuple_GetItem(written, 1);
        if (buffers == NULL || PyTuple_Size(buffers) != 0) {
            Py_XDECREF(written);
            done = answer_slowly(desk, now, PyTuple_GetItem(read, 1), true, result, NULL);
            Py_DECREF(result);
            Py_DECREF(read);
            return done;
        }
        payload = PyTuple_GetItem(written, 0);
    }
    PyObject_SetAttr(now->life, text_over, Py_True);
    if (any(desk->unended)) {
        PyObject *ended = PyObject_CallNoArgs(desk->end_lines);
        Py_XDECREF(ended);
        if (ended == NULL) {
            PyErr_Clear();
        }
    }
    memset(frame, 0, HEADER);
    memcpy(frame, (const unsigned char[]){'S', 'W', 1, KIND_RESULT, line->codec}, 5);
    store8(frame + 8, now->call_id);
    store8(frame + 16, now->session);
    memcpy(frame + 40, now->bytes + 40, 16);
    store8(frame + 64, now->chain);
    const enum sw_sent sent = push(line, frame, flat, payload);
    Py_XDECREF(written);
    if (sent == SW_SENT || sent == SW_ENDED) {
        done = Py_NewRef(Py_None);
    } else if (remember(now, &read)) {
        done = answer_slowly(desk, now, PyTuple_GetItem(read, 1), true, result, NULL);
    }
    Py_DECREF(result);
    Py_XDECREF(read);
    return done;
}

static PyMethodDef server_methods[] = {
    {"run", (PyCFunction)server_run, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static void
server_dealloc(Server *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF((PyObject *)self->desk);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot server_slots[] = {
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_methods, server_methods},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "shardwright.transport.shm._ring.Server",
    .basicsize = sizeof(Server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = server_slots,
};

/* The worker takes the baton, if it is free and nobody wants it, and with it leaves the idle. */
static bool
take_baton(Baton *baton, Worker *worker, PyObject *ident)
{
    if (baton->held || baton->closed || !is_free(baton)) {
        return false;
    }
    bool taken = false;
    if (!any(baton->queue) && !any(baton->resumers)) {
        for (Py_ssize_t n = PyList_Size(baton->idle); n-- > 0;) {
            if (PyList_GetItem(baton->idle, n) == (PyObject *)worker) {
                PyList_SetSlice(baton->idle, n, n + 1, NULL);
                taken = true;
                break;
            }
        }
        if (taken) {
            PyObject *before = baton->holder;
            baton->held = 1;
            baton->holder = Py_NewRef(ident);
            Py_XDECREF(before);
            worker->listens = false;
        }
    }
    PyErr_Clear();
    return taken;
}

/* The worker is idle again; false: somebody wants the baton, which it still has. */
static bool
give_baton(Baton *baton, Worker *worker)
{
    if (!is_free(baton)) {
        return false;
    }
    const bool given = !baton->closed && !any(baton->queue) && !any(baton->resumers)
                       && has_baton(baton, PyThread_get_thread_ident()) && PyList_Append(baton->idle, (PyObject *)worker) == 0;
    if (given) {
        PyObject *before = baton->holder;
        baton->held = 0;
        baton->holder = Py_NewRef(Py_None);
        Py_XDECREF(before);
        worker->listens = true;
    }
    PyErr_Clear();
    return given;
}

static void
answer_call(Desk *desk, Server *server, PyObject *bound, struct answer *now)
{
    now->life = PyObject_CallNoArgs(desk->life_class);
    desk->serving++;
    now->older = desk->answers;
    desk->answers = now;
    PyObject *context = now->life == NULL ? NULL : PyObject_CallNoArgs(desk->context_type);
    PyObject *done = NULL;
    if (context != NULL) {
        server->now = now;
        done = PyObject_CallMethodObjArgs(context, text_run, bound, NULL);
        server->now = NULL;
    }
    if (done == NULL) { /* no memory, or a defect: the caller must hear of it, and without memory that is by the end */
        PyErr_WriteUnraisable(desk->answer);
        PyObject *closed = PyObject_CallMethod(now->line->link, "close", NULL);
        if (closed == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(closed);
    }
    Py_XDECREF(done);
    Py_XDECREF(context); /* what the call held is let go with it */
    for (struct answer **each = &desk->answers; *each != NULL; each = &(*each)->older) {
        if (*each == now) {
            *each = now->older;
            break;
        }
    }
    Py_CLEAR(now->life);
    desk->serving--;
    desk->idle_since_ns = sw_now();
    if (any(desk->dropped)) {
        PyObject *told = PyObject_CallNoArgs(desk->after_call);
        if (told == NULL) {
            PyErr_WriteUnraisable(desk->after_call);
        }
        Py_XDECREF(told);
    }
    PyErr_Clear();
}

/* work(worker, ear, owed) -> bool: read, and answer, on an idle worker's thread, until it has been given work or is to end:
 * then False, and the role is left or lent. True: it has the baton, and somebody else wants it. */
static PyObject *
desk_work(Desk *self, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    if (count != 3 || !PyObject_TypeCheck(args[0], state->worker) || Py_TYPE(args[1]) != state->waiter
        || ((Waiter *)args[1])->doorbell != self->doorbell || self->baton == NULL
        || (args[2] != Py_None && Py_TYPE(args[2]) != state->waiter)) {
        PyErr_SetString(PyExc_TypeError, "work(worker, ear, owed), at a desk with a mailbox");
        return NULL;
    }
    Worker *worker = (Worker *)args[0];
    Waiter *ear = (Waiter *)args[1];
    Waiter *owed = args[2] == Py_None ? NULL : (Waiter *)args[2];
    struct sw_bell *bell = &self->doorbell->bell;
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    Server *server = (Server *)((allocfunc)PyType_GetSlot(state->server, Py_tp_alloc))(state->server, 0);
    PyObject *bound = NULL;
    if (server != NULL) {
        server->desk = (Desk *)Py_NewRef((PyObject *)self);
        bound = PyObject_GetAttr((PyObject *)server, text_run);
    }
    int keeps = 0, failed = ident == NULL || bound == NULL, found = 0;
    while (!failed && alive(self)) {
        found = worker->found != NULL && worker->found != Py_None;
        if (found || worker->ends) {
            break;
        }
        enum sw_waited outcome = sw_bell_begin(bell, ear->slot);
        if (outcome == SW_MUST_SLEEP) {
            Py_BEGIN_ALLOW_THREADS
            if (owed != NULL) { /* now, when it need not wait for the interpreter as well */
                sw_bell_pay(bell, owed->slot);
            }
            outcome = sw_bell_sleep(bell, ear->slot, SW_NEVER, true);
            Py_END_ALLOW_THREADS
            owed = NULL;
            if (outcome == SW_INTERRUPTED) {
                sw_bell_abandon(bell, ear->slot);
                failed = PyErr_CheckSignals() < 0;
                continue;
            }
        }
        if (outcome != SW_READS) {
            continue;
        }
        struct answer now;
        self->reader = PyThread_get_thread_ident();
        const bool free = !self->baton->held && !self->baton->closed;
        int what = dispatch(self, free ? &now : NULL, NULL);
        self->reader = 0;
        if (what == AN_ANSWER && !take_baton(self->baton, worker, ident)) {
            what = leave_to_python(self, now.line->ring, now.message) < 0 ? -1 : FOR_PYTHON;
            Py_DECREF(now.message);
        }
        if (what < 0) {
            failed = 1;
        } else if (what == FOR_PYTHON) {
            failed = let_python_read(self) < 0;
        } else if (what == AN_ANSWER) {
            sw_bell_lend(bell, ear->slot, GRACE_NS);
            PyObject *line = Py_NewRef((PyObject *)now.line);
            answer_call(self, server, bound, &now);
            Py_DECREF(now.message);
            Py_DECREF(line);
            if (!give_baton(self->baton, worker)) {
                keeps = 1;
                break;
            }
        }
        if (owed != NULL) { /* that was enough to be done before */
            sw_bell_pay(bell, owed->slot);
            owed = NULL;
        }
    }
    if (self->doorbell->generation == sw_generation()) {
        if (found && !failed) {
            sw_bell_lend(bell, ear->slot, GRACE_NS);
        } else if (!keeps) {
            sw_bell_leave(bell, ear->slot);
        }
        if (owed != NULL) {
            sw_bell_pay(bell, owed->slot);
        }
    }
    Py_XDECREF(ident);
    Py_XDECREF(bound);
    Py_XDECREF((PyObject *)server);
    return failed ? NULL : PyBool_FromLong(keeps);
}

/* -- Desk --------------------------------------------------------------------------------------------------------- */

/* offer(chain, call, blocked) -> bool: give a call to the latest thread that waits on its chain this way; see Chains.offer. */
static PyObject *
desk_offer(Desk *self, PyObject *const *args, Py_ssize_t count)
{
    const uint64_t chain = count == 3 ? PyLong_AsUnsignedLongLong(args[0]) : 0;
    const uint64_t blocked = count == 3 && !PyErr_Occurred() ? PyLong_AsUnsignedLongLong(args[2]) : 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *inbox = self->newest == NULL ? NULL : PyList_New(0); /* before the search: it may run anything */
    for (struct call *call = self->newest; chain != 0 && call != NULL; call = call->older) {
        if (call->chain != chain || call->busy || call->came != NULL
            || (call->thread == self->loop && (blocked & self->mark) != self->mark)) {
            continue;
        }
        if (call->inbox == NULL) {
            call->inbox = inbox;
            inbox = NULL;
        }
        if (call->inbox == NULL || PyList_Size(call->inbox) >= MOST_OFFERED || PyList_Append(call->inbox, args[1]) < 0) {
            break;
        }
        Py_XDECREF(inbox);
        if (call->thread != PyThread_get_thread_ident()) {
            sw_bell_wake(call->bell, call->slot);
        }
        return Py_NewRef(Py_True);
    }
    Py_XDECREF(inbox);
    if (PyErr_Occurred()) {
        return NULL;
    }
    return Py_NewRef(Py_False);
}

/* waiting() -> list of (chain, thread) of those who wait this way. */
static PyObject *
desk_waiting(Desk *self, PyObject *Py_UNUSED(nothing))
{
    Py_ssize_t count = 0, n = 0;
    for (struct call *call = self->newest; call != NULL; call = call->older) {
        count++;
    }
    uint64_t *all = PyMem_Calloc((size_t)count + 1, 2 * sizeof *all);
    if (all == NULL) {
        return PyErr_NoMemory();
    }
    for (struct call *call = self->newest; call != NULL && n < count; call = call->older, n++) {
        all[2 * n] = call->chain;
        all[2 * n + 1] = call->thread;
    }
    PyObject *list = PyList_New(0); /* what allocates comes after the walk */
    for (Py_ssize_t m = 0; list != NULL && m < n; m++) {
        PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)all[2 * m], (unsigned long long)all[2 * m + 1]);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    PyMem_Free(all);
    return list;
}

/* depth(chain) -> int: how many calls of that chain wait for their reply this way. */
static PyObject *
desk_depth(Desk *self, PyObject *number)
{
    const uint64_t chain = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    long count = 0;
    for (struct call *call = self->newest; chain != 0 && call != NULL; call = call->older) {
        count += call->chain == chain;
    }
    return PyLong_FromLong(count);
}

/* asking(chain) -> list of (link, call id): calls of that chain that wait for their reply this way, the latest first. */
static PyObject *
desk_asking(Desk *self, PyObject *number)
{
    const uint64_t chain = PyLong_AsUnsignedLongLong(number);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    for (Py_ssize_t n = 0; list != NULL; n++) { /* from the beginning each time: what allocates may run anything */
        struct call *call = self->newest;
        for (Py_ssize_t skip = n; call != NULL && skip > 0; skip--) {
            call = call->older;
        }
        if (call == NULL) {
            break;
        }
        if (call->chain != chain) {
            continue;
        }
        const unsigned long long id = call->id;
        PyObject *told = Py_BuildValue("(NK)", Py_NewRef(call->line->link), id);
        if (told == NULL || PyList_Append(list, told) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(told);
    }
    return list;
}

/* answering() -> list of (link, call id, session, life, chain) of what is being answered. */
static PyObject *
desk_answering(Desk *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t n = 0; list != NULL; n++) { /* from the beginning each time: what allocates may run anything */
        struct answer *now = self->answers;
        for (Py_ssize_t skip = n; now != NULL && skip > 0; skip--) {
            now = now->older;
        }
        if (now == NULL) {
            break;
        }
        PyObject *link = Py_NewRef(now->line->link), *life = Py_NewRef(now->life == NULL ? Py_None : now->life);
        const unsigned long long id = now->call_id, session = now->session, chain = now->chain;
        PyObject *told = Py_BuildValue("(NKKNK)", link, id, session, life, chain);
        if (told == NULL || PyList_Append(list, told) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(told);
    }
    return list;
}

static PyMethodDef desk_methods[] = {
    {"answering", (PyCFunction)desk_answering, METH_NOARGS, NULL},
    {"asking", (PyCFunction)desk_asking, METH_O, NULL},
    {"depth", (PyCFunction)desk_depth, METH_O, NULL},
    {"work", (PyCFunction)(void (*)(void))desk_work, METH_FASTCALL, NULL},
    {"offer", (PyCFunction)(void (*)(void))desk_offer, METH_FASTCALL, NULL},
    {"waiting", (PyCFunction)desk_waiting, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define DESK_OBJECTS(X)                                                                                                \
    X(arrived) X(ear) X(rest) X(service) X(context_get) X(context_set) X(context_type) X(context_class) X(life_class)  \
    X(coroutine_class) X(waiting_slowly) X(stuck) X(nowhere) X(outside) X(names) X(dropped) X(unended) X(end_lines) X(after_call) X(answer)

static PyMemberDef desk_members[] = {
#define X(name) {#name, T_OBJECT, offsetof(Desk, name), 0, NULL},
    DESK_OBJECTS(X)
#undef X
    {"off", T_BOOL, offsetof(Desk, off), 0, NULL},
    {"of_session", T_BOOL, offsetof(Desk, of_session), 0, NULL},
    {"free", T_PYSSIZET, offsetof(Desk, free), READONLY, NULL},
    {"others", T_PYSSIZET, offsetof(Desk, others), 0, NULL},
    {"reader", T_ULONG, offsetof(Desk, reader), 0, NULL},
    {"loop", T_ULONG, offsetof(Desk, loop), 0, NULL},
    {"mark", T_ULONGLONG, offsetof(Desk, mark), 0, NULL},
    {"serving", T_PYSSIZET, offsetof(Desk, serving), READONLY, NULL},
    {"calls_in", T_ULONGLONG, offsetof(Desk, calls_in), READONLY, NULL},
    {"calls_out", T_ULONGLONG, offsetof(Desk, calls_out), READONLY, NULL},
    {"idle_since_ns", T_LONGLONG, offsetof(Desk, idle_since_ns), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Desk(doorbell, main thread's identity, baton or None): its other attributes are to be set before it is used. */
static PyObject *
desk_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *doorbell, *baton;
    unsigned long main;
    module_state *state = PyType_GetModuleState(type);
    if (!PyArg_ParseTuple(args, "O!kO:Desk", state->doorbell, &doorbell, &main, &baton)) {
        return NULL;
    }
    if (baton != Py_None && !PyObject_TypeCheck(baton, state->baton)) {
        PyErr_SetString(PyExc_TypeError, "the baton must be a Baton, or None");
        return NULL;
    }
    Desk *self = (Desk *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->doorbell = (Doorbell *)Py_NewRef(doorbell);
    self->baton = baton == Py_None ? NULL : (Baton *)Py_NewRef(baton);
    self->main = main;
    return (PyObject *)self;
}

static int
desk_traverse(Desk *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
#define X(name) Py_VISIT(self->name);
    DESK_OBJECTS(X)
#undef X
    Py_VISIT((PyObject *)self->baton);
    Py_VISIT(self->seen.object);
    Py_VISIT(self->seen.session);
    Py_VISIT(self->seen_life);
    return 0;
}

static int
desk_clear(Desk *self)
{
    self->off = 1;
#define X(name) Py_CLEAR(self->name);
    DESK_OBJECTS(X)
#undef X
    PyObject *last[] = {(PyObject *)self->baton, self->seen.object, self->seen.session, self->seen_life};
    self->baton = NULL;
    self->seen = (struct context){0};
    self->seen_life = NULL;
    for (int n = 0; n < 4; n++) {
        Py_XDECREF(last[n]);
    }
    return 0;
}

static void
desk_dealloc(Desk *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    desk_clear(self);
    Py_XDECREF((PyObject *)self->doorbell);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot desk_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Who waits for replies in a process, and who answers calls.")},
    {Py_tp_new, desk_new},
    {Py_tp_dealloc, desk_dealloc},
    {Py_tp_traverse, desk_traverse},
    {Py_tp_clear, desk_clear},
    {Py_tp_methods, desk_methods},
    {Py_tp_members, desk_members},
    {0, NULL},
};

static PyType_Spec desk_spec = {
    .name = "shardwright.transport.shm._ring.Desk",
    .basicsize = sizeof(Desk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = desk_slots,
};

/* -- Line --------------------------------------------------------------------------------------------------------- */

#define LINE_OBJECTS(X)                                                                                                \
    X(link) X(write_request) X(read_reply) X(read_request) X(write_reply) X(patience) X(peer_sessions)

/* Line(desk, ring, link, patience, codec, plain) */
static PyObject *
line_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *desk, *ring, *link, *patience;
    unsigned char codec;
    int plain;
    module_state *state = PyType_GetModuleState(type);
    if (!PyArg_ParseTuple(args, "O!O!OO!bp:Line", state->desk, &desk, state->ring, &ring, &link, state->patience, &patience,
                          &codec, &plain)) {
        return NULL;
    }
    if (((Ring *)ring)->line != NULL || ((Ring *)ring)->doorbell != ((Desk *)desk)->doorbell) {
        PyErr_SetString(PyExc_ValueError, "the ring has a line, or rings elsewhere");
        return NULL;
    }
    Line *self = (Line *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->desk = (Desk *)Py_NewRef(desk);
    self->ring_object = Py_NewRef(ring);
    self->ring = (Ring *)ring;
    self->link = Py_NewRef(link);
    self->patience = Py_NewRef(patience);
    self->peer_sessions = Py_NewRef(Py_None);
    self->codec = codec;
    self->plain = plain != 0;
    self->ids = 1;
    self->ring->line = self;
    return (PyObject *)self;
}

void
sw_line_forgets(Line *line)
{
    line->ring->line = NULL;
    line->open = line->heard = 0;
}

static int
line_traverse(Line *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
#define X(name) Py_VISIT(self->name);
    LINE_OBJECTS(X)
#undef X
    Py_VISIT((PyObject *)self->desk);
    Py_VISIT(self->ring_object);
    return 0;
}

static int
line_clear(Line *self)
{
    self->open = self->heard = 0;
#define X(name) Py_CLEAR(self->name);
    LINE_OBJECTS(X)
#undef X
    return 0;
}

static void
forget_entries(Line *self)
{
    for (Py_ssize_t n = 0; n < self->room; n++) {
        Py_CLEAR(self->entries[n].module);
        Py_CLEAR(self->entries[n].name);
    }
}

static void
line_dealloc(Line *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    if (self->ring != NULL && self->ring->line == self) {
        self->ring->line = NULL;
    }
    line_clear(self);
    forget_entries(self);
    PyMem_Free(self->entries);
    Py_XDECREF(self->ring_object);
    Py_XDECREF((PyObject *)self->desk);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *
line_next_id(Line *self, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromUnsignedLongLong(self->ids++);
}

/* reply(frame) -> bool: whether it was the reply to a call of this line. */
static PyObject *
line_reply(Line *self, PyObject *frame)
{
    return PyBool_FromLong(take_reply(self, frame, false));
}

/* end(reason, others): no call begins or is answered any more; those in flight hear why. */
static PyObject *
line_end(Line *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "end(reason, others)");
        return NULL;
    }
    const bool plain = PyDict_Size(args[1]) == 0;
    self->open = self->heard = 0;
    for (struct call *call = self->oldest; call != NULL; call = call->after) {
        PyObject *id = plain ? NULL : PyLong_FromUnsignedLongLong(call->id);
        PyObject *other = id == NULL ? NULL : PyDict_GetItemWithError(args[1], id);
        Py_XDECREF(id);
        deliver(call, other == NULL ? args[0] : other, false);
    }
    PyErr_Clear(); /* without memory for a number, the call hears the reason of all */
    return Py_NewRef(Py_None);
}

/* hand_over(call id, pending, ticket) -> bool: the ticket waits for that call from now on, and has what came for it: a list
 * that ends with the reply, if it is there. None: there is no such call. */
static PyObject *
line_hand_over(Line *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "hand_over(call_id, pending, ticket)");
        return NULL;
    }
    const uint64_t id = PyLong_AsUnsignedLongLong(args[0]);
    PyObject *came = PyErr_Occurred() ? NULL : PyList_New(0); /* before: it may run anything */
    if (came == NULL) {
        return NULL;
    }
    struct call *call = find_call(self, id);
    if (call == NULL) {
        Py_DECREF(came);
        return Py_NewRef(Py_None);
    }
    if (call->inbox != NULL) {
        for (Py_ssize_t n = 0; n < PyList_Size(call->inbox); n++) {
            if (PyList_Append(came, PyList_GetItem(call->inbox, n)) < 0) {
                Py_DECREF(came);
                return NULL;
            }
        }
    }
    if (call->came != NULL ? PyList_Append(came, call->came) < 0 : PyDict_SetItem(args[1], args[0], args[2]) < 0) {
        Py_DECREF(came);
        return NULL;
    }
    leave_call(call);
    call->line = NULL;
    PyObject *inbox = call->inbox, *reply = call->came;
    call->inbox = call->came = NULL;
    Py_XDECREF(inbox);
    Py_XDECREF(reply);
    return came;
}

/* serves(method, module, name): from now on, calls of that entry point are calls of that function. */
static PyObject *
line_serves(Line *self, PyObject *args)
{
    Py_ssize_t method;
    PyObject *module, *name;
    if (!PyArg_ParseTuple(args, "nUU:serves", &method, &module, &name)) {
        return NULL;
    }
    if (method < 0 || method >= MOST_ENTRIES) {
        return Py_NewRef(Py_None);
    }
    if (method >= self->room) {
        const Py_ssize_t room = method + 8;
        struct entry *larger = PyMem_Realloc(self->entries, (size_t)room * sizeof *larger);
        if (larger == NULL) {
            return PyErr_NoMemory();
        }
        memset(larger + self->room, 0, (size_t)(room - self->room) * sizeof *larger);
        self->entries = larger;
        self->room = room;
    }
    PyObject *old_module = self->entries[method].module, *old_name = self->entries[method].name;
    self->entries[method] = (struct entry){Py_NewRef(module), Py_NewRef(name)};
    Py_XDECREF(old_module);
    Py_XDECREF(old_name);
    self->heard = 1;
    return Py_NewRef(Py_None);
}

static PyMethodDef line_methods[] = {
    {"next_id", (PyCFunction)line_next_id, METH_NOARGS, NULL},
    {"reply", (PyCFunction)line_reply, METH_O, NULL},
    {"end", (PyCFunction)(void (*)(void))line_end, METH_FASTCALL, NULL},
    {"hand_over", (PyCFunction)(void (*)(void))line_hand_over, METH_FASTCALL, NULL},
    {"serves", (PyCFunction)line_serves, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef line_members[] = {
#define X(name) {#name, T_OBJECT, offsetof(Line, name), 0, NULL},
    X(write_request) X(read_reply) X(read_request) X(write_reply) X(peer_sessions)
#undef X
    {"open", T_BOOL, offsetof(Line, open), 0, NULL},
    {"heard", T_BOOL, offsetof(Line, heard), 0, NULL},
    {"in_flight", T_PYSSIZET, offsetof(Line, in_flight), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot line_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The calls of one ring that go this way.")},
    {Py_tp_new, line_new},
    {Py_tp_dealloc, line_dealloc},
    {Py_tp_traverse, line_traverse},
    {Py_tp_clear, line_clear},
    {Py_tp_methods, line_methods},
    {Py_tp_members, line_members},
    {0, NULL},
};

static PyType_Spec line_spec = {
    .name = "shardwright.transport.shm._ring.Line",
    .basicsize = sizeof(Line),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = line_slots,
};

/* -- Outlet ------------------------------------------------------------------------------------------------------- */

#define OUTLET_OBJECTS(X) X(lines) X(slow) X(encoded) X(go_on) X(finish) X(nested) X(give_up)

/* Outlet(method, slow, encoded, go_on, finish, nested, give_up) */
static PyObject *
outlet_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *slow, *encoded, *go_on, *finish, *nested, *give_up;
    unsigned long method;
    if (!PyArg_ParseTuple(args, "kOOOOOO:Outlet", &method, &slow, &encoded, &go_on, &finish, &nested, &give_up)) {
        return NULL;
    }
    Outlet *self = (Outlet *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->method = method;
    self->lines = PyDict_New();
    self->slow = Py_NewRef(slow);
    self->encoded = Py_NewRef(encoded);
    self->go_on = Py_NewRef(go_on);
    self->finish = Py_NewRef(finish);
    self->nested = Py_NewRef(nested);
    self->give_up = Py_NewRef(give_up);
    if (self->lines == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
outlet_traverse(Outlet *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
#define X(name) Py_VISIT(self->name);
    OUTLET_OBJECTS(X)
#undef X
    Py_VISIT((PyObject *)self->desk);
    return 0;
}

static int
outlet_clear(Outlet *self)
{
#define X(name) Py_CLEAR(self->name);
    OUTLET_OBJECTS(X)
#undef X
    PyObject *desk = (PyObject *)self->desk;
    self->desk = NULL;
    Py_XDECREF(desk);
    return 0;
}

static void
outlet_dealloc(Outlet *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    outlet_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* leads(session, line): that session's calls go there from now on. */
static PyObject *
outlet_leads(Outlet *self, PyObject *const *args, Py_ssize_t count)
{
    module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    if (count != 2 || !PyLong_Check(args[0]) || Py_TYPE(args[1]) != state->line) {
        PyErr_SetString(PyExc_TypeError, "leads(session, line)");
        return NULL;
    }
    Desk *desk = ((Line *)args[1])->desk;
    if (self->desk != desk) {
        PyDict_Clear(self->lines);
        PyObject *before = (PyObject *)self->desk;
        self->desk = (Desk *)Py_NewRef((PyObject *)desk);
        Py_XDECREF(before);
    }
    if (PyDict_Size(self->lines) >= MOST_SESSIONS) {
        PyDict_Clear(self->lines);
    }
    if (PyDict_SetItem(self->lines, args[0], args[1]) < 0) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *
outlet_forget(Outlet *self, PyObject *Py_UNUSED(nothing))
{
    PyDict_Clear(self->lines);
    return Py_NewRef(Py_None);
}

static PyObject *
outlet_get_known(Outlet *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(PyDict_Size(self->lines));
}

static PyMethodDef outlet_methods[] = {
    {"call", (PyCFunction)(void (*)(void))outlet_call, METH_FASTCALL, PyDoc_STR("call(args, kwargs, /) -> object")},
    {"leads", (PyCFunction)(void (*)(void))outlet_leads, METH_FASTCALL, NULL},
    {"forget", (PyCFunction)outlet_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef outlet_values[] = {
    {"known", (getter)outlet_get_known, NULL, PyDoc_STR("For how many sessions it knows the way."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot outlet_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Where the calls of a proxy go.")},
    {Py_tp_new, outlet_new},
    {Py_tp_dealloc, outlet_dealloc},
    {Py_tp_traverse, outlet_traverse},
    {Py_tp_clear, outlet_clear},
    {Py_tp_methods, outlet_methods},
    {Py_tp_getset, outlet_values},
    {0, NULL},
};

static PyType_Spec outlet_spec = {
    .name = "shardwright.transport.shm._ring.Outlet",
    .basicsize = sizeof(Outlet),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = outlet_slots,
};

/* -- the module --------------------------------------------------------------------------------------------------- */

int
sw_calls_ready(PyObject *module, module_state *state)
{
    static const struct {
        PyObject **text;
        const char *words;
    } texts[] = {
        {&text_over, "over"},         {&text_life, "life"},       {&text_session, "session"}, {&text_chain, "chain"},
        {&text_deadline, "deadline_ns"}, {&text_trace, "trace_id"}, {&text_blocked, "blocked"},
        {&text_append, "append"},     {&text_run, "run"},         {&empty_text, ""},
    };
    for (size_t n = 0; n < sizeof texts / sizeof *texts; n++) {
        if (*texts[n].text == NULL && (*texts[n].text = PyUnicode_InternFromString(texts[n].words)) == NULL) {
            return -1;
        }
    }
    if (empty_tuple == NULL && (empty_tuple = PyTuple_New(0)) == NULL) {
        return -1;
    }
    const struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } types[] = {
        {&state->baton, &baton_spec}, {&state->patience, &patience_spec}, {&state->desk, &desk_spec},
        {&state->line, &line_spec},   {&state->outlet, &outlet_spec},     {&state->server, &server_spec},
        {&state->worker, &worker_spec},
    };
    for (size_t n = 0; n < sizeof types / sizeof *types; n++) {
        *types[n].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, types[n].spec, NULL);
        if (*types[n].type == NULL || PyModule_AddType(module, *types[n].type) < 0) {
            return -1;
        }
    }
    return 0;
}
