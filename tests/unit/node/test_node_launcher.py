"""Pieces of the launcher that need no process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import shardwright.errors
from shardwright.contracts.sandbox import Exit, SandboxHandle
from shardwright.errors import NodeError
from shardwright.guest import HEADER, frame
from shardwright.manifest import load
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.node._keeper_client import python_command
from shardwright.node._keeper_messages import (
    Adopt,
    AskUsage,
    Delete,
    Deleted,
    Kill,
    Launch,
    Refused,
    Resize,
    Started,
    from_keeper,
    to_keeper,
)
from shardwright.node._launcher import PASSED_ON, THREADS, Surroundings, end_in_words, read_secrets
from shardwright.node._parents import parent_of

MANIFEST = """
[app]
name = "a"
[components.a]
code = "a"
env = ["WANTED", "ABSENT"]
secrets = { KEY = "file:key" }
"""


def test_the_environment_of_a_component_is_a_fixed_few_and_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    (tmp_path / "a.py").write_text("")
    component = load(tmp_path, environment={}).components[0]
    host = {
        "PATH": "/bin",
        "WANTED": "1",
        "UNWANTED": "2",
        "AWS_SECRET": "3",
        "LD_PRELOAD": "4",
        "LD_LIBRARY_PATH": "/lib",
    }
    found = Surroundings(host, "/", ()).environment_of(component)
    assert found == {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "WANTED": "1", **THREADS}
    assert Surroundings(host, "/", ()).environment_of(None) == {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", **THREADS}
    assert not {"LD_PRELOAD", "USER"} & set(PASSED_ON)


def test_secrets_are_read_from_their_files_and_named_when_they_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    (tmp_path / "a.py").write_text("")
    manifest = load(tmp_path, environment={})
    with pytest.raises(NodeError, match="secret KEY of a cannot be read"):
        read_secrets(manifest, {})
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(NodeError, match="secret KEY of a cannot be read") as caught:
        read_secrets(manifest, {})
    assert caught.value.__cause__ is None
    (tmp_path / "key").write_text("v4lue\n\n")
    assert read_secrets(manifest, {}) == {"a": {"KEY": "v4lue\n"}}
    (tmp_path / "key").unlink()
    for target in ("/dev/zero", "/dev/null"):  # without an end, and without a beginning
        (tmp_path / "key").symlink_to(target)
        with pytest.raises(NodeError, match="not a regular file"):
            read_secrets(manifest, {})
        (tmp_path / "key").unlink()
    os.mkfifo(tmp_path / "key")
    with pytest.raises(NodeError, match="not a regular file"):
        read_secrets(manifest, {})
    (tmp_path / "key").unlink()
    with open(tmp_path / "key", "wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(NodeError, match="1048577 bytes are too many"):
        read_secrets(manifest, {})


def test_a_secret_may_be_in_the_environment_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "shardwright.toml").write_text(MANIFEST.replace("file:key", "env:OUTER_KEY"))
    (tmp_path / "a.py").write_text("")
    manifest = load(tmp_path, environment={})
    with pytest.raises(NodeError, match="secret KEY of a: OUTER_KEY is not in the environment"):
        read_secrets(manifest, {})
    assert read_secrets(manifest, {"OUTER_KEY": "v4lue"}) == {"a": {"KEY": "v4lue"}}


@pytest.mark.parametrize(
    ("reason", "ended", "words"),
    [
        ("it ended", Exit(0), "exited with status 0"),
        ("it was ended", Exit(-9, out_of_memory=True), "killed: memory ceiling exceeded"),
        ("its control socket broke: x", Exit(-11), "killed by signal 11"),
        ("it broke the control protocol: x", Exit(-9), "it broke the control protocol: x; killed by signal 9"),
        ("it broke the control protocol: x", Exit(None), "it broke the control protocol: x"),
        ("it ended", None, "it ended"),
    ],
)
def test_why_and_how_it_ended_in_words(reason: str, ended: Exit | None, words: str) -> None:
    assert end_in_words(reason, ended) == words


def test_who_is_whose_child() -> None:
    assert parent_of(os.getpid()) == os.getppid()
    assert parent_of(2**22 + 1) is None


LIMITS = Limits(Resources(cpu=0.5, memory_bytes=1), Resources(cpu=1.0))
HANDLE = SandboxHandle(1, "process", ShardId("a-1"), 5, 6, ("/x",))


@pytest.mark.parametrize(
    "message",
    [
        Launch(1, "a", ("python",), {"A": "b"}, "/", (3, 1), 4, LIMITS, 9),
        Adopt(2, HANDLE, LIMITS), Resize(3, "a", LIMITS), Kill(4, "a"), Delete(5, "a"), AskUsage(6, ("a", "b")),
    ],
)  # fmt: skip
def test_what_a_keeper_is_told_arrives_as_it_was(message: object) -> None:
    assert to_keeper.decode(frame(message)[HEADER.size :]) == message


@pytest.mark.parametrize(
    "message",
    [Started(1, HANDLE), Started(1, None), Deleted(2, Exit(-9, True)), Deleted(2, None), Refused(3, "no", "do")],
)
def test_what_a_keeper_answers_arrives_as_it_was(message: object) -> None:
    assert from_keeper.decode(frame(message)[HEADER.size :]) == message


@pytest.fixture
def another_installation(tmp_path: Path) -> Path:
    """A folder that Python finds before ours."""
    (tmp_path / "other" / "shardwright").mkdir(parents=True)
    (tmp_path / "other" / "shardwright" / "__init__.py").write_text("print('another installation')")
    return tmp_path / "other"


def run(command: list[str], path: Path) -> str:
    done = subprocess.run(command, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_guest_runs_the_installation_of_its_node_and_its_path_is_not_bent(another_installation: Path) -> None:
    assert run(python_command("shardwright.errors"), another_installation) == ""
    lines = [line.strip(" ',") for line in run(python_command("site"), another_installation).splitlines()]
    path = lines[1 : lines.index("]")]
    assert path[0] == str(another_installation)
    source = str(Path(shardwright.errors.__file__).parent.parent)
    assert source not in path[:-1] and path[-1] == source


def test_the_installation_may_be_an_archive(tmp_path: Path, another_installation: Path) -> None:
    package = Path(shardwright.errors.__file__).parent
    archive = tmp_path / "ours.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for file in package.rglob("*.py"):
            files.write(file, file.relative_to(package.parent))
    script = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from shardwright.node._keeper_client import python_command\n"
        "import json; print(json.dumps(python_command('shardwright.errors')))"
    )
    command = json.loads(run([sys.executable, "-c", script], tmp_path))
    assert str(archive) in command[3]
    assert run(command, another_installation) == ""
