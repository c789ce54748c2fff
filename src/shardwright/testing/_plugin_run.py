"""One sharded test run: the hooks that pytest calls while it lasts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from shardwright.errors import ShardwrightError
from shardwright.guest import Caller, Chains, Proxies, Router
from shardwright.model.ids import ComponentName
from shardwright.node import Session
from shardwright.testing import _plugin_fixtures
from shardwright.testing._plugin_fixtures import RUN
from shardwright.testing._plugin_modules import CommonModules, TestFinder
from shardwright.testing._plugin_node import TestNode, TestSession
from shardwright.testing._plugin_traces import tidy

MANIFEST = "shardwright.toml"


def begin(config: pytest.Config) -> None:
    """Take over the application's modules before anything imports them. Raises UsageError."""
    options = config.known_args_namespace
    manifest = _manifest(config, options.shardwright_manifest)
    run = ShardedRun(config, manifest)
    early = sorted(run.finder.modules & sys.modules.keys())
    if early:
        raise pytest.UsageError(
            f"--shardwright: {', '.join(early)} was imported before the tests were collected, so it would be tested "
            "uncut; do not import the application in a plugin that is named by -p or by an entry point"
        )
    run.finder.install()
    root = run.node.plan.root
    if root not in sys.path:
        sys.path.append(root)  # common modules, which the codec needs
    config.pluginmanager.register(run, RUN)
    config.pluginmanager.register(_plugin_fixtures, "shardwright-fixtures")


def _manifest(config: pytest.Config, given: str | None) -> Path:
    if given is not None:
        path = Path(config.invocation_params.dir, given)
        if not path.exists():
            raise pytest.UsageError(f"--shardwright-manifest: there is no {path}")
        return path
    starts = [Path(config.invocation_params.dir, str(arg).partition("::")[0]) for arg in _paths(config)]
    starts += [config.invocation_params.dir, config.rootpath]
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / MANIFEST).is_file():
                return folder / MANIFEST
    raise pytest.UsageError(
        f"--shardwright: no {MANIFEST} in {config.rootpath} or above it; name one with --shardwright-manifest, or "
        "let `shardwright init` propose one"
    )


def _paths(config: pytest.Config) -> list[str]:
    given = getattr(config.known_args_namespace, "file_or_dir", None) or config.getini("testpaths") or []
    return [str(each) for each in given]


