"""Shards that ask for GPUs, on a machine whose GPUs are told of by a stand-in of NVML. Unverified on hardware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpus import gpu_machine
from limits_here import need_limits
from shardwright.contracts.sandbox import LaunchSpec, SandboxBackend, Sight
from shardwright.model.ids import ShardId
from shardwright.sandbox.namespace import NamespaceBackend
from shardwright.sandbox.process import ProcessBackend

MANIFEST = """
[app]
name = "gpus"
[components.model]
code = "model"
scope = "session"
resources = { gpu = 0.25, gpu_memory = "2GiB" }
isolation = "namespace"
[components.part]
code = "part"
resources = { gpu = 0.4 }
[components.plain]
code = "plain"
"""
CODE = (
    "import os\n\ndef told():\n    return {k: v for k, v in os.environ.items() if k.startswith(('CUDA', 'NVIDIA'))}\n"
)
RUN = """
import json, sys, shardwright
from shardwright.errors import ShardwrightError
with shardwright.start(sys.argv[1], state=sys.argv[2]) as node:
    found = {}
    with node.session("one") as one, node.session("two") as two:
        found["model"] = [one.call("model.told"), two.call("model.told")]
        found["part"], found["plain"] = one.call("part.told"), one.call("plain.told")
        try:
            node.resize("model", guarantee={"gpu": 0.5})
        except ShardwrightError as error:
            found["resized"] = str(error)
    print(json.dumps(found))
"""


def shardwright(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def test_shards_are_told_of_their_gpu_alone(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    for name in ("model", "part", "plain"):
        (app / f"{name}.py").write_text(CODE)
    (tmp_path / "mps").mkdir()
    (tmp_path / "mps" / "control").write_text("")
    machine = {**gpu_machine(), "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "mps")}
    done = shardwright("-c", RUN, str(app), str(tmp_path / "state"), **machine)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    instance, device = "MIG-00000002-0000-4000-8000-000000000001", "GPU-00000005-0000-4000-8000-000000000000"
    assert found["part"]["CUDA_VISIBLE_DEVICES"] == instance
    for told in found["model"]:  # the small instance has too little of a share: both through MPS, on the device left
        assert told["CUDA_VISIBLE_DEVICES"] == told["NVIDIA_VISIBLE_DEVICES"] == device
        assert told["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
        assert told["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=2048M"
    assert found["plain"] == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    assert "cannot be changed while it runs" in found["resized"]
    told = shardwright("-m", "shardwright", "doctor", str(app), **machine)
    assert "A100" in told.stdout and "unverified on hardware" in told.stdout and "MPS" in told.stdout, told.stdout
    refused = shardwright("-c", RUN, str(app), str(tmp_path / "state"))
    assert refused.returncode == 1 and "expected at most 0 GPUs on this machine" in refused.stderr


OPEN = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDWR))
        os.write(1, b'+')
    except OSError as error:
        os.write(1, b'-' if error.errno in (1, 2, 13) else b'?')
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to deny devices")
@pytest.mark.parametrize("backend", [ProcessBackend, NamespaceBackend])
def test_device_files_of_others_cannot_be_opened(backend: type[SandboxBackend]) -> None:
    """By the kernel: where everything is shown, the device control group denies; behind walls nothing else is shown."""
    need_limits()
    made = backend()
    if backend is ProcessBackend and made.groups.version != 1:  # type: ignore[attr-defined]
        pytest.skip("version 2 knows devices by a program of BPF alone")
    reader, writer = os.pipe()
    sandbox = None
    spec = LaunchSpec(
        ShardId("gpu-devices"), (sys.executable, "-I", "-S", "-c", OPEN, "/dev/tty", "/dev/kmsg", "/dev/null"), {}, "/",
        {1: writer}, sight=Sight(devices=("/dev/tty",), denied=("/dev/kmsg",)),
    )  # fmt: skip
    try:
        sandbox = made.launch(spec)
        os.close(writer)
        with open(reader, "rb") as said:
            assert said.read() == b"?-+", "the driver answers for the first: there is no terminal"
    finally:
        if sandbox is not None:
            sandbox.delete()
            assert not any(os.path.exists(folder) for folder in sandbox.handle.control_groups)
        made.close()  # type: ignore[attr-defined]
