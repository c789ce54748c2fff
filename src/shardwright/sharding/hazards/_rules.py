"""Applies the table to what was found: hazards with their functions, place and evidence.

A rule is a method of a few lines; `_Rules.all` calls every one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct

from shardwright.model.shard import Diagnostic, Site
from shardwright.sharding.callgraph import How, Scanned
from shardwright.sharding.callgraph._code import Class, Function
from shardwright.sharding.callgraph._values import ClassValue, InstanceValue, ModuleValue
from shardwright.sharding.hazards._arguments import Arguments
from shardwright.sharding.hazards._circles import components
from shardwright.sharding.hazards._facts import _UNCOPYABLE, Effect, Fact, Reader
from shardwright.sharding.hazards._table import RULES, Rule, Verdict

_OWN_COPY = frozenset({"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__copy__", "__deepcopy__"})


class Hazard(Struct, frozen=True):
    """One finding: the rule, the functions that it concerns (all that must share a shard, where the rule says so)."""

    rule: Rule
    functions: tuple[str, ...]
    site: Site
    evidence: str

    @property
    def verdict(self) -> Verdict:
        return self.rule.verdict

    def diagnostic(self) -> Diagnostic:
        """The hazard as a finding of the plan."""
        text = f"{self.rule.meaning} Here: {self.evidence}"
        return Diagnostic(self.rule.code, self.rule.severity, text, self.site, None, self.rule.remedy)


class Effects(Struct, frozen=True):
    """The facts of every function, by its id, and the hazards that follow from them."""

    facts: dict[str, tuple[Fact, ...]]
    hazards: tuple[Hazard, ...]

    def of(self, function: str) -> tuple[Hazard, ...]:
        """The hazards that concern one function."""
        return tuple(hazard for hazard in self.hazards if function in hazard.functions)


def find_hazards(scanned: Scanned) -> Effects:
    """Effects and hazards of all functions of a scan. The same scan gives the same findings, in order of code and place."""
    reader = Reader(scanned.analysis.resolver)
    facts = {function: reader.of(function) for function in scanned.ids}
    Arguments(scanned, facts).complete()
    found = sorted(
        set(_Rules(scanned, facts).all()),
        key=lambda item: (item.rule.code, item.site.path, item.site.line, item.evidence),
    )
    named = {
        scanned.ids[function]: tuple(sorted(items, key=lambda fact: (fact.line, fact.effect, fact.name)))
        for function, items in facts.items()
    }
    return Effects(dict(sorted(named.items())), tuple(found))


class _Rules:
    def __init__(self, scanned: Scanned, facts: dict[Function, list[Fact]]) -> None:
        self.scanned, self.facts, self.ids = scanned, facts, scanned.ids
        self.graph = scanned.graph
        self.functions = {key: function for function, key in scanned.ids.items()}
        self.callers: dict[str, set[str]] = {}
        self.callees: dict[str, set[str]] = {}
        for site in self.graph.sites:
            for candidate in site.candidates:
                self.callers.setdefault(candidate.function, set()).add(site.caller)
                if candidate.how is not How.OUTSIDE:
                    self.callees.setdefault(site.caller, set()).add(candidate.function)

    def make(self, code: str, functions: set[str], where: Function | Class, line: int, evidence: str) -> Hazard:
        return Hazard(RULES[code], tuple(sorted(functions)), Site(where.module.source.relative, line), evidence)

    def all(self) -> Iterator[Hazard]:
        yield from self.globals()
        yield from self.arguments()
        yield from self.each_function()
        yield from self.shared()
        yield from self.classes()
        yield from self.written_from_outside()
        yield from self.held_around_calls()
        yield from self.closures()
        yield from self.imports()
        yield from self.circles()

    # -- globals and settings --------------------------------------------------------------------------------------

    def users(self, *effects: Effect) -> dict[str, list[tuple[Function, Fact]]]:
        found: dict[str, list[tuple[Function, Fact]]] = {}
        for function, facts in self.facts.items():
            if function.node is None:
                continue
            for fact in facts:
                if fact.effect in effects:
                    found.setdefault(fact.name, []).append((function, fact))
        return found

    def globals(self) -> Iterator[Hazard]:
        for name, users in self.users(Effect.READS_GLOBAL, Effect.WRITES_GLOBAL).items():
            writes = [(function, fact) for function, fact in users if fact.effect is Effect.WRITES_GLOBAL]
            ids = {self.ids[function] for function, _ in users}
            function, fact = (writes or users)[0]
            if writes:
                evidence = f"{name} is written by {_some({self.ids[item] for item, _ in writes})}"
                yield self.make("SW301", ids, function, fact.line, evidence)
            else:
                yield self.make("SW300", ids, function, fact.line, f"{name} is read by {_some(ids)}")

    def shared(self) -> Iterator[Hazard]:
        for effect, code in (
            (Effect.PROCESS, "SW321"),
            (Effect.THREAD_LOCAL, "SW325"),
            (Effect.CONTEXT_VARIABLE, "SW324"),
        ):
            for name, users in self.users(effect).items():
                ids = {self.ids[function] for function, _ in users}
                function, fact = users[0]
                yield self.make(code, ids, function, fact.line, f"{name} is used by {_some(ids)}")

    # -- single functions ------------------------------------------------------------------------------------------

    def arguments(self) -> Iterator[Hazard]:
        for effect, code in ((Effect.MUTATES_ARGUMENT, "SW302"), (Effect.KEEPS_ARGUMENT, "SW303")):
            for name, users in self.users(effect).items():
                for function, fact in users:
                    key = self.ids[function]
                    ids = {key} if effect is Effect.MUTATES_ARGUMENT else {key, *self.callers.get(key, ())}
                    through = f", through {fact.through}" if fact.through else ""
                    yield self.make(code, ids, function, fact.line, f"{key} {effect.value} {name!r}{through}")

    def each_function(self) -> Iterator[Hazard]:
        alone = {
            Effect.GENERATOR: "SW309", Effect.ASYNC: "SW310", Effect.CACHED: "SW317", Effect.DYNAMIC: "SW327",
        }  # fmt: skip
        with_callers = {Effect.IDENTITY: "SW307", Effect.UNCOPYABLE_RESULT: "SW329", Effect.OPENS: "SW326"}
        for function, facts in self.facts.items():
            if function.node is None:
                continue
            key = self.ids[function]
            for fact in facts:
                evidence = f"{key}: {fact.name}"
                if fact.effect in alone:
                    yield self.make(alone[fact.effect], {key}, function, fact.line, evidence)
                elif fact.effect in with_callers:
                    yield self.make(
                        with_callers[fact.effect], {key, *self.callers.get(key, ())}, function, fact.line, evidence
                    )
            if function.is_async:
                yield from self.suspended(function, key)
                yield from self.loops(function, key)
            decorators = getattr(function.node, "decorator_list", [])
            plain = {"property", "staticmethod", "classmethod", "abstractmethod", "overload", "setter", "getter"}
            names = [ast.unparse(item).partition("(")[0].rpartition(".")[2] for item in decorators]
            if any(name not in plain for name in names):
                yield self.make("SW316", {key}, function, function.line, f"{key} is decorated with {', '.join(names)}")

    def suspended(self, function: Function, key: str) -> Iterator[Hazard]:
        """State that a coroutine touches before and after an await, with whoever else touches it."""
        awaits = [
            item.lineno for item in ast.walk(function.node or ast.Pass()) if isinstance(item, ast.Await | ast.AsyncFor)
        ]
        touched: dict[str, list[int]] = {}
        for fact in self.facts[function]:
            if fact.effect in (Effect.READS_GLOBAL, Effect.WRITES_GLOBAL, Effect.SELF_STATE, Effect.MUTATES_ARGUMENT):
                touched.setdefault(fact.name, []).append(fact.line)
        for name, lines in sorted(touched.items()):
            if any(min(lines) < line < max(lines) for line in awaits):
                others = {
                    self.ids[other]
                    for other, facts in self.facts.items()
                    if other.is_async
                    and any(fact.name == name and fact.effect is not Effect.READS_GLOBAL for fact in facts)
                }
                yield self.make("SW322", {key, *others}, function, min(lines), f"{key} touches {name} around an await")

    def loops(self, function: Function, key: str) -> Iterator[Hazard]:
        for callee in sorted(self.callees.get(key, ())):
            other = self.functions[callee]
            for fact in self.facts[other] if not other.is_async else ():
                if fact.effect is Effect.LOOPS:
                    yield self.make(
                        "SW323", {key, callee}, other, fact.line, f"{key} calls {callee}, which runs {fact.name}"
                    )

    # -- classes ---------------------------------------------------------------------------------------------------

    def methods(self, class_: Class) -> set[str]:
        return {key for function, key in self.ids.items() if function.owner is class_}

    def classes(self) -> Iterator[Hazard]:
        for class_ in self.scanned.analysis.classes():
            methods = self.methods(class_)
            line = class_.node.lineno
            own = [
                (function, fact) for function, facts in self.facts.items() if function.owner is class_ for fact in facts
            ]
            state = [(function, fact) for function, fact in own if fact.effect is Effect.SELF_STATE]
            if state:
                evidence = f"{state[0][0].qualname} writes {state[0][1].name}"
                yield self.make("SW313", methods, class_, state[0][1].line, evidence)
            above = [item for item in class_.inside[1:] if self.methods(item)]
            if above or isinstance(class_.metaclass, Class):
                more = [*above, *([class_.metaclass] if isinstance(class_.metaclass, Class) else [])]
                family = methods.union(*(self.methods(item) for item in more))
                yield self.make(
                    "SW315", family, class_, line, f"{class_.id} inherits from {_some({item.id for item in more})}"
                )
            copying = sorted(_OWN_COPY & set(class_.body))
            if copying:
                yield self.make("SW306", methods, class_, line, f"{class_.id} defines {', '.join(copying)}")
            held = self.uncopyable(class_)
            if held:
                yield self.make("SW305", methods, class_, held[1], f"{class_.id} holds {held[0]}")
            if self.lossy_exception(class_):
                yield self.make("SW311", methods, class_, line, f"{class_.id} has an `__init__` of its own")

    def uncopyable(self, class_: Class) -> tuple[str, int] | None:
        for item in ast.walk(class_.node):
            if (
                isinstance(item, ast.Assign)
                and isinstance(item.targets[0], ast.Attribute)
                and isinstance(item.value, ast.Call | ast.Lambda)
            ):
                if isinstance(item.value, ast.Lambda):
                    return f"a lambda in {item.targets[0].attr}", item.lineno
                ref = self.scanned.analysis.resolver.expression(class_.module.name, item.value.func)
                dotted = f"{ref.module}.{ref.name}" if ref is not None and ref.name else ""
                if dotted in _UNCOPYABLE:
                    return f"{dotted} in {item.targets[0].attr}", item.lineno
        return None

    @staticmethod
    def lossy_exception(class_: Class) -> bool:
        outside = [base.rpartition(".")[2] for base in class_.outside]
        if not any(base.endswith(("Error", "Exception", "Warning")) for base in outside):
            return False
        init = next(
            (item for item in class_.node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
        )
        if init is None:
            return False
        names = [arg.arg for arg in init.args.args[1:]]
        for item in ast.walk(init):
            if isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute) and item.func.attr == "__init__":
                given = [arg.id for arg in item.args if isinstance(arg, ast.Name)]
                return given[: len(names)] != names
        return bool(names)

    def written_from_outside(self) -> Iterator[Hazard]:
        """Attributes of objects, classes and modules that others write."""
        stateful = {
            function.owner
            for function, facts in self.facts.items()
            if any(fact.effect is Effect.SELF_STATE for fact in facts)
        }
        for (function, target, name), line in self.scanned.calls.writes.items():
            key = self.ids[function]
            match target:
                case InstanceValue(class_=class_):
                    inside = {*class_.inside, *class_.below}
                    if function.owner in inside or _around(function, inside) or function.node is None:
                        continue
                    if class_ not in stateful:  # a record: the change is one of an argument
                        continue
                    evidence = f"{key} writes {class_.name}.{name}"
                    yield self.make("SW314", {key, *self.methods(class_)}, function, line, evidence)
                case ClassValue(class_=class_):
                    if function.node is None:
                        continue
                    own = function.owner in {*class_.inside, *class_.below} or function.owner is class_.metaclass
                    evidence = f"{key} writes {class_.name}.{name}"
                    yield self.make("SW304" if own else "SW319", {key, *self.methods(class_)}, function, line, evidence)
                case ModuleValue(name=module) if function.node is not None:
                    users = {
                        self.ids[other]
                        for other, facts in self.facts.items()
                        if any(fact.name == f"{module}:{name}" for fact in facts)
                    }
                    yield self.make("SW319", {key, *users}, function, line, f"{key} writes {module}.{name}")

    # -- what surrounds calls ----------------------------------------------------------------------------------------

    def held_around_calls(self) -> Iterator[Hazard]:
        """Calls inside of a `with`: of a lock, or of a manager that the application defines."""
        sites: dict[str, list[tuple[int, str, set[str]]]] = {}
        for site in self.graph.sites:
            names = {candidate.function for candidate in site.candidates}
            sites.setdefault(site.caller, []).append((site.site.line, site.kind, names))
        for function, facts in self.facts.items():
            if function.node is None or not any(fact.effect in (Effect.LOCKS, Effect.ENTERS) for fact in facts):
                continue
            key = self.ids[function]
            locks = {fact.line for fact in facts if fact.effect is Effect.LOCKS}
            for item in ast.walk(function.node):
                if not isinstance(item, ast.With | ast.AsyncWith):
                    continue
                managers = set[str]()
                for line, kind, names in sites.get(key, ()):
                    if kind in ("enter", "call") and any(line == each.context_expr.lineno for each in item.items):
                        managers |= names if kind == "enter" else set()
                inside = set[str]()
                if any(each.context_expr.lineno in locks for each in item.items):
                    for line, _, names in sites.get(key, ()):
                        if item.lineno < line <= (item.end_lineno or line):
                            inside |= names
                if managers or inside:
                    shown = ", ".join(ast.unparse(each.context_expr)[:40] for each in item.items)
                    yield self.make("SW312", {key, *managers, *inside}, function, item.lineno, f"{key} enters {shown}")

    def closures(self) -> Iterator[Hazard]:
        """Nested functions that write variables around them, with those that they are handed to."""
        for function, facts in self.facts.items():
            fact = next((fact for fact in facts if fact.effect is Effect.WRITES_NONLOCAL), None)
            if fact is None:
                continue
            key = self.ids[function]
            ids = {key, *self.callers.get(key, ())}
            outer = function.qualname.rpartition(".<locals>.")[0]
            ids |= {
                other for item, other in self.ids.items() if item.module is function.module and item.qualname == outer
            }
            yield self.make("SW308", ids, function, fact.line, f"{key} writes {fact.name!r} of the function around it")

    def imports(self) -> Iterator[Hazard]:
        """What runs when modules are imported: module bodies and what they call."""
        for function, facts in self.facts.items():
            if function.node is not None:
                continue
            key = self.ids[function]
            reached = [function, *(self.functions[item] for item in sorted(self.callees.get(key, ())))]
            for other in reached:
                for fact in self.facts[other] if other is not function else facts:
                    if fact.effect is Effect.STARTS and fact.name != "atexit.register":
                        evidence = f"importing {function.module.name} runs {fact.name}"
                        yield self.make("SW318", {key, self.ids[other]}, other, fact.line, evidence)

    def circles(self) -> Iterator[Hazard]:
        """Groups of functions that call each other in a circle, of two and more."""
        for group in components(self.callees):
            if len(group) > 1:
                first = min(group)
                function = self.functions[first]
                yield self.make("SW328", set(group), function, function.line, f"{_some(set(group))} call each other")


def _around(function: Function, classes: set[Class]) -> bool:
    """Whether a nested function stands in a method of one of the classes."""
    return any(item.module is function.module and function.qualname.startswith(f"{item.qualname}.") for item in classes)


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
