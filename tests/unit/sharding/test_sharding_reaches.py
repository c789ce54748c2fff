"""What may reach out of a component is found, however it is written; what cannot is not counted."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from reaching_code import QUIET, REACHING
from shardwright.model.manifest import Files, Network
from shardwright.model.shard import AutoIsolation, Reach, ShardPlan, Site
from shardwright.sharding.reaches import PACKAGES, STANDARD, Known, auto_isolation

Plan = Callable[..., ShardPlan]


def _module(text: str) -> str:
    top, _, body = text.rpartition(" | ")
    lines = "\n".join(f"    {line}" for line in body.split("; "))
    return f"{top}\ndef f(given):\n{lines}\n"


def _auto(plan: ShardPlan, component: str = "a") -> AutoIsolation:
    found = plan.definition(component).auto
    assert found is not None
    return found


@pytest.mark.parametrize("case", REACHING)
def test_what_reaches_is_found(plan_app: Plan, case: str) -> None:
    kind, text = REACHING[case]
    source = _module(text)
    found = _auto(plan_app({"a.py": source}, {"a": "a"}))
    assert found.isolation == "process", source
    assert kind in {each.kind for each in found.reaches}, (source, found.reaches)
    assert all(each.site.path == "a.py" and 1 <= each.site.line <= source.count("\n") + 1 for each in found.reaches)
    assert found.reason.startswith(str(found.reaches[0].site)) and found.remedy.count("[components.a]") == 1


@pytest.mark.parametrize("case", QUIET)
def test_what_does_not_reach_is_not_counted(plan_app: Plan, case: str) -> None:
    found = _auto(plan_app({"a.py": _module(QUIET[case])}, {"a": "a"}))
    assert (found.isolation, found.reaches) == ("namespace", ()), (_module(QUIET[case]), found.reaches)


def test_what_common_modules_reach_counts_where_they_are_imported(plan_app: Plan) -> None:
    files = {
        "a.py": "import tool, b\ndef f(x): return tool.double(b.g(x))\n",
        "b.py": "import quiet\ndef g(x): return quiet.same(x)\n",
        "tool.py": "import deep\ndef double(x): return 2 * x\n",
        "deep.py": "def read(place): return open(place)\n",
        "quiet.py": "def same(x): return x\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b"})
    assert _auto(plan, "a").reason == "deep.py:1: open"
    assert _auto(plan, "b").isolation == "namespace", "what others import is not its own"


@pytest.mark.parametrize(
    "user",
    [
        "from compat import os\ndef f(x): return os.remove(x)\n",
        "import compat\ndef f(x): return compat.os.remove(x)\n",
        "from compat import *\ndef f(x): return os.remove(x)\n",
        "from compat import forget\ndef f(x): return forget(x)\n",
        "import compat\ndef f(x): return compat.run\n",
        "from compat import PLACE\ndef f(x): return PLACE.read_text()\n",
        "from compat import Held\ndef f(x): return Held.place.read_text()\n",
    ],
)
def test_what_comes_by_another_module_of_the_application_is_found(plan_app: Plan, user: str) -> None:
    compat = "import os\nfrom os import remove as forget\nimport asyncio\nfrom make import PLACE, Held\nrun = 1\n"
    if "compat.run" in user:
        compat = "from subprocess import run\n"
    make = "class Held:\n    place = None\nPLACE = Held()\n"
    found = _auto(plan_app({"a.py": user, "compat.py": compat, "make.py": make}, {"a": "a"}))
    assert found.isolation == "process", found


def test_a_compiled_module_of_the_application_is_a_library(plan_app: Plan) -> None:
    files = {"a.py": "import fast\ndef f(x): return fast.g(x)\n", "fast.abi3.so": ""}
    found = _auto(plan_app(files, {"a": "a"}))
    assert [(each.kind, each.what) for each in found.reaches] == [("library", "fast, a compiled module")]


def test_what_classes_of_others_do_counts_where_they_come_with_their_code(plan_app: Plan) -> None:
    files = {
        "a.py": "import b\ndef f(x): return b.make(x).text()\n",
        "b.py": "from dataclasses import dataclass\nimport subprocess\n"
        "@dataclass\nclass Page:\n    place: str\n    def text(self): return open(self.place).read()\n"
        "def make(x): return Page(subprocess.getoutput(x))\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b"})
    assert [(each.kind, str(each.site)) for each in _auto(plan, "a").reaches] == [("files", "b.py:6")]
    assert {each.kind for each in _auto(plan, "b").reaches} == {"files", "process"}


def test_whoever_runs_main_is_never_behind_walls(plan_app: Plan) -> None:
    files = {
        "a.py": "def main(): return f(1)\ndef f(x): return x\n",
        "b.py": "def g(x): return x\n",
        "run.py": "import b\ndef main(): pass\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b"}, main="a:main")
    assert _auto(plan, "a").isolation == "process" and "app.main" in _auto(plan, "a").reason
    assert _auto(plan, "b").isolation == "namespace"
    assert _auto(plan_app(files, {"a": "a", "b": "b"}, main="run:main"), "main").isolation == "process"


def test_a_stated_isolation_is_not_judged(plan_app: Plan) -> None:
    plan = plan_app({"a.py": "def f(): pass\n"}, {"a": {"code": "a", "isolation": "process"}})
    assert plan.definition("a").auto is None and plan.definition("a").isolation == "process"


# -- the rule --------------------------------------------------------------------------------------------------------


def _rule(*reaches: Reach, **more: Any) -> AutoIsolation:
    return auto_isolation("a", reaches, **{"runs_main": False, "files": Files(), "network": Network(), **more})


def _reach(kind: str, place: str = "", writes: bool = False) -> Reach:
    return Reach(kind, Site("a.py", 3), "it", place, writes)


@pytest.mark.parametrize(
    ("reach", "files", "covered"),
    [
        (_reach("files", "/srv/data/x"), Files(read=("/srv/data/",)), True),
        (_reach("files", "/srv/data"), Files(read=("/srv/data/",)), True),
        (_reach("files", "/srv/data/x"), Files(write=("/srv/data",)), True),
        (_reach("files", "/srv/data/x", True), Files(write=("/srv/data/x",)), True),
        (_reach("files", "/srv/data/x", True), Files(read=("/srv/data/",)), False),
        (_reach("files", "/srv/database"), Files(read=("/srv/data",)), False),
        (_reach("files", "/srv/data/../other"), Files(read=("/srv/data",)), False),
        (_reach("files", "data/x"), Files(read=("data/",)), False),  # of the working directory, whichever that is
        (_reach("files"), Files(read=("/",)), False),
        (_reach("process"), Files(read=("/",)), False),
    ],
)
def test_files_are_covered_where_the_code_says_them_and_the_manifest_states_them(
    reach: Reach, files: Files, covered: bool
) -> None:
    assert _rule(reach, files=files).isolation == ("namespace" if covered else "process")


def test_a_place_of_the_network_is_covered_by_its_name() -> None:
    stated = Network(egress=("db.internal:5432",))
    assert _rule(_reach("network", "db.internal:5432"), network=stated).isolation == "namespace"
    assert _rule(_reach("network", "db.internal:5433"), network=stated).isolation == "process"
    assert _rule(_reach("network"), network=stated).isolation == "process"


def test_the_remedy_is_the_line_to_add() -> None:
    assert _rule(_reach("files", "/x", True)).remedy == 'files = { write = ["/x"] } in [components.a]'
    assert _rule(_reach("network", "h:1")).remedy == 'network = { egress = ["h:1"] } in [components.a]'
    several = _rule(_reach("files"), _reach("network"), _reach("process"))
    assert several.reason == "a.py:3: it, and 2 more" and len(several.reaches) == 3
    assert several.remedy.startswith('isolation = "namespace" in [components.a], with `files` and `network`')
    assert _rule(runs_main=True).isolation == "process", "whatever it reaches"
    assert _rule().remedy == ""


def test_places_are_read_from_the_code(plan_app: Plan) -> None:
    code = """
        import socket, sqlite3
        from pathlib import Path
        def f(x):
            open("/srv/a"), open("/srv/b", "w"), open("/srv/c", mode=x), Path("/srv/d").read_text(), Path("/srv/e").mkdir()
            sqlite3.connect("/srv/f"), socket.create_connection(("db", 1))
    """
    stated = {"code": "a", "files": Files(write=("/srv/",)), "network": Network(egress=("db:1",))}
    found = _auto(plan_app({"a.py": code}, {"a": {"code": "a"}}))
    assert [(each.place, each.writes) for each in sorted(found.reaches, key=lambda each: each.place)] == [
        ("/srv/a", False), ("/srv/b", True), ("/srv/c", True), ("/srv/d", False), ("/srv/e", True), ("/srv/f", True),
        ("db:1", False),
    ]  # fmt: skip
    assert _auto(plan_app({"a.py": code}, {"a": stated})).reason == "its section states all that its code reaches"


def test_who_reads_a_place_and_then_writes_it_is_not_covered_by_what_may_be_read(plan_app: Plan) -> None:
    code = """
        def f(x):
            return open("/srv/a").read()
        def g(x):
            open("/srv/a", "w").write(x)
    """
    only_read = _auto(plan_app({"a.py": code}, {"a": {"code": "a", "files": Files(read=("/srv",))}}))
    assert only_read.isolation == "process" and [each.writes for each in only_read.reaches] == [True]
    assert only_read.remedy == 'files = { write = ["/srv/a"] } in [components.a]'
    written = _auto(plan_app({"a.py": code}, {"a": {"code": "a", "files": Files(write=("/srv",))}}))
    assert written.isolation == "namespace"


# -- the tables ------------------------------------------------------------------------------------------------------

_WATCH = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
names, prefixes = json.loads(sys.argv[1])
seen = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writing = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writing and not path.endswith(".pyc") and "__pycache__" not in path) or not path.startswith(tuple(prefixes)):
            seen.append(f"open {path}")
    elif event.split(".")[0] in ("socket", "subprocess", "sqlite3", "shutil", "tempfile", "ftplib", "smtplib", "urllib"):
        seen.append(event)
    elif event in ("os.system", "os.fork", "os.exec", "os.posix_spawn", "os.remove", "os.mkdir"):
        seen.append(event)
sys.addaudithook(hook)
{use}
for name in names:
    importlib.import_module(name)
print(json.dumps(sorted(set(seen))))
"""
_USE = """
def use():
    import io
    from argon2 import PasswordHasher
    import jwt, markdown_it, numpy, pymunk, msgspec
    from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name, guess_lexer
    PasswordHasher(time_cost=1, memory_cost=64).hash("x")
    jwt.decode(jwt.encode({"a": 1}, "k" * 32, algorithm="HS256"), "k" * 32, algorithms=["HS256"])
    markdown_it.MarkdownIt("commonmark").render("# x *y*")
    numpy.linalg.inv(numpy.random.default_rng(1).random((20, 20)))
    space = pymunk.Space(); body = pymunk.Body(1, 1); space.add(body, pymunk.Circle(body, 1)); space.step(0.1)
    msgspec.json.decode(msgspec.json.encode([1]))
    picture = Image.new("RGB", (20, 20)); pen = ImageDraw.Draw(picture)
    pen.text((1, 1), "x", font=ImageFont.load_default(12)); ImageOps.invert(picture.filter(ImageFilter.GaussianBlur(2)))
    buffer = io.BytesIO(); picture.save(buffer, "PNG"); Image.open(buffer).load()
    highlight("x = 1", get_lexer_by_name("python"), HtmlFormatter()); guess_lexer("x = 1")
use()
"""


