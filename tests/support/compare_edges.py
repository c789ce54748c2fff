"""How much of what a package's own tests executed does analysis find? Needs the edges that `executed_edges` wrote.

    python tests/support/compare_edges.py /path/to/site-packages/httpie edges.json [--missed]

Prints one JSON object: recall of the direct edges that ran, candidates per call site (over sites that have any), processor
time of the scan, and how often edges of each kind were executed where their caller was (for the confidences).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from shardwright.sharding.callgraph import CallGraph, How, call_graph

_FOLDED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
Place = tuple[str, int, str]


class Vertices:
    """Finds the function of a code object."""

    def __init__(self, graph: CallGraph, package: str) -> None:
        self._exact: dict[Place, str] = {}
        self._bodies: dict[str, str] = {}
        self._spans: dict[str, list[tuple[int, int, str, str]]] = {}
        for function in graph.functions.values():
            path = Path(function.path).relative_to(package).as_posix()
            name = function.qualname.rpartition(".")[2]
            if function.kind == "module":
                self._bodies[path] = function.id
            else:
                self._exact[path, function.code_line, name] = function.id
                self._spans.setdefault(path, []).append((function.code_line, function.end_line, name, function.id))

    def of(self, path: str, line: int, qualname: str) -> str | None:
        """The function; for a comprehension or the body of a class the function around it, or the module."""
        parts = qualname.split(".")
        folded = parts[-1] in _FOLDED
        while parts and parts[-1] in (*_FOLDED, "<locals>"):
            parts.pop()
        name = parts[-1] if parts else "<module>"
        if not folded and (path, line, name) in self._exact:
            return self._exact[path, line, name]
        inside = [
            span for span in self._spans.get(path, ()) if span[0] <= line <= span[1] and (not folded or span[2] == name)
        ]
        return max(inside)[3] if inside else self._bodies.get(path)


def compare(package: Path, edges: Path) -> dict[str, Any]:
    """The figures, and under ``missed`` the edges that ran and were not found."""
    begun = time.process_time()
    graph = call_graph(str(package.parent), [package.name])
    spent = time.process_time() - begun
    vertices = Vertices(graph, package.name)
    ran, unknown = set[tuple[str, str]](), 0
    for caller, callee in json.loads(edges.read_text(encoding="utf-8")):
        pair = vertices.of(*caller), vertices.of(*callee)
        if pair[0] is None or pair[1] is None:
            unknown += 1
        elif not pair[1].endswith(":<module>"):
            ran.add((pair[0], pair[1]))
    found = {(caller, callee) for caller, callee, _ in graph.edges()}
    kinds: dict[tuple[str, str], How] = {}
    for site in graph.sites:
        for candidate in site.candidates:
            key = (site.caller, candidate.function)
            kinds[key] = min(candidate.how, kinds.get(key, candidate.how))
    callers = {caller for caller, _ in ran}
    seen, hit = Counter[str](), Counter[str]()
    for (caller, callee), how in kinds.items():
        if caller in callers:
            seen[how.name] += 1
            hit[how.name] += (caller, callee) in ran
    return {
        "package": package.name,
        "functions": len(graph.functions),
        "executed_edges": len(ran),
        "unknown_code": unknown,
        "recall": round(len(ran & found) / max(1, len(ran)), 4),
        "sites": len(graph.sites),
        "candidates_per_site": round(graph.candidates_per_site, 3),
        "scan_cpu_s": round(spent, 2),
        "executed_share": {name: f"{hit[name]}/{seen[name]}" for name in sorted(seen)},
        "missed": sorted(f"{caller} -> {callee}" for caller, callee in ran - found),
    }


if __name__ == "__main__":
    figures = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    if "--missed" not in sys.argv:
        del figures["missed"]
    print(json.dumps(figures, indent=1))
