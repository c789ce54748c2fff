"""The node of a test run: started with the first generated module, its sessions, and what its shards said."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.guest import CallContext, Proxies, Testing
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ShardPlan
from shardwright.node import Bench, LogLine, Node, Options, Running, Session, plan
from shardwright.testing._plugin_mirrors import Mirrors

KEPT_LINES = 1000  # of what shards said during one test


class TestNode:
    """Starts on first use, and once; ``failed`` is called with what hindered it, and must raise."""

    __test__ = False

    def __init__(
        self, manifest: Path, *, inproc: bool, profile: str | None, failed: Callable[[ShardwrightError], Any]
    ) -> None:
        self.manifest = manifest
        self.inproc = inproc
        self.profile = profile
        self.plan: ShardPlan = plan(manifest, profile=profile, environment=dict(os.environ))
        self.output = Output()
        self.mirrors = Mirrors(self.bench)
        self._failed = failed
        self._failure: ShardwrightError | None = None
        self._running: Running | None = None
        self._state: str | None = None
        self._mutex = threading.RLock()
        self._closed = False
        self.whose: Callable[[], TestSession] = lambda: TestSession(self, "tests")

    def __repr__(self) -> str:
        return f"<TestNode of {self.manifest}, {'running' if self._running else 'not started'}>"

    @property
    def started(self) -> Running | None:
        """The node, if it runs."""
        return self._running

    def bench(self) -> Bench | None:
        """Its bench, if it runs."""
        return self._running.bench if self._running is not None else None

    def running(self) -> Running:
        """The node, started if need be."""
        with self._mutex:
            if self._failure is not None:
                self._failed(self._failure)
            if self._running is None:
                try:
                    self._running = self._start()
                except ShardwrightError as failure:
                    self._failure = failure
                    self._forget_state()
                    self._failed(failure)
            assert self._running is not None
            return self._running

    def proxies(self) -> Proxies:
        return self.running().bench.proxies

    def node(self) -> Node:
        return Node(self.running())

    def _start(self) -> Running:
        self._state = tempfile.mkdtemp(prefix="shardwright-test-")
        testing = Testing("" if self.inproc else _coverage_configuration())
        options = Options(self.inproc, self.profile, None, Path(self._state), testing=testing, api=False)
        running = Running(self.manifest, options)
        running.bench.act_for(lambda: self.whose().context(), lambda component: self.whose().used.add(component))
        if not self.inproc:
            running.core.logs.subscribe(self.output.line)
        running.bench.around_calls(self.mirrors.push, self._after_call)
        return running

    def _after_call(self) -> None:
        self.hear()
        self.mirrors.pull()

    def hear(self) -> None:
        """Pass on what shards have said by now: prints to our streams, log records to our loggers."""
        running = self._running
        if running is None or self.inproc:
            return
        with contextlib.suppress(ShardwrightError):
            running.submit(_drain(running)).result()
        self.output.deliver()

    def close(self) -> None:
        """End the node; nothing remains. Idempotent; may be interrupted and called again."""
        with self._mutex:
            self._closed = True
            running = self._running
            if running is not None:
                running.close()
                self.output.deliver()
                running.bench.close()
                self._running = None
            self._forget_state()

    def _forget_state(self) -> None:
        if self._state is not None:
            shutil.rmtree(self._state, ignore_errors=True)
            self._state = None


async def _drain(running: Running) -> None:
    running.core.logs.drain()


class TestSession:
    """A Shardwright session that begins when it is first used: most tests use one component or two."""

    __test__ = False

    def __init__(self, node: TestNode, name: str) -> None:
        self._node = node
        self._name = name
        self._session: Session | None = None
        self.used: set[ComponentName] = set()  # components that the test process called in it

    def __repr__(self) -> str:
        return f"<TestSession {self._name}, {'begun' if self._session else 'not begun'}>"

    def session(self) -> Session:
        if self._session is None:
            running = self._node.running()
            live = running.submit(running.core.begin_session(self._name, {}, components=())).result()
            self._session = Session(running, live)
        return self._session

    def context(self) -> CallContext:
        return self.session().context()

    def end(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._node.started is not None:
            session.end()


class Output:
    """What shards printed and logged: passed on to this process's streams and loggers, and kept for reports."""

    def __init__(self) -> None:
        self._waiting: deque[LogLine] = deque()
        self._records: dict[str, str] = {}  # the beginning of a long record, by shard
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._mutex = threading.Lock()

    def line(self, line: LogLine) -> None:
        """A line arrives, on the node's loop."""
        self._waiting.append(line)

    def forget(self) -> None:
        """What was kept belongs to a test that is over."""
        self._kept.clear()

    def kept(self) -> str:
        return "\n".join(self._kept)

    def deliver(self) -> None:
        """On the thread whose streams and loggers are meant: the test's."""
        if not self._mutex.acquire(blocking=False):
            return  # a handler that calls a shard itself: whoever delivers goes on after it
        try:
            while self._waiting:
                self._one(self._waiting.popleft())
        finally:
            self._mutex.release()

    def _one(self, line: LogLine) -> None:
        if line.stream == "record":
            text = self._records.pop(line.shard, "") + line.text
            if line.partial:
                self._records[line.shard] = text
            else:
                self._record(line.shard, text)
            return
        self._kept.append(f"{line.shard} {line.stream}: {line.text}")
        if line.stream in ("stdout", "stderr"):
            stream = sys.stdout if line.stream == "stdout" else sys.stderr
            with contextlib.suppress(OSError, ValueError):
                stream.write(line.text if line.partial else f"{line.text}\n")

    def _record(self, shard: str, text: str) -> None:
        try:
            attributes = json.loads(text)
            level, name = int(attributes["levelno"]), str(attributes["name"])
        except (ValueError, KeyError, TypeError):
            return
        logger = logging.getLogger(name)
        if logger.isEnabledFor(level):
            self._kept.append(f"{shard} {attributes.get('levelname')} {name}: {attributes.get('msg')}")
            logger.handle(logging.makeLogRecord(dict(attributes, args=None, shard=shard)))


def _coverage_configuration() -> str:
    """How shards shall measure, if this process does; empty if it does not."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        return ""
    try:
        config = current.config.copy()
        config.patch = []  # guests end and fork in ways of their own
        return str(config.serialize())
    except AttributeError:
        warnings.warn("lines that run in shards are not measured: that needs coverage 7.13 or later", stacklevel=1)
        return ""
