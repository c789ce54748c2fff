/* A template's memory as the contents of a sealed file, so that a page of a fork that equals it again can be given back.
 *
 * A fork shares its template's pages until it writes to them, and a page that was written to stays its own, whatever stands
 * on it. A private mapping of a file forgets: after madvise(MADV_DONTNEED) a page shows what the file has. So the template
 * puts an image of its memory into a memfd that is sealed against every change, and maps it, privately, over that memory
 * (`image`). What the image has and what the template has there may differ: then the template keeps a page of its own. A
 * shard at rest compares its own pages with the image and drops those that are equal (`trim`).
 *
 * Dropping must not lose a write. Between the comparison of a page and its drop nobody may write to it, so trim stops
 * the world: every other thread of the process is sent a signal, and waits in its handler until all is done. A thread that is
 * there is in no system call, so the kernel writes for none of them either; it holds no lock that trim needs, for trim takes none,
 * allocates nothing and calls system calls alone; it cannot begin a thread or a process, so once all that are listed wait, all
 * there are do. A thread that does not come in time (it blocks the signal; it is between vfork and exec, and a process shares
 * our memory) ends the attempt: nothing was dropped then. Memory to which somebody else writes (io_uring, the kernel's
 * asynchronous I/O, pinned pages, devices) is looked for, and where there is any nothing is dropped. What is not in the image is
 * never touched: stacks, what the C library mapped for large blocks, libraries' own data, and with that what the kernel writes
 * at its own time (rseq, robust lists, thread ids lie beside stacks).
 *
 * The caller chooses what may be in it: memory whose owner never relies on MADV_DONTNEED for zeros, and does not move or
 * grow it by mremap.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define MOST_RANGES 512
#define MOST_THREADS 256
#define PRESENT ((uint64_t)1 << 63)
#define OF_FILE ((uint64_t)1 << 61)
#define EXCLUSIVE ((uint64_t)1 << 56)
#define PATIENCE_NS 20000000L
#define ENTRIES 512

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

struct range {
    uintptr_t begin, end;
};

/* Of this process; forks inherit it. The extension's own data is never in the image. */
static struct {
    unsigned char *original; /* the whole image, read-only */
    size_t size;
    dev_t device;
    ino_t inode;
} the_image;

/* Even: nobody is to wait. Odd: whoever gets the signal waits until it changes. */
static _Atomic uint32_t stopping;
/* What `stopping` was when the attempt began (upper half), and how many wait for it to change. A late one counts for none. */
static _Atomic uint64_t waiting;

static long
futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

static void
wait_here(int Py_UNUSED(number))
{
    const int kept = errno;
    const uint32_t now = atomic_load(&stopping);
    uint64_t before = atomic_load(&waiting);
    while ((now & 1) && before >> 32 == now) {
        if (atomic_compare_exchange_weak(&waiting, &before, before + 1)) {
            while (atomic_load(&stopping) == now) {
                futex(&stopping, FUTEX_WAIT_PRIVATE, now);
            }
            break;
        }
    }
    errno = kept;
}

/* -- reading /proc without allocating -------------------------------------------------------------------------- */

struct lines {
    int fd;
    size_t filled, at;
    char bytes[8192];
};

/* The next line, ended by a zero; NULL at the end, and with `failed` when it could not be read. Longer ones are cut. */
static char *
next_line(struct lines *lines, bool *failed)
{
    for (;;) {
        char *begin = lines->bytes + lines->at;
        char *end = memchr(begin, '\n', lines->filled - lines->at);
        if (end != NULL) {
            *end = 0;
            lines->at = (size_t)(end - lines->bytes) + 1;
            return begin;
        }
        memmove(lines->bytes, begin, lines->filled - lines->at);
        lines->filled -= lines->at;
        lines->at = 0;
        if (lines->filled == sizeof lines->bytes) {
            *failed = true;
            return NULL;
        }
        const ssize_t got = read(lines->fd, lines->bytes + lines->filled, sizeof lines->bytes - lines->filled);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            *failed = *failed || got < 0;
            return NULL;
        }
        lines->filled += (size_t)got;
    }
}

