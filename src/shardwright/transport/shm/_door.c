/* Where one thread lays what any thread may take: a session that was composed ahead (node/_composed_ahead.py).
 *
 * To take it is a single step for every other thread, and for signals: nothing here gives the interpreter away, for nothing here
 * runs Python code. The names are texts of exactly Python's own class, the numbers are integers, `live` has a slot for its name.
 *
 * Whoever takes comes from something else, and nothing of this is in the caches then: the same in Python, with a lock, took 100 us
 * where this takes 40, most of it two system calls. Whatever is unusual is not taken, and begins as a session usually does.
 */
#include "_ring.h"

#include <errno.h>
#include <sys/timerfd.h>

#define LONGEST_NAME 200

typedef struct {
    PyObject_HEAD
    PyObject *names; /* a dict: numbers by name */
    PyObject *taken; /* a list of things */
    PyObject *thing, *live, *number, *announced, *watched; /* NULL: nothing lies there */
    int timer;       /* -1: none */
    struct itimerspec setting;
} Door;

static PyObject *text_name, *text_isprintable;

static void
let_go(Door *self)
{
    PyObject *all[] = {self->thing, self->live, self->number, self->announced, self->watched};
    self->thing = self->live = self->number = self->announced = self->watched = NULL;
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) {
        Py_XDECREF(all[n]);
    }
}

/* Door(names, taken) */
static PyObject *
door_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *names, *taken;
    if (!PyArg_ParseTuple(args, "O!O!:Door", &PyDict_Type, &names, &PyList_Type, &taken)) {
        return NULL;
    }
    Door *self = (Door *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != NULL) {
        self->names = Py_NewRef(names);
        self->taken = Py_NewRef(taken);
        self->timer = -1;
    }
    return (PyObject *)self;
}

/* rings(timer, delay_ns): a timerfd, set whenever something is taken; -1: none. */
static PyObject *
door_rings(Door *self, PyObject *args)
{
    int timer;
    long long delay_ns;
    if (!PyArg_ParseTuple(args, "iL:rings", &timer, &delay_ns)) {
        return NULL;
    }
    if (timer >= 0 && delay_ns <= 0) {
        PyErr_SetString(PyExc_ValueError, "rings(timer, delay_ns): the delay must be positive");
        return NULL;
    }
    self->timer = timer;
    self->setting = (struct itimerspec){.it_value = {.tv_sec = delay_ns / 1000000000, .tv_nsec = delay_ns % 1000000000}};
    return Py_NewRef(Py_None);
}

/* lay(thing, live, number, announced, watched) */
static PyObject *
door_lay(Door *self, PyObject *args)
{
    PyObject *thing, *live, *number, *announced, *watched;
    module_state *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    if (!PyArg_ParseTuple(args, "OOO!O!O!:lay", &thing, &live, &PyLong_Type, &number, &PyTuple_Type, &announced, &PyTuple_Type,
                          &watched)) {
        return NULL;
    }
    PyObject *both[] = {announced, watched};
    for (int n = 0; n < 2; n++) {
        for (Py_ssize_t at = 0; at < PyTuple_Size(both[n]); at++) {
            if (Py_TYPE(PyTuple_GetItem(both[n], at)) != state->line) {
                PyErr_SetString(PyExc_TypeError, "lay(thing, live, number, lines, lines)");
                return NULL;
            }
        }
    }
    if (self->thing != NULL) {
        PyErr_SetString(PyExc_ValueError, "something lies there");
        return NULL;
    }
    self->live = Py_NewRef(live);
    self->number = Py_NewRef(number);
    self->announced = Py_NewRef(announced);
    self->watched = Py_NewRef(watched);
    self->thing = Py_NewRef(thing);
    return Py_NewRef(Py_None);
}

/* withdraw() -> what lay there, or None */
static PyObject *
door_withdraw(Door *self, PyObject *Py_UNUSED(nothing))
{
    PyObject *thing = Py_NewRef(self->thing == NULL ? Py_None : self->thing);
    let_go(self);
    return thing;
}

