/* Reading one message, which may be hostile: the mirror of `_decoder.py`, `_decode_values.py` and the list, dict and set of
 * `_decode_containers.py`.
 *
 * Every length is compared with the bytes that are left before anything of that size is made. The payload is a bytes object of
 * our own: the peer cannot change it any more.
 *
 * One file beyond 400 lines: the methods that Python sees and the functions behind them share one structure.
 */

#include "_native.h"

#include <stddef.h>

typedef struct {
    PyObject_HEAD
    Form *form; /* NULL once the message is done */
    PyObject *codec;
    PyObject *raw; /* bytes */
    const unsigned char *bytes;
    Py_ssize_t at, end;
    PyObject *buffers; /* tuple or NULL */
    Py_ssize_t buffer_count, next_buffer;
    PyObject *known;   /* list: the objects of the request, when this is a reply; else NULL */
    PyObject *objects; /* list: those met here */
    Py_ssize_t base;
    PyObject *snapshots; /* list or NULL */
    PyObject *later;     /* list or NULL: contents to be put into the caller's own objects in the end */
    PyObject *hashing;   /* dict or NULL: what waits for its keys */
    PyObject *key_cost;  /* or NULL */
    PyObject *classes;   /* list or NULL: class names by number */
    PyObject *attribute_names;
    PyObject *filled; /* set of numbers or NULL */
    PyObject *open;   /* set of addresses or NULL */
    Py_ssize_t frontier, depth, items;
    char now;
    Queue queue;
} Reader;

static PyObject *read_value(Reader *d);
static int read_contents(Reader *d, PyObject *contents, PyObject *thing);

/* -- bytes ------------------------------------------------------------------------------------------------------- */

static int
out_of_range(void)
{
    PyErr_SetString(PyExc_IndexError, "index out of range");
    return -1;
}

static uint64_t
load(const unsigned char *bytes, int size)
{
    uint64_t value = 0;
    for (int n = 0; n < size; n++) {
        value |= (uint64_t)bytes[n] << (8 * n);
    }
    return value;
}

/* A number is below 2**56. */
static int
get_number(Reader *d, uint64_t *n)
{
    if (d->at >= d->end) {
        return out_of_range();
    }
    unsigned char first = d->bytes[d->at];
    if (first < NUMBER_1_BYTE) {
        d->at++;
        *n = first;
        return 0;
    }
    int size = first - (NUMBER_1_BYTE - 1);
    if (first == 0xFF || d->end - d->at - 1 < size) {
        return violation("a number is cut short");
    }
    *n = load(d->bytes + d->at + 1, size);
    d->at += 1 + size;
    return 0;
}

static int
charge(Reader *d, Py_ssize_t items)
{
    d->items -= items;
    return d->items < 0 ? violation("more than %zd items", d->form->max_items) : 0;
}

/* A count of things that take at least a byte each. */
static Py_ssize_t
get_count(Reader *d, Py_ssize_t weight)
{
    uint64_t n;
    if (get_number(d, &n) < 0) {
        return -1;
    }
    if (n > (uint64_t)(d->end - d->at)) {
        return violation("%llu elements announced, %zd bytes left", (unsigned long long)n, d->end - d->at);
    }
    return charge(d, (Py_ssize_t)n * weight) < 0 ? -1 : (Py_ssize_t)n;
}

/* So many bytes, which are there. */
static const unsigned char *
get_bytes(Reader *d, uint64_t size)
{
    if (size > (uint64_t)(d->end - d->at)) {
        violation("%llu bytes announced, %zd left", (unsigned long long)size, d->end - d->at);
        return NULL;
    }
    const unsigned char *bytes = d->bytes + d->at;
    d->at += (Py_ssize_t)size;
    return bytes;
}

static PyObject *
get_text(Reader *d)
{
    uint64_t size;
    if (get_number(d, &size) < 0) {
        return NULL;
    }
    const unsigned char *bytes = get_bytes(d, size);
    return bytes == NULL ? NULL : PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)size, "surrogatepass");
}

static PyObject *
get_buffer(Reader *d)
{
    if (d->next_buffer >= d->buffer_count) {
        violation("a buffer is missing");
        return NULL;
    }
    PyObject *buffer = PyTuple_GetItem(d->buffers, d->next_buffer++);
    return Py_XNewRef(buffer);
}

/* -- the memo ---------------------------------------------------------------------------------------------------- */

static inline Py_ssize_t
object_count(const Reader *d)
{
    return d->base + PyList_Size(d->objects);
}

static inline PyObject *
object_of(const Reader *d, Py_ssize_t n)
{
    return Py_XNewRef(n < d->base ? PyList_GetItem(d->known, n) : PyList_GetItem(d->objects, n - d->base));
}

/* Returns its argument, remembered, or NULL; takes the reference. */
static PyObject *
remembered(Reader *d, PyObject *thing)
{
    if (thing != NULL && PyList_Append(d->objects, thing) < 0) {
        Py_CLEAR(thing);
    }
    return thing;
}

static int
enter(Reader *d, Py_ssize_t levels)
{
    d->depth -= levels;
    return d->depth < 0 ? violation("nested more than %zd deep", d->form->max_depth) : 0;
}

/* A new object whose contents come later. Takes the reference and returns it. */
static PyObject *
shell(Reader *d, PyObject *thing, PyObject *contents, Py_ssize_t weight)
{
    if (thing == NULL) {
        return NULL;
    }
    if (charge(d, weight) < 0 || queue_push(&d->queue, object_count(d), contents, thing) < 0) {
        Py_DECREF(thing);
        return NULL;
    }
    return remembered(d, thing);
}

static int
is_open(Reader *d, PyObject *thing)
{
    return d->open == NULL ? 0 : set_contains(d->open, PyLong_FromVoidPtr(thing));
}

