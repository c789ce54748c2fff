"""``plan --profile -- COMMAND``: runs a program twice, and keeps what was seen of it beside the manifest.

First all calls are counted; then the functions that might be cut are looked at while they run. The command is run as it
is, as a process of its own; Python processes of it take part by a ``sitecustomize`` that comes first on their path.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from shardwright.cli._errors import TERMINATED
from shardwright.errors import ManifestError, NodeError
from shardwright.model.manifest import Manifest
from shardwright.model.profile import Context, Measured, MeasuredEdge, Profile, united
from shardwright.model.shard import ShardPlan
from shardwright.node import PROFILE_VERSION
from shardwright.sharding import Read, hot_functions, sources_of

WITH_TESTS = "shardwright.testing._cut_run"  # the errand that knows tests
FEW_TESTS = 200
OF_MANY = (FEW_TESTS, 3)  # of more tests, one of so many is counted, and looked at
TOO_LONG = 124  # the status of what was ended, as timeout(1) has it
_RUN = (
    "import sys, importlib; sys.argv[:] = {argv!r}; sys.exit(getattr(importlib.import_module({module!r}), {name!r})())"
)


class Ran(Struct, frozen=True):
    """One run of a command: its exit status, and the answer of each Python process that ended in order."""

    status: int
    answers: tuple[dict[str, Any], ...]
    stdout: bytes = b""


def command_line(manifest: Manifest, given: Sequence[str]) -> list[str]:
    """What to execute: ``given`` if it begins with a program that there is, else ``app.main`` with these arguments.

    Raises ManifestError where there is neither.
    """
    if given and (os.sep in given[0] or shutil.which(given[0])) and not given[0].startswith("-"):
        return [
            sys.executable if item in ("python", "python3") and place == 0 else item for place, item in enumerate(given)
        ]
    module, _, name = manifest.main.partition(":")
    if not module:
        what = f"{given[0]!r} is no command, and" if given else "no command was given, and"
        raise ManifestError(
            f"{what} the manifest names no app.main",
            remedy="give a command: shardwright plan --profile -- python -m app",
        )
    program = Path(manifest.path).parent.name
    return [sys.executable, "-c", _RUN.format(argv=[program, *given], module=module, name=name or "main")]


def run_with_errand(
    manifest: Manifest,
    command: Sequence[str],
    errand: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    keep: bool = False,
    within_s: float | None = None,
) -> Ran:
    """Run it once. ``errand`` says what its Python processes do besides; its output goes to our standard error, or is kept.

    After ``within_s`` it is ended, and its status is ``TOO_LONG``.
    """
    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="shardwright-errand-") as folder:
        told = Path(folder, "errand.json")
        answers = Path(folder, "answers")
        answers.mkdir()
        told.write_text(json.dumps({**errand, "folder": str(answers)}), encoding="utf-8")
        paths = [str(package / "guest" / "inject"), manifest.root, environment.get("PYTHONPATH", "")]
        own = {
            **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "SHARDWRIGHT_ERRAND": str(told),
            "SHARDWRIGHT_AT": str(package.parent),
        }  # fmt: skip
        try:
            with _ending_with_us():
                done = subprocess.run(
                    command, env=own, check=False, stdin=subprocess.DEVNULL, timeout=within_s,
                    stdout=subprocess.PIPE if keep else sys.stderr.fileno(),
                )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            found = tuple(json.loads(path.read_text(encoding="utf-8")) for path in sorted(answers.glob("*.json")))
            return Ran(TOO_LONG, found, late.stdout or b"")
        except OSError as error:
            raise NodeError(f"{command[0]} cannot be run: {error.strerror}") from error
        found = tuple(json.loads(path.read_text(encoding="utf-8")) for path in sorted(answers.glob("*.json")))
    return Ran(done.returncode, found, done.stdout or b"")


@contextlib.contextmanager
def _ending_with_us() -> Iterator[None]:
    """Whoever ends this process by SIGTERM ends the command that it runs, too."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def code_files(manifest: Manifest, plan: ShardPlan) -> dict[str, str]:
    """The modules that components own, by the path of their files."""
    return {os.path.join(manifest.root, surface.path): surface.module for surface in plan.modules}


