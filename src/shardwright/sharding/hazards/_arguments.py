"""Which arguments a function changes or keeps, by itself or through those that it hands them to."""

from __future__ import annotations

from collections.abc import Iterable

from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.callgraph._code import Function
from shardwright.sharding.callgraph._values import BoxValue, KnownValue, Slot
from shardwright.sharding.hazards._facts import Effect, Fact

_SCALARS = (str, int, float, complex, bool, bytes, type(None))


class Arguments:
    """Follows parameters along the flows of an analysis."""

    def __init__(self, scanned: Scanned, facts: dict[Function, list[Fact]]) -> None:
        self._facts = facts
        self._of: dict[Slot, tuple[Function, str]] = {}
        functions = [function for function in scanned.ids if function.node is not None]
        for function in functions:
            receiver = function.positional[:1] if function.owner is not None and function.plain else []
            for name, slot in function.named.items():
                if name not in receiver:
                    self._of[slot] = (function, name)
        self._lasting = self._last(scanned)

    def complete(self) -> None:
        """Adds to the facts what callees do to arguments that are handed on, and what is kept."""
        changed = self._direct()
        self._spread(changed, Effect.MUTATES_ARGUMENT)
        kept: dict[tuple[Function, str], Fact] = {}
        for slot, (function, name) in self._of.items():
            made = function.name in ("__init__", "__new__")  # the new object keeps it, and travels itself
            if not made and not _scalar(slot) and any(target in self._lasting for target in slot.flows):
                kept[function, name] = Fact(Effect.KEEPS_ARGUMENT, name, function.line)
        for (function, _), fact in kept.items():
            self._facts[function].append(fact)
        self._spread(kept, Effect.KEEPS_ARGUMENT)

    def _direct(self) -> dict[tuple[Function, str], Fact]:
        return {
            (function, fact.name): fact
            for function, facts in self._facts.items()
            for fact in facts
            if fact.effect is Effect.MUTATES_ARGUMENT
        }

    def _spread(self, known: dict[tuple[Function, str], Fact], effect: Effect) -> None:
        """Backwards from callees' parameters to the callers' parameters that flow into them."""
        sources: dict[tuple[Function, str], list[tuple[Function, str]]] = {}
        for slot, place in self._of.items():
            for target in slot.flows:
                into = self._of.get(target)
                if into is not None and into != place and not _scalar(slot):
                    sources.setdefault(into, []).append(place)
        todo = sorted(known, key=lambda place: (place[0].id, place[0].line, place[1]))
        while todo:
            place = todo.pop(0)
            for source in sources.get(place, ()):
                if source not in known:
                    function, name = source
                    known[source] = fact = Fact(effect, name, function.line, through=place[0].id)
                    self._facts[function].append(fact)
                    todo.append(source)

    @staticmethod
    def _last(scanned: Scanned) -> set[Slot]:
        """The slots that outlive a call: globals, attributes, and what containers in those hold."""
        found: set[Slot] = set()
        todo: list[Slot] = []
        analysis = scanned.analysis
        for module in analysis.modules.values():
            todo += module.scope.names.values()
        for class_ in analysis.classes():
            todo += [*class_.attributes.values(), *class_.body.values()]
            if isinstance(class_.box, BoxValue):
                todo += _slots(class_.box)
        while todo:
            slot = todo.pop()
            if slot in found:
                continue
            found.add(slot)
            for value in slot.values:
                if isinstance(value, BoxValue):
                    todo += _slots(value)
        return found


def _slots(box: BoxValue) -> Iterable[Slot]:
    return (box.rest, box.keys, *box.items.values())


def _scalar(slot: Slot) -> bool:
    """Whether nothing but immutable scalars is known to arrive."""
    return bool(slot.values) and all(isinstance(value, KnownValue) and value.type_ in _SCALARS for value in slot.values)
