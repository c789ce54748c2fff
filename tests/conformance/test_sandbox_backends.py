"""Every sandbox backend passes the suite that third parties run over theirs.

``SWT_LONG=1 ./scripts/test tests/conformance/test_sandbox_backends.py`` starts and kills at more random moments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import RUNTIMES, need
from shardwright.contracts.sandbox import LaunchSpec, Sandbox, SandboxBackend, Sight
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.sandbox import become_subreaper
from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox.docker import DockerBackend
from shardwright.sandbox.namespace import NamespaceBackend
from shardwright.sandbox.oci import OciBackend
from shardwright.sandbox.process import ProcessBackend
from shardwright.testing import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend

LONG = os.environ.get("SWT_LONG") == "1"
BACKENDS: dict[str, Callable[[], SandboxBackend]] = {
    "process": ProcessBackend,
    "process-without-cgroups": lambda: ProcessBackend(NoCgroups("switched off by a test")),
    "namespace": NamespaceBackend,
    "namespace-without-cgroups": lambda: NamespaceBackend(NoCgroups("switched off by a test")),
}


def _done(check: SandboxCheck, done: tuple[str, ...]) -> None:
    if not done:
        pytest.skip(f"this machine does not let us enforce {', '.join(check.needs)}")
    assert done == (check.name,)


@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.name.replace(" ", "-"))
def test_process(check: SandboxCheck) -> None:
    done = check_sandbox_backend(BACKENDS["process"], only=check.name, long=LONG)
    _done(check, done)


@pytest.mark.parametrize(
    "check", [check for check in SANDBOX_CHECKS if not check.needs], ids=lambda check: check.name.replace(" ", "-")
)
def test_process_without_control_groups(check: SandboxCheck) -> None:
    assert check_sandbox_backend(BACKENDS["process-without-cgroups"], only=check.name, long=LONG) == (check.name,)


@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.name.replace(" ", "-"))
def test_namespace(check: SandboxCheck) -> None:
    done = check_sandbox_backend(BACKENDS["namespace"], only=check.name, long=LONG)
    _done(check, done)


@pytest.mark.parametrize(
    "check", [check for check in SANDBOX_CHECKS if not check.needs], ids=lambda check: check.name.replace(" ", "-")
)
def test_namespace_without_control_groups(check: SandboxCheck) -> None:
    assert check_sandbox_backend(BACKENDS["namespace-without-cgroups"], only=check.name, long=LONG) == (check.name,)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.name.replace(" ", "-"))
def test_containers(check: SandboxCheck, runtime: str) -> None:
    need(runtime)
    done = check_sandbox_backend(lambda: OciBackend(runtime), only=check.name, long=LONG)
    if check.start != "spawn":
        assert not done, "containers do not start from templates"
    else:
        _done(check, done)


@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.name.replace(" ", "-"))
def test_docker(check: SandboxCheck, docker_address: str) -> None:
    done = check_sandbox_backend(lambda: DockerBackend(docker_address), only=check.name, long=LONG)
    if check.start != "spawn":
        assert not done, "containers do not start from templates"
    else:
        _done(check, done)


def test_docker_is_not_given_names_that_a_shard_could_change(docker_address: str, tmp_path: Path) -> None:
    (tmp_path / "var" / "in").mkdir(parents=True)
    sight = Sight(read=(str(tmp_path / "var" / "in"),), changing=(str(tmp_path / "var"),))
    backend = DockerBackend(docker_address)
    try:
        with pytest.raises(SandboxError, match="by the time Docker looks it up"):
            backend.launch(LaunchSpec(ShardId("led-away"), (sys.executable, "-c", ""), {}, "/", sight=sight))
    finally:
        backend.close()


def test_what_a_dead_keeper_left_with_the_daemon_is_removed(docker_address: str) -> None:
    def work() -> None:  # without a word: as if it had been killed
        spec = LaunchSpec(
            ShardId("left-behind"), (sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"), {}, "/"
        )
        DockerBackend(docker_address).launch(spec)

    _in_a_child(work)
    backend = DockerBackend(docker_address)
    try:
        label = {"label": "shardwright.owner"}  # whoever speaks to the daemon first sweeps
        assert not backend.daemon.containers(all=True, filters=label)
        backend.sweep()
        assert not backend.sweep(), "control groups went with the first"
    finally:
        backend.close()


FAMILY = """
import os, subprocess, sys
def sleeper(**how):
    return subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, **how).pid
