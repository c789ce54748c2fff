/* Calls whose arguments and results are numbers, short texts and the like: written and read in one go.
 *
 * The bytes are those of the tagged codec (docs/protocol.md, "Payloads: TAGGED"), of which this is a part: None, bool, int of 64
 * bits, float, and str and bytes below SHARED_BYTES. None of these has a number in the codec's memo, so there is nothing
 * to remember: whoever needs the memo after all (a result that is not flat, an exception) has the codec read or write the
 * request once more, and gets the same numbers. What is not flat, or not written exactly so, is the codec's: these functions
 * then say no, and leave no exception.
 *
 * TRUST. The bytes that are read are the reader's own copy, and may say anything: every length is checked against what is left,
 * and what does not come out even is left to the codec, which says what is wrong.
 */
#ifndef SHARDWRIGHT_FLAT_H
#define SHARDWRIGHT_FLAT_H

#include "_ring.h"

enum { SW_FLAT_MOST = 1024, SW_FLAT_VALUES = 64 };

/* The size in bytes of what was written, at most SW_FLAT_MOST; -1: not flat. `args`: the tuple of a call without keywords. */
Py_ssize_t sw_flat_request(PyObject *args, unsigned char *out);
Py_ssize_t sw_flat_reply(PyObject *value, unsigned char *out);

/* A new reference; NULL without an exception: not flat. */
PyObject *sw_flat_args(const unsigned char *bytes, Py_ssize_t size);
PyObject *sw_flat_result(const unsigned char *bytes, Py_ssize_t size);

#endif