static bool
is_name(PyObject *name)
{
    if (!PyUnicode_CheckExact(name) || PyUnicode_GetLength(name) < 1 || PyUnicode_GetLength(name) > LONGEST_NAME) {
        return false;
    }
    PyObject *printable = PyObject_CallMethodObjArgs(name, text_isprintable, NULL);
    Py_XDECREF(printable);
    return printable == Py_True;
}

/* take(name) -> live, or None: nothing lies there, or it is not to be had so. */
static PyObject *
door_take(Door *self, PyObject *name)
{
    if (self->thing == NULL) {
        return Py_NewRef(Py_None);
    }
    for (Py_ssize_t n = 0; n < PyTuple_Size(self->announced); n++) { /* first: its shard wakes while the rest is done */
        sw_line_announce((struct Line *)PyTuple_GetItem(self->announced, n));
    }
    bool good = is_name(name);
    for (Py_ssize_t n = 0; good && n < PyTuple_Size(self->watched); n++) {
        good = sw_line_is_open((struct Line *)PyTuple_GetItem(self->watched, n));
    }
    if (!good || PyDict_GetItemWithError(self->names, name) != NULL || PyErr_Occurred()) {
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    if (PyDict_SetItem(self->names, name, self->number) < 0) {
        return NULL;
    }
    if (PyList_Append(self->taken, self->thing) < 0) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (PyDict_DelItem(self->names, name) < 0) {
            PyErr_Clear();
        }
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    PyObject *live = Py_NewRef(self->live);
    const bool named = PyObject_SetAttr(live, text_name, name) == 0;
    if (self->timer >= 0) {
        timerfd_settime(self->timer, 0, &self->setting, NULL);
    }
    let_go(self);
    if (!named) {
        Py_DECREF(live);
        return NULL;
    }
    return live;
}

static PyObject *
door_get_waits(Door *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->thing == NULL ? Py_None : self->thing);
}

static int
door_traverse(Door *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    PyObject *all[] = {self->names, self->taken, self->thing, self->live, self->number, self->announced, self->watched};
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) {
        Py_VISIT(all[n]);
    }
    return 0;
}

static int
door_clear(Door *self)
{
    let_go(self);
    PyObject *all[] = {self->names, self->taken};
    self->names = self->taken = NULL;
    Py_XDECREF(all[0]);
    Py_XDECREF(all[1]);
    return 0;
}

static void
door_dealloc(Door *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    door_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef door_methods[] = {
    {"rings", (PyCFunction)door_rings, METH_VARARGS, NULL},
    {"lay", (PyCFunction)door_lay, METH_VARARGS, NULL},
    {"withdraw", (PyCFunction)door_withdraw, METH_NOARGS, NULL},
    {"take", (PyCFunction)door_take, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef door_values[] = {
    {"waits", (getter)door_get_waits, NULL, PyDoc_STR("What lies there, or None."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot door_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Where one thread lays what any thread may take.")},
    {Py_tp_new, door_new},
    {Py_tp_dealloc, door_dealloc},
    {Py_tp_traverse, door_traverse},
    {Py_tp_clear, door_clear},
    {Py_tp_methods, door_methods},
    {Py_tp_getset, door_values},
    {0, NULL},
};

static PyType_Spec door_spec = {
    .name = "shardwright.transport.shm._ring.Door",
    .basicsize = sizeof(Door),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = door_slots,
};

int
sw_door_ready(PyObject *module, module_state *state)
{
    if ((text_name == NULL && (text_name = PyUnicode_InternFromString("name")) == NULL)
        || (text_isprintable == NULL && (text_isprintable = PyUnicode_InternFromString("isprintable")) == NULL)) {
        return -1;
    }
    state->door = (PyTypeObject *)PyType_FromModuleAndSpec(module, &door_spec, NULL);
    return state->door == NULL ? -1 : PyModule_AddType(module, state->door);
}
