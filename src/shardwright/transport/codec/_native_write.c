/* Writing one message: the mirror of `_encoder.py`, `_encode_values.py` and the list, dict and set of
 * `_encode_containers.py`.
 *
 * One file beyond 400 lines: the methods that Python sees and the functions behind them share one structure.
 */

#include "_native.h"

#include <stddef.h>

enum { FEW_IDS = 16 };

typedef struct {
    PyObject_HEAD
    Form *form; /* NULL once the message is done */
    PyObject *codec;
    unsigned char *out;
    size_t length, room;
    unsigned char few[256];
    PyObject *known;   /* list: the objects of the request, when this is a reply; else NULL */
    PyObject *objects; /* list: those met here, or NULL while there are none */
    Py_ssize_t base;   /* how many are known */
    void **ids;        /* addresses of known and new objects by number */
    void *few_ids[FEW_IDS];
    Py_ssize_t id_count, id_room;
    Py_ssize_t *places; /* hash table over ids: number + 1, or 0 */
    size_t mask;
    Queue queue;
    PyObject *buffers; /* list or NULL */
    Py_ssize_t buffer_bytes;
    PyObject *classes;         /* dict or NULL: numbers by name */
    PyObject *attribute_names; /* dict or NULL */
    PyObject *filled;          /* set of numbers or NULL */
    PyObject *open;            /* set of addresses or NULL */
    PyObject **building;       /* owners, borrowed, whose elements are being written */
    PyObject *few_building[8];
    Py_ssize_t building_count, building_room;
    PyObject *prepared; /* borrowed: compared only */
    Py_ssize_t frontier, depth, items;
    char now, trial;
} Writer;

static int write_value(Writer *s, PyObject *value);
static int write_contents(Writer *s, PyObject *contents, PyObject *thing);

/* -- bytes ------------------------------------------------------------------------------------------------------- */

