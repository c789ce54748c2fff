/* See _flat.h. */
#include "_flat.h"

#include <endian.h>
#include <string.h>

#include "../codec/_tags.h"

enum { OF_REQUEST = 3 }; /* a request is the tuple (None, args, None) */

struct out {
    unsigned char *at, *end;
};

struct in {
    const unsigned char *at, *end;
};

static bool
put_text(struct out *out, unsigned char tag, const char *text, Py_ssize_t size)
{
    if (size >= SHARED_BYTES || out->end - out->at < size + 2) {
        return false;
    }
    out->at[0] = tag;
    out->at[1] = (unsigned char)size;
    memcpy(out->at + 2, text, (size_t)size);
    out->at += 2 + size;
    return true;
}

static bool
put_int(struct out *out, PyObject *value)
{
    int overflow;
    const long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0 || out->end - out->at < 9) {
        return false;
    }
    const uint64_t bits = htole64((uint64_t)n);
    if (-128 <= n && n < 128) {
        out->at[0] = TAG_INT_1;
        out->at[1] = (unsigned char)n;
        out->at += 2;
    } else if (INT32_MIN <= n && n <= INT32_MAX) {
        out->at[0] = TAG_INT_4;
        memcpy(out->at + 1, &bits, 4);
        out->at += 5;
    } else {
        out->at[0] = TAG_INT_8;
        memcpy(out->at + 1, &bits, 8);
        out->at += 9;
    }
    return true;
}

static bool
put_float(struct out *out, PyObject *value)
{
    const double number = PyFloat_AsDouble(value);
    uint64_t bits;
    if (out->end - out->at < 9) {
        return false;
    }
    memcpy(&bits, &number, 8);
    bits = htole64(bits);
    out->at[0] = TAG_FLOAT;
    memcpy(out->at + 1, &bits, 8);
    out->at += 9;
    return true;
}

static bool
put_byte(struct out *out, unsigned char byte)
{
    if (out->at == out->end) {
        return false;
    }
    *out->at++ = byte;
    return true;
}

static bool
put(struct out *out, PyObject *value)
{
    if (value == Py_None) {
        return put_byte(out, TAG_NONE);
    }
    if (value == Py_True || value == Py_False) {
        return put_byte(out, value == Py_True ? TAG_TRUE : TAG_FALSE);
    }
    if (PyLong_CheckExact(value)) {
        return put_int(out, value);
    }
    if (PyUnicode_CheckExact(value)) {
        Py_ssize_t size;
        const char *text = PyUnicode_GetLength(value) < SHARED_BYTES ? PyUnicode_AsUTF8AndSize(value, &size) : NULL;
        if (text == NULL) { /* lone surrogates have a tag of their own */
            PyErr_Clear();
            return false;
        }
        return put_text(out, TAG_STR, text, size);
    }
    if (PyBytes_CheckExact(value)) {
        return put_text(out, TAG_BYTES, PyBytes_AsString(value), PyBytes_Size(value));
    }
    return PyFloat_CheckExact(value) && put_float(out, value);
}

Py_ssize_t
sw_flat_request(PyObject *args, unsigned char *bytes)
{
    struct out out = {bytes, bytes + SW_FLAT_MOST};
    if (!PyTuple_CheckExact(args)) {
        return -1;
    }
    const Py_ssize_t count = PyTuple_Size(args);
    if (count > SW_FLAT_VALUES) {
        return -1;
    }
    put_byte(&out, TAG_TUPLE);
    put_byte(&out, OF_REQUEST);
    put_byte(&out, TAG_NONE);
    if (count == 0) {
        put_byte(&out, TAG_EMPTY_TUPLE);
    } else {
        put_byte(&out, TAG_TUPLE);
        put_byte(&out, (unsigned char)count);
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        if (!put(&out, PyTuple_GetItem(args, n))) {
            return -1;
        }
    }
    return put_byte(&out, TAG_NONE) ? out.at - bytes : -1;
}

Py_ssize_t
sw_flat_reply(PyObject *value, unsigned char *bytes)
{
    struct out out = {bytes, bytes + SW_FLAT_MOST};
    return put_byte(&out, 0) && put(&out, value) ? out.at - bytes : -1; /* 0: nothing of the request changed */
}

