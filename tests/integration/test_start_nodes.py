"""What a shard begins its life with: randomness, environment, descriptors, limits and a log of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import journal_rows, running, write_application
from shardwright.errors import CallError, ShardLost

MANIFEST = """
    [app]
    name = "starts"
    root = "."
    [components.odd]
    code = "odd"
    scope = "session"
    state = "memory"
    start = "START"
    warm = { min = 0, max = 4 }
    EXTRA
"""


def application(folder: Path, source: str, *, start: str = "template", extra: str = "", **modules: str) -> Path:
    manifest = MANIFEST.replace("START", start).replace("EXTRA", extra)
    return write_application(folder / "app", manifest, odd=source, **modules)


def eventually(holds: Callable[[], bool], timeout_s: float = 8.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def from_siblings(node: Any, target: str, count: int = 4) -> list[Any]:
    """The answer of that many shards that live at the same time."""
    sessions = [node.session(f"s{i}") for i in range(count)]
    try:
        return [session.call(target) for session in sessions]
    finally:
        for session in sessions:
            session.end()


RANDOM = """
    import os, random, ssl, tempfile, uuid, secrets
    PLANT
    ssl.RAND_bytes(4)
    tempfile.gettempdir()
    next(tempfile._get_candidate_names())
    def draw():
        import sys
        found = {
            "random": random.random(),
            "ssl": ssl.RAND_bytes(16).hex(),
            "uuid4": str(uuid.uuid4()),
            "uuid1": str(uuid.uuid1()),
            "tempfile": next(tempfile._get_candidate_names()),
            "secrets": secrets.token_hex(8),
            "system": random.SystemRandom().random(),
            "own": random.Random().random(),
        }
        if "numpy" in sys.modules:
            import numpy
            found["numpy"] = float(numpy.random.random())
        return found
"""


def test_siblings_draw_different_random_numbers(tmp_path: Path) -> None:
    with running(application(tmp_path, RANDOM.replace("PLANT", "pass"))) as node:
        drawn = from_siblings(node, "odd.draw")
        assert {shard.start for shard in node.shards()} <= {"template"}
    for name in drawn[0]:
        assert len({found[name] for found in drawn}) == len(drawn), name


def test_siblings_draw_different_random_numbers_with_numpy(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    with running(application(tmp_path, RANDOM.replace("PLANT", "import numpy"))) as node:
        drawn = from_siblings(node, "odd.draw", 3)
    assert len({found["numpy"] for found in drawn}) == len(drawn)


def test_a_seed_that_the_program_chose_is_kept(tmp_path: Path) -> None:
    with running(application(tmp_path, RANDOM.replace("PLANT", "random.seed(7)"))) as node:
        drawn = from_siblings(node, "odd.draw", 3)
    assert len({found["random"] for found in drawn}) == 1
    assert len({found["ssl"] for found in drawn}) == 3


ENVIRONMENT = """
    import os
    AT_IMPORT = dict(os.environ)
    def look():
        return dict(os.environ), AT_IMPORT, os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)
    def said(pid):
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
"""
ENDURED = {"LC_CTYPE", "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
THREADS = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}


@pytest.mark.parametrize("start", ["template", "spawn", "auto"])
def test_the_environment_is_what_the_manifest_names_and_secrets_stay_in_the_shard(tmp_path: Path, start: str) -> None:
    folder = application(
        tmp_path, ENVIRONMENT, start=start, extra='env = ["WANTED", "NOT_THERE"]\n    secrets = { KEY = "file:key" }'
    )
    (folder / "key").write_text("s3cr3t-v4lue\n")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "WANTED": "yes", "UNWANTED": "no",
    }  # fmt: skip
    with running(folder, environment=environment) as node:
        with node.session("one") as session:
            now, at_import, pid, parent, group, sid = session.call("odd.look")
            assert now["KEY"] == "s3cr3t-v4lue"
            assert now["WANTED"] == "yes" and at_import["WANTED"] == "yes"
            assert set(now) <= {"WANTED", "KEY"} | THREADS | ENDURED
            assert group == pid == sid
            assert group != os.getpgrp()
            # what the kernel shows to whoever may read it, of the shard and of its template
            assert b"s3cr3t" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert b"s3cr3t" not in Path(f"/proc/{parent}/environ").read_bytes()
            if start == "template":
                assert "KEY" not in at_import
                maps = _memory_of(parent)
                assert maps is None or b"s3cr3t-v4lue" not in maps
            else:
                assert at_import["KEY"] == "s3cr3t-v4lue"
        assert "s3cr3t" not in repr(node.running.core.logs.since())
    assert not any("s3cr3t" in repr(row) for row in journal_rows(folder))
    for path in (folder / ".state").iterdir():
        assert b"s3cr3t" not in path.read_bytes()


def _memory_of(pid: int) -> bytes | None:
    """Writable anonymous memory of a process, as root may read it; None when it may not be read."""
    found = bytearray()
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                span, rights, _, _, inode, *_ = line.split()
                begin, end = (int(number, 16) for number in span.split("-"))
                if "w" in rights and inode == "0" and "[v" not in line:
                    memory.seek(begin)
                    found += memory.read(end - begin) or b""
    except (OSError, ValueError):
        return None
    return bytes(found)


DESCRIPTORS = """
    import os
    def descriptors():
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith("/memfd:"):  # many have one name
                    found[int(name)] = f"{target} {os.fstat(int(name)).st_ino}"
            except OSError:
                pass
        return found
