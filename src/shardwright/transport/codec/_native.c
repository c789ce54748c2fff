/* The hot parts of the envelope and of the tagged codec: this file holds the module and a codec's Form.
 *
 * The Python files beside it are the reference. This extension writes the same bytes, raises the same errors and has the
 * same bounds; for what it does not know (exceptions, numpy, registered types, odd keys) it calls their functions, which
 * know a message by its methods only. Whatever a peer sends is read through bounds that are checked before every step.
 */

#include "_native.h"

#include <stdarg.h>
#include <stddef.h>

Configuration native;
PyTypeObject *memo_type, *writer_type, *reader_type;
PyObject *text_dict, *text_orig_class, *text_plain;
static PyTypeObject *form_type;

int
raise_made(PyObject *exception)
{
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return -1;
}

int
violation(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    PyObject *text = PyUnicode_FromFormatV(format, rest);
    va_end(rest);
    if (text == NULL) {
        return -1;
    }
    PyObject *error = PyObject_CallFunctionObjArgs(native.violation, text, NULL);
    Py_DECREF(text);
    return raise_made(error);
}

/* -- sets, queues ------------------------------------------------------------------------------------------------ */

int
set_add(PyObject **set, PyObject *key)
{
    if (key == NULL) {
        return -1;
    }
    if (*set == NULL && (*set = PySet_New(NULL)) == NULL) {
        Py_DECREF(key);
        return -1;
    }
    int failed = PySet_Add(*set, key);
    Py_DECREF(key);
    return failed;
}

int
set_discard(PyObject *set, PyObject *key)
{
    if (key == NULL) {
        return -1;
    }
    int failed = set == NULL ? 0 : PySet_Discard(set, key);
    Py_DECREF(key);
    return failed < 0 ? -1 : 0;
}

int
set_contains(PyObject *set, PyObject *key)
{
    if (key == NULL) {
        return -1;
    }
    int found = set == NULL ? 0 : PySet_Contains(set, key);
    Py_DECREF(key);
    return found;
}

void
queue_start(Queue *queue)
{
    queue->entries = queue->few;
    queue->length = 0;
    queue->room = sizeof(queue->few) / sizeof(queue->few[0]);
}

int
queue_push(Queue *queue, Py_ssize_t number, PyObject *contents, PyObject *thing)
{
    if (queue->length == queue->room) {
        Py_ssize_t room = 2 * queue->room;
        Queued *entries;
        if ((size_t)room > PY_SSIZE_T_MAX / sizeof(Queued)) {
            PyErr_NoMemory();
            return -1;
        }
        if (queue->entries == queue->few) {
            entries = PyMem_Malloc(room * sizeof(Queued));
            if (entries != NULL) {
                memcpy(entries, queue->few, sizeof(queue->few));
            }
        }
        else {
            entries = PyMem_Realloc(queue->entries, room * sizeof(Queued));
        }
        if (entries == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        queue->entries = entries;
        queue->room = room;
    }
    Queued *entry = &queue->entries[queue->length++];
    entry->number = number;
    entry->contents = Py_NewRef(contents);
    entry->thing = Py_NewRef(thing);
    return 0;
}

Py_ssize_t
queue_find(const Queue *queue, Py_ssize_t from, Py_ssize_t number)
{
    Py_ssize_t low = from, high = queue->length;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (queue->entries[middle].number < number) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

void
queue_end(Queue *queue)
{
    Py_ssize_t length = queue->length;
    Queued *entries = queue->entries, few[sizeof(queue->few) / sizeof(queue->few[0])];
    if (length == 0 && entries == queue->few) {
        return;
    }
    if (entries == queue->few) {
        memcpy(few, queue->few, sizeof(few));
    }
    int is_few = entries == queue->few;
    queue_start(queue); /* first: what follows may run any code */
    if (is_few) {
        entries = few;
    }
    for (Py_ssize_t n = 0; n < length; n++) {
        Py_DECREF(entries[n].contents);
        Py_DECREF(entries[n].thing);
    }
    if (!is_few) {
        PyMem_Free(entries);
    }
}

/* -- Form -------------------------------------------------------------------------------------------------------- */

static int
read_limit(PyObject *limits, const char *name, Py_ssize_t *limit)
{
    PyObject *value = PyObject_GetAttrString(limits, name);
    if (value == NULL) {
        return -1;
    }
    *limit = PyLong_AsSsize_t(value);
    Py_DECREF(value);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (*limit > PY_SSIZE_T_MAX / 64) {
        *limit = PY_SSIZE_T_MAX / 64; /* sums below cannot overflow */
    }
    return 0;
}

static PyObject *
form_make(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    PyObject *codec;
    if (!native.ready) {
        PyErr_SetString(PyExc_RuntimeError, "configure() was not called");
        return NULL;
    }
    if ((kwargs != NULL && PyDict_Size(kwargs)) || !PyArg_ParseTuple(args, "O:NativeForm", &codec)) {
        return NULL;
    }
    Form *form = PyObject_GC_New(Form, form_type);
    if (form == NULL) {
        return NULL;
    }
    form->codec = Py_NewRef(codec);
    form->limits = PyObject_GetAttrString(codec, "limits");
    form->writers = PyObject_GetAttrString(codec, "_encoders");
    form->instances = PyDict_New();
    form->classes = PyDict_New();
    PyObject_GC_Track(form);
    if (form->limits == NULL || form->writers == NULL || form->instances == NULL || form->classes == NULL
        || read_limit(form->limits, "max_bytes", &form->max_bytes) < 0
        || read_limit(form->limits, "max_depth", &form->max_depth) < 0
        || read_limit(form->limits, "max_items", &form->max_items) < 0) {
        Py_DECREF((PyObject *)form);
        return NULL;
    }
    if (!PyDict_Check(form->writers)) {
        PyErr_SetString(PyExc_TypeError, "a codec's encoders are a dict");
        Py_DECREF((PyObject *)form);
        return NULL;
    }
    return (PyObject *)form;
}

static int
form_traverse(Form *form, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)form));
    Py_VISIT(form->codec);
    Py_VISIT(form->limits);
    Py_VISIT(form->writers);
    Py_VISIT(form->instances);
    Py_VISIT(form->classes);
    return 0;
}

