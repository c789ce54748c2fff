"""Classes reached by handle, written in the ways that Python offers: the cut program prints what the uncut one prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guest_apps import write_application

MANIFEST = """
[app]
name = "made"
main = "a:main"
[components.m]
code = "m"
[policy]
node_grace = "0s"
"""
MODULE = """
import functools
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


@functools.total_ordering
class C(Generic[T]):
    def __init__(self, n=0, **kw):
        self.n, self.kw, self.lock = n, kw, threading.Lock()

    def __add__(self, other):
        return C(self.n + other)

    __radd__ = __add__

    def __eq__(self, other):
        return self.n == other.n

    def __lt__(self, other):
        return self.n < other.n

    __hash__ = None

    def get(self):
        return self.n

    def names(self, *args, **kw):
        return args, kw, self.kw

    read = get
    twice = lambda self: 2 * self.n

    def add(self, a, b=0):
        return self.n + a + b

    inc = functools.partialmethod(add, 1)
    pair = staticmethod(lambda a, b: (a, b))
"""
MAIN = """
from m import C


def main():
    a, b = C(1), C(2)
    print((1 + a).get(), a.read(), a.twice(), a.inc(), a.inc(b=2), C.pair(1, 2))
    print(a < b, a <= b, a > b, a >= b, a == b, a != b)
    print(C[int](3).get(), isinstance(a, C))
    print(C(name=1, target=2, cls=3).names(1, entry=2, obj=3, shard=4))
    try:
        hash(a)
    except TypeError:
        print("unhashable")
"""
INHERITS = """
from m import C


class D(C):
    pass


def main():
    D(1)
"""


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XDG_STATE_HOME": str(folder)},
    )


@pytest.mark.parametrize("how", [[], ["--inproc"]])
def test_methods_however_made(tmp_path: Path, how: list[str]) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, a=MAIN, m=MODULE)
    uncut = ran(folder, "-c", "import a; a.main()")
    cut = ran(folder, "-m", "shardwright", "run", *how, ".")
    assert uncut.returncode == 0 and len(uncut.stdout.splitlines()) == 5
    assert (cut.stdout, cut.returncode) == (uncut.stdout, 0), cut.stderr


def test_what_inherits_across_the_cut_is_refused_where_it_is_made(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, a=INHERITS, m=MODULE)
    cut = ran(folder, "-m", "shardwright", "run", ".")
    assert cut.returncode == 1
    assert "CannotCross: D inherits from C, which lives in m" in cut.stderr and "wrap instead of inherit" in cut.stderr
