/* The envelope's usual forms: `_envelope.py` is the reference, and gets whatever is unusual or wrong.
 *
 * pack() and unpack() of this file return NotImplemented for what they leave to it. Nothing has happened then.
 */

#include "_native.h"

enum { HEADER_BYTES = 76, COPIED_BYTES = 4096, KINDS = 32, CODECS = 8 };

static PyObject *envelope_class, *kinds[KINDS], *codecs[CODECS], *empty, *no_buffers;
static unsigned uncoded; /* bits of the kinds whose payload is numbers */

enum {
    F_KIND, F_CALL_ID, F_SESSION, F_METHOD, F_EPOCH, F_DEADLINE, F_TRACE_ID, F_SPAN_ID, F_CHAIN, F_CODEC, F_PAYLOAD,
    F_BUFFERS, FIELDS
};
static const char *const field_names[FIELDS] = {
    "kind", "call_id", "session", "method", "epoch", "deadline_ns", "trace_id", "blocked", "chain", "codec", "payload",
    "buffers",
};
static PyObject *names[FIELDS];

static inline void
store(unsigned char *out, uint64_t value, int size)
{
    for (int n = 0; n < size; n++) {
        out[n] = (unsigned char)(value >> (8 * n));
    }
}

static inline uint64_t
load(const unsigned char *bytes, int size)
{
    uint64_t value = 0;
    for (int n = 0; n < size; n++) {
        value |= (uint64_t)bytes[n] << (8 * n);
    }
    return value;
}

/* Whether the field is an int from 0 to the greatest one of so many bytes; an error is cleared. */
static int
get_field(PyObject *envelope, int field, int size, uint64_t *value)
{
    PyObject *held = PyObject_GetAttr(envelope, names[field]);
    int fits = 0;
    if (held != NULL && PyLong_Check(held)) {
        *value = PyLong_AsUnsignedLongLong(held);
        fits = !(*value == UINT64_MAX && PyErr_Occurred()) && (size == 8 || *value >> (8 * size) == 0);
    }
    Py_XDECREF(held);
    if (!fits) {
        PyErr_Clear();
    }
    return fits;
}

static PyObject *
not_this(void)
{
    PyErr_Clear();
    return Py_NewRef(Py_NotImplemented);
}

static PyObject *
pack(PyObject *Py_UNUSED(module), PyObject *envelope)
{
    static const struct {
        unsigned char field, at, size;
    } numbers[] = {
        {F_KIND, 3, 1},   {F_CODEC, 4, 1},      {F_CALL_ID, 8, 8},  {F_SESSION, 16, 8}, {F_METHOD, 24, 4},
        {F_EPOCH, 28, 4}, {F_DEADLINE, 32, 8}, {F_SPAN_ID, 56, 8}, {F_CHAIN, 64, 8},
    };
    unsigned char header[HEADER_BYTES] = {'S', 'W', 1};
    if (envelope_class == NULL || !Py_IS_TYPE(envelope, (PyTypeObject *)envelope_class)) {
        return not_this();
    }
    for (size_t n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++) {
        uint64_t value;
        if (!get_field(envelope, numbers[n].field, numbers[n].size, &value)) {
            return not_this();
        }
        store(header + numbers[n].at, value, numbers[n].size);
    }
    PyObject *trace = PyObject_GetAttr(envelope, names[F_TRACE_ID]);
    PyObject *payload = PyObject_GetAttr(envelope, names[F_PAYLOAD]);
    PyObject *buffers = PyObject_GetAttr(envelope, names[F_BUFFERS]);
    PyObject *parts = NULL, *head = NULL;
    char *raw;
    Py_ssize_t size;
    if (trace != NULL && payload != NULL && buffers != NULL && PyBytes_CheckExact(trace) && PyBytes_CheckExact(payload)
        && PyTuple_CheckExact(buffers) && PyTuple_Size(buffers) == 0 && PyBytes_AsStringAndSize(trace, &raw, &size) == 0
        && size == 16) {
        memcpy(header + 40, raw, 16);
        size = PyBytes_Size(payload);
        if (size <= (Py_ssize_t)UINT32_MAX) {
            store(header + 72, (uint64_t)size, 4);
            head = PyBytes_FromStringAndSize((const char *)header, HEADER_BYTES);
            parts = head == NULL ? NULL : PyList_New(size ? 2 : 1);
            if (parts == NULL) {
                Py_XDECREF(head);
            }
            else {
                PyList_SetItem(parts, 0, head);
                if (size) {
                    PyList_SetItem(parts, 1, Py_NewRef(payload));
                }
            }
        }
    }
    Py_XDECREF(trace);
    Py_XDECREF(payload);
    Py_XDECREF(buffers);
    return parts == NULL ? not_this() : parts;
}

