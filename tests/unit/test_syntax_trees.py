"""Trees of source text while other threads make some too."""

from __future__ import annotations

import ast
import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from shardwright._syntax import expression, parsed

SOURCE = "def f(a):\n    return " + "(" * 40 + "a" + ")" * 40 + "\n" + "x = [[[1, {2: (3, 4)}]]]\n" * 30


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can, and collections strike within trees."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-4)
    gc.set_threshold(50)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def _failures(parse: Callable[[str], object], threads: int = 4, times: int = 60) -> int:
    failed: list[BaseException] = []

    def work() -> None:
        for _ in range(times):
            try:
                parse(SOURCE)
            except SystemError as error:
                failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(failed)


def test_threads_that_parse_at_once_get_their_trees(hasty: None, record_exercised: Callable[[str, int], None]) -> None:
    plain = _failures(ast.parse)
    assert _failures(parsed) == 0
    record_exercised("trees that this interpreter failed to make in threads", plain)
    record_exercised("trees made in threads", 240)


def test_another_attempt_follows_that_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["AST constructor recursion depth mismatch (before=63, after=85)"] * 2
    real = ast.parse

    def fails(*args: object) -> object:
        if said:
            raise SystemError(said.pop())
        return real(*args)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:  # pytest parses, too, where it reports
        patched.setattr(ast, "parse", fails)
        with contextlib.suppress(SystemError):
            found = parsed("a = 1")
        left = len(said)
        said = ["something else"]
        with pytest.raises(SystemError, match="something else"):
            expression("1")
        with pytest.raises(SyntaxError):
            parsed("a =")
    assert left == 0 and ast.dump(found) == ast.dump(real("a = 1"))
