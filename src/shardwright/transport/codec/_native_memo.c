/* Memo: the objects of one request by number, and which of them have changed since. The mirror of `_memo.py`. */

#include "_native.h"

#include <stddef.h>

PyObject *
memo_new(PyObject *root, PyObject *objects, PyObject *snapshots)
{
    Memo *memo = PyObject_GC_New(Memo, memo_type);
    if (memo == NULL) {
        return NULL;
    }
    memo->root = Py_NewRef(root);
    memo->objects = Py_NewRef(objects);
    memo->snapshots = Py_NewRef(snapshots);
    PyObject_GC_Track(memo);
    return (PyObject *)memo;
}

static PyObject *
memo_make(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"root", "objects", "snapshots", NULL};
    PyObject *root, *objects, *snapshots;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O!:Memo", names, &root, &PyList_Type, &objects, &PyList_Type,
                                     &snapshots)) {
        return NULL;
    }
    return memo_new(root, objects, snapshots);
}

static int
memo_traverse(Memo *memo, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)memo));
    Py_VISIT(memo->root);
    Py_VISIT(memo->objects);
    Py_VISIT(memo->snapshots);
    return 0;
}

static int
memo_clear(Memo *memo)
{
    Py_CLEAR(memo->root);
    Py_CLEAR(memo->objects);
    Py_CLEAR(memo->snapshots);
    return 0;
}

static void
memo_dealloc(Memo *memo)
{
    PyTypeObject *type = Py_TYPE((PyObject *)memo);
    PyObject_GC_UnTrack(memo);
    memo_clear(memo);
    PyObject_GC_Del(memo);
    Py_DECREF(type);
}

static PyObject *
memo_repr(Memo *memo)
{
    if (memo->objects == NULL) {
        return PyUnicode_FromString("Memo()");
    }
    return PyUnicode_FromFormat("Memo(%zd objects, %zd mutable)", PyList_Size(memo->objects),
                                PyList_Size(memo->snapshots));
}

static int
same_items(PyObject *thing, PyObject *held)
{
    Py_ssize_t size = PyList_Size(held);
    if (PyList_Size(thing) != size) {
        return 0;
    }
    for (Py_ssize_t n = 0; n < size; n++) {
        if (PyList_GetItem(thing, n) != PyList_GetItem(held, n)) {
            return 0;
        }
    }
    return 1;
}

static int
same_pairs(PyObject *thing, PyObject *held)
{
    PyObject *keys = PyTuple_GetItem(held, 0), *values = PyTuple_GetItem(held, 1), *key, *value;
    Py_ssize_t size = PyList_Size(keys), at = 0, n = 0;
    if (PyDict_Size(thing) != size) {
        return 0;
    }
    while (PyDict_Next(thing, &at, &key, &value)) {
        if (n >= size || PyList_GetItem(keys, n) != key || PyList_GetItem(values, n) != value) {
            return 0;
        }
        n++;
    }
    return n == size;
}

/* Whether an instance's attributes have these names and are these very values, in this order; -1 with an error set. */
static int
same_state(PyObject *thing, PyObject *held)
{
    PyObject *names = PyTuple_GetItem(held, 0), *values = PyTuple_GetItem(held, 1), *key, *value;
    PyObject *state = PyObject_GenericGetAttr(thing, text_dict);
    Py_ssize_t size = PyList_Size(names), at = 0, n = 0;
    if (state == NULL || !PyDict_Check(state)) {
        Py_XDECREF(state);
        return -1;
    }
    int same = PyDict_Size(state) == size;
    while (same == 1 && PyDict_Next(state, &at, &key, &value)) {
        PyObject *name = PyList_GetItem(names, n);
        if (n >= size || PyList_GetItem(values, n) != value
            || (name != key && !(PyUnicode_CheckExact(key) && PyUnicode_Compare(name, key) == 0))) {
            same = 0;
        }
        n++;
    }
    Py_DECREF(state);
    PyErr_Clear();
    return same && n == size;
}

