"""The rules in conftest.py bite: leaks are found, skips are policed, what was exercised is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from house_coverage import UNMEASURED
from house_skips import AllowedSkip, read_allowed_skips

TESTS = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project that lives by the same conftest."""
    shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    shutil.copytree(TESTS / "support", tmp_path / "tests" / "support")
    (tmp_path / "tests" / "allowed_skips.txt").write_text("# none\n", encoding="utf-8")
    return tmp_path


def run(project: Path, code: str, *, room: str = "integration", ci: bool = False) -> subprocess.CompletedProcess[str]:
    folder = project / "tests" / room
    folder.mkdir(exist_ok=True)
    (folder / "test_planted.py").write_text(code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    environment["CI"] = "true" if ci else ""
    # Only the plugins that the configuration speaks of, and unmeasured: twenty times pytest is slow enough.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = environment[UNMEASURED] = "1"
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            "-p",
            "pytest_asyncio.plugin",
        ],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LEAKS = {
    "descriptor": ("import os\ndef test_it():\n    os.dup(0)\n", "descriptor "),
    "child": (
        "import subprocess, sys\n"
        "KEPT = []\n"
        "def test_it():\n"
        "    KEPT.append(subprocess.Popen(['sleep', '9']))\n"
        "def test_end():\n"
        "    KEPT[0].kill(); KEPT[0].wait()\n",
        "sleep 9",
    ),
    "orphan": (
        "import os, signal, subprocess\n"
        "PID = []\n"
        "def test_it():\n"
        "    told = subprocess.run(['sh', '-c', 'sleep 9 >/dev/null 2>&1 & echo $!'], stdout=subprocess.PIPE)\n"
        "    PID.append(int(told.stdout))\n"
        "def test_end():\n"
        "    os.kill(PID[0], signal.SIGKILL)\n",
        "sleep 9",
    ),
    "socket": (
        "import os, socket\n"
        "def test_it():\n"
        "    with socket.socket(socket.AF_UNIX) as left:\n"
        "        left.bind(os.environ['XDG_RUNTIME_DIR'] + '/node.sock')\n",
        "node.sock",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_what_is_left_behind_is_found(project: Path, kind: str) -> None:
    code, named = LEAKS[kind]
    result = run(project, code)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "left behind:" in result.stdout
    assert named in result.stdout


def test_a_shared_memory_file_is_found(project: Path) -> None:
    left = Path(f"/dev/shm/shardwright-planted-{os.getpid()}")
    try:
        result = run(project, f"def test_it():\n    open({str(left)!r}, 'x').close()\n")
        assert result.returncode == 1
        assert f"left behind:\n  {left}" in result.stdout
    finally:
        left.unlink(missing_ok=True)


def test_a_control_group_is_found(project: Path) -> None:
    roots = [path for path in Path("/sys/fs/cgroup").glob("*") if path.is_dir() and os.access(path, os.W_OK)]
    if not roots or os.geteuid() != 0:
        pytest.skip("control groups can only be made by root here")
    left = next((root for root in roots if root.name == "pids"), roots[0]) / f"shardwright-planted-{os.getpid()}"
    try:
        result = run(project, f"import os\ndef test_it():\n    os.mkdir({str(left)!r})\n")
        assert result.returncode == 1
        assert f"control group {left}" in result.stdout
    finally:
        if left.exists():
            left.rmdir()


def test_what_ends_within_the_grace_is_no_leak(project: Path) -> None:
    code = (
        "import subprocess\n"
        "def test_it():\n"
        "    subprocess.run(['sh', '-c', 'sleep 0.3 >/dev/null 2>&1 &'], check=True)\n"
    )
    result = run(project, code)
    assert result.returncode == 0, result.stdout + result.stderr


def test_unit_tests_pay_nothing_for_it(project: Path) -> None:
    assert run(project, LEAKS["descriptor"][0], room="unit").returncode == 0


SKIPPED = "import pytest\ndef test_it():\n    pytest.skip('no such device')\ndef test_that():\n    pass\n"
SKIPPED_MODULE = "import pytest\npytest.skip('no such device', allow_module_level=True)\n"
XFAILED = "import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False\n"


@pytest.mark.parametrize("code", [SKIPPED, SKIPPED_MODULE])
def test_an_unlisted_skip_fails_in_ci(project: Path, code: str) -> None:
    result = run(project, code, ci=True)
    assert result.returncode not in (0, 5), result.stdout
    assert "allowed_skips.txt does not list it" in result.stdout
    assert "no such device" in result.stdout


@pytest.mark.parametrize("pattern", ["tests/integration/test_planted.py::test_it", "tests/integration/*"])
def test_a_listed_skip_is_a_skip(project: Path, pattern: str) -> None:
    (project / "tests" / "allowed_skips.txt").write_text(f"{pattern}  # no such device in CI\n", encoding="utf-8")
    result = run(project, SKIPPED, ci=True)
    assert result.returncode == 0, result.stdout
    assert "1 passed, 1 skipped" in result.stdout


def test_outside_ci_a_skip_is_a_skip(project: Path) -> None:
    assert "1 passed, 1 skipped" in run(project, SKIPPED).stdout


def test_an_expected_failure_is_no_skip(project: Path) -> None:
    assert "1 xfailed" in run(project, XFAILED, ci=True).stdout


def test_what_was_exercised_is_added_up_and_printed(project: Path) -> None:
    code = (
        "def test_one(record_exercised):\n    record_exercised('calls crossed', 1200)\n"
        "def test_two(record_exercised):\n    record_exercised('calls crossed', 34)\n"
    )
    result = run(project, code)
    assert result.returncode == 0, result.stdout
    assert "1,234  calls crossed" in result.stdout


def test_warnings_and_unknown_markers_are_errors(project: Path) -> None:
    assert run(project, "import warnings\ndef test_it():\n    warnings.warn('old')\n").returncode == 1
    assert run(project, "import pytest\n@pytest.mark.nonesuch\ndef test_it():\n    pass\n").returncode != 0


# -- the list of allowed skips -----------------------------------------------------------------------------------


def test_the_list_is_readable_and_names_tests_that_exist() -> None:
    for skip in read_allowed_skips(TESTS / "allowed_skips.txt"):
        file = skip.pattern.partition("::")[0]
        assert list(TESTS.parent.glob(file)), f"allowed_skips.txt: {file} matches no file"


@pytest.mark.parametrize("line", ["tests/x.py::test_y", "tests/x.py::test_y  #", "tests/x.py::test_y # too close"])
def test_a_line_without_reason_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "skips.txt"
    path.write_text(f"# heading\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"skips\.txt:3: expected"):
        read_allowed_skips(path)


def test_parameters_of_a_test_are_taken_literally() -> None:
    skip = AllowedSkip("tests/x.py::test_y[v2-*]", "no such device")
    assert skip.covers("tests/x.py::test_y[v2-root]")
    assert not skip.covers("tests/x.py::test_yv")
