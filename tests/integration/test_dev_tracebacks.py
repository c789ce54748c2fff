"""Exceptions that crossed shards, as people read them: one traceback, files and lines of the program, none of ours."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import shardwright as public
from cli_apps import environment, shardwright, write_app
from dev_terminals import Typing

MANIFEST = """
[app]
name = "failing"
main = "tool:main"
[components.front]
code = "front"
[components.pricing]
code = "pricing"
[components.tax]
code = "tax"
"""
MODULES = {
    "front": "import pricing\n\ndef total(n):\n    return pricing.price(n) + 1\n\n"
    "async def awaited(n):\n    return await pricing.awaited(n)\n",
    "pricing": "import tax\n\ndef price(n):\n    try:\n        return tax.rate(n)\n    except KeyError as error:\n"
    "        raise ValueError('no price') from error\n\nasync def awaited(n):\n    return tax.rate(n)\n",
    "tax": "RATES = {1: 2}\n\ndef rate(n):\n    return RATES[n]\n",
    "tool": "import front\n\ndef main():\n    return front.total(7)\n",
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "app", MANIFEST, **MODULES)


def places(text: str) -> list[tuple[str, int, str]]:
    """File, line and function of every frame."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    return [(os.path.basename(file), int(line), function) for file, line, function in found]


@pytest.mark.parametrize("inproc", [False, True])
def test_one_traceback_over_three_shards(app: Path, tmp_path: Path, inproc: bool) -> None:
    with public.start(app, inproc=inproc, state=tmp_path / "state") as node, node.session() as session:
        with pytest.raises(ValueError, match="no price") as caught:
            session.call("front.total", 7)
        text = "".join(traceback.format_exception(caught.value))
        here = os.path.basename(__file__)
        shown = [place for place in places(text) if place[0] != here]
        assert shown == [
            ("pricing.py", 5, "price"), ("tax.py", 4, "rate"), ("front.py", 4, "total"), ("pricing.py", 7, "price"),
        ]  # fmt: skip
        assert f'File "{app}/tax.py", line 4, in rate\n    return RATES[n]\n' in text
        assert text.rstrip().endswith("raised in shards of front > pricing")
        with pytest.raises(KeyError) as caught_key:
            session.call("front.awaited", 7)
        text = "".join(traceback.format_exception(caught_key.value))
        assert [place[:2] for place in places(text) if place[0] != here] == [
            ("front.py", 7),
            ("pricing.py", 10),
            ("tax.py", 4),
        ]
        assert "raised in shards of front > pricing > tax" in text
        assert caught_key.value.__traceback__ is not None  # debuggers step through it


def test_a_program_prints_it_so_at_a_terminal(app: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "shardwright", "run", str(app), "--quiet"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(tmp_path), start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        shown = Typing(ours).to_end(60)
        assert command.wait(20) == 1
    finally:
        if command.poll() is None:
            command.kill()
            command.wait(10)
        os.close(ours)
    assert [place[0] for place in places(shown)] == ["pricing.py", "tax.py", "tool.py", "front.py", "pricing.py"]
    assert "raised in shards of tool > front > pricing" in shown or "raised in shards of front > pricing" in shown


def test_pytest_shows_the_programs_lines(app: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_failing.py"
    test.write_text(
        "import shardwright\n\ndef test_total():\n"
        f"    with shardwright.start({str(app)!r}, state={str(tmp_path / 'state')!r}) as node, node.session() as session:\n"
        "        session.call('front.total', 7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)],
        capture_output=True, text=True, timeout=100, cwd=tmp_path,
        env={**environment(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    for place in ("app/front.py:4:", "app/pricing.py:7:", "app/tax.py:4:"):
        assert place in done.stdout, done.stdout
    assert "raised in shards of front > pricing" in done.stdout
    assert "guest/_" not in done.stdout and "<call to" not in done.stdout


def test_in_one_process_the_standard_debugger_stops_in_components(app: Path, tmp_path: Path) -> None:
    """``python -m pdb`` on the whole, a breakpoint in a component: no shard of its own stands in between."""
    (app / "tool.py").write_text("import front\n\ndef main():\n    breakpoint()\n    return front.total(1)\n")
    (app / "pricing.py").write_text("def price(n):\n    here = n\n    breakpoint()\n    return here\n")
    script = tmp_path / "whole.py"
    script.write_text(f"from shardwright.cli import main\nmain(['run', {str(app)!r}, '--inproc', '--quiet'])\n")
    done = subprocess.run(
        [sys.executable, "-m", "pdb", "-c", "continue", str(script)],
        input="where\np __name__\ncontinue\np here\ncontinue\nquit\n", capture_output=True, text=True, timeout=60,
        env=environment(tmp_path),
    )  # fmt: skip
    # from Python 3.13 on it stops at the line of the breakpoint itself, before that at the next one
    assert re.search(r"tool\.py\([45]\)main\(\)", done.stdout) and "'tool'" in done.stdout, done.stdout + done.stderr
    assert re.search(r"pricing\.py\([34]\)price\(\)", done.stdout)
    assert shardwright(tmp_path, "run", str(app), "--inproc", "--quiet", more={"PYTHONBREAKPOINT": "0"}).returncode == 2
