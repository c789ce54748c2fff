"""Firecracker's driver, held to the published description of its API by a stand-in. Not run on hardware."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec.structs
import pytest

from firecracker_standin import FirecrackerStandIn
from shardwright.errors import SandboxError
from shardwright.sandbox.microvm import (
    FirecrackerApi,
    Machine,
    balloon_requests,
    boot_requests,
    connect_vsock,
    jail_of,
    jailer_command,
    restore_requests,
    snapshot_requests,
)

MACHINE = Machine(
    monitor="firecracker", program="/usr/bin/firecracker", kernel="/k", initial="/i", disks=("/one", "/two"), memory_mib=256,
    cpus=2, way="vsock", accelerated=True, folder="/m", jailer="/usr/bin/jailer", user=65532,
)  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[FirecrackerStandIn, FirecrackerApi]]:
    with FirecrackerStandIn(tmp_path / "api") as standing:
        yield standing, FirecrackerApi(tmp_path / "api")


def test_a_machine_is_made_started_resized_and_saved_as_described(server, record_exercised) -> None:  # type: ignore[no-untyped-def]
    standing, api = server
    api.run(boot_requests(MACHINE))
    api.run(balloon_requests(64))
    api.run(snapshot_requests("/state", "/memory"))
    assert not standing.faults
    paths = [path for _, path, _ in standing.taken]
    assert paths.index("/actions") > max(paths.index(each) for each in ("/boot-source", "/vsock", "/drives/disk1"))
    assert standing.state == "Running"
    record_exercised("requests that Firecracker's description permits", len(standing.taken))


def test_a_machine_is_restored_as_described(server) -> None:  # type: ignore[no-untyped-def]
    standing, api = server
    api.run(restore_requests("/state", "/memory"))
    assert not standing.faults and standing.state == "Running"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpus": 33}, "33 is greater than the maximum"),
        ({"memory_mib": "much"}, "is not of type 'integer'"),
        ({"cpus": 0}, "0 is less than the minimum"),
    ],
)
def test_what_it_refuses_is_told_with_its_words(server, change, said) -> None:  # type: ignore[no-untyped-def]
    standing, api = server
    with pytest.raises(SandboxError, match=f"refuses PUT /machine-config: .*{said}"):
        api.run(boot_requests(msgspec.structs.replace(MACHINE, **change)))
    assert len(standing.faults) == 1 and not standing.taken


def test_an_order_that_makes_no_sense_is_refused(server) -> None:  # type: ignore[no-untyped-def]
    _, api = server
    for requests in (balloon_requests(1), snapshot_requests("/s", "/m"), boot_requests(MACHINE)[-1:]):
        with pytest.raises(SandboxError, match="Firecracker refuses"):
            api.run(requests)


def test_without_a_server_it_is_said_which_request_failed(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="does not answer PUT /machine-config"):
        FirecrackerApi(tmp_path / "nobody").run(boot_requests(MACHINE))


def test_the_jailer_gets_what_it_documents() -> None:
    command = jailer_command(MACHINE, "physics-0.1")
    ours, theirs = command[: command.index("--")], command[command.index("--") + 1 :]
    given = dict(zip(ours[1::2], ours[2::2], strict=True))
    assert given["--id"] == "physics-0-1", "letters, digits and hyphens"
    assert given["--exec-file"] == "/usr/bin/firecracker" and given["--uid"] == given["--gid"] == "65532"
    assert str(jail_of("physics-0.1")) == f"{given['--chroot-base-dir']}/firecracker/physics-0-1/root"
    assert theirs[:2] == ["--api-sock", "/run/api.sock"]
    assert jailer_command(MACHINE, "x" * 100)[2] == "x" * 64


@pytest.mark.parametrize("answer", [b"OK 1073741824\n", b"", b"NO\n", b"OK " + b"1" * 100])
def test_a_stream_to_the_guest_begins_with_a_word(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "v.sock"
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)

        def play() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(answer + (b"the stream" if answer.endswith(b"\n") else b""))
                with contextlib.suppress(ConnectionResetError):
                    connection.recv(1)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            if answer == b"OK 1073741824\n":
                with connect_vsock(path) as connection:
                    assert connection.recv(100) == b"the stream"
            else:
                with pytest.raises(OSError):
                    connect_vsock(path, timeout_s=0.5)
        finally:
            thread.join(20)
    assert asked == [b"CONNECT 5201\n"]
