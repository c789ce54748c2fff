"""Without control groups: what a shard starts ends with it, whichever way either of them goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guest_apps import write_application
from ordinary import ordinary_home

WITHIN_S = 3.0
NOBODY = 65534
MANIFEST = """
    [app]
    name = "kin"
    root = "."
    [components.odd]
    code = "odd"
    scope = "session"
    state = "memory"
    start = "START"
    warm = { min = 0, max = 2 }
"""
SOURCE = """
    import os, subprocess, sys
    DAEMON = (
        "import os, subprocess; os.setsid(); "
        "print(subprocess.Popen(['sleep', '300'], start_new_session=True, stdout=-3, stderr=-3).pid)"
    )
    def start():
        plain = subprocess.Popen(["sleep", "300"])
        own = subprocess.Popen(["sleep", "300"], start_new_session=True)
        double = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, check=True)
        return [os.getpid(), plain.pid, own.pid, int(double.stdout)]
    def leave():
        os._exit(3)
"""
PROGRAM = """
    import json, os, sys
    import shardwright
    node = shardwright.start(sys.argv[1], state=sys.argv[2])
    with node:
        one, other = node.session("one"), node.session("other")
        for session in (one, other):
            print(json.dumps(session.call("odd.start")), flush=True)
        for line in sys.stdin:
            if line == "exit\\n":
                try:
                    one.call("odd.leave")
                except shardwright.errors.CallError:
                    pass
            elif line == "end\\n":
                one.end()
            elif line == "stop\\n":
                break
            print("done", flush=True)
"""


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [pid] if state not in "ZX" else []
    return found


def become_none(pids: list[int]) -> bool:
    end_s = time.monotonic() + WITHIN_S
    while alive(pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def home() -> Iterator[tuple[Path, str, list[str]]]:
    """A folder of an ordinary user's, an interpreter that can be run from there, and what it must find."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    with ordinary_home(NOBODY) as found:
        yield found


class Ordinary:
    """A node of an ordinary user's, with two sessions that have started processes."""

    def __init__(self, home: tuple[Path, str, list[str]], start: str) -> None:
        folder, python, path = home
        application = write_application(folder / f"app-{start}", MANIFEST.replace("START", start), odd=SOURCE)
        write_application(folder / "run", "", program=PROGRAM)
        state = folder / f"state-{time.monotonic_ns()}"
        state.mkdir()
        for made in [application, *application.rglob("*"), folder / "run", *(folder / "run").iterdir(), state]:
            os.chown(made, NOBODY, NOBODY)
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": os.pathsep.join(path)}
        environment["LD_LIBRARY_PATH"] = str(folder / "python" / "lib")
        self.process = subprocess.Popen(
            [python, str(folder / "run" / "program.py"), str(application), str(state)],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.one: list[int] = []
        self.other: list[int] = []
        try:
            self.one, self.other = json.loads(self.line()), json.loads(self.line())
        except BaseException:
            self.end()
            raise

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        become_none([*self.one, *self.other])
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        for pid in alive([*self.one, *self.other]):  # only after a failure
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ordinary(home: tuple[Path, str, list[str]]) -> Iterator[Callable[[str], Ordinary]]:
    started: list[Ordinary] = []

    def start(way: str) -> Ordinary:
        started.append(Ordinary(home, way))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.end()


@pytest.mark.parametrize("start", ["template", "spawn"])
@pytest.mark.parametrize("what", ["end", "exit", "kill"])
def test_what_a_shard_started_ends_with_it(ordinary: Callable[[str], Ordinary], start: str, what: str) -> None:
    node = ordinary(start)
    assert len(alive(node.one)) == len(alive(node.other)) == 4
    if what == "kill":
        os.kill(node.one[0], signal.SIGKILL)
    else:
        node.tell(what)
        assert node.line() == "done\n"
    assert become_none(node.one), alive(node.one)
    assert len(alive(node.other)) == 4, "those of another shard live on, orphans too"
    node.tell("stop")
    assert node.process.wait(20) == 0
    assert become_none(node.other), alive(node.other)


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_what_shards_started_ends_with_the_node(ordinary: Callable[[str], Ordinary], start: str) -> None:
    node = ordinary(start)
    node.process.kill()
    assert become_none([*node.one, *node.other]), alive([*node.one, *node.other])
