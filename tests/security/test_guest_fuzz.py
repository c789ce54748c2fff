"""The dice of ``fuzz_guest.py`` with fixed seeds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _fuzz() -> Any:
    name = "shardwright_fuzz_guest"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fuzz_guest.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_a_guest_sends(tmp_path: Path, seed: int, record_exercised: Callable[[str, int], None]) -> None:
    attack = _fuzz().Attack(seed, tmp_path)
    attack.control(2000)
    attack.callers(800)
    attack.callees(2000)
    attack.check()
    for name, count in attack.counts.items():
        record_exercised(f"hostile conversations: {name}", count)