if sys.argv[1:] == ["daemon"]:
    os.setsid()
    print(sleeper(start_new_session=True))
else:
    daemon = subprocess.run([sys.executable, "-c", sys.argv[1], "daemon"], stdout=subprocess.PIPE, check=True)
    print(os.getpid(), sleeper(), sleeper(start_new_session=True), int(daemon.stdout), flush=True)
    os.read(0, 1)
"""


def _family(backend: ProcessBackend, name: str) -> tuple[Sandbox, int, list[int]]:
    """A sandbox whose program started a child, one in a session of its own, and a daemon; its input, and all pids."""
    from_us, to_it = os.pipe()
    from_it, to_us = os.pipe()
    try:
        arguments = (sys.executable, "-c", FAMILY, FAMILY)  # the second for its daemon to run
        spec = LaunchSpec(ShardId(name), arguments, {"PATH": os.defpath}, "/", {0: from_us, 1: to_us})
        sandbox = backend.launch(spec)
    except BaseException:
        os.close(to_it)
        raise
    finally:
        os.close(from_us)
        os.close(to_us)
    with open(from_it, encoding="ascii") as answers:
        return sandbox, to_it, [int(word) for word in answers.readline().split()]


def _none_left(backend: ProcessBackend, pids: list[int]) -> bool:
    end_s = time.monotonic() + 3.0
    while backend.reap_orphans() or any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("way", ["kill", "delete", "exit", "signal"])
def test_without_control_groups_nothing_outlives_a_sandbox(way: str) -> None:
    """Children, those in sessions of their own and daemons too; those of another sandbox live on."""

    def work() -> None:
        become_subreaper()
        backend = ProcessBackend(NoCgroups("switched off by a test"))
        one, its_input, ours = _family(backend, "kin-1")
        other, _, theirs = _family(backend, "kin-2")
        assert len(ours) == len(theirs) == 4
        if way == "kill":
            one.kill()
        elif way == "delete":
            one.delete()
        elif way == "exit":
            os.close(its_input)
        else:
            os.kill(ours[0], signal.SIGKILL)
        end_s = time.monotonic() + 3.0
        while not one.deleted and one.poll() is None:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        backend.end_strays()
        assert _none_left(backend, ours[1:])
        assert all(os.path.exists(f"/proc/{pid}") for pid in theirs)
        one.delete()
        other.delete()
        assert _none_left(backend, [*ours, *theirs])

    _in_a_child(work)


def _in_a_child(work: Callable[[], None]) -> None:
    """In a process of its own, for it becomes a sub-reaper."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            work()
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(write_end, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as said:
        trouble = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, trouble


def test_unknown_check_is_an_error() -> None:
    with pytest.raises(KeyError):
        check_sandbox_backend(ProcessBackend, only="no such check")


def test_suite_notices_what_a_backend_leaves() -> None:
    """The suite can fail: here is a backend that leaves its descriptors."""

    class Leaky(ProcessBackend):
        def capacity(self):  # type: ignore[no-untyped-def]
            self.kept = open("/dev/null", encoding="utf-8")  # noqa: SIM115
            leaks.append(self.kept)
            return super().capacity()

    leaks: list[object] = []
    try:
        with pytest.raises(AssertionError, match="descriptors left"):
            check_sandbox_backend(Leaky, only="machine is told")
    finally:
        for leak in leaks:
            leak.close()  # type: ignore[attr-defined]
