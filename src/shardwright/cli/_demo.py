"""``demo``: an application under its own scripted visitors, each in a session, and what came of it."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from shardwright import errors
from shardwright.cli._errors import FAILED, OK, TERMINATED
from shardwright.cli._invocation import Invocation, common_options
from shardwright.cli._run import Signals, Terminated, options_for, signals_again, started
from shardwright.cli._shard_tables import show_shards
from shardwright.errors import ManifestError, NodeError
from shardwright.node import Node, Running, shard_object

Visit = Callable[[str, int], Generator[tuple[str, tuple[Any, ...]], Any, Any]]
_REPORT_S = 10.0


@dataclass
class Tally:
    """What the visitors met. Shared by their threads."""

    visitors: int = 0
    calls: int = 0
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # of each error, what the first one said
    lock: threading.Lock = field(default_factory=threading.Lock)

    def quantile_ms(self, share: float) -> float:
        """Of the calls' latencies; 0 without any."""
        with self.lock:
            held = sorted(self.latencies_s)
        return round(held[min(len(held) - 1, math.ceil(share * len(held)) - 1)] * 1e3, 3) if held else 0.0


@click.command()
@click.argument("path", required=False)
@click.option("--once", is_flag=True, help="One round of visitors, then end: exit status 0 when no call failed.")
@click.option("--visitors", default=12, show_default=True, type=click.IntRange(1, 1000), help="How many at a time.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1), help="How long each stays.")
@click.option("--pace", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Calls a second of each.")
@common_options
def demo(invocation: Invocation, path: str | None, once: bool, visitors: int, seconds: float, pace: float) -> int:
    """Run an application under its own built-in visitors and report what happened.

    PATH is an application whose manifest names app.visitors; without it, the bundled arena, a small multiplayer world.
    Every visitor is a session with shards of its own. Without --once visitors keep coming until Ctrl-C; meanwhile `ps`,
    `events -f`, `logs -f` and `call` work from another terminal.

    \b
    Examples:
      shardwright demo --once
      shardwright demo examples/arena --visitors 50 --seconds 60 --once --json
    """
    where = path if path is not None else str(bundled())
    signals = Signals()
    with signals:
        try:
            with started(invocation, where, options_for(invocation, where), signals) as running:
                invocation.starting = True
                visit = _visit(running)
                invocation.starting = False
                return _Demo(invocation, running, signals, visit, visitors, seconds, pace).run(once)
        except Terminated:
            return TERMINATED


def bundled() -> Path:
    """The arena: in the installed package, or beside the sources of a checkout. Raises ManifestError."""
    package = Path(errors.__file__).parent
    for folder in (package / "_examples" / "arena", package.parent.parent / "examples" / "arena"):
        if folder.is_dir():
            return folder
    raise ManifestError("this installation holds no bundled application", remedy="name one: shardwright demo PATH")


def _visit(running: Running) -> Visit:
    """The application's generator of visits, imported into this process. Raises ManifestError."""
    named = running.manifest.visitors
    module, _, function = named.partition(":")
    if not module or not function:
        raise ManifestError(
            f"{running.manifest.app} has no visitors", remedy='name a generator in [app]: visitors = "module:function"'
        )
    sys.path.insert(0, running.plan.root)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ManifestError(f"app.visitors {named!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ManifestError(f"app.visitors {named!r} is no function")
    return found  # type: ignore[no-any-return]


class _Demo:
    """One run of the demonstration."""

    def __init__(
        self,
        invocation: Invocation,
        running: Running,
        signals: Signals,
        visit: Visit,
        visitors: int,
        seconds: float,
        pace: float,
    ) -> None:
        self._invocation = invocation
        self._running = running
        self._node = Node(running)
        self._signals = signals
        self._visit = visit
        self._visitors = visitors
        self._rounds = max(1, round(seconds * pace) - 2)
        self._period_s = 1.0 / pace
        self._tally = Tally()
        self._ending = threading.Event()
        self._most: list[dict[str, Any]] = []  # the shards when there were most of them
        self._names = itertools.count(1)

    def run(self, once: bool) -> int:
        self._greet(once)
        begun_s = time.monotonic()
        threads = [
            threading.Thread(target=self._visitors_one_by_one, args=(once, index), name=f"visitor-{index}", daemon=True)
            for index in range(self._visitors)
        ]
        for thread in threads:
            thread.start()
        interrupted = self._wait(threads, once)
        self._ending.set()
        signals_again(self._signals)
        for thread in threads:
            thread.join(10)
        self._report(time.monotonic() - begun_s, self._most, interrupted)
        if self._running.lost.is_set():
            raise NodeError("the node could not go on: its keeper died, and every shard with it")
        return FAILED if self._tally.errors or (once and interrupted) or not self._tally.calls else OK

    def _wait(self, threads: list[threading.Thread], once: bool) -> bool:
        """Until the visitors have left, or somebody has had enough: then true."""
        next_s = time.monotonic() + _REPORT_S
        look_s = time.monotonic() + 0.5
        while any(thread.is_alive() for thread in threads):
            if self._signals.next(0.1) is not None:
                return True
            if self._running.lost.is_set():
                return False
            if time.monotonic() >= look_s:
                look_s += 2.0
                shards = [shard_object(status) for status in self._node.shards()]
                if len(shards) >= len(self._most):
                    self._most = shards
            if not once and time.monotonic() >= next_s:
                next_s += _REPORT_S
                self._progress()
        return False

    def _progress(self) -> None:
        tally = self._tally
        counts = f"{tally.visitors} visits, {tally.calls} calls, {sum(tally.errors.values())} errors"
        self._say(f"{counts}, p50 {tally.quantile_ms(0.5)} ms, p99 {tally.quantile_ms(0.99)} ms")

    # -- visitors ----------------------------------------------------------------------------------------------

    def _visitors_one_by_one(self, once: bool, index: int) -> None:
        self._ending.wait(self._period_s * index / self._visitors)  # they do not come in step
        while not self._ending.is_set():
            player = f"visitor-{next(self._names)}"
            try:
                self._one(player)
            except Exception as error:
                with self._tally.lock:
                    self._tally.errors[type(error).__name__] += 1
                    self._tally.first.setdefault(type(error).__name__, str(error))
                if not once:
                    self._ending.wait(0.5)
            if once:
                return

    def _one(self, player: str) -> None:
        with self._node.session(player, timeout_s=60.0) as session:
            visit = self._visit(player, self._rounds)
            due_s = time.monotonic()
            step: Callable[[], tuple[str, tuple[Any, ...]]] = lambda: next(visit)  # noqa: E731
            while not self._ending.is_set():
                try:
                    target, arguments = step()
                except StopIteration as end:
                    self._left(end.value)
                    return
                self._ending.wait(max(0.0, due_s - time.monotonic()))
                due_s = max(due_s + self._period_s, time.monotonic() - 1.0)
                begun_s = time.perf_counter()
                try:
                    result = session.call(target, *arguments)
                except Exception as error:
                    with self._tally.lock:
                        self._tally.first.setdefault(type(error).__name__, str(error))
                    step = lambda error=error: visit.throw(error)  # type: ignore[misc]  # noqa: E731
                else:
                    step = lambda result=result: visit.send(result)  # type: ignore[misc]  # noqa: E731
                took_s = time.perf_counter() - begun_s
                with self._tally.lock:
                    self._tally.calls += 1
                    if len(self._tally.latencies_s) < 1_000_000:
                        self._tally.latencies_s.append(took_s)

    def _left(self, told: Any) -> None:
        with self._tally.lock:
            self._tally.visitors += 1
            if isinstance(told, dict):
                self._tally.errors.update(told.get("trouble", {}))
                self._tally.refused.update(told.get("refused", {}))

    # -- words -------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        click.echo(text, err=self._invocation.json)

    def _greet(self, once: bool) -> None:
        running = self._running
        address = running.api.path if running.api is not None else "none"
        self._say(f"{running.manifest.app} is ready at {address}")
        show_shards(self._invocation, [shard_object(s) for s in self._node.shards()], stderr=self._invocation.json)
        self._say(
            f"{self._visitors} visitors come in, each in a session of its own" + ("" if once else "; Ctrl-C ends this")
        )

    def _report(self, took_s: float, shards: list[dict[str, Any]], interrupted: bool) -> None:
        tally = self._tally
        result = {
            "app": self._running.manifest.app,
            "seconds": round(took_s, 3),
            "visitors": tally.visitors,
            "calls": tally.calls,
            "calls_per_s": round(tally.calls / took_s, 1),
            "errors": dict(sorted(tally.errors.items())),
            "first_of_each_error": {name: tally.first.get(name, "") for name in sorted(tally.errors)},
            "refused": dict(sorted(tally.refused.items())),
            "p50_ms": tally.quantile_ms(0.5),
            "p99_ms": tally.quantile_ms(0.99),
            "shards": shards,
            "interrupted": interrupted,
        }
        if self._invocation.json:
            self._invocation.result(result)
            return
        click.echo()
        click.echo("the shards when there were most of them:")
        show_shards(self._invocation, shards)
        errors = ", ".join(f"{count} {name}" for name, count in sorted(tally.errors.items())) or "none"
        refused = ", ".join(f"{count} {name}" for name, count in sorted(tally.refused.items()))
        click.echo()
        click.echo(
            f"{tally.visitors} visitors, {tally.calls} calls in {took_s:.1f} s ({result['calls_per_s']} a second)"
        )
        click.echo(f"latency: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms")
        click.echo(f"errors: {errors}")
        for name in sorted(tally.errors):
            click.echo(f"  the first {name}: {tally.first.get(name, 'not known')}")
        if refused:
            click.echo(f"refused by the rules of the application, as meant: {refused}")
