"""``shardwright run`` on small applications, as a user meets it: streams, exit status, signals, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_apps import background, environment, shardwright, write_app

MANIFEST = """
[app]
name = "sums"
main = "front:main"
[components.front]
code = "front"
[components.sums]
code = "sums"
state = "memory"
"""
SUMS = """
import logging, sys
def add(a, b):
    print("adding", a, b)
    print("careful", file=sys.stderr)
    return a + b
def chatter(count):
    for number in range(count):
        print("line", number)
def fail():
    raise ValueError("no such sum")
"""
FRONT = """
import os, sys
import sums
def main():
    what = sys.argv[1]
    if what == "add":
        print("stdin:", sys.stdin.read().strip())
        print("argv:", sys.argv)
        print("sum:", sums.add(int(sys.argv[2]), int(sys.argv[3])))
        return 0
    if what == "status":
        sys.exit(int(sys.argv[2]))
    if what == "leave":
        print("not lost", flush=True)
        os._exit(int(sys.argv[2]))
    if what == "message":
        sys.exit("that will not do")
    if what == "chatter":
        sums.chatter(int(sys.argv[2]))
    if what == "fail":
        sums.fail()
"""
WAITING = """
import os, signal, sys, time
import sums
def main():
    if "--patient" in sys.argv:
        signal.signal(signal.SIGINT, lambda number, frame: print("not now", flush=True))
    if "--tidy" in sys.argv:
        def tidy(number, frame):
            os.write(1, b"tidied\\n")  # print is not to be entered twice
            sys.exit(9)
        signal.signal(signal.SIGTERM, tidy)
    sums.add(1, 2)
    try:
        print("waiting", flush=True)  # within: it may be interrupted as soon as this was read
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 7
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    return str(write_app(tmp_path / "sums", MANIFEST, front=FRONT, sums=SUMS))


@pytest.fixture
def waiting(tmp_path: Path) -> str:
    return str(write_app(tmp_path / "sums", MANIFEST, front=WAITING, sums=SUMS))


def test_the_program_has_our_arguments_and_streams(app: str, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "run", app, "--", "add", "3", "4", given="hello")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "adding 3 4",  # printed by the other shard
        "argv: ['sums', 'add', '3', '4']",
        "stdin: hello",
        "sum: 7",
    ]
    assert "careful" in done.stderr.splitlines()
    assert "sums is ready, 2 shards" in done.stderr


