"""The servers that one probe application runs under: uvicorn and gunicorn as people run them, and a node's gateway."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import shardwright
from shardwright.node import Node

__all__ = ["Address", "address_of", "copied", "gunicorn", "node", "uvicorn"]

Address = tuple[str, int]
PATIENCE_S = 30.0
_LISTENS = re.compile(r"(?:running on|Listening at:) http://([0-9.]+):([0-9]+)")


def address_of(started: Node) -> Address:
    host, _, port = started.urls[0].removeprefix("http://").partition(":")
    return host, int(port)


@contextmanager
def uvicorn(folder: Path, app: str, *options: str) -> Iterator[Address]:
    """uvicorn with httptools and websockets, as ``pip install uvicorn[standard]`` gives it."""
    command = [sys.executable, "-W", "ignore", "-m", "uvicorn", app, "--port", "0", "--http", "httptools"]
    with _served([*command, "--loop", "asyncio", "--ws", "auto", "--no-access-log", *options], folder) as address:
        yield address


@contextmanager
def gunicorn(folder: Path, app: str, *options: str) -> Iterator[Address]:
    """gunicorn with one gthread worker of four threads; connections are kept alive long enough for the cases."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "gunicorn",
        app,
        "--bind",
        "127.0.0.1:0",
        "--worker-class",
        "gthread",
    ]
    command += ["--threads", "4", "--keep-alive", "30", "--graceful-timeout", "1", "--no-control-socket"]
    with _served([*command, *options], folder) as address:
        yield address


@contextmanager
def _served(command: list[str], folder: Path) -> Iterator[Address]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said: list[str] = []
    listens: list[Address] = []
    known = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.decode(errors="replace"))
            found = _LISTENS.search(said[-1])
            if found is not None and not listens:
                listens.append((found.group(1), int(found.group(2))))
                known.set()
        known.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        known.wait(PATIENCE_S)
        assert listens, "".join(said)
        yield listens[0]
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(PATIENCE_S)
        process.stdout.close()


@contextmanager
def node(folder: Path, app: str, *, gateway: str = "", path: str = "/", component: str = "") -> Iterator[Node]:
    """A node whose gateway serves that application alone."""
    manifest = f"""
        [app]
        name = "probe"
        [components.web]
        code = "{app}"
        {component}
        [gateway]
        bind = "127.0.0.1:0"
        {gateway}
        [[routes]]
        path = "{path}"
        app = "web"
    """
    (folder / "shardwright.toml").write_text(manifest)
    with shardwright.start(folder, state=folder / ".state") as started:
        yield started


def copied(source: Path, folder: Path) -> Path:
    """A folder of its own for one server, with the applications of ``source``."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
