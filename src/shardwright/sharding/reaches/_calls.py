"""What the arguments of a call say about its reach: a place by name, a buffer in memory, or nothing out of the ordinary."""

from __future__ import annotations

import ast
from collections.abc import Callable

from msgspec import Struct

from shardwright.sharding.reaches._known import FILES

# their first argument may be a buffer in memory, and then nothing is opened
_TAKE_BUFFERS = frozenset({
    "PIL.Image.open", "gzip.GzipFile", "gzip.open", "numpy.load", "numpy.loadtxt", "numpy.save", "numpy.savetxt",
    "numpy.savez", "numpy.savez_compressed", "wave.open", "xml.etree.ElementTree.parse", "zipfile.ZipFile",
})  # fmt: skip
_BY_BUFFER = {"gzip.GzipFile": "fileobj", "tarfile.open": "fileobj"}
# harmless but with such an argument
_BY_KEYWORD = {
    "logging.basicConfig": "filename",
    "pygments.formatters.HtmlFormatter": "cssfile",
    "argparse.ArgumentParser": "fromfile_prefix_chars",
}
_OPENERS = frozenset({"builtins.open", "io.open", "codecs.open"})
_DIALLERS = frozenset({"socket.create_connection", "asyncio.open_connection"})


class Said(Struct, frozen=True):
    """``nothing``: the call reaches nothing after all. Else where to, as far as its arguments say so literally."""

    nothing: bool = False
    place: str = ""
    writes: bool = False


def said_by(dotted: str, call: ast.Call, in_memory: Callable[[ast.expr], bool]) -> Said:
    """What a call of a name that reaches says. ``in_memory``: whether an expression is a buffer in memory."""
    first = call.args[0] if call.args else None
    if dotted in _TAKE_BUFFERS and first is not None and in_memory(first):
        return Said(nothing=True)
    by_name = _keyword(call, _BY_BUFFER.get(dotted, ""))
    if by_name is not None and in_memory(by_name):
        return Said(nothing=True)
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    if dotted == "sqlite3.connect":
        return Said(nothing=text == ":memory:" and not _unpacks(call), place=text, writes=True)
    if dotted in _OPENERS:
        mode = call.args[1] if len(call.args) > 1 else _keyword(call, "mode")
        return Said(place=text, writes=writes(mode) or _unpacks(call))
    if dotted in _DIALLERS:
        return Said(place=_address(dotted, call))
    return Said()


def reaches_by_keyword(dotted: str, call: ast.Call) -> str:
    """The kind of reach of a call of a name that reaches nothing by itself; empty for none."""
    name = _BY_KEYWORD.get(dotted)
    return FILES if name is not None and (_keyword(call, name) is not None or _unpacks(call)) else ""


def writes(mode: ast.expr | None) -> bool:
    """Whether a mode of ``open`` may write; what is computed may."""
    if mode is None:
        return False
    if not isinstance(mode, ast.Constant):
        return True
    return any(letter in str(mode.value) for letter in "wax+")


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None) if name else None


def _unpacks(call: ast.Call) -> bool:
    return any(each.arg is None for each in call.keywords) or any(isinstance(each, ast.Starred) for each in call.args)


def _address(dotted: str, call: ast.Call) -> str:
    parts: list[ast.expr] = list(call.args[:2])
    if dotted == "socket.create_connection":
        parts = list(call.args[0].elts) if call.args and isinstance(call.args[0], ast.Tuple) else []
    match parts:
        case [ast.Constant(value=str(host)), ast.Constant(value=int(port))]:
            return f"{host}:{port}"
    return ""
