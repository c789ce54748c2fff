"""Applications whose shards stand behind walls: what they have, what they have not, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from ordinary import ordinary_home
from shardwright.errors import ShardwrightError, StartFailed
from shardwright.node import _processes

RUN = """
import json, os
def run(code):
    space = {}
    exec(code, space)
    return json.dumps(space.get("answer"))
"""


def _application(folder: Path, body: str = RUN, more: str = "", component: str = "probe") -> Path:
    app = folder / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(
        f'[app]\nname = "walls"\n[components.{component}]\ncode = "{component}"\nisolation = "namespace"\n'
        f'scope = "session"\n{more}'
    )
    (app / f"{component}.py").write_text(body)
    return app


def _ask(session: shardwright.Session, code: str) -> object:
    return json.loads(session.call("probe.run", code))


def _events(node: shardwright.Node, kind: str) -> list[str]:
    return [each.event.message for each in node.running.core.events.since(0) if each.event.kind == kind]


def _awaited(node: shardwright.Node, kind: str, text: str) -> str:
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        found = [said for said in _events(node, kind) if text in said]
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"no event {kind!r} with {text!r}: {_events(node, kind)}")


def test_a_shard_has_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    app = _application(
        tmp_path,
        more='files = { read = ["assets/"], write = ["var/"] }\nsecrets = { KEY = "file:key" }\nstart = "template"\n',
    )
    (app / "assets").mkdir()
    (app / "assets" / "a.txt").write_text("asset")
    (app / "key").write_text("sesame\n")
    (app / "notes.txt").write_text("nobody's")
    os.environ["OF_THE_NODE"] = "1"
    with shardwright.start(app) as node, node.session("one") as one, node.session("two") as two:
        assert {status.isolation for status in node.shards()} == {"namespace"}
        assert _ask(one, "import os; answer = os.environ['KEY'], 'OF_THE_NODE' in os.environ") == ["sesame", False]
        assert _ask(one, f"answer = open({str(app / 'assets' / 'a.txt')!r}).read()") == "asset"
        assert _ask(one, f"answer = open({str(app / 'var' / 'b')!r}, 'w').write('kept')") == 4
        assert (app / "var" / "b").read_text() == "kept"
        assert (app / "var" / "b").stat().st_uid == os.geteuid(), "files that it makes are its owner's, outside"
        assert _ask(one, f"import os; answer = sorted(os.listdir({str(app)!r}))") == ["assets", "probe.py", "var"]
        assert _ask(one, "import os; open('/tmp/mine', 'w').close(); answer = os.listdir('/dev/shm')") == []
        assert "mine" not in str(_ask(two, "import os; answer = os.listdir('/tmp')")), "each has a temporary folder"
        assert _ask(two, "import os; answer = [n for n in os.listdir('/proc') if n.isdigit()], os.getpid()") == [
            ["1"],
            1,
        ]
        status = str(_ask(one, "answer = open('/proc/self/status').read()"))
        for line in ("CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status
        served = (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname());"
            "c.sendall(b'x'); answer = s.accept()[0].recv(1).decode()"
        )
        assert _ask(one, served) == "x", "its loopback is its own, and up"
        assert _ask(one, "import subprocess, sys; answer = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], "
                         "capture_output=True, text=True).stdout") == "42\n"  # fmt: skip
        assert _ask(one, "import threading as t; done = []; x = t.Thread(target=done.append, args=(1,)); x.start(); "
                         "x.join(); answer = done") == [1]  # fmt: skip
    del os.environ["OF_THE_NODE"]


def test_a_declared_place_of_the_network_is_reached_and_no_other_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        wanted, unwanted = one.getsockname()[1], other.getsockname()[1]
        app = _application(tmp_path, more=f'network = {{ egress = ["127.0.0.1:{wanted}"] }}\n')
        with shardwright.start(app) as node, node.session("one") as session:
            connect = "import socket; answer = socket.create_connection(('127.0.0.1', {}), 5).fileno() > 0"
            assert _ask(session, connect.format(wanted)) is True
            with pytest.raises(PermissionError):
                _ask(session, connect.format(unwanted))
            _awaited(node, "denied", f"may not connect to 127.0.0.1:{unwanted}")
            with pytest.raises(PermissionError):
                _ask(session, "import socket; socket.create_server(('127.0.0.1', 0))")


def test_output_opened_by_name_arrives(tmp_path: Path) -> None:
    app = _application(tmp_path)
    with shardwright.start(app) as node, node.session("one") as one:
        _ask(one, "open('/dev/stdout', 'w').write('by name\\n')")
        end_s = time.monotonic() + 5
        while "by name" not in [line.text for line in node.running.core.logs.since(0)]:
            assert time.monotonic() < end_s
            time.sleep(0.01)


def test_what_walls_refuse_becomes_an_event_with_the_line_to_add(tmp_path: Path) -> None:
    app = _application(tmp_path)
    (app / "data.csv").write_text("1")
    with shardwright.start(app) as node, node.session("one") as one:
        for code in (
            f"open({str(app / 'data.csv')!r})",
            f"open({str(app / 'probe.py')!r}, 'a')",
            "open('/etc/shadow')",
            "import socket; socket.create_connection(('192.0.2.1', 443), 1)",
            "import socket; socket.getaddrinfo('db.internal', 5432)",
            "open('/nowhere/at/all')",
        ):
            with pytest.raises(OSError):
                _ask(one, code)
        for text in (
            'may not read {0}/data.csv: add files = {{ read = ["data.csv"] }} to [components.probe] ({0}/shardwright.toml:3)',
            'may not write {0}/probe.py: add files = {{ write = ["probe.py"] }} to [components.probe]',
            'may not read /etc/shadow: add files = {{ read = ["/etc/shadow"] }}',
            'may not connect to 192.0.2.1:443: add network = {{ egress = ["192.0.2.1:443"] }}',
            'may not connect to db.internal:5432: add network = {{ egress = ["db.internal:5432"] }}',
        ):
            _awaited(node, "denied", text.format(app))
        assert not [said for said in _events(node, "denied") if "/nowhere" in said], (
            "what is missing anywhere is no refusal"
        )


def test_what_an_import_is_refused_is_told_as_well(tmp_path: Path) -> None:
    app = _application(tmp_path, f"open({str(tmp_path / 'app' / 'model.bin')!r})\n{RUN}")
    (app / "model.bin").write_text("x")
    with pytest.raises(ShardwrightError, match=r"model\.bin"):
        shardwright.start(app)


RANDOM = """
import ssl, random, uuid, tempfile, secrets, os
import numpy
def draw():
    return [random.random(), float(numpy.random.random()), ssl.RAND_bytes(16).hex(), str(uuid.uuid1()), str(uuid.uuid4()),
            tempfile.mktemp(), secrets.token_hex(8), os.urandom(8).hex(), os.getpid()]
