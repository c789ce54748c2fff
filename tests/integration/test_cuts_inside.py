"""A program that is one component, with nothing said about its parts: its stages are found, cut and run at once."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_apps import PYTEST_ALONE, environment, shardwright, write_app
from shardwright.node import Options, Running

PRESSROOM = Path(__file__).parents[2] / "examples" / "pressroom" / "pressroom"
MANIFEST = '[app]\nname = "one"\nmain = "pressroom.cli:main"\n[components.press]\ncode = "pressroom"\n'
TEXT = "# {title}\n\nA *text* of {title}.\n\n```python\nprint('{title}')\n```\n\n" + "More words to count. " * 40 + "\n"
DOCUMENTS = 12


@pytest.fixture
def press(tmp_path: Path) -> Path:
    """The press room's code, as one component."""
    folder = tmp_path / "app"
    shutil.copytree(PRESSROOM, folder / "pressroom", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "shardwright.toml").write_text(MANIFEST)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(DOCUMENTS):
        (texts / f"text{number}.md").write_text(TEXT.format(title=f"Text {number}"))
    return folder


def calls_of(running: Running, component: str) -> int:
    """How many calls its shards ran."""
    text = running.submit(running.metrics()).result().body.decode()
    found = re.findall(
        rf'^shardwright_calls_received_total{{[^}}]*component="{component}"[^}}]*}} (\S+)$', text, re.MULTILINE
    )
    return round(sum(map(float, found)))


