/* Numbers of the protocol, for the codec and for calls that are written without it (shm/_flat.c). */

#ifndef SHARDWRIGHT_TAGS_H
#define SHARDWRIGHT_TAGS_H

/* `_wire.py` names them all. */
enum {
    TAG_NONE = 0x00,
    TAG_TRUE = 0x01,
    TAG_FALSE = 0x02,
    TAG_ELLIPSIS = 0x03,
    TAG_NOT_IMPLEMENTED = 0x04,
    TAG_INT_1 = 0x05,
    TAG_INT_4 = 0x06,
    TAG_INT_8 = 0x07,
    TAG_INT_ANY = 0x08,
    TAG_FLOAT = 0x09,
    TAG_COMPLEX = 0x0A,
    TAG_STR = 0x0B,
    TAG_STR_SURROGATES = 0x0C,
    TAG_BYTES = 0x0D,
    TAG_BYTES_BUFFER = 0x0E,
    TAG_EMPTY_TUPLE = 0x10,
    TAG_TUPLE = 0x11,
    TAG_REFERENCE = 0x18,
    TAG_NOW = 0x19,
    TAG_FILL = 0x1A,
    TAG_LIST = 0x20,
    TAG_DICT = 0x21,
    TAG_SET = 0x22,
    TAG_COUNTER = 0x27,
    TAG_ARRAY = 0x28,
    TAG_OBJECT = 0x30,
    TAG_NUMPY_ARRAY = 0x50,
    TAG_EXCEPTION = 0x60,
    TAG_UNSET = 0xFF,
};

enum { SHARED_BYTES = 128 }; /* texts of so many have a number in the memo */

#endif