def measure(
    manifest: Manifest, plan: ShardPlan, given: Sequence[str], environment: Mapping[str, str], *, relief: bool = False,
    read: Read | None = None,
) -> tuple[Profile, Ran]:  # fmt: skip
    """A profile of a command, and its counted run. Raises NodeError when the run showed nothing of the code.

    ``relief``: look at all functions that may be cut for isolation alone, in a part of its tests where it has some; the run's
    answers tell what became of the tests.
    """
    command = command_line(manifest, given)
    modules = code_files(manifest, plan)
    errand = _errand("count", relief, modules=modules, of_many=OF_MANY)
    counted = run_with_errand(manifest, command, errand, environment, keep=relief)
    answers = [answer for answer in counted.answers if answer["functions"]]
    if not answers:
        raise NodeError(
            f"{shlex.join(command)} ended with status {counted.status}, and ran no code of the components",
            remedy="give the arguments, the input or the network that it needs to do its work, or another command",
        )
    profile = _counted(plan, answers, shlex.join(given))
    wanted = hot_functions(manifest, plan, profile, relief=relief, read=read)
    if not wanted:
        return profile, counted
    some = [name for answer in answers for name in answer.get("counted", ())]
    looked = run_with_errand(
        manifest,
        command,
        _errand("look", relief, functions=list(wanted), modules=modules, only=some),
        environment,
        keep=relief,
    )
    seen = [answer for answer in looked.answers if answer["looked"]]
    return _looked(profile, seen, whole=not some), counted


def _errand(kind: str, tests: bool, **told: Any) -> dict[str, Any]:
    """What a run is counted or looked at with; ``tests``: by what also tells what becomes of tests."""
    return {"kind": WITH_TESTS, "errand": kind, **told} if tests else {"kind": kind, **told}


def _counted(plan: ShardPlan, answers: Sequence[dict[str, Any]], command: str) -> Profile:
    functions: dict[str, list[float]] = {}
    edges: dict[tuple[str, str], list[float]] = {}
    for answer in answers:
        for name, *numbers in answer["functions"]:
            functions[name] = [a + b for a, b in zip(functions.get(name, [0, 0.0, 0.0]), numbers, strict=True)]
        for caller, callee, *numbers in answer["edges"]:
            known = edges.get((caller, callee), [0, 0.0])
            edges[caller, callee] = [a + b for a, b in zip(known, numbers, strict=True)]
    return Profile(
        PROFILE_VERSION, sources_of(plan), 1, (command,), sum(answer["wall_s"] for answer in answers),
        sum(answer["cpu_s"] for answer in answers),
        tuple(
            Measured(name, int(calls), total, own, counted=int(calls))
            for name, (calls, total, own) in sorted(functions.items())
        ),
        tuple(MeasuredEdge(caller, callee, int(calls), total) for (caller, callee), (calls, total) in sorted(edges.items())),
        sum(answer["inside_s"] for answer in answers),
    )  # fmt: skip


