"""The README's ten lines, verbatim: they plan, run, and get a manifest from `shardwright init`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def blocks() -> list[tuple[str, str]]:
    """``(language, text)`` of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def program() -> dict[str, str]:
    """The files whose block begins with a comment that names them."""
    found = {}
    for language, text in blocks():
        named = re.match(r"# (\S+\.py)\n", text)
        if language == "python" and named is not None:
            found[named[1]] = text
    return found


def only(language: str, start: str) -> str:
    (text,) = (text for kind, text in blocks() if kind == language and text.startswith(start))
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert set(program()) == {"shop/prices.py", "shop/till.py"}
    app = tmp_path / "app"
    for name, text in program().items():
        path = app / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return app


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "XDG_STATE_HOME": str(folder.parent / "state"),
        "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", str(folder.parent)),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_program_runs_as_the_readme_says(folder: Path) -> None:
    (folder / "shardwright.toml").write_text(only("toml", "[app]"), "utf-8")
    plan = run(folder, "-m", "shardwright", "plan", ".")
    assert plan.returncode == 0, plan.stderr
    assert "till -> prices" in plan.stdout and "Refusals" not in plan.stdout
    (folder / "try.py").write_text(only("python", "import shardwright"), "utf-8")
    done = run(folder, "try.py")
    assert (done.returncode, done.stdout) == (0, "357\n"), done.stderr


def test_init_writes_a_manifest_that_plans(folder: Path) -> None:
    made = run(folder, "-m", "shardwright", "init", ".")
    assert made.returncode == 0, made.stderr
    written = (folder / "shardwright.toml").read_text("utf-8")
    assert 'code = "shop.prices"' in written and 'code = "shop.till"' in written
    plan = run(folder, "-m", "shardwright", "plan", ".")
    assert plan.returncode == 0, plan.stderr
    assert "till -> prices" in plan.stdout
    (folder / "try.py").write_text(only("python", "import shardwright"), "utf-8")
    done = run(folder, "try.py")
    assert (done.returncode, done.stdout) == (0, "357\n"), done.stderr


def test_init_says_one_code_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", "-m", "shardwright", "init", ".")
    assert done.returncode == 2
    assert "error SW203: " in done.stderr
    assert re.findall(r"SW\d{3}", done.stderr) == ["SW203"]