static int
grow(Writer *s, size_t more)
{
    size_t room = s->room;
    if (more > (size_t)PY_SSIZE_T_MAX / 2 || s->length > (size_t)PY_SSIZE_T_MAX / 2) {
        PyErr_NoMemory();
        return -1;
    }
    while (room - s->length < more) {
        room *= 2;
    }
    unsigned char *out = s->out == s->few ? PyMem_Malloc(room) : PyMem_Realloc(s->out, room);
    if (out == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (s->out == s->few) {
        memcpy(out, s->few, s->length);
    }
    s->out = out;
    s->room = room;
    return 0;
}

static inline int
reserve(Writer *s, size_t more)
{
    return s->room - s->length >= more ? 0 : grow(s, more);
}

static inline int
put_byte(Writer *s, unsigned char byte)
{
    if (reserve(s, 1) < 0) {
        return -1;
    }
    s->out[s->length++] = byte;
    return 0;
}

static inline int
put(Writer *s, const void *raw, size_t size)
{
    if (reserve(s, size) < 0) {
        return -1;
    }
    memcpy(s->out + s->length, raw, size);
    s->length += size;
    return 0;
}

static inline void
store(unsigned char *out, uint64_t value, int size)
{
    for (int n = 0; n < size; n++) {
        out[n] = (unsigned char)(value >> (8 * n));
    }
}

static int
put_number(Writer *s, uint64_t n)
{
    if (n < NUMBER_1_BYTE) {
        return put_byte(s, (unsigned char)n);
    }
    int size = 1;
    while (size < 8 && n >> (8 * size)) {
        size++;
    }
    if (reserve(s, 9) < 0) {
        return -1;
    }
    s->out[s->length] = (unsigned char)(NUMBER_1_BYTE - 1 + size);
    store(s->out + s->length + 1, n, size);
    s->length += 1 + size;
    return 0;
}

/* -- the memo ---------------------------------------------------------------------------------------------------- */

static inline size_t
spread(const void *address)
{
    uint64_t bits = (uint64_t)(uintptr_t)address >> 4;
    return (size_t)((bits * UINT64_C(0x9E3779B97F4A7C15)) >> 20);
}

/* The place of an address: where it stands, or the free one where it belongs. */
static size_t
place_of(const Writer *s, const void *address)
{
    size_t at = spread(address) & s->mask;
    while (s->places[at] && s->ids[s->places[at] - 1] != address) {
        at = (at + 1) & s->mask;
    }
    return at;
}

static int
grow_ids(Writer *s)
{
    Py_ssize_t room = 4 * s->id_room;
    size_t slots = 2 * (size_t)room;
    if ((size_t)room > PY_SSIZE_T_MAX / (4 * sizeof(void *))) {
        PyErr_NoMemory();
        return -1;
    }
    void **ids = s->ids == s->few_ids ? PyMem_Malloc(room * sizeof(void *)) : PyMem_Realloc(s->ids, room * sizeof(void *));
    if (ids == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (s->ids == s->few_ids) {
        memcpy(ids, s->few_ids, sizeof(s->few_ids));
    }
    s->ids = ids;
    s->id_room = room;
    Py_ssize_t *places = PyMem_Calloc(slots, sizeof(Py_ssize_t));
    if (places == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(s->places);
    s->places = places;
    s->mask = slots - 1;
    for (Py_ssize_t n = 0; n < s->id_count; n++) { /* in order: of two numbers of one object the last counts */
        places[place_of(s, ids[n])] = n + 1;
    }
    return 0;
}

static int
add_id(Writer *s, PyObject *thing)
{
    if (s->id_count == s->id_room && grow_ids(s) < 0) {
        return -1;
    }
    s->ids[s->id_count++] = thing;
    if (s->places != NULL) {
        s->places[place_of(s, thing)] = s->id_count;
    }
    return 0;
}

/* The objects of the request are entered when the first one is asked for. */
static int
enter_known(Writer *s)
{
    while (s->id_count < s->base) {
        PyObject *thing = PyList_GetItem(s->known, s->id_count);
        if (thing == NULL || add_id(s, thing) < 0) {
            return -1;
        }
    }
    return 0;
}

/* The number of an object, -1 if it was not met, -2 with an error set. */
static Py_ssize_t
number_of(Writer *s, PyObject *thing)
{
    if (s->id_count < s->base && enter_known(s) < 0) {
        return -2;
    }
    if (s->places != NULL) {
        return s->places[place_of(s, thing)] - 1;
    }
    for (Py_ssize_t n = s->id_count; n-- > 0;) {
        if (s->ids[n] == thing) {
            return n;
        }
    }
    return -1;
}

static Py_ssize_t
remember(Writer *s, PyObject *thing)
{
    if (s->id_count < s->base && enter_known(s) < 0) {
        return -1;
    }
    if (s->objects == NULL && (s->objects = PyList_New(0)) == NULL) {
        return -1;
    }
    if (PyList_Append(s->objects, thing) < 0 || add_id(s, thing) < 0) {
        return -1;
    }
    return s->id_count - 1;
}

static int
is_open(Writer *s, PyObject *thing)
{
    return s->open == NULL ? 0 : set_contains(s->open, PyLong_FromVoidPtr(thing));
}

/* 1: a reference was written, for the object was met before. */
static int
write_known(Writer *s, PyObject *thing)
{
    Py_ssize_t number = number_of(s, thing);
    if (number < 0) {
        return number == -1 ? 0 : -1;
    }
    if (s->now) {
        int open = is_open(s, thing);
        if (open < 0) {
            return -1;
        }
        if (!open) {
            PyObject *done = PyObject_CallFunctionObjArgs(native.complete, (PyObject *)s, thing, NULL);
            if (done == NULL) {
                return -1;
            }
            Py_DECREF(done);
        }
    }
    return put_byte(s, TAG_REFERENCE) < 0 || put_number(s, (uint64_t)number) < 0 ? -1 : 1;
}

/* 1: what the value leads to was written, and on that way the value itself. */
static int
write_prepared(Writer *s, PyObject *value)
{
    if (s->prepared != NULL) {
        return 0;
    }
    PyObject *done = PyObject_CallFunctionObjArgs(native.complete, (PyObject *)s, value, Py_True, NULL);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    int known = write_known(s, value);
    if (known == 0) {
        s->prepared = value;
    }
    return known;
}

static int
enter(Writer *s, PyObject *thing, Py_ssize_t levels)
{
    s->depth += levels;
    if (s->depth > s->form->max_depth) {
        return raise_made(PyObject_CallFunctionObjArgs(native.too_deep, s->form->limits, thing, NULL));
    }
    return 0;
}

static int
at_once(Writer *s, PyObject *thing, Py_ssize_t number, PyObject *contents)
{
    if (set_add(&s->filled, PyLong_FromSsize_t(number)) < 0 || enter(s, thing, NOW_LEVELS) < 0
        || set_add(&s->open, PyLong_FromVoidPtr(thing)) < 0 || write_contents(s, contents, thing) < 0
        || set_discard(s->open, PyLong_FromVoidPtr(thing)) < 0) {
        return -1;
    }
    s->depth -= NOW_LEVELS;
    return 0;
}

static int
begin(Writer *s, unsigned char tag)
{
    return s->now && put_byte(s, TAG_NOW) < 0 ? -1 : put_byte(s, tag);
}

static int
shell(Writer *s, PyObject *thing, PyObject *contents, Py_ssize_t weight)
{
    Py_ssize_t number = remember(s, thing);
    if (number < 0) {
        return -1;
    }
    s->items += weight;
    return s->now ? at_once(s, thing, number, contents) : queue_push(&s->queue, number, contents, thing);
}

static int
check(Writer *s)
{
    Py_ssize_t size = (Py_ssize_t)s->length + s->buffer_bytes;
    if (size <= s->form->max_bytes && s->items <= s->form->max_items) {
        return 0;
    }
    PyObject *error = PyObject_CallFunction(native.too_large, "Onn", s->form->limits, size, s->items);
    return raise_made(error);
}

static int
drain(Writer *s)
{
    for (Py_ssize_t done = 0; done < s->queue.length; done++) {
        if ((done & 0x3FF) == 0x3FF && check(s) < 0) {
            return -1;
        }
        Queued entry = s->queue.entries[done]; /* a copy: the queue may move, and keeps the references */
        if (entry.number >= s->base) {
            s->frontier = entry.number;
            int filled = s->filled == NULL ? 0 : set_contains(s->filled, PyLong_FromSsize_t(entry.number));
            if (filled < 0) {
                return -1;
            }
            if (filled) {
                continue;
            }
        }
        if (write_contents(s, entry.contents, entry.thing) < 0) {
            return -1;
        }
    }
    return check(s);
}

/* -- values ------------------------------------------------------------------------------------------------------ */

static int
write_int(Writer *s, PyObject *value)
{
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) {
        PyObject *raw = PyObject_CallFunctionObjArgs(native.big_int_bytes, value, NULL);
        char *bytes;
        Py_ssize_t size;
        int failed = raw == NULL || PyBytes_AsStringAndSize(raw, &bytes, &size) < 0 || put_byte(s, TAG_INT_ANY) < 0
                     || put_number(s, (uint64_t)size) < 0 || put(s, bytes, (size_t)size) < 0;
        Py_XDECREF(raw);
        return failed ? -1 : 0;
    }
    if (n == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (reserve(s, 9) < 0) {
        return -1;
    }
    unsigned char *out = s->out + s->length;
    if (-128 <= n && n < 128) {
        out[0] = TAG_INT_1;
        out[1] = (unsigned char)n;
        s->length += 2;
    }
    else if (INT32_MIN <= n && n <= INT32_MAX) {
        out[0] = TAG_INT_4;
        store(out + 1, (uint64_t)n, 4);
        s->length += 5;
    }
    else {
        out[0] = TAG_INT_8;
        store(out + 1, (uint64_t)n, 8);
        s->length += 9;
    }
    return 0;
}

static int
put_double(Writer *s, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    if (reserve(s, 8) < 0) {
        return -1;
    }
    store(s->out + s->length, bits, 8);
    s->length += 8;
    return 0;
}

/* The UTF-8 of a text, lone surrogates included. Long texts are not made to keep theirs. `*kept` is to be released. */
static int
utf8(PyObject *text, int *surrogates, PyObject **kept, const char **raw, Py_ssize_t *size)
{
    *kept = NULL;
    *surrogates = 0;
    if (PyUnicode_GetLength(text) <= 1024) {
        *raw = PyUnicode_AsUTF8AndSize(text, size);
        if (*raw != NULL) {
            return 0;
        }
    }
    else {
        *kept = PyUnicode_AsUTF8String(text);
    }
    if (*kept == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();
        *surrogates = 1;
        *kept = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
        if (*kept == NULL) {
            return -1;
        }
    }
    char *bytes;
    if (PyBytes_AsStringAndSize(*kept, &bytes, size) < 0) {
        Py_CLEAR(*kept);
        return -1;
    }
    *raw = bytes;
    return 0;
}

static int
put_text(Writer *s, PyObject *text)
{
    int surrogates;
    PyObject *kept;
    const char *raw;
    Py_ssize_t size;
    if (utf8(text, &surrogates, &kept, &raw, &size) < 0) {
        return -1;
    }
    int failed = put_number(s, (uint64_t)size) < 0 || put(s, raw, (size_t)size) < 0;
    Py_XDECREF(kept);
    return failed ? -1 : 0;
}

static int
write_str(Writer *s, PyObject *value)
{
    if (PyUnicode_GetLength(value) >= SHARED_BYTES / 4) {
        int known = write_known(s, value);
        if (known) {
            return known < 0 ? -1 : 0;
        }
    }
    int surrogates;
    PyObject *kept;
    const char *raw;
    Py_ssize_t size;
    if (utf8(value, &surrogates, &kept, &raw, &size) < 0) {
        return -1;
    }
    int failed = put_byte(s, surrogates ? TAG_STR_SURROGATES : TAG_STR) < 0 || put_number(s, (uint64_t)size) < 0
                 || put(s, raw, (size_t)size) < 0 || (size >= SHARED_BYTES && remember(s, value) < 0);
    Py_XDECREF(kept);
    return failed ? -1 : 0;
}

static int
add_buffer(Writer *s, PyObject *raw)
{
    Py_ssize_t size = PyObject_Size(raw);
    if (size < 0 || (s->buffers == NULL && (s->buffers = PyList_New(0)) == NULL) || PyList_Append(s->buffers, raw) < 0) {
        return -1;
    }
    s->buffer_bytes += size;
    return 0;
}

static int
write_bytes(Writer *s, PyObject *value)
{
    char *raw;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(value, &raw, &size) < 0) {
        return -1;
    }
    if (size >= SHARED_BYTES) {
        int known = write_known(s, value);
        if (known) {
            return known < 0 ? -1 : 0;
        }
    }
    if (size >= LARGE_BYTES) {
        if (put_byte(s, TAG_BYTES_BUFFER) < 0 || add_buffer(s, value) < 0) {
            return -1;
        }
    }
    else if (put_byte(s, TAG_BYTES) < 0 || put_number(s, (uint64_t)size) < 0 || put(s, raw, (size_t)size) < 0) {
        return -1;
    }
    return size >= SHARED_BYTES && remember(s, value) < 0 ? -1 : 0;
}

static int
begin_building(Writer *s, PyObject *owner)
{
    if (s->now) { /* only by way of contents that a hash needed at once can it be met while it is being written */
        for (Py_ssize_t n = 0; n < s->building_count; n++) {
            if (s->building[n] == owner) {
                return raise_made(PyObject_CallFunctionObjArgs(native.leads_back, owner, NULL));
            }
        }
    }
    if (s->building_count == s->building_room) {
        Py_ssize_t room = 4 * s->building_room;
        PyObject **building = s->building == s->few_building ? PyMem_Malloc(room * sizeof(PyObject *))
                                                             : PyMem_Realloc(s->building, room * sizeof(PyObject *));
        if (building == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if (s->building == s->few_building) {
            memcpy(building, s->few_building, sizeof(s->few_building));
        }
        s->building = building;
        s->building_room = room;
    }
    s->building[s->building_count++] = owner;
    return 0;
}

static int
write_elements(Writer *s, PyObject *owner, PyObject *elements)
{
    Py_ssize_t count = PyTuple_Size(elements);
    if (put_number(s, (uint64_t)count) < 0) {
        return -1;
    }
    s->items += count;
    if (enter(s, owner, 1) < 0 || begin_building(s, owner) < 0) {
        return -1;
    }
    if (Py_EnterRecursiveCall(" while writing a message")) {
        return -1;
    }
    int failed = 0;
    for (Py_ssize_t n = 0; !failed && n < count; n++) {
        failed = write_value(s, PyTuple_GetItem(elements, n));
    }
    Py_LeaveRecursiveCall();
    if (failed) {
        return -1;
    }
    s->building_count--;
    if (s->prepared == owner) {
        s->prepared = NULL;
    }
    s->depth--;
    return 0;
}

static int
write_tuple(Writer *s, PyObject *value)
{
    if (PyTuple_Size(value) == 0) {
        return put_byte(s, TAG_EMPTY_TUPLE);
    }
    int known = write_known(s, value);
    if (known == 0 && s->now) {
        known = write_prepared(s, value);
    }
    if (known) {
        return known < 0 ? -1 : 0;
    }
    if (put_byte(s, TAG_TUPLE) < 0 || write_elements(s, value, value) < 0) {
        return -1;
    }
    return remember(s, value) < 0 ? -1 : 0;
}

static int
write_shell(Writer *s, PyObject *value, unsigned char tag, PyObject *contents, Py_ssize_t weight)
{
    int known = write_known(s, value);
    if (known) {
        return known < 0 ? -1 : 0;
    }
    return begin(s, tag) < 0 ? -1 : shell(s, value, contents, weight);
}

static PyObject *
class_name(Writer *s, PyObject *name);

/* 1: the value was written as a handle. */
static int
write_handle(Writer *s, PyObject *value)
{
    PyObject *written = PyObject_CallMethod(s->codec, "_handle", "OO", (PyObject *)s, value);
    int answer = written == NULL ? -1 : PyObject_IsTrue(written);
    Py_XDECREF(written);
    return answer;
}

/* An instance of a listed class. `way`: its name, whether it has a __dict__, its slots, whether it may be a handle. */
static int
write_instance(Writer *s, PyObject *value, PyObject *way)
{
    int done = PyTuple_GetItem(way, 3) == Py_True ? write_handle(s, value) : 0;
    if (done == 0) {
        done = write_known(s, value);
    }
    if (done) {
        return done < 0 ? -1 : 0;
    }
    if (begin(s, TAG_OBJECT) < 0) {
        return -1;
    }
    PyObject *named = class_name(s, PyTuple_GetItem(way, 0));
    Py_XDECREF(named);
    return named == NULL ? -1 : shell(s, value, way, WEIGHT_OBJECT);
}

/* What `encode.plain` says of an encoder of instances, and whether handles must be asked for each: kept by type. NULL without
 * an error: this encoder is another. */
static PyObject *
learn_way(Writer *s, PyObject *type, PyObject *encode)
{
    PyObject *plain = PyObject_GetAttr(encode, text_plain);
    if (plain == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
        }
        return NULL;
    }
    PyObject *name, *has_dict, *slots, *way = NULL;
    PyObject *asked = PyObject_CallMethod(s->codec, "may_refer", "O", type);
    if (asked != NULL
        && PyArg_ParseTuple(plain, "O!O!O!", &PyUnicode_Type, &name, &PyBool_Type, &has_dict, &PyTuple_Type, &slots)) {
        way = PyTuple_Pack(4, name, has_dict, slots, PyObject_IsTrue(asked) == 0 ? Py_False : Py_True);
        if (way != NULL && PyDict_SetItem(s->form->instances, type, way) < 0) {
            Py_CLEAR(way);
        }
    }
    Py_XDECREF(asked);
    Py_DECREF(plain);
    return way;
}

/* By the Python function for this exact type; the dispatch table makes one for a type that it meets first. */
static int
write_other(Writer *s, PyObject *value)
{
    PyObject *type = (PyObject *)Py_TYPE(value);
    PyObject *way = PyDict_GetItemWithError(s->form->instances, type);
    if (way != NULL) {
        Py_INCREF(way);
        int failed = write_instance(s, value, way);
        Py_DECREF(way);
        return failed;
    }
    PyObject *encode = PyErr_Occurred() ? NULL : PyDict_GetItemWithError(s->form->writers, type);
    if (encode != NULL) {
        Py_INCREF(encode);
    }
    else if (PyErr_Occurred() || (encode = PyObject_GetItem(s->form->writers, type)) == NULL) {
        return -1;
    }
    way = learn_way(s, type, encode);
    if (way != NULL || PyErr_Occurred()) {
        Py_DECREF(encode);
        int failed = way == NULL ? -1 : write_instance(s, value, way);
        Py_XDECREF(way);
        return failed;
    }
    PyObject *done = PyObject_CallFunctionObjArgs(encode, (PyObject *)s, value, NULL);
    Py_DECREF(encode);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

static int
write_value(Writer *s, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) {
        return write_str(s, value);
    }
    if (type == &PyLong_Type) {
        return write_int(s, value);
    }
    if (value == Py_None) {
        return put_byte(s, TAG_NONE);
    }
    if (type == &PyTuple_Type) {
        return write_tuple(s, value);
    }
    if (type == &PyFloat_Type) {
        return put_byte(s, TAG_FLOAT) < 0 ? -1 : put_double(s, PyFloat_AsDouble(value));
    }
    if (type == &PyBool_Type) {
        return put_byte(s, value == Py_True ? TAG_TRUE : TAG_FALSE);
    }
    if (type == &PyDict_Type) {
        return write_shell(s, value, TAG_DICT, native.write_dict, WEIGHT_DICT);
    }
    if (type == &PyList_Type) {
        return write_shell(s, value, TAG_LIST, native.write_list, WEIGHT_LIST);
    }
    if (type == &PyBytes_Type) {
        return write_bytes(s, value);
    }
    if (type == &PySet_Type) {
        return write_shell(s, value, TAG_SET, native.write_set, WEIGHT_SET);
    }
    if (type == &PyComplex_Type) {
        return put_byte(s, TAG_COMPLEX) < 0 || put_double(s, PyComplex_RealAsDouble(value)) < 0
                       || put_double(s, PyComplex_ImagAsDouble(value)) < 0
                   ? -1
                   : 0;
    }
    if (value == Py_Ellipsis) {
        return put_byte(s, TAG_ELLIPSIS);
    }
    if (value == Py_NotImplemented) {
        return put_byte(s, TAG_NOT_IMPLEMENTED);
    }
    return write_other(s, value);
}

/* -- contents ---------------------------------------------------------------------------------------------------- */

/* A count and so many values of a list that nobody else changes. */
static int
write_values(Writer *s, PyObject *list)
{
    Py_ssize_t count = PyList_Size(list);
    if (count < 0 || put_number(s, (uint64_t)count) < 0) {
        return -1;
    }
    s->items += count;
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *element = PyList_GetItem(list, n);
        if (element == NULL) {
            return -1;
        }
        Py_INCREF(element);
        int failed = write_value(s, element);
        Py_DECREF(element);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

static int
write_dict_contents(Writer *s, PyObject *thing)
{
    Py_ssize_t count = PyDict_Size(thing), at = 0, met = 0;
    PyObject *key, *value;
    if (count < 0 || put_number(s, (uint64_t)count) < 0) {
        return -1;
    }
    s->items += 2 * count;
    while (met < count && PyDict_Next(thing, &at, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        int failed = write_value(s, key) < 0 || write_value(s, value) < 0;
        Py_DECREF(key);
        Py_DECREF(value);
        if (failed) {
            return -1;
        }
        met++;
        if (PyDict_Size(thing) != count) {
            break;
        }
    }
    if (met != count || PyDict_Size(thing) != count) {
        PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
        return -1;
    }
    return 0;
}

/* 1: these are plain attributes, all names exact text. */
static int
plain_names(PyObject *state)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(state, &at, &name, &value)) {
        if (!PyUnicode_CheckExact(name)) {
            return 0;
        }
    }
    int odd = PyDict_Contains(state, text_orig_class);
    return odd < 0 ? -1 : !odd;
}

/* The names once per class and message, unless they differ from the last instance's. */
static int
write_names(Writer *s, PyObject *type, PyObject *state)
{
    PyObject *keys = PyDict_Keys(state), *names = keys == NULL ? NULL : PyList_AsTuple(keys);
    Py_XDECREF(keys);
    if (names == NULL || (s->attribute_names == NULL && (s->attribute_names = PyDict_New()) == NULL)) {
        Py_XDECREF(names);
        return -1;
    }
    PyObject *last = PyDict_GetItemWithError(s->attribute_names, type);
    int same = last == NULL ? 0 : PyObject_RichCompareBool(last, names, Py_EQ);
    int failed = same < 0 || PyErr_Occurred() != NULL;
    Py_ssize_t count = PyTuple_Size(names);
    if (!failed && same) {
        failed = put_number(s, 0);
    }
    else if (!failed) {
        failed = put_number(s, 1) < 0 || put_number(s, (uint64_t)count) < 0;
        for (Py_ssize_t n = 0; !failed && n < count; n++) {
            failed = put_text(s, PyTuple_GetItem(names, n));
        }
        if (!failed) {
            failed = PyDict_SetItem(s->attribute_names, type, names);
        }
    }
    s->items += 2 * count;
    Py_DECREF(names);
    return failed ? -1 : 0;
}

static int
write_state(Writer *s, PyObject *thing)
{
    PyObject *type = (PyObject *)Py_TYPE(thing), *state = PyObject_GenericGetAttr(thing, text_dict), *name, *value;
    int failed = -1, plain = state == NULL || !PyDict_CheckExact(state) ? 0 : plain_names(state);
    if (state == NULL || plain < 0) {
        Py_XDECREF(state);
        return -1;
    }
    if (!plain) {
        PyObject *done = PyObject_CallFunctionObjArgs(native.write_attributes, (PyObject *)s, type, state, thing, NULL);
        Py_XDECREF(done);
        Py_DECREF(state);
        return done == NULL ? -1 : 0;
    }
    Py_ssize_t count = PyDict_Size(state), at = 0, met = 0;
    if (write_names(s, type, state) == 0) {
        failed = 0;
        while (!failed && met < count && PyDict_Next(state, &at, &name, &value)) {
            Py_INCREF(value);
            failed = write_value(s, value);
            Py_DECREF(value);
            met++;
            if (PyDict_Size(state) != count) {
                break;
            }
        }
        if (!failed && (met != count || PyDict_Size(state) != count)) {
            PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
            failed = -1;
        }
    }
    Py_DECREF(state);
    return failed;
}

static int
write_slots(Writer *s, PyObject *slots, PyObject *thing)
{
    Py_ssize_t count = PyTuple_Size(slots);
    if (put_number(s, (uint64_t)count) < 0) {
        return -1;
    }
    s->items += count;
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *slot = PyTuple_GetItem(slots, n), *descriptor = slot == NULL ? NULL : PyTuple_GetItem(slot, 1);
        descrgetfunc get = descriptor == NULL ? NULL : PyType_GetSlot(Py_TYPE(descriptor), Py_tp_descr_get);
        if (get == NULL) {
            return -1;
        }
        PyObject *value = get(descriptor, thing, (PyObject *)Py_TYPE(thing));
        if (value == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
                return -1;
            }
            PyErr_Clear();
            if (put_byte(s, TAG_UNSET) < 0) {
                return -1;
            }
            continue;
        }
        int failed = write_value(s, value);
        Py_DECREF(value);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

static int
write_contents(Writer *s, PyObject *contents, PyObject *thing)
{
    PyObject *list;
    if (PyTuple_CheckExact(contents)) { /* an instance's way, see write_instance */
        PyObject *slots = PyTuple_GetItem(contents, 2);
        if (PyTuple_GetItem(contents, 1) == Py_True && write_state(s, thing) < 0) {
            return -1;
        }
        return PyTuple_Size(slots) ? write_slots(s, slots, thing) : 0;
    }
    if (contents == native.write_list && PyList_Check(thing)) {
        list = PyList_GetSlice(thing, 0, PY_SSIZE_T_MAX);
    }
    else if (contents == native.write_dict && PyDict_Check(thing)) {
        return write_dict_contents(s, thing);
    }
    else if (contents == native.write_set && Py_TYPE(thing) == &PySet_Type) {
        list = PySequence_List(thing);
    }
    else {
        PyObject *done = PyObject_CallFunctionObjArgs(contents, (PyObject *)s, thing, NULL);
        if (done == NULL) {
            return -1;
        }
        Py_DECREF(done);
        return 0;
    }
    if (list == NULL) {
        return -1;
    }
    int failed = write_values(s, list);
    Py_DECREF(list);
    return failed;
}

/* -- beginning and end ------------------------------------------------------------------------------------------- */

static Writer *
writer_start(Form *form, PyObject *known)
{
    Writer *s = PyObject_New(Writer, writer_type);
    if (s == NULL) {
        return NULL;
    }
    /* all but the arrays, which are used from their beginning only */
    memset((char *)s + offsetof(Writer, form), 0, offsetof(Writer, few) - offsetof(Writer, form));
    memset((char *)s + offsetof(Writer, known), 0, offsetof(Writer, few_ids) - offsetof(Writer, known));
    memset((char *)s + offsetof(Writer, id_count), 0, offsetof(Writer, queue) - offsetof(Writer, id_count));
    memset((char *)s + offsetof(Writer, buffers), 0, sizeof(Writer) - offsetof(Writer, buffers));
    s->out = s->few;
    s->room = sizeof(s->few);
    s->ids = s->few_ids;
    s->id_room = FEW_IDS;
    s->building = s->few_building;
    s->building_room = sizeof(s->few_building) / sizeof(s->few_building[0]);
    queue_start(&s->queue);
    s->form = (Form *)Py_NewRef((PyObject *)form);
    s->codec = Py_NewRef(form->codec);
    if (known != NULL) {
        s->known = Py_NewRef(known);
        s->base = PyList_Size(known);
    }
    s->frontier = s->base - 1;
    return s;
}

/* Let go of everything. Frames of tracebacks may keep the Writer itself, and through it nothing. */
static void
writer_end(Writer *s)
{
    if (s->form == NULL) { /* it has ended before */
        return;
    }
    queue_end(&s->queue);
    if (s->out != s->few) {
        PyMem_Free(s->out);
    }
    s->out = s->few;
    s->length = 0;
    s->room = sizeof(s->few);
    if (s->ids != s->few_ids) {
        PyMem_Free(s->ids);
    }
    s->ids = s->few_ids;
    s->id_count = 0;
    s->id_room = FEW_IDS;
    s->base = 0;
    PyMem_Free(s->places);
    s->places = NULL;
    if (s->building != s->few_building) {
        PyMem_Free(s->building);
    }
    s->building = s->few_building;
    s->building_count = 0;
    s->building_room = sizeof(s->few_building) / sizeof(s->few_building[0]);
    Py_CLEAR(s->form);
    Py_CLEAR(s->codec);
    Py_CLEAR(s->known);
    Py_CLEAR(s->objects);
    Py_CLEAR(s->buffers);
    Py_CLEAR(s->classes);
    Py_CLEAR(s->attribute_names);
    Py_CLEAR(s->filled);
    Py_CLEAR(s->open);
}

static void
writer_dealloc(Writer *s)
{
    PyTypeObject *type = Py_TYPE((PyObject *)s);
    writer_end(s);
    PyObject_Free(s);
    Py_DECREF(type);
}

static PyObject *
written(Writer *s)
{
    return PyBytes_FromStringAndSize((const char *)s->out, (Py_ssize_t)s->length);
}

static PyObject *
written_buffers(Writer *s)
{
    return s->buffers == NULL ? PyTuple_New(0) : PyList_AsTuple(s->buffers);
}

PyObject *
form_write_request(Form *form, PyObject *value)
{
    Writer *s = writer_start(form, NULL);
    PyObject *result = NULL, *memo = NULL, *payload = NULL, *buffers = NULL, *none = NULL;
    if (s == NULL) {
        return NULL;
    }
    if (write_value(s, value) == 0 && drain(s) == 0) {
        if (s->objects == NULL) {
            s->objects = PyList_New(0);
        }
        none = PyList_New(0);
        if (s->objects != NULL && none != NULL) {
            memo = memo_new(value, s->objects, none);
        }
        payload = written(s);
        buffers = written_buffers(s);
        if (memo != NULL && payload != NULL && buffers != NULL) {
            result = PyTuple_Pack(3, payload, buffers, memo);
        }
        Py_XDECREF(memo);
        Py_XDECREF(none);
        Py_XDECREF(payload);
        Py_XDECREF(buffers);
    }
    writer_end(s);
    Py_DECREF((PyObject *)s);
    return result;
}

PyObject *
form_write_reply(Form *form, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !Py_IS_TYPE(args[1], memo_type) || ((Memo *)args[1])->objects == NULL) {
        PyErr_SetString(PyExc_TypeError, "write_reply() takes a value and a Memo");
        return NULL;
    }
    Memo *memo = (Memo *)args[1];
    Writer *s = writer_start(form, memo->objects);
    PyObject *result = NULL, *differing = NULL;
    if (s == NULL) {
        return NULL;
    }
    if (PyList_Size(memo->snapshots) > 0) {
        differing = memo_differing(memo);
        if (differing == NULL) {
            goto end;
        }
    }
    if (differing == NULL || PyList_Size(differing) == 0) {
        if (put_number(s, 0) < 0) {
            goto end;
        }
    }
    else {
        PyObject *done =
            PyObject_CallMethod(form->codec, "write_changes", "OOO", (PyObject *)s, (PyObject *)memo, differing);
        if (done == NULL) {
            goto end;
        }
        Py_DECREF(done);
    }
    if (write_value(s, args[0]) == 0 && drain(s) == 0) {
        PyObject *payload = written(s), *buffers = written_buffers(s);
        if (payload != NULL && buffers != NULL) {
            result = PyTuple_Pack(2, payload, buffers);
        }
        Py_XDECREF(payload);
        Py_XDECREF(buffers);
    }
end:
    Py_XDECREF(differing);
    writer_end(s);
    Py_DECREF((PyObject *)s);
    return result;
}

/* -- what Python functions see ----------------------------------------------------------------------------------- */

/* Whether the message is still being written; a Writer that a traceback kept answers with an error. */
static int
alive(Writer *s)
{
    if (s->form != NULL) {
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
bool_unless(int answer)
{
    return answer < 0 ? NULL : PyBool_FromLong(answer);
}

static PyObject *
s_value(Writer *s, PyObject *value)
{
    return alive(s) ? none_unless(write_value(s, value)) : NULL;
}

static PyObject *
s_values(Writer *s, PyObject *list)
{
    if (!alive(s)) {
        return NULL;
    }
    if (!PyList_CheckExact(list)) {
        PyErr_SetString(PyExc_TypeError, "values() takes a list");
        return NULL;
    }
    return none_unless(write_values(s, list));
}

static PyObject *
s_pairs(Writer *s, PyObject *const *args, Py_ssize_t given)
{
    Py_ssize_t count = given == 2 ? PyLong_AsSsize_t(args[0]) : -1;
    if (!alive(s)) {
        return NULL;
    }
    if (count < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "pairs() takes a count and pairs");
        }
        return NULL;
    }
    PyObject *iterator = PyObject_GetIter(args[1]), *pair = NULL;
    if (iterator == NULL) {
        return NULL;
    }
    int failed = put_number(s, (uint64_t)count);
    s->items += 2 * count;
    while (!failed && (pair = PyIter_Next(iterator)) != NULL) {
        if (PyTuple_CheckExact(pair) && PyTuple_Size(pair) == 2) {
            failed = write_value(s, PyTuple_GetItem(pair, 0)) < 0 || write_value(s, PyTuple_GetItem(pair, 1)) < 0;
        }
        else {
            PyErr_SetString(PyExc_TypeError, "pairs() takes pairs");
            failed = 1;
        }
        Py_DECREF(pair);
    }
    Py_DECREF(iterator);
    return failed || PyErr_Occurred() ? NULL : none_unless(0);
}

static PyObject *
s_elements(Writer *s, PyObject *const *args, Py_ssize_t given)
{
    if (!alive(s)) {
        return NULL;
    }
    if (given != 2 || !PyTuple_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "elements() takes an owner and a tuple");
        return NULL;
    }
    return none_unless(write_elements(s, args[0], args[1]));
}

