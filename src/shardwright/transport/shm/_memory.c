/* Sealed anonymous memory for shared-memory channels.
 *
 * A channel lives in a memfd that is passed by SCM_RIGHTS: it has no name, and nothing is left to clean up. The
 * seals keep a hostile peer from shrinking the file under a mapping (which would turn every later read into
 * SIGBUS) and from growing it or removing the seals. They do not stop hole punching, which a sandbox denies by
 * seccomp and which only zeroes: the reader takes that for what it is, words that lie.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */
#endif
#include "_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int
sw_memfd(const char *name, int64_t size)
{
    /* MFD_NOEXEC_SEAL is known since Linux 6.3; older kernels answer EINVAL to any flag that they do not know. */
    const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create(name, flags);
    }
    if (fd < 0) {
        return -1;
    }
    int failed;
    do {
        failed = ftruncate(fd, (off_t)size);
    } while (failed && errno == EINTR);
    if (failed || fcntl(fd, F_ADD_SEALS, SW_REQUIRED_SEALS) < 0) {
        const int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

enum sw_memory
sw_check_memfd(int fd, int64_t expected, int *seals, int64_t *size)
{
    *seals = 0;
    *size = 0;
    const int status = fcntl(fd, F_GETFL);
    if (status < 0) {
        return SW_MEMORY_ERRNO;
    }
    if ((status & O_ACCMODE) != O_RDWR) {
        return SW_MEMORY_READ_ONLY;
    }
    *seals = fcntl(fd, F_GET_SEALS);
    if (*seals < 0) {
        return errno == EINVAL ? SW_MEMORY_NO_SEALS : SW_MEMORY_ERRNO;
    }
    if ((*seals & SW_REQUIRED_SEALS) != SW_REQUIRED_SEALS) {
        return SW_MEMORY_UNSEALED;
    }
    if (*seals & SW_FORBIDDEN_SEALS) {
        return SW_MEMORY_SEALED_AGAINST_WRITING;
    }
    /* Read the size only after the seals: from here on it cannot change. */
    struct stat found;
    if (fstat(fd, &found) < 0) {
        return SW_MEMORY_ERRNO;
    }
    if (!S_ISREG(found.st_mode)) {
        return SW_MEMORY_NO_FILE;
    }
    *size = (int64_t)found.st_size;
    return *size != expected ? SW_MEMORY_OTHER_SIZE : SW_MEMORY_GOOD;
}
