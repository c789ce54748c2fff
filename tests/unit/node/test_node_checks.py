"""What hinders a start is told before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.errors import ManifestError
from shardwright.manifest import load
from shardwright.node._checks import plan_to_start

MANIFEST = """
[app]
name = "shop"
[components.web]
code = "{code}"
[gateway]
bind = "127.0.0.1:0"
[[routes]]
path = "/"
app = "web"
"""
APPLICATIONS = "async def app(scope, receive, send):\n    pass\n"


@pytest.mark.parametrize(("code", "starts"), [("web:app", True), ("plain", False)])
def test_a_route_to_nowhere_hinders_a_start(tmp_path: Path, code: str, starts: bool) -> None:
    (tmp_path / "web.py").write_text(APPLICATIONS)
    (tmp_path / "plain.py").write_text("def number():\n    return 3\n")
    (tmp_path / "shardwright.toml").write_text(MANIFEST.format(code=code))
    manifest = load(tmp_path, environment={})
    if starts:
        assert [route.path for route in plan_to_start(manifest, {}).routes] == ["/"]
    else:
        with pytest.raises(ManifestError) as refused:
            plan_to_start(manifest, {})
        assert len(refused.value.problems) == 1 and refused.value.problems[0].startswith("SW224 ")
