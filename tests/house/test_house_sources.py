"""House rules that no linter knows: words, sizes, what rooms import, what the locks hold."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "shardwright"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
FORBIDDEN_IN_CLASS_NAMES = ("Manager", "Helper", "Util", "Engine")
LONGEST = 400


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_no_class_is_named_after_nothing() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{vertex.lineno} {vertex.name}"
        for path, tree in trees()
        for vertex in ast.walk(tree)
        if isinstance(vertex, ast.ClassDef) and any(word in vertex.name for word in FORBIDDEN_IN_CLASS_NAMES)
    ]
    assert not found


def test_no_module_is_a_drawer() -> None:
    assert not [path for path in FILES if re.fullmatch(r"_?(utils?|helpers?|misc|common)", path.stem)]


def test_rooms_import_leaf_modules_and_never_the_package_root() -> None:
    found = []
    for path, tree in trees():
        if path == SOURCE / "__init__.py":
            continue
        for vertex in ast.walk(tree):
            if isinstance(vertex, ast.Import):
                wrong = any(name.name == "shardwright" for name in vertex.names)
            elif isinstance(vertex, ast.ImportFrom):
                imported = {name.name for name in vertex.names}
                rooms_only = imported <= {*ROOMS, "errors"}
                wrong = vertex.module == "shardwright" and not vertex.level and not rooms_only
            else:
                wrong = False
            if wrong:
                found.append(f"{path.relative_to(ROOT)}:{vertex.lineno}")
    assert not found


def test_only_the_command_line_and_the_guest_read_the_environment() -> None:
    """One configuration path: everything else gets its settings as arguments."""
    found = []
    for path, tree in trees():
        # In one process the node plays the guest's part: it puts secrets where a shard would find them.
        if path.relative_to(SOURCE).parts[0] in ("cli", "guest", "testing") or path.name == "_inproc.py":
            continue
        for vertex in ast.walk(tree):
            reads = isinstance(vertex, ast.Attribute) and vertex.attr in ("getenv", "getenvb")
            if isinstance(vertex, ast.Call) and isinstance(vertex.func, ast.Attribute) and vertex.func.attr == "get":
                reads = ast.unparse(vertex.func.value) == "os.environ"
            if reads or (isinstance(vertex, ast.Subscript) and ast.unparse(vertex.value) == "os.environ"):
                found.append(f"{path.relative_to(ROOT)}:{vertex.lineno}")
    assert not found


def test_long_files_give_their_reason_at_the_top() -> None:
    for path, tree in trees():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            said = (ast.get_docstring(tree) or "").lower()
            assert "long" in said or str(LONGEST) in said, f"{path.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_is_public(room: str) -> None:
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    imports = [vertex for vertex in tree.body if isinstance(vertex, ast.ImportFrom) and vertex.module != "__future__"]
    names = {target.id for vertex in tree.body if isinstance(vertex, ast.Assign) for target in vertex.targets
             if isinstance(target, ast.Name)}  # fmt: skip
    assert ast.get_docstring(tree), f"{room} has no docstring"
    assert not imports or "__all__" in names, f"{room} re-exports without __all__"


def faces() -> list[str]:
    return [room for room in ROOMS if "lazily(" in (SOURCE / room / "__init__.py").read_text(encoding="utf-8")]


@pytest.mark.parametrize("room", faces())
def test_a_lazy_face_has_what_the_types_say(room: str) -> None:
    """What type checkers read, what ``__all__`` says and what is imported at first use are the same names."""
    package = f"shardwright.{room}"
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (vertex for vertex in tree.body if isinstance(vertex, ast.If))
    seen = {(v.module, alias.name) for v in typed.body if isinstance(v, ast.ImportFrom) for alias in v.names}
    (table,) = (v.value.args[1] for v in tree.body if isinstance(v, ast.Assign) and isinstance(v.value, ast.Call))
    homes = ast.literal_eval(table)
    assert {(f"{package}.{home}", name) for home, names in homes.items() for name in names.split()} == seen
    face = importlib.import_module(package)
    assert {name for _, name in seen} <= set(face.__all__)
    assert all(hasattr(face, name) for name in face.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        getattr(face, "no_such_name")  # noqa: B009


LEAN = {
    "shardwright.node._keeper": ("asyncio", "sqlite3", "ssl", "shardwright.node._core", "shardwright.guest._hub"),
    "shardwright.cli._ask": ("asyncio", "sqlite3", "ssl", "numpy", "shardwright.node._core", "shardwright.sharding"),
    "shardwright.guest.__main__": ("sqlite3", "numpy", "rich", "structlog", "shardwright.node", "shardwright.testing"),
}


@pytest.mark.parametrize("module", LEAN)
def test_what_starts_often_imports_little(module: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import {module}; now = set(sys.modules) - before; "
        f"print([name for name in {LEAN[module]!r} if name in now], len(now))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("[] "), done.stdout


# -- requirements ------------------------------------------------------------------------------------------------

LOCKS = ("build", "run", "examples", "test")


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_exact_hashed_and_name_no_host(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[\w])", text.strip())
    assert entries
    assert all(re.match(r"[\w.-]+==\S+", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|@ ", text)


def test_locks_agree_with_each_other() -> None:
    everything = pins("test")
    for lock in LOCKS:
        assert pins(lock).items() <= everything.items() | {("wheel", pins(lock).get("wheel", ""))}, lock


def test_locks_hold_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for lock, declared in (
        ("run", project["dependencies"]),
        ("examples", extras["examples"]),
        ("test", [*project["dependencies"], *extras["examples"], *extras["test"]]),
    ):
        missing = {re.split(r"[<>=!~\[ ;]", line)[0].lower() for line in declared} - pins(lock).keys()
        assert not missing, f"requirements/{lock}.txt lacks {missing}; run scripts/lock"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    record = (ROOT / "docs" / "decisions" / "0003-libraries.md").read_text(encoding="utf-8").lower()
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=!~\[ ;]", line)[0].lower() for line in declared}
    assert not {name for name in names if f"`{name}`" not in record}


def test_extensions_count_their_references_to_singletons() -> None:
    """Headers of Python 3.12 and later return None uncounted, which takes references from Python 3.11.

    An extension on the stable ABI is built by one and loaded by the other.
    """
    found = [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in SOURCE.rglob("*.[ch]")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(
            r"\bPy_RETURN_(NONE|TRUE|FALSE|NOTIMPLEMENTED)\b|return Py_(None|True|False|NotImplemented)\b", line
        )
    ]
    assert found == [], "say `return Py_NewRef(Py_None);`"


def test_extensions_measure_bytes_by_themselves() -> None:
    """What ``#`` in a format reads depends on the headers: those of Python 3.13 let Python 3.11 refuse every such format."""
    found = [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in SOURCE.rglob("*.[ch]")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r'(CallFunction|CallMethod|BuildValue|Arg_Parse\w*)\([^"]*"[^"]*#', line)
    ]
    assert found == [], "hand a bytes object over (PyBytes_FromStringAndSize)"