static int
contents_now(Reader *d, Py_ssize_t number, PyObject *contents, PyObject *thing)
{
    if (set_add(&d->filled, PyLong_FromSsize_t(number)) < 0 || set_add(&d->open, PyLong_FromVoidPtr(thing)) < 0
        || enter(d, NOW_LEVELS) < 0) {
        return -1;
    }
    char before = d->now;
    d->now = 1;
    if (read_contents(d, contents, thing) < 0) {
        return -1;
    }
    d->now = before;
    if (set_discard(d->open, PyLong_FromVoidPtr(thing)) < 0) {
        return -1;
    }
    d->depth += NOW_LEVELS;
    return 0;
}

/* -- values ------------------------------------------------------------------------------------------------------ */

/* The bytes of a number of fixed size behind the tag, which is passed too. */
static const unsigned char *
fixed(Reader *d, int size)
{
    if (d->end - d->at - 1 < size) {
        violation("a number is cut short");
        return NULL;
    }
    const unsigned char *bytes = d->bytes + d->at + 1;
    d->at += 1 + size;
    return bytes;
}

static double
load_double(const unsigned char *bytes)
{
    uint64_t bits = load(bytes, 8);
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

static PyObject *
read_str(Reader *d)
{
    if (++d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    uint64_t size = d->bytes[d->at];
    if (size < SHARED_BYTES) {
        if ((Py_ssize_t)size > d->end - d->at - 1) {
            violation("a string is cut short");
            return NULL;
        }
        const char *bytes = (const char *)d->bytes + d->at + 1;
        d->at += 1 + (Py_ssize_t)size;
        return PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)size, NULL);
    }
    if (get_number(d, &size) < 0) {
        return NULL;
    }
    const unsigned char *bytes = get_bytes(d, size);
    return bytes == NULL ? NULL : remembered(d, PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)size, NULL));
}

static PyObject *
read_sized(Reader *d, int tag)
{
    uint64_t size;
    d->at++;
    if (get_number(d, &size) < 0) {
        return NULL;
    }
    const unsigned char *bytes = get_bytes(d, size);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject *value;
    if (tag == TAG_STR_SURROGATES) {
        value = PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)size, "surrogatepass");
    }
    else {
        value = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
        if (tag == TAG_INT_ANY && value != NULL) {
            PyObject *number = PyObject_CallFunctionObjArgs(native.big_int, value, NULL);
            Py_DECREF(value);
            return number;
        }
    }
    return size >= SHARED_BYTES ? remembered(d, value) : value;
}

static PyObject *
read_bytes_buffer(Reader *d)
{
    d->at++;
    PyObject *buffer = get_buffer(d);
    if (buffer == NULL) {
        return NULL;
    }
    PyObject *value = PyBytes_FromObject(buffer);
    Py_DECREF(buffer);
    return remembered(d, value);
}

enum { FEW_VALUES = 8 };

/* So many values, each a reference in `values`; on failure none. */
static int
read_many(Reader *d, PyObject **values, Py_ssize_t count)
{
    for (Py_ssize_t n = 0; n < count; n++) {
        values[n] = read_value(d);
        if (values[n] == NULL) {
            while (n-- > 0) {
                Py_DECREF(values[n]);
            }
            return -1;
        }
    }
    return 0;
}

static PyObject **
room_for(PyObject **few, Py_ssize_t count)
{
    if (count <= FEW_VALUES) {
        return few;
    }
    PyObject **values = PyMem_Malloc(count * sizeof(PyObject *)); /* count is below max_items */
    if (values == NULL) {
        PyErr_NoMemory();
    }
    return values;
}

/* A tuple or list that takes the references: it is whole from its first moment. */
static PyObject *
sequence_of(PyObject **values, Py_ssize_t count, int is_tuple)
{
    PyObject *made = is_tuple ? PyTuple_New(count) : PyList_New(count);
    for (Py_ssize_t n = 0; n < count; n++) {
        if (made == NULL) {
            Py_DECREF(values[n]);
        }
        else if (is_tuple) {
            PyTuple_SetItem(made, n, values[n]);
        }
        else {
            PyList_SetItem(made, n, values[n]);
        }
    }
    return made;
}

static PyObject *
read_sequence(Reader *d, int is_tuple)
{
    Py_ssize_t count = get_count(d, 1);
    if (count < 0 || (is_tuple && enter(d, 1) < 0)) {
        return NULL;
    }
    PyObject *few[FEW_VALUES], **values = room_for(few, count), *made = NULL;
    if (values == NULL) {
        return NULL;
    }
    if (read_many(d, values, count) == 0) {
        made = sequence_of(values, count, is_tuple);
    }
    if (values != few) {
        PyMem_Free(values);
    }
    if (is_tuple) {
        d->depth++;
    }
    return made;
}

static PyObject *
read_reference(Reader *d)
{
    uint64_t n;
    d->at++;
    if (get_number(d, &n) < 0) {
        return NULL;
    }
    if (n >= (uint64_t)object_count(d)) {
        violation("reference to object %llu of %zd", (unsigned long long)n, object_count(d));
        return NULL;
    }
    return object_of(d, (Py_ssize_t)n);
}

