"""Proposed manifests: they load, and the application plans by them as it stands."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shardwright.errors import PlanError
from shardwright.manifest import load
from shardwright.model.shard import ShardPlan
from shardwright.sharding import alters, plan, propose_manifest

SHOP = {
    "shop/__init__.py": "",
    "shop/__main__.py": "import sys\nfrom shop.cli import main\nsys.exit(main())\n",
    "shop/cli.py": "from shop import orders\ndef main(): return orders.place('x')\n",
    "shop/errors.py": "class ShopError(Exception): ...\n",
    "shop/models.py": "class Item: ...\n",
    "shop/orders.py": """
        import os
        import psycopg
        from shop.errors import ShopError
        from shop.stock import take
        def place(name):
            key = os.environ["SHOP_KEY"], os.getenv("TZ")
            with open("orders.log", "a") as log:
                log.write(name)
            return take(name), open("prices.csv").read()
    """,
    "shop/stock/__init__.py": "from shop.stock.shelf import take\n",
    "shop/stock/shelf.py": "def take(item): return item\ndef put(item): return item\ndef rows():\n    yield 1\n",
}


def check(folder: Path, files: Mapping[str, str], start: str = "") -> tuple[str, ShardPlan]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")
    base = folder / start
    text = propose_manifest(base)
    assert propose_manifest(base) == text
    (base / "shardwright.toml").write_text(text, "utf-8")
    found = plan(load(base / "shardwright.toml"))
    assert [item for item in found.diagnostics if alters(item) and item.code != "SW233"] == []
    return text, found


def components(text: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text)["components"]
    return found


def test_a_package(tmp_path: Path) -> None:
    text, found = check(tmp_path, SHOP)
    assert tomllib.loads(text)["app"] == {"name": "shop", "root": ".", "main": "shop.cli:main"}
    assert components(text) == {
        "orders": {
            "code": "shop.orders", "scope": "shared", "env": ["SHOP_KEY", "TZ"],
            "files": {"read": ["prices.csv"], "write": ["orders.log"]},
        },
        "stock": {"code": "shop.stock", "scope": "shared"},
    }  # fmt: skip
    assert "the code speaks PostgreSQL" in text
    assert '# scope = "key:item"  # one shard for each item' in text
    assert {(edge.caller, edge.callee) for edge in found.edges} == {("main", "orders"), ("orders", "stock")}


def test_a_program_that_reads_the_environment_has_a_section_that_passes_it_on(tmp_path: Path) -> None:
    """Of its own module, and of those that are no component; without variables it needs none."""
    program = """
        import os
        from shop.config import where
        from shop.orders import place
        def main():
            where()
            place(os.getenv("MODE"))
    """
    config = "import os\ndef where():\n    return os.environ['PLACE']\n"
    text, found = check(tmp_path, SHOP | {"shop/cli.py": program, "shop/config.py": config})
    assert components(text)["main"] == {"code": "shop.cli", "scope": "shared", "env": ["MODE", "PLACE"]}
    assert {(edge.caller, edge.callee) for edge in found.edges} == {("main", "orders"), ("orders", "stock")}


def test_a_src_layout(tmp_path: Path) -> None:
    text, found = check(tmp_path, {f"src/{name}": source for name, source in SHOP.items()})
    assert tomllib.loads(text)["app"]["root"] == "src"
    assert found.definition("main").code.primary == "shop.cli"


def test_the_folder_of_the_package_itself(tmp_path: Path) -> None:
    text, found = check(tmp_path, SHOP, start="shop")
    assert tomllib.loads(text)["app"]["root"] == ".."
    assert set(components(text)) == {"orders", "stock"}
    assert found.root == str(tmp_path)


def test_loose_modules(tmp_path: Path) -> None:
    files = {
        "main.py": "import calc\ndef main(): return calc.add(1, 2)\nif __name__ == '__main__':\n    main()\n",
        "calc.py": "def add(a, b): return a + b\n",
        "draw.py": "class Pen:\n    def line(self): self.x = 1\n",
        "test_calc.py": "def test_add(): ...\n",
        "setup.py": "def run(): ...\n",
    }
    text, _ = check(tmp_path, files)
    assert set(components(text)) == {"calc", "draw"}
    assert tomllib.loads(text)["app"]["main"] == "main:main"


def test_a_single_script(tmp_path: Path) -> None:
    text, found = check(tmp_path, {"job.py": "def main(): return 1\n"})
    assert set(components(text)) == {"job"}
    assert [definition.component for definition in found.definitions] == ["job"]


def test_a_main_that_runs_when_imported_is_not_proposed(tmp_path: Path) -> None:
    text, _ = check(
        tmp_path, {"a/__init__.py": "", "a/__main__.py": "def main(): ...\nmain()\n", "a/b.py": "def f(): ...\n"}
    )
    assert "main" not in tomllib.loads(text)["app"]
    assert '# main = "module:function"' in text


def test_parts_that_would_be_refused_stay_common(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/lines.py": "def every(take):\n    take(1)\n",
        "a/count.py": "from a import lines\ndef count(): return lines.every(lambda x: x)\n",
        "a/other.py": "def f(): ...\n",
    }
    text, _ = check(tmp_path, files)
    assert set(components(text)) == {"count", "other"}


def test_awkward_names(tmp_path: Path) -> None:
    files = {
        "App_2/__init__.py": "", "App_2/_Core.py": "def f(x): return open('a\"b\\\\c.txt')\n",
        "App_2/été.py": "def g(): ...\n", "App_2/main_.py": "def h(): ...\n",
    }  # fmt: skip
    text, _ = check(tmp_path, files)
    assert sorted(part["code"] for part in components(text).values()) == ["App_2._Core", "App_2.main_", "App_2.été"]
    assert components(text)["core"]["files"]["read"] == ['a"b\\c.txt']


@pytest.mark.parametrize("under", ["", "src/"])
def test_a_namespace_package(tmp_path: Path, under: str) -> None:
    files = {
        "shop/prices.py": "def gross(net): return net * 2\n",
        "shop/till.py": "from shop import prices\ndef bill(items): return [prices.gross(net) for net in items]\n",
        "shop/parts/shelf.py": "def take(): ...\n",
        "main.py": "from shop.till import bill\ndef main(): return bill([1])\n",
    }
    beside = dict.fromkeys(("tests/test_x.py", ".venv/lib/x.py", ".hidden/y.py", "shop/tests/z.py"), "def f(:\n")
    text, found = check(tmp_path, {under + name: source for name, source in files.items()} | beside)
    assert {name: part["code"] for name, part in components(text).items()} == {
        "parts": "shop.parts", "prices": "shop.prices", "till": "shop.till"
    }  # fmt: skip
    assert {(edge.caller, edge.callee) for edge in found.edges} == {("main", "till"), ("till", "prices")}


def test_folders_that_are_no_packages(tmp_path: Path) -> None:
    files = {"calc.py": "def add(a, b): ...\n", "draw.py": "def pen(): ...\n", "my-notes/x.py": "def f(): ...\n",
             "data/table.txt": "", "myenv/pyvenv.cfg": "", "myenv/x.py": "def f(): ...\n"}  # fmt: skip
    assert set(components(check(tmp_path, files)[0])) == {"calc", "draw"}


def test_nothing_to_propose(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no module with functions"):
        propose_manifest(tmp_path)
    with pytest.raises(PlanError, match="is not a folder"):
        propose_manifest(tmp_path / "missing")
    (tmp_path / "a.py").write_text("def f(:\n")
    with pytest.raises(PlanError, match=r"a\.py:1") as caught:
        propose_manifest(tmp_path)
    assert caught.value.code == "SW202"


def codes(text: str) -> dict[str, str]:
    return {name: part["code"] for name, part in components(text).items()}


def test_state_that_several_parts_would_copy_gets_an_owner(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/settings.py": "SEEN = {}\ndef note(x):\n    SEEN[x] = 1\n    return len(SEEN)\n",  # by its name no candidate
        "a/one.py": "from a import settings\ndef f(): return settings.note(1)\n",
        "a/two.py": "from a import settings\ndef g(): return settings.note(2)\n",
        "a/cli.py": "from a import one, two\ndef main(): return one.f() + two.g()\n",
    }
    text, found = check(tmp_path, files)
    assert codes(text) == {"one": "a.one", "settings": "a.settings", "two": "a.two"}
    assert {(edge.caller, edge.callee) for edge in found.edges} >= {("one", "settings"), ("two", "settings")}


def test_state_that_cannot_have_an_owner_stays_with_one_part(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/feed.py": "SEEN = []\ndef rows(each):\n    SEEN.append(1)\n    each(SEEN)\n",
        "a/one.py": "from a import feed\ndef f(): return feed.rows(lambda x: x)\n",
        "a/two.py": "from a import feed\ndef g(): return feed.rows(lambda x: x)\n",
        "a/three.py": "def h(): return 1\n",
        "a/cli.py": "from a import three\ndef main(): return three.h()\n",
    }
    text, _ = check(tmp_path, files)
    assert codes(text) == {"one": "a.one", "three": "a.three"}
    assert "# a.feed is no component: SW266 a/one.py:2" in text
    assert "# a.two is no component: SW231 a/feed.py:3" in text


def test_a_program_that_no_cut_leaves_as_it_is_becomes_one_component(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/feed.py": "SEEN = []\ndef rows(each):\n    SEEN.append(1)\n    each(SEEN)\n",
        "a/one.py": "from a import feed\ndef f(): return feed.rows(lambda x: x)\n",
        "a/cli.py": "from a import feed, one\ndef main(): return one.f(), feed.rows(lambda x: x)\n",
    }
    text, found = check(tmp_path, files)
    assert codes(text) == {"a": "a"}
    assert "# One component: every cut that was tried would change what the program does." in text
    assert [definition.component for definition in found.definitions] == ["a"]


def test_loose_modules_that_no_cut_leaves_as_they_are(tmp_path: Path) -> None:
    files = {
        "main.py": "import feed\ndef main(): return feed.rows(lambda x: x)\n",
        "feed.py": "SEEN = []\ndef rows(each):\n    SEEN.append(1)\n    each(SEEN)\n",
    }
    text, found = check(tmp_path, files)
    assert codes(text) == {"part_main": "main"}
    assert found.edges == ()


def test_settings_of_the_process_that_others_would_miss(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/dice.py": "import random\ndef roll(): return random.random()\n",
        "a/seeds.py": "import random\ndef start(): random.seed(1)\n",
        "a/cli.py": "from a import dice, seeds\ndef main():\n    seeds.start()\n    return dice.roll()\n",
    }
    text, _ = check(tmp_path, files)  # the seed goes where the program is; the dice cannot be seen to need it
    assert codes(text) == {"a": "a"}


def test_what_is_left_to_mind_is_said(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/dice.py": "def roll(): return 1\n",
        "a/cli.py": "import logging\nfrom a import dice\ndef main():\n    logging.basicConfig()\n    return dice.roll()\n",
    }
    text, _ = check(tmp_path, files)
    assert codes(text) == {"dice": "a.dice"}
    assert "# Mind: SW233 a/cli.py:4: logging.basicConfig configures logging" in text


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"main.py": "import fastapi as f\napp: f.FastAPI = f.FastAPI()\n@app.get('/')\ndef root(): return 1\n"}, "main:app"),
        (
            {
                "shop/__init__.py": "",
                "shop/site.py": "from flask import Flask\ndef make():\n    return Flask('a')\nweb = make()\n",
            },
            "shop.site:web",
        ),
        (
            {
                "site_/__init__.py": "",
                "site_/asgi.py": "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n",
                "site_/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
            },
            "site_.wsgi:application",
        ),
    ],
)  # fmt: skip
def test_an_application_of_the_web_is_served(tmp_path: Path, files: dict[str, str], code: str) -> None:
    package = code.rpartition(".")[0].replace(".", "/")
    logic = {f"{package}/logic.py" if package else "logic.py": "def work(): return 1\n"}
    text, found = check(tmp_path, {**files, **logic})
    (served,) = tomllib.loads(text)["routes"]
    assert components(text)[served["app"]]["code"] == code and served["path"] == "/"
    assert tomllib.loads(text)["gateway"]["bind"].startswith("127.0.0.1")
    assert len(components(text)) == 2 and not found.refusals


def test_what_only_looks_like_one_is_not_served(tmp_path: Path) -> None:
    """Made when it is called, or of another package: what there is to serve is the author's to say."""
    text, _ = check(
        tmp_path,
        {
            "main.py": "from flask import Flask\nimport mine\ndef make(): return Flask('a')\napp = mine.Flask()\n",
            "mine.py": "def Flask(): return 1\n",
        },
    )  # fmt: skip
    assert "routes" not in tomllib.loads(text) and "# [gateway]" in text
