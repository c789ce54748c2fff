"""Proposes a manifest for an application that has none: its parts as components, with what they read and write.

A little beyond 400 lines: one pass over the program, told as a manifest with its reasons.
"""

from __future__ import annotations

import ast
import json
import keyword
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from shardwright.errors import PlanError
from shardwright.model.manifest import Manifest
from shardwright.model.shard import MAIN_COMPONENT, Diagnostic
from shardwright.sharding._propose_web import web_application
from shardwright.sharding._scan import scan
from shardwright.sharding._scanned import Scan
from shardwright.sharding._settle import Settled, settle
from shardwright.sharding._source import SourceModule, SourceTree
from shardwright.sharding._symbols import Bind, Resolver

# modules that everything imports: values, errors, settings
_COMMON = re.compile(
    r"(__init__|__main__|__about__|_?version|main|cli|__?cli__?|command_?line|conftest|setup|_?types?|typing|_?models?|schemas?"
    r"|entities|errors?|exceptions?|_?constants?|consts?|config|conf|settings|logging|logs?|_?compat|tests?|testing|demo)$"
)
_NETWORK = {
    "socket": "a socket", "requests": "HTTP", "httpx": "HTTP", "aiohttp": "HTTP", "urllib3": "HTTP", "urllib": "HTTP",
    "http": "HTTP", "psycopg": "PostgreSQL", "psycopg2": "PostgreSQL", "asyncpg": "PostgreSQL", "pymysql": "MySQL",
    "MySQLdb": "MySQL", "redis": "Redis", "pymongo": "MongoDB", "smtplib": "SMTP", "ftplib": "FTP", "paramiko": "SSH",
    "boto3": "AWS", "botocore": "AWS", "grpc": "gRPC", "websockets": "WebSocket", "pika": "AMQP", "kafka": "Kafka",
    "elasticsearch": "Elasticsearch", "sqlalchemy": "a database", "ldap3": "LDAP",
}  # fmt: skip
_SKIPPED_FOLDERS = frozenset({
    "tests", "test", "testing", "docs", "doc", "examples", "example", "scripts", "tools", "build", "dist", "venv", "env",
    "site-packages", "node_modules", "migrations", "notebooks",
})  # fmt: skip
_LAUNCHERS = frozenset({"app", "run", "manage", "wsgi", "asgi"})  # beside a package, they start it
_DEEPEST = 4  # folders that are looked through for the modules of a namespace package
_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class _Part(Struct):
    """A component in the making."""

    name: str
    code: str
    modules: list[str]
    environment: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    network: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)
    depends_on: set[str] = field(default_factory=set)


def propose_manifest(folder: str | Path) -> str:
    """TOML text of a manifest for the application below ``folder``; it loads and plans as it stands.

    Raises PlanError when there is no Python module to propose, or one that cannot be parsed.
    """
    base = Path(folder).resolve()
    root = _import_root(base)
    tree = SourceTree(str(root))
    package = _top_package(base, root, tree)
    resolver = Resolver(tree)
    names = _candidates(tree, package, root)
    main = _main(tree, resolver, package, root)
    web, served = web_application(_loaded(tree, names))
    parts = _parts(tree, resolver, names, main.partition(":")[0])
    if not parts:
        raise PlanError(
            f"{base}: no module with functions or classes was found to make a component of",
            code="SW203",
            remedy="name the folder that holds the application's package",
        )
    candidates = _Candidates(tree, main.partition(":")[0], parts)
    manifest = Manifest(base.name, str(base / "shardwright.toml"), str(root), main)
    settled = settle(manifest, {part.name: part.code for part in parts}, candidates.taken_up)
    kept = [candidates.part(name, code) for name, code in settled.parts.items()] or [_whole(tree, package, main, parts)]
    front = next((part for part in kept if part.code == web), None)
    if front is None and web and not any(web in part.modules for part in kept):
        front = _Part(_component_name("web", kept), web, [web])
        kept.append(front)
    _fill(tree, resolver, kept)
    program = _program(tree, resolver, names, main.partition(":")[0], kept)
    if program.environment:
        kept.append(program)
    if front is not None:
        front.code = f"{web}:{served}"
    return _toml(base, root, package, main, kept, _remarks(settled), front)


def _loaded(tree: SourceTree, names: list[str]) -> list[SourceModule]:
    """The modules of these names, and those beneath them, that can be read."""
    found = [item for name in names for item in (name, *tree.beneath(name))]
    return [module for item in found if (module := tree.load(item)) is not None]


