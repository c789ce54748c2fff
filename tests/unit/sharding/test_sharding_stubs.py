"""Generated modules: valid Python that runs by itself, with real values and proxies in their places."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from shardwright.errors import PlanError
from shardwright.model.shard import ShardPlan


class Face:
    """Stands for the guest: proxies that only say what they were declared as."""

    def __init__(self) -> None:
        self.declared: dict[str, dict[str, Any]] = {}

    def function(self, name: str, **about: Any) -> Any:
        self.declared[name] = about

        def proxy(*args: Any, **kwargs: Any) -> Any:
            return ("called", name, args)

        proxy.__name__ = name
        return proxy

    def handle_class(self, name: str, *, bases: tuple[type, ...] = (), **about: Any) -> type:
        self.declared[name] = {"bases": bases, **about}
        return type(name.rpartition(".")[2], bases, {"__qualname__": name})


class App(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the generated modules of a plan importable."""

    def __init__(self, plan: ShardPlan) -> None:
        self.plan = plan
        self.surfaces = {surface.module: surface for surface in plan.modules}
        self.faces: dict[str, Face] = {}
        self.owner: dict[str, Any] = {}  # what the owner would answer

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        surface = self.surfaces.get(fullname)
        if surface is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=surface.is_package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        self.faces[name] = module.__dict__["__shardwright__"] = Face()
        code = compile(self.surfaces[name].stub_source, f"<generated {name}>", "exec", dont_inherit=True)
        exec(code, module.__dict__)

        def __getattr__(asked: str) -> Any:
            try:
                return self.owner[asked]
            except KeyError:
                raise AttributeError(asked) from None

        module.__dict__["__getattr__"] = __getattr__


@pytest.fixture
def generate(plan_app: Any) -> Iterator[Any]:
    """``generate(source)`` -> (generated module, App); ``generate(files, "pkg")`` for a package."""
    apps: list[App] = []

    def make(source: Any, code: str = "m", **about: Any) -> tuple[ModuleType, App]:
        files = source if isinstance(source, dict) else {"m.py": source}
        app = App(plan_app(files, {"m": {"code": code, **about}}))
        apps.append(app)
        sys.meta_path.insert(0, app)
        return importlib.import_module(code), app

    yield make
    for app in apps:
        sys.meta_path.remove(app)
        for name in app.surfaces:
            sys.modules.pop(name, None)


def source_of(app: App, module: str = "m") -> str:
    return next(item.stub_source for item in app.plan.modules if item.module == module)


def test_constants_are_real_and_verbatim(generate: Any) -> None:
    source = '''
        """What it is for."""
        import re
        from decimal import Decimal
        from pathlib import Path
        __version__ = "1.2"
        __all__ = ["LIMIT", "f"]
        LIMIT: int = 5  # with its comment
        BIG = LIMIT * 1_000
        NAMES = frozenset({"a", "b"})
        PATTERN = re.compile(r"a+", re.I)
        TABLE = {
            "x": (1, 2),
            "y": [Decimal("1.5")],
        }
        A, B = 1, 2
        C = D = "both"
        SQUARES = [n * n for n in range(3)]
        WORDS = "one two".split()
        PLACE = Path("a") / "b"
        NEGATIVE = -1
        TEXT = f"{LIMIT}!"
        MATCH = PATTERN.match
        def f(): ...
    '''
    module, app = generate(source)
    assert module.__doc__ == "What it is for."
    assert module.__version__ == "1.2" and module.__all__ == ["LIMIT", "f"]
    assert (module.LIMIT, module.BIG, module.A, module.B, module.C, module.D) == (5, 5000, 1, 2, "both", "both")
    assert module.PATTERN.match("AA") and module.MATCH("aa")
    assert module.TABLE["y"][0] == 1.5 and module.SQUARES == [0, 1, 4] and module.WORDS == ["one", "two"]
    assert module.NEGATIVE == -1 and module.TEXT == "5!" and module.PLACE.name == "b"
    assert "LIMIT: int = 5  # with its comment" in source_of(app)