/* A new list of (object, what it held), of those that no longer hold it; NULL with an error set. */
PyObject *
memo_differing(Memo *memo)
{
    PyObject *found = PyList_New(0);
    PyObject *snapshots = memo->snapshots;
    for (Py_ssize_t n = 0; found != NULL && n < PyList_Size(snapshots); n++) {
        PyObject *entry = PyList_GetItem(snapshots, n), *thing, *held, *unchanged;
        if (!PyArg_ParseTuple(entry, "OOO", &thing, &held, &unchanged)) {
            Py_CLEAR(found);
            break;
        }
        int same;
        Py_INCREF(entry);
        if (unchanged == native.same_list && PyList_Check(thing) && PyList_CheckExact(held)) {
            same = same_items(thing, held);
        }
        else if (unchanged == native.same_dict && PyDict_Check(thing) && PyTuple_CheckExact(held)
                 && PyTuple_Size(held) == 2 && PyList_CheckExact(PyTuple_GetItem(held, 0))
                 && PyList_CheckExact(PyTuple_GetItem(held, 1))
                 && PyList_Size(PyTuple_GetItem(held, 0)) == PyList_Size(PyTuple_GetItem(held, 1))) {
            same = same_pairs(thing, held);
        }
        else if (unchanged == native.same_attributes && PyTuple_CheckExact(held) && PyTuple_Size(held) == 2
                 && PyList_CheckExact(PyTuple_GetItem(held, 0)) && PyList_CheckExact(PyTuple_GetItem(held, 1))
                 && PyList_Size(PyTuple_GetItem(held, 0)) == PyList_Size(PyTuple_GetItem(held, 1))) {
            same = same_state(thing, held);
        }
        else {
            PyObject *answer = PyObject_CallFunctionObjArgs(unchanged, thing, held, NULL);
            same = answer == NULL ? -1 : PyObject_IsTrue(answer);
            Py_XDECREF(answer);
        }
        if (same < 0) {
            Py_CLEAR(found);
        }
        else if (!same) {
            PyObject *pair = PyTuple_GetSlice(entry, 0, 2);
            if (pair == NULL || PyList_Append(found, pair) < 0) {
                Py_CLEAR(found);
            }
            Py_XDECREF(pair);
        }
        Py_DECREF(entry);
    }
    return found;
}

static PyObject *
memo_changed(Memo *memo, PyObject *Py_UNUSED(ignored))
{
    if (memo->snapshots == NULL) {
        return PyList_New(0);
    }
    return memo_differing(memo);
}

static PyMethodDef memo_methods[] = {
    {"changed", (PyCFunction)memo_changed, METH_NOARGS,
     PyDoc_STR("The objects that no longer hold what they held, and that.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef memo_members[] = {
    {"root", T_OBJECT_EX, offsetof(Memo, root), READONLY, NULL},
    {"objects", T_OBJECT_EX, offsetof(Memo, objects), READONLY, NULL},
    {"snapshots", T_OBJECT_EX, offsetof(Memo, snapshots), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot memo_slots[] = {
    {Py_tp_new, memo_make},
    {Py_tp_traverse, memo_traverse},
    {Py_tp_clear, memo_clear},
    {Py_tp_dealloc, memo_dealloc},
    {Py_tp_repr, memo_repr},
    {Py_tp_methods, memo_methods},
    {Py_tp_members, memo_members},
    {Py_tp_doc, (void *)PyDoc_STR("The objects of one request. Opaque to callers: pass it from the request to its "
                                  "reply.")},
    {0, NULL},
};

static PyType_Spec memo_spec = {
    .name = "shardwright.transport.codec._native.Memo",
    .basicsize = sizeof(Memo),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = memo_slots,
};

int
memo_ready(PyObject *module)
{
    memo_type = (PyTypeObject *)PyType_FromSpec(&memo_spec);
    return memo_type == NULL ? -1 : PyModule_AddType(module, memo_type);
}