def _seen(names: list[str], use: str = "") -> list[str]:
    where = [sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/proc/self", "/dev/null", "/sys/devices/system/cpu"]
    given = json.dumps([names, [*where, "/usr/share/zoneinfo", "/etc/localtime"]])
    done = subprocess.run(
        [sys.executable, "-c", _WATCH.replace("{use}", use), given], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def _installed(names: Mapping[str, Known]) -> Iterator[str]:
    for name in names:
        try:
            if importlib.util.find_spec(name) is not None:
                yield name
        except ModuleNotFoundError:
            continue


def test_packages_that_are_known_keep_to_their_own_files(record_exercised: Callable[[str, int], None]) -> None:
    there = [name for name in _installed(PACKAGES) if name not in ("pymunk.matplotlib_util",)]
    assert _seen(there, _USE) == []
    assert _seen(
        ["json"], "open('/etc/hostname' if __import__('os').path.exists('/etc/hostname') else '/etc/passwd')"
    ), "the watch sees what is opened"
    record_exercised("packages watched", len(there))


def test_quiet_modules_of_pythons_library_open_nothing_but_their_own(
    record_exercised: Callable[[str, int], None],
) -> None:
    quiet = [name for name, known in STANDARD.items() if known.quiet and name in _installed({name: known})]
    assert len(quiet) > 50
    assert _seen(quiet) == []
    record_exercised("modules watched", len(quiet))


@pytest.mark.parametrize(
    "name", ["os", "io", "pathlib", "asyncio", "logging", "sqlite3", "xml.etree.ElementTree", "os.path"]
)
def test_names_that_are_listed_are_there(name: str) -> None:
    """A misspelt name would permit, or forbid, nothing. Some are of other versions of Python."""
    module = importlib.import_module(name)
    known = STANDARD[name]
    absent = {each for each in (*known.harmless, *known.reaching) if not hasattr(module, each)}
    newer = {
        "process_cpu_count", "QueueShutDown", "eager_task_factory", "getHandlerByName", "getHandlerNames", "getenvb",
        "splitroot", "setns", "unshare",
    }  # fmt: skip
    assert absent <= newer