static bool
open_lines(struct lines *lines, const char *path)
{
    lines->filled = lines->at = 0;
    do {
        lines->fd = open(path, O_RDONLY | O_CLOEXEC);
    } while (lines->fd < 0 && errno == EINTR);
    return lines->fd >= 0;
}

static uint64_t
hexadecimal(const char **text)
{
    uint64_t value = 0;
    for (;; ++*text) {
        const char c = **text;
        if (c >= '0' && c <= '9') {
            value = value << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return value;
        }
    }
}

struct mapping {
    uintptr_t begin, end;
    uint64_t offset, inode;
    dev_t device;
    bool ours; /* readable, writable and private */
    const char *name;
};

static void
read_mapping(const char *line, struct mapping *found)
{
    found->begin = (uintptr_t)hexadecimal(&line);
    line++;
    found->end = (uintptr_t)hexadecimal(&line);
    line++;
    found->ours = line[0] == 'r' && line[1] == 'w' && line[2] == '-' && line[3] == 'p';
    line += 5;
    found->offset = hexadecimal(&line);
    line++;
    const unsigned int major = (unsigned int)hexadecimal(&line);
    line++;
    const unsigned int minor = (unsigned int)hexadecimal(&line);
    found->device = makedev(major, minor);
    line++;
    found->inode = 0;
    for (; *line >= '0' && *line <= '9'; line++) {
        found->inode = found->inode * 10 + (uint64_t)(*line - '0');
    }
    while (*line == ' ') {
        line++;
    }
    found->name = line;
}

static const char *
no_such_memory(const char *name)
{
    if (strstr(name, "io_uring") != NULL || strncmp(name, "/[aio]", 6) == 0) {
        return "the kernel may write to its memory at any time (asynchronous I/O)";
    }
    if (strncmp(name, "/dev/", 5) == 0 && strncmp(name, "/dev/zero", 9) != 0 && strncmp(name, "/dev/shm/", 9) != 0) {
        return "it maps a device, which may write to its memory at any time";
    }
    return NULL;
}

/* Why a status file speaks against it: locked or pinned memory, or (of a thread) the signal is blocked. */
static const char *
status_speaks_against(const char *path, int number)
{
    struct lines lines;
    bool failed = false;
    const char *why = NULL;
    if (!open_lines(&lines, path)) {
        return errno == ENOENT || errno == ESRCH ? NULL : "/proc cannot be read"; /* the thread has ended */
    }
    for (char *line; why == NULL && (line = next_line(&lines, &failed)) != NULL;) {
        if (strncmp(line, "VmLck:", 6) == 0 || strncmp(line, "VmPin:", 6) == 0) {
            const char *digit = line + 6;
            while (*digit == ' ' || *digit == '\t') {
                digit++;
            }
            if (*digit != '0') {
                why = "it holds locked or pinned memory";
            }
        } else if (number && strncmp(line, "SigBlk:", 7) == 0) {
            const char *text = line + 7;
            while (*text == ' ' || *text == '\t') {
                text++;
            }
            if (hexadecimal(&text) >> (number - 1) & 1) {
                why = "a thread blocks the signal";
            }
        }
    }
    close(lines.fd);
    return why;
}

/* -- the image ------------------------------------------------------------------------------------------------- */

static int
read_ranges(PyObject *sequence, struct range *ranges, size_t *count)
{
    PyObject *all = PySequence_Tuple(sequence);
    if (all == NULL) {
        return -1;
    }
    const Py_ssize_t size = PyTuple_Size(all);
    uintptr_t last = 0;
    for (Py_ssize_t n = 0; n < size; n++) {
        unsigned long long begin, end;
        if (n == MOST_RANGES || !PyArg_ParseTuple(PyTuple_GetItem(all, n), "KK", &begin, &end) || begin < last
            || end <= begin || begin % PAGE || end % PAGE) {
            Py_DECREF(all);
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "ranges are whole pages, in order, and not too many");
            }
            return -1;
        }
        ranges[n] = (struct range){(uintptr_t)begin, (uintptr_t)end};
        last = (uintptr_t)end;
    }
    Py_DECREF(all);
    *count = (size_t)size;
    return 0;
}

