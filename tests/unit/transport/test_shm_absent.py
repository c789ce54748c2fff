"""Where the extension is missing, shared memory says so and every use of it is an error with a remedy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from shardwright.errors import SandboxError

ROOM = "shardwright.transport.shm"


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The room imported anew in an interpreter that finds no extension; the real one is put back."""
    monkeypatch.delitem(sys.modules, ROOM, raising=False)
    monkeypatch.setitem(sys.modules, f"{ROOM}._ring", None)
    parent = importlib.import_module("shardwright.transport")
    monkeypatch.setattr(parent, "shm", None, raising=False)
    yield importlib.import_module(ROOM)


def test_it_says_that_it_is_not_available_and_why(without_extension: ModuleType) -> None:
    assert without_extension.available() is False
    assert "was not built" in without_extension.reason()
    assert "python3-dev" in without_extension.reason()


def test_each_use_is_an_error_with_the_remedy(without_extension: ModuleType) -> None:
    for use in (
        lambda: without_extension.create_memfd("name", 1),
        lambda: without_extension.seals(0),
        lambda: without_extension.check_memfd(0, 1),
        lambda: without_extension.RingTransport,
        lambda: without_extension.Doorbell,
    ):
        with pytest.raises(SandboxError, match="not available") as caught:
            use()
        assert "reinstall" in caught.value.remedy


def test_what_never_was_there_is_still_an_attribute_error(without_extension: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute"):
        _ = without_extension.Ring
