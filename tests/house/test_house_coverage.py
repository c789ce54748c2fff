"""Code that runs in keeper, templates and shards counts as covered, however those processes start and end.

What counts is marked by the code itself: it must be what coverage's own tracer would have seen.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from coverage import Coverage

import shardwright
from house_coverage import PTH, UNMEASURED, install, merge, report, startup_code

PROGRAM = """\
import os, signal, subprocess, sys

def forked_and_ended_hard():
    return 1

def spawned():
    return 2

def threaded():
    return 3

def terminated():
    signal.raise_signal(signal.SIGTERM)

def main(again, *arguments):
    match arguments:
        case ["spawned"]:
            spawned()
        case ["terminated"]:
            terminated()
        case ["threaded"]:
            import threading
            thread = threading.Thread(target=threaded)
            thread.start()
            thread.join()
        case _:
            pid = os.fork()
            if pid == 0:
                forked_and_ended_hard()
                os._exit(0)
            os.waitpid(pid, 0)
            for part in ("spawned", "terminated", "threaded"):
                subprocess.run([*again, part])
"""

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ALL = {"forked_and_ended_hard", "spawned", "terminated", "threaded", "main"}


class Measured:
    """A package ``measured`` with one module, and Python processes that behave as ``site`` would have them."""

    def __init__(self, folder: Path) -> None:
        self.package, self.data, self.marker = folder / "src" / "measured", folder / "data", folder / "coverage-run"
        self.module = self.package / "program.py"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").write_text('"""Nothing."""\n', encoding="utf-8")
        self._folder = folder

    def install(self, code: str) -> None:
        self.module.write_text(code, encoding="utf-8")
        self.data.mkdir()
        install(self.marker, self.package, self.data, self._folder)
        line = (self._folder / PTH).read_text(encoding="utf-8")
        assert line == startup_code(self.marker)
        assert line.count("\n") == 1  # a .pth file is read line by line
        start = (
            f"{line}sys.path.insert(0, {str(self.package.parent)!r})\nsys.again = [sys.executable, '-S', __file__]\n"
        )
        (self._folder / "start.py").write_text(f"{start}exec(sys.argv[1])\n", encoding="utf-8")

    def run(self, code: str, **environment: str) -> str:
        """Its output; the process knows nothing of coverage."""
        code = f"{code}; assert not any(name.startswith('coverage') for name in sys.modules)"
        command = [sys.executable, "-S", str(self._folder / "start.py"), code]
        ended = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def lines(self) -> set[int]:
        return merge(self.data)[0][str(self.module)]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    return Measured(tmp_path)


def judged(path: Path, ran: Iterable[int], *, config_file: str | bool = False) -> tuple[list[int], list[int]]:
    """The statements of a file, and those of them that did not run, as coverage sees it."""
    own = Coverage(data_file=None, config_file=config_file)
    data = own.get_data()
    data.add_lines({str(path): ran})
    _, statements, _, missed, _ = own.analysis2(str(path))
    data.close(force=True)  # it is in memory alone
    return statements, missed


def recorded(measured: Measured) -> list[Path]:
    return [*measured.data.glob("recorded.*")]


def test_processes_of_all_kinds_count_while_the_marker_lies_there(measured: Measured) -> None:
    measured.install(PROGRAM)
    call = (
        "from measured import program; again = [*sys.again, 'import sys; from measured import program; "
        "program.main((), sys.argv[2])']; program.main(again)"
    )

    def executed() -> set[str]:
        """The names of the functions whose body ran, over all processes."""
        ran = measured.lines()
        lines = PROGRAM.splitlines()
        return {
            line[4:].partition("(")[0] for at, line in enumerate(lines, 1) if line.startswith("def ") and at + 1 in ran
        }

    measured.run(call)
    assert executed() == ALL
    assert merge(measured.data)[1] == len(recorded(measured)) == 5  # it, a fork, and three that it started
    for path in recorded(measured):
        path.unlink()
    measured.run(call, **{UNMEASURED: "1"})
    measured.marker.unlink()
    measured.run(call)
    assert not recorded(measured) and merge(measured.data) == ({str(path): set() for path in files(measured)}, 0)


def files(measured: Measured) -> list[Path]:
    return [*measured.package.rglob("*.py")]


def test_what_is_out_of_sight_runs_uncounted(measured: Measured) -> None:
    measured.install("def three():\n    return 3\n")
    for path in (measured.data / "code").glob("*.code"):
        path.unlink()
    assert measured.run("from measured.program import three; print(three())") == "3\n"
    assert not recorded(measured)
    (measured.data / "recorded.1.2").write_bytes(b"\1")  # of one that was killed while it wrote
    assert merge(measured.data)[1] == 0


STATEMENTS = '''\
"""Every kind of statement."""
from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import Enum
from functools import (
    cache,
    wraps,
)

TABLE = {
    "a": 1,
    "b": [
        2,
    ],
}


def passed(function):
    """A docstring."""

    @wraps(
        function
    )
    def inner(*arguments):
        return function(
            *arguments
        )

    return inner


@passed
@cache
def decorated(n):
    global seen
    seen = n
    if n == 1:
        return 1
    elif n == 2:
        pass
    elif n == 3:
        raise ValueError(n)
    else:
        assert n > 3, (
            "text"
        )
    return 2


class Colour(Enum):
    """A docstring."""

    RED = 1
    BLUE = 2

    @property
    def long(self):
        return len(self.name) > 3

    def never(self):
        return 0


@dataclass
class Point:
    x: int
    y: int = 0
    __hidden: list = field(default_factory=list)

    def add(self):
        x = 1

        def more():
            nonlocal x
            x += 1
            return x

        self.__hidden.append(more())
        return self.__hidden


def loops(n):
    for i in range(n):
        if i == 2:
            continue
        if i == 4:
            break
    else:
        n = -1
    while n > 0:
        n -= 1
    else:
        n = 7
    return n


def tries(kind):
    try:
        with contextlib.suppress(KeyError) as nothing, contextlib.nullcontext():
            raise kind("x")
    except (
        ValueError,
        OSError,
    ) as error:
        return str(error)
    except ArithmeticError:
        return 2
    else:
        return 3
    finally:
        del kind


def groups():
    try:
        raise ExceptionGroup("two", [ValueError(1), TypeError(2)])
    except* ValueError:
        a = 1
    except* TypeError:
        a = 2
    return a


def matches(value):
    match value:
        case {"kind": 1}:
            return 1
        case [
            1,
            *rest,
        ] if rest:
            return rest
        case _:
            return None


async def numbers():
    for n in range(3):
        yield n


async def waits():
    async with asyncio.Lock():
        async for n in numbers():
            await asyncio.sleep(0)
    return [n async for n in numbers() if n]


def generated():
    given = yield 1
    yield from [given]
    (lambda: 3)()


def main():
    decorated(1), decorated(2), decorated(4)
    try:
        decorated(3)
    except ValueError:
        pass
    Colour.RED.long
    Point(1).add()
    loops(6), loops(3)
    tries(KeyError), tries(ValueError)
    groups()
    matches([1, 2]), matches({"kind": 1})
    asyncio.run(waits())
    list(generated())


main()
'''


def test_what_is_marked_is_what_coverage_sees(
    measured: Measured, tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    measured.install(STATEMENTS)
    measured.run("import measured.program")
    traced = tmp_path / "traced.py"
    traced.write_text(STATEMENTS, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "coverage", "run", "--data-file=traced", "--rcfile=/dev/null", "traced.py"],
        cwd=tmp_path,
        check=True,
        timeout=60,
        env={UNMEASURED: "1"},
    )
    tracer = Coverage(data_file=str(tmp_path / "traced"), config_file=False)
    tracer.load()
    with closing(tracer.get_data()):
        _, statements, _, missed, _ = tracer.analysis2(str(traced))
    same, unmarked = judged(measured.module, measured.lines())
    assert same == statements and len(statements) > 100
    assert 3 < len(missed) < 15
    # Lines that are only passed on the way count when they lead to what follows.
    passed_by = {
        at
        for at, line in enumerate(STATEMENTS.splitlines(), 1)
        if line.strip() in ("case _:", "except ArithmeticError:")
    }
    assert set(missed) <= set(unmarked) <= set(missed) | passed_by
    record_exercised("statements marked as coverage sees them", len(statements))


def test_every_statement_of_the_package_can_be_marked(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    package = Path(shardwright.__file__).parent
    data = tmp_path / "data"
    data.mkdir()
    install(tmp_path / "marker", package, data, tmp_path)
    table = marshal.loads((data / "code" / "table").read_bytes())
    checked = 0
    for path in sorted(package.rglob("*.py"))[::20]:
        statements, unmarked = judged(path, table[str(path)][1], config_file=str(PYPROJECT))
        assert unmarked == [], path
        checked += len(statements)
    assert checked > 1_500
    record_exercised("statements of the package that a mark can count", checked)


def test_too_little_fails(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    measured.install("def three():\n    return 3\n")
    measured.run("import measured.program")
    assert report(measured.data, 40.0, include=f"{measured.package}/*") == 0
    assert "50" in capsys.readouterr().out
    assert report(measured.data, 60.0, include=f"{measured.package}/*") == 2
