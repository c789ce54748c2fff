"""Shards at isolation ``microvm``, for real: ``python machine_shards.py KERNEL_FOLDER`` writes what was seen as JSON.

A node with one shard in a process and one in a virtual machine (QEMU, software emulation, Debian's kernel): calls both ways,
what `ps` says, what the machine sees, resizing, running out of memory, its death, and that nothing is left. Then the
conformance suite of sandboxes over the same backend.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import shardwright
from shardwright.errors import ShardwrightError, StartFailed
from shardwright.node._machines import machine_backend_of
from shardwright.sandbox import become_subreaper
from shardwright.sandbox.microvm import MicrovmBackend
from shardwright.testing import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend

MANIFEST = """
[app]
name = "machines"
[components.near]
code = "near"
[components.far]
code = "far"
isolation = "microvm"
start_timeout = "240s"
limits = { memory = "192MiB", cpu = 2.0 }
"""
NEAR = """
import far

def ask(size):
    return len(far.echo(bytes(size)))

def rate(count):
    import time
    begun = time.perf_counter()
    for number in range(count):
        far.echo(b"x")
    return (time.perf_counter() - begun) / count

def double(number):
    return 2 * number
"""
FAR = """
import os
import near

def echo(data):
    return data

def back(number):
    return near.double(number)

def seen():
    print("printed in the machine", flush=True)
    return {"kernel": os.uname().release, "pid": os.getpid(), "hosts": os.listdir("/sys/class/net"),
            "root": sorted(os.listdir("/"))[:40], "home": os.path.exists("/work") and os.path.exists("/etc/shadow")}

def take(mebibytes):
    return len([bytes([n % 256]) * (1 << 20) for n in range(mebibytes)])
"""


def main(argv: list[str]) -> int:
    found: dict[str, Any] = {"checks": []}

    def check(name: str, body: Callable[[], Any]) -> None:
        begun_s = time.monotonic()
        said, passed = "", True
        try:
            said = body()
        except (AssertionError, ShardwrightError) as error:
            said, passed = f"{type(error).__name__}: {error}", False
        took_s = round(time.monotonic() - begun_s, 2)
        found["checks"].append({"check": name, "passed": passed, "said": said, "took_s": took_s})
        print(f"{'ok' if passed else 'FAILED'} {name} ({took_s} s): {said}", file=sys.stderr)

    children = set(psutil.Process().children(recursive=True))
    with tempfile.TemporaryDirectory(prefix="swt-machines-", dir="/var/tmp") as name:
        folder = Path(name)
        for file, text in (("shardwright.toml", MANIFEST), ("near.py", NEAR), ("far.py", FAR)):
            (folder / file).write_text(text)
        environment = {
            **os.environ, "SHARDWRIGHT_KERNEL": argv[1], "XDG_CACHE_HOME": f"{name}/cache",
            "XDG_STATE_HOME": f"{name}/state", "XDG_RUNTIME_DIR": f"{name}/run",
        }  # fmt: skip
        for times in ("first", "second"):
            begun_s = time.monotonic()
            with shardwright.start(folder, environment=environment) as node, node.session("one") as session:

                def first_call(begun_s: float = begun_s, session: Any = session) -> str:
                    assert session.call("far.echo", "here") == "here"
                    return f"answered {time.monotonic() - begun_s:.1f} s after the node was asked for"

                check(f"a call is answered from a machine ({times} start)", first_call)
                if times == "first":
                    continue
                _rest(check, node, session)
    left = [each for each in set(psutil.Process().children(recursive=True)) - children if each.is_running()]
    check("nothing is left", lambda: _none(left))
    if "--shards" in argv:
        json.dump(found, sys.stdout, indent=1)
        return 0 if all(each["passed"] for each in found["checks"]) else 1
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="swt-machines-", dir="/var/tmp") as name:

        def factory() -> MicrovmBackend:
            return machine_backend_of(f"microvm:qemu:{os.path.abspath(argv[1])}:{name}")

        for each in SANDBOX_CHECKS:

            def kept(each: SandboxCheck = each) -> str:
                return "" if check_sandbox_backend(factory, only=each.name) else "not asked of it"

            check(f"contract: {each.name}", kept)
    json.dump(found, sys.stdout, indent=1)
    return 0 if all(each["passed"] for each in found["checks"]) else 1


def _rest(check: Callable[[str, Callable[[], Any]], None], node: Any, session: Any) -> None:
    def calls() -> str:
        for size in (0, 64, 4096, 100_000, 3_000_000):
            assert session.call("near.ask", size) == size
        assert session.call("far.back", 21) == 42
        return f"{session.call('near.rate', 200) * 1e6:.0f} µs each from shard to shard, 200 in a row"

    def shown() -> str:
        told = {shard.component: (shard.isolation.partition(":")[0], shard.transport) for shard in node.shards()}
        assert told["far"] == ("microvm", "virtio-serial"), told
        assert told["near"][1] in ("shm", "socket"), told
        return str(told)

    def another_kernel() -> str:
        seen = session.call("far.seen")
        assert seen["kernel"] != os.uname().release and seen["hosts"] == ["lo"] and not seen["home"], seen
        (shard,) = [each.id for each in node.shards() if each.component == "far"]
        lines = [line for line in node.running.core.logs.last_lines(shard) if "printed in the machine" in line]
        assert lines, "what it printed did not come"
        return f"kernel {seen['kernel']}, pid {seen['pid']}; {lines[-1]}"

    def resized() -> str:
        (shard,) = [shard for shard in node.shards() if shard.component == "far"]
        node.resize("far", ceiling={"memory": "256MiB", "cpu": 1.0})
        (after,) = [each for each in node.shards() if each.id == shard.id]
        assert (after.ceiling_memory_bytes, after.ceiling_cpu) == (256 << 20, 1.0), after
        assert session.call("far.take", 200) == 200
        return (
            f"{shard.ceiling_memory_bytes >> 20} MiB to {after.ceiling_memory_bytes >> 20} MiB, and 200 MiB were taken"
        )

    def out_of_memory() -> str:
        try:
            session.call("far.take", 400)
        except ShardwrightError as error:
            return f"{type(error).__name__}: {error}"
        raise AssertionError("400 MiB were taken of 256")

    def again() -> str:
        begun_s = time.monotonic()
        with node.session("two") as other:
            assert other.call("far.echo", "again") == "again"
        return f"another machine answered after {time.monotonic() - begun_s:.1f} s"

    for name, body in (
        ("calls of all sizes, both ways", calls),
        ("ps says what carries its calls", shown),
        ("it is another kernel, with a console that is heard", another_kernel),
        ("a limit is changed while it runs", resized),
        ("who takes too much is ended", out_of_memory),
        ("another takes its place", again),
    ):
        check(name, body)


def _none(left: list[psutil.Process]) -> str:
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive, alive
    return "no process"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except StartFailed as failed:
        print("\n".join((str(failed), *failed.log)), file=sys.stderr)
        sys.exit(1)