"""


def test_siblings_draw_different_numbers(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    """Although all of them have the same pid, which generators take for the same process."""
    app = _application(tmp_path, RANDOM)
    drawn = []
    with shardwright.start(app) as node:
        for number in range(12):
            with node.session(f"s{number}") as session:
                drawn.append(session.call("probe.draw"))
    *generators, pids = zip(*drawn, strict=True)
    assert set(pids) == {1}
    for values in generators:
        assert len(set(values)) == len(drawn), values
    record_exercised("siblings of one pid that drew different numbers", len(drawn))


def test_a_seed_that_the_application_chose_is_kept(tmp_path: Path) -> None:
    app = _application(tmp_path, "import random\nrandom.seed(7)\ndef draw():\n    return random.random()\n")
    with shardwright.start(app) as node, node.session("one") as one, node.session("two") as two:
        import random

        assert one.call("probe.draw") == two.call("probe.draw") == random.Random(7).random()


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("threads", "import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()\n"),
        (
            "processes",
            "import subprocess, sys\nP = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n",
        ),
    ],
)
def test_imports_that_no_fork_survives_are_found_and_spawned(tmp_path: Path, what: str, body: str) -> None:
    app = _application(tmp_path, body + RUN)
    with shardwright.start(app) as node, node.session("one") as one:
        assert _ask(one, "import os; answer = os.getpid()") == 2, "behind an init of its own"
        (status,) = node.shards()
        assert status.start == f"spawn: importing starts {what}" + (" (Thread-1 (sleep))" if what == "threads" else "")
        assert status.isolation == "namespace"


def test_shards_outlive_their_template_and_templates_are_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_processes, "FORKS_OF_A_TEMPLATE", 3)
    app = _application(tmp_path)
    with shardwright.start(app) as node:
        sessions = [node.session(f"s{number}") for number in range(4)]
        for session in sessions:
            _ask(session, "answer = 1")
        assert _awaited(node, "template renewed", "after")
        template = _parent(node.shards()[0].pid)
        sessions.append(node.session("last"))
        assert _ask(sessions[-1], "answer = 5") == 5
        templates = {_parent(status.pid) for status in node.shards()}
        assert len(templates) >= 2 and template in templates, "the old one is gone: its forks belong to their init now"
        os.kill(_parent(next(s.pid for s in node.shards() if "last" in s.sessions)), signal.SIGKILL)
        assert [_ask(session, "answer = 2") for session in sessions] == [2] * 5
        sessions.append(node.session("after"))
        assert _ask(sessions[-1], "answer = 6") == 6
        for session in sessions:
            session.end()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


LIAR = f"""
{RUN}
import shardwright.guest._walls as walls
walls.close_walls = lambda *args, **kwargs: None
"""


def test_a_fork_that_leaves_its_walls_open_serves_nobody(tmp_path: Path) -> None:
    """A template ran user code: what the node believes is the kernel."""
    app = _application(tmp_path, LIAR)
    with shardwright.start(app) as node, pytest.raises(StartFailed, match="did not close its walls"):
        node.session("one").call("probe.run", "answer = 1")


def test_the_death_of_the_keeper_leaves_nothing(tmp_path: Path) -> None:
    app = _application(tmp_path)
    code = (
        "import shardwright, sys, os\n"
        f"node = shardwright.start({str(app)!r}); s = node.session('one'); s.call('probe.run', 'answer = 1')\n"
        "keeper = node.running.core.launcher._keeper.pid\n"
        "print(*(x.pid for x in node.shards()), flush=True)\nos.kill(keeper, 9)\nsys.stdin.read()\nos._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        pids = [int(pid) for pid in node.stdout.readline().split()]
        assert pids
        end_s = time.monotonic() + 5
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            assert time.monotonic() < end_s, "a shard outlived its keeper"
            time.sleep(0.01)
        node.communicate()
    for left in Path(os.environ["XDG_RUNTIME_DIR"]).rglob("walls-*.sock"):
        left.unlink()  # the node's, which the test ended without a word


ANOTHER_USER: dict[str, Any] = {"user": 12345, "group": 12345, "extra_groups": []}


@contextlib.contextmanager
def _interpreter_of_others() -> Iterator[tuple[str, dict[str, str]]]:
    """One that any user may run, with our packages; this one's folders may be root's alone."""
    source = str(Path(shardwright.__file__).parent.parent)
    path = os.pathsep.join((source, *(each for each in sys.path if "site-packages" in each)))
    for python in (sys.executable, "/usr/bin/python3"):
        code = "import sys, msgspec, shardwright; print(sys.version_info[:2])"
        with contextlib.suppress(PermissionError):
            found = subprocess.run(
                [python, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False, cwd="/",
                **ANOTHER_USER,
            )  # fmt: skip
            if found.returncode == 0 and found.stdout.strip() == str(sys.version_info[:2]):
                yield python, {"PYTHONPATH": path}
                return
    with ordinary_home(12345) as (folder, python, paths):
        yield python, {"PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": str(folder / "python" / "lib")}


ROOTLESS = """
import shardwright, sys
with shardwright.start(sys.argv[1], state=sys.argv[2]) as node, node.session("one") as one, node.session("two") as two:
    code = "import os; answer = [os.getuid(), os.getpid(), [n for n in os.listdir('/proc') if n.isdigit()]]"
    print(one.call("probe.run", code), {s.isolation for s in node.shards()}, {s.start for s in node.shards()})
    print(two.call("probe.run", "answer = [l.split() for l in open('/proc/self/status') if l.startswith(('CapEff', 'Secc'))]"))
