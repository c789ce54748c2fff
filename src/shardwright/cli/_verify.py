"""``verify``: whether a program computes the same when it is cut, decided by its own tests, or by what it prints.

The command runs uncut, then cut. Where the two differ, the cut that did it stays together from then on, and the cut run is
repeated; what remains is equivalent, as far as the command can tell.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from shardwright.cli._invocation import Invocation, common_options
from shardwright.cli._profile import Ran, command_line, measure, merged, run_with_errand
from shardwright.errors import NodeError
from shardwright.manifest import load as load_manifest
from shardwright.model.cut import Profile
from shardwright.model.manifest import Manifest
from shardwright.model.shard import ShardPlan
from shardwright.node import read_constants, read_profile, write_profile
from shardwright.sharding import Read, changed_sources, cut_inside, read_application, sources_of
from shardwright.sharding import plan as plan_manifest

NOT_CUT = 3  # the exit status where the only right plan is not to cut
DIFFERS = 1
ENOUGH_REMOTE = 0.9  # of the calls of a cut function; with fewer it is not worth its name
_ROUNDS = 12
_ERRAND = "shardwright.testing._cut_run"


@dataclass(slots=True)
class Verified:
    """What ``verify`` found. ``functions`` are those of the final plan, with what became of their calls."""

    equivalent: bool = False
    shards: int = 0
    tests: int = 0
    rounds: int = 0
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept_together: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # hot functions that the plan does not cut, with the reason
    calls: int = 0
    remote: int = 0
    local: int = 0
    parts_cpu_share: float = 0.0
    moved_share_profiled: float = 0.0
    took_s: float = 0.0

    @property
    def remote_share(self) -> float:
        return self.remote / self.calls if self.calls else 0.0


@click.command()
@click.argument("path", default=".")
@click.argument("command", nargs=-1, metavar="[-- COMMAND]...")
@click.option("--profile", "overlay", metavar="NAME", help="Lay shardwright.NAME.toml over the manifest.")
@click.option("--fresh", is_flag=True, help="Profile the command again, even if a profile of this code is there.")
@common_options
def verify(invocation: Invocation, path: str, command: tuple[str, ...], overlay: str | None, fresh: bool) -> None:
    """Find out whether an application computes the same when functions inside its components are cut out.

    COMMAND is its test suite (pytest: test by test), or a run of it (output and exit status are compared). It runs uncut,
    then cut at every function that nothing forbids to cut, whether or not that would pay. What differs is kept together,
    with the reason, and the rest goes on.

    Exits with 0 if the final plan is equivalent and still cuts something, 3 if the only right plan is not to cut.

    \b
    Examples:
      shardwright verify . -- python -m pytest -q
      shardwright verify examples/pressroom --json -- python -m pressroom --limit 10
    """
    begun_s = time.monotonic()
    manifest = load_manifest(path, profile=overlay, environment=invocation.environment)
    plan = plan_manifest(manifest)
    profile = read_profile(manifest)
    read = read_application(manifest)
    if fresh or profile is None or changed_sources(profile, sources_of(plan)):
        found, _ = measure(manifest, plan, command, invocation.environment, relief=True, read=read)
        profile = merged(profile, found)
        write_profile(manifest, profile)
    verified = _Verification(manifest, plan, profile, command, overlay, invocation.environment, read).run()
    verified.took_s = time.monotonic() - begun_s
    if invocation.json:
        invocation.result({**asdict(verified), "remote_share": round(verified.remote_share, 4)})
    else:
        _tell(verified)
    raise SystemExit(0 if verified.equivalent and verified.calls else DIFFERS if not verified.equivalent else NOT_CUT)


class _Verification:
    def __init__(
        self, manifest: Manifest, plan: ShardPlan, profile: Profile, command: Sequence[str], overlay: str | None,
        environment: Mapping[str, str], read: Read,
    ) -> None:  # fmt: skip
        self.read = read
        self.manifest, self.plan, self.profile, self.overlay = manifest, plan, profile, overlay
        self.command = command_line(manifest, command)
        self.environment = environment
        self.constants = read_constants(environment)
        self.found = Verified()
        self._verified: set[str] = set()  # components
        self._parts_s = self._own_s = self._moved_s = 0.0

    def run(self) -> Verified:
        found = self.found
        uncut = self._once(None)
        found.tests = len(_outcomes(uncut))
        rounds: Counter[str] = Counter()
        while (made := self._plan()) is not None:
            component = made.cuts[0].component
            rounds[component] += 1
            if rounds[component] > _ROUNDS:
                found.differences.append(f"{component}: still different after {_ROUNDS} rounds")
                return found
            found.rounds += 1
            click.echo(f"round {found.rounds}: {len(made.cuts[0].functions)} functions of {component} cut", err=True)
            cut = self._once(made)
            culprits = self._culprits(uncut, cut) or self._hollow(cut)
            if culprits:
                found.kept_together.update(culprits)
            else:
                self._count(cut, made)
                self._verified.add(component)
        found.equivalent = True
        return found

    def _plan(self) -> ShardPlan | None:
        """The plan with what is left to cut of one component that is not verified yet; None where nothing is.

        It has the parts alone: the program stands for the component itself, which is why others wait for their turn.
        """
        never = tuple(self.found.kept_together)
        components = tuple(
            replace(component, never_cut=(*component.never_cut, *never)) for component in self.manifest.components
        )
        made = cut_inside(
            replace(self.manifest, components=components),
            self.plan,
            self.profile,
            self.constants,
            relief=True,
            read=self.read,
        )
        self.found.refused = [
            f"{d.site}: {d.message}" for d in made.diagnostics if d.code in ("SW331", "SW332", "SW333", "SW337")
        ]
        left = [cut for cut in made.cuts if cut.component not in self._verified]
        if not left:
            return None
        first = replace(made, cuts=(left[0],))
        parts = {cut.part for cut in first.cuts}
        definitions = tuple(item for item in first.definitions if item.component in parts)
        return replace(first, definitions=definitions, edges=(), routes=())

    def _once(self, plan: ShardPlan | None) -> Ran:
        with tempfile.TemporaryDirectory(prefix="shardwright-verify-") as folder:
            errand: dict[str, Any] = {"kind": _ERRAND, "manifest": self.manifest.path, "profile": self.overlay}
            if plan is not None:
                stored = Path(folder, "plan.json")
                stored.write_bytes(msgspec.json.encode(plan))
                errand["plan"] = str(stored)
            ran = run_with_errand(self.manifest, self.command, errand, self.environment, keep=True)
        if not ran.answers:
            raise NodeError(
                f"the command ended with status {ran.status} and told nothing: {ran.stdout[-400:].decode(errors='replace')}",
                remedy="it must run in Python, and end by itself",
            )
        return ran

    def _culprits(self, uncut: Ran, cut: Ran) -> dict[str, str]:
        """Cut functions to keep from now on, with the first difference that each is made answerable for."""
        before, after = _outcomes(uncut), _outcomes(cut)
        used: dict[str, list[str]] = {}
        functions: dict[str, Any] = {}
        for answer in cut.answers:
            used.update(answer.get("used", {}))
            functions.update(answer.get("functions", {}))
        different = {
            name: f"{name}: {text} uncut, {after.get(name, 'not run')} cut"
            for name, text in before.items()
            if after.get(name, "").partition(":")[0] != text.partition(":")[0]
        }
        if not before and (uncut.status, uncut.stdout) != (cut.status, cut.stdout):
            different["the command"] = (
                f"the command printed or ended otherwise (status {uncut.status} uncut, {cut.status} cut)"
            )
            used["the command"] = [name for name, item in functions.items() if item["calls"]]
        if not different:
            return {}
        self.found.differences += [text[:600] for text in list(different.values())[:3]]
        blamed = Counter(function for name in different for function in used.get(name, ()))
        if not blamed:  # a difference in tests that called nothing of it: everything is under suspicion
            return dict.fromkeys(functions, next(iter(different.values()))[:300])
        # the one that most of them used, rarest elsewhere
        elsewhere = Counter(function for names in used.values() for function in names)
        worst = max(blamed, key=lambda name: (blamed[name] / elsewhere[name], blamed[name], name))
        evidence = next(text for name, text in different.items() if worst in used.get(name, ()))
        return {worst: evidence[:300]}

    def _hollow(self, cut: Ran) -> dict[str, str]:
        """Cut functions whose calls mostly ran here all the same."""
        found = {}
        for answer in cut.answers:
            for name, item in answer.get("functions", {}).items():
                if not item["calls"]:
                    found[name] = "it was never called"
                elif item["remote"] < ENOUGH_REMOTE * item["calls"]:
                    why = max(item["why_local"], key=item["why_local"].get, default="")
                    found[name] = f"only {item['remote']} of {item['calls']} calls went there: {why}"[:300]
        return found

    def _count(self, cut: Ran, made: ShardPlan) -> None:
        found = self.found
        functions: dict[str, dict[str, Any]] = {}
        for answer in cut.answers:
            functions.update(answer.get("functions", {}))
            self._parts_s += answer.get("parts_cpu_s", 0.0)
            self._own_s += answer.get("cpu_s", 0.0)
        for item in functions.values():
            found.calls += item["calls"]
            found.remote += item["remote"]
            found.local += item["local"]
        found.functions.update(functions)
        found.shards += sum(item.shards for item in made.cuts)
        self._moved_s += sum(item.moved_s for item in made.cuts)
        found.parts_cpu_share = self._parts_s / ((self._parts_s + self._own_s) or 1.0)
        found.moved_share_profiled = self._moved_s / (self.profile.wall_s or 1.0)


def _outcomes(ran: Ran) -> dict[str, str]:
    found: dict[str, str] = {}
    for answer in ran.answers:
        found.update(answer.get("outcomes", {}))
    return found


def _tell(found: Verified) -> None:
    if not found.calls:
        click.echo(
            "nothing to cut: " + ("every cut changed something" if found.kept_together else "nothing may be cut")
        )
    else:
        click.echo(
            f"{'equivalent' if found.equivalent else 'NOT equivalent'}: {len(found.functions)} functions cut, "
            f"{found.calls} calls, {found.remote} elsewhere ({found.remote_share:.1%}), "
            f"{found.local} here; {found.tests} tests compared"
        )
        for name, item in sorted(found.functions.items(), key=lambda pair: -pair[1]["calls"]):
            click.echo(f"  {name}: {item['calls']} calls, {item['remote']} elsewhere")
    for name, why in found.kept_together.items():
        click.echo(f"  kept together: {name}: {why}")
    for line in found.refused[:12]:
        click.echo(f"  not cut: {line}")