static int
form_clear(Form *form)
{
    Py_CLEAR(form->codec);
    Py_CLEAR(form->limits);
    Py_CLEAR(form->writers);
    Py_CLEAR(form->instances);
    Py_CLEAR(form->classes);
    return 0;
}

static void
form_dealloc(Form *form)
{
    PyTypeObject *type = Py_TYPE((PyObject *)form);
    PyObject_GC_UnTrack(form);
    form_clear(form);
    PyObject_GC_Del(form);
    Py_DECREF(type);
}

static PyMethodDef form_methods[] = {
    {"write_request", (PyCFunction)form_write_request, METH_O, NULL},
    {"read_request", (PyCFunction)(void (*)(void))form_read_request, METH_FASTCALL, NULL},
    {"write_reply", (PyCFunction)(void (*)(void))form_write_reply, METH_FASTCALL, NULL},
    {"read_reply", (PyCFunction)(void (*)(void))form_read_reply, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef form_members[] = {
    {"codec", T_OBJECT_EX, offsetof(Form, codec), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot form_slots[] = {
    {Py_tp_new, form_make},
    {Py_tp_traverse, form_traverse},
    {Py_tp_clear, form_clear},
    {Py_tp_dealloc, form_dealloc},
    {Py_tp_methods, form_methods},
    {Py_tp_members, form_members},
    {Py_tp_doc, (void *)PyDoc_STR("What PythonForm does, in C.")},
    {0, NULL},
};

static PyType_Spec form_spec = {
    .name = "shardwright.transport.codec._native.NativeForm",
    .basicsize = sizeof(Form),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = form_slots,
};

/* -- the module -------------------------------------------------------------------------------------------------- */

static PyObject *
configure(PyObject *Py_UNUSED(module), PyObject *given)
{
    if (!PyDict_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "configure() takes a dict");
        return NULL;
    }
    PyObject *value, *before;
#define X(name)                                                                                                        \
    value = PyDict_GetItemString(given, #name);                                                                        \
    if (value == NULL) {                                                                                               \
        PyErr_Format(PyExc_KeyError, "%s", #name);                                                                     \
        return NULL;                                                                                                   \
    }                                                                                                                  \
    before = native.name;                                                                                              \
    native.name = Py_NewRef(value);                                                                                    \
    Py_XDECREF(before);
    CONFIGURED(X)
#undef X
    if (!PyList_CheckExact(native.dispatch) || PyList_Size(native.dispatch) != 256) {
        PyErr_SetString(PyExc_TypeError, "dispatch is a list of 256 functions");
        return NULL;
    }
    native.ready = 1;
    return Py_NewRef(Py_None);
}

static PyMethodDef module_methods[] = {
    {"configure", configure, METH_O,
     PyDoc_STR("configure(functions, /) -> None\n\nHand over the Python functions that the extension calls.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = PyDoc_STR("Hot parts of the envelope and of the tagged codec."),
    .m_size = -1, /* state of the process: not for a second interpreter */
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    PyObject *module = PyModule_Create(&native_module);
    if (module == NULL) {
        return NULL;
    }
    text_dict = PyUnicode_InternFromString("__dict__");
    text_orig_class = PyUnicode_InternFromString("__orig_class__");
    text_plain = PyUnicode_InternFromString("plain");
    if (text_dict == NULL || text_orig_class == NULL || text_plain == NULL) {
        Py_DECREF(module);
        return NULL;
    }
    form_type = (PyTypeObject *)PyType_FromSpec(&form_spec);
    if (form_type == NULL || PyModule_AddType(module, form_type) < 0 || memo_ready(module) < 0
        || writer_ready(module) < 0 || reader_ready(module) < 0 || envelope_ready(module) < 0
        || PyModule_AddFunctions(module, envelope_methods) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
