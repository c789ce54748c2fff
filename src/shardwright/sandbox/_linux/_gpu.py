"""GPUs by NVIDIA's management library (NVML), and what a process needs to use what it was given, and no more.

*Unverified on hardware*: written to the published interfaces (NVML, MIG, MPS and the CUDA environment), and exercised against
a library of our own that stands in for ``libnvidia-ml.so.1``. CUDA itself reads the environment in the shard: device files
and, on version 1, the device control group hold it to that; where neither can be had (``process`` on version 2) nothing does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from shardwright.model.gpu import GpuDevice, GpuGrant, MigInstance
from shardwright.sandbox._linux._procfs import read_text

UNVERIFIED = "unverified on hardware"
_COMMON = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_PIPES = "/tmp/nvidia-mps"  # where the control daemon of MPS listens unless told otherwise
_CAPABILITIES = "/proc/driver/nvidia/capabilities"
_MEBIBYTE = 1 << 20


class FoundGpus(Struct, frozen=True):
    """``trouble`` says why there are none; empty when there are. ``mps`` is the folder of its control daemon, or ""."""

    devices: tuple[GpuDevice, ...] = ()
    driver: str = ""
    mps: str = ""
    trouble: str = ""
    remedy: str = ""


def find_gpus(environment: Mapping[str, str], root: str = "/") -> FoundGpus:
    """By trying. Never raises. ``root``: where /proc, /sys and /dev are looked for."""
    try:
        import pynvml
    except ImportError:
        return FoundGpus(trouble="nvidia-ml-py is not installed", remedy="pip install 'shardwright[gpu]'")
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return FoundGpus(trouble=f"no NVIDIA driver: {error}", remedy="install NVIDIA's driver, or ask for no GPU")
    try:
        devices = tuple(_device(nvml, index, root) for index in range(nvml.nvmlDeviceGetCount()))
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return FoundGpus(trouble=f"NVIDIA's library fails: {error}", remedy="see what nvidia-smi says")
    finally:
        nvml.nvmlShutdown()
    pipes = environment.get("CUDA_MPS_PIPE_DIRECTORY", _PIPES)
    mps = pipes if os.path.exists(os.path.join(root, pipes.lstrip("/"), "control")) else ""
    trouble = "" if devices else "the driver knows no device"
    return FoundGpus(devices, driver, mps, trouble, "see what nvidia-smi says" if trouble else "")


def _device(nvml: Any, index: int, root: str) -> GpuDevice:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    minor = nvml.nvmlDeviceGetMinorNumber(handle)
    try:
        divided = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # a device that cannot be divided
        divided = False
    return GpuDevice(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        bank=_bank(_text(nvml.nvmlDeviceGetPciInfo(handle).busId), root),
        nodes=_there((f"/dev/nvidia{minor}", *_COMMON), root),
        divided=divided,
        instances=_instances(nvml, handle, minor, root) if divided else (),
    )


def _instances(nvml: Any, handle: Any, minor: int, root: str) -> tuple[MigInstance, ...]:
    found = []
    slices = max(1, nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    for index in range(slices):
        try:
            each = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # numbers may have gaps
            continue
        attributes = nvml.nvmlDeviceGetAttributes_v2(each)
        one, other = nvml.nvmlDeviceGetGpuInstanceId(each), nvml.nvmlDeviceGetComputeInstanceId(each)
        folder = f"{_CAPABILITIES}/gpu{minor}/mig/gi{one}"
        files = [f"{folder}/access", f"{folder}/ci{other}/access"]
        nodes = [f"/dev/nvidia-caps/nvidia-cap{number}" for name in files if (number := _capability(name, root))]
        found.append(
            MigInstance(
                uuid=_text(nvml.nvmlDeviceGetUUID(each)),
                share=round(attributes.gpuInstanceSliceCount / slices, 6),
                memory_bytes=int(attributes.memorySizeMB) * _MEBIBYTE,
                nodes=_there(nodes, root),
            )
        )
    return tuple(found)


def _capability(name: str, root: str) -> str:
    """The minor number of the device file that grants it; "" where the driver tells none."""
    for line in (read_text(os.path.join(root, name.lstrip("/"))) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "DeviceFileMinor":
            return value.strip()
    return ""


def _bank(bus_id: str, root: str) -> int | None:
    """NVML writes the domain with eight digits, sysfs with four."""
    domain, _, rest = bus_id.lower().partition(":")
    found = (read_text(os.path.join(root, f"sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node")) or "").strip()
    return int(found) if found.isdecimal() else None


def _there(paths: tuple[str, ...] | list[str], root: str) -> tuple[str, ...]:
    return tuple(path for path in paths if os.path.exists(os.path.join(root, path.lstrip("/"))))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def gpu_environment(grant: GpuGrant | None, mps: str = "") -> dict[str, str]:
    """What CUDA, and NVIDIA's container runtime, read. Without a grant: no device at all."""
    if grant is None:
        return {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    names = ",".join(grant.uuids)
    found = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": names,
        "NVIDIA_VISIBLE_DEVICES": names,
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    }
    if grant.way == "mps":
        # one device is visible, so that its number is 0; MPS takes whole percents and megabytes
        found |= {
            "CUDA_MPS_PIPE_DIRECTORY": mps or _PIPES,
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(max(1, int(grant.share * 100 + 1e-6))),
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={max(1, grant.memory_bytes // _MEBIBYTE)}M",
        }
    return found


def device_files(devices: tuple[GpuDevice, ...]) -> tuple[str, ...]:
    """All device files of these devices and their instances."""
    return tuple(dict.fromkeys(n for d in devices for n in (*d.nodes, *(m for i in d.instances for m in i.nodes))))
