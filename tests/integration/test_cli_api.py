"""The socket of a running node: who may use it, and that no client, however rude, harms the node."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardwright as public
from cli_apps import write_app
from shardwright.errors import NodeError
from shardwright.node import ApiClient, Node, Refused, _api, running_nodes
from shardwright.node._api_messages import MAX_LINE
from shardwright.node._api_sockets import listen, live_sockets

DESK = """
import time
def echo(value):
    return value
def sleep(seconds):
    time.sleep(seconds)
def chatter(count, width):
    for number in range(count):
        print("x" * width)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = write_app(tmp_path / "desk", "[app]\nname = 'desk'\n[components.desk]\ncode = 'desk'\n", desk=DESK)
    with public.start(app, state=tmp_path / "state") as node:
        yield node


def path_of(node: Node) -> Path:
    api = node.running.api
    assert api is not None and api.path is not None
    return api.path


def talk(node: Node) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path_of(node)))
    client.settimeout(20)
    return client


def healthy(node: Node) -> bool:
    with ApiClient(path_of(node)) as client:
        return client.ask("call", target="desk.echo", args=["well"])["value"] == "well"


def test_only_its_user_may_enter(node: Node) -> None:
    path = path_of(node)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(path.parent).st_mode) == 0o700
    node.close()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_kernel_says_who_asks(node: Node, runtime_directory: Path) -> None:
    """Even where the file's mode lets another user in, the node does not answer her."""
    path = path_of(node)
    os.chmod(runtime_directory, 0o755)
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o666)
    try:
        script = (
            "import os, socket, sys\n"
            "os.setuid(65534)\n"
            "client = socket.socket(socket.AF_UNIX)\n"
            "client.connect(sys.argv[1])\n"
            "client.settimeout(10)\n"
            "print(client.makefile().readline())\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30)
        assert "belongs to another user" in done.stdout, done.stderr
    finally:
        os.chmod(path.parent, 0o700)
        os.chmod(runtime_directory, 0o700)
    assert healthy(node)


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(NodeError, match="no socket"):
        listen(tmp_path / "link", "app")
    if os.geteuid() == 0:
        os.chown(elsewhere, 65534, 65534)
        elsewhere.chmod(0o777)
        with pytest.raises(NodeError, match="belongs to another user"):
            listen(elsewhere, "app")
        os.chown(elsewhere, 0, 0)
        listener, path = listen(elsewhere, "app")
        listener.close()
        path.unlink()
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
        foreign = tmp_path / "hers"  # as XDG_RUNTIME_DIR may name after su
        foreign.mkdir()
        os.chown(foreign, 65534, 65534)
        with pytest.raises(NodeError, match="hers belongs to another user"):
            listen(foreign / "shardwright", "app")
        assert live_sockets(foreign / "shardwright") == []


def test_long_paths_and_strange_names_fit(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "shardwright"
    listener, path = listen(folder, "an app/with.. " + "x" * 200)
    with listener:
        assert len(str(path)) > 108 and path.parent == folder
        assert live_sockets(folder) == [(path, os.getpid())]
    assert live_sockets(folder) == []
    path.unlink()


def test_sockets_of_the_dead_are_swept_those_of_the_living_kept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    folder = tmp_path / "s"
    living, path = listen(folder, "app")
    with living:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(folder / f"app-{ended.pid}.sock"))
        dead.close()
        second, second_path = listen(folder, "app")
        with second:
            assert sorted(os.listdir(folder)) == sorted([path.name, second_path.name])


NONSENSE = [
    b"\n",
    b"{}\n",
    b"[1, 2]\n",
    b'{"verb": "nonsense"}\n',
    b'{"verb": "call"}\n',
    b'{"verb": "call", "target": "desk.echo", "args": 3}\n',
    b'{"verb": "call", "target": "desk.echo", "timeout_s": -1}\n',
    b'{"verb": "ps", "extra": 1}\n',
    b'{"verb": "logs", "since": "x"}\n',
    b"\xff\xfe\x00\n",
    b"[" * 100_000 + b"\n",
    b'{"verb": "call", "target": "desk.echo", "args": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}\n",
]


@pytest.mark.parametrize("line", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_answered_with_an_error(node: Node, line: bytes) -> None:
    with talk(node) as client:
        client.sendall(line)
        answer = json.loads(client.makefile("rb").readline())
        assert answer["ok"] is False and answer["error"]["message"]
        client.sendall(b'{"verb": "info"}\n')
        assert json.loads(client.makefile("rb").readline())["result"]["app"] == "desk"
    assert healthy(node)


def test_a_line_without_end_is_cut(node: Node) -> None:
    with talk(node) as client, pytest.raises(OSError):
        for _ in range(MAX_LINE // 65536 * 8):
            client.sendall(b"x" * 65536)
        client.recv(1)
        raise ConnectionResetError  # it hung up cleanly
    assert healthy(node)


def test_a_silent_client_is_shown_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "FIRST_REQUEST_S", 0.2)
    with talk(node) as client:
        assert client.recv(1) == b""
    monkeypatch.setattr(_api, "IDLE_S", 0.2)
    with talk(node) as client:
        client.sendall(b'{"verb": "info"}\n')
        file = client.makefile("rb")
        assert file.readline() and file.readline() == b""
    assert healthy(node)


def test_who_is_silent_makes_room(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "MAX_CONNECTIONS", 3)
    with talk(node) as oldest, talk(node) as older, talk(node) as old:
        for client in (oldest, older, old):
            client.sendall(b'{"verb": "info"}\n')
            assert client.makefile("rb").readline()
        assert healthy(node)
        assert oldest.recv(1) == b""
        old.sendall(b'{"verb": "info"}\n')
        assert old.makefile("rb").readline()


def test_too_many_busy_connections_turn_others_away(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "MAX_CONNECTIONS", 5)
    clients = []
    try:
        for _ in range(5):
            client = talk(node)
            clients.append(client)
            client.sendall(b'{"verb": "events", "follow": true}\n')
            assert client.recv(1)
        with talk(node) as late:
            assert "too many" in json.loads(late.makefile("rb").readline())["error"]["message"]
    finally:
        for client in clients:
            client.close()
    end_s = time.monotonic() + 10
    while True:
        try:
            assert healthy(node)
            break
        except NodeError:
            assert time.monotonic() < end_s


def test_too_many_calls_are_refused_not_queued(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "MAX_CALLS", 2)
    first = [talk(node) for _ in range(2)]
    try:
        for client in first:
            client.sendall(b'{"verb": "call", "target": "desk.sleep", "args": [30], "timeout_s": 30}\n')
        end_s = time.monotonic() + 10
        while True:
            with ApiClient(path_of(node)) as late:
                try:
                    late.ask("call", target="desk.echo", args=[1], timeout_s=0.2)
                except Refused as refused:
                    if refused.described["code"] == "SW412":
                        assert refused.described["outcome"] == "not started"
                        break
            assert time.monotonic() < end_s
    finally:
        for client in first:
            client.close()


def test_a_client_that_never_reads_is_dropped(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "ANSWER_S", 0.3)
    with talk(node) as client:
        big = "x" * 500_000
        request = json.dumps({"verb": "call", "target": "desk.echo", "args": [big]}).encode() + b"\n"
        client.settimeout(0.2)
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 2000:
                try:
                    client.sendall(request)
                except TimeoutError:
                    sent += 100  # its answers fill the socket: it must hang up on us
                sent += 1
    assert healthy(node)


def test_a_slow_follower_is_told_what_it_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "FOLLOWER_QUEUE", 100)
    with talk(node) as client:
        client.sendall(b'{"verb": "logs", "follow": true}\n')
        with ApiClient(path_of(node)) as other:
            other.ask("call", target="desk.chatter", args=[1, 5])
            file = client.makefile("rb")
            assert json.loads(file.readline())["line"]["text"] == "xxxxx"
            other.ask("call", target="desk.chatter", args=[3000, 800])  # more than the socket holds
            other.ask("call", target="desk.chatter", args=[1, 7])
        texts, lost = 0, 0
        while True:
            answer = json.loads(file.readline())
            lost += answer.get("lost", 0)
            if "line" in answer:
                if answer["line"]["text"] == "x" * 7:
                    break
                texts += 1
        assert lost > 0 and texts + lost >= 3000
        file.close()


def test_many_rude_clients_at_once(node: Node) -> None:
    """While they babble, calls of others are served."""
    stop = threading.Event()

    def babble(seed: int) -> None:
        while not stop.is_set():
            try:
                with talk(node) as client:
                    client.sendall(bytes((seed * 7 + i * 31) % 256 for i in range(3000)) + b"\n")
                    if seed % 2:
                        client.recv(10)
            except OSError:
                continue

    threads = [threading.Thread(target=babble, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert healthy(node)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert healthy(node)


def test_a_node_without_a_folder_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = write_app(tmp_path / "desk", "[app]\nname = 'desk'\n[components.desk]\ncode = 'desk'\n", desk=DESK)
    chosen = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "file")}
    with public.start(app, state=tmp_path / "state", environment=chosen) as node:
        assert node.running.api is None
        with node.session() as session:
            assert session.call("desk.echo", 1) == 1
        assert [row.reason for row in node.running.core.journal.tail(100, kind="api")]
    assert running_nodes(tmp_path / "file" / "shardwright") == []


def test_a_socket_of_another_user_is_not_spoken_to(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    listener, path = listen(folder, "app")
    with listener:
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
            with pytest.raises(NodeError, match="another user"):
                ApiClient(path)
    path.unlink()


def test_shards_may_not_give_the_node_orders(tmp_path: Path) -> None:
    source = """
    import socket, subprocess, sys
    ASK = "import socket, sys; c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); print(c.makefile().readline())"
    def ask(path):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.settimeout(20)
        with client, client.makefile() as answers:
            return answers.readline()
    def ask_by_another(path):
        return subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, timeout=20).stdout
    def echo(value):
        return value
    """
    app = write_app(tmp_path / "desk", "[app]\nname = 'desk'\n[components.desk]\ncode = 'desk'\n", desk=source)
    with public.start(app, state=tmp_path / "state") as node, node.session() as session:
        for function in ("ask", "ask_by_another"):
            answer = json.loads(session.call(f"desk.{function}", str(path_of(node))))
            assert not answer["ok"] and "may not give the node orders" in answer["error"]["message"]
        assert healthy(node)
        rows = node.running.core.journal.tail(kind="refuse")
        assert sum("orders" in row.reason for row in rows) == 2


@pytest.mark.parametrize(
    ("verb", "fields", "said"),
    [
        ("call", {"target": "desk.ecko"}, "did you mean 'echo'"),
        ("call", {"target": "dask.echo"}, "desk"),
        ("call", {"target": "desk.echo", "args": [1], "session": "x" * 201}, "200"),
        ("call", {"target": "desk.echo", "args": [1], "session": "\x1b[2J"}, "cannot be printed"),
        ("resize", {"target": "dask", "guarantee": {"cpu": 1}}, "did you mean 'desk'"),
        ("resize", {"target": "desk", "guarantee": {"cpu": -1}}, "0 or more"),
        ("decisions", {"kind": "refusal"}, "did you mean 'refuse'"),
        ("nonsense", {}, "no request"),
    ],
)
def test_requests_that_cannot_be_used_are_told_as_such(
    node: Node, verb: str, fields: dict[str, object], said: str
) -> None:
    with ApiClient(path_of(node)) as client, pytest.raises(Refused) as caught:
        client.ask(verb, **fields)
    assert caught.value.described["bad_input"] is True
    assert said in f"{caught.value.message} {caught.value.remedy}"


def test_lines_of_what_is_not_there(node: Node) -> None:
    with ApiClient(path_of(node)) as client, pytest.raises(Refused, match="did you mean 'desk'"):
        list(client.lines("logs", follow=False, shard="dsk"))
    with ApiClient(path_of(node)) as client:
        assert client.ask("decisions", kind="loss")["decisions"] == []
