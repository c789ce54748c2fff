"""Private modules: one copy of an application for each namespace, and nothing of it in ``sys.modules``."""

from __future__ import annotations

import json
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shardwright.guest import Caller, Chains, Namespace, Proxies, Router, _namespace, public_module
from shardwright.manifest import load
from shardwright.model.ids import ComponentName
from shardwright.sharding import plan as plan_manifest

FILES = {
    "pkg/__init__.py": "import pkg.leaf as alias\nfrom . import other\nVALUE = 1\n",
    "pkg/leaf.py": "from dataclasses import dataclass\nstate = []\n\n\n@dataclass\nclass Leaf:\n    n: 'int' = 3\n",
    "pkg/other.py": "from .leaf import Leaf, state\nfrom .. import nowhere\n"
    if False
    else "from .leaf import Leaf, state\n",
    "pkg/starred.py": "__all__ = ['one']\none = 1\ntwo = 2\n",
    "bare/inside.py": "NAME = __name__\n",
    "bare/deep/low.py": "NAME = __name__\n",
    "circle_a.py": "import circle_b\nA = 1\n\n\ndef both():\n    return A + circle_b.B\n",
    "circle_b.py": "import circle_a\nB = 2\n\n\ndef both():\n    return circle_a.A + B\n",
    "broken.py": "started = True\nimport json\n1 / 0\n",
    "lazy.py": (
        "import importlib\nfrom importlib import import_module\n\n\n"
        "def load(name):\n    return importlib.import_module(name), import_module(name)\n"
    ),
    "star.py": "from pkg.starred import *\n",
    "missing.py": "from pkg import no_such\n",
    "deep_error.py": "from wants import anything\n",
    "wants/__init__.py": "",
    "wants/anything.py": "import not_installed_at_all\n",
    "replaced.py": "import sys\n\n\nclass Fake:\n    answer = 42\n\n\nsys.modules[__name__] = Fake()\n",
    "owned.py": "def f():\n    return 1\n",
    "json/readme.txt": "a folder that must not shadow json\n",
    "shardwright.toml": '[app]\nname = "private"\n[components.owned]\ncode = "owned"\n',
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


class Nobody:
    def bind(self, route: Any, context: Any) -> Any:
        raise AssertionError("nothing is called here")

    def why(self, peer: object) -> str:
        return "killed by signal 9"

    def release(self, route: Any, link: Any) -> None:
        raise AssertionError("nothing is called here")


def namespace(root: Path, component: str | None = "owned") -> Namespace:
    plan = plan_manifest(load(root))
    proxies = Proxies(plan, Caller(Router(Nobody()), Chains(), None))
    return Namespace(plan, None if component is None else ComponentName(component), proxies)


@pytest.fixture(autouse=True)
def nothing_is_left_visible() -> Any:
    before = dict(sys.modules)
    yield
    tops = {name.partition(".")[0].partition("/")[0].removesuffix(".py") for name in FILES} - {"json"}
    left = {name for name in sys.modules if name not in before and name.partition(".")[0] in tops}
    assert not left
    assert sys.modules["json"] is json


def test_two_namespaces_share_no_module_of_the_application(root: Path) -> None:
    one, two = namespace(root), namespace(root)
    first, second = one.import_module("pkg.leaf"), two.import_module("pkg.leaf")
    first.state.append(1)
    assert second.state == []
    assert first.Leaf is not second.Leaf
    assert first is one.import_module("pkg").leaf is one.import_module("pkg").alias is one.import_module("pkg.leaf")
    assert one.import_module("pkg.other").state is first.state
    assert first.Leaf() == one.import_module("pkg.other").Leaf()


def test_modules_of_others_are_the_real_ones(root: Path) -> None:
    private = namespace(root)
    assert private.import_module("json") is json, "a folder without __init__.py gives way to the library"
    assert private.import_module("threading") is threading


def test_a_module_looks_as_an_imported_one(root: Path) -> None:
    module = namespace(root).import_module("pkg.leaf")
    assert module.__name__ == "pkg.leaf"
    assert module.__package__ == "pkg"
    assert module.__file__ == str(root / "pkg" / "leaf.py")
    assert module.__spec__ is not None
    assert module.__spec__.name == "pkg.leaf"
    assert namespace(root).import_module("pkg").__path__ == [str(root / "pkg")]


def test_folders_without_init_are_packages(root: Path) -> None:
    private = namespace(root)
    assert private.import_module("bare.inside").NAME == "bare.inside"
    assert private.import_module("bare.deep.low").NAME == "bare.deep.low"


@pytest.mark.parametrize("first", ["circle_a", "circle_b"])
def test_circular_imports(root: Path, first: str) -> None:
    private = namespace(root)
    assert private.import_module(first).both() == 3
    assert private.import_module("circle_a").circle_b is private.import_module("circle_b")


def test_importlib_gives_private_modules_to_private_code(root: Path) -> None:
    private = namespace(root)
    module, again = private.import_module("lazy").load("pkg.leaf")
    assert module is again is private.import_module("pkg.leaf")
    outside, _ = private.import_module("lazy").load("json")
    assert outside is json


def test_star_takes_what_all_names(root: Path) -> None:
    star = namespace(root).import_module("star")
    assert star.one == 1
    assert not hasattr(star, "two")


def test_a_failing_import_leaves_nothing(root: Path) -> None:
    private = namespace(root)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            private.import_module("broken")


def test_missing_names_are_told_as_python_does(root: Path) -> None:
    private = namespace(root)
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'pkg\.absent'"):
        private.import_module("pkg.absent")
    with pytest.raises(ModuleNotFoundError, match=r"'pkg\.leaf' is not a package"):
        private.import_module("pkg.leaf.below")
    with pytest.raises(ImportError, match="cannot import name 'no_such' from 'pkg'"):
        private.import_module("missing")
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        private.import_module("deep_error")


def test_a_module_may_put_something_else_in_its_place(root: Path) -> None:
    assert namespace(root).import_module("replaced").answer == 42  # type: ignore[attr-defined]


def test_what_another_component_owns_is_generated(root: Path) -> None:
    assert namespace(root).import_module("owned").f() == 1
    generated = namespace(root, None).import_module("owned")
    assert generated.__shardwright__ is not None  # type: ignore[attr-defined]
    assert generated.__file__ == str(root / "owned.py")


def test_threads_that_import_at_once_get_one_module(root: Path) -> None:
    (root / "slow.py").write_text("import time\ntime.sleep(0.05)\nVALUE = object()\n")
    private = namespace(root)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(private.import_module("slow").VALUE)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_a_module_that_executes_elsewhere_hides_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard in this process imports; the class of an error that arrives meanwhile is still the user's own."""
    own, theirs = ModuleType("met_twice"), ModuleType("met_twice")
    monkeypatch.setitem(sys.modules, "met_twice", own)
    _namespace._private.add(theirs)
    shown, seen = threading.Event(), threading.Event()

    def executes() -> None:
        with _namespace.import_turn, _namespace.import_turn.visible("met_twice", theirs):
            shown.set()
            seen.wait(10)

    thread = threading.Thread(target=executes)
    thread.start()
    try:
        assert shown.wait(10) and sys.modules["met_twice"] is theirs
        assert public_module("met_twice") is own
    finally:
        seen.set()
        thread.join()
    assert public_module("met_twice") is own
    assert public_module("met_never") is None