# -- finding the parts ---------------------------------------------------------------------------------------------


def _import_root(base: Path) -> Path:
    """The folder that goes on ``sys.path``: ``src``, the parent of a package, else the folder itself."""
    if not base.is_dir():
        raise PlanError(f"{base} is not a folder", code="SW203", remedy="name the folder that holds the application")
    if (base / "__init__.py").is_file():
        root = base.parent
        while (root / "__init__.py").is_file():
            root = root.parent
        return root
    source = base / "src"
    if source.is_dir() and not (source / "__init__.py").is_file() and _modules_in(source):
        return source
    return base


def _modules_in(folder: Path) -> list[str]:
    found = []
    for item in sorted(folder.iterdir()):
        if item.name.startswith((".", "_")) or not item.stem.isidentifier():
            continue
        if _is_package(item, _DEEPEST):
            found.append(item.name)
        elif item.suffix == ".py" and item.stem not in ("setup", "conftest") and not item.stem.startswith("test_"):
            found.append(item.stem)
    return found


def _is_package(item: Path, depth: int) -> bool:
    """Whether a folder is a package, or a namespace package: one without ``__init__`` that holds modules."""
    if not item.is_dir() or item.name in _SKIPPED_FOLDERS or not item.name.isidentifier() or item.name[0] == "_":
        return False
    if (item / "__init__.py").is_file():
        return True
    if not depth or (item / "pyvenv.cfg").exists():
        return False
    return any(
        (inner.suffix == ".py" and inner.stem.isidentifier() and inner.is_file()) or _is_package(inner, depth - 1)
        for inner in item.iterdir()
    )


def _top_package(base: Path, root: Path, tree: SourceTree) -> str:
    """The application's one package; empty when its modules lie side by side in the root."""
    if base != root and (base / "__init__.py").is_file():
        return ".".join(base.relative_to(root).parts)
    names = _modules_in(root)
    packages = [name for name in names if (place := tree.locate(name)) is not None and place.path and place.is_package]
    if not packages and not any(
        (root / f"{name}.py").is_file() and name not in _LAUNCHERS and not _COMMON.match(name) for name in names
    ):
        packages = [name for name in names if (place := tree.locate(name)) is not None and place.is_package]
    if len(packages) == 1:
        return packages[0]
    same = [name for name in packages if name == base.name.replace("-", "_")]
    return same[0] if same else ""


def _candidates(tree: SourceTree, package: str, root: Path) -> list[str]:
    """Direct submodules and subpackages of the package, or the modules in the root."""
    if not package:
        return _modules_in(root)
    children = {name for name in tree.beneath(package) if name.count(".") == package.count(".") + 1}
    place = tree.locate(package)
    if place is not None and not place.path:  # what is below a namespace package may be one, too
        children |= {f"{package}.{name}" for folder in place.folders for name in _modules_in(Path(folder))}
    return sorted(children) or [package]


def _main(tree: SourceTree, resolver: Resolver, package: str, root: Path) -> str:
    """``module:function`` of the program's main function; empty when there is none to be seen."""
    if package:
        candidates = [f"{package}.__main__", f"{package}.cli", f"{package}.main", f"{package}.app", package]
        candidates += [name for name in _modules_in(root) if name != package]
    else:
        candidates = ["main", "__main__", "cli", "app", *_modules_in(root)]
    for function in ("main", "cli", "run"):
        for name in candidates:
            symbols = resolver.symbols(name)
            binding = symbols.last(function) if symbols is not None else None
            if binding is None:
                continue
            # where it is defined, for importing a `__main__` often runs the program
            home = resolver.attribute(name, function)
            inner = resolver.binding(home)
            symbols = resolver.symbols(home.module)
            if inner is None or inner.kind is not Bind.FUNCTION or "." in home.name or symbols is None:
                continue
            if not _calls_at_import(symbols.module, home.name):
                return f"{home.module}:{home.name}"
    return ""


def _calls_at_import(module: SourceModule, function: str) -> bool:
    """Whether importing the module runs the function."""
    for statement in module.tree.body:
        if isinstance(statement, ast.Expr | ast.Raise):
            for item in ast.walk(statement):
                if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == function:
                    return True
    return False


