"""The layers hold, and the check that holds them notices each kind of violation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("composition", "controller", "placement", "forecast", "model", "errors")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"}
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the sources and of the contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    return tmp_path


def plant(house: Path, module: str, code: str) -> None:
    path = house / "src" / Path(*module.split("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in path.parents:
        if parent == house / "src":
            break
        (parent / "__init__.py").touch()
    path.with_suffix(".py").write_text(code + "\n", encoding="utf-8")


def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "code", "contract"),
    [
        ("controller._planted", "import shardwright.node", "Arrows point down only"),
        ("composition._planted", "import shardwright.controller", "Arrows point down only"),
        ("guest._planted", "import shardwright.sandbox.process", "Only node touches concrete sandboxes"),
        ("guest._planted", "from shardwright import sandbox", "The guest knows nothing"),
        ("cli._planted", "import shardwright.testing", "Arrows point down only"),
        ("model._planted", "from shardwright.contracts import Clock", "Arrows point down only"),
        ("annex._planted", "", "Arrows point down only"),
        ("controller._planted", "import socket", "Pure rooms"),
        ("placement._planted", "from time import monotonic", "Pure rooms"),
        ("composition._planted", "import sqlite3", "Pure rooms"),
        ("manifest._planted", "import subprocess", "The manifest reads files"),
        ("node._planted", "import ray", "Only cluster._ray imports Ray"),
        ("cluster._spread", "import ray", "Only cluster._ray imports Ray"),
        ("testing._planted", "import shardwright.transport.shm", "Only node and guest touch concrete transports"),
        ("cluster._planted", "import shardwright.sandbox.process", "Only node touches concrete sandboxes"),
    ],
)
def test_a_planted_violation_is_found(house: Path, module: str, code: str, contract: str) -> None:
    (house / "src" / "shardwright" / "sandbox" / "process").mkdir(exist_ok=True)
    (house / "src" / "shardwright" / "sandbox" / "process" / "__init__.py").touch()
    plant(house, f"shardwright.{module}", code)
    result = lint(house)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), result.stdout


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("cluster._ray", "import ray"),
        ("node._planted", "import shardwright.transport.shm"),
        ("guest._planted", "import shardwright.transport.shm"),
        ("simulation._planted", "import shardwright.controller"),
    ],
)
def test_what_the_house_permits_is_permitted(house: Path, module: str, code: str) -> None:
    plant(house, f"shardwright.{module}", code)
    result = lint(house)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_pure_room_that_is_built_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (pure,) = [contract for contract in contracts if contract["name"].startswith("Pure rooms")]
    package = ROOT / "src" / "shardwright"
    built = {f"shardwright.{room}" for room in PURE if list(package.glob(f"{room}*"))}
    assert built == set(pure["source_modules"])
