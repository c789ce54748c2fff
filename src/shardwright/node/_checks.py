"""What a manifest asks for that this version, or this machine, cannot give: refused, or said once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from shardwright.errors import ManifestError, NodeError, PlanError
from shardwright.model.manifest import Manifest
from shardwright.model.scope import Start
from shardwright.model.shard import ShardPlan
from shardwright.node._launcher import PASSED_ON, THREADS, read_secrets, read_token
from shardwright.node._profiles import read_constants, read_profile
from shardwright.sharding import plan

BACKENDS = ("auto", "process", "namespace", "docker", "microvm")


def in_containers(isolation: str) -> bool:
    """Whether a runtime, a daemon or a monitor makes its sandboxes, so that none can be forked from another."""
    return isolation.startswith(("oci:", "docker", "microvm"))


def unbuilt(manifest: Manifest) -> tuple[str, ...]:
    """What it asks for that this version does not have; weaker isolation is never given in place of stronger."""
    problems = [
        f"{manifest.place(f'components.{component.name}.isolation')}: components.{component.name}.isolation: "
        f"{component.isolation!r} is not available in this version; expected {', '.join(map(repr, BACKENDS))} or 'oci:...'"
        for component in manifest.components
        if component.isolation not in BACKENDS and not component.isolation.startswith("oci:")
    ]
    problems += [
        f"{manifest.place(f'components.{component.name}.start')}: components.{component.name}.start: "
        f"shards in containers and machines ({component.isolation}) cannot be forked from a template; "
        "expected 'auto' or 'spawn'"
        for component in manifest.components
        if in_containers(component.isolation) and component.start is Start.TEMPLATE
    ]
    problems += [
        f"{manifest.place(f'components.{component.name}.{key}')}: components.{component.name}.{key}: {why}"
        for component in manifest.components
        if component.isolation == "microvm"
        for key, stated, why in (
            (
                "files.write",
                component.files.write,
                "a virtual machine has copies: what is written there reaches nobody",
            ),
            ("network", component.network.egress, "a virtual machine has no network"),
        )
        if stated
    ]
    return tuple(problems)


def lacking_secrets(manifest: Manifest, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Every secret that cannot be read, in words, never its value."""
    problems = []
    for component in manifest.components:
        for name, source in component.secrets.items():
            alone = replace(manifest, components=(replace(component, secrets={name: source}),))
            try:
                read_secrets(alone, environment)
            except NodeError as error:
                problems.append(f"{error.message}; {error.remedy}" if error.remedy else error.message)
    try:
        read_token(manifest, environment)
    except NodeError as error:
        problems.append(f"{error.message}; {error.remedy}" if error.remedy else error.message)
    return tuple(problems)


def withheld(manifest: Manifest, plan: ShardPlan, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Environment variables that are set, that code reads by name, and that its component is not given: a line for each."""
    lines = []
    for definition in plan.definitions:
        names = {each.name for each in definition.data_dependencies if each.kind == "environment" and not each.writes}
        declared = next((each for each in manifest.components if each.name == definition.component), None)
        given = {*PASSED_ON, *THREADS, *((*declared.env, *declared.secrets) if declared is not None else ())}
        missing = sorted(name for name in names - given if name in environment)
        if not missing or definition.cut_of:
            continue
        listed = ", ".join(f'"{name}"' for name in missing)
        own = "" if declared is not None else f' code = "{definition.code.primary}" and'
        lines.append(
            f"{definition.component} reads {', '.join(missing)} of the environment and is not given "
            f"{'it' if len(missing) == 1 else 'them'}; [components.{definition.component}] with{own} env = [{listed}] would"
        )
    return tuple(lines)


def measured_plan(manifest: Manifest, environment: Mapping[str, str]) -> ShardPlan:
    """The plan, with cuts inside components where a profile is kept beside the manifest."""
    profile = read_profile(manifest)
    return plan(manifest) if profile is None else plan(manifest, profile, read_constants(environment))


def plan_to_start(manifest: Manifest, environment: Mapping[str, str], *, inside: bool = True) -> ShardPlan:
    """The plan of an application that is to run, with everything that hinders it told at once.

    ``inside``: with cuts inside components, where a profile says that they pay.

    Raises ManifestError with all problems; PlanError or NodeError where there are none but those of the code, or of
    one secret.
    """
    problems, secrets = unbuilt(manifest), lacking_secrets(manifest, environment)
    try:
        made = measured_plan(manifest, environment) if inside else plan(manifest)
    except PlanError as error:
        if not problems and not secrets:
            raise
        problems = (*problems, f"{error.code} {error.message}")
        made = None
    if made is not None:  # a route that leads nowhere would answer 404 for as long as the node runs
        problems = (*problems, *(f"{d.code} {d.message}; {d.remedy}" for d in made.diagnostics if d.code == "SW224"))
    if made is not None and not problems and len(secrets) == 1:
        what, _, remedy = secrets[0].partition("; ")
        raise NodeError(what, remedy=remedy)
    if problems or secrets or made is None:
        raise ManifestError(f"{manifest.path} cannot be started as it is", problems=(*problems, *secrets))
    return made


def not_enforced(manifest: Manifest, enforces: Collection[str], auto: Mapping[str, str]) -> tuple[str, ...]:
    """What the manifest states and nobody will hold anybody to, in words, one line a component.

    ``enforces`` has ``links`` where shards behind walls reach places by links of a rate. ``auto``: by component, what
    isolation ``auto`` comes to; ``process`` where it does not say.
    """
    lines = []
    for component in manifest.components:
        ceiling, names = component.limits.ceiling, []
        stated = {
            "cpu": ceiling.cpu,
            "memory": ceiling.memory_bytes,
            "io": ceiling.io_bytes_s,
            "network": ceiling.network_bits_s,
            "gpu": ceiling.gpu,
            "gpu_memory": ceiling.gpu_memory_bytes,
        }
        isolation = auto.get(component.name, "process") if component.isolation == "auto" else component.isolation
        walled = isolation != "process"
        held = (
            {*enforces, "network"}
            if walled and ("links" in enforces or not component.network.egress)
            else set(enforces)
        )
        names += [f"limits.{name}" for name, amount in stated.items() if amount is not None and name not in held]
        if (component.files.read or component.files.write) and not walled:
            names.append("files")
        if component.network.egress and not walled:
            names.append("network")
        if names:
            lines.append(f"{component.name}: stated, but not enforced at isolation `{isolation}`: {', '.join(names)}")
    return tuple(lines)