class _Candidates(Struct):
    """What a part of a module would be."""

    tree: SourceTree
    main_module: str
    parts: list[_Part]

    def taken_up(self, module: str, parts: Mapping[str, str]) -> str | None:
        """The name of a part that owns that one module; None when it is no module of functions, or the program's own."""
        place = self.tree.locate(module)
        if module in parts.values() or module == self.main_module or place is None or place.is_package:
            return None
        if any(keyword.iskeyword(piece) for piece in module.split(".")) or self.tree.load(module) is None:
            return None
        if not _has_units(self.tree.loaded[module]):
            return None
        return _component_name(module.rpartition(".")[2], [_Part(name, code, []) for name, code in parts.items()])

    def part(self, name: str, code: str) -> _Part:
        return next((part for part in self.parts if part.code == code), None) or _Part(name, code, [code])


def _whole(tree: SourceTree, package: str, main: str, parts: list[_Part]) -> _Part:
    """One component for the program as it is: nothing is cut."""
    main_module = main.partition(":")[0]
    if package and (not main or main_module == package or main_module.startswith(f"{package}.")):
        code = package
    else:
        code = main_module or max(parts, key=lambda part: len(part.modules)).code
    modules = [item for item in (code, *tree.beneath(code)) if tree.load(item) is not None]
    return _Part(_component_name(code.rpartition(".")[2], []), code, modules)


def _remarks(settled: Settled) -> list[str]:
    """Comments: why what is not cut is not, and what the plan still warns of."""
    lines = []
    if not settled.parts:
        lines.append("# One component: every cut that was tried would change what the program does.")
    for code, finding in sorted(settled.given_up.items()):
        lines.append(f"# {code} is no component: {finding.code} {_said(finding)}")
    for finding in settled.told:
        lines.append(f"# Mind: {finding.code} {_said(finding)}")
    return lines


def _said(finding: Diagnostic) -> str:
    text = f"{finding.site}: {finding.message}" if finding.site is not None else finding.message
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _parts(tree: SourceTree, resolver: Resolver, names: list[str], main_module: str) -> list[_Part]:
    parts: list[_Part] = []
    alone = len(names) == 1
    for name in names:
        last = name.rpartition(".")[2]
        if any(keyword.iskeyword(piece) for piece in name.split(".")):
            continue
        if (_COMMON.match(last) and not alone) or (name == main_module and not alone):
            continue
        modules = [item for item in (name, *tree.beneath(name)) if tree.load(item) is not None]
        if main_module in modules and len(modules) == 1 and not alone:
            continue
        if not any(_has_units(tree.loaded[item]) for item in modules):
            continue
        parts.append(_Part(_component_name(last, parts), name, modules))
    return parts


def _component_name(last: str, parts: list[_Part]) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", last.lower()).strip("_") or "part"
    if not _PLAIN_NAME.match(name) or name == "main":
        name = f"part_{name}"
    taken = {part.name for part in parts}
    return name if name not in taken else f"{name}_{len(taken)}"


def _has_units(module: SourceModule) -> bool:
    """Whether a module has something to call: a function, or a class that does things."""
    for statement in module.tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            return True
        if isinstance(statement, ast.ClassDef) and any(
            isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("__")
            for item in statement.body
        ):
            return True
    return False


# -- filling them in -----------------------------------------------------------------------------------------------


def _fill(tree: SourceTree, resolver: Resolver, parts: list[_Part]) -> None:
    owners = {module: part for part in parts for module in part.modules}
    for part in parts:
        for module in part.modules:
            found = scan(resolver, tree.loaded[module])
            _touches(part, found)
            for name, _ in found.imports:
                other = owners.get(name)
                if other is not None and other is not part:
                    part.depends_on.add(other.name)
            part.network |= {_NETWORK[top] for top in _foreign_imports(found.module) if top in _NETWORK}
            part.keys += _shared_arguments(found.module)


def _program(tree: SourceTree, resolver: Resolver, names: list[str], main: str, parts: list[_Part]) -> _Part:
    """What runs the program where no part does: a section of its own names the variables that its code reads."""
    part = _Part(str(MAIN_COMPONENT), main, [])
    owned = {module for other in parts for module in other.modules}
    if main and main not in owned and tree.load(main) is not None:
        beneath = (item for name in names for item in (name, *tree.beneath(name)))
        for module in dict.fromkeys((main, *beneath)):
            if module not in owned and tree.load(module) is not None:
                part.environment |= _variables(scan(resolver, tree.loaded[module]))
    return part