def test_what_only_the_owner_knows_is_left_out(generate: Any) -> None:
    source = """
        import os, time, json
        HOME = os.environ.get("HOME")
        STARTED = time.time()
        COUNT = 0
        CACHE = {}
        TABLE = {}
        for n in range(3):
            TABLE[n] = n
        LIST = []
        LIST.append(1)
        BUILT = dict(a=1)
        BUILT.update(b=2)
        def make(): return 3
        MADE = make()
        DERIVED = MADE + 1
        FILE = open
        def bump():
            global COUNT
            COUNT += 1
            CACHE[1] = COUNT
    """
    module, app = generate(source)
    for name in (
        "HOME",
        "STARTED",
        "COUNT",
        "CACHE",
        "TABLE",
        "LIST",
        "BUILT",
        "MADE",
        "DERIVED",
        "os",
        "time",
        "json",
    ):
        assert name not in vars(module), name
    app.owner["COUNT"] = 7
    assert module.COUNT == 7


def test_functions_are_declared_with_what_callers_need(generate: Any) -> None:
    source = '''
        def plain(a, /, b=1, *args, c, d="x", **kw):
            """Says it."""
        async def later(x=None): ...
        def many(): yield 1
        def fancy(a=object(), b=[1, 2], c=-1, d=LIMIT): ...
    '''
    module, app = generate(source.replace("def fancy", "LIMIT = 1\n        def fancy"))
    declared = app.faces["m"].declared
    assert declared["plain"]["signature"] == "(a, /, b=1, *args, c, d='x', **kw)"
    assert declared["plain"]["doc"] == "Says it." and declared["plain"]["line"] == 1
    assert declared["later"] == {
        "signature": "(x=None)",
        "doc": None,
        "is_async": True,
        "is_generator": False,
        "line": 3,
    }
    assert declared["many"]["is_generator"] is True
    assert declared["fancy"]["signature"] == "(a=..., b=[1, 2], c=-1, d=...)"
    assert module.plain(1) == ("called", "plain", (1,))


def test_decorators_are_dropped_and_wrappers_followed(generate: Any) -> None:
    source = """
        import functools
        from vendor import route
        def same(f):
            @functools.wraps(f)
            def inner(*args, **kwargs):
                return f(*args, **kwargs)
            return inner
        def first(f):
            def inner(x, y):
                return f(x)
            return inner
        def later(n):
            def deco(f):
                async def inner(x):
                    return f(x)
                return inner
            return deco
        @same
        def a(x, y=1): ...
        @first
        def b(z): ...
        @later(3)
        def c(z): ...
        @route("/")
        def d(z): ...
        @functools.lru_cache(maxsize=2)
        def e(z): ...
    """
    _, app = generate(source)
    declared = app.faces["m"].declared
    assert {name: declared[name]["signature"] for name in "abcde"} == {
        "a": "(x, y=1)", "b": "(x, y)", "c": "(x)", "d": "(*args, **kwargs)", "e": "(z)",
    }  # fmt: skip
    assert declared["c"]["is_async"] is True
    assert "vendor" not in source_of(app) and "functools" not in source_of(app)


def test_data_classes_exceptions_and_enums_are_real(generate: Any) -> None:
    source = '''
        from __future__ import annotations
        import enum
        from collections import namedtuple
        from dataclasses import dataclass, field
        from functools import total_ordering
        from typing import ClassVar, Generic, NamedTuple, NewType, Protocol, TypedDict, TypeVar

        T = TypeVar("T")
        UserId = NewType("UserId", int)
        LIMIT = 3

        class Problem(Exception):
            """It went wrong."""
            def __init__(self, a, b):
                super().__init__(a)
                self.b = b

        @enum.unique
        class Colour(enum.Enum):
            RED = 1
            BLUE = LIMIT

        @total_ordering
        @dataclass(slots=True)
        class Item:
            name: str
            tags: list[str] = field(default_factory=list)
            limit: int = LIMIT
            kinds: ClassVar[dict[str, Colour]] = {"red": Colour.RED}
            other: "Item | None" = None

            class Meta:
                size = LIMIT

            def __lt__(self, other): return self.name < other.name
            def check(self):
                if len(self.tags) > LIMIT:
                    raise Problem(self.name, 1)
                return helper(self.name)

        class Pair(NamedTuple):
            a: int
            b: str = "x"

        class Shape(TypedDict, total=False):
            a: int

        class Steps(Protocol):
            def step(self) -> None: ...

        class Box(Generic[T]):
            __slots__ = ("value",)
            def __init__(self, value: T): self.value = value

        Point = namedtuple("Point", "x y")
        ORIGIN = Point(0, 0)

        class Spot(namedtuple("Spot", "x y")):
            __slots__ = ()
            def sum(self): return self.x + self.y
        FIRST = Item("first")
        DEFAULT = Colour.RED
        Colour.FAVOURITE = Colour.BLUE
        Item.ZERO = Item("zero")

        def helper(x): return x
    '''
    module, app = generate(source)
    assert str(module.Problem("x", 2)) == "x" and module.Problem("x", 2).b == 2
    assert module.Colour(3) is module.Colour.BLUE is module.Colour.FAVOURITE
    item = module.Item("a")
    assert item < module.Item("b") and item.limit == 3 and module.Item.Meta.size == 3
    assert item.check() == ("called", "helper", ("a",))
    assert "limit" in module.Item.__slots__ and "kinds" not in module.Item.__slots__
    assert module.Pair(1) == (1, "x") and module.Box[int](3).value == 3 and module.UserId(3) == 3
    assert module.ORIGIN.x == 0 and module.FIRST.name == "first" and module.DEFAULT is module.Colour.RED
    assert module.Item.ZERO.name == "zero" and module.Spot(1, 2).sum() == 3
    assert set(app.plan.value_classes) >= {
        "m:Problem", "m:Colour", "m:Item", "m:Item.Meta", "m:Pair", "m:Box", "m:Point", "m:Spot",
    }  # fmt: skip