static PyObject *
s_contents(Writer *s, PyObject *const *args, Py_ssize_t given)
{
    if (!alive(s)) {
        return NULL;
    }
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "contents() takes a function and an object");
        return NULL;
    }
    return none_unless(write_contents(s, args[0], args[1]));
}

static PyObject *
s_drain(Writer *s, PyObject *Py_UNUSED(ignored))
{
    return alive(s) ? none_unless(drain(s)) : NULL;
}

static PyObject *
s_known(Writer *s, PyObject *thing)
{
    return alive(s) ? bool_unless(write_known(s, thing)) : NULL;
}

static PyObject *
s_prepared(Writer *s, PyObject *value)
{
    return alive(s) ? bool_unless(write_prepared(s, value)) : NULL;
}

static PyObject *
s_remember(Writer *s, PyObject *thing)
{
    Py_ssize_t number = alive(s) ? remember(s, thing) : -1;
    return number < 0 ? NULL : PyLong_FromSsize_t(number);
}

static PyObject *
s_number_of(Writer *s, PyObject *thing)
{
    Py_ssize_t number = alive(s) ? number_of(s, thing) : -2;
    if (number == -1) {
        return Py_NewRef(Py_None);
    }
    return number < 0 ? NULL : PyLong_FromSsize_t(number);
}