def test_stages_are_found_and_run_at_once(
    press: Path, tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    arguments = ("--source", str(press / "texts"), "--out")
    plan = shardwright(
        tmp_path, "plan", str(press), "--profile", "--json", "--", *arguments, str(tmp_path / "uncut"), timeout=240
    )
    assert plan.returncode == 0, plan.stderr
    told = json.loads(plan.stdout)
    cuts = {function["qualname"]: cut for cut in told["cuts"] for function in cut["functions"]}
    stages = {"covers", "render"} & set(cuts)  # both, unless other programs keep this one from a second core meanwhile
    assert stages, plan.stdout
    for stage in stages:
        assert cuts[stage]["part"] == "press-cut"
        assert [loop["module"] for loop in cuts[stage]["loops"]] == ["pressroom.cli"]
    assert (press / "shardwright.profile.json").is_file()

    options = Options(
        environment=environment(tmp_path), state=tmp_path / "state", api=False,
        argv=("press", *arguments, str(tmp_path / "cut")),
    )  # fmt: skip
    running = Running(press, options)
    try:
        assert running.run_main().status == 0
        calls = calls_of(running, "press-cut")
    finally:
        running.close()
    assert calls == DOCUMENTS * len(stages)
    for file in sorted((tmp_path / "uncut").rglob("*")):
        other = tmp_path / "cut" / file.relative_to(tmp_path / "uncut")
        assert other.is_dir() if file.is_dir() else other.read_bytes() == file.read_bytes(), file
    record_exercised("calls of cut functions, in order", calls)


def test_a_profile_of_other_code_cuts_nothing_and_says_why(press: Path, tmp_path: Path) -> None:
    arguments = ("--source", str(press / "texts"), "--out", str(tmp_path / "out"))
    assert shardwright(tmp_path, "plan", str(press), "--profile", "--", *arguments).returncode == 0
    with (press / "pressroom" / "thumbs.py").open("a") as file:
        file.write("\nMORE = 1\n")
    plan = shardwright(tmp_path, "plan", str(press))
    assert "SW335" in plan.stdout and "pressroom.thumbs changed" in plan.stdout
    ran = shardwright(tmp_path, "run", str(press), "--", *arguments)
    assert ran.returncode == 0 and ran.stdout.startswith(f"{DOCUMENTS} documents, ")


SUITE = """
import pytest
from more import toil
from sums import Tally, slow, twice

@pytest.mark.parametrize("number", range(3))
def test_another_component(number):
    assert toil([number]) == [number, sum(n * n for n in range(2000))]

@pytest.mark.parametrize("number", range(8))
def test_twice(number):
    items = [number]
    assert twice(items) is items and items == [number, number]

def test_tally():
    tally = Tally()
    for number in range(5):
        tally.add(number)
    assert tally.total == 10

def test_error():
    with pytest.raises(ValueError, match="no"):
        slow(-1)
    assert slow(3) == slow(3)
"""
SUMS = """
import time as _time
FACTOR = 1
SEEN = []

def work(count):
    total = 0
    for number in range(count):
        total += number * number
    return total

def twice(items):
    work(2000)
    items.extend(items)
    return items

def slow(number):
    if number < 0:
        raise ValueError("no")
    return work(3000) * FACTOR

class Tally:
    def __init__(self):
        self.total = 0
    def add(self, number):
        work(1000)
        self.total += number
        return self

def noted(number):
    SEEN.append(number)
    return work(1000)
"""


MORE = """
def toil(items):
    total = 0
    for number in range(2000):
        total += number * number
    items.append(total)
    return items
"""


def test_verify_compares_test_by_test_and_counts_what_crossed(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "app",
        '[app]\nname = "sums"\n[components.sums]\ncode = "sums"\n[components.more]\ncode = "more"\n',
        sums=SUMS, more=MORE, test_sums=SUITE,
    )  # fmt: skip
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(app / "test_sums.py"))
    done = shardwright(tmp_path, "verify", str(app), "--json", "--", *command, more=PYTEST_ALONE, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equivalent"] and found["tests"] == 13
    assert found["remote"] >= 0.9 * found["calls"] > 5
    assert found["twice"] == 0
    assert {"sums:twice", "more:toil"} <= set(found["functions"])
    assert not [name for name in found["functions"] if name == "sums:noted"]


def test_a_program_that_is_right_only_uncut(tmp_path: Path) -> None:
    source = "import time\ndef tick():\n    return time.perf_counter()\n"
    source += "def main():\n    for _ in range(3):\n        tick()\n    print('done')\n"
    app = write_app(
        tmp_path / "app", '[app]\nname = "tick"\nmain = "ticks:main"\n[components.one]\ncode = "ticks"\n', ticks=source
    )
    done = shardwright(tmp_path, "verify", str(app), "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["calls"] == 0


def test_a_command_that_runs_nothing_of_the_application(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "app", '[app]\nname = "tick"\n[components.one]\ncode = "ticks"\n', ticks="def tick():\n    pass\n"
    )
    done = shardwright(tmp_path, "plan", str(app), "--profile", "--", sys.executable, "-c", "pass")
    assert done.returncode != 0 and "ran no code of the components" in done.stderr
    none = shardwright(tmp_path, "plan", str(app), "--profile")
    assert none.returncode != 0 and "names no app.main" in none.stderr


BOXES = """
def weigh(box):
    total = 0
    for number in range(150_000):
        total += number * number
    return sum(box) + total % 7

def main():
    boxes = [[number] for number in range(10)]
    said = []
    for box in boxes:
        said.append(weigh(box))
        boxes[-1].append(said[-1])
    print(said, boxes)
"""


def test_an_answer_to_what_was_asked_before_it_changed_is_not_taken(tmp_path: Path) -> None:
    """The last round is begun ahead of its turn, and what it is asked changes before that comes."""
    manifest = '[app]\nname = "boxes"\nmain = "boxes:main"\n[components.boxes]\ncode = "boxes"\n'
    app = write_app(tmp_path / "app", manifest, boxes=BOXES)
    for _ in range(5):  # while other programs keep this one from a second core, a cut is worth nothing
        plan = shardwright(tmp_path, "plan", str(app), "--profile", "--json", "--")
        assert plan.returncode == 0, plan.stderr
        if cuts := json.loads(plan.stdout)["cuts"]:
            break
    (cut,) = cuts
    assert [function["qualname"] for function in cut["functions"]] == ["weigh"] and len(cut["loops"]) == 1
    uncut = shardwright(tmp_path, "run", str(app), "--inproc", "--quiet")
    ran = shardwright(tmp_path, "run", str(app), "--quiet")
    assert ran.returncode == uncut.returncode == 0, ran.stderr
    assert ran.stdout == uncut.stdout and ran.stdout.startswith("[0, 1, 2, 3, 4, 5, 6, 7, 8, 45]")
