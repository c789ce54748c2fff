"""What virtual machines are made of, and what is refused before one is made. Machines themselves: ``scripts/machines``."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import msgspec.structs
import pytest

from machine_standin import missing_for_disks
from shardwright.contracts.sandbox import LaunchSpec, Sight
from shardwright.errors import SandboxError
from shardwright.guest import _agent
from shardwright.model.ids import ShardId
from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox.microvm import (
    PORT_NAME,
    VSOCK_PORT,
    Machine,
    MicrovmBackend,
    Runner,
    disk,
    find_kernel,
    initial_folder,
    qemu_command,
)

needs_tools = pytest.mark.skipif(bool(missing_for_disks()), reason=f"no {missing_for_disks()} on this machine")
SPEC = LaunchSpec(ShardId("one"), (sys.executable, "-c", ""), {}, "/")


def _elf(folder: Path, name: str, needs: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Files with the names and the words of a kernel's, and nothing to boot."""
    root = tmp_path / "kernel"
    (root / "boot").mkdir(parents=True)
    for release in ("6.1.0-9-cloud", "6.1.0-10-cloud"):
        (root / "boot" / f"vmlinuz-{release}").write_bytes(release.encode())
        modules = root / "lib" / "modules" / release
        _elf(modules / "kernel", "virtio_blk", "virtio")
        _elf(modules / "kernel", "virtio")
        _elf(modules / "kernel", "overlay")
        _elf(modules / "kernel", "virtio-rng", "virtio")
        (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return root


def _backend(kernel: Path, **how: str) -> MicrovmBackend:
    runner = Runner((sys.executable, "-c", "pass"), {})
    return MicrovmBackend(runner, kernel, kernel / "store", groups=NoCgroups("not needed"), **how)


def test_the_newest_kernel_and_modules_after_those_they_need(kernel: Path) -> None:
    found = find_kernel(kernel)
    assert found.release == "6.1.0-10-cloud"
    names = [path.name for path in found.modules]
    assert names.index("virtio.ko") < names.index("virtio_blk.ko") and "ext4.ko" not in names
    assert "virtio-rng.ko" in names, "its file has another name than its module"


def test_a_kernel_without_what_it_takes_is_refused(kernel: Path, tmp_path: Path) -> None:
    (kernel / "lib/modules/6.1.0-10-cloud/kernel/overlay.ko").unlink()
    with pytest.raises(SandboxError, match="no module overlay"):
        find_kernel(kernel)
    with pytest.raises(SandboxError, match="no kernel with modules") as refused:
        find_kernel(tmp_path)
    assert "SHARDWRIGHT_KERNEL" in refused.value.remedy


@needs_tools
def test_an_initial_folder_is_an_archive_with_its_modules_in_order(kernel: Path, tmp_path: Path) -> None:
    found = find_kernel(kernel)
    made = initial_folder(found, ("/python", "/agent"), tmp_path / "store")
    assert made == initial_folder(found, ("/python", "/agent"), tmp_path / "store")
    data = made.read_bytes()
    assert data.startswith(b"070701") and data.count(b"070701") >= 10 and b"TRAILER!!!" in data
    assert b"\n".join(path.name.encode() for path in found.modules) in data
    assert initial_folder(found, ("/python", "/other"), tmp_path / "store") != made


@needs_tools
def test_a_disk_is_named_by_its_content_and_holds_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    files: dict[str, Path | str | bytes] = {"/a/b/one": source, "/a/link": "b/one", "/two": b"bytes"}
    made = disk(files, tmp_path / "store")
    assert disk(dict(reversed(files.items())), tmp_path / "store") == made
    assert [each.name for each in (tmp_path / "store").glob("disk-*")] == [made.name]
    environment = {"PATH": f"{os.defpath}:/sbin:/usr/sbin"}
    shown = subprocess.run(
        ["debugfs", "-R", "cat /a/b/one", str(made)], capture_output=True, text=True, check=True, env=environment
    )
    assert shown.stdout == "content"
    source.write_text("changed")
    assert disk(files, tmp_path / "store") != made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arguments": ()}, "nothing to run"),
        ({"template": True}, "forked from one machine into another"),
        ({"sight": Sight(write=("/var/tmp",))}, "reach nobody"),
        ({"sight": Sight(read=("/var/tmp/in",), changing=("/var/tmp",))}, "where shards may write"),
        ({"sight": Sight(network=("db:5432",))}, "no network"),
        ({"arguments": ("/nonexistent/program",)}, "/nonexistent/program does not exist"),
    ],
)
def test_what_a_machine_cannot_have_is_refused_before_it_is_made(kernel: Path, change: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SandboxError, match=said):
        _backend(kernel).launch(msgspec.structs.replace(SPEC, **change))


def test_who_asks_for_a_monitor_that_is_not_here_hears_what_is_missing(kernel: Path) -> None:
    finding = _backend(kernel, monitor="firecracker").finding()
    assert not finding.present and finding.remedy
    backend = _backend(kernel, monitor="firecracker")
    assert backend.capabilities().transports == ("vsock",)
    assert _backend(kernel).capabilities().transports == ("virtio-serial",)
    with pytest.raises(SandboxError, match="no monitor 'bochs'"):
        _backend(kernel, monitor="bochs")


def test_both_sides_of_a_machine_mean_the_same_port() -> None:
    assert (_agent.PORT_NAME, _agent.VSOCK_PORT) == (PORT_NAME, VSOCK_PORT)


def test_a_machine_of_qemu_has_no_way_out_but_its_bridge() -> None:
    machine = Machine("qemu", "/q", "/k", "/i", ("/d,1",), 256, 2, "virtio-serial", False, "/f")
    command = qemu_command(machine, bridge="/f/bridge", words="/f/words")
    assert "-nodefaults" in command and "-netdev" not in command and "-nic" not in command
    devices = [value for name, value in itertools.pairwise(command) if name == "-device"]
    assert {each.partition(",")[0] for each in devices} == {
        "virtio-balloon-pci", "virtio-blk-pci", "virtio-rng-pci", "virtio-serial-pci", "virtserialport",
    }  # fmt: skip
    assert any("file=/d,,1," in each and "readonly=on" in each for each in command)