class ShardedRun:
    """The plugin of a run with ``--shardwright``."""

    def __init__(self, config: pytest.Config, manifest: Path) -> None:
        options = config.known_args_namespace
        self._scope: str = options.shardwright_session
        self._fresh: bool = options.shardwright_fresh
        self._collecting = False
        try:
            self.node = TestNode(
                manifest,
                inproc=options.shardwright_inproc,
                profile=options.shardwright_profile,
                failed=self._not_started,
            )
        except ShardwrightError as error:
            raise pytest.UsageError(f"--shardwright: {_words(error)}") from None
        self._controls = _controls_workers(config)
        proxies = (lambda: _nobody(self.node)) if self._controls else self.node.proxies
        self.finder = TestFinder(self.node.plan, proxies, self.node.bench, self.node.mirrors)
        self._common = CommonModules(self.node.plan, self.node.bench)
        self._wide: dict[pytest.Item | pytest.Collector, TestSession] = {}
        self._run_wide = TestSession(self.node, "tests")
        self._stack: list[TestSession] = [self._run_wide]
        self.node.whose = lambda: self._stack[-1]

    # -- the run -----------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        node = self.node
        components = ", ".join(definition.component for definition in node.plan.definitions)
        return f"shardwright: {node.manifest}{', inproc' if node.inproc else ''}, components: {components}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """The node starts here, if no conftest has needed it: whatever hinders it ends the run with one message."""
        self._collecting = True
        if not self._controls:
            self.node.running()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Shards end before coverage is combined, which pytest-cov does when this hook is over."""
        try:
            return (yield)
        finally:
            self.node.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        self.node.close()
        if self.finder in sys.meta_path:
            self.finder.remove()

    def _not_started(self, error: ShardwrightError) -> NoReturn:
        text = f"the application could not be started as shards: {_words(error)}"
        if self._collecting:
            pytest.exit(text, returncode=pytest.ExitCode.USAGE_ERROR)
        raise pytest.UsageError(text) from None

    # -- sessions ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._common.open()
        bench = self.node.bench()
        mark = bench.newest() if bench is not None else 0
        own = self._session_of(self._scope, item, item)
        self._stack.append(own)
        self.node.output.forget()
        try:
            return (yield)
        finally:
            self.node.mirrors.push()
            self._stack.remove(own)
            ending = [own] if self._scope == "function" else []
            for node in [node for node in self._wide if nextitem is None or node not in nextitem.listchain()]:
                ending.append(self._wide.pop(node))
            self._end(ending)
            self.node.mirrors.pull()
            bench = self.node.bench()
            if bench is not None:
                bench.forget_since(mark)

    def _session_of(self, scope: str, node: Any, item: pytest.Item) -> TestSession:
        """The session of a test, or of a fixture that outlives it."""
        if scope == "module":
            node = item.getparent(pytest.Module) or item.session
        elif scope == "session":
            node = item.session
        if isinstance(node, pytest.Session):
            return self._run_wide
        if scope == "function":
            return TestSession(self.node, node.nodeid)
        return self._wide.setdefault(node, TestSession(self.node, node.nodeid))

    def _end(self, sessions: list[TestSession]) -> None:
        bench = self.node.bench()
        if bench is None:
            return
        for session in sessions:
            session.end()
        if self._fresh:
            lasting = [self._run_wide, *self._wide.values()]
            bench.replace(_used(sessions), keep=_used(lasting))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture that outlives its test has a session that does so, while it is set up and while it is torn down."""
        node = request.node
        if fixturedef.scope == "function" or not isinstance(node, pytest.Collector):
            return (yield)
        if self._scope != "function" and fixturedef.scope == "class":
            return (yield)
        if isinstance(node, pytest.Session | pytest.Package) or self._scope == "session":
            wide = self._run_wide
        else:
            wide = self._wide.setdefault(node, TestSession(self.node, node.nodeid))
        turn = _Turn(self._stack, wide)
        bench = self.node.bench()
        mark = bench.newest() if bench is not None else 0
        fixturedef.addfinalizer(turn.leave)  # the last of its finalizers
        turn.enter()
        try:
            return (yield)
        finally:
            turn.leave()
            fixturedef.addfinalizer(turn.enter)  # the first
            bench = self.node.bench()
            if bench is not None:
                bench.keep_since(mark)

    # -- reports -----------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        self.node.hear()
        if call.excinfo is not None and not item.config.getoption("fulltrace", False):
            tidy(call.excinfo)
        report = yield
        said = self.node.output.kept()
        if report.failed and said:
            report.sections.append((f"Captured shards {report.when}", said))
        return report

    def current_session(self) -> Session:
        """The Shardwright session of what runs now."""
        return self._stack[-1].session()


class _Turn:
    """While a fixture's own code runs, calls are made in its session."""

    def __init__(self, stack: list[TestSession], session: TestSession) -> None:
        self._stack = stack
        self._session = session
        self._entered = False

    def enter(self) -> None:
        self._stack.append(self._session)
        self._entered = True

    def leave(self) -> None:
        if self._entered:
            self._entered = False
            for index in reversed(range(len(self._stack))):
                if self._stack[index] is self._session and index:
                    del self._stack[index]
                    break


class _NoNode:
    """The binder of a process that distributes tests and runs none."""

    def bind(self, *_: object) -> NoReturn:
        raise pytest.UsageError(
            "the process that hands tests to workers has no shards: call them in tests and fixtures"
        )

    release = why = bind


def _nobody(node: TestNode) -> Proxies:
    return Proxies(node.plan, Caller(Router(_NoNode()), Chains(), None))


def _controls_workers(config: pytest.Config) -> bool:
    """Whether pytest-xdist runs the tests in other processes."""
    options: Callable[..., Any] = lambda name: getattr(config.known_args_namespace, name, None)  # noqa: E731
    return bool(options("numprocesses") or options("tx")) and "PYTEST_XDIST_WORKER" not in os.environ


def _used(sessions: list[TestSession]) -> frozenset[ComponentName]:
    return frozenset(component for session in sessions for component in session.used)


def _words(error: ShardwrightError) -> str:
    """The error with all that it knows, as the command line shows it."""
    trace = getattr(error, "user_traceback", "")
    return f"{error}\n{trace}" if trace else str(error)