static PyObject *
read_now(Reader *d)
{
    if (++d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    unsigned char tag = d->bytes[d->at];
    if (!(tag >= TAG_LIST && tag <= TAG_ARRAY) && tag != TAG_OBJECT && tag != TAG_NUMPY_ARRAY && tag != TAG_EXCEPTION) {
        violation("NOW before something that has no contents");
        return NULL;
    }
    PyObject *thing = read_value(d);
    if (thing == NULL) {
        return NULL;
    }
    if (d->queue.length == 0 || d->queue.entries[d->queue.length - 1].thing != thing) {
        violation("NOW before something that has no contents");
        Py_DECREF(thing);
        return NULL;
    }
    Queued entry = d->queue.entries[--d->queue.length];
    int failed = contents_now(d, entry.number, entry.contents, thing);
    Py_DECREF(entry.contents);
    Py_DECREF(entry.thing);
    if (failed) {
        Py_CLEAR(thing);
    }
    return thing;
}

static PyObject *
read_fill(Reader *d)
{
    Py_ssize_t first = queue_find(&d->queue, 0, d->base);
    for (;;) {
        if (d->at >= d->end) {
            out_of_range();
            return NULL;
        }
        if (d->bytes[d->at] != TAG_FILL) {
            break;
        }
        uint64_t n;
        d->at++;
        if (get_number(d, &n) < 0) {
            return NULL;
        }
        Py_ssize_t at = queue_find(&d->queue, first, (Py_ssize_t)n);
        int filled = d->filled == NULL ? 0 : set_contains(d->filled, PyLong_FromUnsignedLongLong(n));
        if (filled < 0) {
            return NULL;
        }
        if ((Py_ssize_t)n <= d->frontier || filled || at == d->queue.length
            || d->queue.entries[at].number != (Py_ssize_t)n) {
            violation("FILL of object %llu, which awaits no contents", (unsigned long long)n);
            return NULL;
        }
        Queued entry = d->queue.entries[at];
        Py_INCREF(entry.contents);
        Py_INCREF(entry.thing);
        int failed = contents_now(d, entry.number, entry.contents, entry.thing);
        Py_DECREF(entry.contents);
        Py_DECREF(entry.thing);
        if (failed) {
            return NULL;
        }
    }
    if (enter(d, 1) < 0) {
        return NULL;
    }
    PyObject *value = read_value(d);
    d->depth++;
    return value;
}

static PyObject *get_class_name(Reader *d);

/* An instance of a listed class, made without its __init__. */
static PyObject *
read_object(Reader *d)
{
    d->at++;
    PyObject *name = get_class_name(d), *thing = NULL;
    if (name == NULL) {
        return NULL;
    }
    PyObject *way = PyDict_GetItemWithError(d->form->classes, name);
    if (way != NULL) {
        Py_INCREF(way);
    }
    else if (!PyErr_Occurred()) {
        way = PyObject_CallFunctionObjArgs(native.plain_of, (PyObject *)d, name, NULL);
        if (way != NULL && PyTuple_CheckExact(way) && PyTuple_Size(way) == 3 && PyType_Check(PyTuple_GetItem(way, 0))
            && PyTuple_CheckExact(PyTuple_GetItem(way, 2)) && PyDict_SetItem(d->form->classes, name, way) < 0) {
            Py_CLEAR(way);
        }
    }
    Py_DECREF(name);
    if (way == NULL) {
        return NULL;
    }
    if (!PyTuple_CheckExact(way)) { /* the class's plan: Python knows how */
        thing = PyObject_CallFunctionObjArgs(native.object_of, (PyObject *)d, way, NULL);
        Py_DECREF(way);
        return thing;
    }
    PyObject *none = PyTuple_New(0);
    newfunc make = PyType_GetSlot(&PyBaseObject_Type, Py_tp_new);
    if (none != NULL && make != NULL) {
        thing = make((PyTypeObject *)PyTuple_GetItem(way, 0), none, NULL);
    }
    Py_XDECREF(none);
    thing = shell(d, thing, way, WEIGHT_OBJECT);
    Py_DECREF(way);
    return thing;
}

static PyObject *
read_plain(Reader *d)
{
    const unsigned char *bytes;
    PyObject *value;
    unsigned char tag = d->bytes[d->at];
    switch (tag) {
    case TAG_NONE:
        d->at++;
        return Py_NewRef(Py_None);
    case TAG_TRUE:
        d->at++;
        return Py_NewRef(Py_True);
    case TAG_FALSE:
        d->at++;
        return Py_NewRef(Py_False);
    case TAG_ELLIPSIS:
        d->at++;
        return Py_NewRef(Py_Ellipsis);
    case TAG_NOT_IMPLEMENTED:
        d->at++;
        return Py_NewRef(Py_NotImplemented);
    case TAG_INT_1:
        if (d->end - d->at < 2) {
            d->at++;
            out_of_range();
            return NULL;
        }
        d->at += 2;
        return PyLong_FromLong((int8_t)d->bytes[d->at - 1]);
    case TAG_INT_4:
        bytes = fixed(d, 4);
        return bytes == NULL ? NULL : PyLong_FromLong((int32_t)load(bytes, 4));
    case TAG_INT_8:
        bytes = fixed(d, 8);
        return bytes == NULL ? NULL : PyLong_FromLongLong((int64_t)load(bytes, 8));
    case TAG_FLOAT:
        bytes = fixed(d, 8);
        return bytes == NULL ? NULL : PyFloat_FromDouble(load_double(bytes));
    case TAG_COMPLEX:
        bytes = fixed(d, 16);
        return bytes == NULL ? NULL : PyComplex_FromDoubles(load_double(bytes), load_double(bytes + 8));
    case TAG_STR:
        return read_str(d);
    case TAG_INT_ANY:
    case TAG_STR_SURROGATES:
    case TAG_BYTES:
        return read_sized(d, tag);
    case TAG_BYTES_BUFFER:
        return read_bytes_buffer(d);
    case TAG_EMPTY_TUPLE:
        d->at++;
        return PyTuple_New(0);
    case TAG_TUPLE:
        d->at++;
        return remembered(d, read_sequence(d, 1));
    case TAG_REFERENCE:
        return read_reference(d);
    case TAG_NOW:
        return read_now(d);
    case TAG_FILL:
        return read_fill(d);
    case TAG_LIST:
        d->at++;
        return shell(d, PyList_New(0), native.read_list, WEIGHT_LIST);
    case TAG_DICT:
        d->at++;
        return shell(d, PyDict_New(), native.read_dict, WEIGHT_DICT);
    case TAG_SET:
        d->at++;
        return shell(d, PySet_New(NULL), native.read_set, WEIGHT_SET);
    case TAG_OBJECT:
        return read_object(d);
    default:
        value = PyList_GetItem(native.dispatch, tag);
        return value == NULL ? NULL : PyObject_CallFunctionObjArgs(value, (PyObject *)d, NULL);
    }
}

static PyObject *
read_value(Reader *d)
{
    if (d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    unsigned char tag = d->bytes[d->at];
    if (tag != TAG_TUPLE && tag != TAG_NOW && tag != TAG_FILL) {
        return read_plain(d); /* nothing in it, or a call of Python, which counts by itself */
    }
    if (Py_EnterRecursiveCall(" while reading a message")) {
        return NULL;
    }
    PyObject *value = read_plain(d);
    Py_LeaveRecursiveCall();
    return value;
}

/* -- contents ---------------------------------------------------------------------------------------------------- */

static int
append_triple(PyObject *list, PyObject *a, PyObject *b, PyObject *c)
{
    PyObject *triple = PyTuple_Pack(3, a, b, c);
    int failed = triple == NULL ? -1 : PyList_Append(list, triple);
    Py_XDECREF(triple);
    return failed;
}

/* 1: done; 0: Python knows how. */
static int
fill_state(PyObject *thing, PyObject *held)
{
    PyObject *names = PyTuple_GetItem(held, 0), *values = PyTuple_GetItem(held, 1);
    if (!PyList_CheckExact(names) || !PyList_CheckExact(values) || PyList_Size(names) != PyList_Size(values)) {
        return 0;
    }
    PyObject *state = PyObject_GenericGetAttr(thing, text_dict);
    if (state == NULL) {
        return -1;
    }
    int failed = 0, plain = PyDict_CheckExact(state) && state != thing;
    if (plain) {
        PyDict_Clear(state);
        for (Py_ssize_t n = 0; !failed && n < PyList_Size(names); n++) {
            failed = PyDict_SetItem(state, PyList_GetItem(names, n), PyList_GetItem(values, n));
        }
    }
    Py_DECREF(state);
    return failed ? -1 : plain;
}

static int
call_fill(PyObject *fill, PyObject *thing, PyObject *held)
{
    if (fill == native.fill_list && PyList_Check(thing) && PyList_CheckExact(held)) {
        return PyList_SetSlice(thing, 0, PY_SSIZE_T_MAX, held);
    }
    if (fill == native.fill_attributes && PyTuple_CheckExact(held) && PyTuple_Size(held) == 2) {
        int done = fill_state(thing, held);
        if (done) {
            return done < 0 ? -1 : 0;
        }
    }
    PyObject *done = PyObject_CallFunctionObjArgs(fill, thing, held, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
keep_snapshot(Reader *d, PyObject *thing, PyObject *held, PyObject *unchanged)
{
    return d->snapshots == NULL ? 0 : append_triple(d->snapshots, thing, held, unchanged);
}

static int
put_in(Reader *d, PyObject *fill, PyObject *thing, PyObject *held, PyObject *unchanged)
{
    if (d->later == NULL || d->now) {
        if (call_fill(fill, thing, held) < 0) {
            return -1;
        }
    }
    else if (append_triple(d->later, fill, thing, held) < 0) {
        return -1;
    }
    return keep_snapshot(d, thing, held, unchanged);
}

/* Keys that Python hashes without looking further, and too few or too random to cost anything (`_keys.py`). */
static int
cost_nothing(PyObject *keys)
{
    Py_ssize_t size = PyList_Size(keys);
    int seeded = 1;
    for (Py_ssize_t n = 0; n < size; n++) {
        PyObject *key = PyList_GetItem(keys, n);
        PyTypeObject *type = Py_TYPE(key);
        if (type == &PyUnicode_Type || type == &PyBytes_Type || key == Py_None || type == &PyBool_Type) {
            continue;
        }
        if (type != &PyLong_Type && type != &PyFloat_Type && type != &PyComplex_Type) {
            return 0;
        }
        seeded = 0;
    }
    return seeded || size < FEW_KEYS;
}

static int
put_in_hashed(Reader *d, PyObject *fill, PyObject *thing, PyObject *held, PyObject *keys, PyObject *unchanged)
{
    if (PyList_CheckExact(keys) && (d->later == NULL || d->now) && cost_nothing(keys)) {
        return call_fill(fill, thing, held) < 0 ? -1 : keep_snapshot(d, thing, held, unchanged);
    }
    PyObject *done = PyObject_CallFunctionObjArgs(native.fill_hashed, (PyObject *)d, fill, thing, held, keys, unchanged, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
read_list_contents(Reader *d, PyObject *thing)
{
    PyObject *held = read_sequence(d, 0);
    if (held == NULL) {
        return -1;
    }
    int failed = put_in(d, native.fill_list, thing, held, native.same_list);
    Py_DECREF(held);
    return failed;
}

static int
fill_new_set(PyObject *thing, PyObject *held)
{
    PyObject *fresh = PySet_New(held);
    if (fresh == NULL) {
        return -1;
    }
    PyObject *done = PyObject_CallFunctionObjArgs(native.set_update, thing, fresh, NULL);
    Py_DECREF(fresh);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
read_set_contents(Reader *d, PyObject *thing)
{
    PyObject *held = read_sequence(d, 0);
    if (held == NULL) {
        return -1;
    }
    int failed;
    if ((d->later == NULL || d->now) && Py_TYPE(thing) == &PySet_Type && PySet_Size(thing) == 0 && cost_nothing(held)) {
        failed = fill_new_set(thing, held) < 0 ? -1 : keep_snapshot(d, thing, held, native.same_set);
    }
    else {
        failed = put_in_hashed(d, native.fill_set, thing, held, held, native.same_set);
    }
    Py_DECREF(held);
    return failed;
}

/* The keys and the values of a dict; count was charged. */
static int
read_pairs(Reader *d, PyObject **keys_made, PyObject **values_made)
{
    Py_ssize_t count = get_count(d, 2), met = 0;
    if (count < 0) {
        return -1;
    }
    PyObject *few_keys[FEW_VALUES], *few_values[FEW_VALUES];
    PyObject **keys = room_for(few_keys, count), **values = room_for(few_values, count);
    if (keys != NULL && values != NULL) {
        for (; met < count; met++) {
            keys[met] = read_value(d);
            if (keys[met] == NULL) {
                break;
            }
            values[met] = read_value(d);
            if (values[met] == NULL) {
                Py_DECREF(keys[met]);
                break;
            }
        }
    }
    int failed = keys == NULL || values == NULL || met != count;
    if (failed) {
        while (met-- > 0) {
            Py_DECREF(keys[met]);
            Py_DECREF(values[met]);
        }
    }
    else {
        *keys_made = sequence_of(keys, count, 0);
        *values_made = sequence_of(values, count, 0);
        if (*keys_made == NULL || *values_made == NULL) {
            Py_CLEAR(*keys_made);
            Py_CLEAR(*values_made);
            failed = 1;
        }
    }
    if (keys != few_keys) {
        PyMem_Free(keys);
    }
    if (values != few_values) {
        PyMem_Free(values);
    }
    return failed ? -1 : 0;
}

static int
read_dict_contents(Reader *d, PyObject *thing)
{
    PyObject *keys = NULL, *values = NULL, *held = NULL;
    if (read_pairs(d, &keys, &values) < 0) {
        return -1;
    }
    int failed = 0;
    int here = (d->later == NULL || d->now) && PyDict_Size(thing) == 0 && cost_nothing(keys);
    if (here) {
        for (Py_ssize_t n = 0; !failed && n < PyList_Size(keys); n++) {
            failed = PyDict_SetItem(thing, PyList_GetItem(keys, n), PyList_GetItem(values, n));
        }
    }
    if (!failed && (!here || d->snapshots != NULL)) {
        held = PyTuple_Pack(2, keys, values);
        if (held == NULL) {
            failed = -1;
        }
        else if (here) {
            failed = keep_snapshot(d, thing, held, native.same_dict);
        }
        else {
            failed = put_in_hashed(d, native.fill_dict, thing, held, keys, native.same_dict);
        }
    }
    Py_DECREF(keys);
    Py_DECREF(values);
    Py_XDECREF(held);
    return failed;
}

/* The names of the attributes, a new reference; NULL without an error: Python knows what is to be said. */
static PyObject *
read_names(Reader *d, PyObject *type)
{
    PyObject *names = NULL;
    if (d->at < d->end && d->bytes[d->at] == 0) {
        names = d->attribute_names == NULL ? NULL : PyDict_GetItemWithError(d->attribute_names, type);
        if (names == NULL || !PyList_CheckExact(names)) {
            return NULL;
        }
        d->at++;
        Py_INCREF(names);
        if (charge(d, 2 * PyList_Size(names)) < 0) {
            Py_CLEAR(names);
        }
        return names;
    }
    if (d->at >= d->end || d->bytes[d->at] != 1) {
        return NULL;
    }
    d->at++;
    Py_ssize_t count = get_count(d, 2);
    if (count < 0 || (names = PyList_New(0)) == NULL) {
        return NULL;
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *name = get_text(d);
        int failed = name == NULL || PyList_Append(names, name) < 0;
        Py_XDECREF(name);
        if (failed) {
            Py_DECREF(names);
            return NULL;
        }
    }
    if ((d->attribute_names == NULL && (d->attribute_names = PyDict_New()) == NULL)
        || PyDict_SetItem(d->attribute_names, type, names) < 0) {
        Py_CLEAR(names);
    }
    return names;
}

static int
read_state(Reader *d, PyObject *thing)
{
    PyObject *names = read_names(d, (PyObject *)Py_TYPE(thing));
    if (names == NULL) {
        if (PyErr_Occurred()) {
            return -1;
        }
        PyObject *done = PyObject_CallFunctionObjArgs(native.read_attributes, (PyObject *)d, thing, NULL);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    Py_ssize_t count = PyList_Size(names);
    PyObject *few[FEW_VALUES], **values = room_for(few, count), *list = NULL, *held = NULL;
    int failed = -1;
    if (values != NULL && read_many(d, values, count) == 0) {
        list = sequence_of(values, count, 0);
    }
    if (list != NULL && (held = PyTuple_Pack(2, names, list)) != NULL) {
        failed = put_in(d, native.fill_attributes, thing, held, native.same_attributes);
    }
    if (values != few) {
        PyMem_Free(values);
    }
    Py_DECREF(names);
    Py_XDECREF(list);
    Py_XDECREF(held);
    return failed;
}

static int
read_instance(Reader *d, PyObject *way, PyObject *thing)
{
    PyObject *slots = PyTuple_GetItem(way, 2);
    if (PyTuple_GetItem(way, 1) == Py_True && read_state(d, thing) < 0) {
        return -1;
    }
    if (PyTuple_Size(slots)) {
        PyObject *done = PyObject_CallFunctionObjArgs(native.read_slots, (PyObject *)d, slots, thing, NULL);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    return 0;
}

static int
read_contents(Reader *d, PyObject *contents, PyObject *thing)
{
    if (PyTuple_CheckExact(contents)) {
        return read_instance(d, contents, thing);
    }
    if (contents == native.read_list && PyList_Check(thing)) {
        return read_list_contents(d, thing);
    }
    if (contents == native.read_dict && PyDict_Check(thing)) {
        return read_dict_contents(d, thing);
    }
    if (contents == native.read_set && PySet_Check(thing)) {
        return read_set_contents(d, thing);
    }
    PyObject *done = PyObject_CallFunctionObjArgs(contents, (PyObject *)d, thing, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
drain(Reader *d)
{
    for (Py_ssize_t done = 0; done < d->queue.length; done++) {
        Queued entry = d->queue.entries[done];
        if (entry.number >= d->base) {
            d->frontier = entry.number;
            int filled = d->filled == NULL ? 0 : set_contains(d->filled, PyLong_FromSsize_t(entry.number));
            if (filled < 0) {
                return -1;
            }
            if (filled) {
                continue;
            }
        }
        Py_INCREF(entry.contents);
        Py_INCREF(entry.thing);
        int failed = read_contents(d, entry.contents, entry.thing);
        Py_DECREF(entry.contents);
        Py_DECREF(entry.thing);
        if (failed) {
            return -1;
        }
    }
    if (d->at != d->end) {
        return violation("%zd bytes left over", d->end - d->at);
    }
    if (d->next_buffer != d->buffer_count) {
        return violation("%zd buffers left over", d->buffer_count - d->next_buffer);
    }
    if (d->later != NULL || d->hashing != NULL) {
        PyObject *settled = PyObject_CallFunctionObjArgs(native.settle, (PyObject *)d, NULL);
        Py_XDECREF(settled);
        return settled == NULL ? -1 : 0;
    }
    return 0;
}

/* -- beginning and end ------------------------------------------------------------------------------------------- */

static void
reader_end(Reader *d)
{
    if (d->form == NULL) { /* it has ended before */
        return;
    }
    queue_end(&d->queue);
    d->at = d->end = 0;
    d->base = d->buffer_count = d->next_buffer = 0;
    Py_CLEAR(d->form);
    Py_CLEAR(d->codec);
    Py_CLEAR(d->raw);
    Py_CLEAR(d->buffers);
    Py_CLEAR(d->known);
    Py_CLEAR(d->objects);
    Py_CLEAR(d->snapshots);
    Py_CLEAR(d->later);
    Py_CLEAR(d->hashing);
    Py_CLEAR(d->key_cost);
    Py_CLEAR(d->classes);
    Py_CLEAR(d->attribute_names);
    Py_CLEAR(d->filled);
    Py_CLEAR(d->open);
}

static void
reader_dealloc(Reader *d)
{
    PyTypeObject *type = Py_TYPE((PyObject *)d);
    reader_end(d);
    PyObject_Free(d);
    Py_DECREF(type);
}

static Reader *
reader_start(Form *form, PyObject *payload, PyObject *buffers, PyObject *known)
{
    Reader *d = PyObject_New(Reader, reader_type);
    if (d == NULL) {
        return NULL;
    }
    memset((char *)d + offsetof(Reader, form), 0, offsetof(Reader, queue) - offsetof(Reader, form));
    queue_start(&d->queue);
    d->form = (Form *)Py_NewRef((PyObject *)form);
    d->codec = Py_NewRef(form->codec);
    Py_ssize_t size = PyObject_Size(payload);
    if (size < 0) {
        goto failed;
    }
    d->buffers = PySequence_Tuple(buffers);
    if (d->buffers == NULL) {
        goto failed;
    }
    d->buffer_count = PyTuple_Size(d->buffers);
    for (Py_ssize_t n = 0; n < d->buffer_count; n++) {
        Py_ssize_t more = PyObject_Size(PyTuple_GetItem(d->buffers, n));
        if (more < 0) {
            goto failed;
        }
        size = more > PY_SSIZE_T_MAX - size ? PY_SSIZE_T_MAX : size + more;
    }
    if (size > form->max_bytes) {
        violation("%zd bytes; this edge permits %zd", size, form->max_bytes);
        goto failed;
    }
    /* a copy, unless nobody can change it: the peer may still write */
    d->raw = PyBytes_CheckExact(payload) ? Py_NewRef(payload) : PyBytes_FromObject(payload);
    d->objects = PyList_New(0);
    char *bytes;
    if (d->raw == NULL || d->objects == NULL || PyBytes_AsStringAndSize(d->raw, &bytes, &d->end) < 0) {
        goto failed;
    }
    d->bytes = (const unsigned char *)bytes;
    if (known != NULL) {
        d->known = Py_NewRef(known);
        d->base = PyList_Size(known);
    }
    d->frontier = d->base - 1;
    d->depth = form->max_depth;
    d->items = form->max_items;
    return d;
failed:
    Py_DECREF((PyObject *)d);
    return NULL;
}

PyObject *
form_read_request(Form *form, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "read_request() takes a payload and buffers");
        return NULL;
    }
    Reader *d = reader_start(form, args[0], args[1], NULL);
    if (d == NULL) {
        return NULL;
    }
    PyObject *result = NULL, *value = NULL, *memo = NULL;
    d->snapshots = PyList_New(0);
    if (d->snapshots != NULL && (value = read_value(d)) != NULL && drain(d) == 0) {
        memo = memo_new(value, d->objects, d->snapshots);
        if (memo != NULL) {
            result = PyTuple_Pack(2, value, memo);
            Py_DECREF(memo);
        }
    }
    Py_XDECREF(value);
    reader_end(d);
    Py_DECREF((PyObject *)d);
    return result;
}

PyObject *
form_read_reply(Form *form, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !(args[2] == Py_None || (Py_IS_TYPE(args[2], memo_type) && ((Memo *)args[2])->objects != NULL))) {
        PyErr_SetString(PyExc_TypeError, "read_reply() takes a payload, buffers, a Memo or None, and a bool");
        return NULL;
    }
    int is_error = PyObject_IsTrue(args[3]);
    Reader *d = reader_start(form, args[0], args[1], args[2] == Py_None ? NULL : ((Memo *)args[2])->objects);
    if (d == NULL) {
        return NULL;
    }
    PyObject *value = NULL;
    Py_ssize_t changes = get_count(d, 1);
    if (changes < 0) {
        goto end;
    }
    if (changes > 0) {
        PyObject *done = PyObject_CallMethod(form->codec, "read_changes", "On", (PyObject *)d, changes);
        if (done == NULL) {
            goto end;
        }
        Py_DECREF(done);
    }
    value = read_value(d);
    if (value != NULL && is_error
        && PyObject_IsSubclass((PyObject *)Py_TYPE(value), PyExc_BaseException) != 1) {
        if (!PyErr_Occurred()) {
            violation("an error that is no exception");
        }
        Py_CLEAR(value);
    }
    if (value != NULL && drain(d) < 0) {
        Py_CLEAR(value);
    }
end:
    reader_end(d);
    Py_DECREF((PyObject *)d);
    return value;
}

/* -- what Python functions see ----------------------------------------------------------------------------------- */

static int
alive(Reader *d)
{
    if (d->form != NULL) {
        return 1;
    }
    PyErr_SetString(PyExc_RuntimeError, "this message is done");
    return 0;
}

static PyObject *
none_unless(int failed)
{
    if (failed) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *
d_value(Reader *d, PyObject *Py_UNUSED(ignored))
{
    return alive(d) ? read_value(d) : NULL;
}

static PyObject *
d_values(Reader *d, PyObject *Py_UNUSED(ignored))
{
    return alive(d) ? read_sequence(d, 0) : NULL;
}

static PyObject *
d_elements(Reader *d, PyObject *Py_UNUSED(ignored))
{
    PyObject *tuple = alive(d) ? read_sequence(d, 1) : NULL;
    if (tuple == NULL) {
        return NULL;
    }
    PyObject *list = PySequence_List(tuple);
    Py_DECREF(tuple);
    return list;
}

static PyObject *
d_pairs(Reader *d, PyObject *Py_UNUSED(ignored))
{
    PyObject *keys = NULL, *values = NULL;
    if (!alive(d) || read_pairs(d, &keys, &values) < 0) {
        return NULL;
    }
    PyObject *pair = PyTuple_Pack(2, keys, values);
    Py_DECREF(keys);
    Py_DECREF(values);
    return pair;
}

static PyObject *
d_contents(Reader *d, PyObject *const *args, Py_ssize_t count)
{
    if (!alive(d)) {
        return NULL;
    }
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "contents() takes a function and an object");
        return NULL;
    }
    return none_unless(read_contents(d, args[0], args[1]));
}

static PyObject *
d_peek(Reader *d, PyObject *Py_UNUSED(ignored))
{
    if (!alive(d)) {
        return NULL;
    }
    if (d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    return PyLong_FromLong(d->bytes[d->at]);
}

static PyObject *
d_skip(Reader *d, PyObject *Py_UNUSED(ignored))
{
    if (!alive(d)) {
        return NULL;
    }
    if (d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    d->at++;
    return Py_NewRef(Py_None);
}

static PyObject *
d_left(Reader *d, PyObject *Py_UNUSED(ignored))
{
    if (!alive(d)) {
        return NULL;
    }
    Py_ssize_t left = d->end - d->at;
    for (Py_ssize_t n = d->next_buffer; n < d->buffer_count; n++) {
        Py_ssize_t size = PyObject_Size(PyTuple_GetItem(d->buffers, n));
        if (size < 0) {
            return NULL;
        }
        left += size; /* together at most max_bytes */
    }
    return PyLong_FromSsize_t(left);
}

static PyObject *
d_known(Reader *d, PyObject *argument)
{
    Py_ssize_t number = PyLong_AsSsize_t(argument);
    if (!alive(d) || (number == -1 && PyErr_Occurred())) {
        return NULL;
    }
    if (number < 0 || number >= object_count(d)) {
        out_of_range();
        return NULL;
    }
    return object_of(d, number);
}

static PyObject *
d_remember(Reader *d, PyObject *thing)
{
    if (!alive(d) || PyList_Append(d->objects, thing) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(object_count(d) - 1);
}

static PyObject *
d_enqueue(Reader *d, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t number;
    if (!alive(d) || !PyArg_ParseTuple(args, "nOO:enqueue", &number, &contents, &thing)) {
        return NULL;
    }
    return none_unless(queue_push(&d->queue, number, contents, thing));
}

static PyObject *
d_contents_now(Reader *d, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t number;
    if (!alive(d) || !PyArg_ParseTuple(args, "nOO:contents_now", &number, &contents, &thing)) {
        return NULL;
    }
    return none_unless(contents_now(d, number, contents, thing));
}

static PyObject *
d_is_open(Reader *d, PyObject *thing)
{
    int open = alive(d) ? is_open(d, thing) : -1;
    return open < 0 ? NULL : PyBool_FromLong(open);
}

static PyObject *
d_enter(Reader *d, PyObject *args)
{
    Py_ssize_t levels = 1;
    if (!alive(d) || !PyArg_ParseTuple(args, "|n:enter", &levels)) {
        return NULL;
    }
    return none_unless(enter(d, levels));
}

static PyObject *
d_leave(Reader *d, PyObject *args)
{
    Py_ssize_t levels = 1;
    if (!PyArg_ParseTuple(args, "|n:leave", &levels)) {
        return NULL;
    }
    d->depth += levels;
    return Py_NewRef(Py_None);
}

static PyObject *
d_number(Reader *d, PyObject *Py_UNUSED(ignored))
{
    uint64_t n;
    return !alive(d) || get_number(d, &n) < 0 ? NULL : PyLong_FromUnsignedLongLong(n);
}

static PyObject *
d_count(Reader *d, PyObject *args)
{
    Py_ssize_t weight = 1;
    if (!alive(d) || !PyArg_ParseTuple(args, "|n:count", &weight)) {
        return NULL;
    }
    Py_ssize_t count = get_count(d, weight);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *
d_charge(Reader *d, PyObject *argument)
{
    Py_ssize_t items = PyLong_AsSsize_t(argument);
    if (!alive(d)) {
        return NULL;
    }
    if (items == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return none_unless(charge(d, items));
}

static PyObject *
d_take(Reader *d, PyObject *argument)
{
    unsigned long long size = PyLong_AsUnsignedLongLong(argument);
    if (!alive(d) || (size == (unsigned long long)-1 && PyErr_Occurred())) {
        return NULL;
    }
    const unsigned char *bytes = get_bytes(d, size);
    return bytes == NULL ? NULL : PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
}

static PyObject *
d_text(Reader *d, PyObject *Py_UNUSED(ignored))
{
    return alive(d) ? get_text(d) : NULL;
}

static PyObject *
d_buffer(Reader *d, PyObject *Py_UNUSED(ignored))
{
    return alive(d) ? get_buffer(d) : NULL;
}

static PyObject *
d_own_raw(Reader *d, PyObject *Py_UNUSED(ignored))
{
    uint64_t size;
    if (!alive(d)) {
        return NULL;
    }
    if (d->at >= d->end) {
        out_of_range();
        return NULL;
    }
    if (d->bytes[d->at] == 0xFF) {
        d->at++;
        return get_buffer(d);
    }
    if (get_number(d, &size) < 0) {
        return NULL;
    }
    const unsigned char *bytes = get_bytes(d, size);
    return bytes == NULL ? NULL : PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
}

static PyObject *
get_class_name(Reader *d)
{
    uint64_t n;
    if ((d->classes == NULL && (d->classes = PyList_New(0)) == NULL) || get_number(d, &n) < 0) {
        return NULL;
    }
    Py_ssize_t met = PyList_Size(d->classes);
    if (n == (uint64_t)met) {
        PyObject *name = get_text(d);
        if (name == NULL || PyList_Append(d->classes, name) < 0) {
            Py_CLEAR(name);
        }
        return name;
    }
    if (n > (uint64_t)met) {
        violation("class number %llu of %zd", (unsigned long long)n, met);
        return NULL;
    }
    return Py_XNewRef(PyList_GetItem(d->classes, (Py_ssize_t)n));
}

static PyObject *
d_class_name(Reader *d, PyObject *Py_UNUSED(ignored))
{
    return alive(d) ? get_class_name(d) : NULL;
}

static PyObject *
d_shell(Reader *d, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t weight;
    if (!alive(d) || !PyArg_ParseTuple(args, "OOn:shell", &thing, &contents, &weight)) {
        return NULL;
    }
    return shell(d, Py_NewRef(thing), contents, weight);
}

static PyObject *
d_fill(Reader *d, PyObject *const *args, Py_ssize_t count)
{
    if (!alive(d)) {
        return NULL;
    }
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "fill() takes four arguments");
        return NULL;
    }
    return none_unless(put_in(d, args[0], args[1], args[2], args[3]));
}

static PyObject *
d_fill_hashed(Reader *d, PyObject *const *args, Py_ssize_t count)
{
    if (!alive(d)) {
        return NULL;
    }
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "fill_hashed() takes five arguments");
        return NULL;
    }
    return none_unless(put_in_hashed(d, args[0], args[1], args[2], args[3], args[4]));
}

static PyObject *
made_when_asked(PyObject **field, PyObject *(*make)(Reader *), Reader *d)
{
    if (*field == NULL) {
        if (!alive(d)) {
            return NULL;
        }
        *field = make(d);
    }
    return Py_XNewRef(*field);
}

static PyObject *
make_dict(Reader *Py_UNUSED(d))
{
    return PyDict_New();
}

static PyObject *
make_key_cost(Reader *d)
{
    return PyObject_CallFunction(native.key_cost, "n", d->form->max_items);
}

static PyObject *
get_hashing(Reader *d, void *Py_UNUSED(closure))
{
    return made_when_asked(&d->hashing, make_dict, d);
}

static PyObject *
get_attribute_names(Reader *d, void *Py_UNUSED(closure))
{
    return made_when_asked(&d->attribute_names, make_dict, d);
}

static PyObject *
get_key_cost(Reader *d, void *Py_UNUSED(closure))
{
    return made_when_asked(&d->key_cost, make_key_cost, d);
}

static PyObject *
get_later(Reader *d, void *Py_UNUSED(closure))
{
    return Py_NewRef(d->later == NULL ? Py_None : d->later);
}

static int
set_later(Reader *d, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyList_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "later is a list");
        return -1;
    }
    PyObject *before = d->later;
    d->later = Py_NewRef(value);
    Py_XDECREF(before);
    return 0;
}

static PyObject *
get_snapshots(Reader *d, void *Py_UNUSED(closure))
{
    return Py_NewRef(d->snapshots == NULL ? Py_None : d->snapshots);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef reader_methods[] = {
    {"value", (PyCFunction)d_value, METH_NOARGS, NULL},
    {"values", (PyCFunction)d_values, METH_NOARGS, NULL},
    {"elements", (PyCFunction)d_elements, METH_NOARGS, NULL},
    {"pairs", (PyCFunction)d_pairs, METH_NOARGS, NULL},
    {"contents", FAST(d_contents), METH_FASTCALL, NULL},
    {"peek", (PyCFunction)d_peek, METH_NOARGS, NULL},
    {"skip", (PyCFunction)d_skip, METH_NOARGS, NULL},
    {"left", (PyCFunction)d_left, METH_NOARGS, NULL},
    {"known", (PyCFunction)d_known, METH_O, NULL},
    {"remember", (PyCFunction)d_remember, METH_O, NULL},
    {"enqueue", (PyCFunction)d_enqueue, METH_VARARGS, NULL},
    {"contents_now", (PyCFunction)d_contents_now, METH_VARARGS, NULL},
    {"is_open", (PyCFunction)d_is_open, METH_O, NULL},
    {"enter", (PyCFunction)d_enter, METH_VARARGS, NULL},
    {"leave", (PyCFunction)d_leave, METH_VARARGS, NULL},
    {"number", (PyCFunction)d_number, METH_NOARGS, NULL},
    {"count", (PyCFunction)d_count, METH_VARARGS, NULL},
    {"charge", (PyCFunction)d_charge, METH_O, NULL},
    {"take", (PyCFunction)d_take, METH_O, NULL},
    {"text", (PyCFunction)d_text, METH_NOARGS, NULL},
    {"buffer", (PyCFunction)d_buffer, METH_NOARGS, NULL},
    {"own_raw", (PyCFunction)d_own_raw, METH_NOARGS, NULL},
    {"class_name", (PyCFunction)d_class_name, METH_NOARGS, NULL},
    {"shell", (PyCFunction)d_shell, METH_VARARGS, NULL},
    {"fill", FAST(d_fill), METH_FASTCALL, NULL},
    {"fill_hashed", FAST(d_fill_hashed), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reader_members[] = {
    {"codec", T_OBJECT_EX, offsetof(Reader, codec), READONLY, NULL},
    {"base", T_PYSSIZET, offsetof(Reader, base), READONLY, NULL},
    {"now", T_BOOL, offsetof(Reader, now), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef reader_properties[] = {
    {"hashing", (getter)get_hashing, NULL, NULL, NULL},
    {"attribute_names", (getter)get_attribute_names, NULL, NULL, NULL},
    {"key_cost", (getter)get_key_cost, NULL, NULL, NULL},
    {"later", (getter)get_later, (setter)set_later, NULL, NULL},
    {"snapshots", (getter)get_snapshots, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_members, reader_members},
    {Py_tp_getset, reader_properties},
    {Py_tp_doc, (void *)PyDoc_STR("One message being read; `_decoder.Decoder` says what each method does.")},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "shardwright.transport.codec._native.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = reader_slots,
};

int
reader_ready(PyObject *module)
{
    reader_type = (PyTypeObject *)PyType_FromSpec(&reader_spec);
    return reader_type == NULL ? -1 : PyModule_AddType(module, reader_type);
}