"""
WITHOUT_TEMPLATE = """
import os, shardwright, sys, time
from shardwright.node import _processes
_processes.FORKS_OF_A_TEMPLATE = 2
def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
with shardwright.start(sys.argv[1], state=sys.argv[2]) as node:
    sessions = [node.session(f"s{number}") for number in range(3)]
    for session in sessions:
        session.call("probe.run", "mine = answer = 1")
    mine = {name: shard for shard in node.shards() for name in shard.sessions}
    init, asked = parent(parent(mine["s0"].pid)), 0
    end_s = time.monotonic() + 10
    while not any(each.event.kind == "template renewed" for each in node.running.core.events.since(0)):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    while len(sessions) > 1:
        sessions.pop().end()  # whose shard ends: then the keeper looks for what nobody owns
        for _ in range(20):
            time.sleep(0.01)
            asked += sum(int(session.call("probe.run", "answer = 1")) for session in sessions)
        left = {name: shard.id for shard in node.shards() for name in shard.sessions}
        assert left == {session.name: mine[session.name].id for session in sessions}, (left, mine)
    sessions.pop().end()
    end_s = time.monotonic() + 10
    while os.path.exists(f"/proc/{init}") and time.monotonic() < end_s:
        time.sleep(0.01)
    print(asked, os.path.exists(f"/proc/{init}"), node.session("new").call("probe.run", "answer = 2"))
"""


@pytest.fixture
def as_another_user() -> Iterator[Callable[[str], str]]:
    """Runs a program about an application as somebody who has no control groups; its output."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root; as another user, every test shows it")
    with _interpreter_of_others() as (python, environment), tempfile.TemporaryDirectory(dir="/tmp") as folder:
        app = _application(Path(folder))
        for each in (folder, str(app)):
            os.chmod(each, 0o755)
        home = Path(folder) / "home"
        home.mkdir()
        os.chown(home, 12345, 12345)

        def run(program: str) -> str:
            done = subprocess.run(
                [python, "-c", program, str(app), str(home)],
                env={**environment, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
                capture_output=True, text=True, check=False, cwd="/", timeout=60, **ANOTHER_USER,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run


def test_without_root_walls_stand_as_well(as_another_user: Callable[[str], str]) -> None:
    first, second = as_another_user(ROOTLESS).splitlines()
    assert first == "[12345, 1, [\"1\"]] {'namespace'} {'template'}"
    assert '["CapEff:", "0000000000000000"]' in second and '["Seccomp:", "2"]' in second


def test_without_control_groups_shards_outlive_their_template(as_another_user: Callable[[str], str]) -> None:
    """The first process of its namespace is nobody's child then, and yet no orphan: their lives hang on it."""
    assert as_another_user(WITHOUT_TEMPLATE) == "60 False 2\n"
