"""No number of an error or a finding is used twice."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections import Counter
from pathlib import Path

from shardwright.sharding import CODES
from shardwright.sharding.hazards import RULES

ROOT = Path(__file__).parents[2]


def test_every_number_means_one_thing() -> None:
    loader = importlib.machinery.SourceFileLoader("docs_script", str(ROOT / "scripts" / "docs"))
    spec = importlib.util.spec_from_loader("docs_script", loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    errors = [code for code, _, _ in script.error_codes()]
    assert len(errors) > 25
    used = Counter([*errors, *CODES, *RULES])
    assert not {code: count for code, count in used.items() if count > 1}
