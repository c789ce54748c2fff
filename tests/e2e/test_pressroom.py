"""The press room, sharded and not: the same bytes, from at least a hundred README texts, over at least three shards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PRESSROOM = ROOT / "examples" / "pressroom"
CORPUS = ROOT / ".venv-corpus"
DOCUMENTS = 110


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", str(folder)),
        "PYTHONPATH": os.pathsep.join([str(CORPUS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def readme_texts() -> int:
    """README texts in the metadata of installed packages, as the press room counts them."""
    names = set()
    for distribution in distributions(path=[str(CORPUS), *sys.path]):
        text = distribution.metadata.get_payload() or distribution.metadata.get("Description") or ""
        if len(str(text)) >= 200:
            names.add(re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower())
    return len(names)


def test_the_same_bytes_over_several_shards(tmp_path: Path, record_exercised: Any) -> None:
    assert readme_texts() >= DOCUMENTS, "scripts/test fetches the README texts into .venv-corpus"
    command = ["--limit", str(DOCUMENTS)]
    plain = subprocess.run(
        [sys.executable, "-m", "pressroom", "--out", str(tmp_path / "plain"), *command],
        cwd=PRESSROOM, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    sharded = subprocess.run(
        [sys.executable, "-m", "shardwright", "run", str(PRESSROOM), "--", "--out", str(tmp_path / "sharded"), *command],
        cwd=PRESSROOM, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert sharded.returncode == 0, sharded.stderr
    assert sharded.stdout == plain.stdout
    rendered = tree(tmp_path / "plain")
    assert tree(tmp_path / "sharded") == rendered

    [journal] = (tmp_path / "state").rglob("journal.sqlite3")
    with sqlite3.connect(journal) as database:
        ready = database.execute(
            "SELECT component, inputs FROM decisions WHERE kind = 'ready' AND shard != ''"
        ).fetchall()
    database.close()
    processes = {json.loads(inputs)["pid"] for _, inputs in ready}
    assert len(processes) >= 3
    assert {component for component, _ in ready} >= {"press", "markdown", "highlight", "thumbs", "index"}
    record_exercised("README texts printed, sharded and not", DOCUMENTS)
    record_exercised("files compared", len(rendered))
    record_exercised("shard processes of the press room", len(processes))
