"""What methods of containers do with what they are given."""

from __future__ import annotations

import ast

from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._calls import Calls
from shardwright.sharding.callgraph._values import BoxMethodValue, BoxValue, Slot


class Boxes:
    """Containers by the place that makes them."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.solver = calls.solver

    def _apply_to(self, function: Slot, arguments: list[Slot], result: Slot, call: Call) -> None:
        self.calls.within(call, Call(call.site, function, [(slot, False) for slot in arguments], [], result))

    def _sort(self, box: BoxValue, call: Call) -> None:
        key = call.keyword("key")
        if key is not None:
            self._apply_to(key, [box.every], Slot(), call)
        else:
            self.calls.special(box.every, "__lt__", [box.every], Slot(), call.site)

    def box_method(self, value: BoxMethodValue, call: Call) -> None:
        """``box.append(x)`` and the like."""
        box, name, solver = value.box, value.name, self.solver
        arguments = [slot for slot, _ in call.arguments]
        match name:
            case "append" | "add" | "appendleft" | "send" | "remove" | "discard" | "index" | "count":
                if arguments and name in ("append", "add", "appendleft"):
                    solver.flow(arguments[0], box.rest)
            case "insert":
                if len(arguments) > 1:
                    solver.flow(arguments[1], box.rest)
            case "extend" | "extendleft" | "intersection_update" | "symmetric_difference_update":
                for slot in arguments:
                    self.calls.iterate(slot, box.rest, call.site)
            case "update" if box.kind != "dict":
                for slot in arguments:
                    self.calls.iterate(slot, box.rest, call.site)
            case "update":
                for slot in arguments:
                    self.calls.merged(slot, box)
                    self.calls.iterate(slot, call.box("item").rest, call.site)
                for key, slot in call.keywords:
                    if key is None:
                        self.calls.merged(slot, box)
                    else:
                        solver.flow(slot, solver.item(box, key))
            case "get" | "pop" | "setdefault" | "popleft" | "popitem" | "__getitem__":
                self._take(box, name, arguments, call)
            case "items":
                result, pair = call.box("iterator"), call.box("tuple", box)
                solver.add(call.result, result)
                solver.add(result.rest, pair)
                solver.flow(box.keys, solver.item(pair, 0))
                solver.flow(box.every, solver.item(pair, 1))
            case "values" | "keys":
                result = call.box("iterator", box)
                solver.add(call.result, result)
                solver.flow(box.every if name == "values" else box.keys, result.rest)
            case "copy" | "union" | "intersection" | "difference" | "symmetric_difference":
                solver.add(call.result, box)
                for slot in arguments:
                    solver.flow(slot, call.result)
            case "sort":
                self._sort(box, call)
            case _:
                return

    def _take(self, box: BoxValue, name: str, arguments: list[Slot], call: Call) -> None:
        solver = self.solver
        key = call.node.args[0] if call.node is not None and call.node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            item = solver.item(box, key.value)
            solver.flow(item, call.result)
            solver.flow(box.rest, call.result)
            if name == "setdefault" and len(arguments) > 1:
                solver.flow(arguments[1], item)
        else:
            solver.flow(box.every, call.result)
            if name == "setdefault" and len(arguments) > 1:
                solver.flow(arguments[1], box.rest)
        for slot in arguments[1:2]:
            solver.flow(slot, call.result)
