"""What is to be done once a module is imported: then, once, and without a trace of us in the module."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.guest._when_imported import when_imported


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that nobody has imported yet, and its file."""
    file = tmp_path / "came_late.py"
    file.write_text("loader = __spec__.loader\nanswer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    yield file
    sys.modules.pop("came_late", None)
    assert sys.meta_path == finders, "what was put there goes"


def test_it_is_done_when_the_module_has_been_executed(late: Path) -> None:
    seen: list[int] = []
    when_imported("came_late", lambda: seen.append(sys.modules["came_late"].answer))
    importlib.import_module("json")
    assert not seen
    module = importlib.import_module("came_late")
    assert seen == [42]
    importlib.reload(module)
    assert seen == [42], "once"


def test_the_module_looks_as_ever(late: Path) -> None:
    when_imported("came_late", lambda: None)
    module = importlib.import_module("came_late")
    assert module.__spec__ is not None
    kind = importlib.machinery.SourceFileLoader
    assert {type(each) for each in (module.loader, module.__loader__, module.__spec__.loader)} == {kind}
    assert module.__file__ == str(late) == module.__spec__.origin


def test_what_is_there_already_is_not_waited_for() -> None:
    seen: list[str] = []
    finders = list(sys.meta_path)
    when_imported("threading", lambda: seen.append(threading.__name__))()
    assert seen == ["threading"] and sys.meta_path == finders


def test_an_import_that_failed_may_be_tried_again(late: Path) -> None:
    seen: list[int] = []
    source = late.read_text()
    late.write_text("raise ValueError('not yet')\n")
    when_imported("came_late", lambda: seen.append(1))
    with pytest.raises(ValueError, match="not yet"):
        importlib.import_module("came_late")
    assert not seen
    late.write_text(source)
    importlib.invalidate_caches()
    importlib.import_module("came_late")
    assert seen == [1]


def test_it_may_be_taken_back(late: Path) -> None:
    seen: list[int] = []
    when_imported("came_late", lambda: seen.append(1))()
    importlib.import_module("came_late")
    assert not seen


def test_two_that_wait_for_the_same_module(late: Path) -> None:
    seen: list[int] = []
    when_imported("came_late", lambda: seen.append(1))
    when_imported("came_late", lambda: seen.append(2))
    importlib.import_module("came_late")
    assert sorted(seen) == [1, 2]


def test_a_name_that_nobody_finds_is_an_import_error_as_ever() -> None:
    undo = when_imported("there_is_no_such_module", lambda: None)
    try:
        with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
            importlib.import_module("there_is_no_such_module")
    finally:
        undo()


def test_a_guest_starts_without_asyncio() -> None:
    """A fifth of its start, which components without coroutines do not need."""
    program = "import sys, shardwright.guest.__main__; print('asyncio' in sys.modules, 'ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False False\n"
