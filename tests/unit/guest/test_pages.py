"""Memory as the contents of a sealed file: what a fork gives back it finds again as it left it, and nobody else's.

Each case is an interpreter of its own, for it lays its own memory over a file.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from shardwright.guest import _image

pytestmark = pytest.mark.skipif(bool(_image.permitted(plain_allocator=True)), reason="no image on this interpreter")

BEGIN = """
import ctypes, ctypes.util, fcntl, gc, hashlib, mmap, os, random, resource, signal, sys, threading, time
from shardwright.guest import _image, _pages
libc = ctypes.CDLL(None, use_errno=True)
world = {n: [str(n), {n: (n, float(n))}] for n in range(40_000)}
imaged = _image.ranges()
def forked(what):
    pid = os.fork()
    if pid == 0:
        try:
            what()
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print("FAILED", type(error), error, flush=True)
            os._exit(1)
    return pid
def ended(*pids):
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
def digest():
    found = hashlib.sha256()
    for n, each in world.items():
        found.update(repr((n, each)).encode())
    return found.hexdigest()
def own():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("Anonymous:"))
def dirty():
    for each in gc.get_objects():
        sys.getrefcount(each)
trim = lambda: _pages.trim(_image.TRIM_SIGNAL)
"""


def run(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + text], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_equals_the_image_is_given_back_and_all_stays_as_it_was(
    record_exercised: Callable[[str, int], None],
) -> None:
    out = run(
        """
assert _pages.image(imaged, -1) > 2**20
before = digest()
def child():
    dirty()
    held = own()
    first = trim()
    assert first[2] == "" and first[1] > 500, first
    assert own() < held - 2000, (held, own())
    assert digest() == before
    print(first[1])
ended(forked(child))
assert digest() == before
"""
    )
    record_exercised("pages given back", int(out))


def test_random_work_goes_on_right_after_each_trim_beside_other_threads(
    record_exercised: Callable[[str, int], None],
) -> None:
    out = run(
        """
_pages.image(imaged, -1)
def work(seed, trims):
    chosen = random.Random(seed)
    mirror = {}
    count = 0
    for step in range(60):
        for _ in range(300):
            n = chosen.randrange(40_000)
            value = chosen.choice([None, n, str(n), [n] * chosen.randrange(60), {n: n}, b"x" * chosen.randrange(3000)])
            world[n] = value
            mirror[n] = repr(value)
            if chosen.random() < 0.3:
                world[n] = [str(n), {n: (n, float(n))}]
                del mirror[n]
        if trims:
            own_pages, dropped, why = trim()
            assert own_pages or why
            count += dropped
        for n in range(40_000):
            assert repr(world[n]) == mirror.get(n, repr([str(n), {n: (n, float(n))}])), n
    return count
def child():
    ending = threading.Event()
    ticks = [0] * 4
    read_end, write_end = os.pipe()
    def tick(n):
        while not ending.is_set():
            ticks[n] += 1
            os.write(write_end, bytes([n]) * 8)
            assert len(set(os.read(read_end, 8))) >= 1
            time.sleep(0.0002)
    threads = [threading.Thread(target=tick, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    count = work(os.getpid(), True)
    ending.set()
    for each in threads:
        each.join()
    assert min(ticks) > 10, ticks
    print(count)
ended(forked(child), forked(child))
"""
    )
    dropped = [int(line) for line in out.split()]
    assert min(dropped) > 0
    record_exercised("pages given back beside threads", sum(dropped))


def test_siblings_and_children_never_see_each_others_writes() -> None:
    run(
        """
_pages.image(imaged, -1)
before = digest()
def writer():
    for n in list(world):
        world[n] = "mine"
    gc.collect()
    assert trim()[2] == ""
    assert set(world.values()) == {"mine"}
    def grandchild():
        for n in list(world):
            world[n] = "other"
        assert trim()[2] == ""
        assert set(world.values()) == {"other"}
    ended(forked(grandchild))
    assert set(world.values()) == {"mine"}
def reader():
    for _ in range(20):
        dirty()
        trim()
        assert digest() == before
ended(forked(writer), forked(reader), forked(writer), forked(reader))
killed = forked(lambda: [trim() for _ in iter(int, 1)])
time.sleep(0.05)
os.kill(killed, signal.SIGKILL)
os.waitpid(killed, 0)
assert digest() == before
ended(forked(reader))
"""
    )


def test_a_hostile_sibling_cannot_alter_the_image() -> None:
    out = run(
        """
_pages.image(imaged, -1)
before = digest()
def hostile():
    lines = [line.split() for line in open("/proc/self/maps") if "shardwright-image" in line]
    begin, end = (int(each, 16) for each in next(line for line in lines if line[1].startswith("r--"))[0].split("-"))
    size = ctypes.c_size_t(end - begin)
    # written to: its own copy alone; a hole: refused; written through the file: refused
    assert libc.madvise(ctypes.c_void_p(begin), size, 9) == -1
    assert libc.mprotect(ctypes.c_void_p(begin), size, 3) == 0
    ctypes.memset(begin, 0x5A, end - begin)
    tried = 1
    try:
        fd = os.open(f"/proc/self/map_files/{begin:x}-{end:x}", os.O_RDWR)
    except OSError:
        fd = -1  # only root may
    if fd >= 0:
        for attempt in (
            lambda: os.pwrite(fd, b"x" * 4096, 0),
            lambda: os.ftruncate(fd, 0),
            lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE),
        ):
            try:
                attempt()
            except OSError:
                tried += 1
            else:
                raise AssertionError("the image was altered")
        assert libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096)) == -1
    print(tried)
ended(forked(hostile))
def reader():
    dirty()
    assert trim()[1] > 500
    assert digest() == before
ended(forked(reader))
"""
    )
    assert int(out) >= 1


def test_says_why_it_does_not_trim_and_harms_nobody() -> None:
    run(
        """
assert trim() == (0, 0, "its template has no image")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    _pages.image(imaged, -1)
except OSError:
    pass
else:
    raise AssertionError("an image beyond the limit of files")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
_pages.image(imaged, -1)
def blocked():
    dirty()
    def sleeper():
        signal.pthread_sigmask(signal.SIG_BLOCK, {_image.TRIM_SIGNAL})
        time.sleep(0.3)
    thread = threading.Thread(target=sleeper)
    thread.start()
    time.sleep(0.05)
    assert trim() == (0, 0, "a thread blocks the signal"), trim()
    thread.join()
    assert trim()[1] > 500
def uses():
    signal.signal(_image.TRIM_SIGNAL, lambda *_: None)
    assert trim() == (0, 0, "the program uses the signal")
def locked():
    held = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    assert libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(4096)) == 0
    assert trim()[2] == "it holds locked or pinned memory"
ended(forked(blocked), forked(uses), forked(locked))
"""
    )
