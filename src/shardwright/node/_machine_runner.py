"""The runner of one virtual machine: a process that stands for the shard in there, as far as the node's side goes.

``python -m shardwright.node._machine_runner ORDER CONTROL`` (descriptors: a file with a ``MachineOrder``, and a socket of
packets by which its keeper changes limits). It makes the disks, starts the monitor, has a bridge join the shard's descriptors
with the machine, and ends as the program in the machine ended. It ends with its keeper, and the monitor with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shardwright.errors import SandboxError, ShardwrightError
from shardwright.guest import MAX_WORD, AgentOrder, AgentWord, AgentWords, agent_bytes
from shardwright.node._keeper_client import python_command
from shardwright.node._machines import machine_files
from shardwright.sandbox.microvm import (
    GREETING_WORDS,
    KERNEL_BYTES,
    FirecrackerApi,
    Machine,
    MachineOrder,
    Told,
    balloon_requests,
    balloon_words,
    boot_requests,
    connect_vsock,
    disk,
    find_kernel,
    furnish,
    initial_folder,
    jail_of,
    jailer_command,
    qemu_command,
)
from shardwright.transport.bridge import Bridge

_LIBC = ctypes.CDLL(None, use_errno=True)
_PDEATHSIG = 1
_FAILED = 70
_LAST_LINES = 20
_LONGEST_LINE = 500
_REST_S = 2.0  # for what the program said last
_STREAMS_S = 0.03  # within which all streams of a program that ended are over
_WORD_S = 0.5  # and so long until it is said how it ended
_END_S = 5.0
_BOOT_S = 120.0
_MIB = 2**20
_ENDS_NOBODY = (
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG),
    *(signal.SIGWINCH, 32, 33),
)  # a machine may say anything


class Runner:
    """One machine, from the order to its end."""

    def __init__(self, order: MachineOrder, control: socket.socket, errors: int) -> None:
        self._order = order
        self._control = control
        self._errors = errors
        self._console: deque[str] = deque(maxlen=_LAST_LINES)
        self._words = AgentWords(MAX_WORD)
        self._monitor: subprocess.Popen[bytes] | None = None
        self._bridge: Bridge | None = None
        self._ended: int | None = None
        self._monitor_words: socket.socket | None = None
        self._api: FirecrackerApi | None = None

    def run(self) -> int:
        """The exit status of the program; minus a signal. Raises SandboxError where the machine fails."""
        try:
            stream = self._boot()
            near, first = socket.socketpair()
            self._bridge = bridge = Bridge(stream, first=first.detach())
            threading.Thread(target=bridge.run, name="bridge", daemon=True).start()
            with near:
                self._give(near)
                return self._serve(near)
        finally:
            if self._monitor is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._monitor.wait(0 if self._bridge is None else _END_S)
                self._monitor.kill()
                self._monitor.wait()

    # -- making ------------------------------------------------------------------------------------------------

    def _machine(self, folder: str) -> Machine:
        order, store = self._order, Path(self._order.store)
        kernel = find_kernel(Path(order.kernel))
        base, code = machine_files(order.read)
        agent = python_command("shardwright.guest._agent")
        script = {"/shardwright-agent": _agent_script(agent).encode()}
        disks = [disk({**base, **script}, store), *([disk(code, store)] if code else [])]
        initial = initial_folder(kernel, (sys.executable, "-P", "/shardwright-agent"), store)
        plain = order.monitor == "firecracker"
        return Machine(
            monitor=order.monitor, program=order.program, kernel=str(kernel.plain if plain else kernel.image),
            initial=str(initial), disks=tuple(map(str, disks)), memory_mib=order.memory_bytes // _MIB, cpus=order.cpus,
            way="vsock" if plain else "virtio-serial", accelerated=order.monitor == "qemu-kvm", folder=folder,
            jailer=order.jailer, user=65532,
        )  # fmt: skip

    def _boot(self) -> int:
        """The machine's stream of bytes."""
        with tempfile.TemporaryDirectory(prefix="swm-") as folder:
            machine = self._machine(folder)
            if machine.monitor == "firecracker":
                return self._boot_firecracker(machine)
            bridge, words = f"{folder}/bridge", f"{folder}/words"
            with _listening(bridge) as bridges, _listening(words) as speaks:
                self._start(qemu_command(machine, bridge=bridge, words=words))
                stream = self._accepted(bridges)
                try:
                    self._monitor_words = self._accepted(speaks)
                except BaseException:
                    stream.close()
                    raise
            self._monitor_words.setblocking(False)
            self._monitor_words.send(GREETING_WORDS)
            if self._order.ceiling_bytes is not None:
                self._hold(self._order.ceiling_bytes)
            return stream.detach()

    def _accepted(self, listening: socket.socket) -> socket.socket:
        listening.settimeout(1.0)
        end_s = time.monotonic() + _BOOT_S
        while time.monotonic() < end_s:
            self._check()
            with contextlib.suppress(TimeoutError):
                return listening.accept()[0]
        raise SandboxError("the monitor of the machine does not come to its sockets")

    def _hold(self, ceiling_bytes: int) -> None:
        """The machine gives up memory beyond that, and what its kernel takes; or may have it again."""
        memory = min(ceiling_bytes + KERNEL_BYTES, self._order.memory_bytes)
        with contextlib.suppress(OSError):
            if self._monitor_words is not None:
                with contextlib.suppress(BlockingIOError):
                    while self._monitor_words.recv(65536):  # its answers and events: nobody waits for them
                        pass
                self._monitor_words.send(balloon_words(memory))
            elif self._api is not None:
                self._api.run(balloon_requests((self._order.memory_bytes - memory) // _MIB))

    def _boot_firecracker(self, machine: Machine) -> int:
        """As published; not run on hardware."""
        jail = jail_of(self._order.shard)
        furnish(machine, jail)
        self._start(jailer_command(machine, self._order.shard))
        api, vsock = jail / "run" / "api.sock", jail / "run" / "vsock.sock"
        end_s = time.monotonic() + _BOOT_S
        while not api.exists():
            self._pause(end_s)
        self._api = FirecrackerApi(api)
        self._api.run(boot_requests(machine))
        if self._order.ceiling_bytes is not None:
            self._hold(self._order.ceiling_bytes)
        while True:
            try:
                return connect_vsock(vsock).detach()
            except OSError:
                self._pause(end_s)

    def _pause(self, end_s: float) -> None:
        self._check()
        if time.monotonic() > end_s:
            raise SandboxError("the machine does not come up in time")
        time.sleep(0.02)  # nothing tells when a monitor's socket is there

    def _start(self, command: list[str]) -> None:
        parent = os.getpid()

        def bound_to_us() -> None:
            _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        self._monitor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=bound_to_us
        )
        threading.Thread(target=self._read_console, name="console", daemon=True).start()

    def _read_console(self) -> None:
        """The last lines of what the machine, and its monitor, say: for people, where it fails."""
        assert self._monitor is not None and self._monitor.stdout is not None
        while line := self._monitor.stdout.readline(_LONGEST_LINE):
            if text := line.decode("utf-8", "replace").strip():
                self._console.append("".join(each if each.isprintable() else "?" for each in text))

    def _check(self) -> None:
        if self._monitor is not None and self._monitor.poll() is not None:
            raise SandboxError(f"the machine ended by itself, with {self._monitor.returncode}")

    # -- serving -----------------------------------------------------------------------------------------------

    def _give(self, near: socket.socket) -> None:
        order = self._order
        memory = order.ceiling_bytes
        asked = AgentOrder(order.arguments, order.environment, order.folder, order.numbers, memory, order.max_pids)
        raw = memoryview(agent_bytes(asked))
        sent = socket.send_fds(near, [raw], list(order.numbers))
        near.sendall(raw[sent:])
        for number in order.numbers:  # who else has them hears of their ends from now on
            if number > 2:
                os.close(number)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.close(null)

    def _serve(self, near: socket.socket) -> int:
        assert self._monitor is not None
        self._say(Told(serving=True))
        ended = os.pidfd_open(self._monitor.pid)
        poll = select.poll()
        for descriptor in (near.fileno(), self._control.fileno(), ended):
            poll.register(descriptor, select.POLLIN)
        while self._ended is None:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if near.fileno() in ready:
                self._hear(near)
            if self._control.fileno() in ready and not self._obey(near):
                poll.unregister(self._control)
            if ended in ready:
                self._check()
        self._rest()
        return max(-64, min(255, self._ended))

    def _hear(self, near: socket.socket) -> None:
        """What the agent says. Raises SandboxError: whoever speaks there may be anybody by now."""
        data = near.recv(65536)
        if not data:
            raise SandboxError("the machine went silent, or broke the protocol of its bridge")
        try:
            words = [msgspec.json.decode(body, type=AgentWord) for body in self._words.bodies(data)]
        except (ValueError, msgspec.MsgspecError) as error:
            raise SandboxError(f"the machine's agent says what it may not: {error!s:.200}") from None
        for word in words:
            if word.failed:
                raise SandboxError("".join(each if each.isprintable() else "?" for each in word.failed[:_LONGEST_LINE]))
            if word.ended is not None and self._ended is None:
                self._ended = word.ended
                self._say(Told(ended=max(-64, min(255, word.ended)), out_of_memory=word.out_of_memory))

    def _obey(self, near: socket.socket) -> bool:
        """False when the keeper is gone."""
        said = self._control.recv(4096)
        if not said:
            return False
        wanted: dict[str, Any] = msgspec.json.decode(said)
        if "memory_bytes" in wanted:
            near.sendall(agent_bytes(AgentOrder(memory_bytes=wanted["memory_bytes"])))
            self._hold(wanted["memory_bytes"])
        elif "leave" in wanted:
            self._tell_whether_it_ended(near)
        return True

    def _tell_whether_it_ended(self, near: socket.socket) -> None:
        """Its sockets are closed, perhaps; then the agent will say within a moment how its program ended."""
        assert self._bridge is not None
        begun_s = time.monotonic()
        while self._ended is None:
            left_s = _WORD_S if self._bridge.streams <= 1 else _STREAMS_S
            if time.monotonic() - begun_s > left_s:
                self._say(Told())
                return
            if select.select([near], [], [], 0.005)[0]:
                self._hear(near)

    def _say(self, told: Told) -> None:
        with contextlib.suppress(OSError):
            self._control.send(msgspec.json.encode(told), socket.MSG_DONTWAIT)

    def _rest(self) -> None:
        """What the program wrote last is on its way; streams that others hold open do not end."""
        assert self._bridge is not None
        end_s = time.monotonic() + _REST_S
        while self._bridge.streams > 1 and time.monotonic() < end_s:
            time.sleep(0.01)

    def explain(self, error: ShardwrightError) -> None:
        """To the shard's log."""
        lines = [f"shardwright: {error}", *(f"    {line}" for line in self._console)]
        with contextlib.suppress(OSError):
            os.write(self._errors, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        made.listen(1)
        yield made


def _agent_script(command: list[str]) -> str:
    """What ``python_command`` runs, as a file: the kernel's hand-over knows no quotes."""
    code, arguments = command[3], command[4:]
    return f"import sys\nsys.argv[:] = ['-c', {', '.join(map(repr, arguments))}, *sys.argv[1:]]\n{code}"


def main(argv: list[str]) -> None:
    errors = os.dup(2)
    os.set_inheritable(errors, False)
    with open(int(argv[1]), "rb") as file:
        order = msgspec.json.decode(file.read(), type=MachineOrder)
    control = socket.socket(fileno=int(argv[2]))
    for number in order.numbers:
        os.set_inheritable(number, False)
    runner = Runner(order, control, errors)
    try:
        status = runner.run()
    except ShardwrightError as error:
        runner.explain(error)
        status = _FAILED
    if status < 0:
        if -status not in _ENDS_NOBODY:
            if -status != signal.SIGKILL:
                signal.signal(-status, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
            os.kill(os.getpid(), -status)
        status = 128 - status
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv)
