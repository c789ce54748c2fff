"""demo, doctor, init, plan, schema, and the command itself."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cli_apps import background, environment, shardwright, write_app
from shardwright.cli._invocation import Invocation
from shardwright.cli._main import invoke

EXAMPLES = Path(__file__).parents[2] / "examples"
VISITED = """
def visit(player, rounds):
    trouble = {}
    for turn in range(rounds + 2):
        try:
            answer = yield "desk.work", (player, turn)
        except Exception as error:
            trouble[type(error).__name__] = trouble.get(type(error).__name__, 0) + 1
        else:
            assert answer == turn * 2, answer
    return {"player": player, "trouble": trouble}
"""
DESK = """
def work(player, turn):
    if turn == FAIL_AT:
        raise RuntimeError("no")
    return turn * 2
"""
MANIFEST = """
[app]
name = "visited"
visitors = "visited:visit"
[components.desk]
code = "desk"
scope = "session"
"""


def visited(tmp_path: Path, fail_at: int = -1) -> str:
    desk = DESK.replace("FAIL_AT", str(fail_at))
    return str(write_app(tmp_path / "visited", MANIFEST, desk=desk, visited=VISITED))


def test_the_bundled_demo_once(tmp_path: Path) -> None:
    done = shardwright(tmp_path, "demo", "--once", "--visitors", "4", "--seconds", "1.5", timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arena is ready at " in done.stdout and ".sock" in done.stdout
    assert "4 visitors, 60 calls" in done.stdout
    assert "errors: none" in done.stdout
    assert "physics-" in done.stdout


def test_demo_as_json(tmp_path: Path) -> None:
    done = shardwright(tmp_path, "demo", visited(tmp_path), "--once", "--visitors", "3", "--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["visitors"], told["calls"], told["errors"]) == (3, 30, {})
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert told["shards"]


def test_demo_with_errors_has_status_one(tmp_path: Path) -> None:
    done = shardwright(tmp_path, "demo", visited(tmp_path, 3), "--once", "--visitors", "2", "--seconds", "1")
    assert done.returncode == 1, done.stdout
    assert "errors: 2 RuntimeError" in done.stdout


def test_demo_goes_on_until_interrupted(tmp_path: Path) -> None:
    app = visited(tmp_path)
    with background(tmp_path, "demo", app, "--visitors", "2", "--seconds", "0.5", "--pace", "20") as demo:
        demo.wait_for("visitors come in")
        with background(tmp_path, "events", "visited", "-f") as events:
            events.wait_for("lease")
            assert events.end(signal.SIGINT) == 130
        assert demo.end(signal.SIGINT) == 0
        assert any("errors: none" in line for line in demo.seen), demo.seen


@pytest.mark.parametrize("visitors", ["", 'visitors = "visited:nobody"'])
def test_demo_without_visitors_is_bad_input(tmp_path: Path, visitors: str) -> None:
    manifest = MANIFEST.replace('visitors = "visited:visit"', visitors)
    app = write_app(tmp_path / "visited", manifest, desk=DESK, visited=VISITED)
    done = shardwright(tmp_path, "demo", str(app), "--once")
    assert done.returncode == 2 and "visitors" in done.stderr and "Traceback" not in done.stderr


def test_doctor_tells_what_there_is(tmp_path: Path) -> None:
    done = shardwright(tmp_path, "doctor", str(EXAMPLES / "arena"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = {finding["name"] for finding in told["findings"]}
    assert {"kernel", "pidfd", "extension", "capacity", "sockets", "namespace pid"} <= names
    for finding in told["findings"] + told["application"]:
        assert set(finding) == {"name", "present", "detail", "remedy"}
    plain = shardwright(tmp_path, "doctor").stdout
    assert plain.splitlines()[-1] == "Shardwright can run here."


def test_doctor_says_what_an_application_lacks(tmp_path: Path) -> None:
    needy = MANIFEST + 'resources = { cpu = 4000 }\nsecrets = { KEY = "file:nowhere" }\n'
    app = write_app(tmp_path / "needy", needy, desk=DESK, visited=VISITED)
    done = shardwright(tmp_path, "doctor", str(app))
    assert done.returncode == 2
    assert "4000" in done.stdout and "secret KEY of desk" in done.stdout
    assert "cannot run here" in done.stdout
    assert shardwright(tmp_path, "doctor", str(tmp_path)).returncode == 2


def test_doctor_where_unshare_is_denied(tmp_path: Path) -> None:
    """As inside a container whose filter denies it: it says so, and that the process backend works."""
    script = (
        "import ctypes, sys\n"
        "from shardwright.sandbox._linux import _libc\n"
        "def denied(flags):\n"
        "    raise PermissionError(1, 'Operation not permitted')\n"
        "_libc.unshare = denied\n"
        "sys.argv[1:] = ['doctor']\n"
        "from shardwright.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(tmp_path), timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "unshare is denied" in done.stdout and "remedy:" in done.stdout


def test_the_schema_is_one_and_fits_the_examples(tmp_path: Path) -> None:
    import tomllib

    schema = json.loads(shardwright(tmp_path, "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in ("arena", "pressroom"):
        text = (EXAMPLES / name / "shardwright.toml").read_text(encoding="utf-8")
        jsonschema.validate(tomllib.loads(text), schema)


def test_init_then_plan_then_run(tmp_path: Path) -> None:
    app = tmp_path / "letters"
    package = app / "letters"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "count.py").write_text("def count(text):\n    return len(text)\n")
    (package / "shout.py").write_text(
        "from letters.count import count\ndef shout(text):\n    return text.upper() * count(text)\n"
    )
    (package / "__main__.py").write_text(
        "import sys\nfrom letters.shout import shout\ndef main():\n    print(shout(sys.argv[1]))\n"
    )
    shown = shardwright(tmp_path, "init", str(app), "--print")
    assert shown.returncode == 0 and not (app / "shardwright.toml").exists()
    assert shardwright(tmp_path, "init", str(app)).returncode == 0
    assert (app / "shardwright.toml").read_text() == shown.stdout
    again = shardwright(tmp_path, "init", str(app))
    assert again.returncode == 2 and "--force" in again.stderr
    plan = json.loads(shardwright(tmp_path, "plan", str(app), "--json").stdout)
    assert {definition["component"] for definition in plan["definitions"]} >= {"count", "shout"}
    assert "count" in shardwright(tmp_path, "plan", str(app)).stdout
    done = shardwright(tmp_path, "run", "-q", str(app), "--", "ab")
    assert (done.returncode, done.stdout) == (0, "ABAB\n"), done.stderr


def test_the_program_has_the_terminal(tmp_path: Path) -> None:
    manifest = '[app]\nname = "asks"\nmain = "front:main"\n[components.front]\ncode = "front"\n'
    front = "import sys\ndef main():\n    print(sys.stdin.isatty(), sys.stdout.isatty())\n    print('hello', input('name? '))\n"
    app = write_app(tmp_path / "asks", manifest, front=front)
    ours, theirs = pty.openpty()
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "shardwright", "run", "-q", str(app)],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment(tmp_path), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        while b"name? " not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, b"Ada\n")
        while b"hello Ada" not in seen:
            seen += os.read(ours, 1000)
        assert b"True True" in seen
        assert run.wait(30) == 0
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run"], ["ps", "--nonsense"], ["call"], ["call", "a.b", "-k", "x"], ["logs", "-n", "-1"]],
)
def test_bad_arguments_have_status_two(tmp_path: Path, arguments: list[str]) -> None:
    done = shardwright(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Usage: shardwright" in done.stderr and "Traceback" not in done.stderr


def test_help_lists_every_command_with_an_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = shardwright(tmp_path, "--help").stdout
    commands = "init plan schema doctor run demo ps call logs events sessions decisions resize stop"
    for name in commands.split(" "):
        assert f"  {name} " in top
        assert invoke([name, "--help"], Invocation({})) == 0
        told = capsys.readouterr().out
        assert "--json" in told and "Example" in told, name


HINDERED = (
    MANIFEST
    + 'isolation = "microvm"\nstart = "template"\nlimits = { gpu = 0.5 }\n'
    + 'secrets = { ONE = "file:missing", TWO = "file:nowhere" }\n'
)


def test_all_that_hinders_a_start_is_told_at_once(tmp_path: Path) -> None:
    app = str(write_app(tmp_path / "hindered", HINDERED, desk=DESK, visited=VISITED))
    expected = ("(microvm) cannot be forked", "secret ONE of desk", "secret TWO of desk")
    run, plan, doctor = (shardwright(tmp_path, *each, app) for each in (("run",), ("plan",), ("doctor",)))
    assert (run.returncode, plan.returncode, doctor.returncode) == (2, 0, 2)
    for text in expected:
        assert text in run.stderr and text in plan.stdout and text in doctor.stdout, text
    assert "not enforced" in plan.stdout and "limits.gpu" in doctor.stdout
    told = json.loads(shardwright(tmp_path, "plan", app, "--json").stdout)
    assert len(told["hinders_start"]) == 3 and len(told["not_enforced"]) == 1


def test_run_says_what_is_not_enforced_and_why_it_has_no_socket(tmp_path: Path) -> None:
    manifest = '[app]\nname = "a"\nmain = "desk:main"\n[components.desk]\ncode = "desk"\nlimits = { gpu = 0.5 }\n'
    app = str(write_app(tmp_path / "app", manifest, desk="def main():\n    print('done')\n"))
    (tmp_path / "file").write_text("")
    no_folder = {"XDG_RUNTIME_DIR": str(tmp_path / "file")}
    done = shardwright(tmp_path, "run", app, more=no_folder)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "not enforced" in done.stderr and "limits.gpu" in done.stderr
    assert "other terminals cannot reach this node" in done.stderr and str(tmp_path / "file") in done.stderr
    assert shardwright(tmp_path, "run", "-q", app, more=no_folder).stderr == ""


def test_a_state_folder_that_cannot_be_used(tmp_path: Path) -> None:
    app = str(write_app(tmp_path / "visited", MANIFEST, desk=DESK, visited=VISITED))
    (tmp_path / "file").write_text("")
    more = {"XDG_STATE_HOME": str(tmp_path / "file")}
    done = shardwright(tmp_path, "run", app, more=more)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr and "set XDG_STATE_HOME" in done.stderr
    state = next(
        f
        for f in json.loads(shardwright(tmp_path, "doctor", "--json", more=more).stdout)["findings"]
        if f["name"] == "state"
    )
    assert not state["present"] and "XDG_STATE_HOME" in state["remedy"]


@pytest.mark.parametrize("timeout", ["nan", "0", "-1", "inf"])
def test_a_timeout_that_is_none(tmp_path: Path, timeout: str) -> None:
    done = shardwright(tmp_path, "call", "desk.work", "--timeout", timeout)
    assert done.returncode == 2 and "--timeout" in done.stderr