def _variables(found: Scan) -> set[str]:
    return {touch.name for touch in found.touches if touch.kind == "environment" and _VARIABLE.match(touch.name)}


def _touches(part: _Part, found: Scan) -> None:
    part.environment |= _variables(found)
    for touch in found.touches:
        if touch.kind == "file" and _is_grantable(touch.name):
            (part.writes if touch.writes else part.reads).add(touch.name)


def _is_grantable(path: str) -> bool:
    """Whether a manifest may name the path: it stays below the application's folder, and holds no ``${NAME}``."""
    inside = path.startswith("/") or posixpath.normpath(path).split("/")[0] != ".."
    return bool(path) and "\0" not in path and "${" not in path and inside


def _foreign_imports(module: SourceModule) -> set[str]:
    found: set[str] = set()
    for item in ast.walk(module.tree):
        if isinstance(item, ast.Import):
            found |= {
                alias.name.partition(".")[0] for alias in item.names if alias.name not in ("http", "urllib.parse")
            }
        elif isinstance(item, ast.ImportFrom) and not item.level and item.module and item.module != "urllib.parse":
            found.add(item.module.partition(".")[0])
    return found


def _shared_arguments(module: SourceModule) -> list[str]:
    """First arguments of public functions: candidates for a key."""
    return [
        statement.args.args[0].arg
        for statement in module.tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        and not statement.name.startswith("_")
        and statement.args.args
    ]


# -- writing -------------------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: set[str]) -> str:
    return "[" + ", ".join(_text(value) for value in sorted(values)) + "]"


def _toml(
    base: Path, root: Path, package: str, main: str, parts: list[_Part], remarks: list[str], front: _Part | None
) -> str:
    app = re.sub(r"[^A-Za-z0-9._-]+", "-", package.rpartition(".")[2] or base.name).strip("._-")[:64] or "app"
    if root.is_relative_to(base):
        relative = root.relative_to(base).as_posix()
    else:  # a package folder: the manifest goes inside it
        relative = "/".join([".."] * len(base.relative_to(root).parts))
    lines = ["[app]", f"name = {_text(app)}"]
    lines.append(f"root = {_text(relative)}  # the folder that Python imports from, relative to this file")
    if main:
        lines.append(f"main = {_text(main)}  # what `shardwright run` executes")
    else:
        lines.append('# main = "module:function"  # what `shardwright run` executes')
    if remarks:
        lines += ["", *remarks]
    for part in parts:
        lines += ["", *_section(part)]
    if front is not None:
        lines += ["", "[gateway]", 'bind = "127.0.0.1:8000"', "", "[[routes]]", 'path = "/"']
        lines += [f"app = {_text(front.name)}"]
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "# [gateway]",
        '# bind = "127.0.0.1:8000"',
        "# [[routes]]",
        '# path = "/api/items/{item}"',
        '# methods = ["GET"]',
        f'# call = "{parts[0].name}.function"',
    ]
    return "\n".join(lines) + "\n"


def _section(part: _Part) -> list[str]:
    lines = [f"[components.{part.name}]", f"code = {_text(part.code)}"]
    if part.depends_on:
        lines.append(f"# imports {', '.join(sorted(part.depends_on))}; which of them it calls is read from the code")
    lines.append('scope = "shared"  # shared | session | request | key:<argument name>')
    key = _likely_key(part.keys)
    if key:
        lines.append(f'# scope = "key:{key}"  # one shard for each {key}')
    if part.environment:
        lines.append(f"env = {_list(part.environment)}")
    if part.reads or part.writes:
        parts = [f"read = {_list(part.reads - part.writes)}"] if part.reads - part.writes else []
        parts += [f"write = {_list(part.writes)}"] if part.writes else []
        lines.append(f"files = {{ {', '.join(parts)} }}")
    if part.network:
        lines.append(f'# network = {{ egress = ["host:port"] }}  # the code speaks {", ".join(sorted(part.network))}')
    lines.append('# resources = { cpu = 0.25, memory = "64MiB" }  # the guarantee')
    lines.append('# limits = { cpu = 1.0, memory = "256MiB" }  # the ceiling')
    return lines


def _likely_key(names: list[str]) -> str:
    """An argument that at least two functions, and most of them, begin with."""
    for name in sorted(set(names)):
        if names.count(name) >= 2 and names.count(name) * 2 > len(names) and name not in ("self", "cls", "args"):
            return name
    return ""
