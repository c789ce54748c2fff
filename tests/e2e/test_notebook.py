"""A real notebook: a kernel with a running event loop uses an application as shards, and as one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cli_apps import environment, write_app

MANIFEST = """
[app]
name = "noted"
[components.front]
code = "front"
[components.pricing]
code = "pricing"
"""
FRONT = """\
import pricing


def total(n):
    return pricing.price(n) + 1


async def awaited(n):
    return await pricing.slowly(n)


def flip(point):
    return pricing.Point(point.y, point.x)


def apply(function, n):
    return function(n)
"""
PRICING = """\
import asyncio
from dataclasses import dataclass


@dataclass
class Point:
    x: int
    y: int


def price(n):
    try:
        return {1: 10}[n]
    except KeyError as error:
        raise ValueError(f"no price of {n}") from error


async def slowly(n):
    await asyncio.sleep(0.01)
    return n * 2
"""
# Each cell, and what must stand in what it shows.
CELLS = (
    ("import asyncio, sys, shardwright\nsys.path.insert(0, 'app')\nasyncio.get_running_loop().is_running()", "True"),
    ("node = shardwright.start('app', inproc=INPROC, state='state')\nnode", "node of noted, running"),
    ("session = node.session('mine')\nsession.call('front.total', 1)", "11"),
    ("session.call('front.awaited', 4)", "8"),
    ("from pricing import Point\nsession.call('front.flip', Point(1, 2))", r"Point(x=2, y=1)"),
    ("session.call('front.total', 7)", "raised in shards of front > pricing"),
    (
        "from dataclasses import dataclass\n@dataclass\nclass Own:\n    y: int\n    x: int\n\n"
        "session.call('front.flip', Own(1, 2))",
        "a class that only this script or notebook has",
    ),
    ("def double(n):\n    return 2 * n\nsession.call('front.apply', double, 3)", "exists there alone"),
    ("await asyncio.sleep(0.01)\nasyncio.get_running_loop().is_running()", "True"),
    ("await asyncio.to_thread(session.call, 'front.total', 1)", "11"),
    ("session.end()\nnode.close()\nnode", "closed"),
    (
        "async with shardwright.astart('app', inproc=INPROC, state='state') as node:\n"
        "    async with await node.session() as session:\n"
        "        print(await asyncio.gather(*(session.call('front.awaited', n) for n in range(5))))",
        "[0, 2, 4, 6, 8]",
    ),
)


# In a process of its own: the client leaves an event loop behind.
RUN = """\
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.mark.parametrize("inproc", [False, True])
def test_a_notebook_runs_an_application(tmp_path: Path, inproc: bool) -> None:
    write_app(tmp_path / "app", MANIFEST, front=FRONT, pricing=PRICING)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source.replace("INPROC", str(inproc)), id=f"cell-{number}")
        for number, (source, _) in enumerate(CELLS)
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    more = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], env=environment(tmp_path, more), cwd=tmp_path, capture_output=True,
        text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(path, as_version=4)
    for cell, (_, expected) in zip(notebook.cells, CELLS, strict=True):
        assert expected in shown(cell), f"{cell.source}\n---\n{shown(cell)}"
    raised = shown(notebook.cells[5])
    assert f"File {tmp_path}/app/front.py:5, in total()" in raised  # what a notebook makes a link of
    assert f"File {tmp_path}/app/pricing.py:15, in price()" in raised
    assert "----> 5     return pricing.price(n) + 1" in raised
    assert "The above exception was the direct cause" in raised
    assert "shardwright/guest" not in raised and "<call to" not in raised


def shown(cell: nbformat.NotebookNode) -> str:
    """What stands below a cell, without colours."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        elif output.output_type == "error":
            texts += [*output.traceback, str(output.evalue)]
        else:
            texts.append(output.data.get("text/plain", ""))
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(texts))
