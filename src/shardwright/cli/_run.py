"""``run``: an application's main program in its shard, with this terminal; or its components, served till the end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import click

from shardwright.cli._errors import INTERRUPTED, OK, TERMINATED
from shardwright.cli._forward import Forwarding
from shardwright.cli._hazards import hazards
from shardwright.cli._invocation import Invocation, common_options
from shardwright.cli._reload import watching
from shardwright.errors import NodeError, ShardwrightError
from shardwright.node import Notifier, Options, Running, inherited_sockets, runtime_folder
from shardwright.telemetry import LOG_FORMATS, LOG_LEVELS, LogFormat, LogLevel, OwnLog

GRACE_S = 5.0  # what a program has to end by itself after SIGTERM
_POLL_S = 0.5
_STOP = "stop"
_DONE = "done"


class Terminated(BaseException):
    """SIGTERM before there was anything to stop with grace."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP as items of a queue; before ``quiet``, as exceptions in the main thread."""

    def __init__(self) -> None:
        self.heard: SimpleQueue[int | str] = SimpleQueue()
        self._raising = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._raising:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        self.heard.put(number)

    def quiet(self) -> None:
        """From now on they are only noted."""
        self._raising = False

    def next(self, timeout_s: float) -> int | str | None:
        try:
            return self.heard.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None


@contextlib.contextmanager
def started(invocation: Invocation, path: str, options: Options, signals: Signals) -> Iterator[Running]:
    """A node, stopped with everything of it at the end, whatever happens in between."""
    invocation.starting = True
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # several for each shard; this process is ours
    running = Running(path, options)
    try:
        signals.quiet()
        running.notifier = Notifier.of(invocation.environment, os.getpid())
        running.notifier.ready(f"{running.manifest.app} is ready")
        running.submit(_watch(running)).result()
        running.on_stop = lambda: signals.heard.put(_STOP)
        invocation.starting = False
        yield running
    finally:
        signals.quiet()
        running.notifier.stopping(f"{running.manifest.app} stops")
        running.close()


async def _watch(running: Running) -> None:
    running.notifier.watch(lambda: running.health().alive)


def options_for(invocation: Invocation, path: str, arguments: tuple[str, ...] = (), **more: Any) -> Options:
    folder = Path(os.path.abspath(path))
    program = folder.parent.name if folder.suffix == ".toml" else folder.name
    environment = dict(invocation.environment)
    more.setdefault("sockets", inherited_sockets(environment, os.getpid()))
    return Options(
        environment=environment, argv=(program, *arguments), runtime=runtime_folder(environment), **more
    )  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("path")
@click.argument("arguments", nargs=-1, metavar="[-- ARGS]...")
@click.option("--inproc", is_flag=True, help="Everything in one process: for debuggers, and where there is no fork.")
@click.option("--profile", metavar="NAME", help="Lay shardwright.NAME.toml over the manifest.")
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="auto",
    help="How the node's own lines look: pretty at a terminal and JSON elsewhere, unless said. With json, what shards print "
    "comes as JSON too.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    help="From which level on the node says what it does. [default: warning]",
)
@click.option("--reload", "reloads", is_flag=True, help="Take up every change of the code while it runs.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there what the controller sees and decides; `shardwright simulate FILE` decides it again.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of our own; without app.main, show no output of shards.")
@common_options
def run(
    invocation: Invocation,
    path: str,
    arguments: tuple[str, ...],
    inproc: bool,
    profile: str | None,
    reloads: bool,
    record: Path | None,
    quiet: bool,
    log_format: LogFormat,
    log_level: LogLevel | None,
) -> int:
    """Run an application as shards.

    With app.main in the manifest: runs the program in its shard with this terminal's streams; arguments after -- are
    its own, its exit status is ours. Without: serves until Ctrl-C, SIGTERM or `shardwright stop`.

    With --reload, shards of components whose code changed are replaced (see `shardwright reload`), and a mistake in it
    is shown while the old code goes on; a program that runs goes on with its own.

    The first Ctrl-C goes to the program, the second stops everything; SIGTERM goes to the program, which has 5 seconds.

    \b
    Examples:
      shardwright run examples/pressroom -- --limit 20
      shardwright run . --profile production --quiet
      shardwright run . --reload
    """
    signals = Signals()
    colours = not invocation.environment.get("NO_COLOR")
    level: LogLevel = log_level or ("off" if quiet else "warning")
    log = OwnLog(sys.stderr, form=log_format, level=level, colours=colours, of="node")
    with signals, contextlib.closing(log):
        try:
            options = options_for(
                invocation, path, arguments, inproc=inproc, profile=profile, terminal=True, log=log, record=record
            )
            with (
                started(invocation, path, options, signals) as running,
                watching(invocation, running) if reloads else contextlib.nullcontext(),
            ):
                if log_format == "json":
                    _say_ready(log, running)
                elif not quiet:
                    _ready(invocation, running)
                component = running.main_component()
                if component is None:
                    forwarding = None if quiet else Forwarding(running, tagged=True, as_json=log_format == "json")
                    status, text = _serve(running, signals, forwarding), ""
                elif inproc:
                    status, text = _program_here(running)
                else:
                    status, text = _program(running, signals, str(component))
        except Terminated:
            return TERMINATED
    if text:
        click.echo(text, err=True, nl=False)
    return status