static PyObject *
s_is_open(Writer *s, PyObject *thing)
{
    return alive(s) ? bool_unless(is_open(s, thing)) : NULL;
}

static PyObject *
s_awaiting(Writer *s, PyObject *argument)
{
    Py_ssize_t number = PyLong_AsSsize_t(argument);
    if (!alive(s) || (number == -1 && PyErr_Occurred())) {
        return NULL;
    }
    if (number > s->frontier) {
        int filled = s->filled == NULL ? 0 : PySet_Contains(s->filled, argument);
        if (filled < 0) {
            return NULL;
        }
        Py_ssize_t at = queue_find(&s->queue, 0, number);
        if (!filled && at < s->queue.length && s->queue.entries[at].number == number) {
            return Py_NewRef(s->queue.entries[at].contents);
        }
    }
    return Py_NewRef(Py_None);
}

static PyObject *
s_begin(Writer *s, PyObject *argument)
{
    long tag = PyLong_AsLong(argument);
    if (!alive(s) || (tag == -1 && PyErr_Occurred())) {
        return NULL;
    }
    return none_unless(begin(s, (unsigned char)tag));
}

static PyObject *
s_shell(Writer *s, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t weight;
    if (!alive(s) || !PyArg_ParseTuple(args, "OOn:shell", &thing, &contents, &weight)) {
        return NULL;
    }
    return none_unless(shell(s, thing, contents, weight));
}

