"""Code that runs in keeper, templates and shards counts as covered, however those processes start and end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import coverage

import house_recorder
from house_coverage import PTH, install, startup_code

PROGRAM = """\
import os, signal, subprocess, sys

def forked_and_ended_hard():
    return 1

def spawned():
    return 2

def threaded():
    return 3

def terminated():
    signal.raise_signal(signal.SIGTERM)

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["spawned"]:
            spawned()
        case ["terminated"]:
            terminated()
        case ["threaded"]:
            import threading
            thread = threading.Thread(target=threaded)
            thread.start()
            thread.join()
        case _:
            pid = os.fork()
            if pid == 0:
                forked_and_ended_hard()
                os._exit(0)
            os.waitpid(pid, 0)
            for part in ("spawned", "terminated", "threaded"):
                subprocess.run([sys.executable, __file__, part])
"""


ALL = {"forked_and_ended_hard", "spawned", "terminated", "threaded"}


def executed(program: Path, data_file: Path) -> set[str]:
    """The names of the functions whose body ran, over all processes."""
    assert house_recorder.merge(str(data_file)) > 0
    measured = coverage.Coverage(data_file=str(data_file), config_file=False)
    measured.combine([str(data_file.parent)], keep=True)
    data = measured.get_data()
    (file,) = [name for name in data.measured_files() if Path(name).name == program.name]
    ran = set(data.lines(file) or ())
    lines = program.read_text(encoding="utf-8").splitlines()
    return {line[4:].partition("(")[0] for at, line in enumerate(lines, 1) if line.startswith("def ") and at + 1 in ran}


def test_processes_of_all_kinds_count_while_the_marker_lies_there(tmp_path: Path) -> None:
    program, data_file = tmp_path / "package" / "program.py", tmp_path / "data" / "coverage"
    for path in (program, data_file):
        path.parent.mkdir()
    marker = tmp_path / "coverage-run"
    install(marker, program.parent, data_file.parent, tmp_path)
    line = (tmp_path / PTH).read_text(encoding="utf-8")
    assert line == startup_code(marker)
    assert line.count("\n") == 1  # a .pth file is read line by line
    # What site does with the line, in a process that knows nothing of coverage, and in those that it starts.
    prelude = (
        f"import sys; exec({line!r}); assert not any(name.startswith('coverage.') for name in sys.modules); "
        f"program = {str(program)!r}; sys.argv = [program, *sys.argv[1:]]; "
        "import runpy; runpy.run_path(program, run_name='__main__')"
    )
    (tmp_path / "start.py").write_text(prelude, encoding="utf-8")
    program.write_text(
        PROGRAM.replace("__file__, part", f"'-S', {str(tmp_path / 'start.py')!r}, part"), encoding="utf-8"
    )

    def run() -> None:
        subprocess.run([sys.executable, "-S", str(tmp_path / "start.py")], cwd="/", env={}, check=True, timeout=60)

    run()
    assert executed(program, data_file) == ALL
    for path in data_file.parent.iterdir():
        path.unlink()
    marker.unlink()
    run()
    assert not list(data_file.parent.iterdir())


INTERRUPTED = """\
import signal, sys, threading
exec({line!r})
import coverage
measured = coverage.Coverage(data_file=None, source=[{folder!r}])
measured.start()
sys.path.insert(0, {folder!r})
import fresh  # its functions are new to the tracer each time they are compiled anew

class Interrupt(BaseException):
    pass

def interrupt(signum, frame):
    raise Interrupt

signal.signal(signal.SIGVTALRM, interrupt)
hits = 0
while hits < 500:
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002)
        while True:
            fresh.step()
    except Interrupt:
        hits += 1
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
fresh.step()
measured.stop()
"""


def test_handlers_that_raise_do_not_leave_the_collector_locked(tmp_path: Path) -> None:
    (tmp_path / "fresh.py").write_text("def step():\n    return 1\n", encoding="utf-8")
    marker = tmp_path / "coverage-run"
    marker.write_text("unused\nunused\n", encoding="utf-8")
    program = INTERRUPTED.format(line=startup_code(marker), folder=str(tmp_path))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    subprocess.run([sys.executable, "-c", program], env={**clean, "COVERAGE_MAIN": "1"}, check=True, timeout=30)