"""


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_a_shard_has_its_own_descriptors_and_no_others(tmp_path: Path, start: str) -> None:
    keep = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(keep, True)
    try:
        with running(application(tmp_path, DESCRIPTORS, start=start)) as node:
            found = from_siblings(node, "odd.descriptors", 3)
            mine = set(_targets("self"))
            keeper = set(_targets(str(node.running._keeper.pid)))
    finally:
        os.close(keep)
    for table in found:
        assert table[0] == "/dev/null"
        assert table[1] != table[2] and table[1].startswith("pipe:") and table[2].startswith("pipe:")
        sockets = [target for target in table.values() if target.startswith("socket:")]
        pipes = [target for target in table.values() if target.startswith("pipe:")]
        # its control socket, its lifeline, its one channel (to the node)
        assert len(sockets) == 3, table
        assert len(pipes) == 2, table  # its log, standard output and errors apart
        others = [t for t in table.values() if not t.startswith(("socket:", "pipe:", "anon_inode:[event", "/dev/null"))]
        stacks = [target for target in others if target.startswith("/memfd:stacks of odd-")]
        assert len(stacks) == 1, table  # where its stacks are written when nothing else can tell them
        bells = [target for target in others if target.startswith("/memfd:shardwright-bell")]
        assert len(bells) == 1, table  # what wakes it, of all its channels
        assert all("/fd" in target for target in others if target not in stacks + bells), table  # the listing itself
        assert not set(sockets) & mine and not set(sockets) & keeper
    for one, two in ((0, 1), (0, 2), (1, 2)):
        shared = set(found[one].values()) & set(found[two].values())
        assert all(t.startswith(("anon_inode:", "/dev/null", "/proc")) for t in shared), shared


def _targets(pid: str) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


LIMITS = """
    import time
    hoard = []
    def burn(seconds):
        begun, spent = time.monotonic(), time.process_time()
        while time.monotonic() - begun < seconds:
            pass
        return (time.process_time() - spent) / (time.monotonic() - begun)
    def take(mib):
        hoard.append(bytearray(b"x" * (mib * 2**20)))
        return len(hoard)
"""


def _enforces(folder: Path, what: str) -> bool:
    return not any(what in row[3] for row in journal_rows(folder, "limits"))


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_ceilings_are_enforced(tmp_path: Path, start: str) -> None:
    folder = application(tmp_path, LIMITS, start=start, extra='limits = { cpu = 0.3, memory = "128MiB" }')
    with running(folder) as node, node.session("one") as session:
        if not (_enforces(folder, "cpu") and _enforces(folder, "memory")):
            pytest.skip("this machine does not let us enforce cpu and memory")
        assert session.call("odd.burn", 1.5) < 0.45
        assert session.call("odd.take", 16) == 1
        with pytest.raises(ShardLost, match="memory ceiling"):  # the caller is told why
            session.call("odd.take", 600)
        assert eventually(lambda: bool(journal_rows(folder, "loss")))
        assert "memory ceiling" in journal_rows(folder, "loss")[0][3]
        with pytest.raises(CallError):
            session.call("odd.take", 600)


LOGS = """
    import logging, os, sys
    def talk():
        print("plain line")
        print("two\\nlines")
        print("partial", end="")
        print(" and its end")
        print("ünïcödé ☃ 𝄞")
        sys.stdout.buffer.write(b"\\xff\\xfe binary\\n")
        sys.stderr.write("to stderr\\n")
        logging.getLogger("my.part").warning("logged %s", 5)
        logging.getLogger("my.part").info("not logged, for nobody configured it")
        print("x" * 200_000)
        os.write(1, b"raw line\\n")
        sys.stdout.write("the last word has no newline")
        sys.stdout.flush()
    def loud(count):
        import threading
        def work(name):
            for i in range(count):
                print(f"{name}:{i}:" + name * 50)
        threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    class Fails:
        def __str__(self): raise RuntimeError("no words")
    def lone():
        print("lone \\ud800 surrogate")
