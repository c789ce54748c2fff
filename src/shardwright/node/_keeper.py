"""The keeper: the tiny process that owns sandboxes, so that they end, and are cleaned up after, whatever happens to the node.

``python -m shardwright.node._keeper SOCKET GRACE_S FORMAT`` (of its own lines: json or pretty). Single-threaded. It holds the
other end of each lifeline: when the keeper dies, the kernel kills every template and shard (see
``guest._fresh.hold_lifeline``), and its guard what those had started (``_keeper_guard``). When the node dies, it waits for
the grace, kills everything, removes control groups, and ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from shardwright.contracts.sandbox import LaunchSpec, Sandbox
from shardwright.errors import SandboxError, ShardwrightError
from shardwright.guest import frame
from shardwright.model.ids import ShardId
from shardwright.node._frames import AGAIN_S, TOO_MANY_PASSED, FrameReader, scarce, send_with
from shardwright.node._keeper_guard import guarded
from shardwright.node._keeper_messages import (
    Adopt,
    Applied,
    AskUsage,
    Delete,
    Deleted,
    Describe,
    Described,
    Done,
    Inherit,
    Kill,
    Launch,
    Listen,
    Listening,
    Refused,
    Reserve,
    Reserved,
    Resize,
    Started,
    Usages,
    to_keeper,
)
from shardwright.node._listen import addresses_of, listen
from shardwright.sandbox.namespace import NamespaceBackend
from shardwright.sandbox.oci import sweep_containers
from shardwright.sandbox.process import ProcessBackend, end_descendants
from shardwright.telemetry import LogFormat, OwnLog

MAX_FRAME = 16 * 1024 * 1024
LATE_S = 5.0
END_S = 2.0
ATTEMPTS = 4


class Keeper:
    """Serves one node over one socket."""

    def __init__(
        self, sock: socket.socket, grace_s: float, form: LogFormat = "pretty", guard: int | None = None
    ) -> None:
        self._guard = guard
        self._form: LogFormat = form
        self._socket = sock
        self._grace_s = grace_s
        self._backend = ProcessBackend()
        self._spaces = NamespaceBackend(self._backend.groups)
        self._backends: dict[str, ProcessBackend] = {each.name: each for each in (self._backend, self._spaces)}
        self._sandboxes: dict[str, Sandbox] = {}
        self._frames = FrameReader(sock, limit=MAX_FRAME, descriptors=True)
        self._lifelines: dict[str, socket.socket] = {}  # by shard; nothing is ever written or read there
        self._events = select.epoll()
        self._watched: dict[int, Sandbox] = {}  # by their pidfd: those that run
        self._late: list[Sandbox] = []  # told to end, and did not in time
        self._late_due_s = 0.0
        self._swept: tuple[str, ...] = ()
        self._inherited: list[str] = []  # files to remove
        self._listening: dict[str, list[socket.socket]] = {}  # by the address that was asked for

    def run(self) -> None:
        """Until the node is gone; then end everything."""
        self._swept = (*self._backend.sweep(), *sweep_containers())
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            for descriptor in (self._socket.fileno(), wake_read):
                self._events.register(descriptor, select.EPOLLIN)
            if self._guard is not None:
                self._events.register(self._guard, select.EPOLLIN)
            while True:
                ready = {descriptor for descriptor, _ in self._events.poll(LATE_S if self._is_late() else None)}
                self.delete_late()
                if self._guard in ready:  # killed: what is left would be nobody's when this process is killed as well
                    self._grace_s = 0.0
                    break
                ended = [self._watched[descriptor] for descriptor in ready if descriptor in self._watched]
                for sandbox in ended:
                    self._unwatch(sandbox)  # it tells so until it is deleted
                if wake_read in ready:
                    os.read(wake_read, 4096)
                if wake_read in ready or ended:
                    self._backend.end_strays(self._first_pids())
                    self._backend.reap_orphans(self._first_pids())
                if self._socket.fileno() in ready:
                    if not self._frames.gulp():
                        break
                    for body, descriptors in self._frames.frames():
                        self._answer(to_keeper.decode(body), descriptors)
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            if self._sandboxes and self._grace_s:
                time.sleep(self._grace_s)
            self._end()

    def delete_late(self) -> None:
        """What did not end when it was told to, once more, now and then."""
        if not self._is_late() or time.monotonic() < self._late_due_s:
            return
        self._late_due_s = time.monotonic() + LATE_S
        for backend in self._backends.values():
            backend.remove_left()
        for sandbox in [sandbox for sandbox in self._late if sandbox.poll() is not None]:
            with contextlib.suppress(SandboxError):
                sandbox.delete()
                self._late.remove(sandbox)

    def _is_late(self) -> bool:
        return bool(self._late) or any(backend.left for backend in self._backends.values())

    def _end(self) -> None:
        for sandbox in self._sandboxes.values():
            sandbox.kill()
        for lifeline in self._lifelines.values():
            lifeline.close()
        for path in self._inherited:
            with contextlib.suppress(OSError):
                os.unlink(path)
        late: list[Sandbox] = []
        for sandbox in (*self._sandboxes.values(), *self._late):
            try:
                sandbox.delete()
            except ShardwrightError:
                late.append(sandbox)
        for backend in self._backends.values():
            backend.cancel_all()
        if not end_descendants(END_S):
            self._say("some processes did not end")
        for sandbox in late:  # by now nobody is left who could keep it
            try:
                sandbox.delete()
            except ShardwrightError as error:
                self._say("a sandbox could not be removed", reason=str(error))
        for backend in self._backends.values():
            backend.remove_left(END_S)
        self._backend.close()

    def _say(self, text: str, **fields: str) -> None:
        try:
            log = OwnLog(sys.stderr, form=self._form, colours=False, of="keeper")
            log.write_now("error", text, fields)  # there is just one thread
        except Exception as defect:  # nothing that is said is worth the shards
            print(f"keeper: {text} {fields}: {defect!r}", file=sys.stderr)

    def _answer(self, message: Any, descriptors: list[int]) -> None:
        out: list[int] = []
        try:
            answer, out = self._do(message, descriptors)
        except ShardwrightError as error:
            answer = Refused(message.request, error.message, error.remedy)
        except Exception as error:  # whatever one request comes to, the others' shards must not die of it
            self._say("a request failed", request=type(message).__name__.lower(), reason=repr(error))
            answer = Refused(message.request, f"{type(message).__name__.lower()}: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        data = frame(answer, len(out))
        try:
            sent = self._send(data, out) if out else 0
        except OSError as error:
            if not scarce(error):
                raise
            self._undo(answer)
            why = f"the answer's descriptors cannot be passed on now: {error.strerror}"
            data, sent = frame(Refused(message.request, why, TOO_MANY_PASSED), 0), 0
        while sent < len(data):
            sent += self._send(data[sent:], [])

    def _send(self, data: bytes, descriptors: list[int]) -> int:
        """How much of it went. Tries again for a while where the kernel has too little of something."""
        attempts = 1
        while True:
            try:
                return send_with(self._socket, data, descriptors)
            except OSError as error:
                if not scarce(error) or (descriptors and attempts == ATTEMPTS):
                    raise
            attempts += 1
            time.sleep(AGAIN_S)

    def _undo(self, answer: Any) -> None:
        """The node will not hear of it."""
        with contextlib.suppress(SandboxError):
            if isinstance(answer, Started) and answer.handle is not None:
                self._do(Delete(answer.request, answer.handle.shard), [])

    def _do(self, message: Any, descriptors: list[int]) -> tuple[Any, list[int]]:
        match message:
            case Launch():
                held, theirs = socket.socketpair()
                mapped = dict(zip(message.targets, descriptors, strict=True)) | {message.lifeline: theirs.fileno()}
                spec = LaunchSpec(
                    shard=ShardId(message.shard),
                    arguments=message.arguments,
                    environment=message.environment,
                    working_directory=message.working_directory,
                    descriptors=mapped,
                    limits=message.limits,
                    max_pids=message.max_pids,
                    sight=message.sight,
                    template=message.template,
                )
                with theirs:
                    try:
                        launched = self._backend_of(message.backend).launch(spec)
                    except BaseException:
                        held.close()
                        raise
                self._lifelines[message.shard] = held
                return self._started(message.request, launched)
            case Reserve():
                backend = self._backend_of(message.backend)
                return Reserved(message.request), list(backend.reserve(message.shard, message.limits))
            case Adopt():
                backend = self._backend_of(message.handle.backend)
                if message.reserved:
                    backend.give(message.reserved, message.handle.shard)
                adopted = backend.adopt(message.handle, message.limits)
                if adopted is not None:
                    self._lifelines[message.handle.shard] = socket.socket(fileno=os.dup(descriptors[0]))
                return self._started(message.request, adopted)
            case Resize():
                return Applied(message.request, self._sandbox(message.shard).resize(message.limits)), []
            case Kill():
                if message.shard in self._sandboxes:
                    self._sandboxes[message.shard].kill()
                return Done(message.request), []
            case Delete():
                sandbox = self._sandboxes.pop(message.shard, None)
                if sandbox is None:
                    for backend in self._backends.values():
                        backend.cancel(message.shard)
                    return Deleted(message.request, None), []
                self._unwatch(sandbox)
                sandbox.kill()
                if (lifeline := self._lifelines.pop(message.shard, None)) is not None:
                    lifeline.close()
                try:
                    sandbox.delete()
                except SandboxError:
                    self._late.append(sandbox)  # the others cannot wait for it
                    self._late_due_s = time.monotonic() + LATE_S
                    raise
                return Deleted(message.request, sandbox.poll()), []
            case Inherit():
                self._inherited.append(message.path)
                return Done(message.request), []
            case Listen():
                if descriptors:
                    self._listening[message.bind] = [socket.socket(fileno=os.dup(number)) for number in descriptors]
                elif message.bind not in self._listening:
                    self._listening[message.bind] = listen(message.bind)
                sockets = self._listening[message.bind]
                return Listening(message.request, addresses_of(sockets)), [each.fileno() for each in sockets]
            case AskUsage():
                found = {s: self._sandboxes[s].usage() for s in message.shards if s in self._sandboxes}
                return Usages(message.request, found), []
            case Describe():
                for name in message.told:
                    self._backend_of(name)
                enforces = self._backend.capabilities().enforces
                return Described(
                    message.request, self._backend.capacity(), enforces, self._backend.reason, self._swept, os.getpid(),
                    {name: self._trouble(name) for name in message.try_backends},
                    {name: backend.capabilities().transports for name, backend in self._backends.items()},
                ), []  # fmt: skip
        raise ShardwrightError(f"the keeper does not know {type(message).__name__}")

    def _backend_of(self, name: str) -> ProcessBackend:
        """Raises SandboxError."""
        kind, _, runtime = name.partition(":")
        if name not in self._backends and kind == "oci" and runtime:
            from shardwright.sandbox.oci import OciBackend  # few keepers need it

            self._backends[name] = OciBackend(runtime, self._backend.groups)
        if name not in self._backends and kind == "docker":
            from shardwright.sandbox.docker import DockerBackend  # and fewer this one

            self._backends[name] = (
                DockerBackend(runtime, groups=self._backend.groups)
                if runtime
                else DockerBackend(groups=self._backend.groups)
            )
        if name not in self._backends and kind == "microvm":
            from shardwright.node._machines import machine_backend_of  # and fewest this one

            self._backends[name] = machine_backend_of(name, self._backend.groups)
        if name not in self._backends:
            raise SandboxError(f"there is no backend {name!r}", remedy=f"choose from {', '.join(self._backends)}")
        return self._backends[name]

    def _first_pids(self) -> list[int]:
        """Children of ours that are no orphans: the first processes of sandboxes."""
        return [pid for each in self._backends.values() for pid in each.first_pids()]

    def _trouble(self, name: str) -> str:
        """Why sandboxes of that backend cannot be made here; empty when they can."""
        try:
            backend = self._backend_of(name)
        except SandboxError as error:
            return error.message
        trouble = getattr(backend, "trouble", None)
        return str(trouble()) if trouble is not None else ""

    def _sandbox(self, shard: str) -> Sandbox:
        """Raises SandboxError: its end may have been asked for just before."""
        found = self._sandboxes.get(shard)
        if found is None:
            raise SandboxError(f"the sandbox of {shard} has ended")
        return found

    def _unwatch(self, sandbox: Sandbox) -> None:
        # closing would not do: the node has a copy of that descriptor
        for descriptor in [number for number, watched in self._watched.items() if watched is sandbox]:
            del self._watched[descriptor]
            self._events.unregister(descriptor)

    def _started(self, request: int, sandbox: Sandbox | None) -> tuple[Started, list[int]]:
        if sandbox is None:
            return Started(request, None), []
        self._sandboxes[sandbox.handle.shard] = sandbox
        self._watched[sandbox.fileno()] = sandbox
        self._events.register(sandbox.fileno(), select.EPOLLIN)
        return Started(request, sandbox.handle), [sandbox.fileno()]


def main(argv: list[str]) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the node, and not before it
    guard = guarded([int(argv[1])])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # several descriptors for each sandbox
    form: LogFormat = "json" if argv[3:] == ["json"] else "pretty"
    Keeper(socket.socket(fileno=int(argv[1])), float(argv[2]), form, guard).run()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do, and taking the interpreter apart takes longer than all the rest


if __name__ == "__main__":
    main(sys.argv)