def test_methods_of_copied_classes_find_the_names_of_their_module(generate: Any) -> None:
    source = """
        import json
        import logging
        from dataclasses import dataclass
        LIMIT = 2
        STOCK = {}
        log = logging.getLogger(__name__)

        def rate(n): return n

        class World:
            def step(self): self.t = 1

        @dataclass
        class Item:
            name: str
            def show(self):
                log.debug("x")
                return json.dumps([self.name, LIMIT, STOCK.get(self.name), [STOCK for _ in range(1)]])
            def shadow(self, STOCK):
                return STOCK
            def ask(self): return rate(1)
            def world(self): return World()

        def put(n):
            STOCK[n] = 1
    """
    module, app = generate(source)
    app.owner["STOCK"] = {"a": 9}
    assert module.Item("a").show() == '["a", 2, 9, [{"a": 9}]]'
    assert module.Item("a").shadow(4) == 4
    assert module.Item("a").ask() == ("called", "rate", (1,))
    assert type(module.Item("a").world()) is module.World
    assert module.log.name == "m"


def test_stateful_classes_are_handles(generate: Any) -> None:
    source = '''
        from abc import ABC, abstractmethod
        from dataclasses import dataclass
        from functools import cached_property

        class Steps(ABC):
            @abstractmethod
            def step(self): ...

        class World(Steps):
            """A world."""
            SIZE = 3
            seen = []
            @dataclass
            class Config:
                a: int = 1
            class Part:
                def move(self): self.x = 1
            def __init__(self, name, size=3): self.t = 0
            def step(self, dt=0.1):
                """Goes on."""
                self.t += dt
            async def wait(self): ...
            def ticks(self): yield 1
            @property
            def now(self): return self.t
            @now.setter
            def now(self, value): self.t = value
            @cached_property
            def far(self): return 1
            @staticmethod
            def unit(x): ...
            @classmethod
            def small(cls, x): ...
            def __len__(self): return 1
            def __getstate__(self): return {}

        class Small(World):
            def shrink(self): ...

        class Bare:
            def put(self, x): self.x = x
    '''
    module, app = generate(source)
    declared = app.faces["m"].declared
    about = declared["World"]
    assert about["doc"] == "A world." and about["signature"] == "(self, name, size=3)" and about["line"] == 9
    assert {name: method["kind"] for name, method in about["methods"].items()} == {
        "__len__": "method", "far": "property", "now": "property", "small": "class", "step": "method",
        "ticks": "method",
        "unit": "static", "wait": "method",
    }  # fmt: skip
    assert about["methods"]["step"] == {
        "kind": "method", "is_async": False, "is_generator": False, "signature": "(self, dt=0.1)", "doc": "Goes on.",
    }  # fmt: skip
    assert about["methods"]["wait"]["is_async"] is True
    assert declared["Small"]["bases"] == (module.World,) and "step" in declared["Small"]["methods"]
    assert declared["Small"]["signature"] == "(self, name, size=3)" and declared["Bare"]["signature"] == "(self)"
    assert module.World.SIZE == 3 and not hasattr(module.World, "seen")
    assert module.World.Config(2).a == 2 and module.World.Config.__qualname__ == "World.Config"
    assert module.World.Part.__qualname__ == "World.Part" and "move" in declared["World.Part"]["methods"]
    assert isinstance(module.World(), module.Steps)
    assert set(app.plan.stateful_classes) == {"m:World", "m:World.Part", "m:Small", "m:Bare"}