"""


def test_a_session_s_last_words_are_its_own(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    source = "def say(number):\n    print('number', number)\n"
    with running(application(tmp_path, source, extra="reuse = true")) as node:
        logs = node.running.core.logs
        for number in range(300):
            with node.session(f"s{number}") as session:
                session.call("odd.say", number)
        assert eventually(lambda: len(logs.since()) >= 300)
        assert [line.session for line in logs.since()] == [f"s{number}" for number in range(300)]
    record_exercised("sessions that ended right after they had printed", 300)


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_what_user_code_says_is_tagged_by_shard_and_session(tmp_path: Path, start: str) -> None:
    with running(application(tmp_path, LOGS, start=start)) as node:
        logs = node.running.core.logs
        with node.session("first") as first, node.session("second") as second:
            first.call("odd.talk")
            second.call("odd.lone")
            by_session = {s: shard.id for shard in node.shards() for s in shard.sessions}
            assert eventually(lambda: any("last word" in line.text for line in logs.since()))
            assert eventually(lambda: any("surrogate" in line.text for line in logs.since()))
            lines = logs.since()
        mine = [line for line in lines if line.shard == by_session["first"] and line.session == "first"]
        texts = [line.text for line in mine]
        for text in ("plain line", "two", "lines", "partial and its end", "ünïcödé ☃ 𝄞", "\\xff\\xfe binary"):
            assert text in texts, text
        assert next(line for line in mine if line.text == "to stderr").stream == "stderr"
        logged = next(line for line in mine if "logged 5" in line.text)
        assert (logged.stream, logged.level, logged.logger) == ("log", "WARNING", "my.part")
        assert not any("not logged" in text for text in texts)
        long = [line for line in mine if set(line.text) == {"x"}]
        assert sum(len(line.text) for line in long) == 200_000
        assert all(line.partial for line in long[:-1]) and not long[-1].partial
        assert next(line for line in lines if line.text == "raw line").stream == "raw"
        assert next(line for line in mine if "last word" in line.text).partial
        assert [line.session for line in lines if "surrogate" in line.text] == ["second"]
        assert logs.since(session="second", shard="odd") and not logs.since(session="first", shard=by_session["second"])


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    with running(application(tmp_path, LOGS)) as node, node.session("one") as session:
        session.call("odd.loud", 300)
        logs = node.running.core.logs
        assert eventually(lambda: len(logs.since()) >= 1200)
        seen = [line.text for line in logs.since() if ":" in line.text]
    for letter in "abcd":
        assert [t for t in seen if t[0] == letter] == [f"{letter}:{i}:" + letter * 50 for i in range(300)]


ORDINARY = """
import os, sys
import shardwright
with shardwright.start(sys.argv[1], state=sys.argv[1] + "/.state") as node:
    with node.session("one") as session:
        print(session.call("odd.burn", 0.01) > 0, os.geteuid())
"""


def test_without_permission_for_control_groups_it_runs_and_says_so_once(tmp_path: Path) -> None:
    """An ordinary user: everything works but for the enforcement of ceilings, and the journal says so in one record."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    source = Path(shardwright.__file__).parent.parent
    home = Path("/tmp") / f"swu-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        shutil.copytree(source, home / "src", ignore=shutil.ignore_patterns("__pycache__"))
        folder = application(home, LIMITS, extra='limits = { cpu = 0.5, memory = "128MiB" }')
        (folder / ".state").mkdir()
        program = home / "program.py"
        program.write_text(ORDINARY)
        python = _python_for_everybody(home)
        for path in [home, *home.rglob("*")]:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        done = subprocess.run(
            [python, str(program), str(folder)], user=65534, group=65534, extra_groups=[], cwd=home, timeout=60, check=False,
            capture_output=True, text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(home),
                 "PYTHONPATH": os.pathsep.join([str(home / "src"), *_packages(home)]),
                 "LD_LIBRARY_PATH": str(home / "python" / "lib")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["True", "65534"]
        limits = journal_rows(folder, "limits")
        assert len([row for row in limits if not row[3].startswith("odd:")]) == 1, limits
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _python_for_everybody(home: Path) -> str:
    """An interpreter that an ordinary user can run; this one may lie in root's home."""
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        done = subprocess.run([candidate, "-c", "pass"], user=65534, group=65534, extra_groups=[], cwd="/", check=False,
                              capture_output=True) if os.path.exists(candidate) and _reachable(candidate) else None  # fmt: skip
        if done is not None and done.returncode == 0:
            return candidate
    base = Path(sys.base_prefix)
    shutil.copytree(base / "bin", home / "python" / "bin", symlinks=True)
    library = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__", "idlelib", "ensurepip", "lib2to3")
    shutil.copytree(base / "lib" / library, home / "python" / "lib" / library, ignore=ignored)
    for shared in (base / "lib").glob("libpython*"):
        shutil.copy(shared, home / "python" / "lib")
    return str(home / "python" / "bin" / library)


def _reachable(path: str) -> bool:
    return all(os.stat(parent).st_mode & 0o001 for parent in Path(path).parents)


def _packages(home: Path) -> list[str]:
    """Copies of what we need of the installed packages."""
    import click
    import msgspec

    site = Path(msgspec.__file__).parent.parent
    target = home / "packages"
    wanted = [
        "msgspec",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_inspection",
        "tomlkit",
        "psutil",
        "rich",
    ]
    for name in [*wanted, Path(click.__file__).parent.name, "markdown_it", "mdurl", "pygments"]:
        if (site / name).is_dir():
            shutil.copytree(
                site / name, target / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
            )
    shutil.copy(site / "typing_extensions.py", target)
    return [str(target)]
