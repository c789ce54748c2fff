/* What the files of the extension share. Built against the stable ABI of Python 3.11. */

#ifndef SHARDWRIGHT_NATIVE_H
#define SHARDWRIGHT_NATIVE_H

#if !defined(Py_LIMITED_API) && !defined(SHARDWRIGHT_FULL_ABI)
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN

#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>

#include "_tags.h"

enum {
    LARGE_BYTES = 32 * 1024,
    NOW_LEVELS = 3,
    NUMBER_1_BYTE = 248,
    WEIGHT_LIST = 1,
    WEIGHT_DICT = 2,
    WEIGHT_SET = 4,
    WEIGHT_OBJECT = 4,
    FEW_KEYS = 256, /* `_keys.py`: fewer plain keys than these cost nothing */
};

/* The Python functions that this extension calls, or knows by identity: `_forms.py` hands them over. One table for the
 * process: the module refuses to be loaded into a second interpreter. */
#define CONFIGURED(X)                                                                                                  \
    X(violation)                                                                                                       \
    X(too_large)                                                                                                       \
    X(too_deep)                                                                                                        \
    X(leads_back)                                                                                                      \
    X(complete)                                                                                                        \
    X(big_int_bytes)                                                                                                   \
    X(big_int)                                                                                                         \
    X(set_update)                                                                                                      \
    X(fill_hashed)                                                                                                     \
    X(settle)                                                                                                          \
    X(key_cost)                                                                                                        \
    X(dispatch)                                                                                                        \
    X(write_list)                                                                                                      \
    X(write_dict)                                                                                                      \
    X(write_set)                                                                                                       \
    X(read_list)                                                                                                       \
    X(read_dict)                                                                                                       \
    X(read_set)                                                                                                        \
    X(fill_list)                                                                                                       \
    X(fill_dict)                                                                                                       \
    X(fill_set)                                                                                                        \
    X(same_list)                                                                                                       \
    X(same_dict)                                                                                                       \
    X(same_set)                                                                                                        \
    X(fill_attributes)                                                                                                 \
    X(same_attributes)                                                                                                 \
    X(plain_of)                                                                                                        \
    X(object_of)                                                                                                       \
    X(read_attributes)                                                                                                 \
    X(read_slots)                                                                                                      \
    X(write_attributes)

typedef struct {
#define X(name) PyObject *name;
    CONFIGURED(X)
#undef X
    int ready;
} Configuration;

extern Configuration native;

typedef struct {
    PyObject_HEAD
    PyObject *root;
    PyObject *objects;   /* list */
    PyObject *snapshots; /* list of (object, what it held, whether it still does) */
} Memo;

/* One codec's limits and ways. */
typedef struct {
    PyObject_HEAD
    PyObject *codec;
    PyObject *limits;
    PyObject *writers;   /* dict: encoders by exact type */
    PyObject *instances; /* dict: name, whether there is a __dict__, slots, whether handles must be asked; by exact type */
    PyObject *classes;   /* dict: class, whether its instances have a __dict__, slots; by wire name */
    Py_ssize_t max_bytes, max_depth, max_items;
} Form;

/* An object whose contents are still to come. */
typedef struct {
    Py_ssize_t number;
    PyObject *contents;
    PyObject *thing;
} Queued;

typedef struct {
    Queued *entries, few[8];
    Py_ssize_t length, room;
} Queue;

extern PyTypeObject *memo_type, *writer_type, *reader_type;

PyObject *memo_new(PyObject *root, PyObject *objects, PyObject *snapshots);
PyObject *memo_differing(Memo *memo);

void queue_start(Queue *queue);
int queue_push(Queue *queue, Py_ssize_t number, PyObject *contents, PyObject *thing);
Py_ssize_t queue_find(const Queue *queue, Py_ssize_t from, Py_ssize_t number); /* as bisect_left */
void queue_end(Queue *queue);

PyObject *form_write_request(Form *form, PyObject *value);
PyObject *form_write_reply(Form *form, PyObject *const *args, Py_ssize_t count);
PyObject *form_read_request(Form *form, PyObject *const *args, Py_ssize_t count);
PyObject *form_read_reply(Form *form, PyObject *const *args, Py_ssize_t count);

extern PyObject *text_dict, *text_orig_class, *text_plain; /* interned */

int raise_made(PyObject *exception); /* takes the reference (NULL: an error is set); always -1 */
int violation(const char *format, ...);

/* Sets of addresses and of numbers: Python's own, made when first needed. */
int set_add(PyObject **set, PyObject *key);     /* takes the key's reference */
int set_discard(PyObject *set, PyObject *key);  /* takes the key's reference */
int set_contains(PyObject *set, PyObject *key); /* takes the key's reference */

int memo_ready(PyObject *module);
int writer_ready(PyObject *module);
int reader_ready(PyObject *module);
int envelope_ready(PyObject *module);
extern PyMethodDef envelope_methods[];

#endif
