"""ApiClient: a blocking conversation with a running node, for commands in another terminal."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import Struct

from shardwright.errors import NodeError
from shardwright.node._api_sockets import connect, folder_trouble, live_sockets

CONNECT_S = 5.0
ANSWER_S = 30.0


class NoAnswer(NodeError):
    """No node answers."""


class Refused(NodeError):
    """The node's answer is an error; ``described`` holds it as the node sent it."""

    def __init__(self, described: dict[str, Any]) -> None:
        super().__init__(str(described.get("message", "")), remedy=str(described.get("remedy", "")))
        self.described = described


class NodeAddress(Struct, frozen=True):
    """A node that answers: which application, where."""

    app: str
    pid: int
    manifest: str
    socket: Path


class ApiClient:
    """One connection. Raises NoAnswer when the node is gone, Refused for its errors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._socket = connect(path, CONNECT_S)
        except OSError as error:
            raise NoAnswer(f"no node answers at {path}: {error.strerror or error}") from None
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, verb: str, *, wait_s: float = ANSWER_S, **fields: Any) -> Any:
        """One request, its result."""
        self._send(verb, fields)
        self._socket.settimeout(wait_s)
        return self._receive()["result"]

    def lines(self, verb: str, *, follow: bool, **fields: Any) -> Iterator[dict[str, Any]]:
        """``{"line": ...}`` and ``{"lost": n}`` objects until the end."""
        self._send(verb, {"follow": follow, **fields})
        self._socket.settimeout(None if follow else ANSWER_S)
        while True:
            answer = self._receive()
            if answer.get("end"):
                return
            yield answer

    def terminal(self, verb: str, *, wait_s: float = ANSWER_S, **fields: Any) -> socket.socket:
        """The connection, which carries the bytes of a terminal from the answer on; it stays this client's."""
        self._send(verb, fields)
        self._socket.settimeout(wait_s)
        # by the byte: what comes behind the line is the terminal's
        line = bytearray()
        try:
            while not line.endswith(b"\n") and (byte := self._socket.recv(1)):
                line += byte
        except TimeoutError:
            raise NoAnswer(f"the node at {self._path} took too long to answer") from None
        except OSError as error:
            raise NoAnswer(f"the node at {self._path} has gone: {error}") from None
        self._read(bytes(line))
        return self._socket

    def _send(self, verb: str, fields: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps({"verb": verb, **fields}, allow_nan=False).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it hung up
        except OSError as error:
            raise NoAnswer(f"the node at {self._path} does not answer: {error}") from None

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except TimeoutError:
            raise NoAnswer(f"the node at {self._path} took too long to answer") from None
        except OSError as error:
            raise NoAnswer(f"the node at {self._path} has gone: {error}") from None
        return self._read(line)

    def _read(self, line: bytes) -> dict[str, Any]:
        if not line.endswith(b"\n"):
            raise NoAnswer(f"the node at {self._path} has gone")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            raise Refused(answer.get("error", {}))
        return answer


def running_nodes(folder: Path) -> list[NodeAddress]:
    """Nodes that answer in this folder, in the order of their names."""
    return survey(folder)[0]


def survey(folder: Path) -> tuple[list[NodeAddress], list[tuple[str, int]]]:
    """Nodes that answer in this folder, and those that live and do not: application and process id."""
    found, silent = [], []
    for path, pid in live_sockets(folder):
        try:
            with ApiClient(path) as client:
                told = client.ask("info", wait_s=CONNECT_S)
        except (OSError, NoAnswer, Refused):
            if os.path.exists(f"/proc/{pid}"):
                silent.append((path.stem.rpartition("-")[0], pid))
            continue
        found.append(NodeAddress(told["app"], told["pid"], told["manifest"], path))
    return found, silent


def _silent(nodes: list[tuple[str, int]]) -> NoAnswer:
    app, pid = nodes[0]
    more = f", nor do {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return NoAnswer(
        f"the node of {app} (pid {pid}) runs, but does not answer{more}",
        remedy=f"if it was stopped, let it go on: kill -CONT {pid}; if it is busy, ask again",
    )


def choose(folder: Path, target: str | None) -> NodeAddress:
    """The node meant by an application's name, by the path of its manifest or folder, or by being the only one.

    Raises NoAnswer when there is none, NodeError with the list when there are several.
    """
    nodes, silent = survey(folder)
    listed = "; running: " + ", ".join(f"{n.app} (pid {n.pid}, {n.manifest})" for n in nodes) if nodes else ""
    if target is not None:
        fitting = [node for node in nodes if node.app == target or str(node.pid) == target]
        if not fitting and os.path.exists(target):
            real = os.path.realpath(target)
            fitting = [n for n in nodes if real in (n.manifest, os.path.dirname(n.manifest))]
        if not fitting and (meant := [node for node in silent if target in (node[0], str(node[1]))]):
            raise _silent(meant)
        if not fitting and silent and os.path.exists(target):
            raise _silent(silent)  # which manifest it runs, it alone knows
        if not fitting:
            raise NoAnswer(f"no running node is named {target!r}{listed}", remedy="start one: shardwright run PATH")
    else:
        fitting = nodes
        if not fitting and silent:
            raise _silent(silent)
        if not fitting:
            trouble = folder_trouble(folder)
            looked = f"did not look in {folder}: {trouble}" if trouble else f"looked in {folder}"
            raise NoAnswer(f"no node is running ({looked})", remedy="start one: shardwright run PATH")
    if len(fitting) > 1:
        names = ", ".join(f"{n.app} (pid {n.pid}, {n.manifest})" for n in fitting)
        raise Ambiguous(f"several nodes are running: {names}", remedy="name one by its application, manifest or pid")
    return fitting[0]


class Ambiguous(NodeError):
    """Several nodes fit what was asked for."""
