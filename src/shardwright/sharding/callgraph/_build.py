"""From packages to a call graph."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from msgspec import Struct

from shardwright.model.shard import Site
from shardwright.sharding.callgraph._analysis import Analysis, CallSite, Lenient
from shardwright.sharding.callgraph._calls import Calls
from shardwright.sharding.callgraph._code import Function, Scope
from shardwright.sharding.callgraph._graph import CallGraph, Calling, Candidate, FunctionPlace, How
from shardwright.sharding.callgraph._guess import Guesses
from shardwright.sharding.callgraph._hints import Hints
from shardwright.sharding.callgraph._outside import Outside
from shardwright.sharding.callgraph._values import Slot
from shardwright.sharding.callgraph._walk import Walker

_CONFIDENCE = {How.EXACT: 0.95, How.POSSIBLE: 0.5, How.GUESS: 0.4, How.PATTERN: 0.4, How.OUTSIDE: 0.5}


def call_graph(root: str, packages: Sequence[str], *, search_path: tuple[str, ...] = ()) -> CallGraph:
    """The call graph of packages or modules, by dotted name, below ``root`` or on ``search_path``; imports none of them.

    A file that cannot be parsed is a problem of the graph (SW202, with file and line), and the rest is analysed. A
    package that is not there is left out, as are packages ``tests`` and modules ``conftest`` inside of others. The
    same files give the same graph.
    """
    return scan_packages(root, packages, search_path=search_path).graph


class Scanned(Struct, frozen=True):
    """A call graph with the analysis that it was read from; ``ids`` names the functions."""

    graph: CallGraph
    analysis: Analysis
    calls: Calls
    ids: dict[Function, str]


def scan_packages(root: str, packages: Sequence[str], *, search_path: tuple[str, ...] = ()) -> Scanned:
    """Like `call_graph`, with everything that was found on the way."""
    tree = Lenient(root, search_path)
    names: dict[str, None] = {}
    for package in packages:
        tree.adopt(package)
        names[package] = None
        names.update(dict.fromkeys(name for name in tree.beneath(package) if not _is_test(tree, name)))
    analysis, calls = analyse(tree, list(names))
    graph, ids = _result(analysis, tree)
    return Scanned(graph, analysis, calls, ids)


def _is_test(tree: Lenient, module: str) -> bool:
    """Whether a module within a package is of its tests: in a package ``tests``, or ``conftest``."""
    *above, last = module.split(".")[1:]
    if "tests" in above or last == "conftest":
        return True
    place = tree.locate(module) if last == "tests" else None
    return place is not None and place.is_package


def analyse(tree: Lenient, names: list[str]) -> tuple[Analysis, Calls]:
    """The analysis, run to its end."""
    analysis = Analysis(tree, names)
    calls = Calls(analysis)
    models = Outside(analysis, calls)
    hints = Hints(analysis)
    walker = Walker(analysis, calls, hints)
    models.walker = walker

    def evaluate(node: ast.expr, scope: Scope) -> Slot:
        outer, walker.scope = walker.scope, scope
        try:
            return walker.expression(node)
        finally:
            walker.scope = outer

    hints.evaluate = evaluate
    for module in analysis.modules.values():
        walker.module(module)
    walker.finish()
    analysis.solver.run()
    hints.fill()
    analysis.solver.run()
    guesses = Guesses(analysis, calls)
    guesses.missing()
    for most in (1, 2, 3):
        while guesses.spread(most):
            hints.fill()
            analysis.solver.run()
    return analysis, calls


def _result(analysis: Analysis, tree: Lenient) -> tuple[CallGraph, dict[Function, str]]:
    functions: dict[str, FunctionPlace] = {}
    ids: dict[Function, str] = {}
    for function in analysis.functions():
        key = function.id
        if key in functions:  # defined twice, under a condition or anew
            key = f"{key}@{function.line}"
            while key in functions:
                key += "'"
        ids[function] = key
        functions[key] = _place(function, key)
    sites = []
    for site in analysis.sites:
        if site.candidates:
            sites.append(_calling(site, ids))
    sites.sort(key=lambda item: (item.site.path, item.site.line, item.caller, item.kind, item.name))
    problems = tuple(tree.problems[name] for name in sorted(tree.problems))
    graph = CallGraph(dict(sorted(functions.items())), tuple(sites), len(analysis.sites), problems)
    return graph, ids


def _place(function: Function, key: str) -> FunctionPlace:
    node = function.node
    owner = function.owner.id if function.owner is not None else ""
    kind = "method" if owner else function.kind
    end = getattr(node, "end_lineno", None) or function.line
    source = function.module.source
    return FunctionPlace(
        key, source.name, function.qualname, source.relative, function.line, function.code_line, end, kind, owner,
        function.is_async, function.is_generator,
    )  # fmt: skip


def _calling(site: CallSite, ids: dict[Function, str]) -> Calling:
    found = sorted(
        (Candidate(ids[function], how, _CONFIDENCE[how]) for function, how in site.candidates.items()),
        key=lambda item: (item.how, item.function),
    )
    path = site.caller.module.source.relative
    return Calling(ids[site.caller], Site(path, site.line), site.kind, site.name, tuple(found))
