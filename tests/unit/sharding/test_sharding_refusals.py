"""What makes a plan impossible: each a PlanError with its place and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardwright.errors import PlanError


def refused(plan_app: Any, files: dict[str, str], components: dict[str, Any], main: str = "") -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan_app(files, components, main)
    assert caught.value.remedy
    return caught.value


def said(error: PlanError) -> str:
    assert "SW2" not in error.message
    return f"{error.code} {error.message}"


def test_bad_syntax_names_file_and_line(plan_app: Any) -> None:
    error = refused(plan_app, {"m.py": "x = 1\ndef f(:\n"}, {"m": "m"})
    assert said(error).startswith("SW202 m.py:2: ")


def test_bad_syntax_in_a_common_module_that_is_imported(plan_app: Any) -> None:
    error = refused(plan_app, {"m.py": "import c\n", "c.py": "# one\n\n)\n"}, {"m": "m"})
    assert said(error).startswith("SW202 c.py:3: ")


@pytest.mark.parametrize("raw", [b"x = '\xff'\n", b"# coding: nonsense\n", b"x = 1\0\n"])
def test_files_that_are_no_text(plan_app: Any, tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "m.py").write_bytes(raw)
    assert said(refused(plan_app, {}, {"m": "m"})).startswith("SW202 m.py:1: ")


def test_declared_encodings_are_read(plan_app: Any, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes("# coding: latin-1\nNAME = 'Jürgen'\ndef f(): ...\n".encode("latin-1"))
    assert "NAME = 'Jürgen'" in plan_app({}, {"m": "m"}).modules[0].stub_source


@pytest.mark.parametrize(
    ("code", "near"),
    [("ap.stock", "app.stock"), ("app.stok", "app.stock"), ("stock", "app.stock"), ("app.Stock", "app.stock")],
)
def test_a_missing_module_names_the_nearest(plan_app: Any, code: str, near: str) -> None:
    error = refused(plan_app, {"app/__init__.py": "", "app/stock.py": "def f(): ...\n"}, {"m": code})
    assert said(error).startswith(f"SW203 component 'm': no module {code!r}")
    assert error.remedy == f"did you mean {near!r}?"


def test_a_missing_module_with_nothing_near(plan_app: Any) -> None:
    assert refused(plan_app, {"app.py": ""}, {"m": "zzzz"}).remedy == "check `code` and `app.root`"


@pytest.mark.parametrize(
    ("code", "near"), [("m:serv", "serve"), ("m:World.stp", "step"), ("m:Wrold", "World"), ("m:zzz", "")]
)
def test_a_missing_attribute_names_the_nearest(plan_app: Any, code: str, near: str) -> None:
    files = {"m.py": "def serve(): ...\nclass World:\n    def step(self): ...\n"}
    error = refused(plan_app, files, {"m": code})
    assert said(error) == f"SW204 component 'm': m.py defines no {code[2:]!r}"
    assert (f"did you mean {near!r}?" if near else "define 'zzz' in m.py") == error.remedy


def test_an_attribute_that_may_come_from_elsewhere_is_believed(plan_app: Any) -> None:
    plan = plan_app({"m.py": "from vendor import *\ndef f(): ...\n"}, {"m": "m:app"})
    assert plan.definition("m").entry("app").module == "m"


def test_missing_main(plan_app: Any) -> None:
    files = {"m.py": "def serve(): ...\n"}
    assert said(refused(plan_app, files, {"m": "m"}, "mm:serve")).startswith("SW203 app.main: no module 'mm'")
    assert refused(plan_app, files, {"m": "m"}, "m:sevre").remedy == "did you mean 'serve'?"


def test_a_module_without_source(plan_app: Any, tmp_path: Path) -> None:
    (tmp_path / "fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    (tmp_path / "fast.abi3.so").write_bytes(b"\x7fELF")
    assert said(refused(plan_app, {}, {"m": "fast"})) == "SW205 component 'm': module 'fast' has no Python source"


def test_two_owners_of_one_module(plan_app: Any) -> None:
    files = {"m.py": "class A: ...\nclass B: ...\n"}
    error = refused(plan_app, files, {"a": "m:A", "b": "m:B"})
    assert said(error) == "SW206 components 'a' and 'b' both own module 'm'"


def test_a_component_called_main_must_own_main(plan_app: Any) -> None:
    files = {"m.py": "def f(): ...\n", "run.py": "def go(): ...\n"}
    assert said(refused(plan_app, files, {"main": "m"}, "run:go")).startswith("SW206 component 'main' does not own")


def test_plan_errors_survive_pickling(plan_app: Any) -> None:
    import pickle

    error = refused(plan_app, {"m.py": "def f(:\n"}, {"m": "m"})
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.remedy, again.code) == (error.message, error.remedy, "SW202")


def test_nothing_is_imported(plan_app: Any, tmp_path: Path) -> None:
    source = (
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).write_text('x')\nraise SystemExit\ndef f(): ...\n"
    )
    plan = plan_app({"m.py": source, "p/__init__.py": source, "p/q.py": source}, {"m": "m", "q": "p.q"})
    assert len(plan.definitions) == 2
    assert not (tmp_path / "ran").exists()
