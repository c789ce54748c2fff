"""Each test imports the example afresh: their modules hold state, and no other test shall find them imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def pressroom(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, with all its modules as its attributes."""
    yield from _fresh(
        "pressroom", ("cli", "highlight", "index", "markdown", "models", "sources", "thumbs"), monkeypatch
    )


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, with all its modules as its attributes."""
    for name in ("ARENA_JWT_KEY", "ARENA_ARGON2_MEMORY_KIB", "ARENA_INVENTORY"):
        monkeypatch.delenv(name, raising=False)
    yield from _fresh("arena", ("tools", "maps", "visitors"), monkeypatch)


def _fresh(package: str, modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES / package)
    _forget(package)
    try:
        for name in modules:
            importlib.import_module(f"{package}.{name}")
        yield sys.modules[package]
    finally:
        inventory = sys.modules.get("arena.inventory")
        if inventory is not None and inventory._connection is not None:
            inventory._connection.close()
        _forget(package)


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
