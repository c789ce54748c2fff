"""Random programs of one component, cut inside: what is cut computes the same, and what would not is refused.

A program has many functions, each of a few lines drawn from a list: some that a cut leaves as they are, and one of each
hazard. All functions that the rules let go are cut at once; then the program runs uncut and cut, and everything that it can
see of results, arguments, exceptions and module state must be the same.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shardwright.manifest import load
from shardwright.node import Options, Running
from shardwright.sharding import cut_functions, plan, read_application
from shardwright.sharding.cuts._alone import Alone

LONG = os.environ.get("SWT_LONG") == "1"
FUNCTIONS = 24
MANIFEST = '[app]\nname = "randomly"\nmain = "program:main"\n[components.one]\ncode = "program"\n'

HEAD = """
import enum, functools, json, os, random, sys, threading, time, warnings
import contextvars, decimal, logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

LIMIT = 3
NAMES = ["a", "b"]
MISSING = object()
COUNTS = {}
TOTAL = 0
KEPT = []
CONTEXT = contextvars.ContextVar("context", default=0)
LOCAL = threading.local()
LOCK = threading.Lock()
LOG = logging.getLogger("randomly")

class Colour(enum.Enum):
    RED = 1

class Custom(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = second

@dataclass
class Point:
    x: object
    more: list = field(default_factory=list)

class Box:
    made = 0
    def __init__(self, size):
        self.size = size
    def grow(self):
        self.size += 1
        return self.size

class Small(Box):
    def grow(self):
        return super().grow() * 2

class Global:
    def __init__(self):
        self.size = 0
    def grow(self):
        self.size += 1

BOX = Global()

def helper(a):
    return [len(a), LIMIT]

@functools.lru_cache(maxsize=8)
def cached(number):
    return number * 2

def numbers(count):
    yield from range(count)

def keep(a):
    KEPT.append(a)
"""

PLAIN = [
    "a.append(len(b))",
    "a[:] = a[::-1]",
    "b[len(b)] = a",
    "b['point'] = Point(a)",
    "c.more.append(a)",
    "c.x = c.more",
    "out.append(a)",
    "out.append(helper(a))",
    "out.append(cached(len(a)))",
    "out.append(Colour.RED)",
    "out.append(MISSING if a else None)",
    "out.append(LIMIT + len(NAMES))",
    "out.append(Small(len(a)).grow())",
    "out.append(sum(numbers(len(a))))",
    "out.append([x for x in a if isinstance(x, int)])",
    "out.append(sorted(map(str, b)))",
    "out.append(Counter(map(type, a)).most_common(1)[0][1] if a else 0)",
    "add = lambda n: n + len(a)\n    out.append(add(1))",
    "n = 0\n    def inner():\n        nonlocal n\n        n += 1\n    inner()\n    out.append(n)",
    "if len(a) % 3 == 1:\n        raise Custom('first', a)",
    "if len(b) > 4:\n        b.clear()",
    "try:\n        out.append(b['none'])\n    except KeyError as error:\n        out.append(repr(error))",
    "out.append({1: a, 2: a})",
    "d = OrderedDict(b)\n    out.append(d)",
    "out.append(a is out[0] if out else b is b)",
    "out.append(c)",
    "if a and a[0] == 'gone':\n        raise ValueError(a, b)",
]
HAZARDS = [
    "COUNTS['n'] = COUNTS.get('n', 0) + 1\n    out.append(COUNTS['n'])",
    "global TOTAL\n    TOTAL += 1\n    out.append(TOTAL)",
    "out.append(TOTAL)",
    "keep(a)",
    "KEPT.append(b)",
    "print('said', len(a))",
    "sys.stdout.write('said')",
    "out.append(os.environ.get('RANDOMLY'))",
    "os.environ['RANDOMLY'] = str(len(a))",
    "out.append(os.getcwd())",
    "out.append(random.random())",
    "random.seed(len(a))",
    "BOX.grow()\n    out.append(BOX.size)",
    "Box.made += 1",
    "out.append(Box.made)",
    "out.append(eval('len(a)'))",
    "out.append(a is KEPT)",
    "CONTEXT.set(CONTEXT.get() + 1)\n    out.append(CONTEXT.get())",
    "LOCAL.n = getattr(LOCAL, 'n', 0) + 1\n    out.append(LOCAL.n)",
    "with LOCK:\n        out.append(1)",
    "decimal.getcontext().prec = 5",
    "warnings.filterwarnings('ignore')",
    "LOG.warning('said %s', len(a))",
    "helper.calls = len(a)",
    "sys._getframe(1).f_locals\n    out.append(1)",
    "threading.Thread(target=keep, args=(1,)).start()",
    "out.append(open(__file__).readline())",
    "out.append(id(KEPT) == id(a))",
]

WIDE = ["sys.modules['program'].LIMIT = 4", "globals()['LIMIT'] = 5"]  # hazards of everything that reads a global

TAIL = '''
def shown(value, seen=None):
    """A text of everything that a program can see of a value; where things are shared is part of it."""
    seen = {} if seen is None else seen
    if isinstance(value, (str, int, float, type(None), enum.Enum)):
        return repr(value)
    if value is MISSING:
        return "MISSING"
    if id(value) in seen:
        return f"#{seen[id(value)][0]}"
    seen[id(value)] = (len(seen), value)
    name = type(value).__name__
    if isinstance(value, dict):
        return name + "{" + ", ".join(f"{shown(k, seen)}: {shown(v, seen)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return name + "[" + ", ".join(shown(item, seen) for item in value) + "]"
    if isinstance(value, BaseException):
        return name + shown(value.args, seen) + shown(vars(value), seen)
    return name + shown(vars(value), seen)

def main():
    random.seed(7)
    lines = []
    functions = [WORK]
    for turn in range(3):
        a, b = list(range(turn)), {}
        c = Point(a)
        for work in functions:
            if len(a) > 8:
                del a[5:]
            if len(b) > 6:
                b.clear()
            if c.x is c.more:
                c = Point(a)
            try:
                result = work(a, b, c)
            except Exception as error:
                result = error
            lines.append(f"{work.__name__} {shown([result, a, b, c])}")
            for name in ("args", "more"):
                if isinstance(result, list) and result and result[0] is a:
                    lines.append("alias")
        for result in [work(list(x), {}, Point(1)) for x in [["p"], ["q", "r"], [], ["s"] * 3] for work in []]:
            lines.append(shown(result))
    for items in [[["p", "q"], ["q"], ["r", "s", "t"], []]]:
        for item in items:
            LOOPS
    lines.append(shown([COUNTS, TOTAL, KEPT, BOX.size, Box.made, LIMIT]))
    with open(os.path.join(os.path.dirname(__file__), "out"), "w") as file:
        file.write("\\n".join(lines))
'''

LOOP = """try:
                lines.append(shown({name}(item, {{}}, c)))
            except Exception as error:
                lines.append(shown(error))
            """

body = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4)
function = st.tuples(body, st.one_of(st.none(), st.none(), st.sampled_from(HAZARDS)), st.integers(0, 4))


def written(folder: Path, functions: list[tuple[list[str], str | None, int]]) -> dict[str, bool]:
    """The program; which of its functions have a hazard."""
    sources, hazardous = [], {}
    for number, (lines, hazard, place) in enumerate(functions):
        name = f"work{number}"
        lines = [*lines[:place], hazard, *lines[place:]] if hazard else lines
        sources.append(
            f"def {name}(a, b, c, *, extra=None):\n    out = []\n    " + "\n    ".join(lines) + "\n    return out\n"
        )
        hazardous[name] = hazard is not None
    loops = "".join(LOOP.format(name=name) for name in hazardous) or "pass"
    tail = TAIL.replace("[WORK]", f"[{', '.join(hazardous)}]").replace("LOOPS", loops)
    (folder / "program.py").write_text(HEAD + "\n".join(sources) + tail)
    (folder / "shardwright.toml").write_text(MANIFEST)
    return hazardous


def check(folder: Path, functions: list[tuple[list[str], str | None, int]]) -> tuple[int, int, int]:
    """How many functions were cut, how many had no hazard, and how many had one."""
    with contextlib.chdir(folder):
        return _check(folder, functions)


def _check(folder: Path, functions: list[tuple[list[str], str | None, int]]) -> tuple[int, int, int]:
    hazardous = written(folder, functions)
    manifest = load(folder, environment=dict(os.environ))
    read = read_application(manifest)
    alone = Alone(*read)
    cut = [f"program:{name}" for name in hazardous if alone.veto(f"program:{name}") is None]
    environment = {key: value for key, value in os.environ.items() if key != "RANDOMLY"}
    outputs = []
    for kind in ("uncut", "cut"):
        if kind == "uncut":
            command = [sys.executable, "-c", "import program; program.main()"]
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=60)
        elif cut:
            made = cut_functions(manifest, plan(manifest), {"one": cut}, shards=2, read=read)
            running = Running(folder, Options(environment=environment, state=folder / "state", plan=made, api=False))
            try:
                finished = running.run_main()
            finally:
                running.close()
            assert finished.status == 0, finished
        else:
            continue
        outputs.append((folder / "out").read_text())
        (folder / "out").unlink()
    assert len(set(outputs)) == 1, "\n".join(
        f"{one}\n{other}" for one, other in zip(*(text.splitlines() for text in outputs), strict=False) if one != other
    )
    return len(cut), sum(not value for value in hazardous.values()), sum(hazardous.values())


@settings(
    max_examples=40 if LONG else 3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
    phases=(Phase.generate,),  # every example starts a node: to shrink one would take minutes
)
@given(functions=st.lists(function, min_size=FUNCTIONS, max_size=FUNCTIONS))
def test_random_programs(
    functions: list[tuple[list[str], str | None, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut, plain, _ = check(tmp_path_factory.mktemp("random"), functions)
    assert cut >= 0.9 * plain


def test_every_line_of_the_lists(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    """Each line alone: every hazard is refused, everything else is cut."""
    functions: list[tuple[list[str], str | None, int]] = [([line], None, 0) for line in PLAIN]
    functions += [([], hazard, 0) for hazard in HAZARDS]
    cut, plain, hazardous = check(tmp_path, functions)
    assert cut == plain == len(PLAIN)
    wider = [*functions, *(([], hazard, 0) for hazard in WIDE)]
    (tmp_path / "wide").mkdir()
    cut_too, _, _ = check(tmp_path / "wide", wider)
    assert 0 < cut_too < cut
    record_exercised("hazards refused in random programs", hazardous)
    record_exercised("functions cut in random programs", cut)
