"""What nobody needs goes: groups that were reserved and cancelled, and what a template started besides its forks."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

import msgspec.structs
import pytest

from limits_here import need_limits
from namespaces_here import need_namespaces
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits
from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox._linux._procfs import children, process_stat
from shardwright.sandbox.namespace import NamespaceBackend, NamespaceSandbox
from shardwright.sandbox.namespace import _backend as namespace_backend
from shardwright.sandbox.process import ProcessBackend, _backend
from shardwright.testing._sandbox_trial import SandboxTrial


def folders(owner: str) -> list[Path]:
    return [Path(path, owner) for path, names, _ in os.walk("/sys/fs/cgroup") if owner in names]  # others come and go


def test_a_reserved_group_that_is_not_empty_yet_goes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    need_limits()
    monkeypatch.setattr(_backend, "_CANCEL_S", 0.0)
    backend = ProcessBackend()
    owner = backend.groups.owner
    entrances = [os.dup(each) for each in backend.reserve("left-1", Limits())]
    pid = os.fork()
    if pid == 0:
        for entrance in entrances:
            os.write(entrance, b"0")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        backend.cancel("left-1")
        kept = backend.left
        assert kept, "it was in there still, and is not forgotten"
        os.waitpid(pid, 0)
        backend.remove_left(5.0)
        assert not backend.left
    finally:
        for entrance in entrances:
            os.close(entrance)
        backend.close()
    assert not folders(owner)


TEMPLATE = """
def left():
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(300)
        os._exit(0)
    os.wait()
left()
if os.fork() == 0:
    os.setsid()
say(os.getpid())
while True: time.sleep(100)
"""


def _alive(pid: int) -> bool:
    stat = process_stat(pid)
    return stat is not None and stat.state not in "ZX"


def test_forks_outlive_their_template_and_nothing_else_of_it_does() -> None:
    need_namespaces()
    python = (sys.executable, "-I", "-S")
    with SandboxTrial(lambda: NamespaceBackend(NoCgroups("switched off by a test")), python) as trial:
        backend = trial.backend
        assert isinstance(backend, NamespaceBackend)
        template, answers = trial.launch(msgspec.structs.replace(trial.spec(TEMPLATE), template=True))
        assert isinstance(template, NamespaceSandbox) and template.init is not None
        assert isinstance(answers.next(), int) and isinstance(answers.next(), int)
        init, (fork,) = template.init, children(template.handle.pid)
        (sleeper,) = set(children(init)) - {template.handle.pid}
        handle = msgspec.structs.replace(template.handle, shard=ShardId("forked"), pid=fork, control_groups=())
        stat = process_stat(fork)
        assert stat is not None
        shard = backend.adopt(msgspec.structs.replace(handle, start_ticks=stat.start_ticks))
        assert shard is not None
        trial.track(shard)
        template.kill()
        template.delete()
        end_s = time.monotonic() + 10.0
        while _alive(sleeper):
            assert time.monotonic() < end_s, "what the template left lives on"
            time.sleep(0.01)
        assert init in backend.first_pids(), "nobody's process, and no orphan"
        for _ in range(5):
            backend.end_strays(backend.first_pids())
            backend.reap_orphans(backend.first_pids())
            time.sleep(0.02)
        assert _alive(fork) and _alive(init)
        shard.kill()
        shard.delete()
        end_s = time.monotonic() + 10.0
        while init in backend.first_pids():
            assert time.monotonic() < end_s, "an empty namespace is kept"
            time.sleep(0.01)
        backend.reap_orphans(backend.first_pids())
        assert process_stat(init) is None


def test_who_ends_before_anybody_holds_it_has_ended_and_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    need_namespaces()
    python = (sys.executable, "-I", "-S")
    missed: list[int] = []
    opened = os.pidfd_open

    def too_late(pid: int, flags: int = 0) -> int:
        stat = process_stat(pid)
        if not missed and stat is not None and stat.parent != os.getpid():  # the guest: its init is our child
            missed.append(pid)
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return opened(pid, flags)

    with SandboxTrial(lambda: NamespaceBackend(NoCgroups("switched off by a test")), python) as trial:
        spec = trial.spec("raise SystemExit(3)")
        monkeypatch.setattr(os, "pidfd_open", too_late)
        sandbox, _ = trial.launch(spec)
        assert missed
        end_s = time.monotonic() + 10.0
        while (ended := sandbox.poll()) is None:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert ended.status == 3


def test_a_list_of_children_that_lacks_the_guest_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel's may while a runtime's own processes end: a keeper that takes init for the guest tells init's end."""
    need_namespaces()
    lists: list[tuple[int, ...]] = []

    def lacking(pid: int) -> tuple[int, ...]:
        lists.append(tuple(children(pid)))
        return () if len(lists) < 5 else lists[-1]

    with SandboxTrial(
        lambda: NamespaceBackend(NoCgroups("switched off by a test")), (sys.executable, "-I", "-S")
    ) as trial:
        monkeypatch.setattr(namespace_backend, "children", lacking)
        sandbox, answers = trial.launch(trial.spec("say(os.getppid())\nwhile True: time.sleep(100)"))
        assert isinstance(sandbox, NamespaceSandbox) and len(lists) == 5
        assert sandbox.handle.pid in children(sandbox.init or 0), "and not init"
        assert answers.next() == 1
        sandbox.kill()
        end_s = time.monotonic() + 10.0
        while (ended := sandbox.poll()) is None:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert ended.status == -signal.SIGKILL
