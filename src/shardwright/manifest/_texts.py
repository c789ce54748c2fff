"""Strings of the manifest that follow rules: code, names, paths, addresses, scopes."""

from __future__ import annotations

import ipaddress
import keyword
import posixpath

from shardwright.manifest._report import nearest
from shardwright.manifest._shapes import ListOf, Text
from shardwright.model.scope import Scope, ScopeKind

ISOLATIONS = ("auto", "process", "namespace", "oci:runc", "oci:crun", "oci:runsc", "oci:kata", "docker", "microvm")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
VARIABLE_PATTERN = "^[A-Za-z_][A-Za-z0-9_]*$"


def _names(text: str) -> str:
    """Every part between dots and colons must be an identifier that is no keyword."""
    for part in text.replace(":", ".").split("."):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise ValueError(f"{part!r} is no Python name")
    return text


def _inside(text: str) -> str:
    """A path that is absolute, or stays below the folder it is relative to."""
    if not text.startswith("/") and posixpath.normpath(text).split("/")[0] == "..":
        raise ValueError("it leaves the application's folder")
    return text


def _source(text: str) -> str:
    if text.startswith("file:"):
        _inside(text.removeprefix("file:"))
    return text


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:-1].partition("%")[0])
    if int(port) > 65535:
        raise ValueError("a port is at most 65535")
    return text


def _destination(text: str) -> str:
    if int(text.rpartition(":")[2]) == 0:
        raise ValueError("there is no port 0 to connect to")
    return _host_and_port(text)


def _scope(text: str) -> Scope:
    kind, _, argument = text.partition(":")
    if argument:
        _names(argument)
    return Scope(ScopeKind(kind), argument)


def _nearest_scope(text: str) -> str:
    kind = nearest(text.partition(":")[0], tuple(kind.value for kind in ScopeKind))
    return "key:<argument name>" if kind == ScopeKind.KEY else kind


def _route_path(text: str) -> str:
    parameters = []
    for segment in text.split("/"):
        if "{" not in segment and "}" not in segment:
            continue
        name = segment[1:-1].removesuffix(":path")
        if segment not in (f"{{{name}}}", f"{{{name}:path}}") or not (name.isidentifier() and name.isascii()):
            raise ValueError(
                f"{segment!r} is no whole segment like {{item}}; make it one, and take its text apart in the function"
            )
        if segment.endswith(":path}") and not text.endswith(f"/{segment}"):
            raise ValueError(f"{segment!r} takes all that is left, and comes last")
        if name in parameters:
            raise ValueError(f"{name!r} is used twice")
        parameters.append(name)
    return text


CODE = Text(
    'a module, package, module:function or module:Class, such as "shop.stock" or "shop.stock:Store"',
    r"^[^\s:.]+(\.[^\s:.]+)*(:[^\s:.]+)?$",
    _names,
)
FUNCTION = Text('"module:function"', r"^[^\s:.]+(\.[^\s:.]+)*:[^\s:.]+$", _names)
FUNCTIONS = ListOf(
    Text('a function or method, "module:function" or "module:Class.method"', r"^[^\s:]+:[^\s:]+$", _names)
)
VARIABLES = ListOf(Text('a context variable, "module:NAME"', r"^[^\s:.]+(\.[^\s:.]+)*:[^\s:.]+$", _names))
GROUPS = ListOf(FUNCTIONS, "an array of arrays of functions")
CLASS_NAMES = ListOf(Text('a class of this component, "Name" or "module:Name"', r"^([^\s:]+:)?[^\s:]+$", _names))
ALLOWED_CLASSES = ListOf(Text('a class as "module:Name"', r"^[^\s:]+:[^\s:]+$", _names))
COMPONENT_NAME = Text("the name of a component", "^[a-z][a-z0-9_]*$")
PATHS = ListOf(Text("a path below the application's folder, or an absolute one", r"^[^\x00]+$", _inside))
FILE = Text("a path below the application's folder, or an absolute one", r"^[^\x00]+$", _inside)
_ADDRESS = r"^(\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]|[A-Za-z0-9_.*-]+):[0-9]{1,5}$"
SCOPE = Text(
    "shared, session, request or key:<argument name>",
    r"^(shared|session|request|key:[^\s:.]+)$",
    _scope,
    near=_nearest_scope,
)
VARIABLE_NAME = Text("the name of an environment variable", VARIABLE_PATTERN)
APP_NAME = Text("a name of letters, digits, '.', '_' and '-'", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
SECRET = Text('"env:<NAME>" or "file:<path>"', r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:[^\x00]+)$", _source)
LISTEN_ADDRESS = Text('"host:port"', _ADDRESS, _host_and_port)
DESTINATION = Text('"host:port"', _ADDRESS, _destination)
ISOLATION = Text(
    "auto, process, namespace, docker or microvm",  # the others are words of the format; this version starts nothing with them
    "^(auto|process|namespace|oci:[A-Za-z0-9][A-Za-z0-9._-]*|docker|microvm)$",
    valid=("auto", "process", "namespace", "docker", "microvm"),
)
METHOD = Text("an HTTP method in capitals", "^[A-Z]+$", valid=_METHODS)
ROUTE_PATH = Text('a path such as "/api/items/{item}"', r"^/[^\s?#]*$", _route_path)
CALL = Text('"component.name"', r"^[a-z][a-z0-9_]*(\.[^\s.:]+)+$", _names)
