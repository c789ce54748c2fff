"""Which of the parts that could be components may be: a proposed cut must not change what the program does.

Parts are given up, so that their code stays with whoever imports it, or taken up, so that state that several would copy
has one owner, until the plan finds nothing against what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Manifest
from shardwright.model.shard import MAIN_COMPONENT, Diagnostic, ShardPlan
from shardwright.sharding._codes import alters
from shardwright.sharding._plan import plan_of, split_state
from shardwright.sharding._program import Program

_TOLD = frozenset({"SW233", "SW268"})  # of logs, and of names that plain Python does not find either: say it, and cut
_HARMLESS = ("signal.", "warnings.", "sys.")  # settings that matter where they are made


class Settled(Struct, frozen=True):
    """``parts`` by name: their code. ``given_up``: modules, and the first finding against each. ``told``: what is left."""

    parts: dict[str, str]
    given_up: dict[str, Diagnostic]
    told: tuple[Diagnostic, ...]


def settle(
    manifest: Manifest, parts: Mapping[str, str], taken_up: Callable[[str, Mapping[str, str]], str | None]
) -> Settled:
    """The parts of the application in ``manifest`` (whose components do not count) that leave its meaning as it is.

    ``taken_up`` names the part that a module would be, beside others; None when it cannot be one. There may be no parts
    left.
    """
    left = dict(parts)
    given_up: dict[str, Diagnostic] = {}
    while True:
        components = tuple(Component(ComponentName(name), code) for name, code in left.items())
        program = Program(Manifest(manifest.app, manifest.path, manifest.root, manifest.main, components=components))
        found = plan_of(program)
        against = [finding for finding in found.diagnostics if _breaks(finding)]
        state = [finding for finding in against if finding.code == "SW231"]
        culprits: dict[str, Diagnostic] = {}
        for finding in against:
            if finding.code != "SW231":
                for name in _culprits(found, finding, left):
                    culprits.setdefault(name, finding)
        if not culprits and state:
            more = {
                ref.module: fresh
                for ref in split_state(program, tuple(d.component for d in found.definitions))
                if ref.module not in given_up and (fresh := taken_up(ref.module, left)) is not None
            }
            if more:
                module = min(more)
                left[more[module]] = module
                continue
            culprits = dict.fromkeys(_but_one(program, found, left), state[0])
        if not culprits:
            return Settled(left, given_up, tuple(finding for finding in found.diagnostics if alters(finding)))
        for name, finding in culprits.items():
            given_up[left.pop(name)] = finding
        if not left:
            return Settled(left, given_up, ())


def _breaks(finding: Diagnostic) -> bool:
    if finding.code == "SW232" and finding.message.startswith(_HARMLESS):
        return False
    return alters(finding) and finding.code not in _TOLD


def _culprits(found: ShardPlan, finding: Diagnostic, parts: Mapping[str, str]) -> list[str]:
    """The parts without which there would be no such finding: who is called, else whose code it is, else all."""
    called = [
        str(edge.callee)
        for edge in found.edges
        if edge.caller == finding.component and finding.site in edge.sites and edge.callee in parts
    ]
    if called:  # one line may call several
        return [name for name in called if re.search(rf"\b{name}\b", finding.message)] or called
    return [str(finding.component)] if finding.component in parts else list(parts)


def _but_one(program: Program, found: ShardPlan, parts: Mapping[str, str]) -> list[str]:
    """Of the parts that would each have a copy of some state, all but one; all where the program itself has one."""
    importers = next(iter(split_state(program, tuple(d.component for d in found.definitions)).values()))
    holders = sorted((str(name) for name in importers if name in parts), key=lambda name: -len(program.owned_by(name)))
    return holders if MAIN_COMPONENT in importers else holders[1:]
