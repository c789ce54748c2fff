"""GPUs as NVML tells of them, by a stand-in of its library, and what a shard is told. Unverified on hardware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gpus import TWO, gpu_machine
from shardwright.model.gpu import GpuGrant
from shardwright.sandbox import find_gpus, gpu_environment

LOOK = """
import json, msgspec, os, sys
from shardwright.sandbox import device_files, find_gpus
found = find_gpus(os.environ, sys.argv[1])
print(json.dumps({**msgspec.to_builtins(found), "files": device_files(found.devices)}))
"""


def look(root: Path, **environment: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(root)], env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_devices_and_their_parts_are_found(tmp_path: Path) -> None:
    def write(path: str, text: str = "") -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    for name in (
        "nvidia2",
        "nvidia5",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-caps/nvidia-cap21",
        "nvidia-caps/nvidia-cap22",
    ):
        write(f"dev/{name}")
    write("proc/driver/nvidia/capabilities/gpu2/mig/gi1/access", "DeviceFileMinor: 21\nDeviceFileMode: 444\n")
    write("proc/driver/nvidia/capabilities/gpu2/mig/gi1/ci0/access", "DeviceFileMinor: 22\n")
    write("sys/bus/pci/devices/0000:af:00.0/numa_node", "1\n")
    write("sys/bus/pci/devices/0000:3b:00.0/numa_node", "-1\n")
    write("mps/control")
    found = look(tmp_path, **gpu_machine(), CUDA_MPS_PIPE_DIRECTORY="/mps")
    assert (found["driver"], found["mps"], found["trouble"]) == ("550.00.01", "/mps", "")
    first, second = found["devices"]  # type: ignore[misc]
    common = ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert (first["name"], first["memory_bytes"], first["divided"]) == ("A100", 40960 << 20, True)
    assert (first["bank"], first["nodes"]) == (None, ["/dev/nvidia2", *common])
    assert [(each["share"], each["memory_bytes"] >> 20, each["nodes"]) for each in first["instances"]] == [
        (round(3 / 7, 6), 20096, ["/dev/nvidia-caps/nvidia-cap21", "/dev/nvidia-caps/nvidia-cap22"]),
        (round(1 / 7, 6), 4864, []),
    ]
    assert all(each["uuid"].startswith("MIG-") for each in first["instances"])
    assert (second["name"], second["divided"], second["instances"]) == ("T4", False, [])
    assert (second["bank"], second["nodes"]) == (1, ["/dev/nvidia5", *common])
    assert len(found["files"]) == 6  # type: ignore[arg-type]


def test_a_machine_without_gpus_says_why(tmp_path: Path) -> None:
    told = look(tmp_path, LD_LIBRARY_PATH=gpu_machine()["LD_LIBRARY_PATH"])
    assert told["devices"] == [] and "Driver Not Loaded" in str(told["trouble"]) and told["remedy"]
    assert "knows no device" in str(look(tmp_path, **gpu_machine(""))["trouble"])
    assert find_gpus({}).devices == () and TWO


def test_what_cuda_reads() -> None:
    assert gpu_environment(None) == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    whole = gpu_environment(GpuGrant("device", ("GPU-a", "GPU-b"), 2.0, 1 << 35))
    assert whole["CUDA_VISIBLE_DEVICES"] == whole["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert not any(name.startswith("CUDA_MPS") for name in whole)
    share = gpu_environment(GpuGrant("mps", ("GPU-a",), 0.25, 2 << 30), "/pipes")
    assert share["CUDA_MPS_PIPE_DIRECTORY"] == "/pipes"
    assert share["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert share["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=2048M"
