/* What the files of the extension that know Python share: Doorbell, Waiter and Ring as C sees them. */
#ifndef SHARDWRIGHT_RING_H
#define SHARDWRIGHT_RING_H

#if !defined(Py_LIMITED_API) && !defined(SHARDWRIGHT_FULL_ABI)
#define Py_LIMITED_API 0x030B0000
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN

#include <Python.h>

#ifndef __linux__
#error "shared-memory channels need Linux (futex, memfd_create and file seals)"
#endif

#include "_bell.h"
#include "_end.h"

#define BYTES_UP_TO 4096

struct Line;

typedef struct {
    PyTypeObject *doorbell, *waiter, *ring, *desk, *line, *outlet, *server, *baton, *patience, *door;
    PyObject *channel_closed, *protocol_violation;
} module_state;

typedef struct {
    PyObject_HEAD
    struct sw_bell bell;
    unsigned generation; /* of the process that made it */
} Doorbell;

typedef struct {
    PyObject_HEAD
    Doorbell *doorbell;
    int32_t slot; /* -1: none yet */
} Waiter;

typedef struct {
    PyObject_HEAD
    struct sw_end end;
    Doorbell *doorbell;
    PyObject *tag;
    PyObject *message; /* the one in progress */
    unsigned generation;
    bool open;   /* its memory is mapped */
    bool closed; /* `close` was called: the last one inside unmaps */
    bool taking;
    bool told; /* Doorbell.take has told of its end */
    int inside;
    struct Line *line; /* its calls, if they go by _calls.c; borrowed: it undoes this when it goes */
} Ring;

#define SW_MOST_UNTAKEN 65536 /* a lane that seems to hold more messages was written by somebody else */
#define SW_UNTAKEN 16 /* so many bytes of a message that was never taken are told: they say which call it is */

/* _ring.c */

/* One channel's next message: a new reference in `*message`, or the error that its end is, told once; NULL: nothing is there,
 * or (less than 0) an exception is set and nothing was taken. More than 0: there may be more. */
int sw_ring_take(Ring *self, PyObject **message);
Ring *sw_ring_of(struct sw_bell *bell, uint32_t index);
bool sw_ring_enter(Ring *self); /* whether its memory may be touched; raises ChannelClosed where not */
void sw_ring_leave(Ring *self);

/* _calls.c */
int sw_calls_ready(PyObject *module, module_state *state);
void sw_line_forgets(struct Line *line); /* its ring goes */
void sw_line_announce(struct Line *line);
bool sw_line_is_open(const struct Line *line);

/* _door.c */
int sw_door_ready(PyObject *module, module_state *state);

#endif
