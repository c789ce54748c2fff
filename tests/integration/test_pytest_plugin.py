"""``pytest --shardwright``: the same tests, with the same outcome, sharded and not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from plugin_apps import SHOP_TESTS, write_shop

pytest_plugins = ("pytester",)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# ours alone where nothing else matters: loading all that is installed takes longer than most of these runs
ALONE = ("-p", "shardwright.testing._plugin")
# What is installed beside it, which takes seconds to import and has no part in these tests.
WITHOUT = tuple(
    word for name in ("faker", "schemathesis", "hypothesispytest", "anyio") for word in ("-p", f"no:{name}")
)
MODES = {"processes": ("--shardwright",), "inproc": ("--shardwright", "--shardwright-inproc")}


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process of its own, in the folder of the test."""

    def run(*args: str) -> pytest.RunResult:
        alone = WITHOUT if "-n" in args else ALONE
        with pytest.MonkeyPatch.context() as patch:
            if alone is ALONE:
                patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return pytester.runpytest_subprocess(*alone, *args, timeout=100)

    return run


def test_the_tests_of_a_project_pass_as_before(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    record_exercised: Callable[[str, int], None],
) -> None:
    write_shop(pytester.path, test_shop=SHOP_TESTS)
    plain = run("-q").parseoutcomes()
    assert set(plain) == {"passed"}
    for mode in MODES.values():
        assert run("-q", *mode).parseoutcomes() == plain
        record_exercised("tests of a project run against its shards", plain["passed"])


@pytest.mark.parametrize("example", ["arena", "pressroom"])
def test_the_tests_of_the_examples_pass_as_before(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    record_exercised: Callable[[str, int], None],
    example: str,
) -> None:
    shutil.copytree(EXAMPLES / example, pytester.path, dirs_exist_ok=True)
    plain = run("-q", "-p", "no:cacheprovider").parseoutcomes()
    assert set(plain) == {"passed"}
    for mode in MODES.values():
        assert run("-q", "-p", "no:cacheprovider", *mode).parseoutcomes() == plain
        record_exercised("tests of an example run against its shards", plain["passed"])


def test_calls_reach_shards_and_sessions_are_of_tests(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    write_shop(
        pytester.path,
        test_where="""
        import os, pickle, sys, threading
        from shop import cart, store
        from shop.models import Item

        def test_in_a_shard(node, session):
            assert store.whereabouts() != os.getpid()
            assert store.whereabouts() in {shard.pid for shard in node.shards()}
            assert session.call("store.whereabouts") == store.whereabouts()

        def test_nothing_of_a_component_is_imported_here():
            assert "os" not in vars(store) and "threading" not in vars(store)
            assert Item is sys.modules["shop.models"].Item

        def test_a_session():
            assert cart.put("a") == ["a"]

        def test_another():
            assert cart.put("b") == ["b"]

        def test_from_a_thread():
            found = []
            thread = threading.Thread(target=lambda: found.append(cart.put("c")))
            thread.start()
            thread.join()
            assert found == [["c"]] and cart.put("d") == ["c", "d"]

        def test_state_that_sessions_share():
            store.add("rope", 1)

        def test_is_there_afterwards():
            assert "rope" in store.items
        """,
    )
    run("-q", "--shardwright").assert_outcomes(passed=7)
    # one session for all tests of a file: what each put in is there for the next
    result = run("-q", "--shardwright", "--shardwright-session=module")
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(["FAILED *test_another*", "FAILED *test_from_a_thread*"])


def test_fresh_shards(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(
        pytester.path,
        test_fresh="""
        import pytest
        from shop import orders, store

        pids = set()

        @pytest.mark.parametrize("number", range(4))
        def test_alone(number):
            pids.add(store.whereabouts())
            assert store.add(f"apple-{number}", 1) == 1
            assert orders.order(f"apple-{number}") == 5

        def test_each_had_its_own():
            assert len(pids) == 4
        """,
    )
    run("-q", "--shardwright", "--shardwright-fresh").assert_outcomes(passed=5)
    run("-q", "--shardwright").assert_outcomes(passed=1, failed=4)


def test_without_the_flag_it_imports_nothing(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            ours = {name for name in sys.modules if name.partition(".")[0] == "shardwright"}
            assert ours == {"shardwright", "shardwright.testing", "shardwright.testing._plugin"}
            assert "msgspec" not in sys.modules and "psutil" not in sys.modules
        """
    )
    run("-q").assert_outcomes(passed=1)


@pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")
def test_each_worker_has_a_node(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(
        pytester.path,
        conftest="from shop import store",
        test_one="from shop import store\ndef test_one(): assert store.add('a', 1) == 1",
        test_two="from shop import store\ndef test_two(): assert store.add('b', 1) == 1",
    )
    run("-q", "--shardwright", "-n", "2", "--dist", "loadfile").assert_outcomes(passed=2)


@pytest.mark.skipif(find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
def test_tests_of_pytest_asyncio(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(
        pytester.path,
        test_async="""
        import asyncio
        from unittest import mock
        import pytest
        import pytest_asyncio
        from shop import store

        @pytest_asyncio.fixture
        async def apple():
            with mock.patch("shop.store._get", mock.AsyncMock(return_value="apple")):
                yield await store.fetch("apple")

        @pytest.mark.asyncio
        async def test_awaited(apple):
            assert await asyncio.gather(*(store.fetch("x") for _ in range(5))) == [apple] * 5
        """,
    )
    run(
        "-q", "-p", "pytest_asyncio.plugin", "--shardwright", "-o", "asyncio_default_fixture_loop_scope=function"
    ).assert_outcomes(passed=1)
