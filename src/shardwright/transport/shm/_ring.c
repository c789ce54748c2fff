/* Sealed anonymous memory for shared-memory channels.
 *
 * A channel lives in a memfd that is passed by SCM_RIGHTS: it has no name, and nothing is left to clean up. The
 * seals keep a hostile peer from shrinking the file under a mapping (which would turn every later read into
 * SIGBUS) and from growing it or removing the seals. They do not stop hole punching, which a sandbox denies by
 * seccomp.
 *
 * Built against the stable ABI of Python 3.11: one wheel serves every later version.
 */

#if !defined(Py_LIMITED_API) && !defined(SHARDWRIGHT_FULL_ABI)
#define Py_LIMITED_API 0x030B0000
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */
#endif
#define PY_SSIZE_T_CLEAN

#include <Python.h>

#ifndef __linux__
#error "shared-memory channels need Linux (memfd_create and file seals)"
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Newer than the C library of the oldest system that we build on. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#define REQUIRED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FORBIDDEN_SEALS (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

static PyObject *
set_errno(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* MFD_NOEXEC_SEAL is known since Linux 6.3; older kernels answer EINVAL to any flag that they do not know. */
static int
open_memfd(const char *name)
{
    const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create(name, flags);
    }
    return fd;
}

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
    int fd = open_memfd(name);
    if (fd < 0) {
        return set_errno();
    }
    int failed;
    do {
        failed = ftruncate(fd, (off_t)size);
    } while (failed && errno == EINTR);
    if (failed || fcntl(fd, F_ADD_SEALS, REQUIRED_SEALS) < 0) {
        set_errno(); /* before close() can overwrite errno */
        close(fd);
        return NULL;
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

/* The descriptor came from a peer that may lie: nothing about it is assumed. */
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
    int status = fcntl(fd, F_GETFL);
    if (status < 0) {
        return set_errno();
    }
    if ((status & O_ACCMODE) != O_RDWR) {
        PyErr_SetString(PyExc_ValueError, "the descriptor is not open for reading and writing");
        return NULL;
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        if (errno != EINVAL) {
            return set_errno();
        }
        PyErr_SetString(PyExc_ValueError, "the descriptor is not of a kind that carries seals");
        return NULL;
    }
    if ((seals & REQUIRED_SEALS) != REQUIRED_SEALS) {
        PyErr_Format(PyExc_ValueError, "seals 0x%x lack 0x%x", seals, REQUIRED_SEALS & ~seals);
        return NULL;
    }
    if (seals & FORBIDDEN_SEALS) {
        PyErr_Format(PyExc_ValueError, "seals 0x%x forbid writing", seals);
        return NULL;
    }
    /* Read the size only after the seals: from here on it cannot change. */
    struct stat found;
    if (fstat(fd, &found) < 0) {
        return set_errno();
    }
    if (!S_ISREG(found.st_mode)) {
        PyErr_SetString(PyExc_ValueError, "the descriptor is not of a memory file");
        return NULL;
    }
    if ((intmax_t)found.st_size != (intmax_t)size) {
        PyErr_Format(PyExc_ValueError, "the memory holds %lld bytes, not %zd", (long long)found.st_size, size);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef ring_methods[] = {
    {"create_memfd", ring_create_memfd, METH_VARARGS,
     PyDoc_STR("create_memfd(name, size, /) -> int\n\nA close-on-exec memfd of size zero bytes, sealed at that size.")},
    {"seals", ring_seals, METH_O, PyDoc_STR("seals(fd, /) -> int\n\nThe seals of a descriptor, as F_SEAL_* bits.")},
    {"check_memfd", ring_check_memfd, METH_VARARGS,
     PyDoc_STR("check_memfd(fd, size, /) -> None\n\nRaise ValueError unless fd is a writable memory of exactly size "
               "bytes, sealed against shrinking, growing and further seals.")},
    {NULL, NULL, 0, NULL},
};

static int
ring_exec(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "SEAL_SEAL", F_SEAL_SEAL) < 0
        || PyModule_AddIntConstant(module, "SEAL_SHRINK", F_SEAL_SHRINK) < 0
        || PyModule_AddIntConstant(module, "SEAL_GROW", F_SEAL_GROW) < 0
        || PyModule_AddIntConstant(module, "SEAL_WRITE", F_SEAL_WRITE) < 0
        || PyModule_AddIntConstant(module, "SEAL_FUTURE_WRITE", F_SEAL_FUTURE_WRITE) < 0
        || PyModule_AddIntConstant(module, "SEAL_EXEC", F_SEAL_EXEC) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot ring_slots[] = {
    {Py_mod_exec, ring_exec},
    {0, NULL},
};

static struct PyModuleDef ring_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ring",
    .m_doc = PyDoc_STR("Sealed anonymous memory for shared-memory channels."),
    .m_size = 0,
    .m_methods = ring_methods,
    .m_slots = ring_slots,
};

PyMODINIT_FUNC
PyInit__ring(void)
{
    return PyModuleDef_Init(&ring_module);
}
