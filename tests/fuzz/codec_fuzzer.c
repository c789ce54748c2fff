/* libFuzzer's way into the codec's extension: an interpreter is embedded, and each input goes to `fuzz_codec.one_input`.
 * `scripts/fuzz` builds and runs it. */

#include <Python.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static PyObject *one_input;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    Py_InitializeEx(0);
    PyObject *module = PyImport_ImportModule("fuzz_codec");
    one_input = module == NULL ? NULL : PyObject_GetAttrString(module, "one_input");
    if (one_input == NULL) {
        PyErr_Print();
        exit(2);
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *raw = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    PyObject *done = raw == NULL ? NULL : PyObject_CallFunctionObjArgs(one_input, raw, NULL);
    if (done == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(done);
    Py_DECREF(raw);
    return 0;
}
