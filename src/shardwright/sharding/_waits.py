"""Waits that only another call of the same component could end: a shard takes one call at a time.

Found where it is plain to see: a class or module waits for a threading primitive of its own in one function, and tells it in
another. A component that starts threads of its own may tell from those, and where nobody starts threads, nobody waits in vain.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from shardwright.model.ids import ComponentName
from shardwright.model.shard import Diagnostic, Severity, Site
from shardwright.sharding._classes import classes_in
from shardwright.sharding._program import Program

_PRIMITIVES = {
    "threading.Condition": (frozenset({"wait", "wait_for"}), frozenset({"notify", "notify_all"})),
    "threading.Event": (frozenset({"wait"}), frozenset({"set"})),
    "queue.Queue": (frozenset({"get"}), frozenset({"put", "put_nowait"})),
    "queue.LifoQueue": (frozenset({"get"}), frozenset({"put", "put_nowait"})),
    "queue.PriorityQueue": (frozenset({"get"}), frozenset({"put", "put_nowait"})),
    "queue.SimpleQueue": (frozenset({"get"}), frozenset({"put", "put_nowait"})),
}
_LOOKS = frozenset({"empty", "qsize"})  # who looks first does not wait
_STARTERS = frozenset(
    {"Thread", "Timer", "ThreadPoolExecutor", "ThreadPool", "start_new_thread", "to_thread", "run_in_executor"}
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def waits_in_vain(program: Program, components: Iterable[ComponentName]) -> list[Diagnostic]:
    """SW273 for every such function of ``components``."""
    modules = sorted({*program.owners, *program.common})
    starting = {module for module in modules if _starts_threads(program, module)}
    if not starting and not program.manifest.routes:
        return []
    found = []
    for component in components:
        owned = program.owned_by(component)
        if not starting & set(owned):
            found += [finding for module in owned for finding in _module(program, component, module)]
    return found


def _starts_threads(program: Program, module: str) -> bool:
    for item in ast.walk(program.tree.loaded[module].tree):
        if isinstance(item, ast.Call):
            if ast.unparse(item.func).rpartition(".")[2] in _STARTERS:  # by its name: imports may stand anywhere
                return True
        elif isinstance(item, ast.ClassDef) and any(
            ast.unparse(base).rpartition(".")[2] in _STARTERS for base in item.bases
        ):
            return True
    return False


def _module(program: Program, component: ComponentName, module: str) -> Iterator[Diagnostic]:
    tree = program.tree.loaded[module].tree
    yield from _body(program, component, module, "", tree.body)
    for name, node in classes_in(tree):
        yield from _body(program, component, module, name, node.body)


def _body(
    program: Program, component: ComponentName, module: str, owner: str, body: list[ast.stmt]
) -> Iterator[Diagnostic]:
    functions = [item for item in body if isinstance(item, _Function)]
    primitives: dict[str, str] = {}  # "self.x", or a global's name -> its kind
    for place in functions if owner else body:
        for item in ast.walk(place) if owner else [place]:
            if isinstance(item, ast.Assign | ast.AnnAssign) and isinstance(item.value, ast.Call):
                ref = program.resolver.expression(module, item.value.func)
                known = f"{ref.module}.{ref.name}" if ref is not None else ""
                for target in item.targets if isinstance(item, ast.Assign) else [item.target]:
                    if known in _PRIMITIVES:
                        primitives[_named(target, place)] = known
    primitives.pop("", None)
    told: dict[str, list[tuple[str, int]]] = {}
    waited: list[tuple[_Function, str, ast.Call]] = []
    for function in functions:
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            name = _named(call.func.value, function)
            if name not in primitives:
                continue
            waiting, telling = _PRIMITIVES[primitives[name]]
            if call.func.attr in telling:
                told.setdefault(name, []).append((function.name, call.lineno))
            elif call.func.attr in waiting and not _unwaiting(call) and not _looks(function, name):
                waited.append((function, name, call))
    relative = program.tree.loaded[module].relative
    for function, name, call in waited:
        others = [(other, line) for other, line in told.get(name, []) if other != function.name]
        own = any(other == function.name for other, _ in told.get(name, []))
        if others and not own:
            shown = f"{owner}.{function.name}" if owner else function.name
            yield Diagnostic(
                "SW273",
                Severity.WARNING,
                f"{shown} waits for {name}, which {others[0][0]} ends ({relative}:{others[0][1]}); "
                f"a shard of {component} takes one call at a time, so no other call comes in while it waits",
                Site(relative, call.lineno),
                component,
                "let the caller ask again instead of waiting, or keep both sides in one component",
            )


def _named(node: ast.expr, function: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    arguments = function.args.args if isinstance(function, _Function) else []
    own = arguments[0].arg if arguments else ""
    if own and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own:
        return f"self.{node.attr}"
    return ""


def _unwaiting(call: ast.Call) -> bool:
    """``get(False)``, ``get(block=False)``"""
    values = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg in ("block", "timeout"))]
    return any(isinstance(value, ast.Constant) and value.value in (False, 0) for value in values)


def _looks(function: _Function, name: str) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr in _LOOKS and _named(item.value, function) == name
        for item in ast.walk(function)
    )
