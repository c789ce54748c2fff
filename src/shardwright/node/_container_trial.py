"""Containers of ``oci:<runtime>`` beside the same files and program run by the runtime's own command, by hand.

``python -m shardwright.node._container_trial RUNTIME ROUNDS`` writes one JSON object: for each round how many milliseconds
it took from the decision to the program's first word. Both take turns. It is a process of its own because a keeper is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shardwright.contracts.sandbox import LaunchSpec
from shardwright.model.ids import ShardId
from shardwright.node._keeper_client import python_command
from shardwright.sandbox.oci import OciBackend, plain_bundle

_SAY = (sys.executable, "-I", "-S", "-c", "import os, time; os.write(1, b'+'); time.sleep(60)")
_ENVIRONMENT = {"HOME": "/"}
_PATIENCE_S = 20.0
_UNIFIED = "/sys/fs/cgroup/unified"


def container_trial(runtime: str, rounds: int) -> dict[str, list[float]] | None:
    """``ours_ms`` and ``by_hand_ms``; None where there is no such runtime, or no right to use it."""
    if os.geteuid() != 0 or not OciBackend(runtime).is_there():
        return None
    command = python_command("shardwright.node._container_trial", runtime, str(rounds))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd="/")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def main(runtime: str, rounds: int) -> None:
    backend = OciBackend(runtime)
    found: dict[str, list[float]] = {"ours_ms": [], "by_hand_ms": []}
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            plain_bundle(_SAY, _ENVIRONMENT, Path(folder), platform.machine())
            for number in range(rounds):
                with _ours(backend, number) as answer:
                    found["ours_ms"].append(_wait(*answer))
                with _by_hand(backend.program, folder, number) as answer:
                    found["by_hand_ms"].append(_wait(*answer))
    finally:
        backend.close()
    json.dump(found, sys.stdout)


@contextlib.contextmanager
def _ours(backend: OciBackend, number: int) -> Iterator[tuple[int, float]]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    begun_s = time.perf_counter()
    spec = LaunchSpec(ShardId(f"trial-{number}"), _SAY, _ENVIRONMENT, "/", {1: writer})
    sandbox = backend.launch(spec)
    try:
        yield reader, begun_s
    finally:
        sandbox.delete()
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _by_hand(program: str, bundle: str, number: int) -> Iterator[tuple[int, float]]:
    name = f"by-hand-{os.getpid()}-{number}"
    hybrid = os.path.ismount(_UNIFIED) and os.path.basename(program) == "crun"  # which refuses the mixture
    before = ["unshare", "-m", "--propagation", "private", "sh", "-c", f'umount {_UNIFIED} && exec "$@"', "sh"]
    runtime = [*(before if hybrid else ()), program, "--root", f"{bundle}/state"]
    begun_s = time.perf_counter()
    process = subprocess.Popen(
        [*runtime, "run", "--bundle", bundle, name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout.fileno(), begun_s
    finally:
        subprocess.run([*runtime, "delete", "--force", name], check=False, stderr=subprocess.DEVNULL)
        process.kill()
        process.wait()
        process.stdout.close()


def _wait(descriptor: int, begun_s: float) -> float:
    """Milliseconds until the first word. Raises TimeoutError."""
    if not select.select([descriptor], [], [], _PATIENCE_S)[0] or os.read(descriptor, 1) != b"+":
        raise TimeoutError("the program did not answer")
    return (time.perf_counter() - begun_s) * 1e3


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
