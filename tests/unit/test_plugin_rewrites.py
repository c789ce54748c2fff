"""pytest rewrites the asserts of what is for tests, and leaves the rest of Shardwright as it is."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "loader"),
    [
        ("shardwright.gateway._limits", "SourceFileLoader"),
        ("shardwright.testing._transports", "AssertionRewritingHook"),
    ],
)
def test_only_modules_for_tests_are_rewritten(module: str, loader: str) -> None:
    spec = importlib.import_module(module).__spec__
    assert spec is not None and type(spec.loader).__name__ == loader
