"""One invocation: what the environment and the common options say, and how results are shown."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])


class Invocation(Struct):
    """``json``: results are JSON on stdout, errors JSON on stderr. ``starting``: a failure now is one to start."""

    environment: Mapping[str, str]
    json: bool = False
    debug: bool = False
    starting: bool = False

    def console(self, *, stderr: bool = False) -> Console:
        """Colours at a terminal, unless NO_COLOR is set; plain text elsewhere."""
        plain = bool(self.environment.get("NO_COLOR")) or self.environment.get("TERM") == "dumb"
        return Console(stderr=stderr, no_color=plain, highlight=False, soft_wrap=True, emoji=False)

    def result(self, value: Any) -> None:
        """One JSON object on stdout."""
        indent = 2 if sys.stdout.isatty() else None
        click.echo(shown(json.dumps(value, indent=indent, ensure_ascii=False, default=str)))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]], *, stderr: bool = False) -> None:
        """Aligned columns; cut at the width of a terminal, never elsewhere."""
        console = self.console(stderr=stderr)
        held = [[_printable(cell) for cell in row] for row in rows]
        if not console.is_terminal:
            widths = [max(len(line[i]) for line in [list(headers), *held]) for i in range(len(headers))]
            for line in [list(headers), *held]:
                text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
                click.echo(text.rstrip(), err=stderr)
            return
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for header in headers:
            table.add_column(header, overflow="ellipsis", no_wrap=True)
        for line in held:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table, soft_wrap=False)


def _printable(text: str) -> str:
    """Other people's text must not move our cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("[\n-\r\x1c-\x1e\x85\u2028\u2029]")  # wherever str.splitlines, or a terminal, ends one


def harmless(text: str) -> str:
    """``text`` with everything escaped that a terminal would obey, but for ends of lines and tabs."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """``text`` with the ends of lines in it escaped: what a shard says is not to look like a line of somebody else's."""
    return _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(text: str, *, err: bool = False) -> str:
    """What shards say, for stdout or stderr: harmless where that is a terminal, as it is elsewhere."""
    return harmless(text) if (sys.stderr if err else sys.stdout).isatty() else text


def clock_time(wall_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(wall_s)) + f".{int(wall_s % 1 * 1000):03d}"


def common_options(function: F) -> F:
    """``--json`` and ``--debug``, and the Invocation as first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option("--debug", is_flag=True, help="Show Shardwright's own traceback when something fails.")
    @click.pass_obj
    @functools.wraps(function)
    def wrapped(invocation: Invocation, /, *args: Any, as_json: bool, debug: bool, **kwargs: Any) -> Any:
        invocation.json, invocation.debug = as_json, debug
        return function(invocation, *args, **kwargs)

    return wrapped  # type: ignore[return-value]
