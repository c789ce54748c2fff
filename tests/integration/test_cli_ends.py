"""How a program ends under ``shardwright run``: status and standard error are those of plain Python."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli_apps import environment, write_app

MANIFEST = """
[app]
name = "ends"
main = "front:main"
[components.back]
code = "back"
"""
BACK = """
class Trouble(Exception):
    pass
def fail(how):
    try:
        {}["missing"]
    except KeyError as missing:
        raise Trouble(how) from missing
class Box:
    def __init__(self):
        self.lid = "shut"
    def fail(self, how):
        self.lid = how
        fail(how)
"""
FRONT = """
import sys
import back
def main():
    what = sys.argv[1]
    if what == "text":
        print("began")
        return "cannot open the thing"
    if what == "odd":
        return ["a", 1]
    if what == "true":
        return True
    if what == "print":
        print("something")
    if what == "print-and-3":
        print("something")
        sys.exit(3)
    if what == "much":
        print("x" * 100_000)
    if what == "fail":
        back.fail("badly")
    if what == "box":
        back.Box().fail("badly")
    if what == "handled":
        try:
            back.fail("first")
        except back.Trouble:
            raise ValueError("second")
    if what == "wait":
        print("before")
        sys.stdin.readline()
"""
SHAPES = [(), ("--inproc",)]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "ends", MANIFEST, front=FRONT, back=BACK)


def ends(
    tmp_path: Path, app: Path, arguments: tuple[str, ...], *, cut: tuple[str, ...] | None, redirect: str = ""
) -> tuple[int, str]:
    """Status and standard error, through a shell that redirects; ``cut`` None is plain Python."""
    if cut is None:
        command = [sys.executable, "-c", "import sys, front; sys.exit(front.main())", *arguments]
    else:
        command = [sys.executable, "-m", "shardwright", "run", "-q", *cut, str(app), "--", *arguments]
    surroundings = environment(tmp_path, {"PYTHONPATH": str(app) if cut is None else ""})
    surroundings.pop("PYTHONUNBUFFERED", None)
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=surroundings,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("cut", SHAPES)
@pytest.mark.parametrize("what", ["text", "odd", "true"])
def test_what_main_returns_is_what_sys_exit_would_get(
    tmp_path: Path, app: Path, what: str, cut: tuple[str, ...]
) -> None:
    uncut = ends(tmp_path, app, (what,), cut=None)
    assert uncut[0] == 1
    assert ends(tmp_path, app, (what,), cut=cut) == uncut


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("cut", SHAPES)
@pytest.mark.parametrize("what", ["print", "print-and-3", "text"])
def test_output_that_cannot_be_written_is_a_failure(tmp_path: Path, app: Path, what: str, cut: tuple[str, ...]) -> None:
    uncut = ends(tmp_path, app, (what,), cut=None, redirect=">/dev/full")
    assert uncut[0] == 120 and "No space left" in uncut[1]
    assert ends(tmp_path, app, (what,), cut=cut, redirect=">/dev/full") == uncut


@pytest.mark.parametrize("cut", SHAPES)
@pytest.mark.parametrize("redirect", [">&-", ">&- <&-", "<&-"])
def test_streams_that_are_closed_are_none_of_our_business(
    tmp_path: Path, app: Path, redirect: str, cut: tuple[str, ...]
) -> None:
    assert ends(tmp_path, app, ("much",), cut=cut, redirect=redirect) == (0, "")


def test_nothing_can_be_heard_where_standard_error_is_closed(tmp_path: Path, app: Path) -> None:
    assert ends(tmp_path, app, ("text",), cut=(), redirect=">&- 2>&- <&-") == (1, "")


@pytest.mark.parametrize("cut", SHAPES)
@pytest.mark.parametrize("what", ["fail", "box", "handled"])
def test_a_traceback_has_the_frames_of_the_program_alone(
    tmp_path: Path, app: Path, what: str, cut: tuple[str, ...]
) -> None:
    status, said = ends(tmp_path, app, (what,), cut=cut)
    assert status == 1
    files = {line.split('"')[1] for line in said.splitlines() if line.startswith("  File ")}
    assert files == {str(app / "front.py"), str(app / "back.py")}, said
    assert said.count("Traceback (most recent call last):") == ends(tmp_path, app, (what,), cut=None)[1].count(
        "Traceback"
    )


def test_at_a_terminal_lines_are_shown_as_they_are_printed(tmp_path: Path, app: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shardwright", "run", "-q", str(app), "--", "wait"],
        stdin=theirs,
        stdout=theirs,
        env=environment(tmp_path),
    )
    try:
        os.close(theirs)
        seen = b""
        while b"before" not in seen:  # it does not end before we answer
            seen += os.read(ours, 1000)
        os.write(ours, b"go on\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