static PyObject *
s_enqueue(Writer *s, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t number;
    if (!alive(s) || !PyArg_ParseTuple(args, "nOO:enqueue", &number, &contents, &thing)) {
        return NULL;
    }
    return none_unless(queue_push(&s->queue, number, contents, thing));
}

static PyObject *
s_at_once(Writer *s, PyObject *args)
{
    PyObject *thing, *contents;
    Py_ssize_t number;
    if (!alive(s) || !PyArg_ParseTuple(args, "OnO:at_once", &thing, &number, &contents)) {
        return NULL;
    }
    return none_unless(at_once(s, thing, number, contents));
}

static PyObject *
s_enter(Writer *s, PyObject *args)
{
    PyObject *thing;
    Py_ssize_t levels = 1;
    if (!alive(s) || !PyArg_ParseTuple(args, "O|n:enter", &thing, &levels)) {
        return NULL;
    }
    return none_unless(enter(s, thing, levels));
}

static PyObject *
s_leave(Writer *s, PyObject *args)
{
    Py_ssize_t levels = 1;
    if (!PyArg_ParseTuple(args, "|n:leave", &levels)) {
        return NULL;
    }
    s->depth -= levels;
    return Py_NewRef(Py_None);
}

static PyObject *
s_byte(Writer *s, PyObject *argument)
{
    long byte = PyLong_AsLong(argument);
    if (byte < 0 || byte > 255) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "byte must be in range(0, 256)");
        }
        return NULL;
    }
    return alive(s) ? none_unless(put_byte(s, (unsigned char)byte)) : NULL;
}

