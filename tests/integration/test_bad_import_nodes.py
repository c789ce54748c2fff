"""Components that misbehave while they are imported, on real nodes: one clear error, or a good start, and nothing left."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guest_apps import journal_rows, running, write_application
from shardwright.errors import ComponentImportError, NodeError, PlanError, ShardwrightError, StartFailed

MANIFEST = """
    [app]
    name = "odd"
    root = "."
    [components.odd]
    code = "odd"
    start = "START"
    state = "memory"
    start_timeout = "TIMEOUT"
    EXTRA
    [components.plain]
    code = "plain"
    state = "memory"
"""
PLAIN = "def greet(name='you'):\n    return 'hello ' + name\n"


def application(
    folder: Path, source: str, *, start: str = "auto", timeout: str = "20s", extra: str = "", **modules: str
) -> Path:
    manifest = MANIFEST.replace("START", start).replace("TIMEOUT", timeout).replace("EXTRA", extra)
    return write_application(folder / "app", manifest, odd=source, plain=PLAIN, **modules)


@dataclass(frozen=True)
class Bad:
    source: str
    error: type[ShardwrightError]
    says: tuple[str, ...]
    traceback: tuple[str, ...] = ()
    timeout: str = "20s"
    within_s: float = 15.0
    helper: str = "x = 1\n"


BAD = {
    "raises": Bad(
        "def fail():\n    raise ValueError('no such moon')\nfail()\n",
        ComponentImportError, ("odd", "ValueError: no such moon"), ('odd.py", line 3', "in fail", "ValueError: no such moon"),
    ),
    "raises with a cause": Bad(
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise LookupError('lost') from e\n",
        ComponentImportError, ("LookupError: lost",), ("ZeroDivisionError", "LookupError: lost"),
    ),
    "raises deep in a helper": Bad(
        "import helper\ndef hello(): return 1\n", ComponentImportError, ("KeyError",), ('helper.py", line 2', 'odd.py", line 1'),  # noqa: E501
        helper="table = {}\ntable['missing']\n",
    ),
    "a helper with a syntax error": Bad(
        "import helper\ndef hello(): return 1\n", ShardwrightError, ("helper.py",), helper="def broken(:\n    pass\n",
    ),
    "an import of nothing": Bad(
        "import no_such_module_anywhere\ndef hello(): return 1\n",
        ComponentImportError, ("odd", "no_such_module_anywhere"), ("ModuleNotFoundError",),
    ),
    "sys.exit": Bad("import sys\nsys.exit(3)\n", ComponentImportError, ("odd", "SystemExit: 3"), ("odd.py",)),
    "os._exit": Bad("import os\nos._exit(5)\n", StartFailed, ("odd", "exited with status 5")),
    "kills itself": Bad("import os\nos.kill(os.getpid(), 9)\n", StartFailed, ("odd", "killed by signal 9")),
    "crashes": Bad("import ctypes\nctypes.string_at(0)\n", StartFailed, ("odd", "killed by signal 11")),
    "hangs": Bad(
        "import threading\nprint('waiting for Godot', flush=True)\nthreading.Event().wait()\n",
        StartFailed, ("odd", "5 s", "start_timeout"), timeout="5s", within_s=30,  # it must have come to its print by then
    ),
    "hangs and ignores signals": Bad(
        "import signal, time\nfor n in (2, 15, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)\n",
        StartFailed, ("odd", "start_timeout"), timeout="2s", within_s=20,
    ),
    "closes all descriptors": Bad("import os\nos.closerange(0, 4096)\n", StartFailed, ("odd",), timeout="5s"),
    "recurses": Bad("def f(): f()\nf()\n", ComponentImportError, ("odd", "RecursionError"), ("odd.py",)),
    "raises what has no words": Bad(
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError('mute')\nraise Mute\n",
        ComponentImportError, ("odd", "Mute"),
    ),
    "raises a very long word": Bad("raise ValueError('x' * 10_000_000)\n", ComponentImportError, ("odd", "ValueError")),
    "interrupts itself": Bad("raise KeyboardInterrupt\n", ComponentImportError, ("odd", "KeyboardInterrupt")),
}  # fmt: skip


@pytest.mark.parametrize("start", ["template", "spawn"])
@pytest.mark.parametrize("what", BAD)
def test_one_clear_error_and_nothing_is_left(tmp_path: Path, what: str, start: str) -> None:
    bad = BAD[what]
    folder = application(tmp_path, bad.source, start=start, timeout=bad.timeout, helper=bad.helper)
    begun = time.monotonic()
    with pytest.raises(bad.error) as caught, running(folder):
        pytest.fail("it started")
    assert time.monotonic() - begun < bad.within_s
    text = str(caught.value)
    for words in bad.says:
        assert words in text, text[:2000]
    assert len(text) < 20_000
    if isinstance(caught.value, ComponentImportError):
        trace = caught.value.user_traceback
        for words in bad.traceback:
            assert words in trace, trace[:3000]
        assert "/shardwright/" not in trace and "importlib" not in trace, trace[:3000]
    elif isinstance(caught.value, StartFailed):
        assert caught.value.remedy
    if what == "hangs":
        assert "waiting for Godot" in caught.value.log  # type: ignore[attr-defined]


def test_a_module_that_is_not_there_is_found_before_anything_starts(tmp_path: Path) -> None:
    folder = application(tmp_path, "x = 1\n")
    (folder / "odd.py").unlink()
    with pytest.raises((PlanError, ShardwrightError), match="odd"), running(folder):
        pytest.fail("it started")


@pytest.mark.parametrize(
    ("source", "names"), [("file:nothing/there", "KEY"), ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE")]
)
def test_a_missing_secret_is_named_and_nothing_starts(tmp_path: Path, source: str, names: str) -> None:
    folder = application(tmp_path, "def hello(): return 1\n", extra=f'secrets = {{ KEY = "{source}" }}')
    with pytest.raises((NodeError, ShardwrightError)) as caught, running(folder):
        pytest.fail("it started")
    assert names in str(caught.value) and "odd" in str(caught.value)


def _hello(node: Any) -> Any:
    with node.session("one") as session:
        assert session.call("plain.greet") == "hello you"
        return session.call("odd.hello")


def _odd(node: Any) -> Any:
    return next(shard for shard in node.shards() if shard.component == "odd")


STARTS_BY_SPAWN = {
    "starts a thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='mine', daemon=True).start()\n"
        "def hello(): return threading.active_count()\n",
        "threads (mine)",
    ),
    "starts a pool": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
        "pool.submit(int).result()\ndef hello(): return pool.submit(lambda: 7).result()\n",
        "threads",
    ),
    "forks": (
        "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\ndef hello(): return 1\n",
        "processes",
    ),
    "starts a program": (
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\ndef hello(): return child.pid\n",
        "processes",
    ),
    "calls another component": (
        "import plain\ngreeting = plain.greet('odd')\ndef hello(): return greeting\n",
        "plain was called during import",
    ),
    "calls another component and shrugs": (
        "import plain\ntry:\n    greeting = plain.greet('odd')\nexcept Exception:\n    greeting = None\n"
        "def hello(): return greeting\n",
        "plain was called during import",
    ),
}


@pytest.mark.parametrize("what", STARTS_BY_SPAWN)
def test_what_a_fork_would_lose_is_spawned_and_the_reason_told(tmp_path: Path, what: str) -> None:
    source, reason = STARTS_BY_SPAWN[what]
    extra = 'depends_on = ["plain"]' if "plain" in source else ""
    folder = application(tmp_path, source, extra=extra)
    with running(folder) as node:
        found = _hello(node)
        assert found
        if "plain" in source:
            assert found == "hello odd"
        assert _odd(node).start.startswith("spawn: ")
        assert reason in _odd(node).start
    assert any(reason in row[3] for row in journal_rows(folder, "ready") if row[1] == "odd")


@pytest.mark.parametrize("what", ["starts a thread", "calls another component"])
def test_who_insists_on_a_template_is_told_why_not(tmp_path: Path, what: str) -> None:
    source, reason = STARTS_BY_SPAWN[what]
    extra = 'depends_on = ["plain"]' if "plain" in source else ""
    folder = application(tmp_path, source, start="template", extra=extra)
    with pytest.raises(StartFailed, match="template") as caught, running(folder):
        pytest.fail("it started")
    assert reason in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_garbage_on_the_standard_streams_is_log_and_no_harm(tmp_path: Path, start: str) -> None:
    folder = application(
        tmp_path,
        """
        import os, sys
        print("printed at import")
        sys.stderr.write("no newline at the end")
        sys.stdout.buffer.write(b"\\xff\\x00bytes\\n")
        os.write(1, os.urandom(5000) + b"straight to the descriptor\\n")
        os.write(2, b"\\x1e\\x1f{}\\n")
        for fd in range(3, 64):
            try:
                os.write(fd, b"")
            except OSError:
                pass
        def hello(): return 5
        """,
        start=start,
    )
    with running(folder) as node:
        assert _hello(node) == 5
        texts = [line.text for line in node.running.core.logs.since()]
        assert any("printed at import" in text for text in texts)
        assert any("straight to the descriptor" in text for text in texts)


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_garbage_on_the_control_socket_is_the_end_of_it(tmp_path: Path, start: str) -> None:
    folder = application(
        tmp_path,
        """
        import os, stat
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            try:
                if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, b"\\xff" * 100)
            except OSError:
                pass
        def hello(): return 5
        """,
        start=start,
        timeout="10s",
    )
    with pytest.raises(StartFailed, match="odd") as caught, running(folder):
        pytest.fail("it started")
    assert "broke the control protocol" in str(caught.value)


def test_folder_and_environment_that_an_import_changes_are_its_own(tmp_path: Path) -> None:
    here, mark = os.getcwd(), dict(os.environ)
    folder = application(
        tmp_path,
        "import os\nos.chdir('/tmp')\nos.environ['MARK'] = 'mine'\nos.environ.pop('PATH', None)\n"
        "def hello(): return os.getcwd(), os.environ.get('MARK'), 'PATH' in os.environ\n",
    )
    with running(folder) as node:
        assert _hello(node) == ("/tmp", "mine", False)
    assert os.getcwd() == here and dict(os.environ) == mark


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_who_takes_more_memory_than_its_ceiling_is_told_so(tmp_path: Path, start: str) -> None:
    folder = application(
        tmp_path,
        "greed = bytearray(700 * 2**20)\nfor i in range(0, len(greed), 4096): greed[i] = 1\ndef hello(): return 1\n",
        start=start,
        extra='limits = { cpu = 1.0, memory = "96MiB" }',
    )
    with pytest.raises((StartFailed, ComponentImportError), match="odd") as caught, running(folder) as node:
        if any("memory" in row[3] for row in journal_rows(folder, "limits")):
            pytest.skip("this machine does not enforce memory")
        node.shards()
        pytest.fail("it started")
    assert "memory ceiling" in str(caught.value)


@pytest.mark.parametrize("start", ["auto", "spawn"])
@pytest.mark.parametrize(
    "source", ["import os\nos.fork()\n", "import os\nif os.fork() == 0:\n    raise OSError('child')\n"]
)
def test_a_forked_process_that_returns_from_the_import_speaks_for_nobody(
    tmp_path: Path, start: str, source: str
) -> None:
    folder = application(tmp_path, source + "def hello(): return 1\n", start=start)
    with running(folder) as node:
        for _ in range(3):
            assert _hello(node) == 1
        assert not journal_rows(folder, "loss")
