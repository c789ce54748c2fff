"""The units in ``deploy/`` are what systemd understands, and as hardened as the documentation says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright.cli import _run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Instances of both units, with a program that is there."""
    for kind in ("service", "socket"):
        text = (DEPLOY / f"shardwright@.{kind}").read_text(encoding="utf-8")
        (tmp_path / f"shardwright@arena.{kind}").write_text(
            text.replace("/opt/shardwright/bin/shardwright", sys.executable), encoding="utf-8"
        )
    return [str(tmp_path / f"shardwright@arena.{kind}") for kind in ("service", "socket")]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_takes_the_units_without_a_warning(units: list[str]) -> None:
    found = analyze("verify", *units)
    assert found.returncode == 0 and found.stderr.strip() == "", found.stderr


def test_the_service_is_as_hardened_as_is_said(units: list[str]) -> None:
    found = analyze("security", "--offline=yes", "--threshold=30", units[0])
    assert found.returncode == 0, found.stdout
    level = re.search(r"exposure level for \S+: ([0-9.]+)", found.stdout)
    said = re.search(r"rates ([0-9.]+)", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    assert level and said and float(level[1]) <= float(said[1])


def test_the_options_in_units_and_dockerfile_exist() -> None:
    known = {option for parameter in _run.run.params for option in parameter.opts}
    for name, start in (("shardwright@.service", "ExecStart="), ("Dockerfile", "CMD [")):
        (line,) = [line for line in (DEPLOY / name).read_text().splitlines() if line.startswith(start)]
        used = set(re.findall(r"--[a-z-]+", line))
        assert used and used <= known, name


def test_the_dockerfile_copies_and_installs_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for path in re.findall(r"requirements/\S+", text):
        assert (ROOT / path).is_file(), path
    assert re.search(r"^USER 10001$", text, re.MULTILINE) and "ENTRYPOINT" in text
