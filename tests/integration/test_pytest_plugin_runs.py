"""A run with ``--shardwright`` from outside: what it reports, measures, refuses, and leaves behind (nothing)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_apps import SHOP_TESTS, write_shop

pytest_plugins = ("pytester",)
# ours alone where nothing else matters: loading all that is installed takes longer than most of these runs
ALONE = ("-p", "shardwright.testing._plugin")
# What is installed beside it, which takes seconds to import and has no part in these tests.
WITHOUT = tuple(
    word for name in ("faker", "schemathesis", "hypothesispytest", "anyio") for word in ("-p", f"no:{name}")
)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    def run(*args: str) -> pytest.RunResult:
        alone = WITHOUT if "-n" in args else ALONE
        with pytest.MonkeyPatch.context() as patch:
            if alone is ALONE:
                patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return pytester.runpytest_subprocess(*alone, *args, timeout=100)

    return run


@pytest.fixture(autouse=True)
def nothing_in_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert [path.name for path in folder.iterdir() if path.name.startswith("shardwright")] == []


def test_a_failure_shows_both_sides(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(
        pytester.path,
        test_fails="""
        from shop import orders, store

        def test_fails():
            print("in the test")
            orders.place("rope")

        def test_passes():
            store.add("pear", 1)
        """,
    )
    result = run("-q", "--shardwright")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       orders.place("rope")',
            "shop/orders.py:*: in place",
            "shop/store.py:*: in notify",
            '>   raise OSError("no network")',
            "*Captured stdout call*",
            "in the test",
            "added rope",
            "*Captured shards call*",
            "store-* stdout: added rope",
        ]
    )
    result.stdout.no_fnmatch_line("*shardwright/guest*")
    result.stdout.no_fnmatch_line("*added pear*")


def test_the_debugger_opens_where_the_shard_failed(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    write_shop(pytester.path, test_fails="from shop import store\ndef test_fails():\n    store.notify('x')\n")
    command = [sys.executable, "-m", "pytest", *WITHOUT, "--shardwright", "-x", "--pdb"]
    done = subprocess.run(
        command,
        cwd=pytester.path,
        input="p 6 * 7\nup\nup\nq\n",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2 or done.returncode == 1, done.stdout + done.stderr
    assert "store.py" in done.stdout and "(Pdb) 42" in done.stdout
    assert 'raise OSError("no network")' in done.stdout


@pytest.mark.parametrize("where", ["in the test", "in a shard"])
def test_ctrl_c_leaves_nothing(pytester: pytest.Pytester, where: str) -> None:
    write_shop(
        pytester.path,
        test_slow=f"""
        import time
        from pathlib import Path
        import pytest
        from shop import store

        def wait(text):
            Path("waits").touch()
            time.sleep(60)

        def test_slow(monkeypatch):
            monkeypatch.setattr(store, "_send", wait)
            {"store.notify('x')" if where == "in a shard" else "store.price; wait('x')"}
        """,
    )
    os.mkfifo(pytester.path / "begun")
    (pytester.path / "tests" / "conftest.py").write_text(
        "from pathlib import Path\ndef pytest_runtest_call(item):\n    Path('begun').write_text('yes')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *WITHOUT, "--shardwright"],
        cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert (pytester.path / "begun").read_text() == "yes"  # opens when the test begins
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output


def test_no_manifest(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile("def test(): pass")
    result = run("--shardwright")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --shardwright: no shardwright.toml in * or above it*"])
    result = run("--shardwright", "--shardwright-manifest", "nowhere.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --shardwright-manifest: there is no *nowhere.toml"])


def test_a_manifest_with_a_mistake(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(pytester.path, test_shop=SHOP_TESTS)
    manifest = pytester.path / "shardwright.toml"
    manifest.write_text(manifest.read_text().replace('"session"', '"sesion"'))
    result = run("--shardwright")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*components.cart.scope*did you mean 'session'*"])


@pytest.mark.parametrize("conftest", ["", "from shop import store"])
def test_a_component_that_does_not_import(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], conftest: str
) -> None:
    write_shop(pytester.path, test_shop=SHOP_TESTS, conftest=conftest)
    with (pytester.path / "shop" / "store.py").open("a") as source:
        source.write('raise RuntimeError("broken")\n')
    result = run("--shardwright")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = str(result.stdout) + str(result.stderr)
    assert "component store cannot be imported: importing shop.store raised RuntimeError: broken" in said
    assert "shop/store.py" in said


def test_an_application_that_was_imported_too_early(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shop(pytester.path, test_shop=SHOP_TESTS)
    (pytester.path / "early.py").write_text("import shop.store\n")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    result = run("--shardwright", "-p", "early")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*shop.store was imported before the tests were collected*"])


def test_it_serves_nothing(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    write_shop(pytester.path, test_price="from shop import store\ndef test_it(): assert store.add('a', 1) == 1")
    with socket.create_server(("127.0.0.1", 0)) as taken, (pytester.path / "shardwright.toml").open("a") as manifest:
        port = taken.getsockname()[1]
        manifest.write(f'\n[gateway]\nbind = "127.0.0.1:{port}"\n[[routes]]\npath = "/price"\ncall = "store.price"\n')
        manifest.flush()
        run("-q", "--shardwright").assert_outcomes(passed=1)