static bool
all_written(int fd, const void *bytes, size_t size, off_t at)
{
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = pwrite(fd, (const char *)bytes + done, size - done, at + (off_t)done);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            return false;
        }
        done += (size_t)wrote;
    }
    return true;
}

static bool
all_read(int fd, void *bytes, size_t size, off_t at)
{
    for (size_t done = 0; done < size;) {
        const ssize_t got = pread(fd, (char *)bytes + done, size - done, at + (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        done += (size_t)got;
    }
    return true;
}

/* Pages that another process wrote, each after its address: where they lie in a range, they go into the image. What they
 * say is a guess at what forks will have there, and nobody relies on it. */
static bool
lay_over(int fd, int changed, const struct range *ranges, size_t count)
{
    struct {
        uint64_t address;
        unsigned char bytes[PAGE];
    } record;
    for (off_t at = 0; all_read(changed, &record, sizeof record, at); at += (off_t)sizeof record) {
        off_t offset = 0;
        for (size_t n = 0; n < count; n++) {
            if (record.address >= ranges[n].begin && record.address < ranges[n].end && record.address % PAGE == 0) {
                offset += (off_t)(record.address - ranges[n].begin);
                if (!all_written(fd, record.bytes, PAGE, offset)) {
                    return false;
                }
                break;
            }
            offset += (off_t)(ranges[n].end - ranges[n].begin);
        }
    }
    return true;
}

/* Map the image over a range. What stood there is kept in `scratch` meanwhile, for this memory may hold anything, and stands
 * there again afterwards. Nothing is called but system calls and what needs no memory of its own. */
static bool
put_beneath(const struct range *range, int fd, off_t offset, unsigned char *scratch)
{
    const size_t size = range->end - range->begin;
    unsigned char *memory = (unsigned char *)range->begin;
    memcpy(scratch, memory, size);
    void *there = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, offset);
    if (there == MAP_FAILED) {
        return false;
    }
    for (size_t at = 0; at < size; at += PAGE) {
        if (memcmp((unsigned char *)there + at, scratch + at, PAGE) != 0) {
            memcpy((unsigned char *)there + at, scratch + at, PAGE);
        }
    }
    if (mremap(there, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, memory) == MAP_FAILED) {
        munmap(there, size);
        return false;
    }
    return true;
}

static PyObject *
pages_image(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *sequence;
    int changed;
    struct range ranges[MOST_RANGES];
    size_t count, size = 0, largest = 0;
    if (!PyArg_ParseTuple(args, "Oi:image", &sequence, &changed) || read_ranges(sequence, ranges, &count) < 0) {
        return NULL;
    }
    if (the_image.original != NULL || count == 0) {
        PyErr_SetString(PyExc_ValueError, "there is an image already, or nothing to put into it");
        return NULL;
    }
    for (size_t n = 0; n < count; n++) {
        const size_t part = ranges[n].end - ranges[n].begin;
        size += part;
        largest = part > largest ? part : largest;
    }
    struct rlimit most;
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY && most.rlim_cur < size) {
        errno = EFBIG; /* asking for it would raise a signal */
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    int fd = memfd_create("shardwright-image", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) { /* older than Linux 6.3 */
        fd = memfd_create("shardwright-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    unsigned char *scratch = MAP_FAILED, *original = MAP_FAILED;
    struct stat found;
    off_t offset = 0;
    bool good = ftruncate(fd, (off_t)size) == 0;
    for (size_t n = 0; good && n < count; n++) {
        good = all_written(fd, (void *)ranges[n].begin, ranges[n].end - ranges[n].begin, offset);
        offset += (off_t)(ranges[n].end - ranges[n].begin);
    }
    good = good && (changed < 0 || lay_over(fd, changed, ranges, count))
           /* against writing, and with that against punching holes: nobody can change what siblings see */
           && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 && fstat(fd, &found) == 0;
    if (good) {
        scratch = mmap(NULL, largest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        original = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        good = scratch != MAP_FAILED && original != MAP_FAILED;
    }
    if (good) {
        the_image.original = original;
        the_image.size = size;
        the_image.device = found.st_dev;
        the_image.inode = found.st_ino;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        offset = 0;
        for (size_t n = 0; good && n < count; n++) {
            good = put_beneath(&ranges[n], fd, offset, scratch); /* what was not put beneath stays as it was */
            offset += (off_t)(ranges[n].end - ranges[n].begin);
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    const int why = errno;
    if (scratch != MAP_FAILED) {
        munmap(scratch, largest);
    }
    if (!good && the_image.original == NULL && original != MAP_FAILED) {
        munmap(original, size);
    }
    close(fd);
    errno = why;
    return good ? PyLong_FromSize_t(size) : PyErr_SetFromErrno(PyExc_OSError);
}

/* -- walking over pages ---------------------------------------------------------------------------------------- */

static bool
entries_of(int pagemap, uintptr_t begin, size_t count, uint64_t *entries)
{
    return all_read(pagemap, entries, count * sizeof *entries, (off_t)(begin / PAGE * sizeof *entries));
}

static PyObject *
pages_written(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *sequence;
    int target;
    struct range ranges[MOST_RANGES];
    size_t count, written = 0;
    if (!PyArg_ParseTuple(args, "Oi:written", &sequence, &target) || read_ranges(sequence, ranges, &count) < 0) {
        return NULL;
    }
    const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct {
        uint64_t address;
        unsigned char bytes[PAGE];
    } record;
    bool good = true;
    for (size_t n = 0; good && n < count; n++) {
        for (uintptr_t at = ranges[n].begin; good && at < ranges[n].end;) {
            uint64_t entries[ENTRIES];
            const size_t left = (ranges[n].end - at) / PAGE, part = left < ENTRIES ? left : ENTRIES;
            good = entries_of(pagemap, at, part, entries);
            for (size_t k = 0; good && k < part; k++, at += PAGE) {
                if ((entries[k] & (PRESENT | OF_FILE | EXCLUSIVE)) == (PRESENT | EXCLUSIVE)) {
                    record.address = at;
                    memcpy(record.bytes, (void *)at, PAGE);
                    good = all_written(target, &record, sizeof record, (off_t)(written++ * sizeof record));
                }
            }
        }
    }
    const int why = errno;
    close(pagemap);
    errno = why;
    return good ? PyLong_FromSize_t(written) : PyErr_SetFromErrno(PyExc_OSError);
}

/* -- stopping the world ---------------------------------------------------------------------------------------- */

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
thread_path(char *path, long thread)
{
    snprintf(path, 64, "/proc/self/task/%ld/status", thread);
}

/* Threads of this process but the calling one that are not in `known` yet; -1 when they cannot be listed, or are too many. */
static int
list_threads(int folder, long own, long *known, int many)
{
    char bytes[4096];
    if (lseek(folder, 0, SEEK_SET) < 0) {
        return -1;
    }
    for (;;) {
        const long got = syscall(SYS_getdents64, folder, bytes, sizeof bytes);
        if (got <= 0) {
            return got < 0 ? -1 : many;
        }
        for (long at = 0; at < got;) {
            const struct dirent64 *entry = (const struct dirent64 *)(bytes + at);
            at += entry->d_reclen;
            long thread = 0;
            for (const char *c = entry->d_name; *c >= '0' && *c <= '9'; c++) {
                thread = thread * 10 + (*c - '0');
            }
            bool new = thread != 0 && thread != own;
            for (int n = 0; new && n < many; n++) {
                new = known[n] != thread;
            }
            if (new) {
                if (many == MOST_THREADS) {
                    return -1;
                }
                known[many++] = thread;
            }
        }
    }
}

/* Returns NULL once every other thread waits in the handler. Whatever it returns, `go_on` is to be called. */
static const char *
stop_the_world(int number)
{
    const long own = syscall(SYS_gettid), process = getpid();
    long known[MOST_THREADS];
    int many = 0;
    uint32_t called = 0;
    const char *why = NULL;
    const int64_t end_ns = now_ns() + PATIENCE_NS;
    const int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const uint32_t now = (atomic_load(&stopping) + 1) | 1; /* odd, and new, also where a fork copied an odd one */
    atomic_store(&waiting, (uint64_t)now << 32);
    atomic_store(&stopping, now);
    if (folder < 0) {
        return "/proc cannot be read";
    }
    while (why == NULL) {
        const int before = many;
        many = list_threads(folder, own, known, many);
        if (many < 0) {
            why = "its threads cannot be listed, or are too many";
            break;
        }
        if (many == before && (uint32_t)atomic_load(&waiting) == called) {
            break; /* all that were listed waited before the list was read again, and nobody else was on it */
        }
        for (int n = before; n < many && why == NULL; n++) {
            char path[64];
            thread_path(path, known[n]);
            why = status_speaks_against(path, number);
            if (why == NULL && syscall(SYS_tgkill, process, known[n], number) == 0) {
                called++;
            }
        }
        while (why == NULL && (uint32_t)atomic_load(&waiting) != called) {
            if (now_ns() > end_ns) {
                why = "a thread did not stop in time";
            }
            const struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
        }
    }
    close(folder);
    return why;
}

static void
go_on(void)
{
    atomic_store(&stopping, (atomic_load(&stopping) | 1) + 1);
    futex(&stopping, FUTEX_WAKE_PRIVATE, INT_MAX);
}

static const char *
trim_all(int pagemap, size_t *own, size_t *dropped)
{
    struct lines lines;
    bool failed = false;
    const char *why = NULL;
    if (!open_lines(&lines, "/proc/self/maps")) {
        return "/proc cannot be read";
    }
    for (char *line; why == NULL && (line = next_line(&lines, &failed)) != NULL;) {
        struct mapping mapping;
        read_mapping(line, &mapping);
        const uintptr_t here = (uintptr_t)&mapping;
        if (!mapping.ours || mapping.inode != (uint64_t)the_image.inode || mapping.device != the_image.device
            || mapping.offset > the_image.size || mapping.end - mapping.begin > the_image.size - mapping.offset
            || (here >= mapping.begin && here < mapping.end)) {
            continue;
        }
        const unsigned char *original = the_image.original + mapping.offset;
        uintptr_t run = 0; /* where equal pages began that were not dropped yet */
        for (uintptr_t at = mapping.begin; why == NULL && at < mapping.end;) {
            uint64_t entries[ENTRIES];
            const size_t left = (mapping.end - at) / PAGE, part = left < ENTRIES ? left : ENTRIES;
            if (!entries_of(pagemap, at, part, entries)) {
                why = "/proc/self/pagemap cannot be read";
                break;
            }
            for (size_t k = 0; k < part; k++, at += PAGE) {
                const bool is_own = (entries[k] & (PRESENT | OF_FILE)) == PRESENT;
                *own += is_own;
                if (is_own && memcmp((void *)at, original + (at - mapping.begin), PAGE) == 0) {
                    run = run ? run : at;
                    continue;
                }
                if (run && madvise((void *)run, at - run, MADV_DONTNEED) == 0) {
                    *dropped += (at - run) / PAGE;
                }
                run = 0;
            }
            if (run) {
                if (madvise((void *)run, at - run, MADV_DONTNEED) == 0) {
                    *dropped += (at - run) / PAGE;
                }
                run = 0;
            }
        }
    }
    close(lines.fd);
    return why != NULL ? why : failed ? "/proc/self/maps cannot be read" : NULL;
}

/* Why not, before any thread is stopped. */
static const char *
look_ahead(int number)
{
    struct lines lines;
    bool failed = false;
    const char *why = status_speaks_against("/proc/self/status", 0);
    if (why != NULL) {
        return why;
    }
    struct sigaction found;
    if (sigaction(number, NULL, &found) != 0) {
        return "there is no such signal";
    }
    if (found.sa_handler != wait_here) {
        if (found.sa_handler != SIG_DFL) {
            return "the program uses the signal";
        }
        struct sigaction wanted = {.sa_handler = wait_here, .sa_flags = SA_RESTART | SA_ONSTACK};
        sigfillset(&wanted.sa_mask);
        if (sigaction(number, &wanted, NULL) != 0) {
            return "the signal cannot be handled";
        }
    }
    if (!open_lines(&lines, "/proc/self/maps")) {
        return "/proc cannot be read";
    }
    for (char *line; why == NULL && (line = next_line(&lines, &failed)) != NULL;) {
        struct mapping mapping;
        read_mapping(line, &mapping);
        why = no_such_memory(mapping.name);
    }
    close(lines.fd);
    return why != NULL ? why : failed ? "/proc/self/maps cannot be read" : NULL;
}

static PyObject *
pages_trim(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    size_t own = 0, dropped = 0;
    const char *why = the_image.original == NULL ? "its template has no image" : look_ahead((int)number);
    if (why == NULL) {
        const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (pagemap < 0) {
            why = "/proc/self/pagemap cannot be opened";
        } else {
            /* no handler of ours or of anybody runs on this thread meanwhile: it might wait for one that is stopped */
            sigset_t all, before;
            sigfillset(&all);
            pthread_sigmask(SIG_BLOCK, &all, &before);
            why = stop_the_world((int)number);
            /* again, with nobody there to change it: what came meanwhile counts */
            why = why != NULL ? why : look_ahead((int)number);
            why = why != NULL ? why : trim_all(pagemap, &own, &dropped);
            go_on();
            pthread_sigmask(SIG_SETMASK, &before, NULL);
            close(pagemap);
        }
    }
    return Py_BuildValue("nns", (Py_ssize_t)own, (Py_ssize_t)dropped, why == NULL ? "" : why);
}

static PyObject *
pages_allocator(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    Dl_info found;
    void *(*allocate)(size_t) = malloc;
    void *address;
    memcpy(&address, &allocate, sizeof address);
    return PyUnicode_DecodeFSDefault(dladdr(address, &found) && found.dli_fname != NULL ? found.dli_fname : "");
}

static PyObject *
pages_peek(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const unsigned long long address = PyLong_AsUnsignedLongLong(argument);
    if (address == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(*(const uint32_t *)(uintptr_t)address);
}

static PyMethodDef pages_methods[] = {
    {"image", pages_image, METH_VARARGS, PyDoc_STR("image(ranges, changed, /) -> int")},
    {"written", pages_written, METH_VARARGS, PyDoc_STR("written(ranges, target, /) -> int")},
    {"trim", pages_trim, METH_O, PyDoc_STR("trim(signal, /) -> tuple[int, int, str]")},
    {"allocator", pages_allocator, METH_NOARGS, PyDoc_STR("The file that has malloc.")},
    {"peek", pages_peek, METH_O, PyDoc_STR("The 32 bits at an address.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot pages_slots[] = {
    {0, NULL},
};

static struct PyModuleDef pages_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_pages",
    .m_doc = PyDoc_STR("A template's memory as the contents of a sealed file."),
    .m_size = 0,
    .m_methods = pages_methods,
    .m_slots = pages_slots,
};

PyMODINIT_FUNC
PyInit__pages(void)
{
    return PyModuleDef_Init(&pages_module);
}
