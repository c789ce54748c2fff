"""What tests run containers of shards with, where it is installed and may be used: OCI runtimes, and a Docker daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.sandbox.oci import OciBackend

RUNTIMES = ("runc", "crun")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def need(runtime: str) -> None:
    """Skip where there is no such runtime, or no right to use it."""
    if os.geteuid() != 0:
        pytest.skip("containers take root")
    if not OciBackend(runtime).is_there():
        pytest.skip(f"{runtime} is not installed")


@contextlib.contextmanager
def docker_daemon() -> Iterator[str]:
    """The address of a daemon of our own; skips where there is none.

    In a mount namespace of its own, with files of its own, without a network: nothing of the machine is touched.
    """
    if os.geteuid() != 0:
        pytest.skip("a Docker daemon takes root")
    if shutil.which("dockerd", path=_PATH) is None:
        pytest.skip("dockerd is not installed")
    folder = tempfile.mkdtemp(prefix="swt-dockerd-", dir="/var/tmp")
    address = f"unix://{folder}/socket"
    arguments = [
        *(
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
            f"--data-root={folder}/data",
        ),
        *(f"--exec-root={folder}/run", f"--pidfile={folder}/pid", f"--host={address}"),
    ]
    # what is mounted of version 2 beside version 1 is taken for a mixture that it does not know
    script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec dockerd "$@"'
    with open(f"{folder}/log", "wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": _PATH}, start_new_session=True,
        )  # fmt: skip
    try:
        end_s = time.monotonic() + 30
        while not _answers(f"{folder}/socket"):
            if daemon.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"dockerd does not start: {Path(folder, 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield address
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(path: str) -> bool:
    """Whether it works: it listens before it has started what runs its containers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        try:
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.makefile("rb").readline()
        except OSError:
            return False
