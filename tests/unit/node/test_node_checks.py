"""What hinders a start is told before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.errors import ManifestError
from shardwright.manifest import load
from shardwright.node._checks import plan_to_start, withheld

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


def test_variables_that_are_set_and_withheld_are_told(tmp_path: Path) -> None:
    """By name, where code reads them; not what everybody has, what is not set, or what another component is given."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    reads = "os.environ.get('COLOUR'), os.getenv('HOME'), os.environ['SIZE'], os.getenv('KEY')"
    (tmp_path / "shop" / "till.py").write_text(f"import os\ndef read():\n    return {reads}\n")
    program = "import os\nfrom shop.till import read\ndef main():\n    print(os.environ['MODE'], read())\n"
    (tmp_path / "shop" / "main.py").write_text(program)
    text = '[app]\nname = "shop"\nmain = "shop.main:main"\n'
    text += '[components.till]\ncode = "shop.till"\nsecrets = { KEY = "env:KEY" }\n'
    (tmp_path / "shardwright.toml").write_text(text)
    environment = {"COLOUR": "red", "HOME": "/", "MODE": "fast", "KEY": "k", "OTHER": "x"}

    def told() -> tuple[str, ...]:
        manifest = load(tmp_path, environment={})
        return withheld(manifest, plan_to_start(manifest, environment), environment)

    assert told() == (
        'till reads COLOUR of the environment and is not given it; [components.till] with env = ["COLOUR"] would',
        "main reads MODE of the environment and is not given it; "
        '[components.main] with code = "shop.main" and env = ["MODE"] would',
    )
    text += 'env = ["COLOUR"]\n[components.main]\ncode = "shop.main"\nenv = ["MODE"]\n'
    (tmp_path / "shardwright.toml").write_text(text)
    assert told() == ()
