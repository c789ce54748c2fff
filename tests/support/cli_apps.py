"""Small applications, and the real command line on them, for tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

__all__ = ["PYTEST_ALONE", "Background", "background", "environment", "shardwright", "write_app"]


def write_app(folder: Path, manifest: str, **modules: str) -> Path:
    """An application in ``folder``: ``write_app(tmp, "...", front="...", back="...")``; its modules lie side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shardwright.toml").write_text(textwrap.dedent(manifest), encoding="utf-8")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


# For programs that are pytest: without the plugins of this environment it starts in a fifth of the time.
PYTEST_ALONE = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def environment(tmp_path: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A home of its own; the runtime folder is that of the test run."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    chosen = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "200", "NO_COLOR": "1"}
    return {**os.environ, **chosen, **(more or {})}


def shardwright(
    tmp_path: Path,
    *arguments: str,
    given: str | None = None,
    more: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """One command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shardwright", *arguments],
        input=given if given is not None else "",
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(tmp_path, more),
    )


class Background:
    """A command that runs beside the test; its lines are collected as they come."""

    def __init__(self, tmp_path: Path, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shardwright", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(tmp_path, more),
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self.seen: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Iterator[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """The first new line, of stdout or stderr, that contains ``text``."""
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except Empty:
                raise AssertionError(f"no {text!r} in:\n" + "\n".join(self.seen)) from None
            self.seen.append(line)
            if text in line:
                return line

    def end(self, number: int | None = None, timeout: float = 30) -> int:
        """Send a signal, if one is given; the exit status. All lines are in ``seen`` then."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(10)
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def background(tmp_path: Path, *arguments: str, more: Mapping[str, str] | None = None) -> Iterator[Background]:
    command = Background(tmp_path, *arguments, more=more)
    try:
        yield command
    finally:
        command.close()
