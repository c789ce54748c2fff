"""What this machine offers to a node, and what an application needs of it, as findings with their remedies."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from shardwright.contracts.sandbox import Finding, Fingerprint
from shardwright.errors import NodeError, SandboxError
from shardwright.manifest import capacity_problems, load
from shardwright.model.manifest import Manifest
from shardwright.model.shard import Severity, ShardPlan
from shardwright.model.units import format_bytes
from shardwright.node._api_sockets import runtime_folder
from shardwright.node._auto import by_analysis, wants_walls
from shardwright.node._checks import lacking_secrets, not_enforced, unbuilt
from shardwright.node._gpus import Gpus, gpu_findings
from shardwright.node._machine_names import machine_backend
from shardwright.node._machines import machine_backend_of
from shardwright.node._relays import Relays
from shardwright.node._state import REMEDY, folder_trouble, state_folder
from shardwright.sandbox.docker import SOCKET, DockerBackend
from shardwright.sandbox.namespace import NamespaceBackend
from shardwright.sandbox.oci import OciBackend
from shardwright.sandbox.process import ProcessBackend
from shardwright.sharding import plan as plan_manifest
from shardwright.transport import shm

MONITORS = {"qemu": "qemu-system-x86_64", "firecracker": "firecracker"}  # by what SHARDWRIGHT_MICROVM says
RUNTIMES = ("runc", "crun")  # those that ``oci:`` was run with


def examine_machine(environment: Mapping[str, str]) -> Fingerprint:
    """By trying, leaving nothing behind. ``usable``: shards can run here, in sandboxes of some kind."""
    backend = ProcessBackend()
    spaces = NamespaceBackend(backend.groups)
    try:
        found = backend.fingerprint()
        capacity = backend.capacity()
        walls = spaces.finding()
        containers = [
            each.finding() for each in (OciBackend(name, backend.groups) for name in RUNTIMES) if each.is_there()
        ]
    finally:
        backend.close()
    memory = format_bytes(capacity.memory_bytes) if capacity.memory_bytes is not None else "unknown memory"
    more = (
        walls,
        *containers,
        *_machines(environment),
        *gpu_findings(environment),
        _network(),
        Finding("capacity", True, f"{capacity.cpu:g} cores, {memory} to give to shards"),
        _extension(),
        _folder("sockets", runtime_folder(environment), "set XDG_RUNTIME_DIR to a folder of yours"),
        _state(environment),
    )
    return Fingerprint(found.usable, (*found.findings, *more))


def examine_application(
    path: str | Path, *, profile: str | None = None, environment: Mapping[str, str] | None = None
) -> Fingerprint:
    """Whether this machine has what the manifest at ``path`` needs. Raises ManifestError, PlanError."""
    environment = environment or {}
    manifest = load(path, profile=profile, environment=environment)
    plan = plan_manifest(manifest)
    backend = ProcessBackend()
    try:
        gpus = Gpus.of(manifest, environment)
        lacking = capacity_problems(manifest, gpus.added_to(backend.capacity()))
        enforced = (*backend.capabilities().enforces, *gpus.enforces, *_links())
    finally:
        backend.close()
    findings = [Finding("manifest", True, f"{manifest.path}: {_counted(len(plan.definitions))}")]
    for problem in lacking:
        findings.append(Finding("capacity", False, problem, "lower the guarantee, or take a larger machine"))
    for problem in unbuilt(manifest):
        findings.append(
            Finding("manifest", False, problem, "take it out of the manifest, or run a version that has it")
        )
    findings += _secrets(manifest, environment)
    if any(component.isolation == "docker" for component in manifest.components):
        findings.append(DockerBackend(environment.get("DOCKER_HOST") or SOCKET).finding())
    if any(component.isolation == "microvm" for component in manifest.components):
        findings.append(_machine(environment))
    for runtime in sorted({c.isolation[4:] for c in manifest.components if c.isolation.startswith("oci:")}):
        findings.append(OciBackend(runtime).finding())
    needed = len(findings)
    walls = not no_walls(plan)
    for line in not_enforced(manifest, enforced, _auto(plan, walls)):
        findings.append(Finding("limits", False, line))
    for component in manifest.components:
        absent = [name for name in component.env if name not in environment]
        if absent:
            findings.append(Finding("environment", False, f"{component.name}: not set: {', '.join(absent)}"))
    for item in plan.diagnostics:
        if item.severity is Severity.REFUSAL:
            findings.append(Finding("plan", False, f"{item.code} {item.message}", item.remedy))
    findings += _visitors(plan, manifest)
    return Fingerprint(all(each.present for each in findings[:needed]), tuple(findings))


def _machine(environment: Mapping[str, str]) -> Finding:
    """Whether the virtual machines that this environment asks for can be made."""
    try:
        return machine_backend_of(machine_backend("microvm", environment)).finding()
    except SandboxError as error:
        return Finding("isolation microvm", False, error.message, error.remedy)


def _machines(environment: Mapping[str, str]) -> list[Finding]:
    """One line for each monitor that is here."""
    there = [name for name, program in MONITORS.items() if shutil.which(program)]
    return [_machine({**environment, "SHARDWRIGHT_MICROVM": name}) for name in there]


def _links() -> tuple[str, ...]:
    return ("links",) if Relays.possible() else ()


def _network() -> Finding:
    if Relays.possible():
        return Finding("network of shards", True, "links with a rate, to declared places alone")
    told = "declared places by the machine's network, held to ports alone, without a rate"
    return Finding("network of shards", False, told, "run as root, with pip install 'shardwright[network]'")


def _extension() -> Finding:
    if shm.available():
        return Finding("extension", True, "built; shards of one node speak through shared memory")
    what, _, remedy = shm.reason().partition("; ")
    return Finding("extension", False, f"{what}; sockets serve", remedy)


def _state(environment: Mapping[str, str]) -> Finding:
    try:
        folder = state_folder(environment)
    except NodeError as error:
        return Finding("state", False, error.message, error.remedy)
    trouble = folder_trouble(folder)
    return Finding("state", not trouble, trouble or f"{folder} (journals)", REMEDY if trouble else "")


def unenforced(
    manifest: Manifest, plan: ShardPlan, environment: Mapping[str, str] | None = None, *, walls: bool = True
) -> tuple[str, ...]:
    """What the manifest states and this machine will hold nobody to, one line a component. ``walls``: it permits them."""
    backend = ProcessBackend()
    try:
        found = Gpus.of(manifest, environment or {})
        enforced = (*backend.capabilities().enforces, *found.enforces, *_links())
        return not_enforced(manifest, enforced, _auto(plan, walls))
    finally:
        backend.close()


def _auto(plan: ShardPlan, walls: bool) -> dict[str, str]:
    """What isolation ``auto`` comes to, by component, where it is not ``process`` for all."""
    return {each.component: by_analysis(each) for each in plan.definitions} if walls else {}


def no_walls(plan: ShardPlan) -> str:
    """Why isolation ``auto`` is ``process`` for all on this machine, found by trying; empty where it is not, or need not be."""
    if not wants_walls(plan):
        return ""
    backend = ProcessBackend()
    try:
        return NamespaceBackend(backend.groups).trouble()
    finally:
        backend.close()


def _folder(name: str, folder: Path, remedy: str) -> Finding:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if os.access(there, os.W_OK | os.X_OK):
        return Finding(name, True, str(folder))
    return Finding(name, False, f"{there} is not ours to write; other terminals cannot reach a node", remedy)


def _counted(components: int) -> str:
    return "1 component" if components == 1 else f"{components} components"


def _secrets(manifest: Manifest, environment: Mapping[str, str]) -> list[Finding]:
    if not any(component.secrets for component in manifest.components) and not (
        manifest.gateway is not None and manifest.gateway.token
    ):
        return []
    if problems := lacking_secrets(manifest, environment):
        parted = (each.partition("; ") for each in problems)
        return [Finding("secrets", False, what, remedy or "take it out of the manifest") for what, _, remedy in parted]
    return [Finding("secrets", True, "all can be read")]


def _visitors(plan: ShardPlan, manifest: Manifest) -> list[Finding]:
    module = manifest.visitors.partition(":")[0]
    if not module or Path(plan.root, *module.split(".")).with_suffix(".py").exists():
        return []
    if importlib.util.find_spec(module.partition(".")[0]) is not None:
        return []
    return [Finding("visitors", False, f"there is no module {module}", "correct app.visitors")]
