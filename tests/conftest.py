"""The house rules that every test lives by.

* Tests of the real thing leave nothing behind: descriptors, processes, control groups, shared memory, sockets.
* In continuous integration a skip is a failure unless ``allowed_skips.txt`` lists it with its reason.
* A test that says it met a hundred kills or ten thousand calls records the number, and the summary prints it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from containers import docker_daemon
from house_leaks import Inventory, adopt_orphans, settle
from house_skips import allowed, read_allowed_skips

HERE = Path(__file__).parent
LEAK_CHECKED = tuple(
    str(HERE / name) for name in ("conformance", "integration", "fault", "e2e", "security", "unit/node")
)
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
EXERCISED = pytest.StashKey[dict[str, int]]()

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if IN_CI else "dev")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[EXERCISED] = {}
    adopt_orphans()
    hear_interrupts()


def hear_interrupts() -> None:
    """A script that runs this with ``&`` has it ignore both, and all that it starts: tests of Ctrl-C could never pass."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: what takes long is then not what all workers but one wait for at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# -- skips -----------------------------------------------------------------------------------------------------


def _police(report: Report, skips_file: Path) -> Report:
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and not allowed(report.nodeid, read_allowed_skips(skips_file))
    ):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and {skips_file.name} does not list it.\n{why}"
    return report


def _skips_file(config: pytest.Config) -> Path:
    return config.rootpath / "tests" / "allowed_skips.txt"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if hasattr(item.config, "workeroutput"):  # pytest-xdist sends reports as UTF-8, and our programs print what is not
        report.sections = [(head, text.encode(errors="backslashreplace").decode()) for head, text in report.sections]
    return _police(report, _skips_file(item.config)) if IN_CI else report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _police(report, _skips_file(collector.config)) if IN_CI else report


# -- what was really exercised -----------------------------------------------------------------------------------


@pytest.fixture
def record_exercised(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """``record_exercised(name, count)`` adds to a number that the summary prints, e.g. kills that hit a call."""
    totals = request.config.stash[EXERCISED]

    def record(name: str, count: int = 1) -> None:
        totals[name] = totals.get(name, 0) + count

    return record


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # there in a worker of pytest-xdist
    if output is not None:
        output["exercised"] = session.config.stash[EXERCISED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker is done: what its tests exercised counts."""
    totals = node.config.stash[EXERCISED]
    for name, count in getattr(node, "workeroutput", {}).get("exercised", {}).items():
        totals[name] = totals.get(name, 0) + count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    totals = config.stash[EXERCISED]
    if totals:
        terminalreporter.section("really exercised")
        for name, count in sorted(totals.items()):
            terminalreporter.write_line(f"{count:>12,}  {name}")


# -- nothing is left behind --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runtime_directory() -> Iterator[Path]:
    """A private ``XDG_RUNTIME_DIR`` for this run, with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="swt-", dir="/tmp"))
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(path)
    try:
        yield path
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_address() -> Iterator[str]:
    """Of a Docker daemon of this run's own."""
    with docker_daemon() as address:
        yield address


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test of the real thing that leaves something behind (after 2 s of grace)."""
    if not str(request.path).startswith(LEAK_CHECKED):
        yield
        return
    runtime: Path = request.getfixturevalue("runtime_directory")
    before = Inventory.take(runtime)
    yield
    found = settle(before, runtime)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)
