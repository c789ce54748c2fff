"""Calls in one piece (``transport/shm/_calls.c``) without shards around them: lost wake-ups, hostile peers, instructions."""

from __future__ import annotations

import _thread
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from house_coverage import UNMEASURED
from shardwright.transport import shm

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests/support/quick_pair.py"
ROOM = "shardwright/transport/shm"
# Of one call with two arguments and its answer, both sides, all of Python's included; CPython 3.11.7, gcc 12, x86-64.
CALL_INSTRUCTIONS = 13_700

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shm.available(), reason="the C extension was not built"),
]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not on this machine: {', '.join(missing)}")


def run(*command: object, **environment: str) -> str:
    ended = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, f"ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"[-8000:]
    return ended.stdout + ended.stderr


Built = Callable[..., Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A copy of the package whose rings were compiled with these flags: what to put into PYTHONPATH."""

    def build(name: str, *flags: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "src/shardwright", folder / "shardwright")
        room = folder / ROOM
        include = sysconfig.get_path("include")
        sources = sorted(room.glob("_*.c"))
        run(
            "gcc", "-shared", "-fPIC", "-std=c11", "-g", "-O1", *flags, "-DPy_LIMITED_API=0x030B0000", f"-I{include}", *sources,
            "-pthread", "-o", room / "_ring.abi3.so",
        )  # fmt: skip
        return folder

    return build


@needs("gcc")
def test_no_wake_up_is_lost_between_many_threads(built: Built, record_exercised: Callable[[str, int], None]) -> None:
    for_ever = "3600000000000"  # the watcher, or the end of a turn, would find what a lost wake-up left behind
    as_it_is = built(
        "no-tick", f"-DSW_TICK_NS={for_ever}", f"-DTURN_NS={for_ever}", "-DSTREAK=32", "-DSTREAK_OF_MANY=8"
    )
    turns = built("turns", f"-DSW_TICK_NS={for_ever}", f"-DTURN_NS={for_ever}", "-DSTREAK=1", "-DSTREAK_OF_MANY=1")
    count = 0
    for path, threads, calls, seed in (
        (as_it_is, 2, 300, 1), (as_it_is, 7, 300, 2), (as_it_is, 24, 300, 3), (as_it_is, 80, 60, 4),
        (turns, 1, 300, 9), (turns, 2, 300, 5), (turns, 7, 300, 6), (turns, 24, 200, 7), (turns, 80, 60, 8),
    ):  # fmt: skip
        said = run(sys.executable, SCRIPT, "many", threads, calls, seed, PYTHONPATH=str(path))
        assert int(said) == threads * calls
        count += threads * calls
    record_exercised("calls of threads that rouse one another", count)


@needs("gcc")
def test_peers_that_write_anything_harm_no_call_of_others(
    built: Built, record_exercised: Callable[[str, int], None]
) -> None:
    path = built("address", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    libraries = [run("gcc", f"-print-file-name=lib{name}.so").strip() for name in ("asan", "ubsan")]
    said = run(
        sys.executable, SCRIPT, "hostile", os.environ.get("SWT_HOSTILE_S", "4"), 7, PYTHONPATH=str(path),
        LD_PRELOAD=":".join(libraries), PYTHONMALLOC="malloc", ASAN_OPTIONS="detect_leaks=0:abort_on_error=1",
    )  # fmt: skip
    counts = {name: int(count) for name, count in re.findall(r"'(\w+)': (\d+)", said)}
    assert all(counts.values()), said
    record_exercised("hostile messages beside honest calls", counts["requests"] + counts["replies"])


@needs("valgrind")
def test_a_call_costs_no_more_instructions_than_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings are noise on a shared machine; instructions are not. A better number is to be written down here."""

    def instructions(calls: int) -> int:
        within = ("--collect-atstart=no", "--toggle-collect=outlet_call", "--toggle-collect=desk_work")
        said = run(
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={tmp_path / 'out'}",
            *within,
            sys.executable,
            SCRIPT,
            calls,
        )
        found = re.search(r"Collected : (\d+)", said)
        assert found, said
        return int(found[1])

    monkeypatch.setenv(UNMEASURED, "1")  # marks would be counted too
    each = (instructions(400) - instructions(100)) / 300
    known = platform.python_version() == "3.11.7" and platform.machine() == "x86_64" and "Clang" not in sys.version
    tolerance = 1.05 if known else 2.0  # another interpreter has other code
    assert CALL_INSTRUCTIONS / tolerance < each < CALL_INSTRUCTIONS * tolerance, each


@pytest.fixture
def pair() -> Iterator[Any]:
    from quick_pair import Pair

    made = Pair()
    yield made
    made.close()


class Struck(BaseException):
    """What the signal handler raises."""


def test_a_signal_that_ends_no_sleep_is_heeded_all_the_same() -> None:
    """As in test_reading_role, for a main thread that waits the quick way."""
    import quick_pair

    def strike(number: int, frame: Any) -> None:
        raise Struck

    def late() -> None:
        assert quick_pair.entered.wait(20)
        time.sleep(0.05)  # it sleeps by now: this marks the signal as come, and sends none
        _thread.interrupt_main(signal.SIGUSR1)
        if not heeded.wait(5):
            quick_pair.gate.set()

    heeded = threading.Event()
    quick_pair.entered.clear()
    quick_pair.gate.clear()
    pair = quick_pair.Pair(threading.get_ident())
    thread = threading.Thread(target=late)
    before = signal.signal(signal.SIGUSR1, strike)
    try:
        thread.start()
        with pytest.raises(Struck):
            pair.call(2)
        assert not quick_pair.gate.is_set(), "heeded only when the reply came"
    finally:
        signal.signal(signal.SIGUSR1, before)
        heeded.set()
        quick_pair.gate.set()
        thread.join(20)
        pair.close()


def test_what_is_unusual_is_left_to_python(pair: Any) -> None:
    from quick_pair import Unusual

    assert pair.call(0, "value") == "value"
    with pytest.raises(Unusual) as caught:
        pair.call(0, bytearray(100_000))  # its bytes travel beside the message
    assert caught.value.args[0] == "written"
    assert pair.near.desk.calls_out == pair.far.desk.calls_in == 1
    assert pair.near.desk.waiting() == []