def _ready(invocation: Invocation, running: Running) -> None:
    address = str(running.api.path) if running.api is not None else ""
    shards = len(running.core.records())
    notes = [*running.notes, *hazards(running.plan)]
    if invocation.json:
        told = {"ready": running.manifest.app, "shards": shards, "socket": address, "notes": notes}
        click.echo(json.dumps(told), err=True)
    else:
        for note in notes:
            click.echo(f"shardwright: {note}", err=True)
        where = f", {address}" if address else ""
        count = "1 shard" if shards == 1 else f"{shards} shards"
        click.echo(f"shardwright: {running.manifest.app} is ready, {count}{where}", err=True)


def _say_ready(log: OwnLog, running: Running) -> None:
    for note in running.notes:
        log.say("warning", note)
    for refusal in running.plan.refusals:
        log.say("warning", f"refused: {refusal.message}", code=refusal.code)
    address = str(running.api.path) if running.api is not None else ""
    log.say("info", f"{running.manifest.app} is ready", shards=len(running.core.records()), socket=address)


def _serve(running: Running, signals: Signals, forwarding: Forwarding | None) -> int:
    try:
        while signals.next(_POLL_S) is None:
            if running.lost.is_set():
                raise NodeError("the node cannot go on: its keeper died, and every shard with it")
        signals_again(signals)
        running.close()
    finally:
        if forwarding is not None:
            forwarding.close()
    return OK


def signals_again(signals: Signals) -> None:
    """Whoever presses Ctrl-C while we stop gets what the system does by default: the keeper ends everything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _program(running: Running, signals: Signals, component: str) -> tuple[int, str]:
    """Run app.main; its exit status, and what to print at the end."""
    from shardwright.model.ids import ComponentName

    name = ComponentName(component)
    forwarding = Forwarding(running)
    future: Future[Any] = running.submit(running.core.run_main(name, running.manifest.main))
    future.add_done_callback(lambda _: signals.heard.put(_DONE))
    forced: int | None = None
    end_s: float | None = None
    interrupts = 0
    try:
        while True:
            wait_s = _POLL_S if end_s is None else min(_POLL_S, end_s - time.monotonic())
            heard = signals.next(wait_s)
            if heard == _DONE:
                break
            if heard == signal.SIGINT:
                interrupts += 1
                if interrupts > 1 or not _tell(running, name, signal.SIGINT):
                    forced = INTERRUPTED
                    break
            elif heard is not None and forced is None:  # SIGTERM, SIGHUP, `shardwright stop`
                forced = TERMINATED
                end_s = time.monotonic() + (GRACE_S if _tell(running, name, signal.SIGTERM) else 0.0)
            if end_s is not None and time.monotonic() >= end_s:
                break
        if not future.done():
            signals_again(signals)
        try:
            finished = future.result(timeout=0)
        except (ShardwrightError, TimeoutError):
            if forced is None:
                raise
            return forced, ""
        return (finished.status & 0xFF if forced != TERMINATED or finished.status else forced), finished.traceback
    finally:
        running.close()
        lost = forwarding.close()
        if lost:
            click.echo(f"shardwright: {lost} lines of shards were lost: nobody read them", err=True)


def _program_here(running: Running) -> tuple[int, str]:
    """The same with everything in this process: the program has this thread, and Ctrl-C as it would without us."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    running.on_stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    try:
        finished = running.run_main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return finished.status & 0xFF, finished.traceback


def _tell(running: Running, component: Any, number: int) -> bool:
    """Send a signal to the program; False when it has no process of its own."""
    pid = running.core.main_pid(component)
    if not pid or pid == os.getpid():
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True