def test_reexports_of_a_package_are_plain_imports(generate: Any) -> None:
    files = {
        "pkg/__init__.py": """
            from . import errors, html
            from .html import render as show
            from .store import *
            from .errors import Missing
            import json
            __all__ = ["show", "Missing"]
        """,
        "pkg/html.py": "def render(text): return text\n",
        "pkg/errors.py": "class Missing(Exception): ...\n",
        "pkg/store.py": "from .errors import Missing\nclass Store:\n    def put(self): self.x = 1\n    E = Missing\n",
    }
    module, app = generate(files, "pkg")
    assert module.show is sys.modules["pkg.html"].render
    assert module.Missing is sys.modules["pkg.errors"].Missing
    assert module.Store is sys.modules["pkg.store"].Store
    assert module.html is sys.modules["pkg.html"]
    assert "json" not in vars(module)
    assert "import pkg.html as html" in source_of(app, "pkg")


def test_what_the_owner_answers_is_not_asked_for_while_importing(generate: Any) -> None:
    files = {
        "pkg/__init__.py": """
            from .state import TABLE, LIMIT, Later
            from .star import *
            from .star import World
            from .chain import MORE
            TOP = World.SIZE
            from dataclasses import dataclass
            SIZE = LIMIT + 1
            FIRST = TABLE["x"]
            HIDDEN = World.seen
            KIND = World[int]
            @dataclass
            class Item:
                n: int = 1
                def look(self): return TABLE, FIRST
        """,
        "pkg/state.py": "LIMIT = 3\nTABLE = {}\nTABLE['x'] = 1\nclass Later(Exception): ...\n",
        "pkg/chain.py": "from .state import TABLE\nMORE = dict(TABLE)\n",
        "pkg/star.py": """
            import os
            from .state import LIMIT as BOUND
            __all__ = ["World", "HOME", "PLAIN", "BOUND", "go"]
            HOME = os.environ.get("HOME")
            PLAIN = 1
            class World:
                SIZE = 3
                seen = []
                def step(self): self.t = 1
            def go(): ...
        """,
    }
    module, app = generate(files, "pkg")
    assert (module.SIZE, module.LIMIT, module.PLAIN, module.BOUND) == (4, 3, 1, 3)
    assert module.TOP == 3 and module.World is sys.modules["pkg.star"].World and module.go() == ("called", "go", ())
    for name in ("TABLE", "MORE", "FIRST", "HOME", "HIDDEN", "KIND"):
        assert name not in vars(module), name
    app.owner.update(TABLE="t", FIRST="f")
    assert module.Item().look() == ("t", "f")


def test_conditions_on_type_checking_and_versions_together(generate: Any) -> None:
    source = """
        import collections
        import sys
        from typing import TYPE_CHECKING, NamedTuple
        if sys.version_info >= (3, 99) or TYPE_CHECKING:
            class Result(NamedTuple):
                out: str
        else:
            class Result(collections.namedtuple("Result", ["out"])):
                __slots__ = ()
        def f(): ...
    """
    module, app = generate(source)
    assert module.Result("x").out == "x"
    assert app.plan.value_classes == ("m:Result",)


def test_conditional_definitions(generate: Any) -> None:
    source = """
        import os
        import sys
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import vendor
            from vendor import Thing
        else:
            OTHER = 1
        if not TYPE_CHECKING:
            RUNS = True
        if sys.version_info >= (3, 8):
            NEW = "new"
            def pick(): ...
        else:
            NEW = "old"
            def pick(): ...
        if sys.platform == "nothing":
            class Plat(Exception): ...
        else:
            class Plat(Exception):
                text = '''two
        lines'''
        if os.environ.get("FAST"):
            MODE = 1
            class Fast(Exception): ...
        else:
            MODE = 2
        try:
            import nothing_like_this as fast
            HAVE = True
        except ImportError:
            fast = None
            HAVE = False
        try:
            from nothing_like_this import quick
        except ImportError:
            def quick(x): ...
        try:
            import json as codec
        except ImportError:
            codec = None
        finally:
            pass
        class Uses(Exception):
            def show(self): return codec.dumps(1), fast
        if __name__ == "__main__":
            LATE = 1
            raise SystemExit
        with open(__file__) as stream:
            TEXT = stream.read()
        while False:
            pass
    """
    module, _app = generate(source)
    assert module.OTHER == 1 and module.RUNS is True and module.NEW == "new"
    assert module.Plat.text == "two\nlines"
    assert module.Uses().show() == ("1", None)
    assert module.pick() == ("called", "pick", ()) and module.quick(1) == ("called", "quick", (1,))
    assert issubclass(module.Fast, Exception)
    for name in ("MODE", "LATE", "TEXT", "stream", "vendor", "Thing"):
        assert name not in vars(module), name
    assert module.HAVE is False


