/* Sealed anonymous memory. */
#ifndef SHARDWRIGHT_MEMORY_H
#define SHARDWRIGHT_MEMORY_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/types.h>

/* Newer than the C library of the oldest system that we build on. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#define SW_REQUIRED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SW_FORBIDDEN_SEALS (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

enum sw_memory {
    SW_MEMORY_GOOD,
    SW_MEMORY_ERRNO,
    SW_MEMORY_READ_ONLY,
    SW_MEMORY_NO_SEALS,
    SW_MEMORY_UNSEALED,
    SW_MEMORY_SEALED_AGAINST_WRITING,
    SW_MEMORY_NO_FILE,
    SW_MEMORY_OTHER_SIZE,
};

/* A close-on-exec memfd of `size` zero bytes that nobody can shrink, grow or seal further; -1 with errno. */
int sw_memfd(const char *name, int64_t size);

/* What a peer passed may be anything: nothing about it is assumed. After SW_MEMORY_GOOD its size cannot change. `seals` and
 * `size` say what was found. */
enum sw_memory sw_check_memfd(int fd, int64_t expected, int *seals, int64_t *size);

#endif