def test_quiet_leaves_stderr_to_the_program(app: str, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "run", "--quiet", app, "--", "status", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(("status", "42"), 42, ""), (("leave", "7"), 7, ""), (("message",), 1, "that will not do\n")],
)
def test_the_exit_status_is_the_program_s(
    app: str, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = shardwright(tmp_path, "run", "-q", app, "--", *arguments)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_traceback_is_printed_as_python_does(app: str, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "run", "-q", app, "--", "fail")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ValueError: no such sum\nraised in shards of front > sums\n")
    assert "sums.fail()" in done.stderr
    assert "cli/_run.py" not in done.stderr


def test_everything_in_one_process_is_the_same(app: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, list[str], str]:
        done = shardwright(tmp_path, "run", "-q", "--inproc", app, "--", *arguments, given="hello")
        return done.returncode, sorted(done.stdout.splitlines()), done.stderr

    status, printed, said = run("add", "3", "4")
    assert (status, said) == (0, "careful\n")
    assert printed == ["adding 3 4", "argv: ['sums', 'add', '3', '4']", "stdin: hello", "sum: 7"]
    assert run("status", "42") == (42, [], "")
    status, printed, said = run("fail")
    assert status == 1 and "shardwright/cli" not in said
    assert said.endswith("ValueError: no such sum\nraised in shards of front > sums\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 7), (signal.SIGTERM, 143)])
def test_signals_of_one_process(waiting: str, tmp_path: Path, number: int, status: int) -> None:
    with background(tmp_path, "run", "--inproc", waiting) as run:
        run.wait_for("waiting")
        assert shardwright(tmp_path, "ps").returncode == 0
        assert run.end(number) == status, run.seen


def test_nothing_that_was_printed_is_lost_at_the_end(app: str, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "run", "-q", app, "--", "chatter", "5000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"line {number}" for number in range(5000)]


def test_an_import_error_shows_the_user_s_traceback_alone(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "broken", MANIFEST, front="import sums\ndef main(): pass\n", sums="import no_such_thing\n"
    )
    done = shardwright(tmp_path, "run", str(app))
    assert done.returncode == 2
    assert "ModuleNotFoundError: No module named 'no_such_thing'" in done.stderr
    assert f'File "{app / "sums.py"}", line 1' in done.stderr
    assert "/shardwright/node/" not in done.stderr and "/shardwright/cli/" not in done.stderr
    assert "component sums cannot be imported" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("[app]\nname = 3\n", "shardwright.toml:2"),
        (MANIFEST.replace('code = "sums"', 'code = "summs"'), "summs"),
        (MANIFEST + "resources = { cpu = 4000 }\n", "4000"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path: Path, manifest: str, says: str) -> None:
    app = write_app(tmp_path / "bad", manifest, front=FRONT, sums=SUMS)
    done = shardwright(tmp_path, "run", str(app))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_no_manifest_at_all(tmp_path: Path) -> None:
    done = shardwright(tmp_path, "run", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_the_first_interrupt_is_the_program_s(waiting: str, tmp_path: Path) -> None:
    with background(tmp_path, "run", waiting) as run:
        run.wait_for("waiting")
        assert run.end(signal.SIGINT) == 7
        assert "interrupted" in run.seen


def test_the_second_interrupt_stops_everything(waiting: str, tmp_path: Path) -> None:
    with background(tmp_path, "run", waiting, "--", "--patient") as run:
        run.wait_for("waiting")
        run.process.send_signal(signal.SIGINT)
        run.wait_for("not now")
        assert run.end(signal.SIGINT) == 130


def test_sigterm_lets_the_program_tidy_up(waiting: str, tmp_path: Path) -> None:
    with background(tmp_path, "run", waiting, "--", "--tidy") as run:
        run.wait_for("waiting")
        assert run.end(signal.SIGTERM) == 9
        assert "tidied" in run.seen


def test_sigterm_ends_a_program_that_does_not_care(waiting: str, tmp_path: Path) -> None:
    with background(tmp_path, "run", waiting) as run:
        run.wait_for("waiting")
        assert run.end(signal.SIGTERM) == 143


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_it_starts_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    mark = tmp_path / "importing"
    slow = f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(60)\ndef add(a, b): return a + b\n"
    app = write_app(tmp_path / "slow", MANIFEST, front=FRONT, sums=slow)
    with background(tmp_path, "run", str(app)) as run:
        end_s = time.monotonic() + 20
        while not mark.exists():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert run.end(number) == status
        assert not any("Traceback" in line for line in run.seen), run.seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_components_without_a_program_are_served(tmp_path: Path, number: int) -> None:
    served = MANIFEST.replace('main = "front:main"\n', "")
    app = write_app(tmp_path / "sums", served, front=FRONT, sums=SUMS)
    with background(tmp_path, "run", str(app)) as run:
        run.wait_for("sums is ready")
        done = shardwright(tmp_path, "call", "sums", "sums.add", "2", "3")
        assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
        assert run.wait_for("adding 2 3").startswith("sums-")
        assert run.end(number) == 0


def test_a_killed_node_misleads_nobody(waiting: str, tmp_path: Path, runtime_directory: Path) -> None:
    with background(tmp_path, "run", waiting) as run:
        run.wait_for("waiting")
        run.end(signal.SIGKILL)
    done = shardwright(tmp_path, "ps")
    assert done.returncode == 3 and "no node is running" in done.stderr
    with background(tmp_path, "run", waiting) as run:
        run.wait_for("waiting")
        assert len(list((runtime_directory / "shardwright").glob("sums-*.sock"))) == 1
        assert run.end(signal.SIGTERM) == 143


def test_a_working_directory_that_is_gone_is_one_clear_error(app: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -m shardwright run "{app}"'
    done = subprocess.run(
        ["sh", "-c", command], env=environment(tmp_path, {}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "the working directory has been deleted" in done.stderr and "change to a folder" in done.stderr
    assert "Traceback" not in done.stderr
