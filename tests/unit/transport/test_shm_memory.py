"""Sealed memory: what a peer can and cannot do to it, and what of a peer's is refused."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import sys
from collections.abc import Iterator

import pytest

from shardwright.errors import ProtocolViolation
from shardwright.transport import shm

if not shm.available():
    pytest.skip(shm.reason(), allow_module_level=True)

from shardwright.transport.shm import _ring

PAGE = mmap.PAGESIZE


@pytest.fixture
def memory() -> Iterator[int]:
    fd = shm.create_memfd("test", 3 * PAGE)
    try:
        yield fd
    finally:
        os.close(fd)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_memory_is_zeroed_named_for_proc_only_and_closed_on_exec(memory: int) -> None:
    assert os.fstat(memory).st_size == 3 * PAGE
    assert os.readlink(f"/proc/self/fd/{memory}") == "/memfd:test (deleted)"
    assert not os.get_inheritable(memory)
    with mmap.mmap(memory, 3 * PAGE) as mapped:
        assert mapped[:] == bytes(3 * PAGE)


def test_two_mappings_share_what_is_written(memory: int) -> None:
    with mmap.mmap(memory, 3 * PAGE) as first, mmap.mmap(memory, 3 * PAGE) as second:
        first[PAGE : PAGE + 4] = b"ring"
        assert second[PAGE : PAGE + 4] == b"ring"


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, 64 * PAGE + 7])
def test_size_is_exact(size: int) -> None:
    fd = shm.create_memfd("sized", size)
    try:
        assert os.fstat(fd).st_size == size
        shm.check_memfd(fd, size)
    finally:
        os.close(fd)


@pytest.mark.parametrize("new_size", [0, PAGE, 4 * PAGE])
def test_nobody_can_resize_it(memory: int, new_size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory, new_size)


def test_writing_past_the_end_cannot_grow_it(memory: int) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 3 * PAGE)


def test_seals_are_final(memory: int) -> None:
    wanted = _ring.SEAL_SEAL | _ring.SEAL_SHRINK | _ring.SEAL_GROW
    assert shm.seals(memory) & ~_ring.SEAL_EXEC == wanted
    assert shm.seals(memory) == fcntl.fcntl(memory, fcntl.F_GET_SEALS)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_constants_are_those_of_the_kernel_interface() -> None:
    names = ("SEAL", "SHRINK", "GROW", "WRITE")
    assert [getattr(_ring, f"SEAL_{name}") for name in names] == [getattr(fcntl, f"F_SEAL_{name}") for name in names]


@pytest.mark.parametrize("size", [0, -1, -sys.maxsize - 1])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        shm.create_memfd("empty", size)


def test_a_size_that_no_integer_of_the_machine_holds_is_refused() -> None:
    with pytest.raises(OverflowError):
        shm.create_memfd("huge", sys.maxsize + 1)


def test_bad_names_are_refused() -> None:
    with pytest.raises(ValueError, match="null"):
        shm.create_memfd("a\0b", PAGE)
    with pytest.raises(OSError, match="Invalid argument"):
        shm.create_memfd("n" * 300, PAGE)


@pytest.mark.parametrize("arguments", [(), ("name",), (b"bytes", 1), ("name", 1.5), ("name", "1"), ("name", 1, 2)])
def test_wrong_arguments_are_type_errors(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        _ring.create_memfd(*arguments)  # type: ignore[arg-type]


def test_a_size_above_the_file_limit_is_an_error_and_leaves_nothing_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = open_descriptors()
    pid = os.fork()  # the limit also sends SIGXFSZ, which Python ignores; it is changed in a child only
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, hard))
            held = open_descriptors()
            try:
                _ring.create_memfd("limited", 2 * PAGE)
            except OSError:
                status = 0 if open_descriptors() == held else 2
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended) == 0
    assert open_descriptors() == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)


def test_running_out_of_descriptors_is_an_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, open_descriptors())), hard))
        fillers = []
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                fillers.append(_ring.create_memfd("filler", 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def test_failures_leave_nothing_open() -> None:
    before = open_descriptors()
    for _ in range(100):
        for name, size in (("", 0), ("n" * 300, 1), ("a\0", 1)):
            with pytest.raises((ValueError, OSError)):
                shm.create_memfd(name, size)
    assert open_descriptors() == before


# -- what a peer passed ------------------------------------------------------------------------------------------


def test_a_good_descriptor_is_accepted_and_stays_open(memory: int) -> None:
    shm.check_memfd(memory, 3 * PAGE)
    assert os.fstat(memory).st_size == 3 * PAGE


@pytest.mark.parametrize("claimed", [0, 1, PAGE, 3 * PAGE - 1, 3 * PAGE + 1, -3 * PAGE, sys.maxsize])
def test_a_lie_about_the_size_is_refused(memory: int, claimed: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"holds {3 * PAGE} bytes"):
        shm.check_memfd(memory, claimed)


@pytest.mark.parametrize(
    "seals",
    [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL],
)
def test_missing_seals_are_refused(seals: int) -> None:
    fd = os.memfd_create("loose", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        with pytest.raises(ProtocolViolation, match="lack"):
            shm.check_memfd(fd, PAGE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("forbidding", [_ring.SEAL_WRITE, _ring.SEAL_FUTURE_WRITE])
def test_memory_that_cannot_be_written_is_refused(forbidding: int) -> None:
    fd = os.memfd_create("fixed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ring.SEAL_SHRINK | _ring.SEAL_GROW | forbidding | _ring.SEAL_SEAL)
        with pytest.raises(ProtocolViolation, match="forbid writing"):
            shm.check_memfd(fd, PAGE)
    finally:
        os.close(fd)


def test_a_read_only_descriptor_is_refused(memory: int) -> None:
    reopened = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(ProtocolViolation, match="reading and writing"):
            shm.check_memfd(reopened, 3 * PAGE)
    finally:
        os.close(reopened)


def test_descriptors_of_other_kinds_are_refused(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "file")
    with open(path, "w+b") as ordinary:
        ordinary.truncate(PAGE)
        with pytest.raises(ProtocolViolation):
            shm.check_memfd(ordinary.fileno(), PAGE)
    ends = os.pipe()
    try:
        for end in ends:
            with pytest.raises(ProtocolViolation):
                shm.check_memfd(end, PAGE)
    finally:
        for end in ends:
            os.close(end)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(ProtocolViolation, match="carries seals"):
            shm.check_memfd(null, 0)
    finally:
        os.close(null)


def test_a_closed_descriptor_is_an_error_of_ours() -> None:
    fd = shm.create_memfd("gone", PAGE)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        shm.check_memfd(fd, PAGE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        shm.seals(fd)
    with pytest.raises(ValueError, match="negative"):
        shm.seals(-1)