/* So many bytes from here on; NULL: there are not. */
static const unsigned char *
get(struct in *in, Py_ssize_t size)
{
    const unsigned char *here = in->at;
    if (in->end - here < size) {
        return NULL;
    }
    in->at += size;
    return here;
}

static bool
get_byte(struct in *in, unsigned char expected)
{
    return in->at < in->end && *in->at++ == expected;
}

static PyObject *
get_text(struct in *in, bool is_str)
{
    const unsigned char *size = get(in, 1);
    const unsigned char *text = size == NULL || *size >= SHARED_BYTES ? NULL : get(in, *size);
    if (text == NULL) {
        return NULL;
    }
    return is_str ? PyUnicode_DecodeUTF8((const char *)text, *size, NULL) : PyBytes_FromStringAndSize((const char *)text, *size);
}

static PyObject *
get_eight(struct in *in, bool is_float)
{
    const unsigned char *raw = get(in, 8);
    uint64_t bits;
    double number;
    if (raw == NULL) {
        return NULL;
    }
    memcpy(&bits, raw, 8);
    bits = le64toh(bits);
    memcpy(&number, &bits, 8);
    return is_float ? PyFloat_FromDouble(number) : PyLong_FromLongLong((long long)bits);
}

static PyObject *
get_four(struct in *in)
{
    const unsigned char *raw = get(in, 4);
    uint32_t bits;
    if (raw == NULL) {
        return NULL;
    }
    memcpy(&bits, raw, 4);
    return PyLong_FromLong((int32_t)le32toh(bits));
}

/* NULL, perhaps with an exception: not flat, or no memory. */
static PyObject *
get_value(struct in *in)
{
    const unsigned char *tag = get(in, 1), *raw;
    switch (tag == NULL ? 0xFF : *tag) {
    case TAG_NONE:
        return Py_NewRef(Py_None);
    case TAG_TRUE:
        return Py_NewRef(Py_True);
    case TAG_FALSE:
        return Py_NewRef(Py_False);
    case TAG_INT_1:
        raw = get(in, 1);
        return raw == NULL ? NULL : PyLong_FromLong((int8_t)*raw);
    case TAG_INT_4:
        return get_four(in);
    case TAG_INT_8:
        return get_eight(in, false);
    case TAG_FLOAT:
        return get_eight(in, true);
    case TAG_STR:
        return get_text(in, true);
    case TAG_BYTES:
        return get_text(in, false);
    default:
        return NULL;
    }
}

PyObject *
sw_flat_args(const unsigned char *bytes, Py_ssize_t size)
{
    struct in in = {bytes, bytes + size};
    const unsigned char *tag, *count;
    if (!get_byte(&in, TAG_TUPLE) || !get_byte(&in, OF_REQUEST) || !get_byte(&in, TAG_NONE) || (tag = get(&in, 1)) == NULL) {
        return NULL;
    }
    Py_ssize_t values = 0;
    if (*tag != TAG_EMPTY_TUPLE) {
        count = *tag == TAG_TUPLE ? get(&in, 1) : NULL;
        if (count == NULL || *count == 0 || *count > SW_FLAT_VALUES) {
            return NULL;
        }
        values = *count;
    }
    PyObject *args = PyTuple_New(values);
    for (Py_ssize_t n = 0; args != NULL && n < values; n++) {
        PyObject *value = get_value(&in);
        if (value == NULL || PyTuple_SetItem(args, n, value) < 0) {
            Py_CLEAR(args);
        }
    }
    if (args != NULL && (!get_byte(&in, TAG_NONE) || in.at != in.end)) {
        Py_CLEAR(args);
    }
    PyErr_Clear();
    return args;
}

PyObject *
sw_flat_result(const unsigned char *bytes, Py_ssize_t size)
{
    struct in in = {bytes, bytes + size};
    PyObject *value = get_byte(&in, 0) ? get_value(&in) : NULL;
    if (value != NULL && in.at != in.end) {
        Py_CLEAR(value);
    }
    PyErr_Clear();
    return value;
}
