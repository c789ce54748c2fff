"""The resolver, one feature of the language at a time: who calls whom, and nothing else."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from shardwright.sharding.callgraph import CallGraph, How, call_graph

CASES: dict[str, tuple[str, set[str]]] = {
    "imports and aliases": (
        "from app.other import helper as h\nimport app.other as o\ndef go():\n    h()\n    o.second()\n",
        {"go>other.helper", "go>other.second"},
    ),
    "inheritance": (
        "class A:\n    def run(self):\n        self.hook()\n    def hook(self): ...\n"
        "class B(A):\n    def hook(self): ...\ndef go():\n    B().run()\n",
        {"A.run>A.hook", "A.run>B.hook", "go>A.run"},
    ),
    "super and mixins": (
        "class Base:\n    def __init__(self): ...\nclass Mixin:\n    def __init__(self):\n        super().__init__()\n"
        "class Both(Mixin, Base):\n    def __init__(self):\n        super().__init__()\n",
        {"Mixin.__init__>Base.__init__", "Both.__init__>Mixin.__init__"},
    ),
    "inherited constructor": (
        "class A:\n    def __init__(self): ...\nclass B(A): ...\ndef go():\n    B()\n", {"go>A.__init__"},
    ),
    "properties": (
        "class A:\n    @property\n    def size(self):\n        return 1\n    @size.setter\n    def size(self, n): ...\n"
        "def go():\n    a = A()\n    a.size = a.size\n",
        {"go>A.size", "go>A.size@6"},
    ),
    "iteration, context, operators": (
        "class A:\n    def __iter__(self):\n        return self\n    def __next__(self): ...\n    def __enter__(self): ...\n"
        "    def __exit__(self, *a): ...\n    def __add__(self, o): ...\n    def __str__(self): ...\n"
        "def go():\n    a = A()\n    for x in a: ...\n    with a: ...\n    a + 1\n    f'{a}'\n",
        {"go>A.__iter__", "go>A.__next__", "go>A.__enter__", "go>A.__exit__", "go>A.__add__", "go>A.__str__"},
    ),
    "attributes of objects": (
        "class Part:\n    def turn(self): ...\nclass Whole:\n    def __init__(self):\n        self.part = Part()\n"
        "    def go(self):\n        self.part.turn()\n",
        {"Whole.go>Part.turn"},
    ),
    "annotations": (
        "from __future__ import annotations\nclass A:\n    def go(self): ...\ndef f(a: A | None, many: list[A]):\n    a.go()\n"
        "    for one in many:\n        one.go()\n",
        {"f>A.go"},
    ),
    "decorators": (
        "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def wrapper(*a):\n        return f(*a)\n    return wrapper\n"
        "@deco\ndef one(): ...\n@deco\ndef two(): ...\ndef go():\n    one()\n",
        {"go>deco.<locals>.wrapper", "deco.<locals>.wrapper>one", "deco.<locals>.wrapper>two"},
    ),
    "registries": (
        "RULES = []\ndef a(): ...\ndef b(): ...\nRULES.append(a)\nTABLE = {'b': b}\n"
        "def go():\n    for rule in RULES:\n        rule()\n    TABLE['b']()\n",
        {"go>a", "go>b"},
    ),
    "callbacks of builtins": (
        "def key(x): ...\ndef go(items):\n    sorted(items, key=key)\n    list(map(key, items))\n", {"go>key"},
    ),
    "partial": ("import functools\ndef f(a, b): ...\nP = functools.partial(f, 1)\ndef go():\n    P(2)\n", {"go>f"}),
    "names that are computed": (
        "class V:\n    def visit(self, n):\n        getattr(self, f'visit_{n}')()\n    def visit_a(self): ...\n"
        "    def visit_b(self): ...\n    def other(self): ...\n",
        {"V.visit>V.visit_a", "V.visit>V.visit_b"},
    ),
    "isinstance": ("class A:\n    def go(self): ...\ndef f(x):\n    if isinstance(x, A):\n        x.go()\n", {"f>A.go"}),
    "only one class has it": ("class A:\n    def peculiar(self): ...\ndef f(x):\n    x.peculiar()\n", {"f>A.peculiar"}),
    "generators and coroutines": (
        "def gen():\n    yield 1\nasync def co(): ...\nasync def go():\n    for x in gen(): ...\n    await co()\n",
        {"go>gen", "go>co"},
    ),
    "a dictionary's value is no method of ours": (
        "class A:\n    def get(self): ...\ndef f(d):\n    d.get()\n    'x'.join([])\n", set(),
    ),
    "data classes": (
        "import dataclasses\nclass Part:\n    def turn(self): ...\n@dataclasses.dataclass\nclass D:\n    part: Part\n"
        "def go(d: D):\n    d.part.turn()\n",
        {"go>Part.turn"},
    ),
    "descriptors and metaclasses": (
        "class D:\n    def __get__(self, o, t): ...\nclass M(type):\n    def __call__(cls): ...\nclass A(metaclass=M):\n    d = D()\n"
        "def go():\n    A()\ndef use(a: A):\n    a.d\n",
        {"go>M.__call__", "use>D.__get__"},
    ),
    "closures": ("def outer():\n    def inner(): ...\n    inner()\n    return inner\ndef go():\n    outer()()\n",
                 {"outer>outer.<locals>.inner", "go>outer", "go>outer.<locals>.inner"}),
    "a partial of its own name": (
        "import functools\ndef f(a, b=1): ...\nf = functools.partial(f, b=2)\ndef go():\n    f(1)\n", {"go>f"},
    ),
    "partials of each other": (
        "import functools\ndef f(call, *more):\n    call()\ndef g(): ...\none = functools.partial(f, g)\n"
        "two = functools.partial(one, 1)\nfor _ in 'ab':\n    one, two = functools.partial(two, 1), functools.partial(one, 2)\n"
        "def go():\n    two(3)\n",
        {"go>f", "f>g"},
    ),
    "a long line of partials": (
        "import functools\ndef f(*rest): ...\np0 = functools.partial(f, 0)\n"
        + "".join(f"p{n} = functools.partial(p{n - 1}, {n})\n" for n in range(1, 120))
        + "def go():\n    p119()\n",
        {"go>f"},
    ),
    "a model of a model": (
        "def f(x): ...\nEACH = [map, f, sorted]\nEACH.append(EACH)\ndef go():\n    for call in map(EACH[0], EACH, EACH):\n"
        "        list(map(call, EACH))\n",
        {"go>f"},
    ),
    "a class that is its own iterator": (
        "class M(type):\n    def __iter__(cls):\n        return cls\n    def __next__(cls): ...\nclass A(metaclass=M): ...\n"
        "def go():\n    for x in A: ...\n",
        {"go>M.__iter__", "go>M.__next__"},
    ),
}  # fmt: skip
OTHER = "def helper(): ...\ndef second(): ...\n"


def graph_of(folder: Path, text: str) -> CallGraph:
    package = folder / "app"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "other.py").write_text(OTHER, encoding="utf-8")
    (package / "main.py").write_text(dedent(text), encoding="utf-8")
    return call_graph(str(folder), ["app"])


@pytest.mark.parametrize("feature", CASES)
def test_features(feature: str, tmp_path: Path) -> None:
    text, expected = CASES[feature]
    found = {
        f"{caller.partition(':')[2]}>{callee.removeprefix('app.main:').removeprefix('app.').replace(':', '.')}"
        for caller, callee, _ in graph_of(tmp_path, text).edges()
        if not caller.endswith("<module>")
    }
    assert found == expected


def test_surer_candidates_come_first(tmp_path: Path) -> None:
    graph = graph_of(
        tmp_path,
        """
        class A:
            def run(self):
                self.hook()
            def hook(self): ...
        class B(A):
            def hook(self): ...
        """,
    )
    [site] = [site for site in graph.sites if site.name == "hook"]
    assert [candidate.function for candidate in site.candidates] == ["app.main:A.hook", "app.main:B.hook"]
    assert [candidate.how for candidate in site.candidates] == [How.EXACT, How.POSSIBLE]
    assert site.candidates[0].confidence > site.candidates[1].confidence
    assert (site.site.path, site.site.line) == ("app/main.py", 4)


def test_a_bad_file_is_told_and_the_rest_analysed(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from app import bad, circular\ndef go():\n    circular.f()\n", encoding="utf-8"
    )
    (package / "bad.py").write_text("x = 1\ndef f(:\n", encoding="utf-8")
    (package / "circular.py").write_text("import app\ndef f():\n    app.go()\n", encoding="utf-8")
    graph = call_graph(str(tmp_path), ["app", "native_or_missing"])
    [problem] = graph.problems
    assert problem.code == "SW202" and str(problem.site) == "app/bad.py:2"
    assert {(a, b) for a, b, _ in graph.edges()} == {("app:go", "app.circular:f"), ("app.circular:f", "app:go")}


def test_tests_inside_of_packages_are_left_out(tmp_path: Path) -> None:
    package = tmp_path / "app"
    (package / "tests").mkdir(parents=True)
    for path, text in (("__init__.py", ""), ("conftest.py", "def a(): ..."), ("tests/__init__.py", "def b(): ..."),
                       ("tests/test_x.py", "def c(): ...")):  # fmt: skip
        (package / path).write_text(text, encoding="utf-8")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "lib" / "tests.py").write_text(
        "def d(): ...", encoding="utf-8"
    )  # a module that happens to be called so
    assert [key for key in call_graph(str(tmp_path), ["app", "lib"]).functions if "<module>" not in key] == [
        "lib.tests:d"
    ]