static PyObject *
rest_of(PyObject *frame, Py_ssize_t size)
{
    PyObject *start = PyLong_FromSsize_t(HEADER_BYTES), *stop = PyLong_FromSsize_t(size), *slice = NULL, *rest = NULL;
    if (start != NULL && stop != NULL) {
        slice = PySlice_New(start, stop, NULL);
    }
    if (slice != NULL) {
        rest = PyObject_GetItem(frame, slice);
    }
    Py_XDECREF(start);
    Py_XDECREF(stop);
    Py_XDECREF(slice);
    return rest;
}

static PyObject *
unpack(PyObject *Py_UNUSED(module), PyObject *frame)
{
    Py_buffer view;
    if (envelope_class == NULL || !(PyMemoryView_Check(frame) || PyBytes_CheckExact(frame))) {
        return not_this();
    }
    if (PyObject_GetBuffer(frame, &view, PyBUF_ND) < 0) { /* not contiguous */
        return not_this();
    }
    unsigned char header[HEADER_BYTES];
    Py_ssize_t size = view.len;
    PyObject *payload = NULL, *fields[FIELDS] = {NULL}, *envelope = NULL;
    if (size < HEADER_BYTES || view.ndim != 1 || view.itemsize != 1) {
        goto leave;
    }
    memcpy(header, view.buf, HEADER_BYTES); /* once: whoever wrote it may still write */
    unsigned kind = header[3], codec = header[4];
    uint64_t payload_bytes = load(header + 72, 4);
    if (header[0] != 'S' || header[1] != 'W' || header[2] != 1 || kind >= KINDS || kinds[kind] == NULL
        || codec >= CODECS || codecs[codec] == NULL || header[5] || header[6] || header[7]
        || payload_bytes != (uint64_t)(size - HEADER_BYTES) || (codec == 0 && payload_bytes && !(uncoded >> kind & 1))
        || (payload_bytes > COPIED_BYTES && !PyMemoryView_Check(frame))) {
        goto leave;
    }
    if (payload_bytes == 0) {
        payload = Py_NewRef(empty);
    }
    else if (payload_bytes <= COPIED_BYTES) {
        payload = PyBytes_FromStringAndSize((const char *)view.buf + HEADER_BYTES, (Py_ssize_t)payload_bytes);
    }
    else {
        payload = rest_of(frame, size);
    }
    PyBuffer_Release(&view);
    fields[F_CALL_ID] = PyLong_FromUnsignedLongLong(load(header + 8, 8));
    fields[F_SESSION] = PyLong_FromUnsignedLongLong(load(header + 16, 8));
    fields[F_METHOD] = PyLong_FromUnsignedLong((unsigned long)load(header + 24, 4));
    fields[F_EPOCH] = PyLong_FromUnsignedLong((unsigned long)load(header + 28, 4));
    fields[F_DEADLINE] = PyLong_FromUnsignedLongLong(load(header + 32, 8));
    fields[F_TRACE_ID] = PyBytes_FromStringAndSize((const char *)header + 40, 16);
    fields[F_SPAN_ID] = PyLong_FromUnsignedLongLong(load(header + 56, 8));
    fields[F_CHAIN] = PyLong_FromUnsignedLongLong(load(header + 64, 8));
    fields[F_PAYLOAD] = payload;
    if (payload != NULL && fields[F_CALL_ID] != NULL && fields[F_SESSION] != NULL && fields[F_METHOD] != NULL
        && fields[F_EPOCH] != NULL && fields[F_DEADLINE] != NULL && fields[F_TRACE_ID] != NULL
        && fields[F_SPAN_ID] != NULL && fields[F_CHAIN] != NULL) {
        envelope = PyObject_CallFunctionObjArgs(envelope_class, kinds[kind], fields[F_CALL_ID], fields[F_SESSION],
                                                fields[F_METHOD], fields[F_EPOCH], fields[F_DEADLINE],
                                                fields[F_TRACE_ID], fields[F_SPAN_ID], fields[F_CHAIN], codecs[codec],
                                                payload, no_buffers, NULL);
    }
    for (int n = 0; n < FIELDS; n++) {
        Py_XDECREF(fields[n]);
    }
    return envelope;
leave:
    PyBuffer_Release(&view);
    return not_this();
}