static PyObject *
s_write(Writer *s, PyObject *raw)
{
    char *bytes;
    Py_ssize_t size;
    if (!alive(s) || PyBytes_AsStringAndSize(raw, &bytes, &size) < 0) {
        return NULL;
    }
    return none_unless(put(s, bytes, (size_t)size));
}

static PyObject *
s_buffer(Writer *s, PyObject *raw)
{
    return alive(s) ? none_unless(add_buffer(s, raw)) : NULL;
}

static PyObject *
s_number(Writer *s, PyObject *argument)
{
    unsigned long long n = PyLong_AsUnsignedLongLong(argument);
    if (!alive(s) || (n == (unsigned long long)-1 && PyErr_Occurred())) {
        return NULL;
    }
    return none_unless(put_number(s, n));
}

static PyObject *
s_text(Writer *s, PyObject *text)
{
    if (!alive(s)) {
        return NULL;
    }
    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "text() takes a str");
        return NULL;
    }
    return none_unless(put_text(s, text));
}

static PyObject *
class_name(Writer *s, PyObject *name)
{
    if ((s->classes == NULL && (s->classes = PyDict_New()) == NULL)) {
        return NULL;
    }
    PyObject *number = PyDict_GetItemWithError(s->classes, name);
    if (number != NULL) {
        return s_number(s, number);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t next = PyDict_Size(s->classes);
    number = PyLong_FromSsize_t(next);
    int failed = number == NULL || PyDict_SetItem(s->classes, name, number) < 0 || put_number(s, (uint64_t)next) < 0;
    Py_XDECREF(number);
    return failed ? NULL : s_text(s, name);
}

static PyObject *
s_class_name(Writer *s, PyObject *name)
{
    return alive(s) ? class_name(s, name) : NULL;
}

static PyObject *
all_objects(Writer *s)
{
    PyObject *known = s->known == NULL ? PyList_New(0) : PyList_GetSlice(s->known, 0, s->base);
    if (known != NULL && s->objects != NULL) {
        Py_ssize_t end = PyList_Size(known);
        if (PyList_SetSlice(known, end, end, s->objects) < 0) {
            Py_CLEAR(known);
        }
    }
    return known;
}

static PyObject *
s_trial_of(Writer *s, PyObject *Py_UNUSED(ignored))
{
    PyObject *objects = alive(s) ? all_objects(s) : NULL;
    if (objects == NULL) {
        return NULL;
    }
    Writer *trial = writer_start(s->form, objects);
    Py_DECREF(objects);
    if (trial != NULL) {
        trial->trial = 1;
        trial->items = s->items;
    }
    return (PyObject *)trial;
}

static PyObject *
get_objects(Writer *s, void *Py_UNUSED(closure))
{
    return all_objects(s);
}

static PyObject *
get_attribute_names(Writer *s, void *Py_UNUSED(closure))
{
    if (s->attribute_names == NULL && (s->attribute_names = PyDict_New()) == NULL) {
        return NULL;
    }
    return Py_NewRef(s->attribute_names);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef writer_methods[] = {
    {"value", (PyCFunction)s_value, METH_O, NULL},
    {"values", (PyCFunction)s_values, METH_O, NULL},
    {"pairs", FAST(s_pairs), METH_FASTCALL, NULL},
    {"elements", FAST(s_elements), METH_FASTCALL, NULL},
    {"contents", FAST(s_contents), METH_FASTCALL, NULL},
    {"drain", (PyCFunction)s_drain, METH_NOARGS, NULL},
    {"known", (PyCFunction)s_known, METH_O, NULL},
    {"prepared", (PyCFunction)s_prepared, METH_O, NULL},
    {"remember", (PyCFunction)s_remember, METH_O, NULL},
    {"number_of", (PyCFunction)s_number_of, METH_O, NULL},
    {"is_open", (PyCFunction)s_is_open, METH_O, NULL},
    {"awaiting", (PyCFunction)s_awaiting, METH_O, NULL},
    {"begin", (PyCFunction)s_begin, METH_O, NULL},
    {"shell", (PyCFunction)s_shell, METH_VARARGS, NULL},
    {"enqueue", (PyCFunction)s_enqueue, METH_VARARGS, NULL},
    {"at_once", (PyCFunction)s_at_once, METH_VARARGS, NULL},
    {"enter", (PyCFunction)s_enter, METH_VARARGS, NULL},
    {"leave", (PyCFunction)s_leave, METH_VARARGS, NULL},
    {"byte", (PyCFunction)s_byte, METH_O, NULL},
    {"write", (PyCFunction)s_write, METH_O, NULL},
    {"buffer", (PyCFunction)s_buffer, METH_O, NULL},
    {"number", (PyCFunction)s_number, METH_O, NULL},
    {"text", (PyCFunction)s_text, METH_O, NULL},
    {"class_name", (PyCFunction)s_class_name, METH_O, NULL},
    {"trial_of", (PyCFunction)s_trial_of, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef writer_members[] = {
    {"codec", T_OBJECT_EX, offsetof(Writer, codec), READONLY, NULL},
    {"items", T_PYSSIZET, offsetof(Writer, items), 0, NULL},
    {"now", T_BOOL, offsetof(Writer, now), 0, NULL},
    {"trial", T_BOOL, offsetof(Writer, trial), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef writer_properties[] = {
    {"objects", (getter)get_objects, NULL, NULL, NULL},
    {"attribute_names", (getter)get_attribute_names, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_members, writer_members},
    {Py_tp_getset, writer_properties},
    {Py_tp_doc, (void *)PyDoc_STR("One message being written; `_encoder.Encoder` says what each method does.")},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "shardwright.transport.codec._native.Writer",
    .basicsize = sizeof(Writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = writer_slots,
};

int
writer_ready(PyObject *module)
{
    writer_type = (PyTypeObject *)PyType_FromSpec(&writer_spec);
    return writer_type == NULL ? -1 : PyModule_AddType(module, writer_type);
}
