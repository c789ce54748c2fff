"""``verify``: whether a program computes the same when it is cut, decided by its own tests, or by what it prints.

The command runs uncut, then cut. Where the two differ, the cuts that are answerable for it stay together from then on: of
each test that differs, the function that such tests use most, and others least. Tests that differed are run again alone
until they are as they were; then everything is, and what remains is equivalent, as far as the command can tell.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from shardwright.cli._invocation import Invocation, common_options
from shardwright.cli._latest import Latest, functions_of
from shardwright.cli._profile import (
    FEW_TESTS,
    OF_MANY,
    TOO_LONG,
    WITH_TESTS,
    Ran,
    code_files,
    command_line,
    measure,
    merged,
    run_with_errand,
)
from shardwright.cli._verified import LEAST_SHARE, Verified
from shardwright.errors import NodeError
from shardwright.manifest import load as load_manifest
from shardwright.model.manifest import Manifest
from shardwright.model.profile import Profile
from shardwright.model.shard import ShardPlan
from shardwright.node import read_constants, read_profile, write_profile
from shardwright.sharding import Read, changed_sources, cut_inside, read_application, sources_of
from shardwright.sharding import plan as plan_manifest

NOT_CUT = 3  # the exit status where the only right plan is not to cut
DIFFERS = 1
MOSTLY_REMOTE = 0.8  # of the calls of a cut function; with fewer it is not worth its name
ENOUGH_REMOTE = 0.9  # of the calls of all cut functions together
_ROUNDS = 40  # of which few run everything
_FULL_ROUNDS = 8
_SLOWER, _MORE_S = 6.0, 120.0  # a cut run may take so many times the uncut one, and so much more
_PLAIN_CALLS = 10  # of so many calls it shows how many stay
_MOST_TESTS = 0.5  # if more than so many are to be run again, all are
_SOME = 4  # of many tests, one of so many is run before all are


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

    Exits with 0 if the final plan is equivalent and still cuts something, 3 if the only right plan is not to cut: because
    every cut changes something, or because less than a twentieth of the components' work could leave. With 1 if what is
    left still differs. Tests that cannot be collected, or of which none passes, decide nothing: that is an error.

    \b
    Examples:
      shardwright verify . -- python -m pytest -q
      shardwright verify examples/pressroom --json -- python -m pressroom --limit 10
    """
    begun_s = time.monotonic()
    manifest = load_manifest(path, profile=overlay, environment=invocation.environment)
    plan = plan_manifest(manifest)
    profile = read_profile(manifest)
    counted: Ran | None = None
    read = read_application(manifest)
    click.echo(f"read in {time.monotonic() - begun_s:.0f} s", err=True)
    if fresh or profile is None or changed_sources(profile, sources_of(plan)):
        found, counted = measure(manifest, plan, command, invocation.environment, relief=True, read=read)
        profile = merged(None if fresh else profile, found)
        write_profile(manifest, profile)
        click.echo(f"profiled after {time.monotonic() - begun_s:.0f} s", err=True)
    verified = _Verification(manifest, plan, profile, command, overlay, invocation.environment, read).run(counted)
    verified.took_s = time.monotonic() - begun_s
    if invocation.json:
        invocation.result({**to_builtins(verified), "remote_share": round(verified.remote_share, 4)})
    else:
        verified.tell()
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
        self._parts_s = self._own_s = 0.0
        self._full: Counter[str] = Counter()
        self._latest: Latest | None = None  # of the component at hand, once all its tests were run
        self._uncut = Ran(0, ())
        self._again: dict[frozenset[str], dict[str, str]] = {}  # what such tests came to, uncut once more; none: all

    def run(self, counted: Ran | None) -> Verified:
        """``counted``: a run that was profiled. What its tests came to may differ from an uncut run; that is asked for then."""
        found = self.found
        begun_s = time.monotonic()
        uncut = counted if counted is not None and _outcomes(counted) else self._once(None, count=True)
        self._uncut = uncut
        found.uncut_s = self.profile.wall_s if uncut is counted else time.monotonic() - begun_s
        _refuse_hollow(uncut)
        found.tests = len(_outcomes(uncut))
        tests = sorted(_outcomes(uncut))
        # tests that are to be as they were before all are run
        suspects = set(tests[1::_SOME]) if len(tests) > FEW_TESTS else set()
        while (made := self._plan()) is not None:
            if found.movable_share < LEAST_SHARE:
                found.worth = False
                break
            component = made.cuts[0].component
            found.rounds += 1
            self._full[component] += not suspects
            if found.rounds > _ROUNDS or self._full[component] > _FULL_ROUNDS:
                found.differences.append(f"{component}: still different after {found.rounds} rounds")
                return found
            count = sum(len(each.functions) for each in made.cuts)
            which = f"{len(suspects)} tests" if suspects else "everything"
            click.echo(f"round {found.rounds}: {count} functions of {component} cut, {which}", err=True)
            begun_s = time.monotonic()
            cut = self._once(made, suspects, count=not suspects)
            different = self._different(uncut, cut, suspects)
            dismissed = len(different)
            if different:
                different = self._steady(uncut, cut, different, suspects)
            dismissed -= len(different)
            culprits = self._culprits(different, cut)
            if not suspects:
                found.cut_s = time.monotonic() - begun_s
                self._latest = Latest(cut)
            elif self._latest is not None:
                self._latest.note(cut)
            stay = self._staying(cut, suspects, culprits)
            culprits |= stay
            found.kept_together.update(culprits)
            took = f"round {found.rounds}: {time.monotonic() - begun_s:.0f} s, {len(different)} differ, {len(culprits)} kept"
            click.echo(took, err=True)
            if suspects and dismissed:  # among few, a test may miss one that runs before it: all must show it
                self._latest = None
            called = culprits.keys() & (self._called(cut) | self._called_at_all(stay))
            if self._latest is not None and not called:  # what was never called changes nothing
                self._count(self._latest, made)
                self._verified.add(component)
                self._latest = None
            suspects = self._suspects(different, called, cut, len(tests))
        found.equivalent = True
        return found

    def _suspects(self, different: Collection[str], culprits: Collection[str], cut: Ran, tests: int) -> set[str]:
        """What to run next: the tests that what is kept from now on may have changed; all (none named) where those are many."""
        if "the command" in different or not culprits:
            return set()
        found = set(different) | (self._latest or Latest(cut)).users(culprits)
        if self._latest is None and not different:
            return set()
        return found if len(found) < _MOST_TESTS * tests else set()

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
        self.found.note(made, self.profile)
        left = [cut for cut in made.cuts if cut.component not in self._verified]
        if not left:
            return None
        mine = tuple(cut for cut in left if cut.component == left[0].component)
        if self._latest is not None:  # and nothing besides: tests that are not run again must run as they did
            known = self._latest.functions
            mine = tuple(
                replace(cut, functions=tuple(each for each in cut.functions if each.id in known)) for cut in mine
            )
            mine = tuple(cut for cut in mine if cut.functions)
            if not mine:
                self._verified.add(left[0].component)
                self._latest = None
                return self._plan()
        first = replace(made, cuts=mine)
        parts = {cut.part for cut in first.cuts}
        definitions = tuple(item for item in first.definitions if item.component in parts)
        return replace(first, definitions=definitions, edges=(), routes=())

    def _once(self, plan: ShardPlan | None, only: Collection[str] = (), *, count: bool = False) -> Ran:
        """Run the command; ``count`` what the components' own code does in this process, of all tests or of some of many."""
        with tempfile.TemporaryDirectory(prefix="shardwright-verify-") as folder:
            errand: dict[str, Any] = {"kind": WITH_TESTS, "manifest": self.manifest.path, "profile": self.overlay}
            errand["only"] = sorted(only)
            if count:
                errand |= {"modules": code_files(self.manifest, self.plan), "of_many": OF_MANY}
            if plan is not None:
                stored = Path(folder, "plan.json")
                stored.write_bytes(msgspec.json.encode(plan))
                errand["plan"] = str(stored)
            limit_s = None if plan is None and not only else _SLOWER * self.found.uncut_s + _MORE_S
            ran = run_with_errand(self.manifest, self.command, errand, self.environment, keep=True, within_s=limit_s)
        if not ran.answers and (ran.status != TOO_LONG or plan is None):
            raise NodeError(
                f"the command ended with status {ran.status} and told nothing: {ran.stdout[-400:].decode(errors='replace')}",
                remedy="it must run in Python, and end by itself",
            )
        return ran

    def _different(self, uncut: Ran, cut: Ran, only: Collection[str]) -> dict[str, str]:
        """Tests that came out otherwise, with what they came to."""
        before, after = _outcomes(uncut), _outcomes(cut)
        if cut.status == TOO_LONG and not cut.answers:
            return {"the command": "the command did not end in time"}
        found = {
            name: f"{name}: {text} uncut, {after.get(name, 'not run')} cut"
            for name, text in before.items()
            if (not only or name in only) and after.get(name, "").partition(":")[0] != text.partition(":")[0]
        }
        if not before and (uncut.status, uncut.stdout) != (cut.status, cut.stdout):
            statuses = f"status {uncut.status} uncut, {cut.status} cut"
            found["the command"] = f"the command printed or ended otherwise ({statuses})"
        return found

    def _steady(self, uncut: Ran, cut: Ran, different: dict[str, str], only: Collection[str]) -> dict[str, str]:
        """Without the tests that come to exactly the same without any cut, too, when the same tests are run again.

        It must be the same tests: one that depends on those before it comes out otherwise among others, whatever was cut.
        """
        if "the command" in different:
            return different
        selection = frozenset(only)
        if selection not in self._again:
            self._again[selection] = _outcomes(self._once(None, selection))
        again, after = self._again[selection], _outcomes(cut)
        unsteady = [name for name in different if name in after and again.get(name) == after[name]]
        if not selection:  # among few, a test may merely miss one that runs before it
            self.found.unsteady += [name for name in unsteady if name not in self.found.unsteady]
        return {name: text for name, text in different.items() if name not in unsteady}

    def _culprits(self, different: dict[str, str], cut: Ran) -> dict[str, str]:
        """Cut functions to keep from now on, with the first difference that each is made answerable for."""
        used: dict[str, Any] = {}
        functions: dict[str, Any] = {}
        for answer in cut.answers:
            used.update(answer.get("used", {}))
            functions.update(answer.get("functions", {}))
        if not different:
            return {}
        self.found.differences += [text[:600] for text in list(different.values())[:3]]
        if "the command" in different:
            used = {"the command": [name for name, item in functions.items() if item["calls"]]}
        elsewhere = Counter(function for names in used.values() for function in names)
        found: dict[str, str] = {}
        left = {name for name in different if used.get(name)}
        while left:  # of those that nobody answers for yet: whom most of them used, and others least
            blamed = Counter(function for name in left for function in used[name])
            worst = max(blamed, key=lambda name: (blamed[name] / elsewhere[name], blamed[name], name))
            mine = sorted(name for name in left if worst in used[name])
            found[worst] = different[mine[0]][:300]
            left.difference_update(mine)
        if not found:  # a difference in tests that called nothing of it: everything is under suspicion
            return dict.fromkeys(functions, next(iter(different.values()))[:300])
        return found

    @staticmethod
    def _called(cut: Ran) -> set[str]:
        return {name for name, item in functions_of(cut).items() if item["calls"]}

    def _called_at_all(self, names: Collection[str]) -> set[str]:
        counts = self._latest.counts(()) if self._latest is not None else {}
        return {name for name in names if name in counts}

    def _staying(self, cut: Ran, suspects: Collection[str], culprits: Mapping[str, str]) -> dict[str, str]:
        """Cut functions whose calls mostly ran here: in all tests, once all were run, for those that are run again may be
        the very ones whose calls stay."""
        if suspects and self._latest is not None:
            return self._hollow(self._latest.counts({**self.found.kept_together, **culprits}), whole=True)
        return self._hollow(functions_of(cut), whole=not suspects)

    @staticmethod
    def _hollow(functions: Mapping[str, Any], *, whole: bool) -> dict[str, str]:
        """Cut functions whose calls mostly ran here all the same; of a part of the tests, those alone that plainly do."""
        found = {}
        left: dict[str, Any] = {}
        for name, item in functions.items():
            if item["calls"] >= (1 if whole else _PLAIN_CALLS):
                left[name] = item
            elif whole:
                found[name] = "it was never called"
        for name, item in sorted(left.items(), key=lambda pair: pair[1]["remote"] / pair[1]["calls"]):
            calls = sum(each["calls"] for each in left.values())
            enough = sum(each["remote"] for each in left.values()) >= ENOUGH_REMOTE * calls
            if enough and item["remote"] >= MOSTLY_REMOTE * item["calls"]:
                break
            why = max(item["why_local"], key=item["why_local"].get, default="")
            found[name] = f"only {item['remote']} of {item['calls']} calls went there: {why}"[:300]
            del left[name]
        return found

    def _count(self, latest: Latest, made: ShardPlan) -> None:
        found = self.found
        functions = latest.counts(found.kept_together)
        for item in functions.values():
            found.calls += item["calls"]
            found.remote += item["remote"]
            found.local += item["local"]
            found.uncut += bool(item["uncut"])
        found.twice += latest.twice
        found.functions.update(functions)
        found.shards += sum(item.shards for item in made.cuts)
        self._parts_s += sum(answer.get("parts_cpu_s", 0.0) for answer in latest.complete.answers)
        self._own_s += sum(answer.get("cpu_s", 0.0) for answer in latest.complete.answers)
        found.parts_cpu_share = self._parts_s / ((self._parts_s + self._own_s) or 1.0)
        share = latest.outside_share(self.profile, self._uncut, found.kept_together)
        found.outside_share = min(1.0, found.outside_share + share)  # of several components each was cut alone


def _outcomes(ran: Ran) -> dict[str, str]:
    found: dict[str, str] = {}
    for answer in ran.answers:
        found.update(answer.get("outcomes", {}))
    return found


def _refuse_hollow(uncut: Ran) -> None:
    """Raises NodeError where the tests show nothing: two runs that both fail to begin are no proof that they are the same."""
    for answer in uncut.answers:
        for name, why in answer.get("uncollected", {}).items():
            raise NodeError(
                f"{name} cannot be collected uncut: {why}",
                remedy="give what the tests need (packages, arguments, a working directory), or leave it out of the command",
            )
    outcomes = _outcomes(uncut)
    if any(answer.get("pytest") for answer in uncut.answers) and "passed" not in outcomes.values():
        raise NodeError(
            f"of {len(outcomes)} tests none passes uncut: they decide nothing",
            remedy="make them pass uncut first",
        )