static int
take_members(PyObject *given, PyObject **members, long most)
{
    Py_ssize_t at = 0;
    PyObject *number, *member;
    while (PyDict_Next(given, &at, &number, &member)) {
        long n = PyLong_AsLong(number);
        if (n < 0 || n >= most) {
            PyErr_SetString(PyExc_ValueError, "more kinds than this extension knows");
            return -1;
        }
        PyObject *before = members[n];
        members[n] = Py_NewRef(member);
        Py_XDECREF(before);
    }
    return 0;
}

static PyObject *
configure_envelope(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *class, *given_kinds, *given_codecs, *given_uncoded;
    if (!PyArg_ParseTuple(args, "O!O!O!O!:configure_envelope", &PyType_Type, &class, &PyDict_Type, &given_kinds,
                          &PyDict_Type, &given_codecs, &PyTuple_Type, &given_uncoded)
        || take_members(given_kinds, kinds, KINDS) < 0 || take_members(given_codecs, codecs, CODECS) < 0) {
        return NULL;
    }
    for (Py_ssize_t n = 0; n < PyTuple_Size(given_uncoded); n++) {
        long kind = PyLong_AsLong(PyTuple_GetItem(given_uncoded, n));
        if (kind < 0 || kind >= KINDS) {
            PyErr_SetString(PyExc_ValueError, "no kind");
            return NULL;
        }
        uncoded |= 1u << kind;
    }
    PyObject *before = envelope_class;
    envelope_class = Py_NewRef(class);
    Py_XDECREF(before);
    return Py_NewRef(Py_None);
}

/* Whether two contiguous buffers hold the same bytes. The GIL is kept: others may change them otherwise. */
static PyObject *
same_bytes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *one, *other;
    Py_buffer first, second;
    if (!PyArg_ParseTuple(args, "OO:same_bytes", &one, &other) || PyObject_GetBuffer(one, &first, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(other, &second, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&first);
        return NULL;
    }
    int same = first.len == second.len && (first.len == 0 || memcmp(first.buf, second.buf, (size_t)first.len) == 0);
    PyBuffer_Release(&first);
    PyBuffer_Release(&second);
    return PyBool_FromLong(same);
}

PyMethodDef envelope_methods[] = {
    {"same_bytes", same_bytes, METH_VARARGS, PyDoc_STR("same_bytes(one, other, /) -> bool")},
    {"pack", pack, METH_O, PyDoc_STR("pack(envelope, /) -> list[bytes] | NotImplemented")},
    {"unpack", unpack, METH_O, PyDoc_STR("unpack(frame, /) -> Envelope | NotImplemented")},
    {"configure_envelope", configure_envelope, METH_VARARGS,
     PyDoc_STR("configure_envelope(envelope_class, kinds, codecs, uncoded, /) -> None")},
    {NULL, NULL, 0, NULL},
};

int
envelope_ready(PyObject *Py_UNUSED(module))
{
    empty = PyBytes_FromStringAndSize("", 0);
    no_buffers = PyTuple_New(0);
    if (empty == NULL || no_buffers == NULL) {
        return -1;
    }
    for (int n = 0; n < FIELDS; n++) {
        names[n] = PyUnicode_InternFromString(field_names[n]);
        if (names[n] == NULL) {
            return -1;
        }
    }
    return 0;
}
