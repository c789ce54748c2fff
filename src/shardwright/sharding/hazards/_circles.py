"""Functions that call each other in circles."""

from __future__ import annotations

from collections.abc import Iterator


def components(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972), without recursion, in order of discovery."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in sorted(edges):
        if root in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(root, iter(sorted(edges.get(root, ()))))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for item in following:
                if item not in index:
                    index[item] = low[item] = len(index)
                    stack.append(item)
                    on_stack.add(item)
                    work.append((item, iter(sorted(edges.get(item, ())))))
                    break
                if item in on_stack:
                    low[node] = min(low[node], index[item])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = []
                    while True:
                        item = stack.pop()
                        on_stack.discard(item)
                        group.append(item)
                        if item == node:
                            break
                    found.append(group)
    return found
