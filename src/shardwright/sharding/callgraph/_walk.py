"""From syntax to constraints: one walk over every function body.

Over 400 lines: one visitor, whose parts share the scope that they stand in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._calls import Calls
from shardwright.sharding.callgraph._code import Class, Def, Function, Module, Scope
from shardwright.sharding.callgraph._hints import Hints
from shardwright.sharding.callgraph._lookups import Names
from shardwright.sharding.callgraph._values import BoxValue, ClassValue, Slot, SuperValue, Value

_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow", ast.LShift: "lshift", ast.RShift: "rshift", ast.BitOr: "or", ast.BitXor: "xor", ast.BitAnd: "and",
    ast.MatMult: "matmul",
}  # fmt: skip
_UNARY = {ast.USub: "__neg__", ast.UAdd: "__pos__", ast.Invert: "__invert__", ast.Not: "__bool__"}
_COMPARE = {
    ast.Eq: ("__eq__", "__eq__"), ast.NotEq: ("__ne__", "__ne__"), ast.Lt: ("__lt__", "__gt__"),
    ast.LtE: ("__le__", "__ge__"), ast.Gt: ("__gt__", "__lt__"), ast.GtE: ("__ge__", "__le__"),
}  # fmt: skip


class Walker(Names):
    """Turns the code of an analysis into slots and flows."""

    def __init__(self, analysis: Analysis, calls: Calls, hints: Hints) -> None:
        super().__init__(analysis)
        self.calls = calls
        self.hints = hints
        self.postponed: list[tuple[Function, Scope]] = []
        self.empty = Slot()
        self.loads: dict[tuple[int, str, int], Slot] = {}

    # -- bodies --------------------------------------------------------------------------------------------------

    def module(self, module: Module) -> None:
        self.scope = module.scope
        self.body(module.source.tree.body)

    def finish(self) -> None:
        """Function bodies come after everything around them."""
        while self.postponed:
            function, parent = self.postponed.pop()
            self.function_body(function, parent)

    def function_body(self, function: Function, parent: Scope) -> None:
        node = function.node
        assert node is not None
        scope = Scope("function", function.module.tables.get(node), parent, function, None)
        if scope.table is None:
            scope.table = function.module.scope.table
        scope.names.update(function.named)
        for argument, box in ((node.args.vararg, function.rest), (node.args.kwarg, function.keyword_rest)):
            if argument is not None and box is not None:
                scope.names[argument.arg] = Slot(box)
        function.scope = self.scope = scope
        if isinstance(node, ast.Lambda):
            self.solver.flow(self.expression(node.body), function.returns)
        else:
            self.body(node.body)

    def body(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def site(self, node: ast.AST, kind: str, name: str = "") -> CallSite:
        return self.analysis.site(self.scope.code, node, kind, name)

    # -- definitions ---------------------------------------------------------------------------------------------

    def define_function(self, node: Def) -> Slot:
        function = self.scope.code.module.functions[node]
        arguments = node.args
        owner = self.scope.owner if self.scope.kind == "class" else None
        plain = [*arguments.posonlyargs, *arguments.args]
        function.positional = [item.arg for item in plain]
        for item in (*plain, *arguments.kwonlyargs):
            slot = function.named[item.arg] = Slot()
            self.hints.apply(item.annotation, slot, self.scope)
        if arguments.vararg is not None:
            function.rest = BoxValue("tuple")
            self.hints.apply(arguments.vararg.annotation, function.rest.rest, self.scope)
        if arguments.kwarg is not None:
            function.keyword_rest = BoxValue("dict")
            self.hints.apply(arguments.kwarg.annotation, function.keyword_rest.rest, self.scope)
        padding: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
        defaults = [*padding, *arguments.defaults, *arguments.kw_defaults]
        for item, default in zip((*plain, *arguments.kwonlyargs), defaults, strict=True):
            if default is not None:
                self.solver.flow(self.expression(default), function.named[item.arg])
        if not isinstance(node, ast.Lambda):
            self.hints.result(node.returns, function, self.scope)
        if owner is not None and not isinstance(node, ast.Lambda):
            self._receiver(function, owner, node)
        self.postponed.append((function, self.scope))
        return Slot(self.analysis.function(function))

    def _receiver(self, function: Function, owner: Class, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        names = {item.id if isinstance(item, ast.Name) else getattr(item, "attr", "") for item in node.decorator_list}
        function.owner = owner
        function.plain = not names & {"staticmethod", "classmethod"}
        if "staticmethod" in names or not function.positional:
            return
        first = function.named[function.positional[0]]
        special = node.name in ("__new__", "__init_subclass__", "__class_getitem__")
        if "classmethod" in names or special:
            self.solver.add(first, self.analysis.class_(owner, cone=True))
        else:
            self.solver.add(first, self.analysis.instance(owner, cone=True))
            if owner.box is not None:
                self.solver.add(first, owner.box)

    def decorate(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, made: Slot) -> Slot:
        for decorator in reversed(node.decorator_list):
            result = Slot()
            callee = self.expression(decorator)
            site = self.site(decorator, "decorator", _name_of(decorator))
            self.calls.call(Call(site, callee, [(made, False)], [], result, decorates=True))
            made = result
        return made

    def class_definition(self, node: ast.ClassDef) -> None:
        class_ = self.scope.code.module.classes[node]
        for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
            self.expression(base)
        scope = Scope("class", class_.module.tables.get(node), self.scope, self.scope.code, class_)
        scope.names = class_.body
        class_.scope = scope
        outer, self.scope = self.scope, scope
        self.body(node.body)
        self.scope = outer
        self.calls.class_made(class_, self.site(node, "define", node.name))
        made = self.decorate(node, Slot(self.analysis.class_(class_)))
        self.solver.flow(made, self.target_slot(node.name))

    # -- statements ----------------------------------------------------------------------------------------------

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=value):
                self.expression(value)
            case ast.Assign():
                assigned = self.expression(node.value)
                for target in node.targets:
                    self.assign(target, assigned)
            case ast.AnnAssign():
                if node.value is not None:
                    self.assign(node.target, self.expression(node.value))
                if isinstance(node.target, ast.Name):
                    self.hints.apply(node.annotation, self.target_slot(node.target.id), self.scope)
                    if self.scope.owner is not None:
                        self.hints.apply(node.annotation, _get(self.scope.owner.attributes, node.target.id), self.scope)
                elif isinstance(node.target, ast.Attribute):
                    hinted = Slot()
                    self.hints.apply(node.annotation, hinted, self.scope)
                    self.assign(node.target, hinted)
            case ast.AugAssign():
                self.augmented(node)
            case ast.Return(value=value):
                if value is not None:
                    self.solver.flow(self.expression(value), self.scope.code.returns)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                made = self.decorate(node, self.define_function(node))
                self.solver.flow(made, self.target_slot(node.name))
            case ast.ClassDef():
                self.class_definition(node)
            case ast.If() | ast.While():
                self.truth(node.test)
                self.body(node.body)
                self.body(node.orelse)
            case ast.For() | ast.AsyncFor():
                item = Slot()
                self.calls.iterate(self.expression(node.iter), item, self.site(node.iter, "loop"))
                self.assign(node.target, item)
                self.body(node.body)
                self.body(node.orelse)
            case ast.With() | ast.AsyncWith():
                for entered in node.items:
                    self.enter(entered, isinstance(node, ast.AsyncWith))
                self.body(node.body)
            case ast.Try() | ast.TryStar():
                self.body(node.body)
                for handler in node.handlers:
                    caught = self.expression(handler.type) if handler.type is not None else self.empty
                    if handler.name:
                        self.caught(caught, self.target_slot(handler.name))
                    self.body(handler.body)
                self.body(node.orelse)
                self.body(node.finalbody)
            case ast.Raise():
                self.raised(node)
            case ast.Import() | ast.ImportFrom():
                self.imports(node)
            case ast.Assert():
                self.truth(node.test)
                if node.msg is not None:
                    self.expression(node.msg)
            case ast.Delete():
                for target in node.targets:
                    self.deleted(target)
            case ast.Match():
                self.matched(node)
            case _:
                return

    def augmented(self, node: ast.AugAssign) -> None:
        value = self.expression(node.value)
        load = self.expression(node.target)
        result = Slot()
        name = _BINARY[type(node.op)]
        site = self.site(node, "operator", f"__i{name}__")
        for dunder in (f"__i{name}__", f"__{name}__"):
            self.calls.special(load, dunder, [value], result, site)
        self.calls.special(value, f"__r{name}__", [load], result, site)
        self.calls.extended(load, value, site)
        self.assign(node.target, result)

    def caught(self, type_: Slot, target: Slot) -> None:
        def one(value: Value) -> None:
            if isinstance(value, ClassValue):
                self.solver.add(target, self.analysis.instance(value.class_, cone=True))

        self.solver.within(type_, one)

    def raised(self, node: ast.Raise) -> None:
        for item in (node.exc, node.cause):
            if item is None:
                continue
            value = self.expression(item)
            if isinstance(item, ast.Name | ast.Attribute):  # `raise Error` makes one
                site = self.site(item, "call", _name_of(item))
                call = Call(site, Slot(), [], [], Slot())

                def one(found: Value, call: Call = call) -> None:
                    if isinstance(found, ClassValue):
                        self.calls.apply(found, call)

                self.solver.wait(value, one)

    def deleted(self, target: ast.expr) -> None:
        match target:
            case ast.Attribute(value=base, attr=name):
                self.calls.special(
                    self.expression(base), "__delattr__", [], Slot(), self.site(target, "attribute", name)
                )
                self.calls.deleted(self.expression(base), name, self.site(target, "attribute", name))
            case ast.Subscript(value=base, slice=key):
                arguments = [self.expression(key)]
                site = self.site(target, "operator", "__delitem__")
                self.calls.special(self.expression(base), "__delitem__", arguments, Slot(), site)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                for item in items:
                    self.deleted(item)

    def enter(self, item: ast.withitem, is_async: bool) -> None:
        manager = self.expression(item.context_expr)
        site = self.site(item.context_expr, "enter", "async with" if is_async else "with")
        result = Slot()
        names = ("__aenter__", "__aexit__") if is_async else ("__enter__", "__exit__")
        if is_async:
            awaited = Slot()
            self.calls.special(manager, names[0], [], awaited, site)
            self.calls.awaited(awaited, result, site)
            ended = Slot()
            self.calls.special(manager, names[1], [self.empty] * 3, ended, site)
            self.calls.awaited(ended, Slot(), site)
        else:
            self.calls.special(manager, names[0], [], result, site)
            self.calls.special(manager, names[1], [self.empty] * 3, Slot(), site)
        self.calls.entered(manager, result, site)
        if item.optional_vars is not None:
            self.assign(item.optional_vars, result)

    def matched(self, node: ast.Match) -> None:
        subject = self.expression(node.subject)
        for case in node.cases:
            self.pattern(case.pattern, subject)
            if case.guard is not None:
                self.truth(case.guard)
            self.body(case.body)

    def pattern(self, node: ast.pattern, subject: Slot) -> None:
        match node:
            case ast.MatchClass():
                narrowed = Slot()
                self.caught(self.expression(node.cls), narrowed)
                inner = Slot()
                for child in (*node.patterns, *node.kwd_patterns):
                    self.pattern(child, inner)
            case ast.MatchAs():
                if node.pattern is not None:
                    self.pattern(node.pattern, subject)
                if node.name:
                    target = self.target_slot(node.name)
                    self.solver.flow(subject, target)
                    if isinstance(node.pattern, ast.MatchClass):
                        self.caught(self.expression(node.pattern.cls), target)
            case ast.MatchOr() | ast.MatchSequence():
                for child in node.patterns:
                    self.pattern(child, subject if isinstance(node, ast.MatchOr) else Slot())
            case ast.MatchMapping():
                for child in node.patterns:
                    self.pattern(child, Slot())
            case ast.MatchValue():
                self.expression(node.value)
            case _:
                return

    # -- targets -------------------------------------------------------------------------------------------------

    def assign(self, target: ast.expr, value: Slot) -> None:
        match target:
            case ast.Name(id=name):
                self.solver.flow(value, self.target_slot(name))
            case ast.Attribute(value=base, attr=name):
                self.calls.store(self.expression(base), name, value, self.site(target, "attribute", name))
            case ast.Subscript(value=base, slice=key):
                site = self.site(target, "operator", "__setitem__")
                self.calls.store_item(self.expression(base), key, self.expression(key), value, site)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                site = self.site(target, "loop")
                star = next((place for place, item in enumerate(items) if isinstance(item, ast.Starred)), None)
                slots: list[Slot] = []
                for item in items:
                    slot = Slot()
                    if isinstance(item, ast.Starred):
                        box = BoxValue("list")
                        self.solver.flow(slot, box.rest)
                        self.assign(item.value, Slot(box))
                    else:
                        self.assign(item, slot)
                    slots.append(slot)
                self.calls.unpack(value, slots, star, site)
            case ast.Starred(value=inner):
                self.assign(inner, value)

    # -- expressions ---------------------------------------------------------------------------------------------

    def truth(self, node: ast.expr) -> None:
        """A condition: what is tested may be asked for its truth."""
        match node:
            case ast.BoolOp():
                for item in node.values:
                    self.truth(item)
            case ast.UnaryOp(op=ast.Not()):
                self.truth(node.operand)
            case ast.Compare():
                self.expression(node)
            case _:
                value = self.expression(node)
                if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
                    self.calls.truth(value, self.site(node, "operator", "__bool__"))

    def expression(self, node: ast.expr) -> Slot:
        match node:
            case ast.Constant(value=value):
                return self.analysis.known(type(value)) if value is not None and value is not ... else self.empty
            case ast.Name(id=name):
                return self.lookup(name)
            case ast.Attribute():
                return self.attribute(node)
            case ast.Call():
                return self.called(node)
            case ast.JoinedStr(values=values):
                for item in values:
                    self.expression(item)
                return self.analysis.known(str)
            case ast.FormattedValue(value=value):
                shown = self.expression(value)
                names = ["__repr__"] if node.conversion == 114 else ["__str__", "__format__"]
                self.calls.text(shown, names, self.site(value, "operator", names[0]))
                if node.format_spec is not None:
                    self.expression(node.format_spec)
                return self.analysis.known(str)
            case ast.BinOp():
                return self.binary(node)
            case ast.UnaryOp():
                operand = self.expression(node.operand)
                if isinstance(node.op, ast.Not):
                    self.calls.truth(operand, self.site(node, "operator", "__bool__"))
                    return self.analysis.known(bool)
                result = Slot()
                self.calls.special(operand, _UNARY[type(node.op)], [], result, self.site(node, "operator"))
                return result
            case ast.BoolOp(values=values):
                result = Slot()
                for place, item in enumerate(values):
                    part = self.expression(item)
                    self.solver.flow(part, result)
                    if place < len(values) - 1:
                        self.calls.truth(part, self.site(item, "operator", "__bool__"))
                return result
            case ast.Compare():
                return self.compared(node)
            case ast.IfExp():
                self.truth(node.test)
                result = Slot()
                self.solver.flow(self.expression(node.body), result)
                self.solver.flow(self.expression(node.orelse), result)
                return result
            case ast.NamedExpr():
                named = self.expression(node.value)
                self.assign(node.target, named)
                return named
            case ast.Lambda():
                return self.define_function(node)
            case ast.Subscript():
                return self.subscript(node)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return self.sequence("tuple" if isinstance(node, ast.Tuple) else "list", items)
            case ast.Set(elts=items):
                return self.sequence("set", items)
            case ast.Dict():
                return self.mapping(node)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node)
            case ast.Await(value=value):
                result = Slot()
                self.calls.awaited(self.expression(value), result, self.site(node, "loop", "await"))
                return result
            case ast.Yield(value=value):
                if value is not None:
                    self.solver.flow(self.expression(value), self.scope.code.yields)
                return self.empty
            case ast.YieldFrom(value=value):
                result = Slot()
                self.calls.delegated(self.expression(value), self.scope.code.yields, result, self.site(node, "loop"))
                return result
            case ast.Starred(value=value):
                return self.expression(value)
            case ast.Slice():
                for bound in (node.lower, node.upper, node.step):
                    if bound is not None:
                        self.expression(bound)
                return self.empty
        return self.empty

    def attribute(self, node: ast.Attribute) -> Slot:
        base = self.expression(node.value)
        key = (id(base), node.attr, id(self.scope.code))
        known = self.loads.get(key)
        if known is not None and not base.fixed:
            return known
        result = Slot()
        if not base.fixed:
            self.loads[key] = result
        self.calls.load(base, node.attr, result, self.site(node, "attribute", node.attr), node)
        return result

    def called(self, node: ast.Call) -> Slot:
        callee = node.func
        above = self._super() if isinstance(callee, ast.Name) and callee.id == "super" else None
        if above is not None:
            return Slot(above)
        slot = self.expression(callee)
        arguments = [(self.expression(item), isinstance(item, ast.Starred)) for item in node.args]
        keywords = [(keyword.arg, self.expression(keyword.value)) for keyword in node.keywords]
        result = Slot()
        site = self.site(node, "call", _name_of(callee))
        for (value, starred), item in zip(arguments, node.args, strict=True):
            if starred:
                self.calls.starred(value, self.site(item, "loop"))
        call = Call(site, slot, arguments, keywords, result, node=node, scope=self.scope)
        if isinstance(callee, ast.Name) and callee.id in ("isinstance", "issubclass") and len(node.args) == 2:
            self.narrow(arguments[0][0], arguments[1][0], callee.id == "issubclass")
        self.calls.call(call)
        return result

    def narrow(self, slot: Slot, type_: Slot, of_class: bool) -> None:
        """What a test says is kept for slots of which nothing else is known."""
        narrowed = Slot()
        if of_class:
            self.solver.flow(type_, narrowed)
        else:
            self.caught(type_, narrowed)
        self.hints.narrowed.append((slot, narrowed))

    def _super(self) -> Value | None:
        scope: Scope | None = self.scope
        function = self.scope.code
        while scope is not None and scope.kind != "class":
            scope = scope.parent
        if scope is None or scope.owner is None:
            return None
        of_class = bool(
            function.positional
            and any(isinstance(value, ClassValue) for value in function.named[function.positional[0]].values)
        )
        return self.analysis.one(SuperValue, scope.owner, of_class)

    def binary(self, node: ast.BinOp) -> Slot:
        left, right = self.expression(node.left), self.expression(node.right)
        result = Slot()
        name = _BINARY[type(node.op)]
        site = self.site(node, "operator", f"__{name}__")
        self.calls.special(left, f"__{name}__", [right], result, site)
        self.calls.special(right, f"__r{name}__", [left], result, site)
        if isinstance(node.op, ast.Mod):
            self.calls.formatted(left, right, site)
        for side in (left, right):  # [a] + [b], "a" + "b"
            self.calls.same_container(side, result)
        return result

    def compared(self, node: ast.Compare) -> Slot:
        left = self.expression(node.left)
        for operator, item in zip(node.ops, node.comparators, strict=True):
            right = self.expression(item)
            if isinstance(operator, ast.In | ast.NotIn):
                self.calls.contains(right, left, self.site(item, "operator", "__contains__"))
            elif type(operator) in _COMPARE:
                names = _COMPARE[type(operator)]
                site = self.site(node, "operator", names[0])
                self.calls.special(left, names[0], [right], Slot(), site)
                self.calls.special(right, names[1], [left], Slot(), site)
                if isinstance(operator, ast.NotEq):
                    self.calls.special(left, "__eq__", [right], Slot(), site)
            left = right
        return self.analysis.known(bool)

    def subscript(self, node: ast.Subscript) -> Slot:
        base, key = self.expression(node.value), self.expression(node.slice)
        result = Slot()
        site = self.site(node, "operator", "__getitem__")
        self.calls.load_item(base, node.slice, key, result, site)
        return result

    def sequence(self, kind: str, items: Sequence[ast.expr]) -> Slot:
        box = BoxValue(kind)
        exact = kind != "set" and len(items) <= 64
        for place, item in enumerate(items):
            value = self.expression(item)
            if isinstance(item, ast.Starred):
                exact = False
                self.calls.iterate(value, box.rest, self.site(item, "loop"))
            elif exact:
                self.solver.flow(value, self.solver.item(box, place))
            else:
                self.solver.flow(value, box.rest)
        return Slot(box)

    def mapping(self, node: ast.Dict) -> Slot:
        box = BoxValue("dict")
        for key, value in zip(node.keys, node.values, strict=True):
            slot = self.expression(value)
            if key is None:
                self.calls.merged(slot, box)
                continue
            self.solver.flow(self.expression(key), box.keys)
            if isinstance(key, ast.Constant) and len(box.items) < 512:
                self.solver.flow(slot, self.solver.item(box, key.value))
            else:
                self.solver.flow(slot, box.rest)
        return Slot(box)

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Slot:
        outer = self.scope
        box = BoxValue({ast.ListComp: "list", ast.SetComp: "set", ast.DictComp: "dict"}.get(type(node), "iterator"))
        scope = Scope("function", None, outer, outer.code, None)
        for place, part in enumerate(node.generators):
            if place:
                self.scope = scope
            item = Slot()
            self.calls.iterate(self.expression(part.iter), item, self.site(part.iter, "loop"))
            for name in (child.id for child in ast.walk(part.target) if isinstance(child, ast.Name)):
                scope.names[name] = Slot()
            self.scope = scope
            self.assign(part.target, item)
            for test in part.ifs:
                self.truth(test)
        self.scope = scope
        if isinstance(node, ast.DictComp):
            self.solver.flow(self.expression(node.key), box.keys)
            self.solver.flow(self.expression(node.value), box.rest)
        else:
            self.solver.flow(self.expression(node.elt), box.rest)
        self.scope = outer
        return Slot(box)


def _get(names: dict[str, Slot], name: str) -> Slot:
    return names.setdefault(name, Slot())


def _name_of(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner):
            return _name_of(inner)
    return ""