def _looked(profile: Profile, answers: Sequence[dict[str, Any]], *, whole: bool) -> Profile:
    """With what the second run saw; its times count, for counting had slowed the first, if it was of the ``whole``."""
    if not answers:
        return profile
    seen: dict[str, Measured] = {}
    unseen: set[str] = set()
    streamed_s: dict[str, float] = {}
    for answer in answers:
        for row in answer["looked"]:
            name, calls, sampled, request, result, encode_s, total_s, veto, shadowed, short, streams, ran_s = row
            known = seen.get(name, Measured(name, 0, 0.0, 0.0))
            streamed_s[name] = streamed_s.get(name, 0.0) + ran_s
            if short or not whole:  # only some of its calls were timed
                unseen.add(name)
            seen[name] = Measured(
                name, known.calls + calls, known.total_s + total_s, 0.0, known.sampled + sampled,
                known.request_bytes + request, known.result_bytes + result, known.encode_s + encode_s,
                known.veto or veto, known.shadowed + shadowed, known.streams or streams, 0, known.short or short,
            )  # fmt: skip
    wall_s = sum(answer["wall_s"] - answer["shadow_s"] for answer in answers) if whole else profile.wall_s
    slower = wall_s / profile.wall_s if profile.wall_s else 1.0
    functions = tuple(
        _timed(item, seen.get(item.function), slower, item.function in unseen) for item in profile.functions
    )
    contexts = united(*([Context(*row) for row in answer["contexts"]] for answer in answers))
    functions = tuple(_streaming(item, seen, streamed_s) for item in functions)
    edges = tuple(replace(edge, total_s=edge.total_s * slower) for edge in profile.edges)
    cpu_s = sum(answer["cpu_s"] - answer["shadow_s"] for answer in answers) if whole else profile.cpu_s
    return replace(
        profile, wall_s=wall_s, cpu_s=cpu_s, functions=functions, edges=edges, inside_s=profile.inside_s * slower,
        contexts=contexts,
    )  # fmt: skip


def _streaming(item: Measured, seen: Mapping[str, Measured], streamed_s: Mapping[str, float]) -> Measured:
    """Of what gives generators: calls were counted each time one went on, and time without what they did afterwards."""
    if not item.streams:
        return item
    calls = min(item.calls, seen[item.function].calls)
    total_s = calls * streamed_s[item.function] / item.shadowed if item.shadowed else item.total_s
    return replace(item, calls=calls, total_s=max(total_s, item.own_s))


def _timed(counted: Measured, looked: Measured | None, slower: float, short: bool) -> Measured:
    """A function as both runs saw it. Times are of the second, which slows the program less, where it saw all calls."""
    own_s, total_s = counted.own_s * slower, counted.total_s * slower
    if looked is None:
        return replace(counted, total_s=total_s, own_s=own_s)
    if short:
        return replace(looked, calls=counted.calls, total_s=total_s, own_s=own_s, counted=counted.counted)
    return replace(looked, own_s=own_s, counted=counted.counted)


def merged(old: Profile | None, new: Profile) -> Profile:
    """Both together, if they are of the same version of the code; else the new one alone."""
    if old is None or old.sources != new.sources:
        return new
    functions = {item.function: item for item in old.functions}
    for item in new.functions:
        known = functions.get(item.function)
        functions[item.function] = item if known is None else Measured(
            item.function, known.calls + item.calls, known.total_s + item.total_s, known.own_s + item.own_s,
            known.sampled + item.sampled, known.request_bytes + item.request_bytes,
            known.result_bytes + item.result_bytes, known.encode_s + item.encode_s, known.veto or item.veto,
            known.shadowed + item.shadowed, known.streams or item.streams, known.counted + item.counted,
            known.short or item.short,
        )  # fmt: skip
    edges = {(edge.caller, edge.callee): edge for edge in old.edges}
    for edge in new.edges:
        before = edges.get((edge.caller, edge.callee))
        edges[edge.caller, edge.callee] = edge if before is None else replace(
            edge, calls=edge.calls + before.calls, total_s=edge.total_s + before.total_s
        )  # fmt: skip
    return Profile(
        new.version, new.sources, old.runs + new.runs, (*old.commands, *new.commands)[-20:], old.wall_s + new.wall_s,
        old.cpu_s + new.cpu_s, tuple(functions[name] for name in sorted(functions)),
        tuple(edges[key] for key in sorted(edges)), old.inside_s + new.inside_s,
        united(old.contexts, new.contexts),
    )  # fmt: skip
