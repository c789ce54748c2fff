"""The build path is settled: wheel, sdist, and an installation where nothing can compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from shardwright._version import VERSION

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    "*.so", "__pycache__", "*.egg-info", ".venv*", ".git", "build", "dist", ".*_cache", ".coverage*"
)
CAN_COMPILE = shutil.which(os.environ.get("CC", "cc")) and Path(sysconfig.get_path("include"), "Python.h").exists()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", "PIP_NO_INPUT": "1", "PIP_NO_INDEX": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what a build reads."""
    copy = tmp_path_factory.mktemp("checkout") / "shardwright"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    (copy / "README.md").touch()
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, cwd=checkout)
    (archive,) = out.glob("*.tar.gz")
    return archive


def unpack(sdist: Path, target: Path) -> Path:
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # not in the first versions of 3.11
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(target)
    (tree,) = target.iterdir()
    return tree


def build_wheel(tree: Path, out: Path, **environment: str) -> tuple[Path, str]:
    result = run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, cwd=tree, **environment)
    (wheel,) = out.glob("*.whl")
    return wheel, result.stdout + result.stderr


def test_sdist_holds_what_is_needed_to_build_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "pyproject.toml",
        "setup.py",
        "requirements/run.txt",
        "scripts/test",
        "src/shardwright/py.typed",
        "src/shardwright/transport/shm/_ring.c",
        "src/shardwright/transport/shm/_ring.pyi",
        "src/shardwright/transport/codec/_native.c",
        "src/shardwright/transport/codec/_native.h",
        "src/shardwright/transport/codec/_native.pyi",
        "src/shardwright/transport/codec/_native_read.c",
        "tests/conftest.py",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.skipif(not CAN_COMPILE, reason="no C compiler or no Python.h")
def test_wheel_is_of_the_stable_abi_and_holds_no_sources(sdist: Path, tmp_path: Path) -> None:
    wheel, _ = build_wheel(unpack(sdist, tmp_path / "tree"), tmp_path / "out", SHARDWRIGHT_REQUIRE_EXTENSION="1")
    assert wheel.name.startswith(f"shardwright-{VERSION}-cp311-abi3-linux_"), "the version that a node tells"
    extension = "shardwright/transport/shm/_ring.abi3.so"
    extensions = {extension: "PyInit__ring", "shardwright/transport/codec/_native.abi3.so": "PyInit__native"}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in extensions:
            archive.extract(name, tmp_path)
    assert {*extensions, "shardwright/py.typed", "shardwright/transport/shm/_ring.pyi"} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".h", ".pyc")) or name.startswith("tests/")]

    for name, entry in extensions.items():
        symbols = run("nm", "--dynamic", "--defined-only", tmp_path / name, cwd=tmp_path).stdout.split()
        assert [symbol for symbol in symbols[2::3] if not symbol.startswith("_")] == [entry]

    spec = importlib.util.spec_from_file_location("_ring", tmp_path / extension)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    os.close(module.create_memfd("from-the-wheel", 1))


def installed_without_compiler(tree: Path, home: Path) -> tuple[Path, str]:
    """A fresh virtual environment with the package; its dependencies come from the environment of the tests."""
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    wheel, log = build_wheel(tree, home / "wheel", CC="/bin/false")
    target = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).stdout.strip()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=home)
    Path(target, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python, log


def test_it_installs_without_a_compiler_and_says_so(sdist: Path, tmp_path: Path) -> None:
    python, log = installed_without_compiler(unpack(sdist, tmp_path / "tree"), tmp_path / "home")
    assert "was not built: shared-memory channels are off" in log
    program = "from shardwright.transport import shm; print(shm.__file__, shm.available(), shm.reason(), sep='|')"
    file, available, reason = run(python, "-I", "-c", program, cwd=tmp_path).stdout.strip().split("|")
    assert Path(file).is_relative_to(tmp_path / "home")
    assert available == "False"
    assert "was not built" in reason
    assert "_native was not built: values are written and read in Python" in log
    program = (
        "from shardwright.transport import TaggedCodec; c = TaggedCodec(); p, b, _ = c.encode_request([1, {'a': (2,)}]); "
        "print(type(c._form).__name__, c.decode_request(p, b)[0])"
    )
    assert run(python, "-I", "-c", program, cwd=tmp_path).stdout == "PythonForm [1, {'a': (2,)}]\n"
    for name, text in SMALL_APPLICATION.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    said = run(python, "-I", "-c", USE_IT, tmp_path, tmp_path / "state", cwd=tmp_path).stdout
    assert said == "[0, 2, 4] [1, 2] front:socket back:socket\n"


SMALL_APPLICATION = {
    "shardwright.toml": '[app]\nname = "small"\n[components.front]\ncode = "front"\n[components.back]\ncode = "back"\n'
    '[policy]\nnode_grace = "0s"\n',
    "front.py": "import back\ndef ask(n):\n    return [back.double(k) for k in range(n)], list(back.some())\n",
    "back.py": "def double(k):\n    return 2 * k\ndef some():\n    yield 1\n    yield 2\n",
}
USE_IT = """
import sys, shardwright
with shardwright.start(sys.argv[1], state=sys.argv[2]) as node, node.session("one") as session:
    answer = session.call("front.ask", 3)
    print(*answer, *sorted((f"{shard.component}:{shard.transport}" for shard in node.shards()), reverse=True))
"""


def test_a_release_build_does_not_lose_the_extension_silently(sdist: Path, tmp_path: Path) -> None:
    tree = unpack(sdist, tmp_path / "tree")
    with pytest.raises(AssertionError, match="/bin/false"):
        build_wheel(tree, tmp_path / "out", CC="/bin/false", SHARDWRIGHT_REQUIRE_EXTENSION="1")