def test_classes_that_cannot_be_rebuilt_elsewhere(generate: Any) -> None:
    source = """
        import os
        from dataclasses import dataclass
        HOME = os.environ.get("HOME")
        def make(): return 1
        def register(cls):
            SEEN.append(cls)
            return cls
        SEEN = []
        @dataclass
        class Settings:
            home: str = HOME
        @dataclass
        class Made:
            n: int = make()
        class Odd(Exception):
            home = HOME
        @register
        @dataclass
        class Kept:
            n: int = 1
    """
    module, app = generate(source)
    assert {"m:Settings", "m:Made"} <= set(app.plan.stateful_classes)
    assert issubclass(module.Odd, Exception)
    assert module.Kept(2).n == 2 and "register" not in source_of(app).split("class Kept")[0].split("@")[-1]
    found = [(item.code, item.site and item.site.line) for item in app.plan.diagnostics if item.code == "SW250"]
    assert found == [("SW250", 10), ("SW250", 13), ("SW250", 15)]


def test_lines_that_hold_several_statements(generate: Any) -> None:
    source = "import os; A = 1; B = os.getpid(); C = A + 1\nclass E(Exception): pass\ndef f(): return 1\n"
    module, _ = generate(source)
    assert (module.A, module.C) == (1, 2) and "B" not in vars(module) and issubclass(module.E, Exception)


def test_heavy_libraries_are_imported_only_where_they_are_needed(generate: Any) -> None:
    source = """
        import nothing_like_this as np
        from nothing_like_this import kinds
        KIND = np.float32
        LIMIT = 3
        def f(x: np.ndarray) -> kinds.Real: ...
    """
    module, app = generate(source)
    assert module.LIMIT == 3 and "KIND" not in vars(module)
    assert "nothing_like_this" not in source_of(app)


def test_a_stdlib_module_asked_for_through_the_module_stays(plan_app: Any) -> None:
    files = {"m.py": "import json\ndef f(): ...\n", "n.py": "import m\ndef g(): return m.json.dumps(1)\n"}
    plan = plan_app(files, {"m": "m", "n": "n"})
    assert "import json" in plan.modules[0].stub_source
    assert plan.edges == ()


def test_deleted_names_are_gone(generate: Any) -> None:
    module, _ = generate("tmp = 3\nA = tmp + 1\ndel tmp\nfor i in range(2): pass\ndel i\ndef f(): ...\n")
    assert module.A == 4 and "tmp" not in vars(module)


def test_docstrings_with_quotes_and_escapes(generate: Any) -> None:
    text = '''r"""A \\d and "quotes"."""\nA = 1\ndef f(): ...\n'''
    module, _ = generate(text)
    assert module.__doc__ == 'A \\d and "quotes".'


NEW_SYNTAX = """
        from dataclasses import dataclass
        type Names = list[str]
        type Pair[T] = tuple[T, T]
        @dataclass
        class Box[T]:
            value: T
            def get(self) -> T: return self.value
        def first[T](items: list[T]) -> T: ...
        class Mutable[T]:
            def put(self, x: T) -> None: self.x = x
    """

if sys.version_info >= (3, 12):

    def test_type_parameters_and_aliases(generate: Any) -> None:
        module, app = generate(NEW_SYNTAX)
        assert module.Box(3).get() == 3
        assert app.faces["m"].declared["first"]["signature"] == "(items)"
        assert app.plan.stateful_classes == ("m:Mutable",)

else:

    def test_syntax_of_a_newer_python_is_bad_syntax_here(generate: Any) -> None:
        with pytest.raises(PlanError, match=r"m\.py:2: ") as caught:
            generate(NEW_SYNTAX)
        assert caught.value.code == "SW202"


def test_every_generated_module_is_valid_and_the_same_each_time(plan_app: Any) -> None:
    files = {
        "m.py": textwrap.dedent(
            "import re\nA = {'b', 'a'}\nclass W:\n    def b(self): self.x=1\n    def a(self): ...\n"
        )
    }
    one, two = plan_app(files, {"m": "m"}), plan_app(files, {"m": "m"})
    assert one.modules == two.modules
    ast.parse(one.modules[0].stub_source)
    assert len(one.modules[0].source_sha256) == 64
